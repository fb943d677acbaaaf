//! Who is asked by a policy: a real server of gRPC, and one of HTTP; what they say, and what becomes of requests without them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fairway_core::reason::Reason;
use fairway_proto::envoy::fraction::HttpStatus;
use fairway_proto::external_auth::authorization_server::{Authorization, AuthorizationServer};
use fairway_proto::external_auth::check_response::HttpResponse;
use fairway_proto::external_auth::{
    CheckRequest, CheckResponse, DeniedHttpResponse, HeaderLine, HeaderOption, OkHttpResponse, attribute_context,
};
use fairway_proto::rpc_status::Status as Outcome;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::{reason_of, told, web};
use crate::config::{
    Authorizer, Custom, Header, HeaderMatch, Listener, Permission, Policy, Principal, Protocol, Rules, Shown, Speech,
    Text, Tokens, Verdict,
};
use crate::testing::{PATIENCE, Served, WEB, answer, get, origin, own_address, route_to};
use crate::tokens::signer::Signer;

/// Lets `x-token: good` pass as the user `a`, and refuses everything else, `long` at length; remembers what it was asked.
#[derive(Clone, Default)]
struct Judge(Arc<Mutex<Vec<attribute_context::HttpRequest>>>, bool);

#[tonic::async_trait]
impl Authorization for Judge {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let attributes = request.into_inner().attributes.unwrap();
        assert_eq!(attributes.source.unwrap().principal, "spiffe://cluster.local/ns/shop/sa/client");
        let http = attributes.request.unwrap().http.unwrap();
        let token = http.headers.get("x-token").cloned().unwrap_or_default();
        self.0.lock().unwrap().push(http);
        if self.1 {
            return std::future::pending().await;
        }
        let line = |key: &str, value: &str| HeaderOption {
            header: Some(HeaderLine { key: key.into(), value: value.into(), raw_value: Vec::new() }),
            append: None,
        };
        let (code, http_response) = if token == "good" {
            let passes = OkHttpResponse {
                headers: vec![line("x-user", "a")],
                headers_to_remove: vec!["x-token".into()],
                response_headers_to_add: vec![line("x-told", "b")],
            };
            (0, HttpResponse::OkResponse(passes))
        } else {
            let status = Some(HttpStatus { code: 402 });
            (
                7,
                HttpResponse::DeniedResponse(DeniedHttpResponse {
                    status,
                    headers: vec![line("x-why", "no token")],
                    body: if token == "long" { "no".repeat(1 << 20) } else { "pay first".into() },
                }),
            )
        };
        let status = Some(Outcome { code, ..Outcome::default() });
        Ok(Response::new(CheckResponse { status, http_response: Some(http_response) }))
    }
}

async fn serve(judge: Judge) -> SocketAddr {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(AuthorizationServer::new(judge));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

fn authorizer() -> Authorizer {
    Authorizer {
        cluster: "authorizer".into(),
        speech: Speech::Grpc,
        timeout: PATIENCE,
        fails_open: false,
        status_on_error: StatusCode::FORBIDDEN,
        body: None,
        headers: None,
    }
}

fn about(permission: Permission) -> Rules {
    let policy =
        Policy { name: "custom/shop/ask/0".into(), permissions: vec![permission], principals: vec![Principal::Any] };
    Rules { verdict: Verdict::Deny, policies: vec![policy] }
}

impl Served {
    /// Asks `authorizer`, which is at `address`, about requests for what is below `/admin`.
    fn ask(&mut self, address: SocketAddr, authorizer: Authorizer) {
        let protocol = if authorizer.speech == Speech::Grpc { Protocol::Http2 } else { Protocol::Http1 };
        self.announce("authorizer", address.ip(), false, |_| {});
        self.cluster("authorizer", protocol, &[address]);
        let rules = about(Permission::Path(Text::Prefix("/admin".into())));
        if let Listener::Http(http) = Arc::make_mut(self.config.listeners.get_mut(&web(80)).unwrap()) {
            http.custom = vec![Custom { rules, authorizer }];
        }
        self.publish();
    }
}

/// A waypoint before an endpoint that tells what it is asked.
async fn served(policies: Vec<Rules>) -> Served {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, policies, vec![route_to(&web(80))], &[endpoint]);
    served
}

#[tokio::test]
async fn an_authorizer_decides_about_what_the_policy_names_and_nothing_else() {
    let judge = Judge::default();
    let mut served = served(Vec::new()).await;
    served.ask(serve(judge.clone()).await, authorizer());
    let asked = || std::mem::take(&mut *judge.0.lock().unwrap());
    let forged = ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/admin");
    for http2 in [false, true] {
        let (response, _) = served.send(80, http2, get("/public", &[])).await;
        assert!(response.status().is_success() && asked().is_empty(), "nobody is asked about it");

        let (response, body) = served.send(80, http2, get("/admin?q=1", &[("x-token", "good"), forged])).await;
        assert_eq!((response.status().as_u16(), &response.headers()["x-told"]), (200, &HeaderValue::from_static("b")));
        assert!(body.contains("x-user=a") && !body.contains("x-token") && !body.contains("sa/admin"), "{body}");
        let question = asked().remove(0);
        assert_eq!(
            (question.method.as_str(), question.path.as_str(), question.host.as_str()),
            ("GET", "/admin?q=1", "web.shop")
        );
        assert!(question.headers["x-forwarded-client-cert"].ends_with("URI=spiffe://cluster.local/ns/shop/sa/client"));
        assert!(body.contains(&format!("x-request-id={}", question.id)), "the same request is asked about: {body}");

        let (response, body) = served.send(80, http2, get("/x/../admin/a", &[])).await;
        assert_eq!(
            (response.status().as_u16(), body.as_str(), reason_of(&response)),
            (402, "pay first", Some(Reason::AuthorizerRefused))
        );
        assert_eq!(response.headers()["x-why"], "no token");
        assert_eq!(asked().remove(0).path, "/admin/a", "as the endpoint would understand it");
    }
    let (response, _) = served.send(80, true, get("/admin", &[("content-type", "application/grpc")])).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &HeaderValue::from_static("application/grpc"))
    );
    assert!(response.headers().contains_key("grpc-status"));
}

#[tokio::test]
async fn policies_hold_for_what_an_authorizer_lets_pass() {
    let header = HeaderMatch { name: Header::Named("x-user".parse().unwrap()), value: Text::Exact("a".into()) };
    let rules = |verdict, permission| {
        let policy =
            Policy { name: "shop/p/0".into(), permissions: vec![permission], principals: vec![Principal::Any] };
        Rules { verdict, policies: vec![policy] }
    };
    let is_user = || Permission::Header(header.clone());
    let rows = [
        ("allowed, as the authorizer says who it is", rules(Verdict::Allow, is_user()), "good", 200),
        ("refused, for the same reason", rules(Verdict::Deny, is_user()), "good", 403),
        ("refused before policies are asked", rules(Verdict::Allow, Permission::Any), "bad", 402),
    ];
    let address = serve(Judge::default()).await;
    for (name, rules, token, expected) in rows {
        let mut served = served(vec![rules]).await;
        served.ask(address, authorizer());
        let (response, body) = served.send(80, false, get("/admin", &[("x-token", token)])).await;
        assert_eq!(response.status(), expected, "{name}: {body}");
    }
}

#[tokio::test]
async fn without_an_answer_requests_are_refused_unless_the_provider_says_otherwise() {
    let closed = SocketAddr::from((own_address(), 1));
    let silent = serve(Judge(Arc::default(), true)).await;
    let broken = origin(|_| answer(500, "")).await;
    let soon = Duration::from_millis(50);
    let http = || Speech::Http {
        prefix: String::new(),
        add: Vec::new(),
        onward: Vec::new(),
        refused: None,
        passed: Vec::new(),
    };
    let rows = [
        ("nobody is there", closed, authorizer()),
        ("no answer comes", silent, Authorizer { timeout: soon, ..authorizer() }),
        ("it is no server of gRPC", broken, authorizer()),
        ("it is in trouble itself", broken, Authorizer { speech: http(), ..authorizer() }),
    ];
    for (name, address, authorizer) in rows {
        let mut served = served(Vec::new()).await;
        served.ask(address, Authorizer { status_on_error: StatusCode::BAD_GATEWAY, ..authorizer.clone() });
        let (response, body) = served.send(80, false, get("/admin", &[])).await;
        let told = (response.status().as_u16(), reason_of(&response));
        assert_eq!(told, (502, Some(Reason::AuthorizerFailed)), "{name}: {body}");
        served.ask(address, Authorizer { fails_open: true, ..authorizer });
        let (response, body) = served.send(80, false, get("/admin", &[])).await;
        assert_eq!(response.status(), 200, "{name}: {body}");
    }
    let mut served = served(Vec::new()).await;
    served.ask(silent, authorizer());
    served.config.clusters.remove("authorizer");
    served.publish();
    let (response, _) = served.send(80, false, get("/admin", &[])).await;
    assert_eq!(reason_of(&response), Some(Reason::AuthorizerFailed), "who is asked is not known yet");
}

#[tokio::test]
async fn a_no_that_is_too_long_to_be_read_is_a_no() {
    let talkative = origin(|_| answer(403, "no".repeat(1 << 20))).await;
    let (prefix, add, onward, refused, passed) = (String::new(), Vec::new(), Vec::new(), None, Vec::new());
    let speech = Speech::Http { prefix, add, onward, refused, passed };
    let mut served = served(Vec::new()).await;
    served.ask(talkative, Authorizer { speech, fails_open: true, ..authorizer() });
    let (response, body) = served.send(80, false, get("/admin", &[])).await;
    let told = (response.status().as_u16(), reason_of(&response), body.as_str());
    assert_eq!(told, (403, Some(Reason::AuthorizerRefused), ""));
    served.ask(serve(Judge::default()).await, Authorizer { fails_open: true, ..authorizer() });
    let (response, body) = served.send(80, false, get("/admin", &[("x-token", "long")])).await;
    assert_eq!((response.status().as_u16(), reason_of(&response)), (403, Some(Reason::AuthorizerFailed)), "{body}");
}

#[tokio::test]
async fn what_only_we_may_say_of_a_client_does_not_spare_it_the_question() {
    let mut served = served(Vec::new()).await;
    served.believe(80, Tokens { issuers: vec![Signer::new().issuer("a")], passes_preflights: false });
    served.ask(serve(Judge::default()).await, authorizer());
    // Signer's tokens say it in this header.
    let group = Header::Named(HeaderName::from_static("x-group"));
    let is_admin = HeaderMatch { name: group, value: Text::Exact("admin".into()) };
    let rules = about(Permission::Not(Box::new(Permission::Header(is_admin))));
    if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
        http.custom[0].rules = rules;
    }
    served.publish();
    let (response, body) = served.send(80, false, get("/", &[("x-group", "admin")])).await;
    assert_eq!(response.status(), 402, "{body}");
}

#[tokio::test]
async fn as_much_of_a_body_is_shown_as_the_provider_says_and_all_of_it_goes_on() {
    let judge = Judge::default();
    let address = serve(judge.clone()).await;
    let shown = |most, partial, as_bytes| Some(Shown { most, partial, as_bytes });
    let long = "x".repeat(100_000);
    // What is asked for, the body, what is shown of it, and the status.
    let rows = [
        (None, "hello", "", 200),
        (shown(5, false, false), "hello", "hello", 200),
        (shown(5, false, true), "hello", "hello", 200),
        (shown(4, false, false), "hello", "", 413),
        (shown(4, true, false), "hello", "hell", 200),
        (shown(4, true, false), "", "", 200),
        (shown(70_000, true, false), &*long, &long[..70_000], 200),
    ];
    for (body, sent, expected, status) in rows {
        let mut served = served(Vec::new()).await;
        served.ask(address, Authorizer { body, ..authorizer() });
        for http2 in [false, true] {
            let mut request = get("/admin", &[("x-token", "good")]);
            *request.method_mut() = http::Method::POST;
            *request.body_mut() = Full::from(Bytes::from(sent.to_owned()));
            let (response, answer) = served.send(80, http2, request).await;
            assert_eq!(response.status(), status, "{body:?}");
            let asked = judge.0.lock().unwrap().pop();
            assert_eq!(asked.is_some(), status == 200, "{body:?}");
            let Some(asked) = asked else { continue };
            let seen = if asked.raw_body.is_empty() { asked.body.into_bytes() } else { asked.raw_body };
            assert!(seen == expected.as_bytes(), "{body:?} of {} bytes: {} bytes", sent.len(), seen.len());
            assert!(
                answer.ends_with(&format!(":body={sent}")) || answer.contains(&format!(":body={sent}\n")),
                "{body:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_authorizer_of_http_sees_the_head_and_answers_the_client() {
    let asks = origin(|asked| {
        let is_good = asked.get("x-token").is_some_and(|token| token == "good");
        assert!(!asked.contains_key("x-secret") && asked["x-added"] == "yes", "{asked:?}");
        assert_eq!((asked[":path"].as_str(), asked["host"].as_str()), ("/check/admin?q=1", "web.shop"));
        let mut response = if is_good { answer(200, "") } else { answer(401, "who are you?") };
        for (name, value) in [("x-user", "a"), ("x-why", "b"), ("x-hidden", "c"), ("location", "/login")] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    })
    .await;
    let speech = Speech::Http {
        prefix: "/check".into(),
        add: vec![("x-added".parse().unwrap(), HeaderValue::from_static("yes"))],
        onward: vec![Text::Exact("x-user".into())],
        refused: Some(vec![Text::Exact("x-why".into())]),
        passed: Vec::new(),
    };
    let headers = Some(vec![Text::Exact("x-token".into())]);
    let mut served = served(Vec::new()).await;
    served.ask(asks, Authorizer { speech, headers, ..authorizer() });
    for _again in 0..2 {
        let (response, body) =
            served.send(80, false, get("/admin?q=1", &[("x-token", "good"), ("x-secret", "s")])).await;
        assert!(response.status().is_success() && body.contains("x-user=a") && !body.contains("x-hidden"), "{body}");
        let (response, body) = served.send(80, false, get("/admin?q=1", &[("x-secret", "s")])).await;
        assert_eq!((response.status().as_u16(), body.as_str()), (401, "who are you?"));
        let names = ["x-why", "location", "x-hidden"].map(|name| response.headers().contains_key(name));
        assert_eq!(names, [true, true, false]);
    }
}

#[tokio::test]
async fn a_connection_that_somebody_would_have_to_be_asked_about_is_refused() {
    let path = Permission::Path(Text::Prefix("/admin".into()));
    let rows = [(path, false), (Permission::Port(80), true)];
    for (permission, passes) in rows {
        let mut served = Served::start().await;
        let echo = TcpListener::bind((own_address(), 0)).await.unwrap();
        let endpoint = echo.local_addr().unwrap();
        served.announce("echo", endpoint.ip(), false, |pod| {
            let (service_port, target_port) = (81, u32::from(endpoint.port()));
            let port = fairway_proto::workload::Port { service_port, target_port, ..Default::default() };
            pod.services.insert(format!("shop/{WEB}"), fairway_proto::workload::PortList { ports: vec![port] });
        });
        tokio::spawn(async move {
            let (mut socket, _) = echo.accept().await.unwrap();
            let (mut reader, mut writer) = socket.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
        served.http(81, vec![], vec![route_to(&web(81))], &[endpoint]);
        if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(81)).unwrap()) {
            http.custom = vec![Custom { rules: about(permission.clone()), authorizer: authorizer() }];
        }
        served.publish();
        let mut stream = served.dial("10.96.0.1:81").await;
        stream.write_all(b"\x16\x03ab").await.unwrap();
        let mut heard = [0; 4];
        let heard = timeout(PATIENCE, stream.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard.is_ok(), passes, "{permission:?}");
    }
}

#[tokio::test]
async fn whom_a_client_says_it_is_matches_no_rule() {
    let judge = Judge::default();
    let named = |account: &str| {
        Permission::Header(HeaderMatch {
            name: Header::Named(HeaderName::from_static("x-forwarded-client-cert")),
            value: Text::Contains(format!("sa/{account}")),
        })
    };
    let forged = ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/admin");
    for (account, is_meant) in [("admin", false), ("client", true)] {
        let mut served = served(Vec::new()).await;
        served.ask(serve(judge.clone()).await, authorizer());
        if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
            http.custom[0].rules = about(named(account));
        }
        served.publish();
        let (response, body) = served.send(80, true, get("/", &[forged])).await;
        assert_eq!(response.status() == 402, is_meant, "{account}: {body}");
        served.http(80, vec![about(named(account))], vec![route_to(&web(80))], &[]);
        let (response, _) = served.send(80, true, get("/", &[forged])).await;
        assert_eq!(reason_of(&response) == Some(Reason::PolicyDenied), is_meant, "{account}");
    }
}
