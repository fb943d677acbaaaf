//! Tunnels arriving for a pod: one connection carries many streams, each is one application connection.

#[cfg(test)]
mod behind;
#[cfg(test)]
mod members;
#[cfg(test)]
mod strangers;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use fairway_core::addr::canonical;
use fairway_core::authz;
use fairway_core::facts::{ConnectionFacts, Original};
use fairway_core::ident::Identity;
use fairway_core::io::copy;
use fairway_core::io::drain::Drain;
use fairway_core::io::hbone::TunnelStream;
use fairway_core::io::hbone::headers::{self, BAGGAGE, Baggage, forwarded_host};
use fairway_core::io::hbone::lifetime::Lifetime;
use fairway_core::io::hbone::server::{self, AcceptError, Incoming};
use fairway_core::io::socket::reset_on_close;
use fairway_core::io::tls::trust::Role;
use fairway_core::limits::{self, Limits};
use fairway_core::reason::Reason;
use fairway_core::route;
use fairway_core::snapshot::Snapshot;
use fairway_core::view::PodView;
use fairway_core::workload::Workload;
use http::HeaderMap;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use crate::conn::Authorized;
use crate::deliver::{Delivered, deliver_to};
use crate::dialled;
use crate::listen::{Accepted, Arrival};
use crate::outcome;
use crate::pod::Pod;
use crate::pods::NO_MEMORY;
use crate::telemetry::{ConnectionInfo, ConnectionTelemetry, Outcome, Reporter};
use crate::workers::Place;
use crate::{baggage, demand};

/// Longest authority: the longest name DNS has (RFC 1035 §2.3.4), a colon and a port.
const AUTHORITY_MAX: usize = 253 + 1 + 5;

/// What is said of a client that did not wait for its answer.
const LEFT: &str = "the client left before it was answered";

/// What is said of a stream that finds all places on its tunnel taken.
const STREAMS_TAKEN: &str = "streams that the client gave up are still being ended (http2_max_concurrent_streams)";

/// Serves one tunnel connection to the pod: proves both sides, then serves its streams until it ends.
///
/// Each step is boxed and begins only when the one before is over, so that a client is held in as little memory as what
/// it has sent so far justifies.
pub async fn serve(pod: Arc<Pod>, accepted: Accepted) {
    let started = Instant::now();
    let Arrival { stream, peer, .. } = &accepted.arrival;
    let Ok(arrived_at) = stream.local_addr().map(canonical) else { return };
    // Strangers may knock, but only so many at a time: until it is proven who they are, they cost the most.
    let handshake = match pod.handshakes.begin(peer.ip()) {
        Ok(handshake) => handshake,
        Err(busy) => {
            let info = ConnectionInfo::new(Reporter::Destination, *peer, arrived_at);
            return pod.mesh.telemetry.refused(&info, started, &Outcome::because(Reason::ConnectionLimit, busy));
        }
    };
    let deadline = tokio::time::Instant::now() + pod.mesh.limits.duration(&limits::TLS_HANDSHAKE_TIMEOUT);
    // Whoever says nothing gets nothing made for it; that it never does is noticed by the handshake. A peek, as a socket
    // that is new counts as readable until somebody has tried.
    let _first_byte = timeout_at(deadline, stream.peek(&mut [0])).await;
    let proven = Box::pin(prove(&pod, accepted, arrived_at, started, deadline)).await;
    drop(handshake);
    if let Some(proven) = proven {
        Box::pin(carry_streams(proven)).await;
    }
}

/// A tunnel connection whose client has proved itself.
pub(crate) struct Proven {
    tls: server::TunnelTls,
    pod: Arc<Pod>,
    client: Identity,
    lifetime: Lifetime,
    info: ConnectionInfo,
    started: Instant,
    permit: OwnedSemaphorePermit,
    place: Place,
}

/// Does TLS with the client, as the pod. Both are known afterwards, or the connection has been refused.
async fn prove(
    pod: &Arc<Pod>,
    accepted: Accepted,
    arrived_at: SocketAddr,
    started: Instant,
    deadline: tokio::time::Instant,
) -> Option<Box<Proven>> {
    let Accepted { arrival: Arrival { stream, peer, permit }, place } = accepted;
    let mut info = ConnectionInfo::new(Reporter::Destination, peer, arrived_at);
    let refuse = |info: &ConnectionInfo, outcome: &Outcome| {
        pod.mesh.telemetry.refused(info, started, outcome);
        None
    };
    let Some(local) = pod.workload().await else {
        return refuse(&info, &Outcome::because(Reason::WorkloadUnknown, &pod.reference.name));
    };
    info.destination_workload = Some(Arc::clone(&local));
    let certificate = match pod.mesh.certificates.claim(&local.identity()).get().await {
        Ok(certificate) => certificate,
        Err(error) => return refuse(&info, &Outcome::because(Reason::CertificateUnavailable, error)),
    };
    let accepting =
        timeout_at(deadline, server::accept_tls(stream, certificate.credentials.server(), &pod.mesh.limits));
    let late = || Err(AcceptError::Timeout(pod.mesh.limits.duration(&limits::TLS_HANDSHAKE_TIMEOUT)));
    match accepting.await.unwrap_or_else(|_elapsed| late()) {
        Ok((tls, client)) => {
            let chain = tls.get_ref().1.peer_certificates();
            let lifetime = Lifetime::new(&pod.mesh.certificates, &certificate, Role::Client, chain);
            let pod = Arc::clone(pod);
            Some(Box::new(Proven { tls, pod, client, lifetime, info, started, permit, place }))
        }
        Err(error) => refuse(&info, &Outcome::from(&error)),
    }
}

/// Serves the streams of a proven connection until it ends.
pub(crate) async fn carry_streams(proven: Box<Proven>) {
    // Out of its box at once, which is of no use any more.
    let Proven { tls, pod, client, lifetime, mut info, started, permit: _permit, place } =
        std::convert::identity(*proven);
    let (peer, arrived_at) = (info.source, info.destination);
    let retired = Notify::new();
    let drain = pin!(async {
        let mut drain = pod.drain.clone();
        tokio::select! {
            _mode = drain.started() => {}
            () = retired.notified() => {}
        }
    });
    let mut asked = false;
    // The client's own limit counts the streams it has not given up; this one those that still cost us something.
    let permits = Arc::new(Semaphore::new(pod.mesh.limits.size(&limits::MAX_CONCURRENT_STREAMS)));
    let shed = |reason, detail| {
        let destination_identity = info.destination_workload.as_deref().map(Workload::identity);
        let info = ConnectionInfo { source_identity: Some(client.clone()), destination_identity, ..info.clone() };
        pod.mesh.telemetry.shed(&info, &Outcome::because(reason, detail));
    };
    let streams = |incoming: Incoming| {
        asked = true;
        let permit = match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) if !pod.mesh.pressure.is_high() => permit,
            taken => {
                let (reason, detail) = match taken {
                    Ok(_) => (Reason::ResourceLimit, NO_MEMORY),
                    Err(_) => (Reason::ConnectionLimit, STREAMS_TAKEN),
                };
                incoming.refuse(reason);
                return shed(reason, detail);
            }
        };
        let arrived = Arrived {
            pod: Arc::clone(&pod),
            peer,
            arrived_at,
            client: client.clone(),
            lifetime: lifetime.clone(),
            incoming,
            permit,
            place: place.another(),
        };
        tokio::spawn(arrived.serve());
    };
    // Boxed, as what is rarely polled.
    let cut = Box::pin(lifetime.follow(|| retired.notify_one()));
    let served = {
        let serving = pin!(server::serve(tls, peer, (&pod.mesh.limits, &pod.mesh.budget), drain, streams));
        tokio::select! {
            served = serving => served,
            reason = cut => {
                tracing::warn!(%peer, %client, %reason, "tunnel connection cut");
                return;
            }
        }
    };
    match served {
        // A member that never asked for a stream would leave no trace otherwise.
        Err(error) if !asked => {
            info.destination_identity = info.destination_workload.as_deref().map(Workload::identity);
            info.source_identity = Some(client);
            pod.mesh.telemetry.refused(&info, started, &Outcome::from(&error));
        }
        Err(error) => tracing::debug!(%peer, %client, %error, "tunnel connection ended"),
        Ok(()) => {}
    }
}

/// One stream that asks to be let through, and what is known of it from the connection it came on.
pub(crate) struct Arrived {
    pod: Arc<Pod>,
    peer: SocketAddr,
    arrived_at: SocketAddr,
    client: Identity,
    lifetime: Lifetime,
    incoming: Incoming,
    permit: OwnedSemaphorePermit,
    place: Place,
}

impl Arrived {
    /// Serves the stream. What it takes to let one in is boxed, because it is soon over: what idles is the copy alone.
    pub(crate) fn serve(self) -> impl Future<Output = ()> + Send {
        let (mut drain, limits) = (self.pod.drain.clone(), self.pod.mesh.limits.clone());
        let open = Box::pin(self.open());
        async move {
            let open = tokio::select! {
                open = open => open,
                () = drain.immediate() => None,
            };
            if let Some(open) = open {
                open.carry(drain, &limits).await;
            }
        }
    }

    /// Lets the stream in, in the order of interop §1.4: policy, then the application, then 200.
    async fn open(mut self) -> Option<Box<Open>> {
        let started = Instant::now();
        let pod = Arc::clone(&self.pod);
        // Followed before anything is decided, so that no change of policy can fall in between.
        let view = pod.view();
        let snapshot = pod.mesh.live.snapshot();
        let local = view.borrow().workload.clone();
        let mut info = self.describe(&snapshot, local.as_ref());
        let refuse = |info: &ConnectionInfo, incoming: Incoming, outcome: &Outcome| {
            incoming.refuse(outcome.reason);
            pod.mesh.telemetry.refused(info, started, outcome);
            None
        };
        let Some(local) = local else {
            return refuse(&info, self.incoming, &Outcome::because(Reason::WorkloadUnknown, &pod.reference.name));
        };
        let authority = info.hbone_destination.as_deref().filter(|_| self.incoming.is_connect());
        let Some(authority) = authority else {
            let outcome = Outcome::because(Reason::BadRequest, "not a CONNECT with an authority");
            return refuse(&info, self.incoming, &outcome);
        };
        let named = forwarded_host(self.incoming.headers()).map(str::to_owned);
        let is_guarded = !pod.mesh.waypoint_bypass;
        let original = self.original();
        // Nobody waits for what decides nothing.
        let hangs_on_waypoints = original.is_some() && may_hang_on_waypoints(&view.borrow(), &self.client);
        let missing = |snapshot: &Snapshot| {
            let around = || {
                is_guarded.then(|| route::missing_around(snapshot, &local, &self.client, named.as_deref())).flatten()
            };
            let waypoints =
                || hangs_on_waypoints.then(|| route::missing_waypoints(snapshot, &local, &self.client)).flatten();
            route::missing_inbound(snapshot, &local, self.arrived_at, authority).or_else(around).or_else(waypoints)
        };
        let known = tokio::select! {
            known = demand::snapshot(&pod.mesh.live, pod.mesh.limits.duration(&limits::XDS_DEMAND_WAIT), missing) => known,
            () = self.incoming.given_up() => {
                return refuse(&info, self.incoming, &Outcome::because(Reason::ResetByPeer, LEFT));
            }
        };
        let target = known.and_then(|snapshot| {
            let target = route::inbound(&snapshot, &local, self.arrived_at, authority)?;
            if is_guarded {
                route::around(&snapshot, &local, &self.client, &target, named.as_deref())?;
            }
            Ok(target)
        });
        let target = match target {
            Ok(mut target) => {
                if !pod.mesh.tunnel_over_loopback {
                    target.dial = target.destination;
                }
                target
            }
            Err(refusal) => return refuse(&info, self.incoming, &Outcome::from(&*refusal)),
        };
        let facts = ConnectionFacts {
            source: self.peer,
            source_identity: Some(self.client),
            original,
            destination: target.destination,
            http: None,
        };
        if authz::original(&view.borrow(), &facts).is_some() {
            info.original = facts.original.clone();
        } else if let Some(original) = &facts.original {
            let (client, original) = (&facts.source_identity, &original.identity);
            tracing::debug!(?client, %original, "for whom it speaks is not believed, so it counts for itself alone");
        }
        let delivered = tokio::select! {
            delivered = deliver_to(&pod, view, facts, &target) => delivered,
            () = self.incoming.given_up() => Err(Outcome::because(Reason::ResetByPeer, LEFT)),
        };
        let Delivered { authorized, application } = match delivered {
            Ok(delivered) => delivered,
            Err(outcome) => return refuse(&info, self.incoming, &outcome),
        };
        if info.source_workload.is_none() && pod.mesh.exchange_baggage {
            // Now that the client may come in, its word is good for labels; nobody else's makes any.
            let headers = self.incoming.headers();
            info.source_workload = info.source_identity.as_ref().and_then(|client| baggage::described(headers, client));
        }
        let ourselves = if pod.mesh.exchange_baggage { describe(&local) } else { HeaderMap::new() };
        let Ok(tunnel) = self.incoming.accept(ourselves) else {
            pod.mesh.telemetry.refused(&info, started, &Outcome::because(Reason::ResetByPeer, LEFT));
            return None;
        };
        let telemetry = pod.mesh.telemetry.open(info, authorized.allowed_by().cloned());
        Some(Box::new(Open {
            authorized,
            application,
            tunnel,
            telemetry,
            lifetime: self.lifetime,
            _permit: self.permit,
            _place: self.place,
        }))
    }

    /// For whom the client says it speaks, where policies may look at that. It counts if the client is a waypoint of the pod, and
    /// for as long as it is; see [`authz::original`].
    fn original(&self) -> Option<Arc<Original>> {
        let (headers, client) = (self.incoming.headers(), &self.client);
        if !self.pod.mesh.clients_behind_waypoints || !headers.contains_key(headers::CLIENT_CERTIFICATE) {
            return None;
        }
        let original = headers::original(headers, client);
        if original.is_none() {
            tracing::debug!(%client, "for whom it speaks cannot be understood, so it counts for itself alone");
        }
        original.map(Arc::new)
    }

    fn describe(&self, snapshot: &Snapshot, local: Option<&Arc<Workload>>) -> ConnectionInfo {
        let mut info = ConnectionInfo::new(Reporter::Destination, self.peer, self.arrived_at);
        info.source_identity = Some(self.client.clone());
        let authority = self.incoming.authority().filter(|authority| authority.len() <= AUTHORITY_MAX);
        info.hbone_destination = authority.map(ToOwned::to_owned);
        let Some(local) = local else { return info };
        // The address says which workload it is only if the certificate agrees: behind a gateway or waypoint it does not.
        let source = snapshot.workload_at(&local.network, self.peer.ip());
        info.source_workload = source.filter(|source| source.identity() == self.client).cloned();
        info.destination_identity = Some(local.identity());
        info.destination_workload = Some(Arc::clone(local));
        let named = forwarded_host(self.incoming.headers());
        let port = info.hbone_destination.as_deref().and_then(dialled::port_of);
        info.destination_service = dialled::service(snapshot, local, named, port);
        info
    }
}

/// Whether it may hang on waypoints that are not known what policies say of a client that speaks for somebody.
fn may_hang_on_waypoints(view: &PodView, client: &Identity) -> bool {
    !view.policies.is_empty() && !view.waypoints.contains(client)
}

/// A stream that was let in.
struct Open {
    authorized: Authorized,
    application: TcpStream,
    tunnel: TunnelStream,
    telemetry: ConnectionTelemetry,
    lifetime: Lifetime,
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

impl Open {
    /// Carries bytes until both ends are done, policy says no, or the pod leaves the mesh.
    async fn carry(mut self: Box<Self>, drain: Drain, limits: &Limits) {
        let allowed = {
            let copied = pin!(copy::with_tunnel(&mut self.application, &mut self.tunnel, limits, &self.telemetry));
            self.authorized.while_allowed(drain, copied, |policy| self.telemetry.allowed_by(policy)).await
        };
        let outcome = match allowed {
            Ok(result) => outcome::of_tunnel(result, &self.lifetime),
            Err(cut) => {
                self.tunnel.abort();
                reset_on_close(&self.application);
                cut.into()
            }
        };
        self.telemetry.finish(&outcome);
    }
}

/// The 200's baggage: the client uses it for labels when it knew only a gateway (interop §1.3).
fn describe(local: &Workload) -> HeaderMap {
    Baggage::of(local).to_value().map(|value| (BAGGAGE, value)).into_iter().collect()
}
