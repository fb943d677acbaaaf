//! What a client of the mesh may send once TLS has proved it: HTTP/2 frames, sound ones and broken ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fairway_core::io::hbone::ReceiveBudget;
use fairway_core::io::hbone::server::{Incoming, serve};
use fairway_core::limits::Limits;
use fairway_core::reason::Reason;
use fairway_core::route;
use fairway_core::snapshot::Snapshot;
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use crate::input::Input;
use crate::{connect, world};

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// This first byte of a step stands for bytes that are sent as they are; anything else is a frame's type.
pub const RAW: u8 = 0xff;

/// Longer than every timer of a connection: with a paused clock, only what never ends reaches it.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);

/// Serves one connection whose client sends the steps of the input and then closes.
pub fn run(data: &[u8]) {
    thread_local!(static WORLD: Arc<Snapshot> = world::snapshot());
    let world = WORLD.with(Arc::clone);
    let bytes = frames(data);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let (near, far) = duplex(1 << 16);
        let client = async {
            let (mut read, mut write) = tokio::io::split(far);
            let send = async {
                // The server may have had enough.
                let _ = write.write_all(&bytes).await;
                let _ = write.shutdown().await;
            };
            let receive = async {
                let mut buffer = vec![0; 1 << 14];
                while let Ok(1..) = read.read(&mut buffer).await {}
            };
            tokio::join!(send, receive);
        };
        let mut streams = JoinSet::new();
        let (peer, limits, budget) =
            (SocketAddr::from(([10, 0, 0, 9], 1)), Limits::default(), ReceiveBudget::default());
        let serving = serve(near, peer, (&limits, &budget), std::future::pending(), |incoming| {
            answer(&world, incoming, &mut streams);
        });
        let served = async { tokio::join!(serving, client) };
        let (_how_it_ended, ()) =
            tokio::time::timeout(FOR_EVER, served).await.expect("a connection whose client has gone ends");
        tokio::time::timeout(FOR_EVER, streams.join_all()).await.expect("streams of a dead connection end");
    });
}

fn answer(world: &Snapshot, incoming: Incoming, streams: &mut JoinSet<()>) {
    connect::headers(incoming.headers());
    let Some(authority) = incoming.authority().filter(|_| incoming.is_connect()) else {
        return incoming.refuse(Reason::BadRequest);
    };
    connect::target(world, authority);
    let Some(local) = world.workload_at(&"".into(), world::POD.into()) else { return };
    if let Err(refusal) = route::inbound(world, local, SocketAddr::from((world::POD, 15008)), authority) {
        return incoming.refuse(refusal.reason);
    }
    let Ok(mut stream) = incoming.accept(HeaderMap::new()) else { return };
    streams.spawn(async move {
        while let Ok(Some(bytes)) = stream.receiver.receive().await {
            let length = bytes.len();
            if stream.sender.send_all(bytes).await.is_err() || stream.receiver.consumed(length).is_err() {
                return;
            }
        }
        let _ = stream.sender.finish();
    });
}

/// Each step is a frame's type, flags and stream, and a payload with its length before it; the frame's own length is
/// right, so that the fuzzer gets past it.
fn frames(data: &[u8]) -> Vec<u8> {
    let mut input = Input::new(data);
    let mut bytes = PREFACE.to_vec();
    while !input.is_empty() {
        let kind = input.byte();
        if kind == RAW {
            bytes.extend(input.piece());
            continue;
        }
        let (flags, stream, payload) = (input.byte(), input.byte(), input.piece());
        bytes.extend(&u32::try_from(payload.len()).unwrap_or_default().to_be_bytes()[1..]);
        bytes.extend([kind, flags, 0, 0, 0, stream]);
        bytes.extend(payload);
    }
    bytes
}
