//! Opens a way to an endpoint: through a tunnel to its node, or in clear text to what is not in the mesh, and in TLS with the
//! endpoint itself where its cluster asks for that.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use fairway_core::addr::NetworkAddress;
use fairway_core::ident::Identity;
use fairway_core::io::hbone::headers::{self, Baggage};
use fairway_core::io::hbone::lifetime::Lifetime;
use fairway_core::io::hbone::{ConnectRequest, TunnelIo, TunnelKey, TunnelStream};
use fairway_core::reason::Reason;
use fairway_core::route::{self, Hop, Plan};
use fairway_core::service::Service;
use fairway_core::snapshot::Snapshot;
use fairway_core::workload::Workload;
use http::{HeaderMap, header};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::config::{Cluster, Keepalive};
use crate::failure::Failure;
use crate::origination::Inside;
use crate::secured::Secured;
use crate::waypoint::Waypoint;

/// Who the endpoint is spoken to for.
#[derive(Clone, Debug)]
pub struct Client {
    /// Whom it has proved to be.
    pub identity: Identity,
    /// Where it is.
    pub address: SocketAddr,
    /// Its workload, if the world agrees with the certificate.
    pub workload: Option<Arc<Workload>>,
    /// What it says of itself.
    pub baggage: Baggage,
}

/// A way to an endpoint.
pub enum Opened {
    /// Mutual TLS to its node.
    Tunnel {
        /// The stream in it.
        stream: TunnelStream,
        /// Whom the endpoint has proved to be.
        identity: Option<Identity>,
        /// How long the tunnel holds.
        lifetime: Lifetime,
    },
    /// Clear text, to what is not in the mesh.
    Plain(TcpStream),
    /// TLS with the endpoint itself, over either of them.
    Secured {
        /// The bytes in it.
        stream: Box<dyn Secured>,
        /// Whom the endpoint has proved to be to the mesh, which is not what its certificate says.
        identity: Option<Identity>,
    },
}

/// The workload that has this address; of several on one host, the endpoint of the service.
#[must_use]
pub fn workload_at(
    snapshot: &Snapshot,
    local: &Workload,
    service: Option<&Service>,
    address: IpAddr,
) -> Option<Arc<Workload>> {
    let key = NetworkAddress::new(local.network.clone(), address);
    let among = || {
        let endpoints = snapshot.endpoints(&service?.key).iter();
        endpoints.map(|endpoint| &endpoint.workload).find(|workload| workload.addresses.contains(&address))
    };
    snapshot.workload_by_address(&key).or_else(among).cloned()
}

/// Opens a way to `plan`'s endpoint on behalf of `client`. Where the endpoint's cluster asks for TLS there is no other way, so that
/// nothing goes in clear text that must not.
///
/// # Errors
/// Why there is none.
pub async fn open(
    waypoint: &Waypoint,
    local: &Workload,
    plan: &Plan,
    client: &Client,
    (cluster, inside): (Option<&Cluster>, Inside),
) -> Result<Opened, Failure> {
    let tls = cluster.and_then(|cluster| cluster.tls.as_deref());
    match plan {
        Plan::Tunnel { hop, workload, service } => {
            let key = key(local, hop, workload);
            let request = request(&key.source, hop, client, service.as_deref());
            let opened = waypoint.tunnels.open(&key, &request).await.map_err(|error| Failure::from(&error))?;
            let (stream, identity) = (opened.stream, opened.peer_identity);
            let Some(tls) = tls else { return Ok(Opened::Tunnel { stream, identity, lifetime: opened.lifetime }) };
            let stream = waypoint.originations.begin(tls, inside, TunnelIo::new(stream, Bytes::new())).await?;
            Ok(Opened::Secured { stream: Box::new(stream), identity })
        }
        Plan::Direct { address, .. } | Plan::Passthrough { address, .. } => {
            let stream = waypoint.sockets.connect(*address).await.map_err(|error| Failure::from(&error))?;
            if let Some(keepalive) = cluster.and_then(|cluster| cluster.keepalive) {
                probe(&stream, keepalive).map_err(|error| Failure::new(Reason::UpstreamConnectFailed, error))?;
            }
            let Some(tls) = tls else { return Ok(Opened::Plain(stream)) };
            let stream = waypoint.originations.begin(tls, inside, stream).await?;
            Ok(Opened::Secured { stream: Box::new(stream), identity: None })
        }
        Plan::ViaWaypoint { .. } => Err(Failure::new(Reason::UnknownWaypoint, "a waypoint behind a waypoint")),
        Plan::ViaGateway { .. } => Err(Failure::new(Reason::WrongNetwork, "the endpoint is in another network")),
        // Clusters have names for what has to be resolved.
        Plan::Resolve { hostname, .. } => Err(Failure::new(Reason::DnsFailed, hostname)),
    }
}

/// A tunnel is the mesh's own, and probed as such; only who is spoken to in clear text is probed as its cluster says.
fn probe(stream: &TcpStream, keepalive: Keepalive) -> std::io::Result<()> {
    let mut probes = TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        probes = probes.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        probes = probes.with_interval(interval);
    }
    if let Some(count) = keepalive.probes {
        probes = probes.with_retries(count);
    }
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

/// The plan for an endpoint at `address`. One that the mesh does not know is not spoken to: it could be one that must not be
/// spoken to in clear text.
///
/// # Errors
/// When it is not known, or cannot be reached.
pub fn plan(
    snapshot: &Snapshot,
    local: &Workload,
    service: Option<&Arc<Service>>,
    address: SocketAddr,
) -> Result<Plan, Failure> {
    let workload = workload_at(snapshot, local, service.map(|service| &**service), address.ip());
    let workload = workload.ok_or_else(|| Failure::new(Reason::DestinationUnknown, address))?;
    route::endpoint(&workload, address, service).map_err(|refusal| Failure::from(&*refusal))
}

/// The plan for an endpoint whose name has turned out to have this address. What the mesh knows of the address counts, as if it
/// had been dialled: a name must not be a way around tunnels, nor around the policies of others. Of an address that nobody knows, what is known of the name does.
///
/// # Errors
/// When it cannot be reached, or the name leads back to where it came from.
pub fn plan_named(
    snapshot: &Snapshot,
    local: &Workload,
    service: Option<&Arc<Service>>,
    address: SocketAddr,
) -> Result<Plan, Failure> {
    let endpoints = || service.into_iter().flat_map(|service| snapshot.endpoints(&service.key)).map(|it| &it.workload);
    if let Some(written) = endpoints().find(|workload| workload.addresses.contains(&address.ip())) {
        return route::endpoint(written, address, service).map_err(|refusal| Failure::from(&*refusal));
    }
    unguarded(snapshot, local, service.map(|service| &**service), address.ip())?;
    let planned = route::plan(snapshot, local, address, &mut rand::rng());
    match planned.map_err(|refusal| Failure::from(&*refusal))? {
        Plan::Resolve { hostname, .. } => {
            let detail = format!("{hostname} has the address {}, which is the mesh's own for it", address.ip());
            Err(Failure::new(Reason::DnsFailed, detail))
        }
        Plan::Passthrough { service: None, .. } => match endpoints().find(|workload| workload.addresses.is_empty()) {
            Some(named) => route::endpoint(named, address, service).map_err(|refusal| Failure::from(&*refusal)),
            None => Ok(Plan::Passthrough { address, service: service.cloned() }),
        },
        planned => Ok(planned),
    }
}

/// Refuses an address of a name that belongs to what a waypoint stands for: its policies were not asked.
///
/// # Errors
/// When it does.
pub fn unguarded(
    snapshot: &Snapshot,
    local: &Workload,
    service: Option<&Service>,
    address: IpAddr,
) -> Result<(), Failure> {
    match route::guarded(snapshot, local, service, address) {
        None => Ok(()),
        Some(what) => {
            let detail = format!("a name has the address {address}, which is of {what}, behind a waypoint of its own");
            Err(Failure::new(Reason::DnsFailed, detail))
        }
    }
}

/// The plan for an endpoint of a cluster.
///
/// # Errors
/// When it is not known, or cannot be reached.
pub fn plan_in(
    cluster: &Cluster,
    snapshot: &Snapshot,
    local: &Workload,
    service: Option<&Arc<Service>>,
    address: SocketAddr,
) -> Result<Plan, Failure> {
    match &cluster.names {
        Some(_) => plan_named(snapshot, local, service, address),
        None => plan(snapshot, local, service, address),
    }
}

fn key(local: &Workload, hop: &Hop, workload: &Workload) -> TunnelKey {
    TunnelKey {
        source: local.identity(),
        accepted: Arc::clone(&hop.identities),
        peer: hop.address,
        workload: Some(workload.uid.clone()),
        // Our own sockets make the tunnel, whoever it carries.
        client: local.addresses.first().copied().unwrap_or_else(|| hop.address.ip()),
    }
}

/// The client as it is known to `local`, ourselves; its tunnel's baggage where it is not. Policies of the
/// endpoint may be about what it has proved to us (ADR 0043).
fn request(local: &Identity, hop: &Hop, client: &Client, service: Option<&Service>) -> ConnectRequest {
    let baggage = client.workload.as_deref().map_or_else(|| client.baggage.clone(), Baggage::of);
    let lines = [
        (headers::BAGGAGE, baggage.to_value()),
        (headers::CLIENT_CERTIFICATE, headers::client_certificate(local, &client.identity)),
        (header::FORWARDED, headers::forwarded(client.address, service.map(Service::hostname))),
        (headers::TRACEPARENT, headers::traceparent(rand::random(), rand::random())),
    ];
    let headers: HeaderMap = lines.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    ConnectRequest { authority: hop.authority.to_string(), headers }
}
