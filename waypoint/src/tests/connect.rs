//! CONNECT to an endpoint that is a proxy: what may pass, what the client and the endpoint hear, and what ends a tunnel.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fairway_core::io::hbone::TunnelIo;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::upgrades::{head_from, is_carried, is_cut};
use super::web;
use crate::config::{
    Authorizer, Custom, Header, HeaderMatch, Listener, PathMatch, Permission, Policy, Principal, Protocol, Retry,
    Route, Rules, Speech, Text, Verdict,
};
use crate::testing::{PATIENCE, Served, forwarding, own_address, route_to};

type Heads = mpsc::UnboundedReceiver<String>;

const OPENED: &str = "HTTP/1.1 200 OK\r\n\r\n";
const ASKS: &str = "CONNECT db.example:5432 HTTP/1.1\r\nhost: db.example:5432\r\n\r\n";

/// A proxy that tells the head of each request, in lower case, and answers with `answer`; after a success it says what it hears.
async fn proxy(answer: &'static str) -> (SocketAddr, Heads) {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(speak(socket, answer, heads.clone()));
        }
    });
    (address, told)
}

async fn speak(mut socket: TcpStream, answer: &'static str, heads: mpsc::UnboundedSender<String>) {
    let Some(head) = head_from(&mut socket).await else { return };
    heads.send(head.to_ascii_lowercase()).unwrap();
    socket.write_all(answer.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = socket.split();
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
}

/// The same over HTTP/2: it opens every tunnel.
async fn proxy_over_http2() -> (SocketAddr, Heads) {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let heads = heads.clone();
            let service = service_fn(move |mut request: Request<Incoming>| {
                heads.send(format!("{} {}", request.method(), request.uri())).unwrap();
                let client = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let Ok(client) = client.await else { return };
                    let (mut reader, mut writer) = tokio::io::split(TokioIo::new(client));
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                });
                async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
            });
            let serving = server::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service);
            tokio::spawn(serving);
        }
    });
    (address, told)
}

fn tunnels() -> Route {
    let mut route = route_to(&web(80));
    route.matching.path = PathMatch::Connect;
    route
}

/// Has CONNECT carried to this endpoint by these rules.
fn carry(served: &mut Served, policies: Vec<Rules>, route: Route, endpoint: SocketAddr) {
    served.http(80, policies, vec![route], &[endpoint]);
    change(served, |http| http.upgrades.allow("connect").unwrap());
}

fn change(served: &mut Served, change: impl FnOnce(&mut crate::config::Http)) {
    if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
        change(http);
    }
    served.publish();
}

async fn serving(answer: &'static str) -> (Served, SocketAddr, Heads) {
    let mut served = Served::start().await;
    let (endpoint, heads) = proxy(answer).await;
    served.announce("web", endpoint.ip(), false, |_| {});
    carry(&mut served, vec![], tunnels(), endpoint);
    (served, endpoint, heads)
}

/// Says this; the head of the answer.
async fn ask(served: &Served, request: &str) -> (TunnelIo, String) {
    let mut stream = served.dial("10.96.0.1:80").await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = timeout(PATIENCE, head_from(&mut stream)).await.unwrap().unwrap();
    (stream, head)
}

/// What comes until the end.
async fn rest(stream: &mut TunnelIo) -> String {
    let mut all = Vec::new();
    let reading = stream.read_to_end(&mut all);
    timeout(PATIENCE, reading).await.expect("an end").expect("a proper end");
    String::from_utf8(all).unwrap()
}

fn set(verdict: Verdict, permission: Permission) -> Rules {
    let policy = Policy { name: "shop/p/0".into(), permissions: vec![permission], principals: vec![Principal::Any] };
    Rules { verdict, policies: vec![policy] }
}

fn header(name: Header, value: &str) -> Permission {
    Permission::Header(HeaderMatch { name, value: Text::Exact(value.into()) })
}

#[tokio::test]
async fn a_tunnel_is_the_endpoints_to_open() {
    // As old proxies answer; what it says of content means nothing (RFC 9110 §9.3.6).
    let old =
        "HTTP/1.0 200 Connection established\r\ncontent-length: 7\r\ntransfer-encoding: chunked\r\nvia: squid\r\n\r\n";
    let (mut served, _, mut heads) = serving(old).await;
    served.log(80, "%REQ(:METHOD)% %REQ(:AUTHORITY)% %RESPONSE_CODE% %BYTES_RECEIVED% %BYTES_SENT% %ROUTE_NAME%");
    let request = "CONNECT db.example:5432 HTTP/1.1\r\nhost: elsewhere\r\ncontent-length: 0\r\nproxy-authorization: Basic x\r\n\
        connection: keep-alive, x-mine\r\nx-mine: 1\r\nupgrade: h2c\r\n\r\n";
    let (mut stream, answer) = ask(&served, request).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("via: squid\r\n"), "{answer}");
    for name in ["content-length", "transfer-encoding", "connection"] {
        assert!(!answer.contains(name), "{answer}");
    }
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("connect db.example:5432 http/1.1\r\n"), "{head}");
    assert!(
        head.contains("\r\nhost: db.example:5432\r\n") && head.contains("proxy-authorization: basic x\r\n"),
        "{head}"
    );
    for name in ["content-length", "x-mine", "upgrade", "elsewhere"] {
        assert!(!head.contains(name), "{head}");
    }
    assert!(is_carried(&mut stream).await);
    assert!(!served.metrics.render().contains("response_code=\"200\""), "it is counted when it has ended");
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, "", "one end after the other");
    assert_eq!(served.logged.lines(1).await, ["CONNECT db.example:5432 200 5 5 shop/route/0"]);
}

#[tokio::test]
async fn bytes_behind_connect_are_for_the_tunnel_or_for_nobody() {
    let (mut served, endpoint, mut heads) = serving(OPENED).await;
    let (mut stream, answer) = ask(&served, &format!("{ASKS}early")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let mut early = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut early)).await.unwrap().unwrap();
    assert_eq!(&early, b"early");
    heads.recv().await.unwrap();

    // Whoever they come from may not be who sends requests on this connection.
    let behind = format!("{ASKS}GET /smuggled HTTP/1.1\r\nhost: web\r\n\r\n");
    carry(&mut served, vec![set(Verdict::Deny, header(Header::Method, "CONNECT"))], tunnels(), endpoint);
    let (mut stream, answer) = ask(&served, &behind).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("connection: close\r\n"), "{answer}");
    assert!(!rest(&mut stream).await.contains("HTTP/1.1"), "one answer");
    served.http(80, vec![], vec![route_to(&web(80)), tunnels()], &[endpoint]);
    let (mut stream, answer) = ask(&served, &behind).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let text = rest(&mut stream).await;
    assert!(!text.contains("HTTP/1.1"), "one answer: {text}");
    assert!(heads.try_recv().is_err(), "nothing of it reaches an endpoint");
}

#[tokio::test]
async fn what_is_no_host_and_port_or_has_content_goes_no_further() {
    let (mut served, endpoint, mut heads) = serving(OPENED).await;
    served.log(80, "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS%");
    let rows = [
        "CONNECT /secret HTTP/1.1\r\nhost: a:1\r\n\r\n",
        "CONNECT * HTTP/1.1\r\nhost: a:1\r\n\r\n",
        "CONNECT http://a:1/ HTTP/1.1\r\nhost: a:1\r\n\r\n",
        "CONNECT a HTTP/1.1\r\nhost: a\r\n\r\n",
        "CONNECT a:0 HTTP/1.1\r\nhost: a:0\r\n\r\n",
        "CONNECT a:99999 HTTP/1.1\r\nhost: a\r\n\r\n",
        "CONNECT me@a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\nhost: b:1\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\ncontent-length: 3\r\n\r\nabc",
        "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ];
    for request in rows {
        let (mut stream, answer) = ask(&served, request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request:?}: {answer}");
        assert!(!rest(&mut stream).await.contains("HTTP/1.1"), "{request:?}");
    }
    assert_eq!(served.logged.lines(rows.len()).await, vec!["400 bad_request"; rows.len()]);
    assert!(heads.try_recv().is_err());
    served.http(80, vec![], vec![tunnels()], &[endpoint]);
    let (mut stream, answer) = ask(&served, ASKS).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    rest(&mut stream).await;
    assert!(heads.try_recv().is_err(), "nobody has allowed it");
}

#[tokio::test]
async fn any_other_answer_is_an_ordinary_one() {
    let asks_for_more =
        "HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\ncontent-length: 4\r\n\r\nwhom";
    let rows = [
        (asks_for_more, "HTTP/1.1 407 ", "whom"),
        ("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 2\r\n\r\nno", "HTTP/1.1 502 ", "no"),
        ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "HTTP/1.1 503 ", ""),
        // Of which nobody knows whether it opens anything.
        ("HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 502 ", ""),
    ];
    for (answer, expected, body) in rows {
        let (served, _, _heads) = serving(answer).await;
        let (mut stream, head) = ask(&served, ASKS).await;
        assert!(head.starts_with(expected) && head.contains("connection: close\r\n"), "{head}");
        assert_eq!(head.contains("proxy-authenticate: Basic\r\n"), answer == asks_for_more, "{head}");
        let text = rest(&mut stream).await;
        assert!(body.is_empty() || text == body, "{text}");
    }
}

#[tokio::test]
async fn policies_are_asked_about_the_method_and_the_authority_and_again_later() {
    let host = |verdict| set(verdict, header(Header::Authority, "db.example:5432"));
    let path = |verdict, text: &str| set(verdict, Permission::Path(Text::Prefix(text.into())));
    let rows = [
        ("allow the host", host(Verdict::Allow), true),
        ("deny the host", host(Verdict::Deny), false),
        ("allow another host", set(Verdict::Allow, header(Header::Authority, "db.example:22")), false),
        ("allow every path", path(Verdict::Allow, ""), false),
        ("deny a path", path(Verdict::Deny, "/admin"), false),
    ];
    let (mut served, endpoint, _heads) = serving(OPENED).await;
    for (name, rules, expected) in rows {
        carry(&mut served, vec![rules], tunnels(), endpoint);
        let (_, answer) = ask(&served, ASKS).await;
        assert_eq!(answer.starts_with("HTTP/1.1 200 "), expected, "{name}: {answer}");
        assert!(expected || answer.starts_with("HTTP/1.1 403 "), "{name}: {answer}");
    }
    carry(&mut served, vec![], tunnels(), endpoint);
    let (mut stream, _) = ask(&served, ASKS).await;
    served.http(80, vec![], vec![tunnels()], &[endpoint]);
    assert!(is_carried(&mut stream).await, "what is not allowed any more is not taken away");
    carry(&mut served, vec![host(Verdict::Deny)], tunnels(), endpoint);
    assert!(is_cut(&mut stream).await);
}

#[tokio::test]
async fn who_asks_over_http_is_not_asked_about_what_has_no_path_and_nothing_passes() {
    let (mut served, _, mut heads) = serving(OPENED).await;
    let authorizer = Authorizer {
        cluster: "nobody".into(),
        speech: Speech::Http {
            prefix: String::new(),
            add: Vec::new(),
            onward: Vec::new(),
            refused: None,
            passed: Vec::new(),
        },
        timeout: PATIENCE,
        fails_open: true,
        status_on_error: StatusCode::FORBIDDEN,
        body: None,
        headers: None,
    };
    let rules = set(Verdict::Deny, header(Header::Method, "CONNECT"));
    change(&mut served, |http| http.custom = vec![Custom { rules, authorizer }]);
    let (_, answer) = ask(&served, ASKS).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "though it fails open: {answer}");
    assert!(heads.try_recv().is_err());
}

#[tokio::test]
async fn what_asks_for_a_path_is_no_route_of_a_tunnel() {
    let (mut served, endpoint, mut heads) = serving(OPENED).await;
    carry(&mut served, vec![], route_to(&web(80)), endpoint);
    let (_, answer) = ask(&served, ASKS).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(heads.try_recv().is_err());
}

#[tokio::test]
async fn nothing_is_tried_again_once_a_tunnel_has_begun() {
    let (mut served, endpoint, mut heads) = serving(OPENED).await;
    let retry = Retry { statuses: vec![StatusCode::OK], attempts: 3, ..Retry::default() };
    carry(&mut served, vec![], forwarding(tunnels(), |forward| forward.retry = Some(retry)), endpoint);
    let (mut stream, answer) = ask(&served, ASKS).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(is_carried(&mut stream).await);
    heads.recv().await.unwrap();
    assert!(heads.try_recv().is_err(), "it is asked once");
}

#[tokio::test]
async fn a_tunnel_ends_as_upgraded_connections_do() {
    let (mut served, _, _heads) = serving(OPENED).await;
    let (mut lasting, _) = ask(&served, ASKS).await;
    served.change_cluster(&web(80), |cluster| cluster.upgraded_idle = Some(Duration::from_millis(50)));
    let (mut silent, answer) = ask(&served, ASKS).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(is_cut(&mut silent).await);
    served.stop();
    assert!(is_carried(&mut lasting).await, "there is time left");
    served.stop_now();
    assert!(is_cut(&mut lasting).await);
}

/// Asks over HTTP/2; whether what is said comes back.
async fn over_http2(served: &Served) -> bool {
    let io = TokioIo::new(served.dial("10.96.0.1:80").await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request =
        Request::builder().method(Method::CONNECT).uri("db.example:5432").body(Empty::<Bytes>::new()).unwrap();
    let answer = timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    stream.write_all(b"frame").await.unwrap();
    let mut frame = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut frame)).await.unwrap().unwrap();
    stream.shutdown().await.unwrap();
    let mut nothing = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut nothing)).await.unwrap().unwrap();
    &frame == b"frame" && nothing.is_empty()
}

#[tokio::test]
async fn versions_of_clients_and_endpoints_do_not_matter() {
    let (mut served, _, mut heads) = serving(OPENED).await;
    served.change_cluster(&web(80), |cluster| cluster.protocol = Protocol::Http1);
    assert!(over_http2(&served).await);
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("connect db.example:5432 http/1.1\r\n"), "{head}");

    let (endpoint, mut heads) = proxy_over_http2().await;
    served.announce("other", endpoint.ip(), false, |_| {});
    carry(&mut served, vec![], tunnels(), endpoint);
    assert!(over_http2(&served).await, "as the client speaks");
    assert_eq!(heads.recv().await.unwrap(), "CONNECT db.example:5432");
    served.change_cluster(&web(80), |cluster| cluster.protocol = Protocol::Http2);
    let (mut stream, answer) = ask(&served, ASKS).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(is_carried(&mut stream).await);
    assert_eq!(heads.recv().await.unwrap(), "CONNECT db.example:5432");
}
