//! One request, top to bottom: framing, path, token, policy, route, who else sees it, and what the route says.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use fairway_core::limits;
use fairway_core::reason::Reason;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, request};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use rand::RngExt;

use crate::access_log::Kept;
use crate::affinity;
use crate::authorizer;
use crate::body::{Body, Ending};
use crate::config::{Action, Config, Edits, Http, Listener, MILLION, Manner, Modes, Processor, Put};
use crate::cors::{self, Told};
use crate::edits;
use crate::facts::{self, Head};
use crate::failure::Failure;
use crate::faults;
use crate::forward::{self, Answered, Outgoing};
use crate::framing;
use crate::grpc;
use crate::in_flight::Phase;
use crate::limiter;
use crate::matching;
use crate::named::Named;
use crate::noted::Noted;
use crate::path::{self, BadPath};
use crate::processor::{self, Seen};
use crate::rbac;
use crate::remote::{self, FORWARDED_FOR};
use crate::replay::Received;
use crate::reply;
use crate::session;
use crate::stream::{Connection, denied};
use crate::telemetry::Done;
use crate::tokens::{self, Claims};
use crate::trace;
use crate::upgrade::{self, Asked, Wanted};
use crate::upgraded::Began;

/// `x-forwarded-proto`: what the client spoke.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `x-forwarded-client-cert`: whom the client has proved to be, in the form Envoy writes it.
const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// `x-request-id`: the same all the way.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a request leads to.
enum Answer {
    /// An answer that the route is.
    Direct(StatusCode, Bytes),
    /// The client goes elsewhere.
    Redirect(StatusCode, String),
    /// An endpoint's.
    Endpoint(Answered),
}

/// Serves one request.
pub async fn serve(connection: Arc<Connection>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let has_next = request.version() < Version::HTTP_2;
    // To CONNECT any success says that the connection goes on (RFC 9113 §8.5), which only an endpoint that has agreed may.
    let is_connect = request.method() == Method::CONNECT;
    let client = request.extensions().get::<OnUpgrade>().filter(|_| has_next).cloned();
    let mut ending = begin(&connection, &request);
    let mut response_edits = Vec::new();
    // What seldom happens on the way is in boxes of its own, so that this one is small.
    let answer = Box::pin(walk(&connection, request, &mut ending.done, &mut response_edits)).await;
    let answer = if is_connect { answer.map_or_else(|failure| Err(no_success(failure)), agreed) } else { answer };
    // Nor does one whose body is not waited for.
    let is_doubtful = answer
        .as_ref()
        .is_err_and(|failure| failure.reason == Reason::BadRequest || failure.status() == StatusCode::REQUEST_TIMEOUT);
    let mut response = match answer {
        Ok(Answer::Direct(status, text)) => reply::direct(status, text, ending),
        Ok(Answer::Redirect(status, location)) => reply::redirect(status, &location, ending),
        Ok(Answer::Endpoint(answered)) => answered.into_response(ending),
        Err(failure) => reply::failed(&failure, ending),
    };
    for edits in &response_edits {
        edits::apply(edits, response.headers_mut());
    }
    let goes_on = upgrade::goes_on(is_connect, response.status());
    // Whatever was asked for is kept until the connection ends, however many requests later.
    if let Some(client) = client.filter(|_| !goes_on) {
        tokio::spawn(upgrade::hang_up(client));
    }
    // What comes behind a CONNECT that is refused may have been meant for the tunnel, and be somebody else's than the client's.
    if (is_doubtful || is_connect && !goes_on) && has_next {
        // Nobody knows where the next request would begin (RFC 9112 §11.2).
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let (parts, mut body) = response.into_parts();
    body.answered(&parts.headers);
    Ok(Response::from_parts(parts, body))
}

/// One of which not even the head can be read: it is counted and logged, too.
pub fn unread(connection: &Arc<Connection>, version: Version, failure: &Failure) {
    // No method is spelt so.
    let method = Method::from_bytes(b"-").unwrap_or_default();
    let mut done = begun(connection, method, String::new(), false);
    let config = connection.waypoint.config.load();
    if let Some(Listener::Http(http)) = config.listeners.get(&connection.listener).map(|it| &**it) {
        done.kept = Kept::begun(http, version, None);
    }
    (done.status, done.reason) = (failure.status().as_u16(), failure.reason);
    done.detail = Some(failure.detail.clone());
    drop(Ending { connection: Arc::clone(connection), done });
}

fn begin(connection: &Arc<Connection>, request: &Request<Incoming>) -> Ending {
    // A status of gRPC is in an answer of success.
    let is_grpc = request.method() != Method::CONNECT && grpc::is_grpc(request.headers());
    let done = begun(connection, request.method().clone(), request.uri().path().to_owned(), is_grpc);
    Ending { connection: Arc::clone(connection), done }
}

/// A workload that was dialled is known before anybody is asked.
fn begun(connection: &Connection, method: Method, path: String, is_grpc: bool) -> Done {
    Done { workload: connection.bound.workload().cloned(), ..Done::begun(method, path, is_grpc) }
}

/// What CONNECT leads to: no success but that of an endpoint that has agreed.
fn agreed(answer: Answer) -> Result<Answer, Failure> {
    let status = match &answer {
        Answer::Direct(status, _) | Answer::Redirect(status, _) => *status,
        Answer::Endpoint(answered) if answered.opens_tunnel() => return Ok(answer),
        Answer::Endpoint(answered) => answered.status(),
    };
    if !status.is_success() {
        return Ok(answer);
    }
    let whose = if matches!(answer, Answer::Endpoint(_)) { "the endpoint" } else { "the route" };
    let detail = format!("{whose} answers {status} to a request to go on as something else, and does not");
    Err(no_success(Failure { status: Some(status), ..Failure::new(Reason::Http2Failed, detail) }))
}

/// A failure that is told with a status that is no success, whoever says which.
fn no_success(mut failure: Failure) -> Failure {
    if failure.status().is_success() {
        failure.status = Some(StatusCode::BAD_GATEWAY);
    }
    failure
}

async fn walk(
    connection: &Arc<Connection>,
    mut request: Request<Incoming>,
    done: &mut Done,
    response_edits: &mut Vec<Edits>,
) -> Result<Answer, Failure> {
    let bad = |problem: &dyn std::fmt::Display| Failure::new(Reason::BadRequest, problem);
    // One state of the configuration for the whole request.
    let config = connection.waypoint.config.load();
    let Some(Listener::Http(http)) = config.listeners.get(&connection.listener).map(|it| &**it) else {
        return Err(Failure::new(Reason::DestinationUnknown, "the port does not carry requests any more"));
    };
    // Of a request that is refused for its token, no log has it.
    let told = request.uri().query().filter(|_| http.tokens.is_none());
    done.kept = Kept::begun(http, request.version(), told);
    framing::check(&request).map_err(|error| bad(&error))?;
    let most = connection.waypoint.limits.size(&limits::REQUEST_HEADERS);
    if request.headers().len() > most {
        // Over HTTP/1.1 the parser counts them.
        return Err(Failure::new(Reason::HeadersTooLarge, format!("more than {most} headers")));
    }
    let mut upgrade = upgrade::asked(&mut request, &http.upgrades);
    if upgrade.is_none() && request.method() == Method::CONNECT {
        return Err(bad(&upgrade::refusal(&request)));
    }
    let (mut parts, body) = request.into_parts();
    if let Some(Asked { wanted: Wanted::Protocol(switch), .. }) = &mut upgrade
        && switch.is_extended
    {
        switch.is_key_ours = upgrade::in_http1(&mut parts, rand::random());
        // Logs and metrics say what policy sees.
        done.method.clone_from(&parts.method);
    }
    let is_tunnel = upgrade.as_ref().is_some_and(Asked::is_tunnel);
    framing::remove_named(&mut parts.headers);
    name_client(&connection.named, &mut parts.headers);
    // Before anybody else has a say in the request.
    let remote = connection.remote(&http.proxies, &parts.headers);
    done.remote = remote.filter(|_| http.proxies.hops > 0);
    if let Some(kept) = &mut done.kept {
        // The endpoint gets the one that is told.
        if kept.tells(&REQUEST_ID) {
            identify(&mut parts.headers);
        }
        kept.ask(&parts.headers);
    }
    done.authority = authority(&parts).ok_or_else(|| bad(&"the request's host cannot be read"))?;
    let path = normal_path(&parts, http.merge_slashes).map_err(|error| bad(&error))?;
    let has_path = path.is_some();
    done.path = path.unwrap_or_default();
    let time = SystemTime::now();
    done.trace = http.tracing.as_ref().map(|tracing| Box::new(trace::begin(tracing, &parts.headers, drawn(), time)));
    done.entry = Some(connection.in_flight.request(
        done.started,
        (&parts.method, parts.version, done.is_grpc),
        (&done.authority, &done.path),
        done.trace.as_ref().map(|trace| trace.trace),
    ));
    let forwarded = upgrade.as_ref().map(|_| remote::said(&parts.headers));
    let mut body = Received::new(body);
    if !http.custom.is_empty() {
        let asked = (&*done.authority, has_path.then_some(&*done.path));
        let asking = ask(connection, &config, http, (&mut parts, remote), asked, &mut body);
        response_edits.extend(Box::pin(asking).await?);
    }
    let began = forwarded.map(|forwarded| {
        let custom = http.custom.clone();
        Began { head: parts.clone(), forwarded, authority: done.authority.clone(), time, custom }
    });
    let asked = (&*done.authority, has_path.then_some(&*done.path));
    let claims = permit(connection, http, (&mut parts, remote), asked, time, Some(&mut done.noted))?;
    if let Some(kept) = &mut done.kept {
        kept.permitted(parts.uri.query(), &parts.headers);
    }
    let head = head(&parts, asked, claims.as_ref());
    // As it is for what is counted and balanced by it: nobody gets in for that.
    let client = remote.unwrap_or(connection.client.address.ip());
    let facts = connection.facts_of(head, remote);

    let routes = &http.routes;
    let missing = || Failure::new(Reason::DestinationUnknown, format_args!("no routes {routes:?} yet").to_string());
    let table = config.routes.get(routes).ok_or_else(missing)?;
    let (host, route) = matching::find(table, &facts).ok_or_else(|| unrouted(&head))?;
    done.route.clone_from(&route.name);
    match route.before.cors.as_ref().map(|cors| cors::decide(cors, &head)) {
        Some(Told::Answer(edits)) => {
            response_edits.push(edits);
            return Ok(Answer::Direct(StatusCode::OK, Bytes::new()));
        }
        Some(Told::GoesOn(edits)) => response_edits.push(edits),
        None => {}
    }
    let mut left = None;
    if let (Some(rates), Action::Forward(forward)) = (&http.rates, &route.action) {
        let counted = host.counted.iter().chain(&forward.counted);
        let waypoint = &connection.waypoint;
        if let Some(told) = waypoint.rates.take(&connection.listener, rates, counted, &facts, Instant::now()) {
            response_edits.push(told.headers());
            left = Some(told.left);
            waypoint.telemetry.counted(&told);
            told.refusal().map_or(Ok(()), Err)?;
        }
    }
    let mut told = Edits::default();
    if let (Some(limiter), Action::Forward(forward)) = (&http.limiter, &route.action) {
        let counted = host.counted.iter().chain(&forward.counted);
        done.note(|entry| entry.enter_on(Phase::RateLimiting, &done.route));
        let answer =
            Box::pin(limiter::ask(connection, &config, limiter, limiter::descriptors(counted, &facts))).await?;
        response_edits.extend(answer.standing_beside(left).cloned());
        response_edits.push(answer.response);
        told = answer.request;
        answer.refusal.map_or(Ok(()), Err)?;
    }
    let fault = faults::decide(&route.before.fault, || rand::rng().random_range(0..MILLION));
    if let Some(delay) = fault.delay {
        done.is_delayed = true;
        done.note(|entry| entry.enter_on(Phase::Delayed, &done.route));
        tokio::time::sleep(delay).await;
    }
    if let Some(abort) = fault.abort {
        return Err(abort.into());
    }
    let mut seen = None;
    let mut is_rerouted = false;
    if let (Some(processor), Action::Forward(_)) = (&http.processor, &route.action)
        && let Some(modes) = route.before.seen(processor)
    {
        done.note(|entry| entry.enter_on(Phase::Processing, &done.route));
        let asked = (&*done.authority, has_path.then_some(&*done.path));
        let asking = process(connection, &config, http, (processor, modes), &mut parts, asked, &mut body);
        let (sees, wants_another) = Box::pin(asking).await?;
        // What a connection goes on as has no bodies that could be seen.
        if is_tunnel && sees.has_bodies() {
            let detail = "a processor sees bodies of this route, and of what CONNECT opens there are none to be seen";
            let status = Some(StatusCode::NOT_IMPLEMENTED);
            return Err(Failure { status, ..Failure::new(Reason::ProcessorFailed, detail) });
        }
        upgrade = upgrade.filter(|_| !sees.has_bodies());
        (seen, is_rerouted) = (Some(sees), wants_another);
    }
    let head = self::head(&parts, (&done.authority, has_path.then_some(&*done.path)), claims.as_ref());
    let route = if is_rerouted {
        let facts = connection.facts_of(head, remote);
        matching::find(table, &facts).ok_or_else(|| unrouted(&head))?.1
    } else {
        route
    };
    done.route.clone_from(&route.name);
    response_edits.insert(0, route.response.clone());
    match &route.action {
        Action::Reply { status, body } => Ok(Answer::Direct(*status, body.clone())),
        Action::Redirect(redirect) => {
            Ok(Answer::Redirect(redirect.status, edits::location(redirect, &route.matching.path, &head)))
        }
        Action::Forward(forward) => {
            let path = match &forward.path {
                Some(rewrite) => edits::rewritten(rewrite, &route.matching.path, &done.path),
                None => done.path.clone(),
            };
            let target = match parts.uri.query() {
                // Where the tunnel leads is what policies were asked about.
                _ if is_tunnel => done.authority.clone(),
                Some(query) => format!("{path}?{query}"),
                None => path,
            };
            let host = match &forward.host {
                Some(host) => host.clone(),
                None => HeaderValue::try_from(&done.authority).map_err(|error| bad(&error))?,
            };
            let fresh = || identifier(rand::random());
            let affinity =
                forward.hash.as_ref().map(|by| affinity::decide(by, &head, client, fresh)).unwrap_or_default();
            if let Some(value) = affinity.cookie {
                let put = vec![Put { name: header::SET_COOKIE, value, manner: Manner::Append }];
                response_edits.push(Edits { remove: Vec::new(), put });
            }
            let session = route.before.session.as_ref().map(|kept| (kept, session::wanted(kept, &parts.headers, time)));
            // Over HTTP/1.1 endpoints know what it is to go on as.
            let is_http2 = parts.version == Version::HTTP_2 && (upgrade.is_none() || is_tunnel);
            let mut headers = onward(connection, parts.headers, upgrade.as_ref());
            if let Some(trace) = &done.trace {
                trace.write(&mut headers);
            }
            edits::apply(&told, &mut headers);
            let (method, hash) = (parts.method.clone(), affinity.hash);
            let wanted = session.and_then(|(_, wanted)| wanted);
            let outgoing = Outgoing { method, target, host, headers, is_http2, hash, session: wanted };
            let outgoing = outgoing.edited(&route.request);
            let upgrade = upgrade.zip(began).map(Box::new);
            let answered = forward::send(connection, &config, forward, outgoing, body, upgrade, done).await;
            let answered = match seen {
                None => answered?,
                Some(seen) => {
                    let mut answered = answered.map_err(|failure| seen.failure().unwrap_or(failure))?;
                    Box::pin(seen.answer(&mut answered)).await?;
                    answered
                }
            };
            response_edits.insert(0, answered.edits.clone());
            if let Some((kept, wanted)) = session {
                response_edits.extend(session::told(kept, wanted, answered.endpoint(), time));
            }
            Ok(Answer::Endpoint(answered))
        }
    }
}

/// Asks whoever is to be asked about a request, and changes it as they say. Comes back with the changes of its answer.
///
/// # Errors
/// Why it may not be sent.
async fn ask(
    connection: &Arc<Connection>,
    config: &Config,
    http: &Http,
    (parts, remote): (&mut request::Parts, Option<IpAddr>),
    asked: facts::Asked<'_>,
    body: &mut Received,
) -> Result<Vec<Edits>, Failure> {
    let mut changes = Vec::new();
    for custom in &http.custom {
        // Nobody is told by a client what only we may say of it, and it cannot dodge a question by saying it.
        remove_own(http, &mut parts.headers);
        let head = head(parts, asked, None);
        if !rbac::is_about(&custom.rules, &connection.facts_of(head, remote)) {
            continue;
        }
        let headers = onward(connection, parts.headers.clone(), None);
        let question = (head, &headers, parts.version);
        let answer = authorizer::ask(connection, config, custom, question, body).await?;
        if let Some(id) = headers.get(&REQUEST_ID) {
            // The same that the authorizer was told.
            parts.headers.insert(REQUEST_ID, id.clone());
        }
        edits::apply(&answer.request, &mut parts.headers);
        changes.push(answer.response);
    }
    Ok(changes)
}

/// Has a processor see a request, and changes it as it says. Comes back with who sees the rest, and whether the route is to be
/// chosen again.
///
/// # Errors
/// Why it is not sent on.
async fn process(
    connection: &Arc<Connection>,
    config: &Arc<Config>,
    http: &Http,
    (processor, modes): (&Arc<Processor>, Modes),
    parts: &mut request::Parts,
    asked: facts::Asked<'_>,
    body: &mut Received,
) -> Result<(Seen, bool), Failure> {
    let headers = onward(connection, parts.headers.clone(), None);
    if let Some(id) = headers.get(&REQUEST_ID) {
        // The same that the processor is told.
        parts.headers.insert(REQUEST_ID, id.clone());
    }
    let shown = processor::shown(&head(parts, asked, None), &headers);
    let own = http.tokens.iter().flat_map(|tokens| tokens.own_headers()).cloned().collect();
    let mut seen = Seen::begin(connection, config, (processor, modes), own);
    let is_rerouted = seen.request(shown, &mut parts.headers, body).await?;
    Ok((seen, is_rerouted))
}

/// Removes the headers that say what tokens claim, which only we write.
pub(crate) fn remove_own(http: &Http, headers: &mut HeaderMap) {
    for name in http.tokens.iter().flat_map(|tokens| tokens.own_headers()) {
        headers.remove(name);
    }
}

/// Whether a request may be sent that comes from `remote`, and what its token claims. Afterwards the headers that say so are ours.
/// What policies say that decide nothing is told to who asks for it.
///
/// # Errors
/// Why not.
pub(crate) fn permit(
    connection: &Connection,
    http: &Http,
    (parts, remote): (&mut request::Parts, Option<IpAddr>),
    asked: facts::Asked<'_>,
    now: SystemTime,
    noted: Option<&mut Option<Box<Noted>>>,
) -> Result<Option<Claims>, Failure> {
    let claims = match &http.tokens {
        Some(tokens) => tokens::check(tokens, parts, now)?,
        None => None,
    };
    let facts = connection.facts_of(head(parts, asked, claims.as_ref()), remote);
    if let Some(noted) = noted {
        *noted = connection.noted(&http.silent, &http.policies, &facts);
    }
    rbac::judge(&http.policies, &facts).map_err(|denial| denied(&denial))?;
    Ok(claims)
}

/// No route is for it.
fn unrouted(head: &Head<'_>) -> Failure {
    Failure::new(Reason::RouteNotFound, format_args!("{} {}", head.method, head.path.unwrap_or(head.authority)))
}

/// What is known of a request for this host and normalised path.
pub(crate) fn head<'a>(
    parts: &'a request::Parts,
    (authority, path): facts::Asked<'a>,
    claims: Option<&'a Claims>,
) -> Head<'a> {
    let (method, query) = (parts.method.as_str(), parts.uri.query());
    Head { method, authority, path, query, headers: &parts.headers, claims }
}

/// The path of a request as everybody decides about it; none of CONNECT.
///
/// # Errors
/// When it has no such form.
pub(crate) fn normal_path(parts: &request::Parts, merge_slashes: bool) -> Result<Option<String>, BadPath> {
    if parts.method == Method::CONNECT {
        return Ok(None);
    }
    path::normalise(parts.uri.path(), merge_slashes).map(|path| Some(path.into_owned()))
}

/// The host that was asked for: of the request's target before the header (RFC 9112 §3.2.2).
#[must_use]
pub fn authority(parts: &request::Parts) -> Option<String> {
    if let Some(authority) = parts.uri.authority() {
        // Names of users are no part of it.
        let text = authority.as_str();
        return Some(text.rsplit_once('@').map_or(text, |(_, host)| host).to_owned());
    }
    let host = parts.headers.get(header::HOST)?.to_str().ok()?;
    let odd = |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'/' | b'?' | b'#' | b'@' | b'\\' | b',');
    (!host.is_empty() && !host.bytes().any(odd)).then(|| host.to_owned())
}

/// Whom the client has proved to be, said by us alone: before any policy or route reads it, and once more when the request goes
/// on, as what tokens claim is written in between.
pub(crate) fn name_client(named: &Named, headers: &mut HeaderMap) {
    match &named.certificate {
        Some(line) => drop(headers.insert(CLIENT_CERTIFICATE, line.clone())),
        None => drop(headers.remove(&CLIENT_CERTIFICATE)),
    }
}

/// The headers as the endpoint gets them: where the client is, and what we say besides.
fn onward(connection: &Connection, mut headers: HeaderMap, upgrade: Option<&Asked>) -> HeaderMap {
    match upgrade.map(|upgrade| &upgrade.wanted) {
        None => framing::remove_hop_by_hop(&mut headers),
        Some(Wanted::Protocol(switch)) => {
            framing::remove_hop_by_hop(&mut headers);
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, switch.protocols.clone());
        }
        Some(Wanted::Tunnel) => {
            framing::remove_hop_by_hop_before_proxy(&mut headers);
            headers.remove(header::CONTENT_LENGTH);
        }
    }
    headers.remove(header::HOST);
    name_client(&connection.named, &mut headers);
    let line = match facts::joined(&headers, &FORWARDED_FOR) {
        None => connection.named.address.clone(),
        // What of it cannot be said is left out, with the addresses before it.
        Some(before) => {
            HeaderValue::try_from(format!("{before},{}", connection.client.address.ip().to_canonical())).ok()
        }
    };
    headers.remove(&FORWARDED_FOR);
    headers.extend(line.map(|line| (FORWARDED_FOR, line)));
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    identify(&mut headers);
    headers
}

/// Gives a request an identifier that has none.
fn identify(headers: &mut HeaderMap) {
    if !headers.contains_key(&REQUEST_ID) {
        headers.extend(HeaderValue::try_from(identifier(rand::random())).ok().map(|id| (REQUEST_ID, id)));
    }
}

/// What a span needs of chance.
fn drawn() -> trace::Drawn {
    let mut random = rand::rng();
    trace::Drawn { trace: random.random(), span: random.random(), chance: random.random_range(0..MILLION) }
}

/// A random UUID (RFC 9562 §5.4).
fn identifier(random: u128) -> String {
    let random = (random & !(0xf << 76) & !(0b11 << 62)) | (4 << 76) | (0b10 << 62);
    let part = |shift: u32, bits: u32| (random >> shift) & ((1 << bits) - 1);
    let (time, middle, version) = (part(96, 32), part(80, 16), part(64, 16));
    let (variant, node) = (part(48, 16), part(0, 48));
    format!("{time:08x}-{middle:04x}-{version:04x}-{variant:04x}-{node:012x}")
}

/// Methods whose repetition changes nothing (RFC 9110 §9.2.2).
#[must_use]
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_random_uuids() {
        assert_eq!(identifier(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(identifier(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
