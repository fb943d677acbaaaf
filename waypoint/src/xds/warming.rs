//! What has been received, and what of it is in force: what leads to something that is not answered yet waits for it, and what
//! was in force before stays so; pure.
//!
//! Clusters wait for their endpoints, routes for their clusters, and listeners for their routes and for clusters of their own.
//! An answer is a resource, or that there is none, or one that cannot be used. Whatever waits does so by itself, and not for
//! longer than a bound; what is in force goes on to have what it leads to.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_core::limits::{self, Limits};

use super::session::Kind;
use crate::config::{self, Assignment, Cluster, Config, Listener, Table, Wrong};

/// How long something waits.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// What changes nothing of who may pass.
    pub most: Duration,
    /// What does.
    pub policy: Duration,
}

impl Bounds {
    /// As the limits say.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        Self { most: limits.duration(&limits::XDS_WARMING), policy: limits.duration(&limits::XDS_POLICY_WARMING) }
    }
}

/// What has been received and is not in force.
#[derive(Debug)]
struct Next<T> {
    /// None where the control plane says that there is nothing any more.
    resource: Option<Arc<T>>,
    since: Instant,
}

/// By name; usually nothing.
type Waiting<T> = BTreeMap<String, Next<T>>;

/// Both.
#[derive(Debug)]
pub(super) struct Warming {
    bounds: Bounds,
    in_force: Config,
    listeners: Waiting<Listener>,
    routes: Waiting<Table>,
    clusters: Waiting<Cluster>,
    /// Those that have gone and are still led to.
    endpoints: Waiting<Assignment>,
    /// Whether somebody is there who could answer.
    is_connected: bool,
}

/// What was put in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// How much of it was not waited for to the end.
    pub(super) expired: u64,
    /// Of which types.
    pub(super) moved: Vec<Kind>,
}

/// Whether there is an answer about a resource.
pub(super) trait Answers {
    fn has(&self, kind: Kind, name: &str) -> bool;
}

impl Warming {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            in_force: Config::default(),
            listeners: Waiting::new(),
            routes: Waiting::new(),
            clusters: Waiting::new(),
            endpoints: Waiting::new(),
            is_connected: false,
        }
    }

    pub(super) fn in_force(&self) -> &Config {
        &self.in_force
    }

    pub(super) fn faults(&mut self) -> &mut HashMap<String, String> {
        &mut self.in_force.faults
    }

    /// There is a stream again: what has waited in vain has the whole time once more, but for policies.
    pub(super) fn connected(&mut self, now: Instant) {
        self.is_connected = true;
        self.routes.values_mut().for_each(|next| next.since = now);
        self.clusters.values_mut().for_each(|next| next.since = now);
        for (name, next) in &mut self.listeners {
            if next.resource.as_ref().is_none_or(|listener| is_as_strict(&self.in_force, name, listener)) {
                next.since = now;
            }
        }
    }

    /// Nobody is there to answer.
    pub(super) fn disconnected(&mut self) {
        self.is_connected = false;
    }

    /// Takes a resource, which waits until the next [`Self::settle`].
    pub(super) fn take(&mut self, kind: Kind, name: &str, bytes: &[u8], now: Instant) -> Result<(), Wrong> {
        match kind {
            Kind::Listener => put(&mut self.listeners, name, Some(config::listener(bytes)?), now),
            Kind::Routes => put(&mut self.routes, name, Some(config::table(bytes)?), now),
            Kind::Cluster => put(&mut self.clusters, name, Some(config::cluster(bytes)?), now),
            Kind::Endpoints => {
                let assignment = Arc::new(config::assignment(bytes)?);
                self.endpoints.remove(name);
                self.in_force.endpoints.insert(name.to_owned(), assignment);
            }
        }
        Ok(())
    }

    /// There is no such resource. A listener goes at once; the others when nothing leads to them that is to be replaced.
    pub(super) fn remove(&mut self, kind: Kind, name: &str, now: Instant) {
        match kind {
            Kind::Listener => {
                self.listeners.remove(name);
                self.in_force.listeners.remove(name);
                self.in_force.absent.insert(name.to_owned());
            }
            Kind::Routes => put(&mut self.routes, name, None, now),
            Kind::Cluster => put(&mut self.clusters, name, None, now),
            Kind::Endpoints => put(&mut self.endpoints, name, None, now),
        }
    }

    /// Nothing leads to it any more.
    pub(super) fn forget(&mut self, kind: Kind, name: &str) {
        self.in_force.faults.remove(name);
        match kind {
            Kind::Listener => {
                self.listeners.remove(name);
                self.in_force.listeners.remove(name);
                self.in_force.absent.remove(name);
            }
            Kind::Routes => {
                self.routes.remove(name);
                self.in_force.routes.remove(name);
            }
            Kind::Cluster => {
                self.clusters.remove(name);
                self.in_force.clusters.remove(name);
            }
            Kind::Endpoints => {
                self.endpoints.remove(name);
                self.in_force.endpoints.remove(name);
            }
        }
    }

    /// What is led to by what is in force and by what has been received.
    pub(super) fn named(&self, kind: Kind) -> HashSet<&str> {
        let listeners = || self.in_force.listeners.values().chain(received(&self.listeners));
        match kind {
            Kind::Listener => HashSet::new(),
            Kind::Routes => listeners().filter_map(|it| it.routes()).collect(),
            Kind::Cluster => {
                let tables = self.in_force.routes.values().chain(received(&self.routes));
                let of_tables = tables.flat_map(|table| table.clusters());
                listeners().flat_map(|it| it.clusters()).chain(of_tables).chain(self.ports()).collect()
            }
            Kind::Endpoints => {
                let clusters = self.in_force.clusters.values().chain(received(&self.clusters));
                let discovered = clusters.filter(|cluster| cluster.is_discovered());
                discovered.map(|cluster| &*cluster.endpoints).collect()
            }
        }
    }

    /// Clusters of ports that are looked into, by the name of their listeners: what turns out to be no HTTP goes there, in TLS if that
    /// is said.
    fn ports(&self) -> impl Iterator<Item = &str> {
        let waiting = self.listeners.iter().filter_map(|(name, next)| Some((name, next.resource.as_ref()?)));
        let all = self.in_force.listeners.iter().chain(waiting);
        all.filter(|(_, listener)| matches!(***listener, Listener::Http(_))).map(|(name, _)| name.as_str())
    }

    /// Whether the newest of it is not in force.
    pub(super) fn is_waiting(&self, kind: Kind, name: &str) -> bool {
        match kind {
            Kind::Listener => self.listeners.contains_key(name),
            Kind::Routes => self.routes.contains_key(name),
            Kind::Cluster => self.clusters.contains_key(name),
            Kind::Endpoints => self.endpoints.contains_key(name),
        }
    }

    /// When the next bound passes.
    pub(super) fn due(&self) -> Option<Instant> {
        let most = |since: Instant| self.is_connected.then(|| since + self.bounds.most);
        let routes = self.routes.values().filter(|next| next.resource.is_some()).map(|next| most(next.since));
        let clusters = self.clusters.values().filter(|next| next.resource.is_some()).map(|next| most(next.since));
        let listeners = self.listeners.iter().filter_map(|(name, next)| {
            let listener = next.resource.as_ref()?;
            Some(if is_as_strict(&self.in_force, name, listener) {
                most(next.since)
            } else {
                Some(next.since + self.bounds.policy)
            })
        });
        routes.chain(clusters).chain(listeners).flatten().min()
    }

    /// Puts in force what waits for nothing, or has waited for too long.
    pub(super) fn settle(&mut self, answers: &impl Answers, now: Instant) -> Settled {
        let before = self.waiting();
        let Self { bounds, in_force, listeners, routes, clusters, endpoints, is_connected } = self;
        let mut expired = 0;
        let mut decide = |is_ready: bool, is_over: bool| {
            expired += u64::from(!is_ready && is_over);
            is_ready || is_over
        };
        // While nobody could answer, what is in force is better than what leads nowhere.
        let is_over = |since: Instant| *is_connected && now >= since + bounds.most;

        clusters.retain(|name, next| {
            let Some(cluster) = &next.resource else { return true };
            let is_ready = !cluster.is_discovered() || answers.has(Kind::Endpoints, &cluster.endpoints);
            let is_in_force = decide(is_ready, is_over(next.since));
            if is_in_force {
                in_force.clusters.insert(name.clone(), Arc::clone(cluster));
            }
            !is_in_force
        });
        let is_known = |clusters: &Waiting<Cluster>, in_force: &Config, name: &str| {
            let is_decided = in_force.clusters.contains_key(name) || !is_to_come(clusters, name);
            answers.has(Kind::Cluster, name) && is_decided
        };
        routes.retain(|name, next| {
            let Some(table) = &next.resource else { return true };
            let is_ready = table.clusters().all(|cluster| is_known(clusters, in_force, cluster));
            let is_in_force = decide(is_ready, is_over(next.since));
            if is_in_force {
                in_force.routes.insert(name.clone(), Arc::clone(table));
            }
            !is_in_force
        });
        listeners.retain(|name, next| {
            let Some(listener) = &next.resource else { return true };
            let is_routed = listener.routes().is_none_or(|table| {
                let is_decided = in_force.routes.contains_key(table) || !is_to_come(routes, table);
                answers.has(Kind::Routes, table) && is_decided
            });
            let is_ready = is_routed && listener.awaited().iter().all(|name| is_known(clusters, in_force, name));
            let is_over = if is_as_strict(in_force, name, listener) {
                is_over(next.since)
            } else {
                !*is_connected || now >= next.since + bounds.policy
            };
            let is_in_force = decide(is_ready, is_over);
            if is_in_force {
                in_force.absent.remove(name);
                in_force.listeners.insert(name.clone(), Arc::clone(listener));
            }
            !is_in_force
        });

        // What has gone stays for as long as something leads to it that is to be replaced.
        let of_listeners: Vec<_> = listeners.keys().filter_map(|name| in_force.listeners.get(name)).cloned().collect();
        let kept: BTreeSet<&str> = of_listeners.iter().filter_map(|listener| listener.routes()).collect();
        let in_vain = gone(routes, |name| kept.contains(name));
        in_vain.iter().for_each(|name| drop(in_force.routes.remove(name)));
        let of_routes: Vec<_> = routes.keys().filter_map(|name| in_force.routes.get(name)).cloned().collect();
        let mut kept: BTreeSet<&str> = of_routes.iter().flat_map(|table| table.clusters()).collect();
        kept.extend(of_listeners.iter().flat_map(|listener| listener.clusters()));
        let in_vain = gone(clusters, |name| kept.contains(name));
        in_vain.iter().for_each(|name| drop(in_force.clusters.remove(name)));
        let of_clusters: Vec<_> = clusters.keys().filter_map(|name| in_force.clusters.get(name)).cloned().collect();
        let kept: BTreeSet<&str> = of_clusters.iter().map(|cluster| &*cluster.endpoints).collect();
        let in_vain = gone(endpoints, |name| kept.contains(name));
        in_vain.iter().for_each(|name| drop(in_force.endpoints.remove(name)));
        // Whatever moves does not wait any more.
        let moved = before.into_iter().zip(self.waiting()).filter(|(before, now)| before != now);
        Settled { expired, moved: moved.map(|((kind, _), _)| kind).collect() }
    }

    /// How much waits of each type.
    fn waiting(&self) -> [(Kind, usize); 4] {
        [
            (Kind::Listener, self.listeners.len()),
            (Kind::Routes, self.routes.len()),
            (Kind::Cluster, self.clusters.len()),
            (Kind::Endpoints, self.endpoints.len()),
        ]
    }

    /// Says in what is in force what waits.
    pub(super) fn tell(&mut self) {
        let Self { in_force, listeners, routes, clusters, endpoints, .. } = self;
        let waiting = listeners.keys().chain(routes.keys()).chain(clusters.keys()).chain(endpoints.keys());
        in_force.warming = waiting.cloned().collect();
    }
}

/// What there will be.
fn received<T>(waiting: &Waiting<T>) -> impl Iterator<Item = &Arc<T>> {
    waiting.values().filter_map(|next| next.resource.as_ref())
}

fn is_to_come<T>(waiting: &Waiting<T>, name: &str) -> bool {
    waiting.get(name).is_some_and(|next| next.resource.is_some())
}

/// It waits since something of its name does: newer versions have no more time.
fn put<T>(waiting: &mut Waiting<T>, name: &str, resource: Option<T>, now: Instant) {
    let since = waiting.get(name).filter(|before| before.resource.is_some()).map_or(now, |before| before.since);
    waiting.insert(name.to_owned(), Next { resource: resource.map(Arc::new), since });
}

/// Takes out what has gone and is not kept.
fn gone<T>(waiting: &mut Waiting<T>, is_kept: impl Fn(&str) -> bool) -> Vec<String> {
    let gone = waiting.iter().filter(|(name, next)| next.resource.is_none() && !is_kept(name));
    let gone: Vec<String> = gone.map(|(name, _)| name.clone()).collect();
    gone.iter().for_each(|name| drop(waiting.remove(name)));
    gone
}

/// Whether what is in force lets nobody pass that this listener would not: where nothing is known, everybody is refused. Where it is
/// known that nothing is to be said, connections pass as they are; that they go to a cluster, in TLS perhaps, is a policy too.
fn is_as_strict(in_force: &Config, name: &str, listener: &Listener) -> bool {
    match in_force.listeners.get(name) {
        Some(now) => now.guards_like(listener),
        None if in_force.absent.contains(name) => listener.is_open() && matches!(listener, Listener::Http(_)),
        None => true,
    }
}
