//! Tunnels end to end on loopback: real TCP, TLS and HTTP/2, certificates from an authority in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

mod attacks;
mod breaking;
mod endurance;
mod lifetime;
mod nested;
mod reuse;
mod settings;

use super::server::{self, AcceptError, Incoming};
use super::stream::StreamError;
use super::{ConnectRequest, Pool, ReceiveBudget, TunnelError, TunnelKey, TunnelStream};
use crate::ident::Identity;
use crate::io::certs::Certificates;
use crate::io::certs::tests::{MemoryAuthority, identity};
use crate::io::copy::{self, CopyError, Meter};
use crate::io::socket::SocketFactory;
use crate::io::tls::verify::PeerRefused;
use crate::limits::Limits;

/// A server for `account` that treats each request as told, and counts its connections.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    refusals: tokio::sync::mpsc::UnboundedReceiver<AcceptError>,
}

async fn serve(
    certificates: &Certificates,
    account: &str,
    treat: impl Fn(Incoming) + Clone + Send + 'static,
) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let handle = certificates.claim(&identity(account));
    let connections = Arc::new(AtomicUsize::new(0));
    let (refused, refusals) = tokio::sync::mpsc::unbounded_channel();
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((tcp, peer)) = listener.accept().await {
            let tls = handle.get().await.unwrap().credentials.server();
            counted.fetch_add(1, Ordering::SeqCst);
            let (refused, treat) = (refused.clone(), treat.clone());
            tokio::spawn(async move {
                let served = match server::accept_tls(tcp, tls, &Limits::default()).await {
                    Ok((stream, _identity)) => {
                        server::serve(
                            stream,
                            peer,
                            (&Limits::default(), &ReceiveBudget::default()),
                            std::future::pending(),
                            treat,
                        )
                        .await
                    }
                    Err(error) => Err(error),
                };
                if let Err(error) = served {
                    let _ = refused.send(error);
                }
            });
        }
    });
    Server { address, connections, refusals }
}

fn echo(incoming: Incoming) {
    let mut stream = incoming.accept(HeaderMap::new()).unwrap();
    tokio::spawn(async move {
        while let Ok(Some(bytes)) = stream.receiver.receive().await {
            let length = bytes.len();
            stream.sender.send_all(bytes).await.unwrap();
            stream.receiver.consumed(length).unwrap();
        }
        stream.sender.finish().unwrap();
    });
}

fn pool(certificates: &Certificates) -> Pool {
    Pool::new(SocketFactory::host(None), certificates.clone(), ReceiveBudget::default())
}

fn key(server: SocketAddr, accepted: &str) -> TunnelKey {
    let client = server.ip();
    TunnelKey { source: identity("web"), accepted: [identity(accepted)].into(), peer: server, workload: None, client }
}

fn request() -> ConnectRequest {
    ConnectRequest { authority: "10.0.0.1:80".into(), headers: HeaderMap::new() }
}

async fn round_trip(stream: &mut TunnelStream, text: &'static [u8]) {
    stream.sender.send_all(Bytes::from_static(text)).await.unwrap();
    let mut back = Vec::new();
    while back.len() < text.len() {
        let bytes = stream.receiver.receive().await.unwrap().unwrap();
        stream.receiver.consumed(bytes.len()).unwrap();
        back.extend_from_slice(&bytes);
    }
    assert_eq!(back, text);
}

#[tokio::test]
async fn streams_share_a_connection_and_both_ends_know_each_other() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", echo).await;
    let pool = pool(&certificates);
    let key = key(server.address, "cart");
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut opened = pool.open(&key, &request()).await.unwrap();
        assert_eq!(opened.peer_identity, Some(identity("cart")));
        round_trip(&mut opened.stream, b"hello").await;
        streams.push(opened);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_full_connection_gets_a_second_one_and_idle_ones_are_swept() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", echo).await;
    let pool = pool(&certificates);
    let key = key(server.address, "cart");
    let mut streams = Vec::new();
    for _ in 0..101 {
        let mut opened = pool.open(&key, &request()).await.unwrap();
        round_trip(&mut opened.stream, b"x").await;
        streams.push(opened);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
    let later = Instant::now() + Duration::from_secs(3600);
    assert_eq!(pool.sweep(Duration::from_secs(300), later), 2, "in use, therefore kept");
    streams.clear();
    assert_eq!(pool.sweep(Duration::from_secs(300), later + Duration::from_secs(20)), 1, "one is enough");
    let later = later + Duration::from_secs(3600);
    assert_eq!(pool.sweep(Duration::from_secs(300), later), 0, "idle for an hour");
}

#[tokio::test]
async fn a_dead_connection_is_replaced_without_an_error() {
    let certificates = MemoryAuthority::new().certificates();
    // Each connection serves one stream and is then told to go away.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let handle = certificates.claim(&identity("cart"));
    tokio::spawn(async move {
        while let Ok((tcp, peer)) = listener.accept().await {
            let tls = handle.get().await.unwrap().credentials.server();
            let (stream, _) = server::accept_tls(tcp, tls, &Limits::default()).await.unwrap();
            let (seen, first) = tokio::sync::oneshot::channel::<()>();
            let mut seen = Some(seen);
            tokio::spawn(async move {
                let treat = move |incoming| {
                    seen.take();
                    echo(incoming);
                };
                server::serve(
                    stream,
                    peer,
                    (&Limits::default(), &ReceiveBudget::default()),
                    async { drop(first.await) },
                    treat,
                )
                .await
            });
        }
    });
    let pool = pool(&certificates);
    let key = key(address, "cart");
    for _ in 0..4 {
        let mut opened = pool.open(&key, &request()).await.unwrap();
        round_trip(&mut opened.stream, b"again").await;
    }
}

#[tokio::test]
async fn the_wrong_server_is_refused_by_name() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "mallory", echo).await;
    let refused = pool(&certificates).open(&key(server.address, "cart"), &request()).await.err().unwrap();
    let TunnelError::PeerRefused { refused: PeerRefused::Unexpected { found, expected }, .. } = refused.cause() else {
        panic!("refused for another reason: {refused}");
    };
    assert_eq!((found, expected), (&identity("mallory"), &vec![identity("cart")]));
}

#[tokio::test]
async fn a_client_of_another_trust_domain_is_refused() {
    let authority = Arc::new(MemoryAuthority::new());
    let certificates =
        Certificates::new(authority, crate::io::tls::provider(), Duration::from_secs(60), std::time::SystemTime::now);
    let mut server = serve(&certificates, "cart", echo).await;
    let foreign = Identity::new("elsewhere.example", "shop", "web").unwrap();
    let key = TunnelKey { source: foreign.clone(), ..key(server.address, "cart") };
    pool(&certificates).open(&key, &request()).await.err().expect("must not be served");
    match server.refusals.recv().await.unwrap() {
        AcceptError::PeerRefused(PeerRefused::ForeignTrustDomain { found, .. }) => assert_eq!(found, foreign),
        other => panic!("refused for another reason: {other}"),
    }
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused() {
    let mut server = serve(&MemoryAuthority::new().certificates(), "cart", echo).await;
    let stranger = MemoryAuthority::new().certificates();
    pool(&stranger).open(&key(server.address, "cart"), &request()).await.err().expect("must not be served");
    assert!(matches!(server.refusals.recv().await, Some(AcceptError::Tls(_))));
}

#[tokio::test]
async fn garbage_instead_of_tls_is_refused() {
    let mut server = serve(&MemoryAuthority::new().certificates(), "cart", echo).await;
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(matches!(server.refusals.recv().await, Some(AcceptError::Tls(_))));
}

#[tokio::test]
async fn a_refusal_names_its_status_and_who_it_is_from() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", |incoming| incoming.refuse(crate::reason::Reason::PolicyDenied)).await;
    let refused = pool(&certificates).open(&key(server.address, "cart"), &request()).await;
    let Err(refused) = refused else { panic!("served") };
    assert_eq!(refused.refused_by(), Some(&identity("cart")));
    let TunnelError::Refused { status, reason, .. } = refused else { panic!("{refused}") };
    assert_eq!((status, reason), (StatusCode::UNAUTHORIZED, Some(crate::reason::Reason::PolicyDenied)));
}

#[derive(Default)]
struct Count {
    out: AtomicU64,
    back: AtomicU64,
}

impl Meter for Count {
    fn out_of_application(&self, bytes: u64) {
        self.out.fetch_add(bytes, Ordering::SeqCst);
    }
    fn towards_application(&self, bytes: u64) {
        self.back.fetch_add(bytes, Ordering::SeqCst);
    }
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// An application, and the copy of its connection into a fresh tunnel stream to `server`.
async fn tunnelled(
    certificates: &Certificates,
    server: &Server,
) -> (TcpStream, tokio::task::JoinHandle<(Result<(), CopyError>, Count)>) {
    let (application, mut ours) = tcp_pair().await;
    let pool = pool(certificates);
    let mut opened = pool.open(&key(server.address, "cart"), &request()).await.unwrap();
    let copy = tokio::spawn(async move {
        let count = Count::default();
        (copy::with_tunnel(&mut ours, &mut opened.stream, &Limits::default(), &count).await, count)
    });
    (application, copy)
}

#[tokio::test]
async fn large_bodies_and_half_close_pass_through() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", echo).await;
    let (application, copy) = tunnelled(&certificates, &server).await;
    let sent: Vec<u8> = (0..12_000_000_u32).map(|index| index.to_le_bytes()[0] ^ index.to_le_bytes()[2]).collect();
    let (mut read, mut write) = application.into_split();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let mut received = Vec::new();
    read.read_to_end(&mut received).await.unwrap();
    assert!(received == expected, "bytes changed on the way");
    writer.await.unwrap();
    let (result, count) = copy.await.unwrap();
    result.unwrap();
    assert_eq!((count.out.into_inner(), count.back.into_inner()), (12_000_000, 12_000_000));
}

#[tokio::test]
async fn a_reset_of_the_tunnel_resets_the_application() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", |incoming| {
        let mut stream = incoming.accept(HeaderMap::new()).unwrap();
        tokio::spawn(async move {
            stream.receiver.receive().await.unwrap();
            stream.abort();
        });
    })
    .await;
    let (mut application, copy) = tunnelled(&certificates, &server).await;
    application.write_all(b"x").await.unwrap();
    let error = application.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let (result, _) = copy.await.unwrap();
    assert!(matches!(result, Err(CopyError::Tunnel(StreamError::Reset(Reason::CONNECT_ERROR)))));
}

#[tokio::test]
async fn a_reset_of_the_application_resets_the_tunnel() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", echo).await;
    let (application, copy) = tunnelled(&certificates, &server).await;
    crate::io::socket::reset_on_close(&application);
    drop(application);
    let (result, _) = copy.await.unwrap();
    assert!(matches!(result, Err(CopyError::Application(_))), "{result:?}");
}

#[tokio::test]
async fn plain_copies_pass_half_close_and_reset() {
    let ((mut client, mut near), (mut far, mut server)) = (tcp_pair().await, tcp_pair().await);
    let copy =
        tokio::spawn(async move { copy::plain(&mut near, &mut far, &Limits::default(), &Count::default()).await });
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = String::new();
    server.read_to_string(&mut question).await.unwrap();
    server.write_all(b"answer").await.unwrap();
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
    copy.await.unwrap().unwrap();

    let ((client, mut near), (mut far, mut server)) = (tcp_pair().await, tcp_pair().await);
    let copy =
        tokio::spawn(async move { copy::plain(&mut near, &mut far, &Limits::default(), &Count::default()).await });
    crate::io::socket::reset_on_close(&client);
    drop(client);
    assert_eq!(server.read(&mut [0; 1]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(matches!(copy.await.unwrap(), Err(CopyError::Application(_))));
}
