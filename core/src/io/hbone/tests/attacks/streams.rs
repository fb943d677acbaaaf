//! Streams opened to be thrown away, and connections broken in the middle.

use super::*;

/// Requests of a client that gives each up at once, in one piece.
fn requests_given_up(count: u32) -> Vec<u8> {
    (0..count).flat_map(|index| [connect(index), cancel(index)].concat()).collect()
}

/// CVE-2023-44487: requests and cancellations as fast as they can be written.
#[tokio::test]
async fn rapid_reset_ends_the_attackers_connection_only() {
    let certificates = MemoryAuthority::new().certificates();
    let work = Work::default();
    let mut server = serve(&certificates, "cart", undecided(&work)).await;
    let mut neighbour = Neighbour::of(&certificates, &server).await;
    let mut attacker = Attacker::greet(&certificates, server.address).await.listen();
    attacker.send(&requests_given_up(50_000)).await;
    told_to_calm_down(&mut server, &mut attacker, "too_many_resets").await;
    work.until(|now, _| now == 0).await;
    neighbour.lives_on().await;
}

/// The same, but each request is let through to the server first: then no more is at work than the peer could have
/// open, and what was given up is let go.
#[tokio::test]
async fn requests_given_up_one_by_one_leave_no_work_behind() {
    let certificates = MemoryAuthority::new().certificates();
    let work = Work::default();
    let server = serve(&certificates, "cart", undecided(&work)).await;
    let mut neighbour = Neighbour::of(&certificates, &server).await;
    let mut attacker = Attacker::greet(&certificates, server.address).await.listen();
    for index in 0..2_000 {
        assert!(attacker.send(&connect(index)).await);
        let seen = usize::try_from(index).unwrap() + 1;
        work.until(|_, all| all == seen).await;
        assert!(attacker.send(&cancel(index)).await);
        work.until(|now, _| now == 0).await;
    }
    assert_eq!(work.most.load(Ordering::SeqCst), 1);
    attacker.is_served().await;
    neighbour.lives_on().await;
}

/// Requests that are reset before the server has looked at them: as many as a client with all its connections leaves
/// behind when it dies are forgiven.
#[tokio::test]
async fn reset_before_accept_is_forgiven_within_its_bound() {
    let certificates = MemoryAuthority::new().certificates();
    let work = Work::default();
    let server = serve(&certificates, "cart", undecided(&work)).await;
    let mut attacker = Attacker::greet(&certificates, server.address).await.listen();
    attacker.is_served().await;
    assert!(attacker.send(&requests_given_up(limits::ABANDONED_REQUESTS.number() - 1)).await);
    attacker.is_served().await;
    work.until(|now, _| now == 0).await;
}

/// CVE-2025-8671, MadeYouReset: the client has the server reset its streams, by updates that overflow their windows.
#[tokio::test]
async fn made_you_reset_ends_the_attackers_connection_only() {
    let certificates = MemoryAuthority::new().certificates();
    let work = Work::default();
    let mut server = serve(&certificates, "cart", undecided(&work)).await;
    let mut neighbour = Neighbour::of(&certificates, &server).await;
    let mut attacker = Attacker::greet(&certificates, server.address).await.listen();
    let most = limits::STREAM_ERRORS.number();
    // One byte more than a window can be (RFC 9113 §6.9.1).
    let too_much = 0x7fff_ffff_u32.to_be_bytes();
    for piece in 0..=most / 1_000 {
        let broken = |index| [connect(index), frame(WINDOW_UPDATE, NONE, stream_id(index), &too_much)].concat();
        let pieces: Vec<u8> = (piece * 1_000..(piece + 1) * 1_000).flat_map(broken).collect();
        if !attacker.send(&pieces).await {
            break;
        }
    }
    told_to_calm_down(&mut server, &mut attacker, "too_many_internal_resets").await;
    work.until(|now, _| now == 0).await;
    neighbour.lives_on().await;
}

/// More streams at once than were offered are refused one by one, and cost nobody anything.
#[tokio::test]
async fn streams_beyond_the_offer_are_refused() {
    let certificates = MemoryAuthority::new().certificates();
    let work = Work::default();
    let server = serve(&certificates, "cart", undecided(&work)).await;
    let mut neighbour = Neighbour::of(&certificates, &server).await;
    let mut attacker = Attacker::greet(&certificates, server.address).await.listen();
    let most = limits::MAX_CONCURRENT_STREAMS.number();
    assert!(attacker.send(&(0..most + 50).flat_map(connect).collect::<Vec<_>>()).await);
    for index in most..most + 50 {
        let reset = attacker.find(|frame| frame.kind == RST_STREAM).await.expect("hung up");
        assert_eq!((reset.stream, reset.code(0)), (stream_id(index), Reason::REFUSED_STREAM));
    }
    assert_eq!(work.most.load(Ordering::SeqCst), limits::MAX_CONCURRENT_STREAMS.size());
    attacker.is_served().await;
    neighbour.lives_on().await;
}

/// A TCP reset in the middle of a frame: all streams of the connection end, nobody waits for the rest.
#[tokio::test]
async fn a_reset_in_the_middle_of_a_frame_ends_the_streams_of_that_connection() {
    let certificates = MemoryAuthority::new().certificates();
    let work = Work::default();
    let mut server = serve(&certificates, "cart", undecided(&work)).await;
    let mut neighbour = Neighbour::of(&certificates, &server).await;
    let mut attacker = Attacker::greet(&certificates, server.address).await;
    assert!(attacker.send(&(0..10).flat_map(connect).collect::<Vec<_>>()).await);
    work.until(|now, _| now == 10).await;
    let announced = frame(DATA, NONE, stream_id(3), &[7; 1_000]);
    assert!(attacker.send(&announced[..500]).await);
    let tls = attacker.read.unsplit(attacker.write);
    crate::io::socket::reset_on_close(tls.get_ref().0);
    drop(tls);
    assert!(matches!(ended(&mut server).await, AcceptError::Http2(error) if error.is_io()));
    work.until(|now, _| now == 0).await;
    neighbour.lives_on().await;
}
