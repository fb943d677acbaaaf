//! Sends a request to an endpoint, and to another one if the route says so.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use attempts::{Attempts, Common, Reached, Target};
use bytes::Bytes;
use fairway_core::limits;
use fairway_core::reason::Reason;
use http::header::{self, HeaderValue};
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use rand::RngExt;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::body::{Body, Coming, Ending, Endpoint};
use crate::config::{Backend, Config, Edits, Forward, MILLION, Protocol};
use crate::edits;
use crate::failure::Failure;
use crate::framing;
use crate::grpc;
use crate::idle::{self, Silence};
use crate::load::{Busy, UnderWay};
use crate::replay::{Passed, Received, Replay};
use crate::stream::Connection;
use crate::telemetry::Done;
use crate::upgrade::{self, Asked, Wanted};
use crate::upgraded::{Began, Upgraded};
use crate::upstream::Upstream;

mod attempts;

/// A request on its way out.
#[derive(Clone)]
pub struct Outgoing {
    /// Method.
    pub method: Method,
    /// Path and query; of CONNECT the host and the port.
    pub target: String,
    /// Host.
    pub host: HeaderValue,
    /// Headers.
    pub headers: HeaderMap,
    /// Whether the client spoke HTTP/2.
    pub is_http2: bool,
    /// What tells it apart where requests that belong together go to one endpoint.
    pub hash: Option<u64>,
    /// The endpoint that its client wants back.
    pub session: Option<SocketAddr>,
}

/// What bounds of its cluster an upgraded connection counts against until its end.
pub struct Held {
    _request: UnderWay,
    _busy: Option<Busy>,
    _upstream: Upstream,
}

/// A call that messages go both ways of, and what it counts against until its end.
pub struct Opened {
    /// The answer, of which the head has come.
    pub response: Response<Coming>,
    _held: Held,
}

/// The answer of an endpoint.
pub struct Answered {
    reached: Box<Reached>,
    deadline: Option<Instant>,
    silence: Option<Silence>,
    under_way: UnderWay,
    request: Sent,
    upgrade: Option<Box<(Asked, Began)>>,
    /// Longest time without a byte, where it goes on as something else.
    upgraded_idle: Option<Duration>,
    /// Changes of its headers.
    pub edits: Edits,
}

/// The body of a request that is answered. Unless somebody goes on with it, nobody wants the rest.
struct Sent {
    body: Replay,
    is_wanted: bool,
}

impl Sent {
    fn go_on(&mut self) -> Replay {
        self.is_wanted = true;
        self.body.clone()
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if !self.is_wanted {
            self.body.give_up();
        }
    }
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

    fn request(
        &self,
        body: crate::replay::Attempt,
        http2: bool,
        scheme: Scheme,
    ) -> Result<Request<crate::replay::Attempt>, Failure> {
        let bad = |error: http::Error| Failure::new(Reason::BadRequest, error);
        let mut request = Request::new(body);
        let (host, target) =
            (self.host.to_str().map_err(|error| Failure::new(Reason::BadRequest, error))?, &*self.target);
        let builder = Uri::builder();
        let builder = match (&self.method, http2) {
            // Where the tunnel leads is all that it has (RFC 9112 §3.2.3, RFC 9113 §8.5).
            (&Method::CONNECT, _) => builder.authority(target),
            (_, true) => builder.scheme(scheme).authority(host).path_and_query(target),
            (_, false) => builder.path_and_query(target),
        };
        *request.uri_mut() = builder.build().map_err(bad)?;
        *request.method_mut() = self.method.clone();
        *request.version_mut() = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        *request.headers_mut() = self.headers.clone();
        if !http2 {
            let host = match self.method {
                // It names the same (RFC 9112 §3.2).
                Method::CONNECT => HeaderValue::try_from(target).map_err(|error| bad(error.into()))?,
                _ => self.host.clone(),
            };
            request.headers_mut().insert(header::HOST, host);
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
    body: Received,
    upgrade: Option<Box<(Asked, Began)>>,
    done: &mut Done,
) -> Result<Answered, Failure> {
    let draw = rand::rng().random_range(0..forward.backends.total());
    let drawn = forward.backends.at(draw).ok_or_else(|| Failure::new(Reason::Internal, "no backend was drawn"))?;
    // Who was at an endpoint stays with it, whatever the weights are since (GEP-1619): of the clusters of this route, any.
    let keeps = |backend: &Backend| {
        let target = Target::of(connection, config, &backend.cluster);
        outgoing.session.is_some_and(|endpoint| target.is_some_and(|target| target.keeps(endpoint)))
    };
    let backend =
        if outgoing.session.is_none() || keeps(drawn) { drawn } else { forward.backends.find(keeps).unwrap_or(drawn) };
    if let Some(kept) = &mut done.kept {
        kept.goes_to(&backend.cluster);
    }
    let Some(target) = Target::of(connection, config, &backend.cluster) else {
        let mut failure = Failure::new(Reason::NoHealthyUpstream, format!("there is no cluster {}", backend.cluster));
        failure.status = Some(forward.no_cluster);
        return Err(failure);
    };
    let is_switch = upgrade.as_ref().is_some_and(|upgrade| !upgrade.0.is_tunnel());
    if is_switch && target.cluster.protocol == Protocol::Http2 {
        // There the headers that ask for it mean nothing (RFC 9113 §8.2.2).
        let detail = format!("{}: upgrades go to endpoints of HTTP/1.1 only", target.name);
        let status = Some(StatusCode::NOT_IMPLEMENTED);
        return Err(Failure { status, ..Failure::new(Reason::Http2Failed, detail) });
    }
    let too_many = || {
        let most = target.cluster.bounds.requests;
        Failure::new(Reason::ConnectionLimit, format!("{most} requests to {}", target.name))
    };
    let under_way = target.load.request(&target.cluster).ok_or_else(too_many)?;
    let deadline = forward.timeout.map(|timeout| Instant::now() + timeout);
    let limits = &connection.waypoint.limits;
    let is_repeated = forward.retry.is_some() || !forward.mirrors.is_empty();
    let body = Replay::new(body, is_repeated.then(|| limits.size(&limits::REPLAY_BODY)));
    let mut silence = Silence::bounded(forward.idle.unwrap_or_else(|| limits.duration(&limits::STREAM_IDLE)));
    let (watched, is_grpc) = (body.clone(), done.is_grpc);
    done.note(|entry| entry.sent(&done.route, &target.name, &body));
    let mut attempts = Attempts::new(connection, &target, outgoing.edited(&backend.request), body);
    let answered = {
        let running = pin!(attempts.run(forward.retry.as_ref(), done));
        let running = idle::unless_silent(silence.as_mut(), || watched.moved(), running);
        match deadline {
            None => Ok(running.await),
            Some(deadline) => timeout_at(deadline, running).await,
        }
    };
    let reached = match answered {
        Ok(Ok(reached)) => reached,
        Ok(Err(longest)) if watched.is_awaited() => {
            let detail = format!("nothing more of the request's body within {longest:?}");
            Err(Failure::too_slow(Reason::IdleTimeout, detail))
        }
        Ok(Err(longest)) => {
            attempts.was_late();
            Err(Failure::new(Reason::IdleTimeout, format!("nothing of an answer within {longest:?}")))
        }
        // Who calls may keep his side of a call open for as long as it takes.
        Err(_elapsed) if watched.is_awaited() && !is_grpc => {
            let timeout = forward.timeout.unwrap_or_default();
            let detail = format!("not all of the request's body within the route's timeout, {timeout:?}");
            Err(Failure::too_slow(Reason::TimedOut, detail))
        }
        Err(_elapsed) => {
            attempts.was_late();
            let timeout = forward.timeout.unwrap_or_default();
            Err(Failure::new(Reason::TimedOut, format!("no answer within the route's timeout, {timeout:?}")))
        }
    };
    let reached = reached.inspect_err(|_| watched.give_up())?;
    let Common { outgoing, body, .. } = attempts.common;
    mirror(connection, config, forward, &outgoing, &body);
    (done.endpoint, done.workload) = (Some(reached.endpoint), reached.workload.clone());
    done.identity.clone_from(&reached.identity);
    let (edits, upgraded_idle) = (backend.response.clone(), target.cluster.upgraded_idle);
    let request = Sent { body, is_wanted: false };
    Ok(Answered { reached, deadline, silence, under_way, request, upgrade, upgraded_idle, edits })
}

/// An answer of which the head has come, and all the rest that could be read.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, or why that could not be read.
    pub body: Result<Bytes, Unread>,
    /// Its trailers; none where the body could not be read.
    pub trailers: HeaderMap,
}

/// Why the body of an answer could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// It has more than so many bytes.
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    /// It did not come to its end.
    #[error("{}", .0.detail)]
    Failed(Failure),
}

/// Asks a service something on behalf of the client's request, once, and reads the answer to its end while `patience` lasts. A
/// head that has come is an answer, whatever becomes of its body. Where a connection breaks before, nobody knows whether the
/// service has heard the question: only one that `may_repeat` is asked again then.
///
/// # Errors
/// Why there is no answer.
pub async fn ask(
    connection: &Arc<Connection>,
    config: &Config,
    cluster: &Arc<str>,
    outgoing: Outgoing,
    body: Bytes,
    patience: Duration,
    may_repeat: bool,
) -> Result<Answer, Failure> {
    let begun = Instant::now();
    let late = || Failure::new(Reason::TimedOut, format!("no answer within {patience:?}"));
    let (target, _under_way) = begin(connection, config, cluster)?;
    let mut unheard = Done::begun(outgoing.method.clone(), String::new(), false);
    let mut attempts = Attempts::new(connection, &target, outgoing, Replay::whole(body));
    let asking = async {
        match attempts.once(&mut unheard).await {
            // Of a connection that was closed when it was used again.
            Err(missed) if missed.failure.reason == Reason::ResetByPeer && (may_repeat || missed.is_untouched()) => {
                attempts.once(&mut unheard).await
            }
            reached => reached,
        }
    };
    let reached = tokio::time::timeout(patience, asking).await.map_err(|_elapsed| late())?;
    let Reached { response, key, upstream, .. } = *reached.map_err(|missed| missed.failure)?;
    let (parts, body) = response.into_parts();
    let most = connection.waypoint.limits.size(&limits::AUTHORIZER_ANSWER);
    let left = patience.saturating_sub(begun.elapsed());
    let mut trailers = HeaderMap::new();
    let body = match tokio::time::timeout(left, Limited::new(body, most).collect()).await {
        Ok(Ok(whole)) => {
            connection.waypoint.upstreams.put(key, upstream);
            trailers = whole.trailers().cloned().unwrap_or_default();
            Ok(whole.to_bytes())
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Unread::TooLong(most)),
        Ok(Err(error)) => Err(Unread::Failed(Failure::new(Reason::ResetByPeer, error))),
        Err(_elapsed) => Err(Unread::Failed(late())),
    };
    Ok(Answer { status: parts.status, headers: parts.headers, body, trailers })
}

/// Begins a request of our own to a service, unless it has enough.
fn begin(connection: &Connection, config: &Config, cluster: &Arc<str>) -> Result<(Target, UnderWay), Failure> {
    let missing = || Failure::new(Reason::NoHealthyUpstream, format!("there is no cluster {cluster}"));
    let target = Target::of(connection, config, cluster).ok_or_else(missing)?;
    let too_many = || Failure::new(Reason::ConnectionLimit, format!("{} requests", target.cluster.bounds.requests));
    let under_way = target.load.request(&target.cluster).ok_or_else(too_many)?;
    Ok((target, under_way))
}

/// Opens a call of a service on behalf of the client's request.
///
/// # Errors
/// Why there is no answer.
pub async fn open(
    connection: &Arc<Connection>,
    config: &Config,
    cluster: &Arc<str>,
    outgoing: Outgoing,
    body: Replay,
) -> Result<Opened, Failure> {
    let (target, under_way) = begin(connection, config, cluster)?;
    let mut unheard = Done::begun(outgoing.method.clone(), String::new(), false);
    let mut attempts = Attempts::new(connection, &target, outgoing, body);
    let reached = attempts.once(&mut unheard).await.map_err(|missed| missed.failure)?;
    let Reached { response, upstream, busy, .. } = *reached;
    Ok(Opened { response, _held: Held { _request: under_way, _busy: busy, _upstream: upstream } })
}

/// Sends copies; nobody waits for what comes of them.
fn mirror(connection: &Arc<Connection>, config: &Config, forward: &Forward, outgoing: &Outgoing, body: &Replay) {
    for mirror in &forward.mirrors {
        if rand::rng().random_range(0..MILLION) >= mirror.per_million {
            continue;
        }
        let is_whole = body.is_whole();
        connection.waypoint.telemetry.mirrored(is_whole);
        let Some(target) = Target::of(connection, config, &mirror.cluster).filter(|_| is_whole) else { continue };
        let Some(under_way) = target.load.request(&target.cluster) else { continue };
        let (connection, mut outgoing, body) = (Arc::clone(connection), outgoing.clone(), body.copy());
        // Nobody goes on with a copy.
        for name in [header::CONNECTION, header::UPGRADE] {
            outgoing.headers.remove(name);
        }
        let longest = || connection.waypoint.limits.duration(&limits::MIRROR_TIMEOUT);
        let patience = forward.timeout.unwrap_or_else(longest);
        tokio::spawn(async move {
            let name = &target.name;
            let mut attempts = Attempts::new(&connection, &target, outgoing, body);
            let mut unheard = Done::begun(attempts.common.outgoing.method.clone(), String::new(), false);
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
    /// Its status, and its headers, which may be changed.
    pub fn head(&mut self) -> (StatusCode, &mut HeaderMap) {
        (self.reached.response.status(), self.reached.response.headers_mut())
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.reached.response.status()
    }

    /// Its body, in whose place there is none from now on.
    pub fn take_body(&mut self) -> Coming {
        std::mem::replace(self.reached.response.body_mut(), Coming::whole(Bytes::new(), None, false))
    }

    /// Its body from now on.
    pub fn put_body(&mut self, body: Coming) {
        *self.reached.response.body_mut() = body;
    }

    /// Whether it opens the tunnel that the client has asked for.
    #[must_use]
    pub fn opens_tunnel(&self) -> bool {
        let response = &self.reached.response;
        self.is_of_tunnel() && response.status().is_success() && upgrade::has_begun(response)
    }

    /// Whether the client has asked for a tunnel.
    fn is_of_tunnel(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| upgrade.0.is_tunnel())
    }

    /// When all of it has to be there.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How long nothing of it may move, where that is bounded.
    #[must_use]
    pub fn longest_silence(&self) -> Option<Duration> {
        self.silence.as_ref().map(Silence::longest)
    }

    /// The request's body, as far as it has come.
    #[must_use]
    pub fn request(&self) -> Passed {
        self.request.body.watched()
    }

    /// Who has answered.
    #[must_use]
    pub fn endpoint(&self) -> SocketAddr {
        self.reached.endpoint
    }

    /// As the client gets it.
    #[must_use]
    pub fn into_response(mut self, mut ending: Ending) -> Response<Body> {
        let request = self.request.go_on();
        let (is_of_tunnel, opens_tunnel) = (self.is_of_tunnel(), self.opens_tunnel());
        let response = &self.reached.response;
        let done = &mut ending.done;
        done.endpoint = Some(self.reached.endpoint);
        done.status = response.status().as_u16();
        done.grpc_status = grpc::status_in(response.headers());
        done.reason = Reason::Ok;
        done.note(|entry| entry.answering(done.status));
        if opens_tunnel || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.go_on(ending);
        }
        let Self { reached, deadline, silence, under_way, .. } = self;
        let Reached { response, key, upstream, busy, .. } = *reached;
        let (mut parts, body) = response.into_parts();
        parts.version = Version::HTTP_11;
        if is_of_tunnel {
            framing::remove_hop_by_hop_before_proxy(&mut parts.headers);
        } else {
            framing::remove_hop_by_hop(&mut parts.headers);
        }
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        let (upstream, moved) = (Some((key, upstream)), Instant::now());
        let body = Body::of(Endpoint { body, upstream, deadline, silence, moved, under_way, busy, request }, ending);
        Response::from_parts(parts, body)
    }

    /// The answer after which the connection goes on as something else, if that was asked for.
    fn go_on(self, mut ending: Ending) -> Response<Body> {
        let Self { reached, under_way, upgrade, upgraded_idle, .. } = self;
        let Reached { mut response, upstream, busy, .. } = *reached;
        let is_answered = |asked: &Asked| match &asked.wanted {
            Wanted::Protocol(switch) => upgrade::is_answered(&switch.protocols, response.headers()),
            Wanted::Tunnel => response.status().is_success(),
        };
        let asked = upgrade.map(|upgrade| *upgrade).filter(|(asked, _)| is_answered(asked));
        let Some((Asked { client, wanted }, began)) = asked else {
            let failure = Failure::new(Reason::Http2Failed, "the endpoint switched to a protocol unasked");
            return crate::reply::failed(&failure, ending);
        };
        let held = Held { _request: under_way, _busy: busy, _upstream: upstream };
        let endpoint = hyper::upgrade::on(&mut response);
        let limit = || ending.connection.waypoint.limits.duration(&limits::UPGRADED_IDLE);
        let idle = upgraded_idle.unwrap_or_else(limit);
        if let Some(kept) = &mut ending.done.kept {
            kept.answer(response.headers());
        }
        tokio::spawn(Upgraded { client, endpoint, began, idle, held, ending }.carry());
        let (mut parts, _body) = response.into_parts();
        upgrade::has_no_end(&mut parts);
        match wanted {
            Wanted::Protocol(switch) if switch.is_extended => upgrade::in_http2(&mut parts, switch.is_key_ours),
            Wanted::Protocol(_) => {}
            Wanted::Tunnel => upgrade::opened(&mut parts),
        }
        Response::from_parts(parts, Body::ours(Bytes::new(), None))
    }
}
