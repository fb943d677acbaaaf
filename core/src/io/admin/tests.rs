//! Tests of `admin`.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::drain;
use super::*;

async fn started(router: Router) -> (SocketAddr, drain::Trigger, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, handle) = drain::new();
    let server = tokio::spawn(serve(listener, router, Limits::default(), handle));
    (address, trigger, server)
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

fn router() -> Router {
    Router::new()
        .get("/ready", |_| async { text(StatusCode::OK, "ready\n") })
        .post("/logging", |request: Request| async move {
            text(StatusCode::OK, request.parameter("level").unwrap_or_default())
        })
        .any("/dump", |_| async { json(&[1, 2]) })
}

#[tokio::test]
async fn routes_by_path_and_method() {
    let (address, _trigger, _server) = started(router()).await;
    let rows = [
        ("GET /ready", "200 OK", "ready\n"),
        ("HEAD /ready", "200 OK", ""),
        ("POST /ready", "405 Method Not Allowed", "use GET\n"),
        ("GET /logging", "405 Method Not Allowed", "use POST\n"),
        ("POST /logging?level=debug", "200 OK", "debug"),
        ("PUT /dump", "200 OK", "[\n  1,\n  2\n]"),
        ("GET /nothing", "404 Not Found", "no such page; there are: /dump /logging /ready\n"),
        (
            "GET /",
            "200 OK",
            "<!doctype html><title>pages</title><ul>\n<li><a href=\"dump\">/dump</a>\n<li>POST /logging\n\
             <li><a href=\"ready\">/ready</a>\n</ul>\n",
        ),
    ];
    for (line, status, body) in rows {
        let reply = ask(address, &format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{line}: {reply}");
        assert_eq!(reply.split_once("\r\n\r\n").unwrap().1, body, "{line}");
    }
}

#[tokio::test]
async fn whatever_has_no_page_can_have_a_handler() {
    let otherwise =
        |request: Request| async move { text(StatusCode::OK, format!("{} {}", request.method, request.path)) };
    let (address, _trigger, _server) = started(router().otherwise(otherwise)).await;
    for (line, body) in [("GET /", "GET /"), ("PUT /a/b?c", "PUT /a/b"), ("GET /ready", "ready\n")] {
        let reply = ask(address, &format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert_eq!(reply.split_once("\r\n\r\n").unwrap().1, body, "{line}");
    }
}

#[tokio::test]
async fn garbage_is_refused_and_does_not_stop_the_server() {
    let (address, _trigger, _server) = started(router()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[0xff; 256 * 1024]).await.ok();
    let mut reply = Vec::new();
    // A reset is as good an answer as a 400.
    let _ = stream.read_to_end(&mut reply).await;
    let reply = ask(address, "GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

#[tokio::test]
async fn a_drain_ends_idle_connections_and_the_server() {
    let (address, trigger, server) = started(router()).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 1];
    idle.read_exact(&mut first).await.unwrap();
    let outcome = trigger.drain(drain::Mode::Graceful, Duration::from_secs(30)).await;
    assert_eq!(outcome, drain::Outcome::Drained);
    server.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
