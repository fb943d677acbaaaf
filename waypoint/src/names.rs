//! Addresses of endpoints that are known by name: asked for ahead of requests, and again before what is known is too old. Who
//! sends a request finds them in the configuration, and waits only where nothing is known yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fairway_core::io::dns::addresses::{self, Known};
use fairway_core::io::dns::upstream::Upstream;
use fairway_core::io::drain::Drain;
use fairway_core::io::metrics::{Counter, Gauge, Metrics};
use fairway_core::limits::{self, Limits};
use fairway_core::reason::Reason;
use fairway_core::route::{self, Plan};
use fairway_core::workload::Workload;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::seq::IndexedRandom;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::{Assignment, Cluster};
use crate::dial;
use crate::failure::Failure;
use crate::waypoint::Waypoint;

/// A name is not asked for again sooner than this, whatever the limits say.
const LEAST_PAUSE: Duration = Duration::from_millis(100);
/// Where clouds tell machines their credentials besides the link-local 169.254.169.254: Amazon's over IPv6, and Alibaba's.
const METADATA: [IpAddr; 2] =
    [IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)), IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200))];
/// How long the keeper sleeps when it has nothing to do; it is woken by what happens.
const IDLE: Duration = Duration::from_secs(3600);

const LOOKUPS: &str = "fairway_waypoint_name_lookups_total";
const UNRESOLVED: &str = "fairway_waypoint_names_unresolved";

/// How long what is known holds.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Before a name is asked for again that could not be resolved; doubled each time up to the most.
    least: Duration,
    most: Duration,
    /// Past their time, addresses are used for so long where there are no others.
    stale: Duration,
}

impl Bounds {
    fn of(limits: &Limits) -> Self {
        Self {
            least: limits.duration(&limits::DNS_CACHE_MINIMUM).max(LEAST_PAUSE),
            most: limits.duration(&limits::DNS_CACHE_MAXIMUM),
            stale: limits.duration(&limits::DNS_CACHE_STALE),
        }
    }
}

/// What an answer says.
#[derive(Clone, Debug)]
struct Found {
    addresses: Arc<[IpAddr]>,
    lifetime: Duration,
    /// Nobody could say what the name has of one family.
    is_partial: bool,
}

/// One name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    /// Those that are used, in the order of the last answer that had some.
    addresses: Option<Arc<[IpAddr]>>,
    /// Until then, unless there are others.
    good_until: Instant,
    /// When it is asked for again.
    due: Instant,
    /// Answers that were not whole, since the last that was.
    failures: u32,
    /// Why the last answer has none.
    problem: Option<String>,
}

impl Name {
    /// Not asked for yet.
    fn new(now: Instant) -> Self {
        Self { addresses: None, good_until: now, due: now, failures: 0, problem: None }
    }

    /// Whether there was an answer.
    fn is_settled(&self) -> bool {
        self.addresses.is_some() || self.problem.is_some()
    }

    /// The name after an answer: addresses and for how long they hold, or why there are none. An answer that fails takes
    /// nothing away for a while: resolvers are more often wrong, or away, than names are.
    fn heard(self, heard: Result<Found, String>, now: Instant, bounds: Bounds) -> Self {
        let pause = bounds.least.saturating_mul(2_u32.saturating_pow(self.failures)).min(bounds.most);
        match heard {
            Ok(Found { addresses, lifetime, is_partial }) => {
                // The rest is asked for before long, and less and less often where it never comes.
                let (holds, failures) =
                    if is_partial { (lifetime.min(pause), self.failures.saturating_add(1)) } else { (lifetime, 0) };
                let due = now + holds.max(bounds.least);
                Self { addresses: Some(addresses), good_until: due + bounds.stale, due, failures, problem: None }
            }
            Err(problem) => Self {
                addresses: self.addresses.filter(|_| now < self.good_until),
                due: now + pause.max(LEAST_PAUSE),
                failures: self.failures.saturating_add(1),
                problem: Some(problem),
                ..self
            },
        }
    }
}

/// Those of the addresses of an answer that are used: of the family that the waypoint itself has first, or else of its other
/// one. What leads to the waypoint's own machine never is, whoever says so: who may write the records of a name would reach
/// what trusts only its neighbours, such as the credentials that clouds have at link-local addresses (DNS rebinding). An
/// operator who means such an address writes it down.
fn usable(found: &[IpAddr], own: &[IpAddr]) -> Result<Arc<[IpAddr]>, String> {
    let found: Vec<IpAddr> = found.iter().map(IpAddr::to_canonical).collect();
    let is_allowed = |ip: &&IpAddr| {
        let is_local = match ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
        };
        !is_local && !ip.is_multicast() && !METADATA.contains(ip) && !own.contains(ip)
    };
    let allowed: Vec<IpAddr> = found.iter().filter(is_allowed).copied().collect();
    if allowed.is_empty() {
        let all: Vec<String> = found.iter().map(ToString::to_string).collect();
        return Err(format!("its addresses are the waypoint's own or of its link: {}", all.join(", ")));
    }
    let Some(first) = own.first().map(IpAddr::is_ipv4) else {
        return Err("the waypoint does not know its own addresses yet".to_owned());
    };
    let of = |is_ipv4: bool| allowed.iter().filter(|ip| ip.is_ipv4() == is_ipv4).copied().collect::<Vec<_>>();
    let (preferred, others) = (of(first), of(!first));
    let has_other = own.iter().any(|ip| ip.is_ipv4() != first);
    match (preferred.is_empty(), has_other) {
        (false, _) => Ok(preferred.into()),
        (true, true) => Ok(others.into()),
        (true, false) => Err(format!("it has no address of {}", if first { "IPv4" } else { "IPv6" })),
    }
}

/// All names.
#[derive(Debug, Default)]
struct All {
    known: BTreeMap<Arc<str>, Name>,
    /// Those that are too many, and why they are not asked for; nobody does before there is room.
    refused: BTreeMap<Arc<str>, String>,
}

impl All {
    /// What is known of a name, once something is.
    fn of(&self, name: &str) -> Option<Result<Arc<[IpAddr]>, String>> {
        if let Some(problem) = self.refused.get(name) {
            return Some(Err(problem.clone()));
        }
        let known = self.known.get(name).filter(|known| known.is_settled())?;
        Some(known.addresses.clone().ok_or_else(|| known.problem.clone().unwrap_or_default()))
    }

    /// Why it has no address, or has none any more.
    fn problem(&self, name: &str) -> Option<&str> {
        let refused = self.refused.get(name).map(String::as_str);
        refused.or_else(|| self.known.get(name)?.problem.as_deref())
    }
}

/// What is known of all names.
#[derive(Debug)]
pub struct Names {
    all: Mutex<All>,
    /// Grows with every answer.
    answers: watch::Sender<u64>,
    found: Counter,
    failed: Counter,
    unresolved: Gauge,
}

impl Names {
    /// Nothing yet.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        metrics.describe(LOOKUPS, "Times that a name of endpoints was asked for, by what came of it.");
        metrics.describe(UNRESOLVED, "Names of endpoints of which no address is known; requests to them fail.");
        Self {
            all: Mutex::default(),
            answers: watch::Sender::new(0),
            found: metrics.counter(LOOKUPS, &[("result", "found")]),
            failed: metrics.counter(LOOKUPS, &[("result", "failed")]),
            unresolved: metrics.gauge(UNRESOLVED, &[]),
        }
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the names of a cluster have no address.
    #[must_use]
    pub fn problem(&self, cluster: &Cluster) -> String {
        let all = self.lock();
        let names = cluster.names.iter().flat_map(|names| names.all());
        let problem = |name: &Arc<str>| {
            all.problem(name).map_or_else(|| format!("{name}: no resolver has answered yet"), str::to_owned)
        };
        names.map(problem).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("; ")
    }

    /// The addresses of a name, or why there are none; nothing where nobody has asked for it yet.
    fn of(&self, name: &str) -> Option<Result<Arc<[IpAddr]>, String>> {
        self.lock().of(name)
    }

    /// Whether each name of a cluster was asked for.
    fn is_settled(&self, cluster: &Cluster) -> bool {
        let all = self.lock();
        cluster.names.iter().flat_map(|names| names.all()).all(|name| all.of(name).is_some())
    }

    /// Keeps what is known of these names, as many as there may be, and begins with those that are new. Who is there stays:
    /// a new name takes nothing from those that work.
    fn keep(&self, wanted: &BTreeSet<Arc<str>>, limits: &Limits, now: Instant) {
        let most = limits.size(&limits::DNS_CACHE_ENTRIES);
        let mut all = self.lock();
        let All { known, refused } = &mut *all;
        known.retain(|name, _| wanted.contains(name));
        refused.clear();
        for name in wanted {
            if known.contains_key(name) {
                continue;
            }
            if known.len() < most {
                known.insert(Arc::clone(name), Name::new(now));
            } else {
                let problem = format!("{name}: more than {most} names are not resolved; see DNS_CACHE_ENTRIES");
                refused.insert(Arc::clone(name), problem);
            }
        }
    }

    /// Those that are due, none of them `under_way`, and when the next one is.
    fn due(&self, under_way: &BTreeSet<Arc<str>>, now: Instant) -> (Vec<Arc<str>>, Instant) {
        let all = self.lock();
        let waiting = || all.known.iter().filter(|(name, _)| !under_way.contains(*name));
        let due = waiting().filter(|(_, known)| known.due <= now).map(|(name, _)| Arc::clone(name)).collect();
        let next = waiting().map(|(_, known)| known.due).filter(|due| *due > now).min();
        (due, next.unwrap_or(now + IDLE))
    }

    /// Takes down an answer; what is known of all names afterwards.
    fn heard(
        &self,
        name: &Arc<str>,
        heard: Result<Found, String>,
        now: Instant,
        bounds: Bounds,
    ) -> HashMap<Arc<str>, Arc<[IpAddr]>> {
        let counter = if heard.is_ok() { &self.found } else { &self.failed };
        counter.increment(1);
        let mut all = self.lock();
        // It may have been let go of in between.
        if let Some(known) = all.known.get_mut(name) {
            *known = known.clone().heard(heard, now, bounds);
        }
        let known = |(name, known): (&Arc<str>, &Name)| Some((Arc::clone(name), known.addresses.clone()?));
        all.known.iter().filter_map(known).collect()
    }

    /// Tells whoever waits.
    fn tell(&self) {
        let all = self.lock();
        let unresolved = all.known.values().filter(|name| name.addresses.is_none()).count() + all.refused.len();
        drop(all);
        self.unresolved.set(f64::from(u32::try_from(unresolved).unwrap_or(u32::MAX)));
        self.answers.send_modify(|answers| *answers += 1);
    }
}

/// The endpoints of a cluster. Where nobody has asked for their names yet, once somebody has.
///
/// # Errors
/// When there are none because of that.
pub async fn endpoints(
    waypoint: &Waypoint,
    cluster: &Cluster,
    now: &Arc<Assignment>,
) -> Result<Arc<Assignment>, Failure> {
    let has_some = |assignment: &Assignment| assignment.priorities.iter().any(|all| !all.is_empty());
    if cluster.names.is_none() || has_some(now) {
        return Ok(Arc::clone(now));
    }
    let mut answers = waypoint.names.answers.subscribe();
    let settled = answers.wait_for(|_| waypoint.names.is_settled(cluster));
    // Who waits in vain is told what is known.
    drop(timeout(cluster.connect_timeout, settled).await);
    let config = waypoint.config.load();
    let found = config.endpoints.get(&cluster.endpoints).filter(|assignment| has_some(assignment));
    found.cloned().ok_or_else(|| Failure::new(Reason::DnsFailed, waypoint.names.problem(cluster)))
}

/// The plan for a connection that nobody looks into, once its endpoint's name has an address.
///
/// # Errors
/// When it has none.
pub async fn resolved(waypoint: &Waypoint, local: &Workload, planned: Plan) -> Result<Plan, Failure> {
    let Plan::Resolve { hostname, service, .. } = &planned else { return Ok(planned) };
    let mut answers = waypoint.names.answers.subscribe();
    let settled = answers.wait_for(|_| waypoint.names.of(hostname).is_some());
    drop(timeout(waypoint.limits.duration(&limits::CONNECT_TIMEOUT), settled).await);
    let unknown = || format!("{hostname}: no resolver has answered yet");
    let found = waypoint.names.of(hostname).unwrap_or_else(|| Err(unknown()));
    let found = found.map_err(|problem| Failure::new(Reason::DnsFailed, problem))?;
    let ip = found.choose(&mut rand::rng()).copied();
    let ip = ip.ok_or_else(|| Failure::new(Reason::DnsFailed, unknown()))?;
    let snapshot = waypoint.live.snapshot();
    dial::unguarded(&snapshot, local, service.as_deref(), ip)?;
    let planned = route::resolved(&snapshot, local, planned, ip, &mut rand::rng());
    planned.map_err(|refusal| Failure::from(&*refusal))
}

/// Keeps the names of the configuration, and those of services that are bound to us, resolved until we stop.
pub async fn keep(waypoint: Arc<Waypoint>, upstream: Upstream, mut drain: Drain) {
    let names = &waypoint.names;
    let bounds = Bounds::of(&waypoint.limits);
    // Each name is asked for twice, once for each family.
    let most = (waypoint.limits.size(&limits::DNS_QUERIES_PER_POD) / 2).max(1);
    let mut changes = waypoint.config.changes();
    let mut versions = waypoint.live.versions();
    let mut under_way = BTreeSet::new();
    let mut asking = FuturesUnordered::new();
    names.keep(&wanted(&waypoint), &waypoint.limits, Instant::now());
    loop {
        // Which addresses are used depends on our own.
        let is_known = waypoint.known().is_some_and(|local| !local.addresses.is_empty());
        let (due, next) = names.due(&under_way, Instant::now());
        let due = if is_known { due } else { Vec::new() };
        for name in due.into_iter().take(most.saturating_sub(under_way.len())) {
            under_way.insert(Arc::clone(&name));
            asking.push(ask(&upstream, name));
        }
        tokio::select! {
            _ = drain.started() => return,
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                names.keep(&wanted(&waypoint), &waypoint.limits, Instant::now());
                names.tell();
            }
            changed = versions.changed() => {
                if changed.is_err() {
                    return;
                }
                names.keep(&wanted(&waypoint), &waypoint.limits, Instant::now());
                names.tell();
            }
            Some((name, (Known { result, lifetime }, half))) = asking.next() => {
                under_way.remove(&name);
                let own: Vec<IpAddr> = waypoint.known().map(|local| local.addresses.to_vec()).unwrap_or_default();
                let heard = result.map_err(|error| error.to_string());
                let heard = heard.and_then(|found| usable(&found, &own).map_err(|problem| format!("{name}: {problem}")));
                if let Err(problem) = &heard {
                    tracing::debug!(problem, "cannot resolve the name of an endpoint");
                }
                let heard = heard.map(|addresses| Found {
                    addresses,
                    lifetime: half.unwrap_or(lifetime),
                    is_partial: half.is_some(),
                });
                let known = names.heard(&name, heard, Instant::now(), bounds);
                // In force before anybody is told.
                waypoint.config.learn(known);
                names.tell();
            }
            () = sleep_until(next) => {}
        }
    }
}

/// The names of clusters, and of the endpoints of services that are bound to us: of ports that are no HTTP there may be no cluster.
fn wanted(waypoint: &Waypoint) -> BTreeSet<Arc<str>> {
    let mut wanted: BTreeSet<Arc<str>> = waypoint.config.load().names().cloned().collect();
    if let Some(local) = waypoint.known() {
        let snapshot = waypoint.live.snapshot();
        // From the few that have no address to their services, and not the other way round: this is asked at every change.
        let is_wanted = |workload: &&Arc<Workload>| {
            let mut services = workload.services.iter().filter_map(|part| snapshot.service(&part.key));
            workload.addresses.is_empty() && services.any(|service| route::is_bound(&snapshot, service, &local))
        };
        wanted.extend(snapshot.workloads().filter(is_wanted).filter_map(|workload| workload.hostname.clone()));
    }
    wanted
}

async fn ask(upstream: &Upstream, name: Arc<str>) -> (Arc<str>, (Known, Option<Duration>)) {
    let known = addresses::in_part(upstream, &name).await;
    (name, known)
}

#[cfg(test)]
mod tests;
