//! Notices a silent peer: PING every so often, give up when no PONG comes (interop §1.8).

use std::future::Future;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

use crate::limits::{self, Limits};

/// Resolves when the peer has stopped answering, with the time it was given.
///
/// Without a [`PingPong`], because somebody else took it, it never resolves.
pub fn peer_lost(ping_pong: Option<PingPong>, limits: &Limits) -> impl Future<Output = Duration> + use<> {
    let limits = limits.clone();
    async move {
        let Some(mut ping_pong) = ping_pong else {
            return std::future::pending().await;
        };
        loop {
            sleep(limits.duration(&limits::PING_INTERVAL)).await;
            match timeout(limits.duration(&limits::PING_TIMEOUT), ping_pong.ping(Ping::opaque())).await {
                Ok(Ok(_pong)) => {}
                Ok(Err(_connection_ended)) => return std::future::pending().await,
                Err(_elapsed) => return limits.duration(&limits::PING_TIMEOUT),
            }
        }
    }
}
