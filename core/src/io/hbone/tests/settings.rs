//! Values of the limits that were set arrive where they count: in what is announced to peers, and in the pool.

use std::collections::BTreeMap;

use tokio::io::duplex;

use super::*;
use crate::io::socket::Probing;
use crate::limits;

/// What a server with these limits announces in its first SETTINGS frame (RFC 9113 §6.5), and its first window update.
async fn announced(limits: Limits) -> (BTreeMap<u16, u32>, u32) {
    let (mut far, near) = duplex(1 << 16);
    let nobody = "127.0.0.1:1".parse().unwrap();
    let serving = tokio::spawn(async move {
        let _ = server::serve(near, nobody, (&limits, &ReceiveBudget::default()), std::future::pending(), |_| ()).await;
    });
    far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut settings = BTreeMap::new();
    let window = loop {
        let mut head = [0; 9];
        far.read_exact(&mut head).await.unwrap();
        let mut body = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        far.read_exact(&mut body).await.unwrap();
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        match (head[3], head[4]) {
            (4, 0) => {
                settings.extend(body.chunks(6).map(|pair| (u16::from_be_bytes([pair[0], pair[1]]), number(&pair[2..]))))
            }
            (8, _) => break number(&body),
            _ => {}
        }
    };
    serving.abort();
    (settings, window)
}

#[tokio::test]
async fn settings_are_announced_as_they_are_set() {
    let set = BTreeMap::from([
        (limits::STREAM_WINDOW_START.name, 100_000),
        (limits::CONNECTION_WINDOW_START.name, 300_000),
        (limits::FRAME_SIZE.name, 20_000),
        (limits::POOL_MAX_STREAMS.name, 7),
        (limits::MAX_CONCURRENT_STREAMS.name, 9),
        (limits::SERVER_HEADER_LIST.name, 5_000),
    ]);
    let (settings, window) = announced(Limits::with(&set).unwrap()).await;
    // The connection's window begins at 65,535 by contract and is raised.
    assert_eq!((settings[&3], settings[&4], settings[&5], settings[&6]), (9, 100_000, 20_000, 5_000));
    assert_eq!(window + 65_535, 300_000);
    let (settings, window) = announced(Limits::default()).await;
    assert_eq!((settings[&3], settings[&4], settings[&5], settings[&6]), (200, 256 << 10, 1 << 20, 64 << 10));
    assert_eq!(window + 65_535, 1 << 20);
}

#[tokio::test]
async fn the_pool_obeys_the_limits_of_its_sockets() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", echo).await;
    for (streams, expected) in [(100, 1), (1, 3)] {
        let set = BTreeMap::from([(limits::POOL_MAX_STREAMS.name, streams)]);
        let sockets = SocketFactory::host(None).within(&Limits::with(&set).unwrap(), Probing::default());
        let pool = Pool::new(sockets, certificates.clone(), ReceiveBudget::default());
        let before = server.connections.load(Ordering::SeqCst);
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(pool.open(&key(server.address, "cart"), &request()).await.unwrap());
        }
        assert_eq!(server.connections.load(Ordering::SeqCst) - before, expected, "{streams} streams a connection");
    }
    let set = BTreeMap::from([(limits::POOL_MAX_STREAMS.name, 1), (limits::POOL_MAX_CONNECTIONS.name, 1)]);
    let sockets = SocketFactory::host(None).within(&Limits::with(&set).unwrap(), Probing::default());
    let pool = Pool::new(sockets, certificates.clone(), ReceiveBudget::default());
    let _open = pool.open(&key(server.address, "cart"), &request()).await.unwrap();
    let full = pool.open(&key(server.address, "cart"), &request()).await.map(|_| ()).unwrap_err();
    assert!(matches!(full.cause(), TunnelError::PoolFull { limit: 1, .. }), "{full}");
}

/// Sockets are made with what was set, and keepalive can be switched off.
#[tokio::test]
async fn sockets_probe_as_set() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let destination = listener.local_addr().unwrap();
    let set = BTreeMap::from([
        (limits::KEEPALIVE_TIME.name, 7_000),
        (limits::KEEPALIVE_INTERVAL.name, 3_000),
        (limits::KEEPALIVE_RETRIES.name, 4),
    ]);
    let limits = Limits::with(&set).unwrap();
    for (keepalive, user_timeout) in [(true, false), (false, true)] {
        let sockets = SocketFactory::host(None).within(&limits, Probing { keepalive, user_timeout });
        let stream = sockets.connect(destination).await.unwrap();
        let socket = socket2::SockRef::from(&stream);
        assert_eq!(socket.keepalive().unwrap(), keepalive);
        if keepalive {
            let probes = (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap());
            assert_eq!(probes, (Duration::from_secs(7), Duration::from_secs(3)));
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
        }
        let patience = user_timeout.then_some(Duration::from_secs(7 + 3 * 4));
        assert_eq!(socket.tcp_user_timeout().unwrap(), patience);
    }
}
