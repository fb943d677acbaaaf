//! Which connection a stream gets: never somebody else's, never a dead one, and not the one with a queue.

use super::*;
use crate::limits;
use crate::workload::WorkloadUid;

/// Reads nothing of what it is sent.
fn stall(incoming: Incoming) {
    let stream = incoming.accept(HeaderMap::new()).unwrap();
    tokio::spawn(async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    });
}

/// By authority.
fn stall_or_echo(incoming: Incoming) {
    if incoming.authority() == Some("stalled:80") { stall(incoming) } else { echo(incoming) }
}

fn to(authority: &str) -> ConnectRequest {
    ConnectRequest { authority: authority.into(), headers: HeaderMap::new() }
}

/// Sends until the peer takes no more, and waits for it to do so.
async fn fill(stream: &mut TunnelStream, bytes: u64) {
    let mut left = usize::try_from(bytes).unwrap();
    while left > 0 {
        let length = left.min(1 << 20);
        stream.sender.send_all(Bytes::from(vec![0; length])).await.unwrap();
        left -= length;
    }
}

#[tokio::test]
async fn whoever_waits_for_a_dial_gets_its_error() {
    let certificates = MemoryAuthority::new().certificates();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pool = pool(&certificates);
    let key = key(address, "cart");
    let refused = async {
        let request = request();
        let all = futures_util::future::join_all((0..20).map(|_| pool.open(&key, &request)));
        all.await.into_iter().map(|opened| opened.err().unwrap().to_string()).collect::<Vec<_>>()
    };
    // One connection, which ends in the middle of the handshake after all of them have asked.
    let serve = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.read_exact(&mut [0; 5]).await.unwrap();
        tcp.write_all(b"not TLS").await.unwrap();
        tcp.read_to_end(&mut Vec::new()).await.ok();
    };
    let (errors, ()) = tokio::join!(refused, serve);
    assert!(errors.iter().all(|error| error.starts_with("TLS with 127.0.0.1")), "{errors:?}");
    let more = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(more.is_err(), "dialled once for all");
    // An error is not remembered: the next stream dials again.
    let (again, accepted) = (request(), listener.accept());
    tokio::select! {
        _opened = pool.open(&key, &again) => panic!("answered without a dial"),
        accepted = accepted => drop(accepted.unwrap()),
    }
}

#[tokio::test]
async fn who_began_a_dial_may_leave_it_to_others() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", echo).await;
    let pool = pool(&certificates);
    let key = key(server.address, "cart");
    let request = request();
    {
        let first = pool.open(&key, &request);
        tokio::pin!(first);
        assert!(futures_util::FutureExt::now_or_never(first.as_mut()).is_none());
    }
    let mut opened = pool.open(&key, &request).await.unwrap();
    round_trip(&mut opened.stream, b"x").await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_address_that_another_pod_inherits_leads_to_the_new_pod_only() {
    let certificates = MemoryAuthority::new().certificates();
    let (old, new) = (serve(&certificates, "cart", echo).await, serve(&certificates, "cart", echo).await);
    let stranger = serve(&certificates, "mallory", echo).await;
    // The address: it leads to whoever has it at the moment.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let owner = Arc::new(std::sync::Mutex::new(old.address));
    let current = Arc::clone(&owner);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let to = *current.lock().unwrap();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let pool = pool(&certificates);
    let of = |uid: &str| TunnelKey { workload: Some(WorkloadUid::new(uid)), ..key(address, "cart") };
    let counts = || [&old, &new, &stranger].map(|server| server.connections.load(Ordering::SeqCst));
    let mut first = pool.open(&of("cart-1"), &request()).await.unwrap();
    round_trip(&mut first.stream, b"old").await;
    // The same account, another pod: the connection to the old one still stands, and is not used.
    *owner.lock().unwrap() = new.address;
    let mut second = pool.open(&of("cart-2"), &request()).await.unwrap();
    round_trip(&mut second.stream, b"new").await;
    assert_eq!(counts(), [1, 1, 0]);
    // Another account: refused, whatever else is open to that address.
    *owner.lock().unwrap() = stranger.address;
    let refused = pool.open(&of("cart-3"), &request()).await.err().unwrap();
    assert!(refused.to_string().contains("mallory"), "{refused}");
    assert_eq!(counts(), [1, 1, 1]);
}

#[tokio::test]
async fn a_stalled_stream_does_not_delay_its_neighbours() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", stall_or_echo).await;
    let pool = pool(&certificates);
    let key = key(server.address, "cart");
    let mut neighbour = pool.open(&key, &to("echo:80")).await.unwrap();
    let mut stalled = pool.open(&key, &to("stalled:80")).await.unwrap();
    fill(&mut stalled.stream, limits::STREAM_WINDOW_START.default).await;
    let more = futures_util::FutureExt::now_or_never(Box::pin(stalled.stream.sender.capacity(1)));
    assert!(more.is_none(), "it does stall");
    for _ in 0..100 {
        round_trip(&mut neighbour.stream, b"still here").await;
    }
    let mut later = pool.open(&key, &to("echo:80")).await.unwrap();
    round_trip(&mut later.stream, b"and here").await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn streams_do_not_queue_behind_a_window_that_is_used_up() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", stall_or_echo).await;
    let pool = pool(&certificates);
    let key = key(server.address, "cart");
    let mut stalled = Vec::new();
    for _ in 0..limits::CONNECTION_WINDOW_START.default / limits::STREAM_WINDOW_START.default {
        let mut stream = pool.open(&key, &to("stalled:80")).await.unwrap().stream;
        fill(&mut stream, limits::STREAM_WINDOW_START.default).await;
        stalled.push(stream);
    }
    let mut opened = pool.open(&key, &to("echo:80")).await.unwrap();
    round_trip(&mut opened.stream, b"on a tunnel of its own").await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_refused_stream_does_not_take_its_connection_along() {
    let certificates = MemoryAuthority::new().certificates();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let handle = certificates.claim(&identity("cart"));
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    // A peer that takes one stream of a connection and refuses the others, without having said so.
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let (tls, _) =
                server::accept_tls(tcp, handle.get().await.unwrap().credentials.server(), &Limits::default())
                    .await
                    .unwrap();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(tls).await.unwrap();
                let mut taken = Vec::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if taken.is_empty() {
                        let send = respond.send_response(http::Response::new(()), false).unwrap();
                        taken.push((request, send));
                    } else {
                        respond.send_reset(Reason::REFUSED_STREAM);
                    }
                }
            });
        }
    });
    let pool = pool(&certificates);
    let key = key(address, "cart");
    let mut first = pool.open(&key, &request()).await.unwrap();
    let _second = pool.open(&key, &request()).await.unwrap();
    assert_eq!(connections.load(Ordering::SeqCst), 2);
    assert_eq!(pool.sweep(Duration::from_secs(300), Instant::now()), 2, "both are good for more streams");
    first.stream.sender.send_all(Bytes::from_static(b"x")).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_died_in_silence_is_noticed_by_its_next_request() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", echo).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // A path that is lost without a word, as when a node dies: nothing is carried any more, nothing is closed.
    let (lose, lost) = tokio::sync::watch::channel(0_usize);
    let to = server.address;
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((mut near, _)) = listener.accept().await {
            number += 1;
            let (number, mut lost) = (number, lost.clone());
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ended = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    () = async { drop(lost.wait_for(|lost| *lost >= number).await) } => {}
                }
                // Both sockets stay open.
                std::future::pending::<()>().await;
            });
        }
    });
    let pool = pool(&certificates);
    let key = key(address, "cart");
    let mut opened = pool.open(&key, &request()).await.unwrap();
    round_trip(&mut opened.stream, b"before").await;
    drop(opened);
    lose.send(1).unwrap();
    tokio::time::pause();
    // Less than it takes the keepalive to ask.
    tokio::time::advance(limits::POOL_TRUST.duration() + Duration::from_secs(1)).await;
    let began = Instant::now();
    let mut opened = pool.open(&key, &request()).await.unwrap();
    assert!(began.elapsed() < limits::POOL_PROBE_TIMEOUT.duration() + Duration::from_secs(1), "{:?}", began.elapsed());
    round_trip(&mut opened.stream, b"after").await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_connection_that_merely_idled_is_used_again() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", echo).await;
    let pool = pool(&certificates);
    let key = key(server.address, "cart");
    for _ in 0..3 {
        let mut opened = pool.open(&key, &request()).await.unwrap();
        round_trip(&mut opened.stream, b"x").await;
        drop(opened);
        tokio::time::pause();
        tokio::time::advance(limits::POOL_TRUST.duration() + Duration::from_secs(1)).await;
        tokio::time::resume();
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

/// As a network path does whose queue is `delay` long, from when it is told so.
async fn slow_path(to: SocketAddr) -> (SocketAddr, tokio::sync::watch::Sender<Duration>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (set, delay) = tokio::sync::watch::channel(Duration::ZERO);
    tokio::spawn(async move {
        let mut slow = true;
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            // Only the first connection has the queue.
            let delay =
                if std::mem::take(&mut slow) { delay.clone() } else { tokio::sync::watch::channel(Duration::ZERO).1 };
            tokio::spawn(delayed(near_read, far_write, delay.clone()));
            tokio::spawn(delayed(far_read, near_write, delay));
        }
    });
    (address, set)
}

async fn delayed(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    delay: tokio::sync::watch::Receiver<Duration>,
) {
    let mut chunk = vec![0; 1 << 20];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let wait = *delay.borrow();
        if !wait.is_zero() {
            tokio::time::sleep(wait).await; // the queue that the test is about
        }
        if to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}

/// Much more than a first window.
const DOWNLOAD: usize = 8 << 20;

fn download(incoming: Incoming) {
    let mut stream = incoming.accept(HeaderMap::new()).unwrap();
    tokio::spawn(async move {
        // Whether all of it is wanted is the reader's affair.
        let _ = stream.sender.send_all(Bytes::from(vec![0; DOWNLOAD])).await;
        std::future::pending::<()>().await;
    });
}

#[tokio::test]
async fn a_long_path_with_much_to_carry_gets_a_larger_window_until_the_tunnel_ends() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", download).await;
    let (address, delay) = slow_path(server.address).await;
    delay.send(Duration::from_millis(10)).unwrap();
    let budget = ReceiveBudget::default();
    let pool = Pool::new(SocketFactory::host(None), certificates.clone(), budget.clone());
    let mut opened = pool.open(&key(address, "cart"), &request()).await.unwrap();
    let first = limits::CONNECTION_WINDOW_START.default;
    assert_eq!(budget.promised(), first);
    // What nobody reads is no reason for a larger one.
    let receiver = &mut opened.stream.receiver;
    let mut read = receiver.receive().await.unwrap().unwrap().len();
    assert_eq!(budget.promised(), first);
    receiver.consumed(read).unwrap();
    while read < DOWNLOAD {
        let bytes = receiver.receive().await.unwrap().unwrap();
        receiver.consumed(bytes.len()).unwrap();
        read += bytes.len();
    }
    assert!(budget.promised() > first, "{}", budget.promised());
    drop((opened, pool));
    while budget.promised() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn streams_do_not_stand_in_a_queue_that_pings_find() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", echo).await;
    let (address, delay) = slow_path(server.address).await;
    let pool = pool(&certificates);
    let key = key(address, "cart");
    let connections = || server.connections.load(Ordering::SeqCst);
    let mut first = pool.open(&key, &request()).await.unwrap();
    round_trip(&mut first.stream, b"x").await;
    // Long enough since the last question that the next stream asks again.
    let later = || async {
        tokio::time::pause();
        tokio::time::advance(limits::POOL_QUEUEING_CHECK.duration() * 2).await;
        tokio::time::resume();
    };
    // Quick at first, so that there is something to compare with.
    for _ in 0..3 {
        later().await;
        let mut stream = pool.open(&key, &request()).await.unwrap().stream;
        round_trip(&mut stream, b"x").await;
    }
    delay.send(limits::POOL_QUEUEING_DELAY.duration() * 2).unwrap();
    let mut streams = Vec::new();
    for _ in 0..50 {
        later().await;
        streams.push(pool.open(&key, &request()).await.unwrap());
        if connections() >= 2 {
            break;
        }
    }
    assert!(connections() >= 2, "streams went on to stand in the queue");
    round_trip(&mut streams.last_mut().unwrap().stream, b"quick").await;
}
