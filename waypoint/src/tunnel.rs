//! Tunnels that arrive: one connection of a proven client carries many streams.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use fairway_core::ident::Identity;
use fairway_core::io::drain::Drain;
use fairway_core::io::hbone::lifetime::Lifetime;
use fairway_core::io::hbone::server::{self, Incoming, TunnelTls};
use fairway_core::io::listen::Arrival;
use fairway_core::io::tls::trust::Role;
use fairway_core::limits;
use fairway_core::reason::Reason;
use tokio::sync::{Notify, Semaphore};

use crate::failure::Failure;
use crate::stream::Stream;
use crate::waypoint::Waypoint;

/// Serves one tunnel connection: proves both sides, then serves its streams until it ends. `drain` is held until then.
pub async fn serve(waypoint: Arc<Waypoint>, arrival: Arrival, drain: Drain) {
    let Arrival { stream, peer, permit: _permit } = arrival;
    let proven = {
        let handshake = match waypoint.handshakes.begin(peer.ip()) {
            Ok(handshake) => handshake,
            Err(busy) => {
                return waypoint.telemetry.tunnel_refused(peer, &Failure::new(Reason::ConnectionLimit, busy));
            }
        };
        let proven = Box::pin(prove(&waypoint, stream)).await;
        drop(handshake);
        proven
    };
    match proven {
        Ok((tls, client, lifetime)) => Box::pin(carry_streams(waypoint, tls, peer, client, lifetime, drain)).await,
        Err(failure) => waypoint.telemetry.tunnel_refused(peer, &failure),
    }
}

async fn prove(waypoint: &Waypoint, stream: tokio::net::TcpStream) -> Result<(TunnelTls, Identity, Lifetime), Failure> {
    let local = waypoint.workload().await;
    let local = local.ok_or_else(|| Failure::new(Reason::WorkloadUnknown, "this waypoint's own pod"))?;
    let certificate = waypoint.certificates.claim(&local.identity()).get().await;
    let certificate = certificate.map_err(|error| Failure::new(Reason::CertificateUnavailable, error))?;
    let accepted = server::accept_tls(stream, certificate.credentials.server(), &waypoint.limits).await;
    let (tls, client) = accepted.map_err(|error| Failure::new(error.reason(), error))?;
    let chain = tls.get_ref().1.peer_certificates();
    let lifetime = Lifetime::new(&waypoint.certificates, &certificate, Role::Client, chain);
    Ok((tls, client, lifetime))
}

async fn carry_streams(
    waypoint: Arc<Waypoint>,
    tls: TunnelTls,
    peer: SocketAddr,
    client: Identity,
    lifetime: Lifetime,
    drain: Drain,
) {
    let retired = Notify::new();
    let mut stopping = drain.clone();
    let retiring = pin!(async {
        tokio::select! {
            _mode = stopping.started() => {}
            () = retired.notified() => {}
        }
    });
    let permits = Arc::new(Semaphore::new(waypoint.limits.size(&limits::MAX_CONCURRENT_STREAMS)));
    let streams = |incoming: Incoming| {
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            incoming.refuse(Reason::ConnectionLimit);
            let failure = Failure::new(Reason::ConnectionLimit, limits::MAX_CONCURRENT_STREAMS.name);
            return waypoint.telemetry.stream_refused(peer, &client, &failure);
        };
        let stream = Stream {
            waypoint: Arc::clone(&waypoint),
            peer,
            identity: client.clone(),
            lifetime: lifetime.clone(),
            drain: drain.clone(),
            incoming,
            permit,
        };
        tokio::spawn(stream.serve());
    };
    let cut = Box::pin(lifetime.follow(|| retired.notify_one()));
    let serving = pin!(server::serve(tls, peer, (&waypoint.limits, &waypoint.budget), retiring, streams));
    tokio::select! {
        served = serving => {
            if let Err(error) = served {
                tracing::debug!(%peer, %client, %error, "tunnel connection ended");
            }
        }
        reason = cut => tracing::warn!(%peer, %client, %reason, "tunnel connection cut"),
    }
}
