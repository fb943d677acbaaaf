//! Sends a request to an endpoint, and to another one if the route says so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fairway_core::ident::Identity;
use fairway_core::reason::Reason;
use fairway_core::service::Service;
use fairway_core::workload::Workload;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use rand::RngExt;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::body::{Body, Ending, Endpoint};
use crate::config::{Assignment, Cluster, Config, Edits, Forward, MILLION, Protocol, Retry};
use crate::dial;
use crate::edits;
use crate::failure::Failure;
use crate::framing;
use crate::grpc;
use crate::load::{Load, UnderWay};
use crate::replay::{Replay, is_clients};
use crate::request::is_idempotent;
use crate::retry;
use crate::stream::Connection;
use crate::telemetry::Done;
use crate::upgrade;
use crate::upstream::{self, Key, Sender, Unsent};

/// Longest that a copy of a request may take where the route has no timeout; nobody waits for it.
const MIRROR_PATIENCE: Duration = Duration::from_secs(60);

/// A request on its way out.
#[derive(Clone)]
pub struct Outgoing {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Host.
    pub host: HeaderValue,
    /// Headers.
    pub headers: HeaderMap,
    /// Whether the client spoke HTTP/2.
    pub is_http2: bool,
}

/// The answer of an endpoint.
pub struct Answered {
    response: Response<Incoming>,
    endpoint: SocketAddr,
    sender: Option<(Key, Sender)>,
    deadline: Option<Instant>,
    under_way: UnderWay,
    request: Replay,
    client: Option<OnUpgrade>,
    /// Changes of its headers.
    pub edits: Edits,
}

/// Everything an attempt needs to know.
struct Attempts<'a> {
    connection: &'a Arc<Connection>,
    service: Option<Arc<Service>>,
    cluster: &'a Cluster,
    endpoints: &'a Assignment,
    load: Arc<Load>,
    outgoing: Outgoing,
    body: Replay,
    tried: Vec<SocketAddr>,
}

/// An attempt that was answered.
struct Reached {
    response: Response<Incoming>,
    endpoint: SocketAddr,
    key: Key,
    sender: Sender,
    workload: Option<Arc<Workload>>,
    identity: Option<Identity>,
}

/// An attempt that was not.
struct Missed {
    result: retry::Result,
    failure: Failure,
}

impl Outgoing {
    /// With changed headers.
    #[must_use]
    pub fn edited(mut self, edits: &Edits) -> Self {
        edits::apply(edits, &mut self.headers);
        // A route may set the host in this way, too.
        if let Some(host) = self.headers.remove(header::HOST) {
            self.host = host;
        }
        self
    }

    fn request(&self, body: crate::replay::Attempt, http2: bool) -> Result<Request<crate::replay::Attempt>, Failure> {
        let bad = |error: http::Error| Failure::new(Reason::BadRequest, error);
        let mut request = Request::new(body);
        let host = self.host.to_str().map_err(|error| Failure::new(Reason::BadRequest, error))?;
        let builder = Uri::builder();
        let builder = if http2 { builder.scheme("http").authority(host) } else { builder };
        *request.uri_mut() = builder.path_and_query(&*self.target).build().map_err(bad)?;
        *request.method_mut() = self.method.clone();
        *request.version_mut() = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        *request.headers_mut() = self.headers.clone();
        if !http2 {
            request.headers_mut().insert(header::HOST, self.host.clone());
        }
        Ok(request)
    }
}

/// Sends the request on as `forward` says.
///
/// # Errors
/// Why there is no answer of an endpoint.
pub async fn send(
    connection: &Arc<Connection>,
    config: &Config,
    forward: &Forward,
    outgoing: Outgoing,
    body: Incoming,
    client: Option<OnUpgrade>,
    done: &mut Done,
) -> Result<Answered, Failure> {
    let draw = rand::rng().random_range(0..forward.backends.total());
    let backend = forward.backends.at(draw).ok_or_else(|| Failure::new(Reason::Internal, "no backend was drawn"))?;
    let Some(cluster) = config.clusters.get(&*backend.cluster) else {
        let mut failure = Failure::new(Reason::NoHealthyUpstream, format!("there is no cluster {}", backend.cluster));
        failure.status = Some(forward.no_cluster);
        return Err(failure);
    };
    let nobody = Arc::default();
    let endpoints = config.endpoints.get(&cluster.endpoints).unwrap_or(&nobody);
    let load = connection.waypoint.loads.of(&backend.cluster);
    let too_many =
        || Failure::new(Reason::ConnectionLimit, format!("{} requests to {}", cluster.requests, backend.cluster));
    let under_way = load.request(cluster).ok_or_else(too_many)?;
    let deadline = forward.timeout.map(|timeout| Instant::now() + timeout);
    let body = Replay::new(body, forward.retry.is_some() || !forward.mirrors.is_empty());
    let mut attempts = Attempts {
        connection,
        service: service_of(connection, &backend.cluster),
        cluster,
        endpoints,
        load,
        outgoing: outgoing.edited(&backend.request),
        body,
        tried: Vec::new(),
    };
    let reached = match deadline {
        None => attempts.run(forward.retry.as_ref(), done).await,
        Some(deadline) => match timeout_at(deadline, attempts.run(forward.retry.as_ref(), done)).await {
            Ok(reached) => reached,
            Err(_elapsed) => {
                let timeout = forward.timeout.unwrap_or_default();
                Err(Failure::new(Reason::TimedOut, format!("no answer within the route's timeout, {timeout:?}")))
            }
        },
    }?;
    let Attempts { outgoing, body, .. } = attempts;
    mirror(connection, config, forward, &outgoing, &body);
    let Reached { response, endpoint, key, sender, workload, identity } = reached;
    (done.endpoint, done.workload, done.identity) = (Some(endpoint), workload, identity);
    let sender = matches!(sender, Sender::Http1(_)).then_some((key, sender));
    Ok(Answered {
        response,
        endpoint,
        sender,
        deadline,
        under_way,
        request: body,
        client,
        edits: backend.response.clone(),
    })
}

/// The service whose port a cluster is, `<hostname>:<port>`.
fn service_of(connection: &Connection, cluster: &str) -> Option<Arc<Service>> {
    let (hostname, _port) = cluster.rsplit_once(':')?;
    let bound = connection.bound.service().filter(|service| service.hostname() == hostname).cloned();
    bound.or_else(|| {
        let snapshot = connection.waypoint.live.snapshot();
        snapshot.service_by_hostname(hostname, connection.local.namespace()).cloned()
    })
}

impl Attempts<'_> {
    async fn run(&mut self, policy: Option<&Retry>, done: &mut Done) -> Result<Reached, Failure> {
        let mut repetition = None;
        loop {
            let attempt = async {
                match policy.and_then(|policy| policy.attempt_timeout) {
                    None => self.once(done).await,
                    Some(timeout) => {
                        let late = || Missed {
                            result: retry::Result::Late,
                            failure: Failure::new(
                                Reason::TimedOut,
                                format!("no answer to an attempt within {timeout:?}"),
                            ),
                        };
                        tokio::time::timeout(timeout, self.once(done)).await.unwrap_or_else(|_elapsed| Err(late()))
                    }
                }
            };
            let attempt = attempt.await;
            let result = match &attempt {
                Ok(reached) => {
                    let grpc = grpc::status_in(reached.response.headers());
                    retry::Result::Answered(reached.response.status(), grpc)
                }
                Err(missed) => missed.result,
            };
            let again = policy.filter(|policy| retry::wanted(policy, result) && done.retries < policy.attempts);
            let again = again.filter(|_| self.body.can_repeat());
            // One too many for the whole of the service is one too many for this request.
            let permit = again.and_then(|policy| {
                drop(repetition.take());
                Some((policy, self.load.retry(self.cluster)?))
            });
            match permit {
                Some((policy, permit)) => {
                    done.retries += 1;
                    repetition = Some(permit);
                    drop(attempt);
                    let chance = rand::rng().random();
                    sleep(retry::pause(policy, done.retries, chance)).await;
                }
                None => return attempt.map_err(|missed| missed.failure),
            }
        }
    }

    async fn once(&mut self, done: &mut Done) -> Result<Reached, Missed> {
        let not_reached = |failure: Failure| Missed { result: retry::Result::NotReached, failure };
        let none = || Failure::new(Reason::NoHealthyUpstream, format!("{} has no endpoint", self.cluster.endpoints));
        let endpoint = self.load.pick(self.endpoints, &self.tried).ok_or_else(|| not_reached(none()))?;
        self.tried.push(endpoint);
        let connection = self.connection;
        let plan = {
            let snapshot = connection.waypoint.live.snapshot();
            dial::plan(&snapshot, &connection.local, self.service.as_ref(), endpoint).map_err(not_reached)?
        };
        let workload = plan.workload().cloned();
        (done.endpoint, done.workload) = (Some(endpoint), workload.clone());
        let http2 = match self.cluster.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::AsClient => self.outgoing.is_http2,
        };
        let client = &connection.client;
        let key = Key { endpoint, http2, client: client.identity.clone(), address: client.address.ip() };
        let proven = matches!(plan, fairway_core::route::Plan::Tunnel { .. });
        let expected = workload.as_deref().filter(|_| proven).map(Workload::identity);
        let mut reused = connection.waypoint.upstreams.take(&key).await;
        loop {
            let (mut sender, identity, is_reused) = match reused.take() {
                Some(sender) => (sender, expected.clone(), true),
                None => {
                    let opening = upstream::open(connection, &plan, http2);
                    let late = || Failure::new(Reason::UpstreamConnectTimeout, endpoint);
                    let opened = tokio::time::timeout(self.cluster.connect_timeout, opening).await;
                    let (sender, identity) = opened.unwrap_or_else(|_elapsed| Err(late())).map_err(not_reached)?;
                    if let Sender::Http2(shared) = &sender {
                        connection.waypoint.upstreams.put(key.clone(), Sender::Http2(shared.clone()));
                    }
                    (sender, identity, false)
                }
            };
            let request = self.outgoing.request(self.body.attempt(), http2).map_err(not_reached)?;
            match sender.send(request).await {
                Ok(response) => return Ok(Reached { response, endpoint, key, sender, workload, identity }),
                Err(unsent) => {
                    // A server may close a connection that waits just when it is used again.
                    let harmless = unsent.untouched || is_idempotent(&self.outgoing.method);
                    if !(is_reused && harmless && self.body.can_repeat()) {
                        return Err(missed(unsent));
                    }
                }
            }
        }
    }
}

fn missed(unsent: Unsent) -> Missed {
    let Unsent { error, untouched } = unsent;
    let result = if untouched || was_refused(&error) { retry::Result::Refused } else { retry::Result::Reset };
    let reason = if is_clients(&error) { Reason::ClientLeft } else { Reason::ResetByPeer };
    Missed { result, failure: Failure::new(reason, with_causes(&error)) }
}

fn was_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason() == Some(h2::Reason::REFUSED_STREAM);
        }
        cause = error.source();
    }
    false
}

fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Sends copies; nobody waits for what comes of them.
fn mirror(connection: &Arc<Connection>, config: &Config, forward: &Forward, outgoing: &Outgoing, body: &Replay) {
    for mirror in &forward.mirrors {
        if rand::rng().random_range(0..MILLION) >= mirror.per_million {
            continue;
        }
        let is_whole = body.is_whole();
        connection.waypoint.telemetry.mirrored(is_whole);
        let Some(cluster) = config.clusters.get(&*mirror.cluster).filter(|_| is_whole).cloned() else { continue };
        let endpoints = config.endpoints.get(&cluster.endpoints).cloned().unwrap_or_default();
        let load = connection.waypoint.loads.of(&mirror.cluster);
        let Some(under_way) = load.request(&cluster) else { continue };
        let (connection, outgoing, body) = (Arc::clone(connection), outgoing.clone(), body.copy());
        let patience = forward.timeout.unwrap_or(MIRROR_PATIENCE);
        let name = Arc::clone(&mirror.cluster);
        tokio::spawn(async move {
            let service = service_of(&connection, &name);
            let tried = Vec::new();
            let (cluster, endpoints) = (&*cluster, &*endpoints);
            let mut attempts =
                Attempts { connection: &connection, service, cluster, endpoints, load, outgoing, body, tried };
            let mut unheard = Done::begun(attempts.outgoing.method.clone(), String::new(), false);
            let sent = tokio::time::timeout(patience, attempts.once(&mut unheard)).await;
            drop(under_way);
            match sent {
                Ok(Ok(reached)) => {
                    tracing::debug!(cluster = %name, status = %reached.response.status(), "copy of a request")
                }
                Ok(Err(missed)) => {
                    tracing::debug!(cluster = %name, error = missed.failure.detail, "copy of a request failed")
                }
                Err(_elapsed) => tracing::debug!(cluster = %name, "copy of a request took too long"),
            }
        });
    }
}

impl Answered {
    /// As the client gets it.
    #[must_use]
    pub fn into_response(self, mut ending: Ending) -> Response<Body> {
        let Self { mut response, endpoint, sender, deadline, under_way, request, client, .. } = self;
        let done = &mut ending.done;
        done.endpoint = Some(endpoint);
        done.status = response.status().as_u16();
        done.grpc_status = grpc::status_in(response.headers());
        done.reason = Reason::Ok;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(client) = client else {
                let failure = Failure::new(Reason::Http2Failed, "the endpoint switched protocols unasked");
                return crate::reply::failed(&failure, ending);
            };
            tokio::spawn(upgrade::carry(client, hyper::upgrade::on(&mut response)));
            let (parts, _body) = response.into_parts();
            return Response::from_parts(parts, Body::ours(bytes::Bytes::new(), Some(ending)));
        }
        let (mut parts, body) = response.into_parts();
        parts.version = Version::HTTP_11;
        framing::remove_hop_by_hop(&mut parts.headers);
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        let body = Body::of(Endpoint { body, sender, deadline, under_way, request }, ending);
        Response::from_parts(parts, body)
    }
}
