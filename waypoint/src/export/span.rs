//! A request as a span, in the words of OpenTelemetry's semantic conventions for HTTP where they have some.

use std::time::SystemTime;

use fairway_core::ident::Identity;
use fairway_core::reason::Reason;
use fairway_proto::otlp::common::KeyValue;
use fairway_proto::otlp::trace::span::SpanKind;
use fairway_proto::otlp::trace::status::StatusCode;
use fairway_proto::otlp::trace::{Span, Status};
use http::Method;

use super::attribute::{number, text};
use super::nanoseconds;
use crate::stream::Connection;
use crate::telemetry::{Done, flags};
use crate::trace::{Trace, shortened};

/// Flags of a span (OTLP 1.1): the first of W3C's, whether it is known that the parent is somebody else's, and whether it is.
const SAMPLED: u32 = 1;
const KNOWN: u32 = 0x100;
const REMOTE: u32 = 0x200;
/// Statuses of gRPC that a server is to blame for (semantic conventions for gRPC).
const GRPC_ERRORS: [u32; 6] = [2, 4, 12, 13, 14, 15];

/// The span of a request that has ended.
pub(super) fn of(connection: &Connection, done: &Done, trace: &Trace) -> Span {
    let begun = trace.begun.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let remote = if trace.parent.is_some() { REMOTE } else { 0 };
    Span {
        trace_id: trace.trace.to_be_bytes().to_vec(),
        span_id: trace.span.to_be_bytes().to_vec(),
        trace_state: trace.state.clone(),
        parent_span_id: trace.parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default(),
        // As Istio calls them: few names, as OpenTelemetry wants it.
        name: format!("{}/*", connection.listener),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: nanoseconds(begun),
        end_time_unix_nano: nanoseconds(begun + done.started.elapsed()),
        attributes: attributes(connection, done, trace),
        status: Some(status(done)),
        flags: SAMPLED | KNOWN | remote,
    }
}

/// Whether somebody has to look into it: what is the client's own fault is no error of a server.
fn status(done: &Done) -> Status {
    let is_error = done.status == 0
        || done.status >= 500
        || done.grpc_status.is_some_and(|status| GRPC_ERRORS.contains(&status))
        || matches!(done.reason, Reason::ResetByPeer | Reason::TimedOut);
    let code = if is_error { StatusCode::Error } else { StatusCode::Unset };
    let message = done.detail.as_deref().filter(|_| is_error).map(shortened).unwrap_or_default();
    Status { message, code: code.into() }
}

fn attributes(connection: &Connection, done: &Done, trace: &Trace) -> Vec<KeyValue> {
    let failed = !matches!(done.reason, Reason::Ok | Reason::RouteAnswered);
    let (method, original) = method(&done.method);
    let texts = [
        ("http.request.method", Some(method)),
        ("http.request.method_original", original),
        ("url.scheme", Some("http".to_owned())),
        ("url.path", Some(shortened(&done.path))),
        ("server.address", Some(shortened(&done.authority))),
        ("http.route", Some(done.route.clone()).filter(|route| !route.is_empty())),
        ("client.address", Some(connection.client.address.ip().to_canonical().to_string())),
        ("source.principal", Some(connection.client.identity.to_string())),
        ("destination.service", connection.bound.service().map(|service| service.hostname().to_owned())),
        ("destination.workload", done.workload.as_deref().map(|workload| workload.name.to_string())),
        ("destination.principal", done.identity.as_ref().map(Identity::to_string)),
        ("upstream.address", done.endpoint.map(|endpoint| endpoint.to_string())),
        ("response_flags", Some(flags(done).to_owned())),
        ("error.type", failed.then(|| done.reason.label().to_owned())),
    ];
    let numbers = [
        ("http.response.status_code", (done.status != 0).then(|| u64::from(done.status))),
        ("rpc.grpc.status_code", done.grpc_status.map(u64::from)),
        ("http.request.resend_count", (done.retries > 0).then(|| u64::from(done.retries))),
        ("http.request.body.size", Some(done.received)),
        ("http.response.body.size", Some(done.sent)),
    ];
    let texts = texts.into_iter().filter_map(|(name, value)| Some(text(name, &value?)));
    let numbers = numbers.into_iter().filter_map(|(name, value)| Some(number(name, value?)));
    let tags = trace.tags.iter().map(|(name, value)| text(name, value));
    texts.chain(numbers).chain(tags).collect()
}

/// The method, and what it was if it is none of those that are known: a client may make up any (semantic conventions for HTTP,
/// `http.request.method`).
fn method(method: &Method) -> (String, Option<String>) {
    let is_known = matches!(
        *method,
        Method::CONNECT
            | Method::DELETE
            | Method::GET
            | Method::HEAD
            | Method::OPTIONS
            | Method::PATCH
            | Method::POST
            | Method::PUT
            | Method::TRACE
    );
    if is_known {
        return (method.as_str().to_owned(), None);
    }
    ("_OTHER".to_owned(), Some(shortened(method.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::TEXT_BYTES;

    #[test]
    fn methods_that_clients_make_up_are_one_and_no_longer_than_other_texts() {
        let long = "X".repeat(TEXT_BYTES + 1);
        let rows = [
            ("GET", "GET", None),
            ("PATCH", "PATCH", None),
            ("get", "_OTHER", Some("get")),
            ("PROPFIND", "_OTHER", Some("PROPFIND")),
            (long.as_str(), "_OTHER", long.get(1..)),
        ];
        for (said, expected, original) in rows {
            let told = method(&Method::from_bytes(said.as_bytes()).unwrap());
            assert_eq!((told.0.as_str(), told.1.as_deref()), (expected, original), "{said}");
        }
    }

    #[test]
    fn what_went_wrong_is_no_longer_than_other_texts() {
        let mut done = Done::begun(Method::GET, "/".to_owned(), false);
        (done.status, done.detail) = (503, Some("x".repeat(TEXT_BYTES + 1)));
        assert_eq!(status(&done).message.len(), TEXT_BYTES);
    }
}
