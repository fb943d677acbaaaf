//! Requests and streams as `/requests` shows them, one held in each phase.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fairway_core::io::hbone::TunnelIo;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::web;
use crate::config::{
    Authorizer, Before, BodyMode, Counting, Custom, Fault, Limiter, Listener, MILLION, Modes, Parts, PathMatch,
    Permission, Policy, Principal, Processor, Protocol, Retry, Route, Rules, Speech, Text, Value, Verdict,
};
use crate::in_flight::{self, Row};
use crate::testing::{PATIENCE, Served, forwarding, own_address, route_to};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

/// An origin that begins an answer for `/answering`, goes on as something else for `/upgraded`, and says nothing otherwise.
async fn hesitant() -> SocketAddr {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(hesitate(socket));
        }
    });
    address
}

async fn hesitate(mut socket: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = socket.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let answer: &[u8] = if head.contains("/answering?") {
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"
    } else if head.contains("/upgraded?") {
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nab"
    } else {
        b""
    };
    socket.write_all(answer).await.unwrap();
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest).await;
}

fn on(path: &str, mut route: Route) -> Route {
    route.name = format!("shop{path}/0");
    route.matching.path = PathMatch::Exact(path.into());
    route
}

async fn served() -> (Served, SocketAddr) {
    let mut served = Served::start().await;
    let endpoint = hesitant().await;
    served.announce("web", endpoint.ip(), false, |_| {});
    let nobody = TcpListener::bind((own_address(), 0)).await.unwrap().local_addr().unwrap();
    served.announce("nobody", nobody.ip(), false, |_| {});
    served.cluster("nobody", Protocol::Http1, &[nobody]);
    served.cluster("silent", Protocol::Http2, &[endpoint]);
    served.cluster("full", Protocol::Http1, &[endpoint]);
    served.change_cluster("full", |cluster| cluster.bounds.connections = 1);
    let mut delayed = route_to(&web(80));
    delayed.before = Before { fault: Fault { delay: Some((LONG, MILLION)), abort: None }, ..Before::default() };
    let keys = vec![("plan".to_owned(), Value::Fixed("free".to_owned()))];
    let counted = vec![Counting { keys, is_shared: true }];
    let retry = Retry { connect_failure: true, attempts: u32::MAX, back_off: (LONG, LONG), ..Retry::default() };
    let routes = vec![
        on("/delayed", delayed),
        on("/limited", forwarding(route_to(&web(80)), |forward| forward.counted = counted)),
        on("/again", forwarding(route_to("nobody"), |forward| forward.retry = Some(retry))),
        on("/full", route_to("full")),
        route_to(&web(80)),
    ];
    served.http(80, vec![], routes, &[endpoint]);
    served.http(81, vec![], vec![route_to(&web(80))], &[endpoint]);
    served.change_cluster(&web(80), |cluster| cluster.protocol = Protocol::Http1);
    let asks = Policy {
        name: "custom/shop/ask/0".into(),
        permissions: vec![Permission::Path(Text::Exact("/authorizing".into()))],
        principals: vec![Principal::Any],
    };
    let authorizer = Authorizer {
        cluster: "silent".into(),
        speech: Speech::Grpc,
        timeout: LONG,
        fails_open: false,
        status_on_error: StatusCode::FORBIDDEN,
        body: None,
        headers: None,
    };
    let headers = Parts { headers: true, body: BodyMode::Unseen, trailers: false };
    let processor = Processor {
        cluster: "silent".into(),
        timeout: LONG,
        longest: None,
        fails_open: false,
        status_on_error: StatusCode::BAD_GATEWAY,
        modes: Modes { request: headers, response: headers },
        may_override: false,
        kept: None,
    };
    if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
        http.custom = vec![Custom { rules: Rules { verdict: Verdict::Deny, policies: vec![asks] }, authorizer }];
        let (cluster, domain) = ("silent".into(), "shop".to_owned());
        http.limiter = Some(Limiter { cluster, domain, timeout: LONG, status_on_error: None });
    }
    if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(81)).unwrap()) {
        http.processor = Some(Arc::new(processor));
    }
    served.config.absent.insert(web(82));
    served.publish();
    (served, endpoint)
}

/// The first that is as wanted, once there is one.
async fn found(served: &Served, what: &str, is_wanted: impl Fn(&Row) -> bool) -> Row {
    let looking = async {
        loop {
            let shown = in_flight::shown(&served.waypoint, (Instant::now(), SystemTime::now()));
            if let Some(row) = shown.requests.into_iter().find(&is_wanted) {
                return row;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| {
        panic!("{what}: {:#?}", in_flight::shown(&served.waypoint, (Instant::now(), SystemTime::now())))
    })
}

async fn begin(served: &Served, port: u16, path: &str, more: &str) -> TunnelIo {
    let mut stream = served.dial(&format!("10.96.0.1:{port}")).await;
    let request = format!("POST {path}?secret=1 HTTP/1.1\r\nhost: web.shop\r\n{more}");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_request_is_shown_where_it_is() {
    let (served, endpoint) = served().await;
    let whole = "content-length: 4\r\n\r\nbody";
    let switching = "connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n\r\nabcd";
    // Path, port, what follows the host; then phase, route, cluster, endpoint, attempts, status, bytes.
    type Told = (&'static str, Option<&'static str>, Option<&'static str>, bool, u32, Option<u16>, (u64, u64));
    let all = Some("shop/route/0");
    let own = "web.shop.svc.cluster.local:80";
    let rows: [(&str, u16, &str, Told); 8] = [
        ("/authorizing", 80, whole, ("authorizing", None, None, false, 0, None, (0, 0))),
        ("/limited", 80, whole, ("rateLimiting", Some("shop/limited/0"), None, false, 0, None, (0, 0))),
        ("/delayed", 80, whole, ("delayed", Some("shop/delayed/0"), None, false, 0, None, (0, 0))),
        ("/processed", 81, whole, ("processing", all, None, false, 0, None, (0, 0))),
        ("/waiting", 80, whole, ("waitingForAnswer", all, Some(own), true, 1, None, (4, 0))),
        ("/answering", 80, whole, ("answering", all, Some(own), true, 1, Some(200), (4, 3))),
        ("/upgraded", 80, switching, ("upgraded", all, Some(own), true, 1, Some(101), (4, 2))),
        ("/full", 80, whole, ("waitingForAnswer", Some("shop/full/0"), Some("full"), true, 1, None, (4, 0))),
    ];
    let mut streams = Vec::new();
    for (path, port, more, (phase, route, cluster, has_endpoint, attempts, status, bytes)) in rows {
        streams.push(begin(&served, port, path, more).await);
        let is_there = |row: &Row| {
            row.path.as_deref() == Some(path) && row.phase == phase && (row.received_bytes, row.sent_bytes) == bytes
        };
        let row = found(&served, path, is_there).await;
        assert_eq!((row.route.as_deref(), row.cluster.as_deref()), (route, cluster), "{row:?}");
        assert_eq!(
            (row.endpoint, row.attempts, row.status),
            (has_endpoint.then_some(endpoint), attempts, status),
            "{row:?}"
        );
        let about = (row.method.as_deref(), row.authority.as_deref(), row.protocol, row.source_identity.as_str());
        assert_eq!(about, (Some("POST"), Some("web.shop"), "HTTP/1.1", "spiffe://cluster.local/ns/shop/sa/client"));
    }
    // The one connection that there may be is taken.
    streams.push(begin(&served, 80, "/full", whole).await);
    let is_second = |row: &Row| row.path.as_deref() == Some("/full") && row.phase == "waitingForEndpoint";
    assert_eq!(found(&served, "/full", is_second).await.attempts, 1);
    streams.push(begin(&served, 80, "/again", whole).await);
    assert_eq!(found(&served, "/again", |row| row.phase == "backingOff").await.cluster.as_deref(), Some("nobody"));
    let shown = in_flight::shown(&served.waypoint, (Instant::now(), SystemTime::now()));
    assert_eq!((shown.in_flight, shown.left_out, shown.requests.len()), (streams.len(), 0, streams.len()));
    drop(streams);
    nothing_is_left(&served).await;
}

async fn nothing_is_left(served: &Served) {
    let gone = async {
        while in_flight::shown(&served.waypoint, (Instant::now(), SystemTime::now())).in_flight > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("requests of clients that have left to be gone");
}

#[tokio::test]
async fn a_stream_that_nobody_looks_into_is_shown_with_its_bytes() {
    let (served, _) = served().await;
    let listener = TcpListener::bind((own_address(), 8082)).await.unwrap();
    let address = listener.local_addr().unwrap();
    served.announce("raw", address.ip(), false, |_| {});
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"hello").await.unwrap();
        socket
    });
    served.announce("raw", address.ip(), false, |workload| {
        workload.services.insert(
            "shop/web.shop.svc.cluster.local".into(),
            fairway_proto::workload::PortList {
                ports: vec![fairway_proto::workload::Port {
                    service_port: 82,
                    target_port: 8082,
                    ..Default::default()
                }],
            },
        );
    });
    let mut stream = served.dial("10.96.0.1:82").await;
    stream.write_all(b"abc").await.unwrap();
    let _socket = timeout(PATIENCE, server).await.unwrap().unwrap();
    let row = found(&served, "carrying", |row| (row.received_bytes, row.sent_bytes) == (3, 5)).await;
    assert_eq!((row.phase, row.protocol, row.method.as_deref()), ("carrying", "TCP", None));
    assert_eq!((row.service.as_deref(), row.dialled), (Some(crate::testing::WEB), ([10, 96, 0, 1], 82).into()));
    drop(stream);
    nothing_is_left(&served).await;
}
