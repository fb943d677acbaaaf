//! What happens to requests before they are sent on: tokens, pages of other origins, failures on purpose.

use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use serde_json::json;

use super::{reason_of, told, web};
use crate::config::{
    Abort, Before, ClaimMatch, Cors, Fault, MILLION, Permission, Policy, Principal, Rules, Text, Tokens, Verdict,
};
use crate::testing::{Served, get, route_to};
use crate::tokens::signer::Signer;
use fairway_core::reason::Reason;

/// Requests of members of the group `admin` alone.
fn admins() -> Rules {
    let group = Principal::Claim(vec!["realm".into(), "group".into()], ClaimMatch::Text(Text::Exact("admin".into())));
    let policy = Policy { name: "shop/admins/0".into(), permissions: vec![Permission::Any], principals: vec![group] };
    Rules { verdict: Verdict::Allow, policies: vec![policy] }
}

#[tokio::test]
async fn a_token_says_who_may_and_a_bad_one_is_refused() {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, vec![admins()], vec![route_to(&web(80))], &[endpoint]);
    let signer = Signer::new();
    served.believe(80, Tokens { issuers: vec![signer.issuer("a")], passes_preflights: false });
    let token =
        |group: &str, audience: &str| signer.sign(&json!({"iss": "a", "aud": audience, "realm": {"group": group}}));
    let forged = Signer::new().sign(&json!({"iss": "a", "aud": "web", "realm": {"group": "admin"}}));
    let rows = [
        ("good", Some(token("admin", "web")), 200, None),
        ("another group", Some(token("guest", "web")), 403, Some(Reason::PolicyNotAllowed)),
        ("none", None, 403, Some(Reason::PolicyNotAllowed)),
        ("forged", Some(forged), 401, Some(Reason::TokenInvalid)),
        ("another audience", Some(token("admin", "shop")), 403, Some(Reason::TokenAudience)),
    ];
    for (name, token, status, reason) in rows {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
        let headers = [&headers[..], &[("x-group", "admin")]].concat();
        for http2 in [false, true] {
            // What we say of a client is not its own to take away.
            let hidden: &[_] = if http2 { &[] } else { &[("connection", "x-group")] };
            let headers = [&headers[..], hidden].concat();
            let (response, body) = served.send(80, http2, get("/", &headers)).await;
            assert_eq!((response.status().as_u16(), reason_of(&response)), (status, reason), "{name}: {body}");
            let challenge = response.headers().get("www-authenticate").map(|value| value.to_str().unwrap());
            let expected = "Bearer error=\"invalid_token\", error_description=\"the signature of the token is wrong\"";
            assert_eq!(challenge, (status == 401).then_some(expected), "{name}");
            if status == 200 {
                assert!(body.contains("x-group=admin") && !body.contains("authorization"), "{body}");
            }
        }
        let grpc = [&headers[..], &[("content-type", "application/grpc")]].concat();
        let (response, _) = served.send(80, true, get("/", &grpc)).await;
        let codes = [(200, None), (401, Some(16)), (403, Some(7))];
        let code = codes.iter().find(|(known, _)| *known == status).and_then(|(_, code)| *code);
        assert_eq!(response.headers().get("grpc-status").cloned(), code.map(HeaderValue::from), "{name}");
    }
}

#[tokio::test]
async fn no_token_says_who_the_client_is() {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, vec![], vec![route_to(&web(80))], &[endpoint]);
    let signer = Signer::new();
    let mut issuer = signer.issuer("a");
    issuer.claim_headers = vec![(HeaderName::from_static("x-forwarded-client-cert"), vec!["client".into()])];
    served.believe(80, Tokens { issuers: vec![issuer], passes_preflights: false });
    let claimed = "URI=spiffe://cluster.local/ns/shop/sa/admin";
    let token = format!("Bearer {}", signer.sign(&json!({"iss": "a", "aud": "web", "client": claimed})));
    let proved = "x-forwarded-client-cert=By=spiffe://cluster.local/ns/shop/sa/waypoint;\
                  URI=spiffe://cluster.local/ns/shop/sa/client";
    for http2 in [false, true] {
        let (response, body) = served.send(80, http2, get("/", &[("authorization", &token)])).await;
        assert_eq!(response.status(), StatusCode::OK, "{body}");
        assert!(body.lines().any(|line| line == proved) && !body.contains("sa/admin"), "{body}");
    }
}

#[tokio::test]
async fn browsers_are_told_what_pages_may_do() {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    let mut route = route_to(&web(80));
    route.before.cors = Some(Cors {
        origins: vec![Text::Exact("https://a.example".into())],
        methods: Some(HeaderValue::from_static("PUT")),
        ..Cors::default()
    });
    let mut broken = route.clone();
    broken.matching.path = crate::config::PathMatch::Exact("/broken".into());
    broken.before.fault.abort = Some((Abort::Http(StatusCode::BAD_GATEWAY), MILLION));
    served.http(80, vec![], vec![broken, route], &[endpoint]);
    let origin = ("origin", "https://a.example");
    let mut preflight = get("/", &[origin, ("access-control-request-method", "PUT")]);
    *preflight.method_mut() = http::Method::OPTIONS;
    let (response, body) = served.send(80, false, preflight).await;
    let allowed = |response: &http::Response<()>| {
        ["access-control-allow-origin", "access-control-allow-methods"]
            .map(|name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()))
    };
    let origin_said = Some("https://a.example".to_owned());
    assert_eq!((response.status(), body.as_str()), (StatusCode::OK, ""));
    assert_eq!(allowed(&response), [origin_said.clone(), Some("PUT".to_owned())]);
    let (response, body) = served.send(80, false, get("/", &[origin])).await;
    assert!(body.starts_with("web"), "{body}");
    assert_eq!(allowed(&response), [origin_said.clone(), None]);
    let (response, _) = served.send(80, false, get("/broken", &[origin])).await;
    assert_eq!((response.status(), allowed(&response)), (StatusCode::BAD_GATEWAY, [origin_said, None]));
    let (response, _) = served.send(80, false, get("/", &[("origin", "https://b.example")])).await;
    assert_eq!((response.status(), allowed(&response)), (StatusCode::OK, [None, None]));
}

#[tokio::test]
async fn requests_wait_and_fail_on_purpose() {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    let delay = Duration::from_millis(200);
    let route = |path: &str, fault: Fault| {
        let mut route = route_to(&web(80));
        route.matching.path = crate::config::PathMatch::Exact(path.into());
        route.before = Before { fault, ..Before::default() };
        route
    };
    let slow = Fault { delay: Some((delay, MILLION)), abort: None };
    let failing = |abort| Fault { delay: None, abort: Some((abort, MILLION)) };
    let routes = vec![
        route("/slow", slow),
        route("/http", failing(Abort::Http(StatusCode::IM_A_TEAPOT))),
        route("/grpc", failing(Abort::Grpc(8))),
    ];
    served.http(80, vec![], routes, &[endpoint]);
    let started = Instant::now();
    let (response, _) = served.send(80, false, get("/slow", &[])).await;
    assert!(response.status().is_success() && started.elapsed() >= delay);
    let injected = Some(Reason::FaultInjected);
    for (path, status, code) in [("/http", 418, "2"), ("/grpc", 429, "8")] {
        let (response, _) = served.send(80, false, get(path, &[])).await;
        assert_eq!((response.status().as_u16(), reason_of(&response)), (status, injected), "{path}");
        let (response, _) = served.send(80, true, get(path, &[("content-type", "application/grpc")])).await;
        assert_eq!((response.status().as_u16(), reason_of(&response)), (200, injected), "{path}");
        assert_eq!(response.headers()["grpc-status"], code, "{path}");
    }
    let page = served.metrics.render();
    for flags in ["DI", "FI"] {
        assert!(page.contains(&format!("response_flags=\"{flags}\"")), "{flags}");
    }
}
