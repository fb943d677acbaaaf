//! What routes have done besides sending requests somewhere: filters of the listener that each route tells what to do.

use std::collections::BTreeMap;

use fairway_proto::envoy::core::TypedExtensionConfig;
use fairway_proto::envoy::cors::{Cors as CorsFilter, CorsPolicy};
use fairway_proto::envoy::fault::fault_abort::ErrorType;
use fairway_proto::envoy::fault::{FaultAbort, HttpFault};
use fairway_proto::envoy::fault_delay::{FaultDelay, fault_delay};
use fairway_proto::envoy::http_connection_manager::HttpFilter;
use fairway_proto::envoy::http_cookie::Cookie;
use fairway_proto::envoy::session_cookie::CookieBasedSessionState;
use fairway_proto::envoy::session_header::HeaderBasedSessionState;
use fairway_proto::envoy::stateful_session::stateful_session_per_route::Override;
use fairway_proto::envoy::stateful_session::{StatefulSession, StatefulSessionPerRoute};
use prost_types::Any;

use super::super::model::{Abort, Action, Cors, Entry, Fault, Kept, Rule, Session};
use super::listener::http_filter;
use super::route::{millionths, text};
use super::{any, duration};

const CORS: &str = "envoy.filters.http.cors";
const CORS_FILTER: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors";
const CORS_POLICY: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy";
const FAULT: &str = "envoy.filters.http.fault";
const HTTP_FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
const SESSION: &str = "envoy.filters.http.stateful_session";
const SESSION_FILTER: &str = "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession";
const SESSION_PER_ROUTE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute";
/// Before the kind of what keeps a session.
const SESSION_STATES: &str = "type.googleapis.com/envoy.extensions.http.stateful_session";

/// The filters that these routes need, in their order, with `rates` in its place: browsers may read that there were too many
/// requests. Clients of gRPC know no CORS, and keep no cookies.
pub(super) fn filters<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    rates: impl IntoIterator<Item = HttpFilter>,
    is_grpc: bool,
) -> Vec<HttpFilter> {
    let (mut has_cors, mut has_fault, mut has_session) = (false, false, false);
    for entry in entries {
        has_cors |= entry.rule.cors.is_some() && !is_grpc;
        has_fault |= entry.rule.fault.is_some();
        has_session |= session(&entry.rule).is_some() && !is_grpc;
    }
    let cors = has_cors.then(|| http_filter(CORS, any(CORS_FILTER, &CorsFilter {})));
    let fault = has_fault.then(|| http_filter(FAULT, any(HTTP_FAULT, &HttpFault::default())));
    let session = has_session.then(|| http_filter(SESSION, any(SESSION_FILTER, &StatefulSession::default())));
    cors.into_iter().chain(rates).chain(fault).chain(session).collect()
}

/// What one route tells those filters.
pub(super) fn settings(rule: &Rule, is_grpc: bool) -> BTreeMap<String, Any> {
    let cors = rule.cors.as_ref().filter(|_| !is_grpc).map(|cors| (CORS.to_owned(), any(CORS_POLICY, &policy(cors))));
    let fault = rule.fault.as_ref().map(|fault| (FAULT.to_owned(), any(HTTP_FAULT, &failure(fault))));
    let session = session(rule).filter(|_| !is_grpc);
    let session = session.map(|session| (SESSION.to_owned(), any(SESSION_PER_ROUTE, &kept(session))));
    cors.into_iter().chain(fault).chain(session).collect()
}

fn session(rule: &Rule) -> Option<&Session> {
    match &rule.action {
        Action::Forward(forward) => forward.session.as_ref(),
        Action::Redirect(_) | Action::Reply { .. } | Action::Refuse => None,
    }
}

/// Never strict: who has lost an endpoint is better served by another than by none (GEP-1619).
fn kept(session: &Session) -> StatefulSessionPerRoute {
    let name = session.name.clone();
    let (kind, state) = match session.kept {
        Kept::Cookie { longest } => {
            // For all paths: the route says which requests it is about.
            let cookie = Cookie { name, ttl: longest.map(duration), path: "/".to_owned() };
            let state = CookieBasedSessionState { cookie: Some(cookie) };
            ("cookie", any(&format!("{SESSION_STATES}.cookie.v3.CookieBasedSessionState"), &state))
        }
        Kept::Header => {
            let state = HeaderBasedSessionState { name };
            ("header", any(&format!("{SESSION_STATES}.header.v3.HeaderBasedSessionState"), &state))
        }
    };
    let name = format!("envoy.http.stateful_session.{kind}");
    let state = TypedExtensionConfig { name, typed_config: Some(state) };
    let session = StatefulSession { session_state: Some(state), strict: false };
    StatefulSessionPerRoute { r#override: Some(Override::StatefulSession(session)) }
}

fn policy(cors: &Cors) -> CorsPolicy {
    CorsPolicy {
        allow_origin_string_match: cors.origins.iter().map(text).collect(),
        allow_methods: cors.methods.join(","),
        allow_headers: cors.headers.join(","),
        expose_headers: cors.exposed.join(","),
        max_age: cors.max_age.map(|age| age.as_secs().to_string()).unwrap_or_default(),
        allow_credentials: Some(cors.has_credentials),
        forward_not_matching_preflights: Some(cors.passes_others),
    }
}

fn failure(fault: &Fault) -> HttpFault {
    HttpFault {
        delay: fault.delay.map(|(time, share)| FaultDelay {
            kind: Some(fault_delay::Kind::FixedDelay(duration(time))),
            percentage: Some(millionths(share)),
        }),
        abort: fault.abort.map(|(kind, share)| FaultAbort {
            error_type: Some(match kind {
                Abort::Http(status) => ErrorType::HttpStatus(u32::from(status)),
                Abort::Grpc(status) => ErrorType::GrpcStatus(status),
            }),
            percentage: Some(millionths(share)),
        }),
    }
}
