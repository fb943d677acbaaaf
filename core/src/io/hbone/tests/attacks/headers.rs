//! Headers that are too many, too large, or larger than they look; bytes that come before the answer.

use super::*;

/// CVE-2024-27316: a header block that never ends.
#[tokio::test]
async fn continuation_flood_ends_the_attackers_connection_only() {
    let certificates = MemoryAuthority::new().certificates();
    let work = Work::default();
    let mut server = serve(&certificates, "cart", undecided(&work)).await;
    let mut neighbour = Neighbour::of(&certificates, &server).await;
    let mut attacker = Attacker::greet(&certificates, server.address).await.listen();
    let mut endless = frame(HEADERS, NONE, 1, CONNECT);
    for _ in 0..10 {
        endless.extend(frame(CONTINUATION, NONE, 1, b"\x00\x01a\x01b"));
    }
    attacker.send(&endless).await;
    told_to_calm_down(&mut server, &mut attacker, "too_many_continuations").await;
    assert_eq!(work.all.load(Ordering::SeqCst), 0);
    neighbour.lives_on().await;
}

/// One header that is remembered, and then named again with a byte each time: 60 kB stand for 240 MB (RFC 7541 §7.3).
#[tokio::test]
async fn hpack_bomb_ends_the_attackers_connection_only() {
    let certificates = MemoryAuthority::new().certificates();
    let work = Work::default();
    let mut server = serve(&certificates, "cart", undecided(&work)).await;
    let mut neighbour = Neighbour::of(&certificates, &server).await;
    let mut attacker = Attacker::greet(&certificates, server.address).await.listen();
    // Literal with incremental indexing: a name of one byte, a value of 4,000 (127 + 0x21 + 0x1e * 128).
    let mut bomb = [CONNECT, b"\x40\x01a\x7f\xa1\x1e"].concat();
    bomb.extend([b'x'; 4_000]);
    // Index 62: the first of those remembered.
    bomb.extend([0x80 | 62; 60_000]);
    attacker.send(&frame(HEADERS, END_HEADERS, 1, &bomb)).await;
    told_to_calm_down(&mut server, &mut attacker, "header_list_way_too_large").await;
    assert_eq!(work.all.load(Ordering::SeqCst), 0, "nobody gets to see such a request");
    neighbour.lives_on().await;
}

/// More headers than we said we take: that request is refused with 431, and nothing else happens.
#[tokio::test]
async fn oversized_headers_are_refused_alone() {
    let certificates = MemoryAuthority::new().certificates();
    let work = Work::default();
    let server = serve(&certificates, "cart", undecided(&work)).await;
    let mut neighbour = Neighbour::of(&certificates, &server).await;
    let mut attacker = Attacker::greet(&certificates, server.address).await.listen();
    // 70,000 bytes of a value: 127 + 0x71 + 0x21 * 128 + 4 * 16384.
    let mut oversized = [CONNECT, b"\x00\x07baggage\x7f\xf1\xa1\x04"].concat();
    oversized.extend([b'x'; 70_000]);
    assert!(attacker.send(&frame(HEADERS, END_HEADERS, 1, &oversized)).await);
    let answer = attacker.find(|frame| frame.stream == 1).await.expect("hung up");
    assert_eq!(answer.kind, HEADERS);
    assert!(answer.payload.windows(3).any(|part| part == b"431") || answer.payload.starts_with(&[0x48]), "{answer:?}");
    assert_eq!(work.all.load(Ordering::SeqCst), 0);
    assert!(attacker.send(&connect(1)).await);
    work.until(|now, _| now == 1).await;
    attacker.is_served().await;
    neighbour.lives_on().await;
}

/// Decides when it is told to, and says what the application would have got.
fn decided_later(
    verdict: tokio::sync::watch::Receiver<Option<bool>>,
    delivered: mpsc::UnboundedSender<Bytes>,
) -> impl Fn(Incoming) + Clone + Send + 'static {
    move |incoming| {
        if incoming.authority() == Some(NEIGHBOUR) {
            return echo(incoming);
        }
        let (mut verdict, delivered) = (verdict.clone(), delivered.clone());
        tokio::spawn(async move {
            let allowed = verdict.wait_for(Option::is_some).await.unwrap().unwrap();
            if !allowed {
                return incoming.refuse(crate::reason::Reason::PolicyDenied);
            }
            let Ok(mut stream) = incoming.accept(HeaderMap::new()) else { return };
            while let Ok(Some(bytes)) = stream.receiver.receive().await {
                stream.receiver.consumed(bytes.len()).unwrap();
                delivered.send(bytes).unwrap();
            }
        });
    }
}

/// Bytes sent before the 200 wait for the verdict: after a refusal nobody gets them.
#[tokio::test]
async fn early_data_reaches_nobody_when_refused() {
    let certificates = MemoryAuthority::new().certificates();
    let (decide, verdict) = tokio::sync::watch::channel(None);
    let (sender, mut delivered) = mpsc::unbounded_channel();
    let server = serve(&certificates, "cart", decided_later(verdict, sender)).await;
    let mut neighbour = Neighbour::of(&certificates, &server).await;
    let mut attacker = Attacker::greet(&certificates, server.address).await.listen();
    assert!(attacker.send(&[connect(0), frame(DATA, NONE, 1, b"DROP TABLE")].concat()).await);
    attacker.is_served().await;
    decide.send(Some(false)).unwrap();
    let answer = attacker.find(|frame| frame.stream == 1).await.expect("hung up");
    assert_eq!((answer.kind, answer.flags & END_STREAM), (HEADERS, END_STREAM));
    attacker.is_served().await;
    assert!(delivered.try_recv().is_err(), "what was refused was delivered");
    neighbour.lives_on().await;
}

/// The same with a good end: everything arrives, in order, and only after the verdict.
#[tokio::test]
async fn early_data_arrives_in_order_when_allowed() {
    let certificates = MemoryAuthority::new().certificates();
    let (decide, verdict) = tokio::sync::watch::channel(None);
    let (sender, mut delivered) = mpsc::unbounded_channel();
    let server = serve(&certificates, "cart", decided_later(verdict, sender)).await;
    let mut attacker = Attacker::greet(&certificates, server.address).await.listen();
    let early = [connect(0), frame(DATA, NONE, 1, b"one "), frame(DATA, END_STREAM, 1, b"two")].concat();
    assert!(attacker.send(&early).await);
    attacker.is_served().await;
    assert!(delivered.try_recv().is_err(), "delivered before the verdict");
    decide.send(Some(true)).unwrap();
    drop(decide);
    let mut all = Vec::new();
    while all.len() < 7 {
        all.extend(tokio::time::timeout(PATIENCE, delivered.recv()).await.expect("lost").unwrap());
    }
    assert_eq!(all, b"one two");
}

/// Bytes before the 200 are held to the stream's window: beyond it the stream is the attacker's to lose.
#[tokio::test]
async fn early_data_is_held_to_the_window() {
    let certificates = MemoryAuthority::new().certificates();
    let work = Work::default();
    let server = serve(&certificates, "cart", undecided(&work)).await;
    let mut neighbour = Neighbour::of(&certificates, &server).await;
    let mut attacker = Attacker::greet(&certificates, server.address).await.listen();
    assert!(attacker.send(&connect(0)).await);
    let piece = frame(DATA, NONE, 1, &vec![7; 16_384]);
    let mut sent = 0;
    while sent <= limits::STREAM_WINDOW_START.size() && attacker.send(&piece).await {
        sent += 16_384;
    }
    let end = attacker.find(|frame| matches!(frame.kind, RST_STREAM | GOAWAY)).await.expect("hung up silently");
    assert_eq!(end.code(if end.kind == GOAWAY { 4 } else { 0 }), Reason::FLOW_CONTROL_ERROR);
    work.until(|now, _| now == 0).await;
    neighbour.lives_on().await;
}
