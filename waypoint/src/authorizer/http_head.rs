//! An authorizer that is sent the head of the request itself: 200 lets it pass, 500 and above is no answer, and any other
//! answer is the client's.

use std::sync::Arc;

use fairway_core::reason::Reason;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::{Changes, Question, Verdict, is_among, is_free, shown, unusable};
use crate::config::{Authorizer, Config, Edits, Header, Manner, Put, Speech};
use crate::failure::{Failure, Written};
use crate::forward::{self, Answer, Outgoing};
use crate::stream::Connection;

pub(super) async fn ask(
    connection: &Arc<Connection>,
    config: &Config,
    authorizer: &Authorizer,
    question: &Question<'_>,
) -> Result<Verdict, Failure> {
    let Speech::Http { prefix, add, .. } = &authorizer.speech else {
        return Err(Failure::new(Reason::Internal, "an authorizer that speaks gRPC"));
    };
    let Some(path) = question.head.header(&Header::Path) else {
        // As CONNECT it would open a tunnel to the authorizer, as anything else it would be another question.
        return Err(unusable(
            "authorizers over HTTP cannot be asked about CONNECT, which has no path; over gRPC they can",
        ));
    };
    let body = question.body.as_ref().map(|body| body.bytes.clone()).unwrap_or_default();
    let mut headers = HeaderMap::new();
    for (name, value) in shown(authorizer, question).filter(|(name, _)| is_free(name)) {
        headers.append(name.clone(), value.clone());
    }
    if let Some(value) = question.headers.get(header::AUTHORIZATION) {
        headers.insert(header::AUTHORIZATION, value.clone());
    }
    for (name, value) in add {
        headers.insert(name.clone(), value.clone());
    }
    let bad = |error: http::header::InvalidHeaderValue| Failure::new(Reason::BadRequest, error);
    let method = Method::from_bytes(question.head.method.as_bytes());
    let outgoing = Outgoing {
        method: method.map_err(|error| Failure::new(Reason::BadRequest, error))?,
        target: format!("{prefix}{path}"),
        host: HeaderValue::try_from(question.head.authority).map_err(bad)?,
        headers,
        is_http2: false,
        hash: None,
        session: None,
    };
    // To ask twice is to ask once.
    let (cluster, patience) = (&authorizer.cluster, authorizer.timeout);
    let answer = forward::ask(connection, config, cluster, outgoing, body, patience, true).await?;
    verdict(authorizer, answer)
}

fn verdict(authorizer: &Authorizer, answer: Answer) -> Result<Verdict, Failure> {
    let Speech::Http { onward, refused, passed, .. } = &authorizer.speech else {
        return Err(Failure::new(Reason::Internal, "an authorizer that speaks gRPC"));
    };
    let Answer { status, headers, body, .. } = answer;
    if status.is_server_error() || status.is_informational() {
        return Err(Failure::new(Reason::UpstreamConnectFailed, format!("the authorizer answered with {status}")));
    }
    let some = |is_meant: &dyn Fn(&HeaderName) -> bool| -> Vec<(HeaderName, HeaderValue)> {
        let lines = headers.iter().filter(|(name, _)| is_free(name) && is_meant(name));
        lines.map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    if status == StatusCode::OK {
        let edits = |lines: Vec<(HeaderName, HeaderValue)>, manner| Edits {
            remove: Vec::new(),
            put: lines.into_iter().map(|(name, value)| Put { name, value, manner }).collect(),
        };
        let request = edits(some(&|name| is_among(onward, name)), Manner::Overwrite);
        // Beside the endpoint's own: several cookies are several lines.
        let response = edits(some(&|name| is_among(passed, name)), Manner::Append);
        return Ok(Verdict::Passes(Changes { request, response }));
    }
    // What a client needs to be let in or sent elsewhere it always gets, as with Envoy.
    let is_needed = |name: &HeaderName| [header::WWW_AUTHENTICATE, header::LOCATION].contains(name);
    let is_told = |name: &HeaderName| is_needed(name) || refused.as_ref().is_none_or(|texts| is_among(texts, name));
    let headers = some(&is_told).into_iter().fold(HeaderMap::new(), |mut all, (name, value)| {
        all.append(name, value);
        all
    });
    // It is a no even where what it says cannot be read.
    Ok(Verdict::Refuses(status, Written { headers, body: body.unwrap_or_default() }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::config::Text;
    use crate::forward::Unread;

    fn authorizer() -> Authorizer {
        let speech = Speech::Http {
            prefix: String::new(),
            add: Vec::new(),
            onward: vec![Text::Prefix("x-user".into())],
            refused: Some(vec![Text::Exact("x-why".into())]),
            passed: vec![Text::Exact("x-told".into())],
        };
        let (timeout, status_on_error) = (Duration::from_secs(1), StatusCode::FORBIDDEN);
        Authorizer {
            cluster: "a".into(),
            speech,
            timeout,
            fails_open: false,
            status_on_error,
            body: None,
            headers: None,
        }
    }

    #[test]
    fn every_line_for_the_client_comes_beside_the_endpoints_own() {
        let told = |value| (HeaderName::from_static("x-told"), HeaderValue::from_static(value));
        let mut headers = HeaderMap::new();
        for (name, value) in [told("a"), told("b")] {
            headers.append(name, value);
        }
        let answer = Answer { status: StatusCode::OK, headers, body: Ok(Bytes::new()), trailers: HeaderMap::new() };
        let Ok(Verdict::Passes(changes)) = verdict(&authorizer(), answer) else { panic!("200 passes") };
        let mut response: HeaderMap = [told("endpoint")].into_iter().collect();
        crate::edits::apply(&changes.response, &mut response);
        assert_eq!(response.get_all("x-told").iter().collect::<Vec<_>>(), ["endpoint", "a", "b"]);
    }

    #[test]
    fn a_head_decides_whatever_becomes_of_the_body() {
        let answer = |status| {
            let body = Err(Unread::TooLong(1));
            verdict(&authorizer(), Answer { status, headers: HeaderMap::new(), body, trailers: HeaderMap::new() })
        };
        assert_eq!(answer(StatusCode::OK), Ok(Verdict::Passes(Changes::default())));
        let refused = Verdict::Refuses(StatusCode::FORBIDDEN, Written::default());
        assert_eq!(answer(StatusCode::FORBIDDEN), Ok(refused));
    }

    #[test]
    fn each_gets_of_an_answer_what_is_meant_for_it() {
        let headers: HeaderMap = [("x-user-name", "a"), ("x-why", "b"), ("x-told", "c"), ("location", "/"), ("x", "d")]
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .into_iter()
            .collect();
        let answer = |status: u16| Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers.clone(),
            body: Ok(Bytes::from("no")),
            trailers: HeaderMap::new(),
        };
        let names = |edits: &Edits| edits.put.iter().map(|put| put.name.to_string()).collect::<Vec<_>>();
        let Ok(Verdict::Passes(changes)) = verdict(&authorizer(), answer(200)) else { panic!("200 passes") };
        assert_eq!(
            (names(&changes.request), names(&changes.response)),
            (vec!["x-user-name".into()], vec!["x-told".into()])
        );
        for status in [204, 302, 401, 403] {
            let Ok(Verdict::Refuses(told, written)) = verdict(&authorizer(), answer(status)) else {
                panic!("{status} refuses")
            };
            let mut names: Vec<_> = written.headers.keys().map(HeaderName::as_str).collect();
            names.sort_unstable();
            assert_eq!((told.as_u16(), names, &*written.body), (status, vec!["location", "x-why"], &b"no"[..]));
        }
        for status in [500, 503, 100] {
            assert!(verdict(&authorizer(), answer(status)).is_err(), "{status}");
        }
    }
}
