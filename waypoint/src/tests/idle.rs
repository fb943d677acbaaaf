//! Requests of which nothing moves: whose doing it is, what the client is told, and what may last.

use std::net::SocketAddr;
use std::time::Duration;

use fairway_core::io::hbone::TunnelIo;
use fairway_core::limits::{self, Limit, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::web;
use crate::config::{PathMatch, Protocol};
use crate::testing::{PATIENCE, Served, forwarding, own_address, route_to};

/// An origin that reads the head of a request, and says `begins` of an answer; the rest when it is told to.
async fn stalling(begins: &'static str, rest: &'static str, go: watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stall = move |mut socket: TcpStream, mut go: watch::Receiver<bool>| async move {
        let mut head = [0; 4096];
        let _ = socket.read(&mut head).await;
        socket.write_all(begins.as_bytes()).await.unwrap();
        let _ = go.wait_for(|go| *go).await;
        let _ = socket.write_all(rest.as_bytes()).await;
    };
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(stall(socket, go.clone()));
        }
    });
    address
}

/// A waypoint with this bound in place of its default, and an endpoint.
async fn bounded(limit: &Limit, milliseconds: u64, endpoint: SocketAddr) -> Served {
    let mut served = Served::within(Limits::default().and(limit, milliseconds)).await;
    served.announce("web", endpoint.ip(), false, |_| {});
    let mut lasting = forwarding(route_to(&web(80)), |forward| forward.idle = Some(Duration::ZERO));
    lasting.matching.path = PathMatch::Prefix("/lasting".into());
    served.http(80, vec![], vec![lasting, route_to(&web(80))], &[endpoint]);
    served.log(80, "%REQ(:METHOD)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%");
    served
}

async fn said(stream: &mut TunnelIo) -> String {
    let mut heard = Vec::new();
    // It may be cut off.
    let ended = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.is_ok();
    assert!(ended, "no end of {:?}", String::from_utf8_lossy(&heard));
    String::from_utf8_lossy(&heard).into_owned()
}

#[tokio::test]
async fn who_is_silent_is_told_so_or_cut_off() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n";
    let rows = [
        // The client sends no more of its body.
        ("", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nx", "HTTP/1.1 408 ", "POST 408 SI idle_timeout"),
        // The endpoint does not answer, or stops in the middle.
        ("", "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", "HTTP/1.1 504 ", "GET 504 SI idle_timeout"),
        (HEAD, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "HTTP/1.1 200 ", "GET 200 SI idle_timeout"),
    ];
    for (begins, request, expected, logged) in rows {
        let (_go, gone) = watch::channel(false);
        let endpoint = stalling(begins, "", gone).await;
        let served = bounded(&limits::STREAM_IDLE, 100, endpoint).await;
        let mut stream = served.dial("10.96.0.1:80").await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = said(&mut stream).await;
        assert!(answer.starts_with(expected), "{request:?}: {answer:?}");
        assert_eq!(answer.contains("details=\"idle_timeout\""), begins.is_empty(), "{answer:?}");
        assert_eq!(served.logged.lines(1).await, [logged]);
        let page = served.metrics.render();
        assert!(page.lines().any(|line| line.starts_with("istio_requests_total") && line.contains("\"SI\"")), "{page}");
        assert_eq!(served.waypoint.upstreams.waiting(), 0, "what was left unfinished is not used again");
    }
}

#[tokio::test]
async fn a_route_may_let_silence_last() {
    let (go, gone) = watch::channel(false);
    let endpoint = stalling("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab", "cd", gone).await;
    let served = bounded(&limits::STREAM_IDLE, 100, endpoint).await;
    let mut lasting = served.dial("10.96.0.1:80").await;
    lasting.write_all(b"GET /lasting HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut first = [0; 1];
    timeout(PATIENCE, lasting.read_exact(&mut first)).await.unwrap().unwrap();
    let mut cut = served.dial("10.96.0.1:80").await;
    cut.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(said(&mut cut).await.ends_with("\r\n\r\nab"), "as long as it takes for one that began later to be cut off");
    go.send(true).unwrap();
    let rest = said(&mut lasting).await;
    assert!(rest.ends_with("\r\n\r\nabcd"), "{rest:?}");
}

#[tokio::test]
async fn a_head_that_was_begun_has_to_come_to_its_end() {
    const HALF: &str = "GET / HTTP/1.1\r\nhost: a\r\nx: ";
    const REFUSED: &str = "- 408 UT timed_out";
    // By itself, and behind a request.
    let rows = [("", vec![REFUSED]), ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", vec!["GET 200 - via_upstream", REFUSED])];
    for (before, logged) in rows {
        let (_go, gone) = watch::channel(false);
        let endpoint = stalling("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "", gone).await;
        let served = bounded(&limits::REQUEST_HEAD_TIMEOUT, 100, endpoint).await;
        let mut stream = served.dial("10.96.0.1:80").await;
        stream.write_all(format!("{before}{HALF}").as_bytes()).await.unwrap();
        let answer = said(&mut stream).await;
        let last = answer.split("HTTP/1.1 ").last().unwrap();
        assert!(last.starts_with("408 ") && last.contains("details=\"timed_out\""), "{answer:?}");
        assert_eq!(served.logged.lines(logged.len()).await, logged);
    }
}

/// The rest of a body that nobody waits for any more holds no connection to an endpoint.
#[tokio::test]
async fn a_body_that_is_not_ended_ends_with_the_answer() {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let endpoint = listener.local_addr().unwrap();
    let mut served = bounded(&limits::STREAM_IDLE, 0, endpoint).await;
    served.change_cluster(&web(80), |cluster| cluster.protocol = Protocol::Http1);
    let io = hyper_util::rt::TokioIo::new(served.dial("10.96.0.1:80").await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let (frames, receiver) = tokio::sync::mpsc::channel::<Result<_, std::convert::Infallible>>(1);
    let body = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    frames.send(Ok(hyper::body::Frame::data(bytes::Bytes::from("x")))).await.unwrap();
    let request = http::Request::post("http://web.shop/").body(body).unwrap();
    let endpoint_ends = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = [0; 4096];
        let _ = socket.read(&mut head).await.unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        while socket.read(&mut head).await.is_ok_and(|count| count > 0) {}
    };
    let answered = async {
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    };
    timeout(PATIENCE, async { tokio::join!(answered, endpoint_ends) }).await.expect("the endpoint's connection to end");
    // Only now may the client go.
    drop((frames, sender));
}
