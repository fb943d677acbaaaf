//! Connections that go on as WebSocket and other protocols: what may pass, what they count against, and what ends them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fairway_core::io::hbone::TunnelIo;
use fairway_core::reason::Reason;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{reason_of, web};
use crate::config::{Authorizer, Custom, Listener, Permission, Policy, Principal, Rules, Speech, Text, Verdict};
use crate::testing::{PATIENCE, Served, get, own_address, route_to};

/// An origin that tells the head of each request, in lower case, and answers with `answer`; after 101 it says what it hears.
async fn switching(answer: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(switch(socket, answer, heads.clone()));
        }
    });
    (address, told)
}

async fn switch(mut socket: TcpStream, answer: &'static str, heads: mpsc::UnboundedSender<String>) {
    let Some(head) = head_from(&mut socket).await else { return };
    heads.send(head.to_ascii_lowercase()).unwrap();
    socket.write_all(answer.as_bytes()).await.unwrap();
    if answer.starts_with("HTTP/1.1 101 ") {
        let (mut reader, mut writer) = socket.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    }
}

pub(super) async fn head_from(io: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
const NOTHING: &str = "HTTP/1.1 204 No Content\r\n\r\n";

async fn serving(answer: &'static str) -> (Served, mpsc::UnboundedReceiver<String>) {
    let mut served = Served::start().await;
    let (endpoint, heads) = switching(answer).await;
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, vec![], vec![route_to(&web(80))], &[endpoint]);
    (served, heads)
}

/// Asks for `/chat` and to go on as `upgrade`; what comes of it, and the head of the answer.
async fn ask(served: &Served, upgrade: &str) -> (TunnelIo, String) {
    let mut stream = served.dial("10.96.0.1:80").await;
    let request = format!(
        "GET /chat HTTP/1.1\r\nhost: web\r\nconnection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAMAAABk\r\n{upgrade}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = timeout(PATIENCE, head_from(&mut stream)).await.unwrap().unwrap();
    (stream, head)
}

/// Whether what is said comes back.
pub(super) async fn is_carried(stream: &mut TunnelIo) -> bool {
    let exchange = async {
        stream.write_all(b"frame").await?;
        let mut frame = [0; 5];
        stream.read_exact(&mut frame).await?;
        std::io::Result::Ok(frame)
    };
    timeout(PATIENCE, exchange).await.unwrap().is_ok_and(|frame| &frame == b"frame")
}

/// Waits for its end.
pub(super) async fn is_cut(stream: &mut TunnelIo) -> bool {
    let end = stream.read_u8();
    timeout(PATIENCE, end).await.is_ok_and(|read| read.is_err())
}

fn deny(path: &str) -> Rules {
    let policy = Policy {
        name: "shop/no-chat/0".into(),
        permissions: vec![Permission::Path(Text::Exact(path.into()))],
        principals: vec![Principal::Any],
    };
    Rules { verdict: Verdict::Deny, policies: vec![policy] }
}

#[tokio::test]
async fn the_last_answer_arrives_where_a_request_wanted_to_go_on() {
    let (served, _heads) = serving(NOTHING).await;
    let asks = "GET / HTTP/1.1\r\nhost: web\r\nconnection: upgrade";
    let rows = [
        (format!("{asks}, close\r\nupgrade: h2c\r\n\r\n"), "HTTP/1.1 204 "),
        (
            format!("{asks}\r\nupgrade: h2c\r\n\r\nGET / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: gzip\r\n\r\n"),
            "HTTP/1.1 400 ",
        ),
    ];
    for (requests, last) in rows {
        let mut stream = served.dial("10.96.0.1:80").await;
        stream.write_all(requests.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("an end").expect("a proper end");
        let all = String::from_utf8(all).unwrap();
        assert!(all.contains(last), "{requests:?}: {all}");
    }
}

#[tokio::test]
async fn what_may_not_be_gone_on_as_never_reaches_the_endpoint() {
    let rows = [
        ("upgrade: websocket", Some("websocket")),
        ("upgrade: h2c", None),
        ("upgrade: x, h2c", None),
        ("upgrade: x\r\nupgrade: H2C", None),
        ("upgrade: websocket, h2c", Some("websocket")),
        ("upgrade: TLS/1.0", None),
    ];
    let (served, mut heads) = serving(NOTHING).await;
    for (asked, expected) in rows {
        let (_, answer) = ask(&served, asked).await;
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        let head = heads.recv().await.unwrap();
        let line = head.lines().find_map(|line| line.strip_prefix("upgrade: "));
        assert_eq!(line, expected, "{asked:?} became {head}");
        assert!(!head.contains("http2-settings"), "{head}");
        assert_eq!(head.contains("connection: upgrade"), expected.is_some(), "{head}");
    }
}

#[tokio::test]
async fn a_protocol_that_is_named_is_carried_in_the_version_that_is_named() {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: SPDY/3.1\r\n\r\n";
    let (mut served, mut heads) = serving(answer).await;
    if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
        http.upgrades.allow("spdy/3.1").unwrap();
    }
    served.publish();
    let (mut stream, answer) = ask(&served, "upgrade: SPDY/3.1, SPDY/3, h2c").await;
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("upgrade: SPDY/3.1\r\n"), "{answer}");
    assert!(heads.recv().await.unwrap().contains("\r\nupgrade: spdy/3.1\r\n"));
    assert!(is_carried(&mut stream).await);
    // The endpoint, which was not asked, goes on as something: that is no answer.
    let (_, answer) = ask(&served, "upgrade: SPDY/3").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(!heads.recv().await.unwrap().contains("upgrade"));
}

#[tokio::test]
async fn an_endpoint_goes_on_as_what_it_was_asked_for_or_not_at_all() {
    let unasked = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
    let (served, _heads) = serving(unasked).await;
    let (_, answer) = ask(&served, "upgrade: websocket").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn an_upgraded_connection_counts_until_it_ends() {
    let (mut served, _heads) = serving(SWITCHED).await;
    served.change_cluster(&web(80), |cluster| (cluster.bounds.requests, cluster.bounds.connections) = (1, 1));
    let (mut stream, answer) = ask(&served, "upgrade: websocket").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(is_carried(&mut stream).await);
    let (response, _) = served.send(80, false, get("/", &[])).await;
    assert_eq!(reason_of(&response), Some(Reason::ConnectionLimit), "one request more than there may be");
    let cluster = &served.config.clusters[&web(80)];
    let load = served.waypoint.loads.of(&web(80).as_str().into());
    assert!(load.connect(cluster).is_none(), "one connection more than there may be");
    assert!(!served.metrics.render().contains("response_code=\"101\""), "it is counted when it has ended");

    let freed = load.freed();
    drop(stream);
    timeout(PATIENCE, freed).await.unwrap();
    assert!(load.connect(cluster).is_some());
    let page = served.metrics.render();
    assert!(page.lines().any(|line| line.starts_with("istio_requests_total") && line.contains("\"101\"")), "{page}");
    let sent = page.lines().find(|line| line.starts_with("istio_response_bytes_sum") && line.contains("\"101\""));
    assert!(sent.is_some_and(|line| line.ends_with(" 5")), "{sent:?}");
}

#[tokio::test]
async fn an_upgraded_connection_has_time_to_end_when_we_stop_and_is_cut_then() {
    let (served, _heads) = serving(SWITCHED).await;
    let (mut stream, _) = ask(&served, "upgrade: websocket").await;
    served.stop();
    assert!(is_carried(&mut stream).await, "there is time left");
    served.stop_now();
    assert!(is_cut(&mut stream).await);
}

#[tokio::test]
async fn policy_is_asked_again_about_an_upgraded_connection() {
    let (mut served, _heads) = serving(SWITCHED).await;
    let (mut stream, _) = ask(&served, "upgrade: websocket").await;
    let endpoints = served.config.endpoints[&web(80)].priorities.concat();
    served.http(80, vec![deny("/other")], vec![route_to(&web(80))], &endpoints);
    assert!(is_carried(&mut stream).await, "what is not about it leaves it alone");
    served.http(80, vec![deny("/chat")], vec![route_to(&web(80))], &endpoints);
    assert!(is_cut(&mut stream).await);
}

#[tokio::test]
async fn an_answer_stands_however_the_same_authorizer_would_be_asked_now() {
    let (mut served, _heads) = serving(SWITCHED).await;
    let ask_by = |served: &mut Served, cluster: &str, timeout| {
        let authorizer = Authorizer {
            cluster: cluster.into(),
            speech: Speech::Grpc,
            timeout,
            fails_open: true,
            status_on_error: http::StatusCode::FORBIDDEN,
            body: None,
            headers: None,
        };
        if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
            http.custom = vec![Custom { rules: deny("/chat"), authorizer }];
        }
        served.publish();
    };
    ask_by(&mut served, "one", PATIENCE);
    let (mut stream, answer) = ask(&served, "upgrade: websocket").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "nobody is there, and it fails open: {answer}");
    ask_by(&mut served, "one", PATIENCE * 2);
    assert!(is_carried(&mut stream).await, "another timeout is no other question");
    ask_by(&mut served, "two", PATIENCE);
    assert!(is_cut(&mut stream).await);
}

#[tokio::test]
async fn who_is_silent_for_too_long_is_cut() {
    let (mut served, _heads) = serving(SWITCHED).await;
    served.change_cluster(&web(80), |cluster| cluster.upgraded_idle = Some(Duration::from_millis(50)));
    let (mut stream, head) = ask(&served, "upgrade: websocket").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(is_cut(&mut stream).await);
}

#[tokio::test]
async fn over_http2_a_request_that_names_a_protocol_is_the_same() {
    let (served, mut heads) = serving(SWITCHED).await;
    let io = TokioIo::new(served.dial("10.96.0.1:80").await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let connect = |protocol: Option<&'static str>| {
        let mut request = Request::connect("http://web/chat").body(Empty::<Bytes>::new()).unwrap();
        if let Some(protocol) = protocol {
            request.extensions_mut().insert(Protocol::from_static(protocol));
        }
        request
    };
    let answer = timeout(PATIENCE, sender.send_request(connect(Some("websocket")))).await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("upgrade")), (200, None));
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("get /chat http/1.1") && head.contains("\r\nsec-websocket-key: "), "{head}");
    assert!(head.contains("\r\nupgrade: websocket") && head.contains("\r\nconnection: upgrade"), "{head}");
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    stream.write_all(b"frame").await.unwrap();
    let mut frame = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut frame)).await.unwrap().unwrap();
    assert_eq!(&frame, b"frame");
    // To CONNECT every success would say that it goes on.
    let (refusing, _heads) = serving("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let io = TokioIo::new(refusing.dial("10.96.0.1:80").await);
    let (mut refused, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let answer = timeout(PATIENCE, refused.send_request(connect(Some("websocket")))).await.unwrap().unwrap();
    assert_eq!(answer.status().as_u16(), 502);
    for protocol in [None, Some("h2c")] {
        let answer = timeout(PATIENCE, sender.send_request(connect(protocol))).await.unwrap().unwrap();
        assert_eq!(answer.status().as_u16(), 400, "{protocol:?}");
    }
}
