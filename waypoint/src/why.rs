//! What would become of a request, and why: the decisions of this waypoint on what it holds now, told instead of acted on.
//! Nothing is sent, counted or changed. Time is an argument.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fairway_core::ident::Identity;
use fairway_core::reason::Reason;
use fairway_core::route::{self, Bound};
use fairway_core::snapshot::Snapshot;
use fairway_core::why::passage::{
    Action, Asked, Backend, Fault, Forwarding, Handling, Passage, Question, RateLimit, Retry, RuleSet, Token, Whom,
};
use fairway_core::why::{self, Party, Refused, Target};
use fairway_core::workload::Workload;
use http::{Method, Request, StatusCode};

use crate::config::{self, Abort, Config, Http, Listener, MILLION, Rules, Verdict, Weighted};
use crate::cors::{self, Told};
use crate::dial;
use crate::edits;
use crate::facts::{Facts, RequestedServerName};
use crate::failure::Failure;
use crate::framing;
use crate::limiter;
use crate::matching;
use crate::named::Named;
use crate::opaque::Route;
use crate::rates;
use crate::rbac::{self, Denial};
use crate::remote;
use crate::request::{authority, head, name_client, normal_path, remove_own};
use crate::stream::{self, Way};
use crate::tokens;
use crate::upgrade;
use crate::waypoint::Waypoint;

pub mod page;

/// What is asked about.
#[derive(Debug)]
pub struct Wanted {
    /// What the tunnel asks for.
    pub authority: String,
    /// Where the tunnel comes from.
    pub source: SocketAddr,
    /// Whom the client has proved to be.
    pub identity: Identity,
    /// The request, should the waypoint look into the connection; its host is also the name that a TLS client asks for.
    pub request: Request<()>,
}

/// The controller has not announced the waypoint yet, so it decides nothing.
#[derive(Debug, thiserror::Error)]
#[error("the control plane has not announced this waypoint yet")]
pub struct Unannounced;

/// Why nothing comes after this.
struct Stop {
    refused: Option<Refused>,
    status: Option<StatusCode>,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        let status = Some(failure.status());
        Self { refused: Some(Refused::new(failure.reason, Some(failure.detail))), status }
    }
}

impl Stop {
    fn answered(status: StatusCode) -> Self {
        Self { refused: None, status: Some(status) }
    }
}

/// One answer as it is being found.
struct Asking<'a> {
    waypoint: &'a Waypoint,
    local: &'a Arc<Workload>,
    snapshot: &'a Snapshot,
    config: &'a Config,
    /// The monotonic clock and the wall's.
    now: (Instant, SystemTime),
    told: Passage,
}

/// What this waypoint would do.
///
/// # Errors
/// When it decides nothing yet.
pub fn passage(waypoint: &Waypoint, wanted: Wanted, now: (Instant, SystemTime)) -> Result<Passage, Unannounced> {
    let local = &waypoint.known().ok_or(Unannounced)?;
    let (snapshot, config) = (&*waypoint.live.snapshot(), &*waypoint.config.load());
    let told = Passage::begun(Party::from(&**local), wanted.identity.to_string());
    let mut asking = Asking { waypoint, local, snapshot, config, now, told };
    let stopped = asking.walk(wanted).err();
    let mut told = asking.told;
    if let Some(Stop { refused, status }) = stopped {
        // What is passed on as it is sees no status.
        let is_answered = matches!(told.handling, Some(Handling::Requests | Handling::RequestsIfSpoken));
        told.refused = refused;
        told.status = status.filter(|_| is_answered).map(|status| status.as_u16());
    }
    Ok(told)
}

impl Asking<'_> {
    fn walk(&mut self, wanted: Wanted) -> Result<(), Stop> {
        let Wanted { authority, source, identity, request } = wanted;
        let bound = route::bound(self.snapshot, self.local, &authority);
        let bound = bound.map_err(|refusal| Failure::from(&*refusal))?;
        self.told.destination = Some(bound.address());
        self.told.service = bound.service().map(|service| Target::of(self.snapshot, service));
        let (listener, way) = stream::way(self.config, self.snapshot, &bound)?;
        self.told.listener = Some(listener.clone());
        let facts = Facts::of(&identity, source.ip(), bound.address());
        match way {
            Way::Opaque(policies, route, _) => {
                self.told.handling = Some(Handling::Bytes);
                self.rules(&policies, &facts)?;
                self.connected(&bound, &route)
            }
            Way::Named => {
                self.told.handling = Some(Handling::ServerNames);
                self.by_name(&listener, &bound, &facts, &request)
            }
            Way::Http | Way::Sniff => {
                let is_sure = matches!(way, Way::Http);
                self.told.handling = Some(if is_sure { Handling::Requests } else { Handling::RequestsIfSpoken });
                let missing = || Failure::new(Reason::DestinationUnknown, &listener);
                let Some(Listener::Http(http)) = self.config.listeners.get(&listener).map(|it| &**it) else {
                    return Err(missing().into());
                };
                self.request(&listener, http, &bound, facts, request)
            }
        }
    }

    /// All sets of rules, until one refuses.
    fn rules(&mut self, sets: &[Rules], facts: &Facts<'_>) -> Result<(), Stop> {
        for set in sets {
            let asked = rbac::ask(set, facts);
            let matching = match &asked {
                Ok(policy) => policy.map(|policy| policy.name.clone()),
                Err(denial) => denial.policy.map(str::to_owned),
            };
            let action = if set.verdict == Verdict::Allow { "ALLOW" } else { "DENY" }.to_owned();
            let rules = set.policies.iter().map(|policy| policy.name.clone()).collect();
            self.told.rules.push(RuleSet { action, rules, matching });
            asked.map_err(|denial| refused(&denial, set))?;
        }
        Ok(())
    }

    fn by_name(&mut self, listener: &str, bound: &Bound, facts: &Facts<'_>, request: &Request<()>) -> Result<(), Stop> {
        let name = request.headers().get(http::header::HOST).and_then(|host| host.to_str().ok());
        let name = name.map(|host| host.rsplit_once(':').map_or(host, |(name, _port)| name).to_ascii_lowercase());
        let chain = match self.config.listeners.get(listener).map(|it| &**it) {
            Some(Listener::Opaque(opaque)) => opaque.chain(name.as_deref()),
            _ => None,
        };
        let asked = || format!("TLS for {}", name.as_deref().unwrap_or("no name"));
        let chain = chain.ok_or_else(|| Failure::new(Reason::RouteNotFound, asked()))?;
        let server_name = RequestedServerName::read(true, name.as_deref());
        self.rules(&chain.policies, &Facts { server_name, ..*facts })?;
        self.connected(bound, &Route::Clusters(chain.clusters.clone()))
    }

    /// Where a connection that nobody looks into goes.
    fn connected(&mut self, bound: &Bound, route: &Route) -> Result<(), Stop> {
        match route {
            Route::Dialled => {
                self.told.onward = Some(why::onward(stream::plan(self.snapshot, self.local, bound)?));
                Ok(())
            }
            Route::Clusters(clusters) => {
                let backends = self.backends(clusters, |name| name);
                let forwarding = Forwarding { backends: backends.clone(), ..Forwarding::default() };
                self.told.action = Some(Action::Forward(forwarding));
                self.onward(bound, &backends, StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }

    fn request(
        &mut self,
        listener: &str,
        http: &Http,
        bound: &Bound,
        connection: Facts<'_>,
        request: Request<()>,
    ) -> Result<(), Stop> {
        let bad = |problem: &dyn std::fmt::Display| Failure::new(Reason::BadRequest, problem);
        framing::check(&request).map_err(|error| bad(&error))?;
        if request.method() == Method::CONNECT && !http.upgrades.has_connect() {
            return Err(bad(&upgrade::refusal(&request)).into());
        }
        let (mut parts, ()) = request.into_parts();
        framing::remove_named(&mut parts.headers);
        let named = Named::by(&self.local.identity(), connection.identity, connection.source);
        name_client(&named, &mut parts.headers);
        let authority = authority(&parts).ok_or_else(|| bad(&"the request's host cannot be read"))?;
        let path = normal_path(&parts, http.merge_slashes).map_err(|error| bad(&error))?;
        let method = parts.method.to_string();
        let shown = path.clone().unwrap_or_default();
        self.told.request = Some(Asked { method, authority: authority.clone(), path: shown });
        let asked = (authority.as_str(), path.as_deref());

        remove_own(http, &mut parts.headers);
        let remote = remote::address(&http.proxies, connection.identity, connection.source, &parts.headers);
        let unproven = connection.of_request(head(&parts, asked, None), remote);
        let about = http.custom.iter().filter(|custom| rbac::is_about(&custom.rules, &unproven));
        self.told.questions.extend(about.map(|custom| authorizer(&custom.authorizer)));
        let claims = match &http.tokens {
            Some(tokens) => {
                let checked = tokens::check(tokens, &mut parts, self.now.1);
                self.told.token = Some(Token {
                    issuers: tokens.issuers.iter().map(|issuer| issuer.name.clone()).collect(),
                    is_believed: matches!(checked, Ok(Some(_))),
                    is_asked_for: http.policies.iter().any(Rules::asks_for_claims),
                });
                checked.map_err(Failure::from)?
            }
            None => None,
        };
        let head = head(&parts, asked, claims.as_ref());
        let facts = connection.of_request(head, remote);
        self.rules(&http.policies, &facts)?;

        let missing = || Failure::new(Reason::DestinationUnknown, format!("no routes {:?} yet", http.routes));
        let table = self.config.routes.get(&http.routes).ok_or_else(missing)?;
        let none = || {
            let what = path.as_deref().unwrap_or(&authority);
            Failure::new(Reason::RouteNotFound, format!("{} {what}", parts.method))
        };
        let (host, route) = matching::find(table, &facts).ok_or_else(none)?;
        self.told.route = Some(route.name.clone());
        if let Some(Told::Answer(_)) = route.before.cors.as_ref().map(|cors| cors::decide(cors, &head)) {
            self.told.action = Some(Action::Preflight);
            return Err(Stop::answered(StatusCode::OK));
        }
        if let config::Action::Forward(forward) = &route.action {
            let counted = || host.counted.iter().chain(&forward.counted);
            if let Some(limits) = &http.rates {
                self.counted(listener, limits, counted(), &facts)?;
            }
            let limiter = http.limiter.as_ref().filter(|_| !limiter::descriptors(counted(), &facts).is_empty());
            self.told.questions.extend(limiter.map(rate_limiter));
        }
        self.told.fault = fault(&route.before.fault);
        if let Some((abort, MILLION)) = route.before.fault.abort {
            return Err(Failure::from(abort).into());
        }
        match &route.action {
            config::Action::Reply { status, .. } => {
                self.told.action = Some(Action::Reply { status: status.as_u16() });
                Err(Stop::answered(*status))
            }
            config::Action::Redirect(redirect) => {
                let location = edits::location(redirect, &route.matching.path, &head);
                self.told.action = Some(Action::Redirect { status: redirect.status.as_u16(), location });
                Err(Stop::answered(redirect.status))
            }
            config::Action::Forward(forward) => {
                let seen = http.processor.as_ref().filter(|it| route.before.seen(it).is_some());
                self.told.questions.extend(seen.map(|it| processor(it)));
                let before = path.as_deref().unwrap_or_default();
                let rewritten = |rewrite| edits::rewritten(rewrite, &route.matching.path, before);
                let backends = self.backends(&forward.backends, |backend| &backend.cluster);
                self.told.action = Some(Action::Forward(Forwarding {
                    backends: backends.clone(),
                    path: forward.path.as_ref().map(rewritten),
                    host: forward.host.as_ref().map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()),
                    timeout_ms: forward.timeout.map(milliseconds),
                    retry: forward.retry.as_ref().map(retry),
                    mirrors: forward.mirrors.iter().map(|it| (it.cluster.to_string(), it.per_million)).collect(),
                }));
                self.onward(bound, &backends, forward.no_cluster)
            }
        }
    }

    /// Limits that would count the request; an empty one refuses it.
    fn counted<'c>(
        &mut self,
        listener: &str,
        limits: &config::Rates,
        counted: impl Iterator<Item = &'c config::Counting>,
        facts: &Facts<'c>,
    ) -> Result<(), Stop> {
        rates::each(limits, counted, facts, |rate, values| {
            self.told.rate_limits.push(RateLimit {
                counted_by: values.iter().map(|(key, value)| ((*key).to_owned(), value.to_string())).collect(),
                most: rate.bucket.most,
                fill: rate.bucket.fill,
                interval_ms: milliseconds(rate.bucket.interval),
                left: self.waypoint.rates.left(listener, rate, values, self.now.0),
            });
        });
        match self.told.rate_limits.iter().find(|limit| limit.left == 0) {
            Some(limit) => {
                let values: Vec<&str> = limit.counted_by.iter().map(|(_, value)| value.as_str()).collect();
                Err(Failure::new(Reason::RateLimited, values.join(", ")).into())
            }
            None => Ok(()),
        }
    }

    fn backends<T>(&self, all: &Weighted<T>, cluster: impl Fn(&T) -> &str) -> Vec<Backend> {
        let backend = |(weight, entry): (u32, &T)| {
            let name = cluster(entry);
            let is_dialled = self.config.clusters.get(name).is_some_and(|cluster| cluster.is_dialled);
            let count = if is_dialled { Some(1) } else { self.endpoints(name).map(<[_]>::len) };
            Backend { cluster: name.to_owned(), weight, endpoints: count }
        };
        all.weighted().map(backend).collect()
    }

    /// Who is in a cluster, of those who count; none where there is no such cluster. Who is dialled is in none.
    fn endpoints(&self, cluster: &str) -> Option<&[SocketAddr]> {
        let cluster = self.config.clusters.get(cluster)?;
        let assignment = self.config.endpoints.get(&cluster.endpoints);
        let first = assignment.and_then(|it| it.priorities.iter().find(|endpoints| !endpoints.is_empty()));
        Some(first.map_or(&[], Vec::as_slice))
    }

    /// The way to the first endpoint of the heaviest backend that has one.
    fn onward(&mut self, bound: &Bound, backends: &[Backend], no_cluster: StatusCode) -> Result<(), Stop> {
        let used = || backends.iter().filter(|backend| backend.weight > 0);
        let endpoint = |backend: &Backend| match self.config.clusters.get(&backend.cluster) {
            Some(cluster) if cluster.is_dialled => Some(bound.address()),
            _ => self.endpoints(&backend.cluster)?.first().copied(),
        };
        let best = used().filter(|backend| endpoint(backend).is_some()).max_by_key(|backend| backend.weight);
        let cluster = best.and_then(|backend| self.config.clusters.get(&backend.cluster));
        let Some((cluster, endpoint)) = cluster.zip(best.and_then(endpoint)) else {
            let names: Vec<&str> = used().map(|backend| backend.cluster.as_str()).collect();
            let is_known = used().any(|backend| backend.endpoints.is_some());
            let mut clusters = used().filter_map(|backend| self.config.clusters.get(&backend.cluster));
            if let Some(unresolved) = clusters.find(|cluster| cluster.names.is_some()) {
                return Err(Failure::new(Reason::DnsFailed, self.waypoint.names.problem(unresolved)).into());
            }
            let failure = Failure::new(Reason::NoHealthyUpstream, names.join(", "));
            return Err(Failure { status: (!is_known).then_some(no_cluster), ..failure }.into());
        };
        let plan = if cluster.is_dialled {
            stream::plan(self.snapshot, self.local, bound)?
        } else {
            dial::plan_in(cluster, self.snapshot, self.local, bound.service(), endpoint)?
        };
        self.told.onward = Some(why::onward(plan));
        Ok(())
    }
}

/// A rule that refuses, or those of which none allows.
fn refused(denial: &Denial<'_>, set: &Rules) -> Stop {
    let names = || set.policies.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>().join(", ");
    let subject = denial.policy.map_or_else(names, str::to_owned);
    let subject = Some(subject).filter(|subject| !subject.is_empty());
    Stop { refused: Some(Refused::new(denial.reason, subject)), status: Some(stream::denied(denial).status()) }
}

fn authorizer(authorizer: &config::Authorizer) -> Question {
    Question {
        asked: Whom::Authorizer,
        cluster: authorizer.cluster.to_string(),
        timeout_ms: milliseconds(authorizer.timeout),
        status_on_error: (!authorizer.fails_open).then_some(authorizer.status_on_error.as_u16()),
    }
}

fn rate_limiter(limiter: &config::Limiter) -> Question {
    Question {
        asked: Whom::RateLimiter,
        cluster: limiter.cluster.to_string(),
        timeout_ms: milliseconds(limiter.timeout),
        status_on_error: limiter.status_on_error.map(|status| status.as_u16()),
    }
}

fn processor(processor: &config::Processor) -> Question {
    Question {
        asked: Whom::Processor,
        cluster: processor.cluster.to_string(),
        timeout_ms: milliseconds(processor.timeout),
        status_on_error: (!processor.fails_open).then_some(processor.status_on_error.as_u16()),
    }
}

fn fault(fault: &config::Fault) -> Option<Fault> {
    let abort = |(abort, share): (Abort, u32)| {
        let status = match abort {
            Abort::Http(status) => status.as_u16().to_string(),
            Abort::Grpc(code) => format!("gRPC's {code}"),
        };
        (status, share)
    };
    let told = Fault {
        delay_ms: fault.delay.filter(|(_, share)| *share > 0).map(|(time, share)| (milliseconds(time), share)),
        abort: fault.abort.filter(|(_, share)| *share > 0).map(abort),
    };
    (told.delay_ms.is_some() || told.abort.is_some()).then_some(told)
}

fn retry(retry: &config::Retry) -> Retry {
    let named = [
        (retry.connect_failure, "no connection"),
        (retry.refused_stream, "a refused stream"),
        (retry.reset, "a reset"),
        (retry.server_errors, "any status from 500 on"),
    ];
    let named = named.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name.to_owned());
    let statuses = retry.statuses.iter().map(|status| status.as_u16().to_string());
    let grpc = retry.grpc_statuses.iter().map(|status| format!("gRPC's {status}"));
    Retry {
        attempts: retry.attempts,
        on: named.chain(statuses).chain(grpc).collect(),
        attempt_timeout_ms: retry.attempt_timeout.map(milliseconds),
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
