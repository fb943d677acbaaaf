//! Endpoints that answer as nobody should, and clients that leave in the middle: what the other end is told, what is logged, and that
//! nothing of it reaches the next request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fairway_core::io::hbone::TunnelIo;
use fairway_core::reason::Reason;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::web;
use crate::config::{PathMatch, Protocol};
use crate::testing::{PATIENCE, Served, answer, own_address, route_to};

const LINE: &str = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%";

/// How a scripted connection goes on after what was said.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Waits,
    Ends,
    Resets,
}

/// The head of a request.
async fn head(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// An origin that answers each request for `/bad` with `says`, and any other as it should. It counts its connections.
async fn scripted(says: Arc<[u8]>, then: Then) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let (address, connections) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let says = Arc::clone(&says);
            tokio::spawn(async move {
                while let Some(head) = head(&mut socket).await {
                    if !head.contains(" /bad ") {
                        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood").await.unwrap();
                        continue;
                    }
                    // Who is not listened to any more cannot say all of it.
                    let _ = socket.write_all(&says).await;
                    match then {
                        Then::Waits => {}
                        Then::Ends => return,
                        Then::Resets => return socket.set_zero_linger().unwrap(),
                    }
                }
            });
        }
    });
    (address, connections)
}

/// All that comes until the connection ends.
async fn said(stream: &mut TunnelIo) -> String {
    let mut heard = Vec::new();
    // It may be cut off.
    let ended = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.is_ok();
    assert!(ended, "no end of {:?}", String::from_utf8_lossy(&heard));
    String::from_utf8_lossy(&heard).into_owned()
}

async fn asked(served: &Served, path: &str) -> String {
    let mut stream = served.dial("10.96.0.1:80").await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    said(&mut stream).await
}

/// A waypoint before this endpoint, and a neighbour at `/neighbour` who has an endpoint of its own.
async fn serving(endpoint: SocketAddr) -> Served {
    let mut served = Served::start().await;
    let neighbour = crate::testing::origin(|_| answer(200, "neighbour")).await;
    served.announce("web", endpoint.ip(), false, |_| {});
    served.announce("neighbour", neighbour.ip(), false, |_| {});
    served.cluster("neighbour", Protocol::Http1, &[neighbour]);
    let mut beside = route_to("neighbour");
    beside.matching.path = PathMatch::Prefix("/neighbour".into());
    served.http(80, vec![], vec![beside, route_to(&web(80))], &[endpoint]);
    served.log(80, LINE);
    served
}

#[tokio::test]
async fn answers_that_cannot_be_trusted_end_with_their_request() {
    const WHOLE: &str = "200 - via_upstream";
    const CUT: &str = "200 UC reset_by_peer";
    const UNREADABLE: &str = "502 UPE answer_malformed";
    const RESET: &str = "503 UC reset_by_peer";
    let bytes = |text: &str| Arc::<[u8]>::from(text.as_bytes());
    let ok = |rest: &str| bytes(&format!("HTTP/1.1 200 OK\r\n{rest}"));
    let storm = "HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000);
    let bomb = format!("x: {}\r\n\r\n", "y".repeat(70_000));
    let many = "x: y\r\n".repeat(101);
    // What it says and does then; the line of the log; whether the next request goes on the same connection.
    let rows = [
        ("sound", ok("content-length: 2\r\n\r\nok"), Then::Waits, WHOLE, true),
        (
            "storm of 100",
            bytes(&format!("{storm}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")),
            Then::Waits,
            WHOLE,
            true,
        ),
        ("one length twice", ok("content-length: 2\r\ncontent-length: 2\r\n\r\nok"), Then::Waits, WHOLE, true),
        ("short", ok("content-length: 5\r\n\r\nok"), Then::Ends, CUT, false),
        ("short and reset", ok("content-length: 5\r\n\r\nok"), Then::Resets, CUT, false),
        (
            "long",
            ok("content-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nbad!!"),
            Then::Waits,
            WHOLE,
            false,
        ),
        ("chunks cut off", ok("transfer-encoding: chunked\r\n\r\n5\r\nok"), Then::Ends, CUT, false),
        (
            "length and chunks",
            ok("content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
            Then::Waits,
            UNREADABLE,
            false,
        ),
        ("two lengths", ok("content-length: 2\r\ncontent-length: 3\r\n\r\nok!"), Then::Waits, UNREADABLE, false),
        ("length of no digits", ok("content-length: 0x2\r\n\r\nok"), Then::Waits, UNREADABLE, false),
        ("header bomb", ok(&bomb), Then::Waits, UNREADABLE, false),
        ("too many headers", ok(&format!("{many}\r\n")), Then::Waits, UNREADABLE, false),
        ("odd header", ok("bad name: 1\r\ncontent-length: 2\r\n\r\nok"), Then::Waits, UNREADABLE, false),
        ("garbage", bytes("SSH-2.0-OpenSSH\r\n\r\n"), Then::Waits, UNREADABLE, false),
        (
            "chunk overflow",
            ok("transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nok"),
            Then::Waits,
            "200 UPE answer_malformed",
            false,
        ),
        (
            "chunk without digits",
            ok("transfer-encoding: chunked\r\n\r\nzz\r\nok"),
            Then::Waits,
            "200 UPE answer_malformed",
            false,
        ),
        (
            "bare line feed in an extension",
            ok("transfer-encoding: chunked\r\n\r\n2;a\nb\r\nok\r\n0\r\n\r\n"),
            Then::Waits,
            "200 UPE answer_malformed",
            false,
        ),
        ("nothing", bytes(""), Then::Ends, RESET, false),
        ("reset", bytes(""), Then::Resets, RESET, false),
        ("half a head and reset", bytes("HTTP/1.1 200 OK\r\ncontent-le"), Then::Resets, RESET, false),
    ];
    for (name, says, then, logged, is_reused) in rows {
        let (endpoint, connections) = scripted(says, then).await;
        let served = serving(endpoint).await;
        let answer = asked(&served, "/bad").await;
        let (status, details) = (logged.split(' ').next().unwrap(), logged.split(' ').next_back().unwrap());
        // A head that was not written yet when the rest turns out to be malformed never is.
        let is_cut = logged.starts_with("200 U") && answer.is_empty();
        assert!(is_cut || answer.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {answer:?}");
        assert_eq!(answer.contains(&format!("details=\"{details}\"")), status != "200", "{name}: {answer:?}");
        assert!(!answer.contains("bad!!"), "{name}: {answer:?}");
        assert!(answer.ends_with("\r\n\r\nok") || logged != WHOLE, "{name}: {answer:?}");
        assert!(!answer.ends_with("\r\n0\r\n\r\n"), "{name}: what is cut off does not look whole: {answer:?}");
        assert_eq!(served.logged.lines(1).await, [logged], "{name}");
        let flags = logged.split(' ').nth(1).unwrap();
        let labels = [format!("response_flags=\"{flags}\""), format!("response_code=\"{status}\"")];
        let page = served.metrics.render();
        let is_counted =
            |line: &str| line.starts_with("istio_requests_total") && labels.iter().all(|it| line.contains(it));
        assert!(page.lines().any(is_counted), "{name}: {page}");

        let next = asked(&served, "/good").await;
        assert!(next.starts_with("HTTP/1.1 200 ") && next.ends_with("\r\n\r\ngood"), "{name}: {next:?}");
        assert_eq!(connections.load(Ordering::SeqCst), if is_reused { 1 } else { 2 }, "{name}");
        assert!(asked(&served, "/neighbour").await.ends_with("\r\n\r\nneighbour"), "{name}");
    }
}

/// An endpoint may also break off while it is being sent something.
#[tokio::test]
async fn an_endpoint_that_resets_in_the_middle_of_a_body_is_told_of() {
    let (endpoint, connections) = scripted(Arc::from(&b""[..]), Then::Resets).await;
    let served = serving(endpoint).await;
    let mut stream = served.dial("10.96.0.1:80").await;
    stream.write_all(b"POST /bad HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nxx").await.unwrap();
    let answer = said(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("details=\"reset_by_peer\""), "{answer:?}");
    assert_eq!(served.logged.lines(1).await, ["503 UC reset_by_peer"]);
    assert!(asked(&served, "/good").await.ends_with("\r\n\r\ngood"));
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

/// What an endpoint does with a stream of HTTP/2.
#[derive(Clone, Copy, Debug)]
enum Breaks {
    Stream(h2::Reason),
    StreamInAnswer(h2::Reason),
    Connection,
}

#[tokio::test]
async fn endpoints_break_off_over_http2_and_others_go_on() {
    use h2::Reason as H2;
    let rows = [
        (Breaks::Stream(H2::INTERNAL_ERROR), "503 UC reset_by_peer"),
        (Breaks::Stream(H2::REFUSED_STREAM), "503 UC reset_by_peer"),
        (Breaks::StreamInAnswer(H2::INTERNAL_ERROR), "200 UC reset_by_peer"),
        (Breaks::Connection, "503 UC reset_by_peer"),
    ];
    for (breaks, logged) in rows {
        let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        let (go, gone) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let gone = gone.clone();
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(socket).await.unwrap();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        if request.uri().path() != "/bad" {
                            let mut body = respond.send_response(Response::new(()), false).unwrap();
                            body.send_data(Bytes::from("good"), true).unwrap();
                            continue;
                        }
                        match breaks {
                            Breaks::Stream(reason) => respond.send_reset(reason),
                            Breaks::StreamInAnswer(reason) => {
                                let mut body = respond.send_response(Response::new(()), false).unwrap();
                                body.send_data(Bytes::from("o"), false).unwrap();
                                let mut gone = gone.clone();
                                tokio::spawn(async move {
                                    gone.wait_for(|gone| *gone).await.unwrap();
                                    body.send_reset(reason);
                                });
                            }
                            Breaks::Connection => return,
                        }
                    }
                });
            }
        });
        let mut served = serving(endpoint).await;
        served.change_cluster(&web(80), |cluster| cluster.protocol = Protocol::Http2);
        let mut stream = served.dial("10.96.0.1:80").await;
        stream.write_all(b"GET /bad HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut first = [0; 9];
        timeout(PATIENCE, stream.read_exact(&mut first)).await.unwrap().unwrap();
        // The head has come, so it is the rest that is broken off.
        go.send(true).unwrap();
        let answer = [&String::from_utf8_lossy(&first), said(&mut stream).await.as_str()].concat();
        assert!(answer.starts_with(&format!("HTTP/1.1 {} ", &logged[..3])), "{breaks:?}: {answer:?}");
        assert_eq!(served.logged.lines(1).await, [logged], "{breaks:?}");
        // Over HTTP/2 a stream that fails is no reason to leave the connection.
        for path in ["/good", "/good", "/neighbour"] {
            assert!(asked(&served, path).await.starts_with("HTTP/1.1 200 "), "{breaks:?}");
        }
    }
}

/// Where a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    InBody,
    BeforeAnswer,
    InAnswer,
}

#[tokio::test]
async fn clients_that_leave_are_told_of_and_so_is_the_endpoint() {
    let rows = [Leaves::InBody, Leaves::BeforeAnswer, Leaves::InAnswer];
    for (leaves, http2) in rows.into_iter().flat_map(|leaves| [(leaves, false), (leaves, true)]) {
        let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        let (heads, mut head_there) = mpsc::unbounded_channel();
        let (ends, mut ended) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (heads, ends) = (heads.clone(), ends.clone());
                tokio::spawn(async move {
                    let Some(_head) = head(&mut socket).await else { return };
                    if matches!(leaves, Leaves::InAnswer) {
                        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nok").await.unwrap();
                    }
                    heads.send(()).unwrap();
                    let mut rest = Vec::new();
                    let _ = socket.read_to_end(&mut rest).await;
                    ends.send(()).unwrap();
                });
            }
        });
        let mut served = serving(endpoint).await;
        served.change_cluster(&web(80), |cluster| cluster.protocol = Protocol::Http1);
        let io = served.dial("10.96.0.1:80").await;
        let body = matches!(leaves, Leaves::InBody);
        let leaving = async {
            if http2 {
                let (sender, connection) = h2::client::handshake(io).await.unwrap();
                let connection = tokio::spawn(connection);
                let request = http::Request::post("http://a/bad").body(()).unwrap();
                let (answer, mut sent) = sender.ready().await.unwrap().send_request(request, !body).unwrap();
                if body {
                    sent.send_data(Bytes::from("xx"), false).unwrap();
                }
                head_there.recv().await.unwrap();
                if matches!(leaves, Leaves::InAnswer) {
                    let mut answer = answer.await.unwrap().into_body();
                    answer.data().await.unwrap().unwrap();
                    drop(answer);
                }
                sent.send_reset(h2::Reason::CANCEL);
                ended.recv().await.unwrap();
                connection.abort();
            } else {
                let mut io = io;
                let length = if body { "content-length: 10\r\n\r\nxx" } else { "\r\n" };
                io.write_all(format!("POST /bad HTTP/1.1\r\nhost: a\r\n{length}").as_bytes()).await.unwrap();
                head_there.recv().await.unwrap();
                if matches!(leaves, Leaves::InAnswer) {
                    let mut answered = Vec::new();
                    while !answered.ends_with(b"\r\n\r\nok") {
                        answered.push(io.read_u8().await.unwrap());
                    }
                }
                drop(io);
                ended.recv().await.unwrap();
            }
        };
        timeout(PATIENCE, leaving).await.unwrap_or_else(|_| panic!("{leaves:?} {http2}: the endpoint is not told"));
        let [line] = served.logged.lines(1).await.try_into().unwrap();
        assert!(line.ends_with(" DC client_left"), "{leaves:?} {http2}: {line}");
        assert_eq!(line.starts_with("200 "), matches!(leaves, Leaves::InAnswer), "{leaves:?} {http2}: {line}");
        assert_eq!(served.waypoint.upstreams.waiting(), 0, "{leaves:?} {http2}");
        assert!(asked(&served, "/neighbour").await.ends_with("\r\n\r\nneighbour"), "{leaves:?} {http2}");
    }
}

/// What only our parser sees is told as everything else is.
#[tokio::test]
async fn heads_that_cannot_be_read_are_told_of() {
    let (endpoint, connections) = scripted(Arc::from(&b""[..]), Then::Ends).await;
    let served = serving(endpoint).await;
    let request = |lines: &str| format!("GET / HTTP/1.1\r\nhost: a\r\n{lines}\r\n");
    let rows = [
        (request("bad name: 1\r\n"), 400, Reason::BadRequest),
        (request("x\r\n"), 400, Reason::BadRequest),
        (request("content-length: 1\r\ncontent-length: 2\r\n"), 400, Reason::BadRequest),
        (request(&"x: y\r\n".repeat(100)), 431, Reason::HeadersTooLarge),
        (request(&format!("x: {}\r\n", "y".repeat(70_000))), 431, Reason::HeadersTooLarge),
    ];
    for (place, (request, status, reason)) in rows.iter().enumerate() {
        let mut stream = served.dial("10.96.0.1:80").await;
        let _ = timeout(Duration::from_secs(60), stream.write_all(request.as_bytes())).await.unwrap();
        let answer = said(&mut stream).await;
        let (shown, label) = (request.get(..80).unwrap_or(request), reason.label());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?}: {answer:?}");
        assert!(answer.contains(&format!("details=\"{label}\"")), "{shown:?}: {answer:?}");
        assert_eq!(served.logged.lines(place + 1).await[place], format!("{status} - {label}"), "{shown:?}");
    }
    let page = served.metrics.render();
    assert!(page.lines().any(|line| line.starts_with("istio_requests_total") && line.contains("\"431\"")), "{page}");
    assert_eq!(connections.load(Ordering::SeqCst), 0);
    // Nor is one behind an answer taken for what is said about the next head.
    let mut stream = served.dial("10.96.0.1:80").await;
    let two = "GET /neighbour HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nbad name: 1\r\n\r\n";
    stream.write_all(two.as_bytes()).await.unwrap();
    let answers = said(&mut stream).await;
    assert!(answers.starts_with("HTTP/1.1 200 ") && answers.contains("\r\n\r\nneighbourHTTP/1.1 400 "), "{answers:?}");
}
