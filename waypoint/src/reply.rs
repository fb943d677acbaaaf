//! Answers of our own: each says why, to whoever reads it and to programs.

use bytes::Bytes;
use fairway_core::io::hbone::headers;
use fairway_core::reason::Reason;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::body::{Body, Ending};
use crate::failure::Failure;
use crate::grpc;

/// What Envoy says of a request that policy denies, and users know.
const DENIED: &str = "RBAC: access denied";

/// The answer to a request that was not done for `failure`.
#[must_use]
pub fn failed(failure: &Failure, mut ending: Ending) -> Response<Body> {
    let status = failure.status();
    let text = match failure.reason {
        Reason::PolicyDenied | Reason::PolicyNotAllowed => DENIED.to_owned(),
        reason => format!("{} ({reason})\n", reason.message()),
    };
    let done = &mut ending.done;
    (done.status, done.reason, done.detail) = (status.as_u16(), failure.reason, Some(failure.detail.clone()));
    let is_grpc = done.is_grpc;
    let mut response = match &failure.answer {
        _ if is_grpc => in_grpc(failure.grpc_status.unwrap_or_else(|| grpc::code(status)), &text, ending),
        Some(answer) => plain(status, answer.body.clone(), ending),
        None => plain(status, Bytes::from(text), ending),
    };
    if let Some(answer) = &failure.answer {
        // What gRPC's clients read is ours.
        let is_theirs = |name: &HeaderName| !is_grpc || *name != header::CONTENT_TYPE;
        for name in answer.headers.keys().filter(|name| is_theirs(name)) {
            response.headers_mut().remove(name);
            for value in answer.headers.get_all(name) {
                response.headers_mut().append(name.clone(), value.clone());
            }
        }
    }
    if failure.reason == Reason::TokenInvalid {
        // RFC 6750 §3; what is wrong is one of our own sentences, without quotes in it.
        let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{}\"", failure.detail);
        let challenge = HeaderValue::try_from(challenge).ok();
        response.headers_mut().extend(challenge.map(|challenge| (header::WWW_AUTHENTICATE, challenge)));
    }
    say(failure.reason, &mut response);
    response
}

/// Says that an answer is ours, and why (RFC 9209).
fn say(reason: Reason, response: &mut Response<Body>) {
    response.headers_mut().extend(headers::proxy_status(reason).map(|line| (headers::PROXY_STATUS, line)));
}

/// The answer that a route is.
#[must_use]
pub fn direct(status: StatusCode, text: Bytes, mut ending: Ending) -> Response<Body> {
    let refuses = status.is_server_error();
    ending.done.status = status.as_u16();
    let reason = if refuses { Reason::RouteRefuses } else { Reason::RouteAnswered };
    ending.done.reason = reason;
    let mut response = match refuses && ending.done.is_grpc {
        true if text.is_empty() => in_grpc(grpc::code(status), Reason::RouteRefuses.message(), ending),
        true => in_grpc(grpc::code(status), &String::from_utf8_lossy(&text), ending),
        false => plain(status, text, ending),
    };
    say(reason, &mut response);
    response
}

/// The answer that sends the client elsewhere.
#[must_use]
pub fn redirect(status: StatusCode, location: &str, mut ending: Ending) -> Response<Body> {
    (ending.done.status, ending.done.reason) = (status.as_u16(), Reason::RouteAnswered);
    let mut response = Response::new(Body::ours(Bytes::new(), Some(ending)));
    *response.status_mut() = status;
    say(Reason::RouteAnswered, &mut response);
    response.headers_mut().extend(HeaderValue::try_from(location).ok().map(|location| (header::LOCATION, location)));
    response
}

fn plain(status: StatusCode, text: Bytes, ending: Ending) -> Response<Body> {
    let has_text = !text.is_empty();
    let mut response = Response::new(Body::ours(text, Some(ending)));
    *response.status_mut() = status;
    if has_text {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

/// What gRPC's clients understand: the status among the headers, and nothing else.
fn in_grpc(code: u32, text: &str, mut ending: Ending) -> Response<Body> {
    ending.done.grpc_status = Some(code);
    ending.done.status = StatusCode::OK.as_u16();
    let mut response = Response::new(Body::ours(Bytes::new(), Some(ending)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(code));
    headers.extend(
        HeaderValue::try_from(text.trim_end()).ok().map(|text| (http::HeaderName::from_static("grpc-message"), text)),
    );
    response
}
