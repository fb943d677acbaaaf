//! Frames that cost the sender next to nothing, in numbers.

use super::*;

/// A tunnel that carries nothing but DATA frames without data.
#[tokio::test]
async fn empty_data_flood_ends_the_attackers_connection_only() {
    let certificates = MemoryAuthority::new().certificates();
    let mut server = serve(&certificates, "cart", unread).await;
    let mut neighbour = Neighbour::of(&certificates, &server).await;
    let mut attacker = Attacker::greet(&certificates, server.address).await.listen();
    attacker.send(&[connect(0), frame(DATA, NONE, 1, b"").repeat(10_000)].concat()).await;
    told_to_calm_down(&mut server, &mut attacker, "too_many_data_frames").await;
    neighbour.lives_on().await;
}

/// Single bytes nobody reads: each costs us a hundred times what it costs the sender, so there is a budget for them.
/// What must not be cut is in `endurance`: the same from applications that read.
#[tokio::test]
async fn small_data_flood_ends_the_attackers_connection_only() {
    let certificates = MemoryAuthority::new().certificates();
    let mut server = serve(&certificates, "cart", unread).await;
    let mut neighbour = Neighbour::of(&certificates, &server).await;
    let mut attacker = Attacker::greet(&certificates, server.address).await.listen();
    let most = limits::SMALL_FRAMES.size() / 255 + 1;
    attacker.send(&[connect(0), frame(DATA, NONE, 1, b"x").repeat(most)].concat()).await;
    told_to_calm_down(&mut server, &mut attacker, "too_many_data_frames").await;
    neighbour.lives_on().await;
}

/// Single bytes that are read go on for longer than the budget for unread ones.
#[tokio::test]
async fn small_data_that_is_read_is_never_cut() {
    let certificates = MemoryAuthority::new().certificates();
    let server = serve(&certificates, "cart", echo).await;
    let mut attacker = Attacker::greet(&certificates, server.address).await.listen();
    assert!(attacker.send(&connect(0)).await);
    let most = limits::SMALL_FRAMES.size() / 255;
    let mut back = 0;
    for _ in 0..=most / 1_000 {
        assert!(attacker.send(&frame(DATA, NONE, 1, b"x").repeat(1_000)).await, "cut after {back} bytes");
        let wanted = back + 1_000;
        while back < wanted {
            let frame = attacker.find(|frame| frame.kind == DATA).await.expect("cut");
            back += frame.payload.len();
        }
        let credit = frame(WINDOW_UPDATE, NONE, 1, &1_000_u32.to_be_bytes());
        let all = frame(WINDOW_UPDATE, NONE, 0, &1_000_u32.to_be_bytes());
        assert!(attacker.send(&[credit, all].concat()).await);
    }
    assert!(back > most);
    attacker.is_served().await;
}

/// A client that reads gets an answer to each; one that does not is not listened to either, so that answers do not
/// pile up.
#[tokio::test]
async fn ping_flood_is_answered_or_held_back() {
    assert_held_back(&frame(PING, NONE, 0, b"12345678"), PING).await;
}

/// As with PING: each SETTINGS frame must be acknowledged (RFC 9113 §6.5.3).
#[tokio::test]
async fn settings_flood_is_answered_or_held_back() {
    assert_held_back(&frame(SETTINGS, NONE, 0, &[0, 4, 0, 0, 0xff, 0xff]), SETTINGS).await;
}

/// Much more than both sockets' buffers take.
const FLOOD: usize = 64 << 20;

/// How long a write must get nowhere before it counts as held back.
const STALL: Duration = Duration::from_secs(2);

async fn assert_held_back(flood: &[u8], kind: u8) {
    let certificates = MemoryAuthority::new().certificates();
    let work = Work::default();
    let server = serve(&certificates, "cart", undecided(&work)).await;
    let mut neighbour = Neighbour::of(&certificates, &server).await;

    let mut reading = Attacker::greet(&certificates, server.address).await.listen();
    assert!(reading.send(&flood.repeat(10_000)).await);
    for _ in 0..10_000 {
        reading.find(|frame| frame.kind == kind && frame.flags == ACK).await.expect("cut");
    }
    reading.is_served().await;

    let mut deaf = Attacker::greet(&certificates, server.address).await;
    let piece = flood.repeat(1_000);
    let mut sent = 0;
    // Nothing tells a sender that it is held back, but that time passes.
    while let Ok(true) = tokio::time::timeout(STALL, deaf.send(&piece)).await {
        sent += piece.len();
        assert!(sent < FLOOD, "the server takes everything, and so holds the answers");
    }
    neighbour.lives_on().await;
}
