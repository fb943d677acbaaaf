//! What a member of the mesh who means harm can do to a tunnel's server, and what becomes of it and of the others.
//!
//! HTTP/2 begins only when TLS has proved who the client is, so every attacker here has a certificate. Strangers reach
//! the handshake and no further: see `slow`.

mod floods;
mod headers;
mod slow;
mod streams;

use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::limits;

/// Generous: only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Frame types, RFC 9113 §6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

// Flags.
const NONE: u8 = 0;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:method: CONNECT` and `:authority: 10.0.0.1:80`, as literals that are not remembered (RFC 7541 §6.2.2).
const CONNECT: &[u8] = b"\x02\x07CONNECT\x01\x0b10.0.0.1:80";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Asks for stream number `index`, counted from zero.
fn connect(index: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream_id(index), CONNECT)
}

fn cancel(index: u32) -> Vec<u8> {
    frame(RST_STREAM, NONE, stream_id(index), &u32::from(Reason::CANCEL).to_be_bytes())
}

fn stream_id(index: u32) -> u32 {
    2 * index + 1
}

/// One frame the server sent.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    /// The number at an offset of the payload.
    fn code(&self, at: usize) -> Reason {
        Reason::from(u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap()))
    }
}

/// A connection that has proved itself, and whose client writes what it likes.
struct Attacker {
    write: WriteHalf<TlsStream<TcpStream>>,
    read: ReadHalf<TlsStream<TcpStream>>,
}

impl Attacker {
    /// Does TLS and no more.
    async fn prove(certificates: &Certificates, server: SocketAddr) -> Self {
        let own = certificates.claim(&identity("web")).get().await.unwrap();
        let tls = own.credentials.client(&[identity("cart")]).unwrap();
        let tcp = TcpStream::connect(server).await.unwrap();
        let nobody = rustls::pki_types::ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let (read, write) = tokio::io::split(TlsConnector::from(tls).connect(nobody, tcp).await.unwrap());
        Self { write, read }
    }

    /// Starts HTTP/2 as everybody does.
    async fn greet(certificates: &Certificates, server: SocketAddr) -> Self {
        let mut attacker = Self::prove(certificates, server).await;
        attacker.send(&[PREFACE, &frame(SETTINGS, NONE, 0, &[]), &frame(SETTINGS, ACK, 0, &[])].concat()).await;
        attacker
    }

    /// Sends all of it, unless the server has had enough.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        self.write.write_all(bytes).await.is_ok() && self.write.flush().await.is_ok()
    }

    /// Reads what the server says from here on, whether anybody looks at it or not, until it hangs up.
    fn listen(self) -> Listening {
        let Self { write, mut read } = self;
        let (sender, frames) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(frame) = read_frame(&mut read).await {
                let _ = sender.send(frame);
            }
        });
        Listening { write, frames }
    }
}

async fn read_frame(read: &mut ReadHalf<TlsStream<TcpStream>>) -> Option<Frame> {
    let mut head = [0; 9];
    read.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap()];
    read.read_exact(&mut payload).await.ok()?;
    let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
    Some(Frame { kind: head[3], flags: head[4], stream, payload })
}

/// An attacker that reads as it writes.
struct Listening {
    write: WriteHalf<TlsStream<TcpStream>>,
    frames: mpsc::UnboundedReceiver<Frame>,
}

impl Listening {
    async fn send(&mut self, bytes: &[u8]) -> bool {
        self.write.write_all(bytes).await.is_ok() && self.write.flush().await.is_ok()
    }

    /// The next frame that is wanted; none when the server hung up first.
    async fn find(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let search = async {
            loop {
                let frame = self.frames.recv().await?;
                if wanted(&frame) {
                    return Some(frame);
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.expect("the server neither answers nor hangs up")
    }

    /// The server answers on this connection still.
    async fn is_served(&mut self) {
        assert!(self.send(&frame(PING, NONE, 0, b"are-you?")).await, "the server hung up");
        let pong = |frame: &Frame| frame.kind == PING && frame.flags == ACK && frame.payload == b"are-you?";
        self.find(pong).await.expect("the server hung up");
    }
}

/// Another client of the same server, with a stream that was open before the attack.
struct Neighbour {
    pool: Pool,
    key: TunnelKey,
    stream: TunnelStream,
}

const NEIGHBOUR: &str = "10.0.0.1:81";

impl Neighbour {
    async fn of(certificates: &Certificates, server: &Server) -> Self {
        let (pool, key) = (pool(certificates), key(server.address, "cart"));
        let mut stream = Self::open(&pool, &key).await;
        round_trip(&mut stream, b"before").await;
        Self { pool, key, stream }
    }

    async fn open(pool: &Pool, key: &TunnelKey) -> TunnelStream {
        let asked = ConnectRequest { authority: NEIGHBOUR.into(), headers: HeaderMap::new() };
        pool.open(key, &asked).await.unwrap().stream
    }

    /// Its stream goes on, and it gets new ones, on the tunnel it had.
    async fn lives_on(&mut self) {
        let proof = async {
            round_trip(&mut self.stream, b"after").await;
            round_trip(&mut Self::open(&self.pool, &self.key).await, b"a new one").await;
        };
        tokio::time::timeout(PATIENCE, proof).await.expect("a neighbour suffers");
    }
}

/// Who is at work for the attacker now, who was at most, and how many there were.
#[derive(Clone, Default)]
struct Work {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

struct Worker(Work);

impl Work {
    fn begin(&self) -> Worker {
        self.all.fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Worker(self.clone())
    }

    async fn until(&self, holds: impl Fn(usize, usize) -> bool) {
        let wait = async {
            while !holds(self.now.load(Ordering::SeqCst), self.all.load(Ordering::SeqCst)) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("requests are not let go");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The neighbour gets an echo. An attacker's request is held unanswered, as while its application is dialled, until the
/// attacker gives it up.
fn undecided(work: &Work) -> impl Fn(Incoming) + Clone + Send + 'static {
    let work = work.clone();
    move |mut incoming| {
        if incoming.authority() == Some(NEIGHBOUR) {
            return echo(incoming);
        }
        let worker = work.begin();
        tokio::spawn(async move {
            incoming.given_up().await;
            drop(worker);
        });
    }
}

/// The neighbour gets an echo. An attacker's streams are accepted and never read from.
fn unread(incoming: Incoming) {
    if incoming.authority() == Some(NEIGHBOUR) {
        return echo(incoming);
    }
    let Ok(TunnelStream { mut sender, receiver }) = incoming.accept(HeaderMap::new()) else { return };
    tokio::spawn(async move {
        sender.reset().await;
        // Held until now: what arrives for a half that is gone is thrown away, and costs nothing.
        drop(receiver);
    });
}

async fn ended(server: &mut Server) -> AcceptError {
    let end = tokio::time::timeout(PATIENCE, server.refusals.recv());
    end.await.expect("the server does not end the connection").unwrap()
}

/// The server has ended the attacker's connection with ENHANCE_YOUR_CALM. Why it did is in its GOAWAY, which is lost
/// where it closes a socket that more is arriving at.
async fn told_to_calm_down(server: &mut Server, attacker: &mut Listening, why: &str) {
    match ended(server).await {
        AcceptError::Http2(error) => assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM), "{error}"),
        other => panic!("ended for another reason: {other}"),
    }
    if let Some(goaway) = attacker.find(|frame| frame.kind == GOAWAY).await {
        assert_eq!(goaway.code(4), Reason::ENHANCE_YOUR_CALM);
        assert_eq!(String::from_utf8_lossy(&goaway.payload[8..]), why);
    }
}
