//! `envoy.service.auth.v3.Authorization`: one unary call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use fairway_proto::envoy::core::socket_address::PortSpecifier;
use fairway_proto::envoy::core::{Address, SocketAddress, address::Address as Kind};
use fairway_proto::external_auth::attribute_context::{HttpRequest, Peer, Request};
use fairway_proto::external_auth::check_response::HttpResponse;
use fairway_proto::external_auth::{AttributeContext, CheckRequest, CheckResponse, HeaderOption};
use http::header::{self, HeaderMap, HeaderName, InvalidHeaderValue};
use http::{StatusCode, Version};

use super::{Changes, Question, Verdict, is_free, put, shown, unusable};
use crate::call::{Call, CallError};
use crate::config::{Authorizer, Config, Edits, Header, Manner, Put};
use crate::facts;
use crate::failure::{Failure, Written};
use crate::stream::Connection;

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";

pub(super) async fn ask(
    connection: &Arc<Connection>,
    config: &Config,
    authorizer: &Authorizer,
    question: &Question<'_>,
) -> Result<Verdict, Failure> {
    let call = Call { cluster: &authorizer.cluster, method: METHOD, timeout: authorizer.timeout, may_repeat: true };
    let answered = call.unary(connection, config, &check(connection, authorizer, question)).await;
    match answered {
        Ok(answer) => verdict(answer),
        Err(CallError::Unanswered(failure)) => Err(failure),
        Err(error @ CallError::Unusable(_)) => Err(unusable(error)),
    }
}

fn check(connection: &Connection, authorizer: &Authorizer, question: &Question<'_>) -> CheckRequest {
    let (client, head) = (&connection.client, &question.head);
    let peer = |address: std::net::SocketAddr, principal: String| {
        let port_specifier = Some(PortSpecifier::PortValue(u32::from(address.port())));
        let socket = SocketAddress { address: address.ip().to_canonical().to_string(), port_specifier };
        Some(Peer { address: Some(Address { address: Some(Kind::SocketAddress(socket)) }), principal })
    };
    let said = |name: &Header| head.header(name).unwrap_or_default().into_owned();
    let names = shown(authorizer, question).map(|(name, _)| name);
    let joined = |name: &HeaderName| Some((name.to_string(), facts::joined(question.headers, name)?.into_owned()));
    let mut headers: BTreeMap<String, String> = names.filter_map(joined).collect();
    for (name, header) in [
        (":method", Header::Method),
        (":path", Header::Path),
        (":authority", Header::Authority),
        (":scheme", Header::Scheme),
    ] {
        headers.extend(head.header(&header).map(|value| (name.to_owned(), value.into_owned())));
    }
    let body = question.body.as_ref().map(|body| body.bytes.to_vec()).unwrap_or_default();
    let as_bytes = authorizer.body.is_some_and(|shown| shown.as_bytes);
    let (text, raw_body) =
        if as_bytes { (String::new(), body) } else { (String::from_utf8_lossy(&body).into_owned(), Vec::new()) };
    let length = question.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let id = question.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let http = HttpRequest {
        id: id.to_owned(),
        method: head.method.to_owned(),
        headers,
        path: said(&Header::Path),
        host: head.authority.to_owned(),
        scheme: said(&Header::Scheme),
        size: length.unwrap_or(-1),
        protocol: if question.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" }.to_owned(),
        body: text,
        raw_body,
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: peer(client.address, client.identity.to_string()),
            destination: peer(connection.bound.address(), connection.local.identity().to_string()),
            request: Some(Request { time: Some(SystemTime::now().into()), http: Some(http) }),
        }),
    }
}

/// What an answer means. Whatever is not a clear yes is a no.
fn verdict(answer: CheckResponse) -> Result<Verdict, Failure> {
    let code = answer.status.map(|status| status.code);
    match (answer.http_response, code) {
        (Some(HttpResponse::OkResponse(passes)), Some(0)) => {
            let written = |headers: &[HeaderOption], otherwise| {
                all(headers, otherwise).collect::<Result<Vec<_>, _>>().map_err(unusable)
            };
            let remove = passes.headers_to_remove.iter();
            let remove = remove.filter_map(|name| HeaderName::try_from(name).ok()).filter(is_free);
            let request = Edits { remove: remove.collect(), put: written(&passes.headers, Manner::Overwrite)? };
            let put = written(&passes.response_headers_to_add, Manner::Append)?;
            Ok(Verdict::Passes(Changes { request, response: Edits { remove: Vec::new(), put } }))
        }
        (None, Some(0)) => Ok(Verdict::Passes(Changes::default())),
        (Some(HttpResponse::DeniedResponse(refuses)), _) => {
            let status = refuses.status.and_then(|status| u16::try_from(status.code).ok());
            let status = status.and_then(|status| StatusCode::from_u16(status).ok());
            // An answer of 1xx would be none.
            let status = status.filter(|status| !status.is_informational()).unwrap_or(StatusCode::FORBIDDEN);
            // What cannot be written is left out: it is a no in any case.
            let lines = all(&refuses.headers, Manner::Append).flatten();
            let headers: HeaderMap = lines.map(|Put { name, value, .. }| (name, value)).collect();
            Ok(Verdict::Refuses(status, Written { headers, body: refuses.body.into() }))
        }
        (_, Some(_)) => Ok(Verdict::Refuses(StatusCode::FORBIDDEN, Written::default())),
        (_, None) => Err(unusable("the authorizer's answer has no status")),
    }
}

fn all(headers: &[HeaderOption], otherwise: Manner) -> impl Iterator<Item = Result<Put, InvalidHeaderValue>> {
    headers.iter().filter_map(move |option| {
        let manner = match option.append {
            Some(true) => Manner::Append,
            Some(false) => Manner::Overwrite,
            None => otherwise,
        };
        let header = option.header.as_ref()?;
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { header.raw_value.as_slice() };
        put(&header.key, value, manner)
    })
}

#[cfg(test)]
mod tests {
    use fairway_proto::envoy::fraction::HttpStatus;
    use fairway_proto::external_auth::{DeniedHttpResponse, HeaderLine, OkHttpResponse};
    use fairway_proto::rpc_status::Status;

    use super::*;

    fn line(key: &str, value: &str) -> HeaderOption {
        let header = HeaderLine { key: key.into(), value: value.into(), raw_value: Vec::new() };
        HeaderOption { header: Some(header), append: None }
    }

    fn answer(code: Option<i32>, http_response: Option<HttpResponse>) -> CheckResponse {
        CheckResponse { status: code.map(|code| Status { code, ..Status::default() }), http_response }
    }

    #[test]
    fn only_a_clear_yes_lets_a_request_pass() {
        let yes = || Some(HttpResponse::OkResponse(OkHttpResponse::default()));
        let no = |code| {
            let status = Some(HttpStatus { code });
            Some(HttpResponse::DeniedResponse(DeniedHttpResponse { status, ..Default::default() }))
        };
        let rows = [
            ("yes", answer(Some(0), None), Some(None)),
            ("yes, with changes", answer(Some(0), yes()), Some(None)),
            ("no", answer(Some(7), None), Some(Some(403))),
            ("no, with a status", answer(Some(16), no(401)), Some(Some(401))),
            ("no, with an impossible status", answer(Some(7), no(100)), Some(Some(403))),
            ("no in spite of its status", answer(Some(0), no(302)), Some(Some(302))),
            ("yes in spite of its status", answer(Some(7), yes()), Some(Some(403))),
            ("no without a status of its own", answer(None, no(401)), Some(Some(401))),
            ("yes without a status of its own", answer(None, yes()), None),
            ("neither", answer(None, None), None),
        ];
        for (name, answer, expected) in rows {
            let told = verdict(answer).ok().map(|verdict| match verdict {
                Verdict::Passes(_) => None,
                Verdict::Refuses(status, _) => Some(status.as_u16()),
            });
            assert_eq!(told, expected, "{name}");
        }
    }

    #[test]
    fn what_frames_a_message_is_not_the_authorizers_to_write() {
        let passes = OkHttpResponse {
            headers: vec![line("x-user", "a"), line("Host", "evil"), line("content-length", "3"), line(":path", "/")],
            headers_to_remove: vec!["x-secret".into(), "transfer-encoding".into(), "bad name".into()],
            response_headers_to_add: vec![line("x-told", "b"), line("connection", "close")],
        };
        let verdict = verdict(answer(Some(0), Some(HttpResponse::OkResponse(passes)))).unwrap();
        let Verdict::Passes(Changes { request, response }) = verdict else { panic!("{verdict:?}") };
        let names = |edits: &Edits| edits.put.iter().map(|put| put.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&request), ["x-user"]);
        assert_eq!(request.remove, [HeaderName::from_static("x-secret")]);
        assert_eq!(names(&response), ["x-told"]);
    }

    #[test]
    fn a_yes_with_a_header_that_cannot_be_written_is_none_and_never_fails_open() {
        let raw = |value: &[u8]| {
            let header = HeaderLine { key: "x-user".into(), value: String::new(), raw_value: value.to_vec() };
            HeaderOption { header: Some(header), append: None }
        };
        let yes = |headers| {
            let passes = OkHttpResponse { headers, ..OkHttpResponse::default() };
            verdict(answer(Some(0), Some(HttpResponse::OkResponse(passes))))
        };
        let Ok(Verdict::Passes(changes)) = yes(vec![raw(b"\xff")]) else { panic!("bytes are a value") };
        assert_eq!(changes.request.put[0].value.as_bytes(), b"\xff");
        for header in [line("x-user", "a\nb"), raw(b"a\0")] {
            let failure = yes(vec![header]).unwrap_err();
            assert!(!crate::authorizer::is_no_answer(&failure), "{failure:?}");
        }
        let refuses = DeniedHttpResponse { headers: vec![line("x-why", "a\nb")], ..DeniedHttpResponse::default() };
        let no = verdict(answer(Some(7), Some(HttpResponse::DeniedResponse(refuses)))).unwrap();
        assert_eq!(no, Verdict::Refuses(StatusCode::FORBIDDEN, Written::default()));
    }
}
