//! Clients that stop at every stage of a tunnel: each is let go after the stage's own bound. Time is paused.

use tokio::io::duplex;

use super::*;

/// Strangers: nothing is proved yet. The bound covers the whole handshake, not the time between two bytes.
#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_end_is_let_go() {
    let certificates = MemoryAuthority::new().certificates();
    let tls = certificates.claim(&identity("cart")).get().await.unwrap().credentials.server();
    // A record of 512 bytes that begins a ClientHello (RFC 8446 §5.1).
    let half: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    for (stage, bytes, drip) in [("silent", &[][..], false), ("half a record", half, false), ("drip", half, true)] {
        let (mut client, accepted) = tcp_pair().await;
        client.write_all(bytes).await.unwrap();
        let (begun, bounds) = (Instant::now(), Limits::default());
        let dripping = async {
            if !drip {
                return std::future::pending::<()>().await;
            }
            loop {
                // The clock is paused: the pause between two drops takes no time.
                tokio::time::sleep(Duration::from_secs(1)).await;
                client.write_all(&[0]).await.unwrap();
            }
        };
        let refused = tokio::select! {
            accepted = server::accept_tls(accepted, Arc::clone(&tls), &bounds) => accepted.map(drop),
            () = dripping => unreachable!(),
        };
        assert!(matches!(refused, Err(AcceptError::Timeout(_))), "{stage}: {refused:?}");
        assert_eq!(begun.elapsed().as_secs(), limits::TLS_HANDSHAKE_TIMEOUT.duration().as_secs(), "{stage}");
    }
}

/// Whether a client answers the server's PINGs while it does nothing else.
#[derive(Clone, Copy, PartialEq)]
enum Manners {
    Silent,
    Answers,
}

/// Serves a client that sends `bytes` and then stops; how that ends, after what time, and how many requests came.
async fn stop_after(bytes: &[u8], manners: Manners) -> (Result<(), AcceptError>, Duration, usize) {
    let (near, far) = duplex(1 << 20);
    let (mut read, mut write) = tokio::io::split(far);
    write.write_all(bytes).await.unwrap();
    let begun = Instant::now();
    let work = Work::default();
    let client = async {
        let mut head = [0; 9];
        while read.read_exact(&mut head).await.is_ok() {
            let mut payload = vec![0; usize::from(head[2])];
            read.read_exact(&mut payload).await.unwrap();
            if head[3] == PING && head[4] == NONE && manners == Manners::Answers {
                let _ = write.write_all(&frame(PING, ACK, 0, &payload)).await;
            }
        }
        std::future::pending::<()>().await;
    };
    let (peer, bounds, budget) = (SocketAddr::from(([127, 0, 0, 1], 1)), Limits::default(), ReceiveBudget::default());
    let served = tokio::select! {
        served = server::serve(near, peer, (&bounds, &budget), std::future::pending(), undecided(&work)) => served,
        () = client => unreachable!(),
    };
    work.until(|now, _| now == 0).await;
    (served, begun.elapsed(), work.all.load(Ordering::SeqCst))
}

/// Members: TLS is done.
#[tokio::test(start_paused = true)]
async fn a_client_that_stops_and_is_silent_is_let_go() {
    let greeting: Vec<u8> = [PREFACE, &frame(SETTINGS, NONE, 0, &[])].concat();
    let half_headers: Vec<u8> = [greeting.clone(), frame(HEADERS, NONE, 1, CONNECT)].concat();
    let half_frame: Vec<u8> = [greeting.clone(), connect(0)[..14].to_vec()].concat();
    let half_data: Vec<u8> = [greeting.clone(), connect(0), frame(DATA, NONE, 1, &[7; 100])[..50].to_vec()].concat();
    let after_connect: Vec<u8> = [greeting.clone(), connect(0)].concat();
    let handshake = limits::HTTP2_HANDSHAKE_TIMEOUT.duration();
    let silence = limits::PING_INTERVAL.duration() + limits::PING_TIMEOUT.duration();
    for (stage, bytes, bound, requests) in [
        ("after TLS", Vec::new(), handshake, 0),
        ("half the preface", PREFACE[..12].to_vec(), handshake, 0),
        ("after the preface", PREFACE.to_vec(), silence, 0),
        ("after SETTINGS", greeting, silence, 0),
        ("half a frame", half_frame, silence, 0),
        ("half the headers", half_headers, silence, 0),
        ("after CONNECT", after_connect, silence, 1),
        ("half a DATA frame", half_data, silence, 1),
    ] {
        let (end, after, seen) = stop_after(&bytes, Manners::Silent).await;
        assert!(matches!(end, Err(AcceptError::Timeout(_) | AcceptError::Silent(_))), "{stage}: {end:?}");
        assert_eq!((after.as_secs(), seen), (bound.as_secs(), requests), "{stage}");
    }
}

/// A client that answers PINGs is alive. Without a stream it is asked to go in the end; in the middle of a header block
/// an answer is an error of protocol (RFC 9113 §6.10).
#[tokio::test(start_paused = true)]
async fn a_client_that_only_answers_pings_is_let_go() {
    let greeting: Vec<u8> = [PREFACE, &frame(SETTINGS, NONE, 0, &[])].concat();
    let (end, after, _) = stop_after(&greeting, Manners::Answers).await;
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(after.as_secs(), 2 * limits::POOL_IDLE_TIMEOUT.duration().as_secs());

    let half_headers: Vec<u8> = [greeting, frame(HEADERS, NONE, 1, CONNECT)].concat();
    let (end, after, _) = stop_after(&half_headers, Manners::Answers).await;
    assert!(matches!(end, Err(AcceptError::Http2(_))), "{end:?}");
    assert_eq!(after.as_secs(), limits::PING_INTERVAL.duration().as_secs());
}
