//! What applications do to a tunnel that others share, and that must not end it.

use super::*;
use crate::limits;

/// Generous: only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Writes before it reads, each byte on its own.
fn byte_by_byte(incoming: Incoming) {
    let mut stream = incoming.accept(HeaderMap::new()).unwrap();
    tokio::spawn(async move {
        write_single_bytes(&mut stream).await;
        assert_eq!(count_to_end(&mut stream).await, SINGLE_BYTES);
    });
}

const SINGLE_BYTES: usize = 500;

async fn write_single_bytes(stream: &mut TunnelStream) {
    for _ in 0..SINGLE_BYTES {
        stream.sender.send_all(Bytes::from_static(b"x")).await.unwrap();
    }
    stream.sender.finish().unwrap();
}

async fn count_to_end(stream: &mut TunnelStream) -> usize {
    let mut count = 0;
    while let Some(bytes) = stream.receiver.receive().await.unwrap() {
        stream.receiver.consumed(bytes.len()).unwrap();
        count += bytes.len();
    }
    count
}

#[tokio::test]
async fn single_bytes_on_many_streams_end_no_tunnel() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", byte_by_byte).await;
    let pool = pool(&certificates);
    let key = key(server.address, "cart");
    let all = async {
        let mut streams = Vec::new();
        for _ in 0..100 {
            streams.push(pool.open(&key, &request()).await.unwrap().stream);
        }
        // Nobody reads before everything is on its way: the frames pile up at the other end.
        for stream in &mut streams {
            write_single_bytes(stream).await;
        }
        for stream in &mut streams {
            assert_eq!(count_to_end(stream).await, SINGLE_BYTES);
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("streams of single bytes got stuck");
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

const NEIGHBOUR: &str = "10.0.0.1:81";

/// The neighbour gets an echo, all others a download of small pieces that goes on until it is aborted, so that some of
/// them are always on their way then.
fn neighbour_and_downloads(incoming: Incoming) {
    if incoming.authority() == Some(NEIGHBOUR) {
        return echo(incoming);
    }
    // The client may have given up by now.
    let Ok(mut stream) = incoming.accept(HeaderMap::new()) else { return };
    tokio::spawn(async move {
        while stream.sender.send_all(Bytes::from_static(&[7; 1024])).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
}

#[tokio::test]
async fn aborted_downloads_do_not_harm_a_neighbour() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", neighbour_and_downloads).await;
    let pool = pool(&certificates);
    let key = key(server.address, "cart");
    let all = async {
        let asked = ConnectRequest { authority: NEIGHBOUR.into(), headers: HeaderMap::new() };
        let mut neighbour = pool.open(&key, &asked).await.unwrap();
        for download in 0..2_000 {
            let mut opened = pool.open(&key, &request()).await.unwrap();
            assert!(opened.stream.receiver.receive().await.unwrap().is_some());
            drop(opened);
            if download % 100 == 0 {
                round_trip(&mut neighbour.stream, b"still here").await;
            }
        }
        round_trip(&mut neighbour.stream, b"still here").await;
    };
    tokio::time::timeout(PATIENCE, all).await.expect("downloads or their neighbour got stuck");
    // The neighbour's is the one it had. On a busy machine the downloads may have found a queue, and got others.
    assert!(server.connections.load(Ordering::SeqCst) <= limits::POOL_SPREAD.size());
}
