//! Attempts to have one request answered: an endpoint, a connection to it, and another one if the route says so.

use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fairway_core::ident::Identity;
use fairway_core::reason::Reason;
use fairway_core::route::Plan;
use fairway_core::service::Service;
use fairway_core::workload::Workload;
use http::Response;
use http::uri::Scheme;
use rand::RngExt;
use tokio::time::{Instant, sleep, timeout};

use super::Outgoing;
use crate::body::Coming;
use crate::config::{Assignment, Cluster, Config, Protocol, Retry};
use crate::dial;
use crate::failure::{Failure, with_causes};
use crate::framing;
use crate::grpc;
use crate::in_flight::{Entry, Phase};
use crate::load::{Busy, Load, Outcome, Wanted};
use crate::names;
use crate::replay::{Replay, is_clients, is_malformed};
use crate::request::is_idempotent;
use crate::retry;
use crate::stream::{self, Connection};
use crate::telemetry::Done;
use crate::upgrade;
use crate::upstream::{self, Key, Unsent, Upstream};

mod hedged;

/// Where attempts lead.
#[derive(Clone)]
pub(super) struct Target {
    /// The cluster's name.
    pub(super) name: Arc<str>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) endpoints: Arc<Assignment>,
    pub(super) load: Arc<Load>,
}

/// What all attempts to have a request answered have in common.
pub(super) struct Common<'a> {
    connection: &'a Arc<Connection>,
    service: Option<Arc<Service>>,
    target: &'a Target,
    pub(super) outgoing: Outgoing,
    pub(super) body: Replay,
    /// Whether those that were tried may be tried again at once.
    again: bool,
}

/// Attempts to have a request answered.
pub(super) struct Attempts<'a> {
    pub(super) common: Common<'a>,
    asked: Asked,
}

/// Who was asked.
#[derive(Default)]
struct Asked {
    tried: Vec<SocketAddr>,
    /// The last one, as long as nothing is noted of what came of it.
    open: Option<SocketAddr>,
}

/// Who is asked next, and the way there.
struct Chosen {
    endpoint: SocketAddr,
    plan: Plan,
    busy: Option<Busy>,
}

/// What came of an attempt.
type Attempt = Result<Box<Reached>, Missed>;

/// An attempt that was answered.
pub(super) struct Reached {
    pub(super) response: Response<Coming>,
    pub(super) endpoint: SocketAddr,
    pub(super) key: Key,
    pub(super) upstream: Upstream,
    pub(super) busy: Option<Busy>,
    pub(super) workload: Option<Arc<Workload>>,
    pub(super) identity: Option<Identity>,
}

/// An attempt that was not.
pub(super) struct Missed {
    result: retry::Result,
    pub(super) failure: Failure,
}

impl Missed {
    /// There was no answer for so long.
    fn late(longest: Duration) -> Self {
        let detail = format!("no answer to an attempt within {longest:?}");
        Self { result: retry::Result::Late, failure: Failure::new(Reason::TimedOut, detail) }
    }

    /// Whether the endpoint has done nothing about it, so that it may be sent again whatever it is.
    pub(super) fn is_untouched(&self) -> bool {
        matches!(self.result, retry::Result::Refused)
    }
}

impl Target {
    /// The cluster of this name, if there is one.
    pub(super) fn of(connection: &Connection, config: &Config, name: &Arc<str>) -> Option<Self> {
        let cluster = Arc::clone(config.clusters.get(&**name)?);
        let endpoints = config.endpoints.get(&cluster.endpoints).cloned().unwrap_or_default();
        Some(Self { name: Arc::clone(name), cluster, endpoints, load: connection.waypoint.loads.of(name) })
    }

    /// Whether a client that was at this endpoint may come back to it here.
    pub(super) fn keeps(&self, endpoint: SocketAddr) -> bool {
        self.load.keeps(&self.cluster, &self.endpoints, endpoint, Instant::now().into_std())
    }

    /// The service whose port, or part of whose port, the cluster is: `<hostname>:<port>` or `<hostname>:<port>/<subset>`.
    fn service(&self, connection: &Connection) -> Option<Arc<Service>> {
        let whole = self.name.split_once('/').map_or(&*self.name, |(whole, _subset)| whole);
        let (hostname, _port) = whole.rsplit_once(':')?;
        let bound = connection.bound.service().filter(|service| service.hostname() == hostname).cloned();
        bound.or_else(|| {
            let snapshot = connection.waypoint.live.snapshot();
            snapshot.service_by_hostname(hostname, connection.local.namespace()).cloned()
        })
    }
}

impl Chosen {
    /// The endpoint and its workload.
    fn who(&self) -> (Option<SocketAddr>, Option<Arc<Workload>>) {
        (Some(self.endpoint), self.plan.workload().cloned())
    }
}

impl<'a> Attempts<'a> {
    pub(super) fn new(connection: &'a Arc<Connection>, target: &'a Target, outgoing: Outgoing, body: Replay) -> Self {
        let service = target.service(connection);
        let common = Common { connection, service, target, outgoing, body, again: false };
        Self { common, asked: Asked::default() }
    }

    /// As many attempts as `policy` wants and there may be.
    pub(super) async fn run(&mut self, policy: Option<&Retry>, done: &mut Done) -> Result<Box<Reached>, Failure> {
        let mut repetition = None;
        self.common.again = policy.is_some_and(|policy| !policy.elsewhere);
        if let Some((policy, longest)) = policy.and_then(|policy| Some((policy, policy.hedges_after()?))) {
            // In a box, as most requests do without.
            return Box::pin(hedged::run(self, (policy, longest), done)).await;
        }
        loop {
            let attempt = match policy.and_then(|policy| policy.attempt_timeout) {
                None => self.once(done).await,
                Some(longest) => match timeout(longest, self.once(done)).await {
                    Ok(attempt) => attempt,
                    Err(_elapsed) => {
                        self.was_late();
                        Err(Missed::late(longest))
                    }
                },
            };
            let again = policy.filter(|policy| retry::wanted(policy, result_of(&attempt)));
            let again = again.filter(|policy| done.retries < policy.attempts && self.common.body.can_repeat());
            // One too many for the whole of the service is one too many for this request.
            let permit = again.and_then(|policy| {
                drop(repetition.take());
                Some((policy, self.common.target.load.retry(&self.common.target.cluster)?))
            });
            match permit {
                Some((policy, permit)) => {
                    done.retries += 1;
                    repetition = Some(permit);
                    drop(attempt);
                    done.note(|entry| entry.enter(Phase::BackingOff));
                    let chance = rand::rng().random();
                    sleep(retry::pause(policy, done.retries, chance)).await;
                }
                None => return attempt.map_err(|missed| missed.failure),
            }
        }
    }

    /// The endpoint that was asked last took too long.
    pub(super) fn was_late(&mut self) {
        self.common.was_late(&mut self.asked);
    }

    /// One attempt.
    pub(super) async fn once(&mut self, done: &mut Done) -> Attempt {
        let mut chosen = self.common.choose(&mut self.asked).await?;
        (done.endpoint, done.workload) = chosen.who();
        let attempt = self.common.reach(&mut chosen, &self.common.body, done.entry.as_ref()).await;
        self.common.judge(&mut self.asked, &attempt);
        attempt
    }
}

impl Common<'_> {
    /// Chooses who is asked next.
    async fn choose(&self, asked: &mut Asked) -> Result<Chosen, Missed> {
        let Target { cluster, endpoints, load, .. } = self.target;
        if cluster.is_dialled {
            let Connection { waypoint, local, bound, .. } = &**self.connection;
            let plan = stream::plan(&waypoint.live.snapshot(), local, bound).map_err(not_reached)?;
            return Ok(Chosen { endpoint: bound.address(), plan, busy: None });
        }
        let endpoints = &names::endpoints(&self.connection.waypoint, cluster, endpoints).await.map_err(not_reached)?;
        let Outgoing { hash, session, .. } = self.outgoing;
        let tried = if self.again { &[] } else { &*asked.tried };
        let wanted = Wanted { hash, session, tried, now: Instant::now().into_std() };
        let picked = load.pick(cluster, endpoints, &wanted, &mut |count| rand::rng().random_range(0..count));
        let none = || Failure::new(Reason::NoHealthyUpstream, format!("{} has no endpoint", cluster.endpoints));
        let endpoint = picked.ok_or_else(|| not_reached(none()))?;
        asked.tried.push(endpoint);
        asked.open = Some(endpoint);
        let snapshot = self.connection.waypoint.live.snapshot();
        match dial::plan_in(cluster, &snapshot, &self.connection.local, self.service.as_ref(), endpoint) {
            Ok(plan) => Ok(Chosen { endpoint, plan, busy: load.busy(cluster, endpoint) }),
            Err(failure) => {
                let missed = not_reached(failure);
                self.note_miss(asked, &missed);
                Err(missed)
            }
        }
    }

    /// Takes down what came of asking the last one, unless something is noted of it.
    fn judge(&self, asked: &mut Asked, attempt: &Attempt) {
        match attempt {
            Ok(reached) => {
                let grpc = grpc::status_in(reached.response.headers()).map(grpc::status);
                self.note(asked, Outcome::Answered(grpc.unwrap_or(reached.response.status())));
            }
            Err(missed) => self.note_miss(asked, missed),
        }
    }

    fn note_miss(&self, asked: &mut Asked, missed: &Missed) {
        if !self.body.is_stopped() && is_endpoints_fault(missed.failure.reason) {
            self.note(asked, Outcome::Failed);
        }
        asked.open = None;
    }

    /// The one that was asked last took too long. Where it waits for the client itself, that tells nothing of it.
    fn was_late(&self, asked: &mut Asked) {
        if self.body.is_awaited() {
            asked.open = None;
        } else {
            self.note(asked, Outcome::Failed);
        }
    }

    fn note(&self, asked: &mut Asked, outcome: Outcome) {
        let Some(endpoint) = asked.open.take() else { return };
        let Target { name, cluster, endpoints, load } = self.target;
        for endpoint in load.note(cluster, endpoints, endpoint, outcome, Instant::now().into_std()) {
            self.connection.waypoint.telemetry.left_out(name, endpoint);
        }
    }

    async fn reach(&self, chosen: &mut Chosen, body: &Replay, entry: Option<&Entry>) -> Attempt {
        let connection = self.connection;
        let Chosen { endpoint, plan, busy } = chosen;
        let endpoint = *endpoint;
        let workload = plan.workload().cloned();
        if let Some(entry) = entry {
            entry.attempt(endpoint);
        }
        let http2 = match self.target.cluster.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::AsClient => self.outgoing.is_http2,
        };
        let client = &connection.client;
        let key = Key {
            cluster: Arc::clone(&self.target.name),
            endpoint,
            workload: workload.as_deref().map(|workload| workload.uid.clone()),
            http2,
            client: client.identity.clone(),
            address: client.address.ip(),
            tls: self.target.cluster.tls.clone(),
        };
        let proven = matches!(plan, Plan::Tunnel { .. });
        let expected = workload.as_deref().filter(|_| proven).map(Workload::identity);
        let mut reused = connection.waypoint.upstreams.take(&key).await;
        loop {
            let (mut upstream, identity, is_reused) = match reused.take() {
                Some(upstream) => (upstream, expected.clone(), true),
                // In a box, as most requests do without and need not carry its state.
                None => Box::pin(self.connect(&key, plan, expected.as_ref())).await.map_err(not_reached)?,
            };
            let scheme = if self.target.cluster.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
            let request = self.outgoing.request(body.attempt(), http2, scheme).map_err(not_reached)?;
            if let Some(entry) = entry {
                entry.enter(Phase::WaitingForAnswer);
            }
            match upstream.send(request).await {
                Ok(response) => {
                    framing::check_answer(&response).map_err(|error| Missed {
                        result: retry::Result::Reset,
                        failure: Failure::new(Reason::AnswerMalformed, error),
                    })?;
                    let response = response.map(Coming::endpoint);
                    let busy = busy.take();
                    let reached = Reached { response, endpoint, key, upstream, busy, workload, identity };
                    return Ok(Box::new(reached));
                }
                Err(unsent) => {
                    // A server may close a connection that waits just when it is used again.
                    let harmless = unsent.untouched || is_idempotent(&self.outgoing.method);
                    if !(is_reused && harmless && body.can_repeat()) {
                        return Err(missed(unsent));
                    }
                }
            }
        }
    }

    /// A connection, once there may be one more; whom it proves to be, and whether it was used before.
    async fn connect(
        &self,
        key: &Key,
        plan: &Plan,
        expected: Option<&Identity>,
    ) -> Result<(Upstream, Option<Identity>, bool), Failure> {
        let Target { name, cluster, load, .. } = self.target;
        let upstreams = &self.connection.waypoint.upstreams;
        let _waiting = load.wait(cluster).ok_or_else(|| {
            let detail = format!("{} requests wait for connections to {name}", cluster.bounds.waiting);
            Failure::new(Reason::ConnectionLimit, detail)
        })?;
        let room = loop {
            let mut freed = pin!(load.freed());
            // What is freed from here on is noticed.
            freed.as_mut().enable();
            if let Some(room) = load.connect(cluster) {
                break room;
            }
            if let Some(upstream) = upstreams.take(key).await {
                return Ok((upstream, expected.cloned(), true));
            }
            // One that waits for another client's next request has to go.
            upstreams.give_up(name);
            freed.await;
        };
        let opening = upstream::open(self.connection, plan, key.http2, (cluster, load, room));
        let late = || Failure::new(Reason::UpstreamConnectTimeout, key.endpoint);
        let opened = timeout(cluster.connect_timeout, opening).await;
        let (upstream, identity) = opened.unwrap_or_else(|_elapsed| Err(late()))?;
        upstreams.share(key, &upstream);
        Ok((upstream, identity, false))
    }
}

/// What a policy of repetitions looks at.
fn result_of(attempt: &Attempt) -> retry::Result {
    match attempt {
        Ok(reached) if upgrade::has_begun(&reached.response) => retry::Result::HasBegun,
        Ok(reached) => retry::Result::Answered(reached.response.status(), grpc::status_in(reached.response.headers())),
        Err(missed) => missed.result,
    }
}

fn not_reached(failure: Failure) -> Missed {
    let is_denied = is_about_client(failure.reason);
    let result = if is_denied { retry::Result::Denied } else { retry::Result::NotReached };
    Missed { result, failure }
}

/// Whether policy at the endpoint refuses this very client (ADR 0043): nobody else's requests must go elsewhere for it, and this one need
/// not be tried again.
fn is_about_client(reason: Reason) -> bool {
    matches!(reason, Reason::PolicyDenied | Reason::PolicyNotAllowed)
}

/// Whether it tells something of the endpoint that a request was not answered.
fn is_endpoints_fault(reason: Reason) -> bool {
    let is_ours_or_the_clients = matches!(
        reason,
        Reason::ClientLeft
            | Reason::BadRequest
            | Reason::ConnectionLimit
            | Reason::ResourceLimit
            | Reason::CertificateUnavailable
            | Reason::TlsFilesUnusable
            | Reason::DestinationUnknown
            | Reason::WrongNetwork
            | Reason::UnknownWaypoint
            | Reason::UnknownGateway
            | Reason::Internal
    );
    !(is_ours_or_the_clients || is_about_client(reason))
}

fn missed(unsent: Unsent) -> Missed {
    let Unsent { error, untouched } = unsent;
    let result = if untouched || was_refused(&error) { retry::Result::Refused } else { retry::Result::Reset };
    let reason = match is_clients(&error) {
        true if is_malformed(&error) => Reason::BadRequest,
        true => Reason::ClientLeft,
        false if error.is_parse() || is_broken(&error) => Reason::AnswerMalformed,
        false => Reason::ResetByPeer,
    };
    Missed { result, failure: Failure::new(reason, with_causes(&error)) }
}

/// Whether it is us who could not read what an endpoint has said over HTTP/2.
fn is_broken(error: &hyper::Error) -> bool {
    let h2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    h2.is_some_and(|error| error.is_library() && !error.is_io())
}

fn was_refused(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason() == Some(h2::Reason::REFUSED_STREAM);
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_policy_says_of_a_client_is_neither_tried_again_nor_held_against_the_endpoint() {
        let rows = [
            (Reason::PolicyDenied, retry::Result::Denied, false),
            (Reason::PolicyNotAllowed, retry::Result::Denied, false),
            (Reason::PolicyUnknown, retry::Result::NotReached, true),
            (Reason::UpstreamConnectTimeout, retry::Result::NotReached, true),
            (Reason::UnknownWaypoint, retry::Result::NotReached, false),
        ];
        for (reason, result, is_fault) in rows {
            let found = not_reached(Failure::new(reason, "")).result;
            assert_eq!((found, is_endpoints_fault(reason)), (result, is_fault), "{reason:?}");
        }
    }
}
