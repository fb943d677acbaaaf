//! The whole path over loopback: client, tunnel, waypoint, endpoint.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fairway_core::ident::Identity;
use fairway_core::io::hbone::headers;
use fairway_core::io::hbone::{ReceiveBudget, TunnelIo, server};
use fairway_core::limits::Limits;
use fairway_core::reason::Reason;
use http::header::{HeaderName, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::config::{
    Action, Header, HeaderMatch, Manner, Mirror, Permission, Policy, Principal, Protocol, Proxies, Put, Redirect,
    Retry, Rules, Text, Verdict,
};
use crate::testing::{PATIENCE, Served, WEB, answer, forwarding, get, origin, own_address, route_to, speak};

mod admin;
mod authorizer;
mod bad;
mod before;
mod connect;
mod endpoints;
mod hedging;
mod hostile;
mod idle;
mod in_flight;
mod limiter;
mod logs;
mod metrics;
mod noted;
mod outside;
mod processor;
mod rates;
mod sessions;
mod stopping;
mod streams;
mod traces;
mod untaken;
mod upgrades;
mod why;
mod workloads;

pub(crate) fn web(port: u16) -> String {
    format!("{WEB}:{port}")
}

async fn told(of: &'static str) -> SocketAddr {
    origin(move |asked| {
        let lines: Vec<String> = asked.iter().map(|(name, value)| format!("{name}={value}")).collect();
        answer(200, format!("{of}\n{}", lines.join("\n")))
    })
    .await
}

fn reason_of(response: &http::Response<()>) -> Option<Reason> {
    headers::proxy_status_reason(response.headers())
}

#[tokio::test]
async fn requests_are_routed_by_header_and_say_whose_they_are() {
    let mut served = Served::start().await;
    let (stable, canary) = (told("stable").await, told("canary").await);
    for (name, endpoint) in [("stable", stable), ("canary", canary)] {
        served.announce(name, endpoint.ip(), false, |_| {});
    }
    let mut to_canary = route_to("canary");
    to_canary.matching.headers = vec![HeaderMatch {
        name: Header::Named(HeaderName::from_static("x-canary")),
        value: Text::Exact("yes".into()),
    }];
    to_canary.response.put = vec![Put {
        name: HeaderName::from_static("x-from"),
        value: HeaderValue::from_static("canary"),
        manner: Manner::Overwrite,
    }];
    served.cluster("canary", Protocol::Http1, &[canary]);
    served.http(80, vec![], vec![to_canary, route_to(&web(80))], &[stable]);

    for http2 in [false, true] {
        let (response, body) = served.send(80, http2, get("/a/../b?q=1", &[("x-forwarded-for", "1.2.3.4")])).await;
        assert_eq!(response.status(), StatusCode::OK, "{body}");
        assert!(body.starts_with("stable\n"), "{body}");
        for line in [
            ":path=/b?q=1",
            "host=web.shop",
            "x-forwarded-for=1.2.3.4,127.0.0.1",
            "x-forwarded-client-cert=By=spiffe://cluster.local/ns/shop/sa/waypoint;URI=spiffe://cluster.local/ns/shop/sa/client",
            if http2 { ":version=HTTP/2.0" } else { ":version=HTTP/1.1" },
        ] {
            assert!(body.lines().any(|found| found == line), "{line} in {body}");
        }
        let (response, body) = served.send(80, http2, get("/", &[("x-canary", "yes")])).await;
        assert!(body.starts_with("canary\n") && body.contains(":version=HTTP/1.1"), "{body}");
        assert_eq!(response.headers()["x-from"], "canary");
    }
    let page = served.metrics.render();
    let line =
        page.lines().find(|line| line.starts_with("istio_requests_total") && line.contains("\"canary\"")).unwrap();
    for label in [
        "reporter=\"waypoint\"",
        "source_workload=\"client\"",
        "source_principal=\"spiffe://cluster.local/ns/shop/sa/client\"",
        "destination_service=\"web.shop.svc.cluster.local\"",
        "response_code=\"200\"",
        "response_flags=\"-\"",
        "connection_security_policy=\"mutual_tls\"",
        "request_protocol=\"http\"",
    ] {
        assert!(line.contains(label), "{label} in {line}");
    }
}

/// The client is at 127.0.0.1; whether it is believed to be a proxy, and what it says.
#[tokio::test]
async fn policy_sees_where_requests_come_from_as_far_as_somebody_believed_says_so() {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    let from = |verdict, block: &str| {
        let principals = vec![Principal::Remote(block.parse().unwrap())];
        let policy = Policy { name: "shop/from/0".into(), permissions: vec![Permission::Any], principals };
        vec![Rules { verdict, policies: vec![policy] }]
    };
    let proxies = |hops, account: &str| Proxies {
        hops,
        trusted: [format!("spiffe://cluster.local/ns/shop/sa/{account}")].into(),
    };
    let (proxy, other) = (|hops| proxies(hops, "client"), |hops| proxies(hops, "gateway"));
    let (outside, inside) = ("192.0.2.0/24", "127.0.0.0/8");
    let rows = [
        ("nothing said", proxy(0), None, inside, [true, false]),
        ("forged", proxy(0), Some("192.0.2.1"), outside, [false, true]),
        ("by a proxy", proxy(1), Some("192.0.2.1"), outside, [true, false]),
        ("by a proxy, of somebody else", proxy(1), Some("198.51.100.1"), outside, [false, true]),
        ("by a proxy, forged before it", proxy(1), Some("192.0.2.1, 198.51.100.1"), outside, [false, true]),
        ("by the second of two", proxy(2), Some("192.0.2.1, 198.51.100.1"), outside, [true, false]),
        ("by too few", proxy(2), Some("192.0.2.1"), outside, [false, false]),
        ("by a proxy that is not named", other(1), Some("192.0.2.1"), outside, [false, false]),
        ("by no proxy", other(1), None, inside, [true, false]),
    ];
    for (name, proxies, said, block, expected) in rows {
        let mut found = Vec::new();
        for verdict in [Verdict::Allow, Verdict::Deny] {
            served.http(80, from(verdict, block), vec![route_to(&web(80))], &[endpoint]);
            served.behind(80, proxies.clone());
            let said: Vec<(&str, &str)> = said.map(|said| ("x-forwarded-for", said)).into_iter().collect();
            let (response, body) = served.send(80, false, get("/", &said)).await;
            found.push(response.status() == StatusCode::OK);
            if let (StatusCode::OK, [(name, said)]) = (response.status(), &*said) {
                assert!(body.lines().any(|line| line == format!("{name}={said},127.0.0.1")), "{body}");
            }
        }
        assert_eq!(found, expected, "{name}: whether it is allowed, and whether it is not denied");
    }
}

#[tokio::test]
async fn policy_sees_normalised_requests_and_a_refusal_says_why() {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    let policy = Policy {
        name: "shop/no-admin/0".into(),
        permissions: vec![Permission::Path(Text::Prefix("/admin".into()))],
        principals: vec![Principal::Any],
    };
    let rules = Rules { verdict: Verdict::Deny, policies: vec![policy] };
    served.http(80, vec![rules], vec![route_to(&web(80))], &[endpoint]);
    for (path, allowed) in
        [("/public", true), ("/admin", false), ("/x/../admin/a", false), ("//admin", false), ("/%61dmin", false)]
    {
        let (response, body) = served.send(80, false, get(path, &[])).await;
        if allowed {
            assert_eq!(response.status(), StatusCode::OK, "{path}");
        } else {
            assert_eq!((response.status(), body.as_str()), (StatusCode::FORBIDDEN, "RBAC: access denied"), "{path}");
            assert_eq!(reason_of(&response), Some(Reason::PolicyDenied), "{path}");
        }
    }
    let grpc = get("/admin", &[("content-type", "application/grpc")]);
    let (response, _) = served.send(80, true, grpc).await;
    assert_eq!((response.status(), &response.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from(7)));
    assert_eq!(reason_of(&response), Some(Reason::PolicyDenied));
    let (response, _) = served.send(80, false, get("/%00", &[])).await;
    assert_eq!((response.status(), reason_of(&response)), (StatusCode::BAD_REQUEST, Some(Reason::BadRequest)));
}

#[tokio::test]
async fn routes_answer_redirect_and_are_missed() {
    let mut served = Served::start().await;
    let mut redirect = route_to("");
    redirect.matching.path = crate::config::PathMatch::Exact("/old".into());
    redirect.action = Action::Redirect(Redirect {
        path: Some(crate::config::RedirectPath::Full("/new".into())),
        status: StatusCode::MOVED_PERMANENTLY,
        ..Redirect::default()
    });
    let mut refuse = route_to("");
    refuse.matching.path = crate::config::PathMatch::Exact("/refused".into());
    refuse.action = Action::Reply { status: StatusCode::INTERNAL_SERVER_ERROR, body: Bytes::new() };
    let mut unknown = route_to("invalid-backend");
    unknown.matching.path = crate::config::PathMatch::Exact("/unknown".into());
    let mut empty = route_to(&web(80));
    empty.matching.path = crate::config::PathMatch::Exact("/empty".into());
    served.http(80, vec![], vec![redirect, refuse, unknown, empty], &[]);
    let rows = [
        ("/old", 301, Some(Reason::RouteAnswered)),
        ("/refused", 500, Some(Reason::RouteRefuses)),
        ("/unknown", 500, Some(Reason::NoHealthyUpstream)),
        ("/empty", 503, Some(Reason::NoHealthyUpstream)),
        ("/missed", 404, Some(Reason::RouteNotFound)),
    ];
    for (path, status, reason) in rows {
        let (response, _) = served.send(80, false, get(path, &[])).await;
        assert_eq!((response.status().as_u16(), reason_of(&response)), (status, reason), "{path}");
        if status == 301 {
            assert_eq!(response.headers()["location"], "http://web.shop/new");
        }
    }
    let (response, body) = served.send(80, true, get("/refused", &[("content-type", "application/grpc")])).await;
    let told = ["grpc-status", "grpc-message"].map(|name| response.headers()[name].to_str().unwrap());
    assert_eq!((response.status().as_u16(), told, &*body), (200, ["2", Reason::RouteRefuses.message()], ""));
    assert_eq!(reason_of(&response), Some(Reason::RouteRefuses));
}

#[tokio::test]
async fn what_failed_is_tried_elsewhere_within_its_bounds() {
    let mut served = Served::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let flaky = origin(move |request| match counted.fetch_add(1, Ordering::SeqCst) % 3 {
        2 => answer(200, format!("after all: {}", request[":body"])),
        _ => answer(503, "not yet"),
    })
    .await;
    let closed = SocketAddr::new(IpAddr::V4(own_address()), 1);
    for (name, address) in [("flaky", flaky.ip()), ("closed", closed.ip())] {
        served.announce(name, address, false, |_| {});
    }
    let retry = Retry {
        connect_failure: true,
        statuses: vec![StatusCode::SERVICE_UNAVAILABLE],
        attempts: 9,
        elsewhere: true,
        ..Retry::default()
    };
    let route = forwarding(route_to(&web(80)), |forward| forward.retry = Some(retry));
    served.http(80, vec![], vec![route], &[closed, flaky]);
    let mut request = get("/", &[]);
    *request.body_mut() = Full::from("again");
    *request.method_mut() = http::Method::POST;
    let (response, body) = served.send(80, false, request).await;
    assert_eq!((response.status(), body.as_str()), (StatusCode::OK, "after all: again"));
    assert_eq!(asked.load(Ordering::SeqCst), 3);

    served.http(80, vec![], vec![route_to(&web(80))], &[closed]);
    let (response, _) = served.send(80, false, get("/", &[])).await;
    assert_eq!(
        (response.status(), reason_of(&response)),
        (StatusCode::SERVICE_UNAVAILABLE, Some(Reason::UpstreamConnectFailed))
    );
    served.http(80, vec![], vec![route_to(&web(80))], &[SocketAddr::from(([192, 0, 2, 1], 80))]);
    let (response, _) = served.send(80, false, get("/", &[])).await;
    assert_eq!(reason_of(&response), Some(Reason::DestinationUnknown), "never in clear text to who is not known");
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_given_up() {
    let mut served = Served::start().await;
    let silent = TcpListener::bind((own_address(), 0)).await.unwrap();
    let endpoint = silent.local_addr().unwrap();
    served.announce("silent", endpoint.ip(), false, |_| {});
    let route = forwarding(route_to(&web(80)), |forward| forward.timeout = Some(Duration::from_millis(50)));
    served.http(80, vec![], vec![route], &[endpoint]);
    let (response, _) = served.send(80, false, get("/", &[])).await;
    assert_eq!((response.status(), reason_of(&response)), (StatusCode::GATEWAY_TIMEOUT, Some(Reason::TimedOut)));
}

#[tokio::test]
async fn a_mirror_gets_a_copy_that_nobody_waits_for() {
    let mut served = Served::start().await;
    let (sender, mut copies) = tokio::sync::mpsc::unbounded_channel();
    let shadow = origin(move |asked| {
        sender.send(asked[":body"].clone()).unwrap();
        answer(500, "")
    })
    .await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    served.announce("shadow", shadow.ip(), false, |_| {});
    served.cluster("shadow", Protocol::Http1, &[shadow]);
    let mirror = Mirror { cluster: "shadow".into(), per_million: 1_000_000 };
    let route = forwarding(route_to(&web(80)), |forward| forward.mirrors = vec![mirror]);
    served.http(80, vec![], vec![route], &[endpoint]);
    let mut request = get("/", &[]);
    *request.body_mut() = Full::from("the same");
    let (response, body) = served.send(80, false, request).await;
    assert!(response.status().is_success() && body.contains(":body=the same"), "{body}");
    assert_eq!(tokio::time::timeout(PATIENCE, copies.recv()).await.unwrap().unwrap(), "the same");
}

#[tokio::test]
async fn who_speaks_first_tells_what_is_spoken() {
    let mut served = Served::start().await;
    // What the world says of the service leads to this pod on the ports of its own choice.
    let greeter = TcpListener::bind((own_address(), 0)).await.unwrap();
    let endpoint = greeter.local_addr().unwrap();
    let http = told("web").await;
    served.announce("http", http.ip(), false, |_| {});
    served.announce("greeter", endpoint.ip(), false, |pod| {
        let port = |service_port| fairway_proto::workload::Port {
            service_port,
            target_port: u32::from(endpoint.port()),
            ..Default::default()
        };
        let ports = fairway_proto::workload::PortList { ports: vec![port(80), port(81), port(82)] };
        pod.services.insert(format!("shop/{WEB}"), ports);
    });
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = greeter.accept().await {
            tokio::spawn(async move {
                let mut heard = [0; 4];
                socket.write_all(b"220 hello\n").await.unwrap();
                if socket.read_exact(&mut heard).await.is_ok() {
                    socket.write_all(&heard).await.unwrap();
                }
            });
        }
    });
    served.http(81, vec![], vec![route_to(&web(81))], &[http]);
    served.config.absent.insert(web(82));
    served.publish();
    for (authority, speaks_first) in [("10.96.0.1:81", false), ("10.96.0.1:81", true), ("10.96.0.1:82", false)] {
        let mut stream = served.dial(authority).await;
        if speaks_first {
            stream.write_all(b"\x16\x03ab").await.unwrap();
        }
        let mut greeting = [0; 10];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut greeting)).await.unwrap().unwrap();
        assert_eq!(&greeting, b"220 hello\n", "{authority}");
        if !speaks_first {
            stream.write_all(b"ping").await.unwrap();
        }
        let mut echo = [0; 4];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut echo)).await.unwrap().unwrap();
        assert_eq!(&echo, if speaks_first { b"\x16\x03ab" } else { b"ping" }, "{authority}");
    }
    let (response, body) = served.send(81, false, get("/", &[])).await;
    assert!(response.status().is_success() && body.starts_with("web\n"), "{body}");
}

#[tokio::test]
async fn what_is_not_bound_or_not_configured_is_refused() {
    let served = Served::start().await;
    let rows = [
        ("10.96.0.2:80", Reason::AuthorityMismatch),
        ("10.96.0.1:99", Reason::UnknownAuthority),
        ("192.0.2.1:80", Reason::AuthorityMismatch),
        ("10.96.0.1:80", Reason::DestinationUnknown),
        ("10.96.0.1:82", Reason::DestinationUnknown),
    ];
    for (authority, expected) in rows {
        let error = served.open(authority).await.err().map(|error| error.reason());
        assert_eq!(error, Some(expected), "{authority}");
    }
}

/// Announces a pod at `address`, and serves its node there: each stream is `each`'s, with who it comes from.
pub(crate) async fn node(
    served: &Served,
    account: &'static str,
    address: Ipv4Addr,
    each: impl Fn(&Identity, server::Incoming) + Clone + Send + 'static,
) {
    served.announce(account, IpAddr::V4(address), true, |_| {});
    let node = TcpListener::bind((address, 15_008)).await.unwrap();
    let identity = Identity::new("cluster.local", "shop", account).unwrap();
    let certificates = served.certificates.clone();
    tokio::spawn(async move {
        while let Ok((socket, peer)) = node.accept().await {
            let certificate = certificates.claim(&identity).get().await.unwrap();
            let (limits, budget) = (Limits::default(), ReceiveBudget::default());
            let (tls, client) = server::accept_tls(socket, certificate.credentials.server(), &limits).await.unwrap();
            let each = each.clone();
            let streams = move |incoming| each(&client, incoming);
            let _ = server::serve(tls, peer, (&limits, &budget), std::future::pending(), streams).await;
        }
    });
}

#[tokio::test]
async fn an_endpoint_in_the_mesh_is_reached_through_its_node_as_ourselves() {
    let mut served = Served::start().await;
    let address = own_address();
    node(&served, "meshed", address, |client, incoming| {
        let line = |name: &HeaderName| incoming.headers()[name].to_str().unwrap().to_owned();
        let spoken_for = headers::original(incoming.headers(), client).unwrap();
        assert_eq!(
            (spoken_for.identity.service_account(), spoken_for.address.ip()),
            ("client", Ipv4Addr::LOCALHOST.into())
        );
        let asked = format!("{client} for {} {}", incoming.authority().unwrap(), line(&headers::BAGGAGE));
        let tunnel = incoming.accept(http::HeaderMap::new()).unwrap();
        tokio::spawn(speak(TunnelIo::new(tunnel, Bytes::new()), move |_| answer(200, asked.clone())));
    })
    .await;
    served.http(80, vec![], vec![route_to(&web(80))], &[SocketAddr::new(IpAddr::V4(address), 8080)]);
    for http2 in [false, true, false] {
        let (response, body) = served.send(80, http2, get("/", &[])).await;
        assert_eq!(response.status(), StatusCode::OK, "{body}");
        let expected = format!("spiffe://cluster.local/ns/shop/sa/waypoint for {address}:8080 ");
        assert!(body.starts_with(&expected) && body.contains("k8s.namespace.name=shop"), "{body}");
        assert!(body.contains("service.name=client"), "{body}");
    }
    let page = served.metrics.render();
    let principal = "destination_principal=\"spiffe://cluster.local/ns/shop/sa/meshed\"";
    assert!(page.lines().any(|line| line.starts_with("istio_requests_total") && line.contains(principal)), "{page}");
}

#[tokio::test]
async fn requests_that_could_be_read_in_two_ways_never_reach_the_endpoint() {
    let mut served = Served::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let endpoint = origin(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        answer(200, "")
    })
    .await;
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, vec![], vec![route_to(&web(80))], &[endpoint]);
    served.log(80, "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%");
    let requests = [
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\nx: 1\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nbad name: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n",
    ];
    for request in requests {
        let mut stream = served.dial("10.96.0.1:80").await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answered = Vec::new();
        while !answered.ends_with(b"(bad_request)\n") {
            match tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap() {
                Ok(byte) => answered.push(byte),
                Err(_ended) => break,
            }
        }
        let next = tokio::time::timeout(PATIENCE, stream.read_u8()).await;
        assert!(next.unwrap().is_err(), "{request:?}: nothing more is read of what comes behind");
        let answered = String::from_utf8_lossy(&answered).into_owned();
        assert!(answered.starts_with("HTTP/1.1 400 "), "{request:?}: {answered:?}");
        assert!(answered.contains("proxy-status: fairway; error=http_request_error; details=\"bad_request\"\r\n"));
    }
    assert_eq!(served.logged.lines(requests.len()).await, vec!["400 - bad_request"; requests.len()]);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    let (response, _) = served.send(80, false, get("/", &[])).await;
    assert_eq!(response.status(), StatusCode::OK, "a neighbour is served");
}

#[tokio::test]
async fn a_request_under_way_finishes_when_we_stop() {
    let mut served = Served::start().await;
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let (go, gone) = tokio::sync::watch::channel(false);
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let endpoint = listener.local_addr().unwrap();
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, vec![], vec![route_to(&web(80))], &[endpoint]);
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut gone = gone;
        let mut head = [0; 1024];
        let _ = socket.read(&mut head).await.unwrap();
        begun.send(()).unwrap();
        gone.wait_for(|gone| *gone).await.unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    });
    let request = served.send(80, false, get("/", &[]));
    let stop = async {
        begins.recv().await.unwrap();
        served.stop();
        go.send(true).unwrap();
    };
    let ((response, body), ()) = tokio::join!(request, stop);
    assert_eq!((response.status(), body.as_str()), (StatusCode::OK, "ok"));
    assert_eq!(response.headers()["connection"], "close");
}

/// Requests in both versions are told apart from what the type of the body says.
#[tokio::test]
async fn grpc_trailers_pass() {
    let mut served = Served::start().await;
    let endpoint = origin(|_| {
        http::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "5")
            .body(Full::default())
            .unwrap()
    })
    .await;
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, vec![], vec![route_to(&web(80))], &[endpoint]);
    let request: Request<Full<Bytes>> =
        get("/shop.Cart/Get", &[("content-type", "application/grpc"), ("te", "trailers")]);
    let (response, _) = served.send(80, true, request).await;
    assert_eq!(response.headers()["grpc-status"], "5");
    let page = served.metrics.render();
    let line = page.lines().find(|line| line.starts_with("istio_requests_total")).unwrap();
    assert!(line.contains("request_protocol=\"grpc\"") && line.contains("grpc_response_status=\"5\""), "{line}");
}
