//! What is passed on as it comes: calls of gRPC in both directions, TLS by the name that is asked for, and silence.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;

use super::web;
use crate::client_hello::tests::{asking_at_length_for, asking_for, asking_twice_for};
use crate::config::{Chain, Listener, Opaque, Policy, Principal, Rules, ServerName, Text, Verdict, Weighted};
use crate::testing::{PATIENCE, Served, get, own_address, route_to};

#[tokio::test]
async fn calls_stream_in_both_directions_and_end_with_trailers() {
    let mut served = Served::start().await;
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let endpoint = listener.local_addr().unwrap();
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, vec![], vec![route_to(&web(80))], &[endpoint]);
    // Says what it hears, trailers included, as it hears it.
    let echo = |request: Request<Incoming>| async move {
        let response = Response::builder().header("content-type", "application/grpc");
        Ok::<_, Infallible>(response.body(request.into_body()).unwrap())
    };
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(socket), service_fn(echo)).await;
    });
    let io = TokioIo::new(served.dial("10.96.0.1:80").await);
    let work = async {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let (frames, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
        let request = Request::post("http://web.shop/shop.Cart/Watch").header("content-type", "application/grpc");
        let request = request.header("te", "trailers").body(StreamBody::new(ReceiverStream::new(receiver))).unwrap();
        let mut body = sender.send_request(request).await.unwrap().into_body();
        for message in ["one", "two", "three"] {
            frames.send(Ok(Frame::data(Bytes::from(message)))).await.unwrap();
            let heard = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(heard, message, "before the next one is said");
        }
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("5"))]);
        frames.send(Ok(Frame::trailers(trailers.clone()))).await.unwrap();
        drop(frames);
        assert_eq!(body.frame().await.unwrap().unwrap().into_trailers().unwrap(), trailers);
        assert!(body.frame().await.is_none());
    };
    tokio::time::timeout(PATIENCE, work).await.unwrap();
    let page = served.metrics.render();
    let line = page.lines().find(|line| line.starts_with("istio_requests_total")).unwrap();
    assert!(line.contains("grpc_response_status=\"5\"") && line.contains("response_code=\"200\""), "{line}");
}

/// hyper knows of an answer in chunks that it has ended only once it was asked for more.
#[tokio::test]
async fn an_answer_in_chunks_has_ended_and_leaves_its_connection_to_the_next() {
    let mut served = Served::start().await;
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let endpoint = listener.local_addr().unwrap();
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, vec![], vec![route_to(&web(80))], &[endpoint]);
    // Takes one connection, and no other.
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while let Ok(byte) = socket.read_u8().await {
            head.push(byte);
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
                socket.write_all(answer).await.unwrap();
            }
        }
    });
    for _ in 0..2 {
        let (response, text) = served.send(80, false, get("/", &[])).await;
        assert_eq!((response.status().as_u16(), &*text), (200, "abc"));
    }
    let page = served.metrics.render();
    let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("istio_requests_total")).collect();
    assert!(lines.len() == 1 && lines[0].contains("response_flags=\"-\"") && lines[0].ends_with(" 2"), "{lines:?}");
}

/// Of server-sent events (HTML §9.2) each arrives before the next one is sent.
#[tokio::test]
async fn events_arrive_as_they_are_sent() {
    const EVENTS: [&str; 3] = ["data: one\n\n", "data: two\n\n", "data: three\n\n"];
    for http2 in [false, true] {
        let mut served = Served::start().await;
        let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        served.announce("web", endpoint.ip(), false, |_| {});
        served.cluster("events", crate::config::Protocol::Http1, &[endpoint]);
        served.http(80, vec![], vec![route_to("events")], &[endpoint]);
        let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel::<()>();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = socket.read(&mut head).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            socket.write_all(head.as_bytes()).await.unwrap();
            for event in EVENTS {
                socket.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.unwrap();
                // Nothing more is sent until that has arrived.
                hears.recv().await.unwrap();
            }
            socket.write_all(b"0\r\n\r\n").await.unwrap();
        });
        let io = TokioIo::new(served.dial("10.96.0.1:80").await);
        let request = Request::get("http://web.shop/events").header("host", "web.shop");
        let request =
            request.header("accept", "text/event-stream").body(http_body_util::Empty::<Bytes>::new()).unwrap();
        let listening = async {
            let answer = if http2 {
                let executor = TokioExecutor::new();
                let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await.unwrap()
            } else {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await.unwrap()
            };
            assert_eq!(answer.headers()["content-type"], "text/event-stream");
            let mut body = answer.into_body();
            for event in EVENTS {
                assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), event);
                heard.send(()).unwrap();
            }
            assert!(body.collect().await.unwrap().to_bytes().is_empty());
        };
        tokio::time::timeout(PATIENCE, listening)
            .await
            .unwrap_or_else(|_| panic!("HTTP/2: {http2}: an event is held back"));
    }
}

/// A server that says its name and then what it hears.
pub(super) async fn named(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = socket.split();
                let _ = writer.write_all(name.as_bytes()).await;
                tokio::io::copy(&mut reader, &mut writer).await
            });
        }
    });
    address
}

pub(super) fn chain(cluster: &str, policies: Vec<Rules>, idle: Option<Duration>) -> Arc<Chain> {
    let clusters = Weighted::new(vec![(1, cluster.to_owned())]).unwrap();
    Arc::new(Chain { policies, silent: Vec::new(), clusters, idle, logs: None })
}

impl Served {
    /// A port whose connections are passed on so.
    pub(super) fn opaque(&mut self, listener: Opaque, clusters: &[(&str, SocketAddr)]) {
        for (name, endpoint) in clusters {
            self.announce(name, endpoint.ip(), false, |_| {});
            self.cluster(name, crate::config::Protocol::Http1, &[*endpoint]);
        }
        self.config.listeners.insert(web(82), Arc::new(Listener::Opaque(listener)));
        self.publish();
    }
}

#[tokio::test]
async fn names_of_tls_lead_to_their_endpoints() {
    let mut served = Served::start().await;
    let everybody = Policy {
        name: "shop/nobody/0".into(),
        permissions: vec![crate::config::Permission::Any],
        principals: vec![Principal::Any],
    };
    let nobody = Rules { verdict: Verdict::Deny, policies: vec![everybody] };
    let listener = Opaque {
        named: vec![
            (ServerName::Below(".example".into()), chain("b", vec![], None)),
            (ServerName::Exact("web.example".into()), chain("a", vec![], None)),
            (ServerName::Exact("no.example".into()), chain("a", vec![nobody], None)),
        ],
        reads_names: true,
        ..Opaque::default()
    };
    let clusters = [("a", named("a").await), ("b", named("b").await)];
    served.opaque(listener, &clusters);
    let rows = [
        ("web.example", Some("a")),
        ("WEB.example", Some("a")),
        ("other.example", Some("b")),
        ("a.web.example", Some("b")),
        ("example", None),
        ("no.example", None),
        ("web.other", None),
    ];
    for (name, expected) in rows {
        let mut stream = served.dial("10.96.0.1:82").await;
        let hello = asking_for(name);
        let (first, second) = hello.split_at(hello.len() / 2);
        let exchange = async {
            stream.write_all(first).await?;
            stream.flush().await?;
            stream.write_all(second).await?;
            let mut heard = vec![0; 1 + hello.len()];
            stream.read_exact(&mut heard).await?;
            std::io::Result::Ok(heard)
        };
        let heard = tokio::time::timeout(PATIENCE, exchange).await.unwrap();
        let expected = expected.map(|name| [name.as_bytes(), &hello].concat());
        assert_eq!(heard.ok(), expected, "{name}: all that was said, and no more");
    }
    let mut stream = served.dial("10.96.0.1:82").await;
    stream.write_all(b"EHLO").await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap().is_err(), "no TLS, nowhere to go");
}

/// Rules may ask for names where all connections lead to one place, and what they say later holds for what is open.
#[tokio::test]
async fn names_of_tls_decide_who_may_connect() {
    let mut served = Served::start().await;
    let endpoint = named("a").await;
    let allowing = |name: &str| {
        let permissions = vec![crate::config::Permission::ServerName(Text::Suffix(name.into()))];
        let policy = Policy { name: "shop/names/0".into(), permissions, principals: vec![Principal::Any] };
        let rules = Rules { verdict: Verdict::Allow, policies: vec![policy] };
        Opaque { others: Some(chain("a", vec![rules], None)), reads_names: true, ..Opaque::default() }
    };
    served.opaque(allowing(".example"), &[("a", endpoint)]);
    for (hello, is_allowed) in [
        (asking_for("web.example"), true),
        (asking_for("WEB.EXAMPLE"), true),
        (asking_for("example"), false),
        (b"EHLO".to_vec(), false),
    ] {
        let mut stream = served.dial("10.96.0.1:82").await;
        stream.write_all(&hello).await.unwrap();
        let heard = tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap();
        assert_eq!(heard.ok(), is_allowed.then_some(b'a'), "{}", String::from_utf8_lossy(&hello));
    }
    let mut stream = served.dial("10.96.0.1:82").await;
    stream.write_all(&asking_for("web.example")).await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap(), b'a');
    served.opaque(allowing(".other"), &[("a", endpoint)]);
    let rest = async { while stream.read_u8().await.is_ok() {} };
    tokio::time::timeout(PATIENCE, rest).await.expect("what is open is cut");
}

/// What cannot be read may ask for any name: it is not taken for what asks for none.
#[tokio::test]
async fn names_of_tls_that_cannot_be_read_are_never_allowed_and_always_refused() {
    let mut served = Served::start().await;
    let endpoint = named("a").await;
    let admin = || crate::config::Permission::ServerName(Text::Exact("admin.example".into()));
    let all_but_admin = crate::config::Permission::Not(Box::new(admin()));
    let rows = [
        ("another name", asking_for("web.example"), true),
        ("the name", asking_for("admin.example"), false),
        ("the name, absolute", asking_for("admin.example."), false),
        ("too long", asking_at_length_for("admin.example"), false),
        ("two names", asking_twice_for("web.example", "admin.example"), false),
        ("no TLS", b"EHLO".to_vec(), true),
    ];
    for (policy, verdict, permission) in
        [("deny", Verdict::Deny, admin()), ("allow all but", Verdict::Allow, all_but_admin)]
    {
        let rule =
            Policy { name: "shop/names/0".into(), permissions: vec![permission], principals: vec![Principal::Any] };
        let others = Some(chain("a", vec![Rules { verdict, policies: vec![rule] }], None));
        served.opaque(Opaque { others, reads_names: true, ..Opaque::default() }, &[("a", endpoint)]);
        for (case, hello, is_allowed) in &rows {
            let mut stream = served.dial("10.96.0.1:82").await;
            let exchange = async {
                stream.write_all(hello).await?;
                stream.read_u8().await
            };
            let heard = tokio::time::timeout(PATIENCE, exchange).await.unwrap();
            assert_eq!(heard.ok(), is_allowed.then_some(b'a'), "{policy}, {case}");
        }
        // Who says no more than half of it may still be understood by the server.
        let (mut stream, hello) = (served.dial("10.96.0.1:82").await, asking_for("admin.example"));
        let exchange = async {
            stream.write_all(&hello[..hello.len() / 2]).await?;
            stream.shutdown().await?;
            stream.read_u8().await
        };
        assert!(tokio::time::timeout(PATIENCE, exchange).await.unwrap().is_err(), "{policy}, half of it");
    }
}

#[tokio::test]
async fn silence_ends_a_connection_where_the_listener_says_so() {
    let mut served = Served::start().await;
    let listener = Opaque { others: Some(chain("a", vec![], Some(Duration::from_millis(300)))), ..Opaque::default() };
    let clusters = [("a", named("a").await)];
    served.opaque(listener, &clusters);
    let mut stream = served.dial("10.96.0.1:82").await;
    let work = async {
        assert_eq!(stream.read_u8().await.unwrap(), b'a');
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        assert!(stream.read_u8().await.is_err());
    };
    tokio::time::timeout(PATIENCE, work).await.unwrap();
}
