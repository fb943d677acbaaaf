//! Clients that mean harm over HTTP/2, inside their tunnel, frame by frame (RFC 9113): what they get, that nothing of it reaches an
//! endpoint as a whole request, and that others are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fairway_core::io::hbone::TunnelIo;
use http::header::HeaderValue;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::web;
use crate::testing::{PATIENCE, Served, answer, get, origin, own_address, route_to};

/// RFC 9113 §3.4, and empty settings.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Headers as literals that nobody remembers (RFC 7541 §6.2.2).
fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in lines {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A usual request with these lines besides.
fn post(more: &[(&str, &str)]) -> Vec<u8> {
    let usual = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    block(&[&usual[..], more].concat())
}

/// How a request ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The head of an answer, which begins so.
    Answered(u8),
    /// Its stream is reset.
    Reset,
    /// The connection ends.
    Closed,
}

/// The bytes of these statuses, which HPACK has in its table (RFC 7541 appendix A) or spells out.
const OK: u8 = 0x88;
const BAD_REQUEST: u8 = 0x8c;
const SPELT: u8 = 0x48;

async fn end(io: &mut TunnelIo) -> End {
    let mut reading = async || {
        loop {
            let mut head = [0; 9];
            if io.read_exact(&mut head).await.is_err() {
                return End::Closed;
            }
            let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap()];
            if io.read_exact(&mut payload).await.is_err() {
                return End::Closed;
            }
            match head[3] {
                HEADERS => return End::Answered(payload[0]),
                RST_STREAM => return End::Reset,
                GOAWAY => return End::Closed,
                _ => {}
            }
        }
    };
    timeout(PATIENCE, reading()).await.expect("an end")
}

async fn serving() -> (Served, Arc<AtomicUsize>) {
    let mut served = Served::start().await;
    let whole = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&whole);
    let endpoint = origin(move |request| {
        // Bodies that broke off are read as empty.
        if request[":method"] == "POST" && !request[":body"].is_empty() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        answer(200, "")
    })
    .await;
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, vec![], vec![route_to(&web(80))], &[endpoint]);
    served.log(80, "%REQ(:METHOD)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%");
    (served, whole)
}

#[tokio::test]
async fn requests_that_http2_does_not_allow_reach_nobody() {
    let (served, whole) = serving().await;
    let usual = |lines: Vec<u8>| [frame(HEADERS, END_HEADERS, 1, &lines), frame(DATA, END_STREAM, 1, b"ok")].concat();
    // Literal with incremental indexing of 4,000 bytes, and then many times its index (RFC 7541 §7.3).
    let mut bomb = [&post(&[])[..], b"\x40\x01a\x7f\xa1\x1e"].concat();
    bomb.extend([b'x'; 4_000]);
    bomb.extend([0x80 | 62; 10_000]);
    let mut flood = frame(HEADERS, 0, 1, &post(&[]));
    for _ in 0..10_000 {
        flood.extend(frame(CONTINUATION, 0, 1, b"\0\x01a\x01b"));
    }
    let mut rapid = Vec::new();
    for index in 0..2_000 {
        rapid.extend(frame(HEADERS, END_HEADERS, 2 * index + 1, &post(&[])));
        rapid.extend(frame(RST_STREAM, 0, 2 * index + 1, &8_u32.to_be_bytes()));
    }
    let path = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/"), (":path", "/b")];
    let late = [(":method", "POST"), (":scheme", "http"), ("x", "y"), (":authority", "a"), (":path", "/")];
    let rows = [
        ("sound", usual(post(&[("content-length", "2")]))),
        ("longer than its length", usual(post(&[("content-length", "1")]))),
        ("shorter than its length", usual(post(&[("content-length", "5")]))),
        ("two lengths", usual(post(&[("content-length", "2"), ("content-length", "3")]))),
        ("length of no digits", usual(post(&[("content-length", "+2")]))),
        ("transfer-encoding", usual(post(&[("transfer-encoding", "chunked")]))),
        ("connection", usual(post(&[("connection", "x")]))),
        ("line end in a value", usual(post(&[("x", "y\r\nz: 1")]))),
        ("zero byte in a value", usual(post(&[("x", "y\0")]))),
        ("line end in a name", usual(post(&[("x\r\nz", "y")]))),
        ("capital letters", usual(post(&[("X", "y")]))),
        ("two paths", usual(block(&path))),
        ("late pseudo header", usual(block(&late))),
        ("another host", usual(post(&[("host", "b")]))),
        ("no path", usual(block(&path[..3]))),
        ("bomb", frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)),
        ("flood", flood),
        ("rapid reset", rapid),
    ];
    let mut sound = 0;
    for (name, bytes) in rows {
        let mut io = served.dial("10.96.0.1:80").await;
        io.write_all(GREETING).await.unwrap();
        // It may be left before it has said all.
        let _ = timeout(PATIENCE, io.write_all(&bytes)).await.expect("to be read or left");
        let mut found = end(&mut io).await;
        while name == "rapid reset" && found == End::Reset {
            found = end(&mut io).await;
        }
        let is_right = match name {
            "sound" => found == End::Answered(OK),
            "another host" => found == End::Answered(BAD_REQUEST),
            "flood" | "rapid reset" => found == End::Closed,
            "bomb" => matches!(found, End::Answered(SPELT) | End::Closed),
            // The library decides whether it is the stream's fault or the connection's.
            _ => matches!(found, End::Reset | End::Closed),
        };
        assert!(is_right, "{name}: {found:?}");
        sound += usize::from(name == "sound");
        let (response, _) = served.send(80, true, get("/", &[])).await;
        assert_eq!(response.status().as_u16(), 200, "{name}: a neighbour is served");
        assert_eq!(whole.load(Ordering::SeqCst), sound, "{name}");
    }
    let is_there = |lines: &[String], line: &str| lines.iter().any(|logged| logged == line);
    let mut count = 1;
    loop {
        let lines = served.logged.lines(count).await;
        if ["POST 400 - bad_request", "- 400 - bad_request"].iter().all(|line| is_there(&lines, line)) {
            break;
        }
        count = lines.len() + 1;
    }
}

/// Trailers that say what only headers may are left out: an endpoint might merge them.
#[tokio::test]
async fn trailers_say_nothing_that_frames_or_names() {
    let mut served = Served::start().await;
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let endpoint = listener.local_addr().unwrap();
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, vec![], vec![route_to(&web(80))], &[endpoint]);
    let (told, mut trailers_there) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let told = told.clone();
            async move {
                let whole = request.into_body().collect().await.unwrap();
                told.send(whole.trailers().cloned().unwrap()).unwrap();
                Ok::<_, std::convert::Infallible>(answer(200, ""))
            }
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(socket), service).await;
    });
    let io = TokioIo::new(served.dial("10.96.0.1:80").await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let forbidden = ["content-length", "host", "authorization", "cookie", "x-forwarded-client-cert", "x-forwarded-for"];
    let lines = forbidden.iter().chain(&["x-checksum"]);
    let trailers: HeaderMap = lines.map(|name| (name.parse().unwrap(), HeaderValue::from_static("2"))).collect();
    let frames = [Frame::data(bytes::Bytes::from("ok")), Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, std::convert::Infallible>)));
    let request = Request::post("http://web.shop/").body(body).unwrap();
    let exchange = async {
        assert_eq!(sender.send_request(request).await.unwrap().status().as_u16(), 200);
        trailers_there.recv().await.unwrap()
    };
    let arrived = timeout(PATIENCE, exchange).await.unwrap();
    assert_eq!(arrived.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["x-checksum"]);
}
