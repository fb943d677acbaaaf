//! One captured connection leaving a pod, top to bottom.

mod neighbour;
mod newcomer;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use fairway_core::addr::canonical;
use fairway_core::io::copy;
use fairway_core::io::drain::Drain;
use fairway_core::io::hbone::client::Opened;
use fairway_core::io::hbone::headers::Baggage;
use fairway_core::io::hbone::lifetime::Lifetime;
use fairway_core::io::hbone::{ConnectRequest, TunnelError, TunnelKey, TunnelStream, headers};
use fairway_core::io::socket::{original_destination, reset_on_close};
use fairway_core::limits::{self, Limits};
use fairway_core::reason::Reason;
use fairway_core::route::{self, Hop, Plan, Refusal};
use fairway_core::service::Service;
use fairway_core::snapshot::Snapshot;
use fairway_core::workload::Workload;
use http::{HeaderMap, HeaderValue, header};
use tokio::net::TcpStream;

use crate::listen::{Accepted, Arrival};
use crate::outcome;
use crate::pod::Pod;
use crate::telemetry::{ConnectionInfo, ConnectionTelemetry, Outcome, Reporter, Telemetry};
use crate::workers::Place;
use crate::{baggage, demand};

/// Serves one connection of the pod to somewhere else.
pub async fn serve(pod: Arc<Pod>, accepted: Accepted) {
    let Accepted { arrival: Arrival { stream, peer: client, permit: _permit }, place } = accepted;
    // Boxed: decisions and handshakes need much room and are soon over. What idles is the copy alone.
    let mut drain = pod.drain.clone();
    let open = tokio::select! {
        open = Box::pin(open(&pod, &place, stream, client)) => open,
        () = drain.immediate() => None,
    };
    match open {
        Some(Open::Plain(open)) => open.carry(drain, &pod.mesh.limits).await,
        Some(Open::Tunnel(open)) => open.carry(drain, &pod.mesh.limits).await,
        // Boxed, as the largest and the rarest.
        Some(Open::Neighbour(open)) => Box::pin(open.carry(drain, &pod.mesh.limits)).await,
        None => {}
    }
}

/// Decides where the connection goes and opens the way there.
async fn open(pod: &Pod, place: &Place, stream: TcpStream, client: SocketAddr) -> Option<Open> {
    let destination = original_destination(&stream).ok()?;
    let mut connection = Outgoing {
        telemetry: pod.mesh.telemetry.clone(),
        stream,
        started: Instant::now(),
        info: ConnectionInfo::new(Reporter::Source, client, destination),
        who_answers_is_unknown: false,
    };
    if is_our_listener(&connection.stream, destination) {
        return connection.refuse(&Outcome::because(Reason::SelfCall, destination));
    }
    let (source, planned, announced) = match newcomer::departure(pod, client.ip(), destination).await {
        Some((source, plan)) => (source, Ok(plan), false),
        None => {
            let Some(source) = pod.workload().await else {
                return connection.refuse(&Outcome::because(Reason::WorkloadUnknown, &pod.reference.name));
            };
            let planned = plan(pod, &source, destination).await;
            (source, planned, true)
        }
    };
    connection.info.source_workload = Some(Arc::clone(&source));
    let plan = match planned {
        Ok(plan) => plan,
        Err(refusal) => {
            connection.info.destination_workload.clone_from(&refusal.workload);
            connection.info.destination_service.clone_from(&refusal.service);
            return connection.refuse(&Outcome::from(&*refusal));
        }
    };
    connection.info.destination_workload = plan.workload().cloned();
    connection.info.destination_service = plan.service().cloned();
    match &plan {
        Plan::Passthrough { address, .. } | Plan::Direct { address, .. } => connection.plain(pod, *address).await,
        Plan::Tunnel { hop, workload, .. }
            // Without a tunnel nothing proves who a pod is but what the controller says of it.
            if announced && let Some(neighbour) = pod.mesh.neighbours.find(workload, hop.address.ip()) =>
        {
            connection.neighbour(&source, neighbour, hop).await
        }
        Plan::Tunnel { hop, workload: peer, .. } | Plan::ViaWaypoint { hop, waypoint: peer, .. } => {
            let key = key(&source, hop, peer, client);
            let request = request(&source, hop, client, plan.service());
            connection.tunnel(&key, hop, peer, pod.pool(place).open(&key, &request)).await
        }
        Plan::ViaGateway { hop, inner, gateway, .. } => {
            let key = key(&source, hop, gateway, client);
            let outer = request(&source, hop, client, plan.service());
            let nested = nested_request(&source, &outer);
            connection.who_answers_is_unknown = pod.mesh.exchange_baggage;
            let opening = pod.pool(place).open_through(&key, &outer, inner, &nested);
            connection.tunnel(&key, hop, gateway, opening).await
        }
        // `plan` leaves none of these.
        Plan::Resolve { hostname, .. } => connection.refuse(&Outcome::because(Reason::DnsFailed, hostname)),
    }
}

/// Whether nobody redirected the connection: it was made to the listener it arrived at, by whatever address of the pod. We
/// would connect there again, be taken for a client, and so on until nothing is left.
fn is_our_listener(stream: &TcpStream, destination: SocketAddr) -> bool {
    let ours = |local| {
        let (local, destination) = (canonical(local), canonical(destination));
        (local.ip(), local.port()) == (destination.ip(), destination.port())
    };
    route::is_illegal_port(destination.port()) && stream.local_addr().is_ok_and(ours)
}

/// Where a connection to `destination` goes, with the address of an endpoint that has only a name.
async fn plan(pod: &Pod, source: &Workload, destination: SocketAddr) -> Result<Plan, Box<Refusal>> {
    let plan = decide(pod, source, destination).await?;
    let Plan::Resolve { hostname, workload, service, .. } = &plan else { return Ok(plan) };
    match pod.mesh.lookup.address(hostname, source, destination.ip()).await {
        // The world may have moved on meanwhile.
        Ok(ip) => route::resolved(&pod.mesh.live.snapshot(), source, plan, ip, &mut rand::rng()),
        Err(error) => Err(Box::new(Refusal {
            reason: Reason::DnsFailed,
            subject: error.to_string(),
            service: service.clone(),
            workload: Some(Arc::clone(workload)),
        })),
    }
}

/// Where a connection to `destination` goes.
async fn decide(pod: &Pod, source: &Workload, destination: SocketAddr) -> Result<Plan, Box<Refusal>> {
    if route::is_illegal_port(destination.port()) && source.addresses.contains(&destination.ip()) {
        return Err(Refusal::new(Reason::SelfCall, destination));
    }
    // One snapshot for the whole decision.
    let missing = |snapshot: &Snapshot| route::missing(snapshot, source, destination);
    let snapshot =
        demand::snapshot(&pod.mesh.live, pod.mesh.limits.duration(&limits::XDS_DEMAND_WAIT), missing).await?;
    route::plan(&snapshot, source, destination, &mut rand::rng())
}

/// A captured connection that has nowhere to go yet, and what is known of it so far.
struct Outgoing {
    telemetry: Telemetry,
    stream: TcpStream,
    started: Instant,
    info: ConnectionInfo,
    /// Only a gateway is known; whoever it has answer may say who that is.
    who_answers_is_unknown: bool,
}

impl Outgoing {
    /// Plain TCP to a destination outside the mesh.
    async fn plain(self, pod: &Pod, address: SocketAddr) -> Option<Open> {
        let upstream = match pod.sockets.connect(address).await {
            Ok(upstream) => upstream,
            Err(error) => return self.refuse(&outcome::upstream_unreachable(&error)),
        };
        let telemetry = self.telemetry.open(self.info, None);
        Some(Open::Plain(Box::new(Plain { stream: self.stream, upstream, telemetry })))
    }

    /// Mutual TLS to `peer` at the end of `hop`: the destination's node, its waypoint, or its network's gateway.
    async fn tunnel(
        mut self,
        key: &TunnelKey,
        hop: &Hop,
        peer: &Workload,
        opening: impl Future<Output = Result<Opened, TunnelError>>,
    ) -> Option<Open> {
        self.info.destination = hop.address;
        self.info.hbone_destination = Some(hop.authority.to_string());
        let opened = match opening.await {
            Ok(opened) => opened,
            Err(error) => {
                if let Some(identity) = error.refused_by() {
                    self.info.source_identity = Some(key.source.clone());
                    self.info.destination_identity = Some(identity.clone());
                }
                return self.refuse(&outcome::tunnel_failed(&error, peer));
            }
        };
        self.info.source_identity = Some(key.source.clone());
        if self.who_answers_is_unknown
            && let Some(identity) = &opened.peer_identity
            && let Some(described) = baggage::described(&opened.headers, identity)
        {
            self.info.destination_workload = Some(described);
        }
        self.info.destination_identity = opened.peer_identity;
        let telemetry = self.telemetry.open(self.info, None);
        let (tunnel, lifetime) = (opened.stream, opened.lifetime);
        Some(Open::Tunnel(Box::new(Tunnel { stream: self.stream, tunnel, telemetry, lifetime })))
    }

    /// The application learns of a refusal by a reset: an orderly close would look like an empty answer.
    fn refuse(self, outcome: &Outcome) -> Option<Open> {
        reset_on_close(&self.stream);
        self.telemetry.refused(&self.info, self.started, outcome);
        None
    }
}

/// A connection whose other end exists. Boxed one by one, so that none takes the room of another.
enum Open {
    Plain(Box<Plain>),
    Tunnel(Box<Tunnel>),
    Neighbour(Box<neighbour::Open>),
}

struct Plain {
    stream: TcpStream,
    upstream: TcpStream,
    telemetry: ConnectionTelemetry,
}

impl Plain {
    /// Carries bytes until both ends are done, or the pod leaves the mesh.
    async fn carry(mut self: Box<Self>, drain: Drain, limits: &Limits) {
        let served = {
            let copied = pin!(copy::plain(&mut self.stream, &mut self.upstream, limits, &self.telemetry));
            while_served(drain, copied).await
        };
        let outcome = match served {
            Some(result) => result.into(),
            None => {
                reset_on_close(&self.stream);
                reset_on_close(&self.upstream);
                Outcome::of(Reason::WorkloadRemoved)
            }
        };
        self.telemetry.finish(&outcome);
    }
}

struct Tunnel {
    stream: TcpStream,
    tunnel: TunnelStream,
    telemetry: ConnectionTelemetry,
    lifetime: Lifetime,
}

impl Tunnel {
    /// As [`Plain::carry`].
    async fn carry(mut self: Box<Self>, drain: Drain, limits: &Limits) {
        let served = {
            let copied = pin!(copy::with_tunnel(&mut self.stream, &mut self.tunnel, limits, &self.telemetry));
            while_served(drain, copied).await
        };
        let outcome = match served {
            Some(result) => outcome::of_tunnel(result, &self.lifetime),
            None => {
                reset_on_close(&self.stream);
                self.tunnel.abort();
                Outcome::of(Reason::WorkloadRemoved)
            }
        };
        self.telemetry.finish(&outcome);
    }
}

/// Runs `copy` to its end; `None` if the pod leaves the mesh before.
async fn while_served<T>(mut drain: Drain, copy: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = drain.immediate() => None,
        result = copy => Some(result),
    }
}

fn key(source: &Workload, hop: &Hop, peer: &Workload, client: SocketAddr) -> TunnelKey {
    TunnelKey {
        source: source.identity(),
        accepted: Arc::clone(&hop.identities),
        peer: hop.address,
        workload: Some(peer.uid.clone()),
        client: client.ip(),
    }
}

/// What is asked of the peer behind a gateway: the same, and where it comes from. There the address of whoever connects
/// is the gateway's.
fn nested_request(source: &Workload, outer: &ConnectRequest) -> ConnectRequest {
    let mut request = outer.clone();
    if let Ok(network) = HeaderValue::from_str(&source.network) {
        request.headers.insert(headers::FORWARDED_NETWORK, network);
    }
    request
}

fn request(source: &Workload, hop: &Hop, client: SocketAddr, service: Option<&Arc<Service>>) -> ConnectRequest {
    let lines = [
        (headers::BAGGAGE, Baggage::of(source).to_value()),
        (header::FORWARDED, headers::forwarded(client, service.map(|service| service.hostname()))),
        (headers::TRACEPARENT, headers::traceparent(rand::random(), rand::random())),
    ];
    let headers: HeaderMap = lines.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    ConnectRequest { authority: hop.authority.to_string(), headers }
}
