//! Bodies over HTTP/2 of which the other side takes nothing: an answer that its client leaves, a request that its endpoint does.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use fairway_core::limits::{self, Limits};
use futures_util::poll;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::web;
use crate::config::{PathMatch, Protocol};
use crate::testing::{PATIENCE, Served, forwarding, own_address, route_to};

/// Bound of silence, or of a route.
const BOUND: Duration = Duration::from_secs(30);
/// How far time leaps at once: tunnels hear of each other meanwhile, and are not given up.
const LEAP: Duration = Duration::from_secs(1);
/// What the client takes of an answer.
const WINDOW: u32 = 16 * 1024;

/// What comes of `work`, while time leaps on whenever nothing else happens.
async fn leaping<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    for _ in 0..100 {
        for _ in 0..2000 {
            if let std::task::Poll::Ready(done) = poll!(&mut work) {
                return done;
            }
            yield_now().await;
        }
        tokio::time::pause();
        tokio::time::advance(LEAP).await;
        tokio::time::resume();
    }
    panic!("it has no end");
}

/// An origin: `/endless` has none, and its connection is told of when it ends; of `/lasting` the second half comes when it is told to.
async fn origin(ended: mpsc::UnboundedSender<()>, go: watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = |mut socket: TcpStream, ended: mpsc::UnboundedSender<()>, mut go: watch::Receiver<bool>| async move {
        let mut head = [0; 4096];
        let count = socket.read(&mut head).await.unwrap();
        if !head[..count].starts_with(b"GET /endless") {
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
            let _ = go.wait_for(|go| *go).await;
            return drop(socket.write_all(b"cd").await);
        }
        socket.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        while socket.write_all(chunk.as_bytes()).await.is_ok() {}
        let _ = ended.send(());
    };
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(answer(socket, ended.clone(), go.clone()));
        }
    });
    address
}

/// A waypoint with this bound of silence, whose route has this timeout; on the route of `/lasting` both may last.
async fn bounded(silence: Duration, timeout: Option<Duration>, endpoint: SocketAddr) -> Served {
    let silence = u64::try_from(silence.as_millis()).unwrap();
    // Time leaps: who is asked for a sign of life would be too late with it.
    let hour = 3_600_000;
    let awake = Limits::default().and(&limits::PING_INTERVAL, hour).and(&limits::PING_TIMEOUT, hour);
    let mut served = Served::within(awake.and(&limits::STREAM_IDLE, silence)).await;
    served.announce("web", endpoint.ip(), false, |_| {});
    let mut lasting = forwarding(route_to(&web(80)), |forward| forward.idle = Some(Duration::ZERO));
    lasting.matching.path = PathMatch::Prefix("/lasting".into());
    let route = forwarding(route_to(&web(80)), |forward| forward.timeout = timeout);
    served.http(80, vec![], vec![lasting, route], &[endpoint]);
    served.log(80, "%REQ(:METHOD)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%");
    served
}

async fn client(served: &Served) -> SendRequest<Bytes> {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(1 << 24);
    let (sender, connection) = builder.handshake(served.dial("10.96.0.1:80").await).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &mut SendRequest<Bytes>, path: &str) -> RecvStream {
    let request = Request::get(format!("http://web.shop{path}")).body(()).unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    let answer = timeout(PATIENCE, answer).await.unwrap().unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    answer.into_body()
}

/// What is left of an answer.
async fn rest(mut body: RecvStream) -> String {
    let mut rest = Vec::new();
    while let Some(piece) = body.data().await {
        rest.extend_from_slice(&piece.unwrap());
    }
    String::from_utf8(rest).unwrap()
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_an_answer_loses_it_and_what_it_holds() {
    let rows = [
        (BOUND, None, "GET 200 SI idle_timeout"),
        // Its bound of silence is for ever.
        (Duration::ZERO, Some(BOUND), "GET 200 UT timed_out"),
    ];
    for (silence, timeout, logged) in rows {
        let (ended, mut hears) = mpsc::unbounded_channel();
        let (go, gone) = watch::channel(false);
        let mut served = bounded(silence, timeout, origin(ended, gone).await).await;
        served.change_cluster(&web(80), |cluster| cluster.protocol = Protocol::Http1);
        let mut sender = client(&served).await;
        let mut neighbour = ask(&mut sender, "/lasting").await;
        assert_eq!(neighbour.data().await.unwrap().unwrap(), "ab", "{logged}");
        let mut untaken = ask(&mut sender, "/endless").await;
        let reset = async {
            loop {
                // What comes is left where it is.
                match untaken.data().await.expect("no end of the answer") {
                    Ok(_) => {}
                    Err(error) => return error,
                }
            }
        };
        let reset = leaping(reset).await;
        assert_eq!((reset.reason(), reset.is_remote()), (Some(h2::Reason::CANCEL), true), "{logged}: {reset:?}");
        tokio::time::timeout(PATIENCE, hears.recv()).await.expect("the endpoint's connection ends, too").unwrap();
        assert_eq!(served.logged.lines(1).await, [logged]);
        let under_way = served.waypoint.in_flight.oldest(9, (Instant::now(), SystemTime::now())).1;
        assert_eq!(under_way, 1, "{logged}: the neighbour");
        go.send(true).unwrap();
        for (body, expected) in [(neighbour, "cd"), (ask(&mut sender, "/lasting").await, "abcd")] {
            assert_eq!(tokio::time::timeout(PATIENCE, rest(body)).await.unwrap(), expected, "{logged}");
        }
        let page = served.metrics.render();
        let flags = logged.split(' ').nth(2).unwrap();
        let counted = page.lines().filter(|line| line.starts_with("istio_requests_total") && line.contains(flags));
        let counted: Vec<&str> = counted.collect();
        assert!(counted.len() == 1 && counted[0].ends_with(" 1"), "{counted:?}");
    }
}

/// An endpoint that takes nothing of a request's body. Says when it has the head, and how the stream has ended.
async fn closed(answers: bool, told: mpsc::UnboundedSender<Option<h2::Reason>>) -> SocketAddr {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut builder = h2::server::Builder::new();
        let mut connection = builder.initial_window_size(0).handshake::<_, Bytes>(socket).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        told.send(None).unwrap();
        let reason = if answers {
            let mut answer = respond.send_response(Response::new(()), false).unwrap();
            poll_fn(|context| answer.poll_reset(context)).await
        } else {
            poll_fn(|context| respond.poll_reset(context)).await
        };
        told.send(reason.ok()).unwrap();
    });
    address
}

#[tokio::test]
async fn an_endpoint_that_takes_nothing_of_a_request_is_left() {
    for (answers, status, logged) in [(false, 504, "POST 504 SI idle_timeout"), (true, 200, "POST 200 SI idle_timeout")]
    {
        let (tells, mut told) = mpsc::unbounded_channel();
        let served = bounded(BOUND, None, closed(answers, tells).await).await;
        let mut sender = client(&served).await;
        let request = Request::post("http://web.shop/").body(()).unwrap();
        let (answer, mut body) = sender.send_request(request, false).unwrap();
        // More than there is room for anywhere.
        body.send_data(Bytes::from(vec![b'x'; 1 << 22]), true).unwrap();
        assert_eq!(timeout(PATIENCE, told.recv()).await.unwrap(), Some(None));
        let answer = leaping(answer).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{logged}");
        let reason = leaping(told.recv()).await.unwrap();
        assert_eq!(reason, Some(h2::Reason::CANCEL), "{logged}: the endpoint's stream");
        assert_eq!(served.logged.lines(1).await, [logged]);
    }
}
