//! Notices a silent peer: PING every so often, give up when no PONG comes (interop §1.8).

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

use crate::limits;

/// Resolves when the peer has stopped answering, with the time it was given.
///
/// Without a [`PingPong`], because somebody else took it, it never resolves.
pub async fn peer_lost(ping_pong: Option<PingPong>) -> Duration {
    let Some(mut ping_pong) = ping_pong else {
        return std::future::pending().await;
    };
    loop {
        sleep(limits::PING_INTERVAL.duration()).await;
        match timeout(limits::PING_TIMEOUT.duration(), ping_pong.ping(Ping::opaque())).await {
            Ok(Ok(_pong)) => {}
            Ok(Err(_connection_ended)) => return std::future::pending().await,
            Err(_elapsed) => return limits::PING_TIMEOUT.duration(),
        }
    }
}
