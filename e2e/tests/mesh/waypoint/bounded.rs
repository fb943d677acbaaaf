//! What there may be on the way through a waypoint: whoever sends stands still when whoever receives does, and many
//! connections that nobody looks into are carried at once.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread;

use bytes::Bytes;
use fairway_core::limits;
use fairway_lab::Lab;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::{CLIENT, WAYPOINT, WAYPOINT_IDENTITY, enter, labs};

const WORLD: &str = include_str!("bounded.yaml");
const STORE: &str = "shop/store";
const PIECE: &[u8] = &[b'x'; 64 << 10];
/// What is sent once the receiver reads on.
const REST: u64 = 8 << 20;
/// Looks in a row between which nothing may have gone out, 2 s; whoever is merely slow for as long passes for one who stands still.
const LOOKS: usize = 80;
/// More than one tunnel carries.
const CONNECTIONS: usize = 500;
/// What a side of HTTP/2 that is not the mesh's lets come on a stream and on a connection; the waypoint's are the same.
const WINDOWS: (u32, u32) = (256 << 10, 1 << 20);
/// What a side that sends keeps by itself, as hyper does.
const SEND_BUFFER: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    /// The port of the service, and that of its pod.
    fn ports(self) -> (u16, u16) {
        match self {
            Self::Http1 => (80, 8080),
            Self::Http2 => (81, 8081),
        }
    }
}

/// A body on its way.
struct Flow {
    /// Bytes that its sender has got rid of.
    sent: AtomicU64,
    /// When it ends.
    until: AtomicU64,
    /// Whether the receiver reads.
    reads: watch::Sender<bool>,
}

/// The server of one protocol.
#[derive(Default)]
struct Server {
    /// What it sends or takes now.
    flow: Mutex<Option<Arc<Flow>>>,
    /// When it ends.
    over: Notify,
}

/// Ends a server, also when the test fails.
struct Ends<'a>(&'a Notify);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Flow {
    /// That nobody reads, and that ends, if nothing else stops it, after so many bytes.
    fn standing(until: u64) -> Arc<Self> {
        let (sent, until) = (AtomicU64::new(0), AtomicU64::new(until));
        Arc::new(Self { sent, until, reads: watch::Sender::new(false) })
    }

    async fn read(&self, mut body: Incoming) -> u64 {
        self.reads.subscribe().wait_for(|reads| *reads).await.unwrap();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame.unwrap().data_ref().map_or(0, Bytes::len);
        }
        u64::try_from(length).unwrap()
    }
}

/// The sending side of a flow: it gives whatever is asked for.
struct Sender(Arc<Flow>);

impl Body for Sender {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let left = self.0.until.load(Ordering::SeqCst).saturating_sub(self.0.sent.load(Ordering::SeqCst));
        let piece = &PIECE[..PIECE.len().min(usize::try_from(left).unwrap())];
        self.0.sent.fetch_add(u64::try_from(piece.len()).unwrap(), Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece)))).filter(|_| !piece.is_empty()))
    }
}

/// Bytes that fit between sender and receiver, by the limits that are in force: the sockets and HTTP of both, the node proxies,
/// and the waypoint.
fn bound() -> u64 {
    let largest = |name: &str| -> u64 {
        let three = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        three.split_whitespace().last().unwrap().parse().unwrap()
    };
    // Client to node proxy, to waypoint, to node proxy, to server.
    let sockets = 4 * (largest("tcp_wmem") + largest("tcp_rmem"));
    // Into the waypoint and out of it.
    let tunnel = [&limits::CLIENT_SEND_BUFFER, &limits::STREAM_WINDOW, &limits::COPY_BUFFER_LARGE];
    let tunnels = 2 * tunnel.iter().map(|limit| limit.default).sum::<u64>();
    let http = 2 * (SEND_BUFFER + u64::from(WINDOWS.1));
    sockets + tunnels + http
}

#[test]
fn nobody_on_the_way_holds_more_than_limits_say() {
    let test = "bounded";
    if !labs::can_enter(test) {
        return;
    }
    let Some(lab) = labs::mesh_with(test, WORLD) else { return };
    lab.wait_captured(&[(CLIENT, true), (STORE, true), (WAYPOINT, false)]).unwrap();
    let services = lab.status().unwrap().services;
    let address: IpAddr = services.iter().find(|it| it.name == "store").unwrap().addresses[0].parse().unwrap();
    many_connections_are_carried_at_once(&lab, address);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        who_sends_stands_still_with_who_receives(&lab, address, protocol);
    }
}

fn many_connections_are_carried_at_once(lab: &Lab, address: IpAddr) {
    enter::pod(lab, CLIENT, async || {
        let mut held = Vec::new();
        for number in 0..CONNECTIONS {
            let mut stream = TcpStream::connect((address, 7000)).await.unwrap();
            stream.write_u64(u64::try_from(number).unwrap()).await.unwrap();
            held.push(stream);
        }
        // All are open before the first is read.
        for (number, stream) in held.iter_mut().enumerate() {
            assert_eq!(stream.read_u64().await.unwrap(), u64::try_from(number).unwrap());
        }
        for stream in &mut held {
            stream.write_u64(u64::MAX).await.unwrap();
            assert_eq!(stream.read_u64().await.unwrap(), u64::MAX);
        }
    });
}

fn who_sends_stands_still_with_who_receives(lab: &Lab, address: IpAddr, protocol: Protocol) {
    let server = Arc::new(Server::default());
    let listener = enter::pod(lab, STORE, async || {
        TcpListener::bind(("::", protocol.ports().1)).await.unwrap().into_std().unwrap()
    });
    thread::scope(|scope| {
        let serving = Arc::clone(&server);
        scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, protocol, &serving) => {}
                    () = serving.over.notified() => {}
                }
            });
        });
        let _ends = Ends(&server.over);
        for method in [Method::POST, Method::GET] {
            let most = bound();
            let flow = Flow::standing(most + 1);
            *server.flow.lock().unwrap() = Some(Arc::clone(&flow));
            stands_still(lab, (address, protocol, method), &flow, most);
        }
    });
}

/// One body: its sender stands still before there is more than `most` of it, and then all of it arrives.
fn stands_still(lab: &Lab, (address, protocol, method): (IpAddr, Protocol, Method), flow: &Arc<Flow>, most: u64) {
    let what = format!("{method} over {protocol:?}");
    thread::scope(|scope| {
        let asked = Arc::clone(flow);
        let client = scope.spawn(|| enter::pod(lab, CLIENT, async || ask(address, protocol, method, asked).await));
        let (mut last, mut looks) = (0, 0);
        let stands = lab.wait_until(&format!("{what}: the sender to stand still"), || {
            let sent = flow.sent.load(Ordering::SeqCst);
            looks = if sent == last { looks + 1 } else { 0 };
            last = sent;
            if sent > 0 && looks >= LOOKS { Ok(sent) } else { Err(format!("{sent} bytes sent")) }
        });
        // Whatever came of it, both ends have to come to theirs.
        let until = stands.as_ref().map_or(0, |sent| sent + REST);
        flow.until.store(until, Ordering::SeqCst);
        flow.reads.send_replace(true);
        let (arrived, stands) = (client.join().unwrap(), stands.unwrap());
        assert!(stands <= most, "{what}: {stands} bytes are on the way, and no more than {most} should be");
        assert_eq!(arrived, until, "{what}: all of it arrives");
    });
}

/// Serves connections. What is posted is read when the flow says so, and counted; who gets is sent the flow.
async fn serve(listener: std::net::TcpListener, protocol: Protocol, server: &Arc<Server>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let io = TokioIo::new(listener.accept().await.unwrap().0);
        let server = Arc::clone(server);
        let service = service_fn(move |request: Request<Incoming>| answer(request, Arc::clone(&server)));
        tokio::spawn(async move {
            // How a connection ends is the client's to judge.
            let _ = match protocol {
                Protocol::Http1 => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
                Protocol::Http2 => {
                    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    builder.initial_stream_window_size(WINDOWS.0).initial_connection_window_size(WINDOWS.1);
                    builder.serve_connection(io, service).await
                }
            };
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    server: Arc<Server>,
) -> Result<Response<Either<Full<Bytes>, Sender>>, Infallible> {
    let flow = server.flow.lock().unwrap().clone().unwrap();
    let shown = &request.headers()["x-forwarded-client-cert"];
    assert!(shown.to_str().unwrap().contains(WAYPOINT_IDENTITY), "it came through the waypoint: {shown:?}");
    let body = match *request.method() {
        Method::POST => Either::Left(Full::new(Bytes::from(flow.read(request.into_body()).await.to_string()))),
        _ => Either::Right(Sender(flow)),
    };
    Ok(Response::new(body))
}

/// Sends the flow, or has it sent, and says how many bytes have arrived.
async fn ask(address: IpAddr, protocol: Protocol, method: Method, flow: Arc<Flow>) -> u64 {
    let io = TokioIo::new(TcpStream::connect((address, protocol.ports().0)).await.unwrap());
    let is_sent = method == Method::POST;
    let body = if is_sent { Either::Left(Sender(Arc::clone(&flow))) } else { Either::Right(Full::<Bytes>::default()) };
    let request = Request::builder().method(method);
    let request = match protocol {
        Protocol::Http1 => request.uri("/").header(header::HOST, "store"),
        Protocol::Http2 => request.uri("http://store/"),
    };
    let request = request.body(body).unwrap();
    let response = match protocol {
        Protocol::Http1 => {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        }
        Protocol::Http2 => {
            let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
            builder.initial_stream_window_size(WINDOWS.0).initial_connection_window_size(WINDOWS.1);
            let (mut sender, connection) = builder.handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        }
    };
    let (status, body) = (response.status(), response.into_body());
    if is_sent || !status.is_success() {
        let text = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text);
        assert!(status.is_success(), "{status}: {text}");
        return text.parse().unwrap();
    }
    flow.read(body).await
}
