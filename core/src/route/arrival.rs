//! Where a connection that arrives for a pod is delivered.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use super::{Refusal, is_illegal_port};
use crate::{
    addr::{Authority, NetworkAddress, canonical},
    reason::Reason,
    service::{GatewayDestination, Service},
    snapshot::Snapshot,
    workload::{TunnelPrefix, Workload},
};

/// Where to deliver a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The pod's address and its real port: what policies decide on.
    pub destination: SocketAddr,
    /// Where to connect; differs from `destination` for an application that takes the PROXY protocol on loopback.
    pub dial: SocketAddr,
    /// Begin the stream with a PROXY protocol header, version 2, that names the authority as destination.
    pub proxy_protocol: bool,
    /// What the peer asked for.
    pub authority: Authority,
    /// The service the peer named, for telemetry.
    pub service: Option<Arc<Service>>,
    /// The pod's network.
    network: Arc<str>,
}

impl Arrival {
    /// The destination a PROXY protocol header names: what the client asked for, as an address. For a hostname that is
    /// one of the service's own, of the pod's network first, then IPv4; without any, the pod's.
    #[must_use]
    pub fn announced(&self) -> SocketAddr {
        match (&self.authority, &self.service) {
            (Authority::Address(address), _) => *address,
            (Authority::Hostname { port, .. }, Some(service)) => {
                let nearest = |vip: &&NetworkAddress| (vip.network != self.network, vip.ip.is_ipv6());
                let vip = service.vips.iter().min_by_key(nearest);
                vip.map_or(self.destination, |vip| SocketAddr::new(vip.ip, *port))
            }
            (Authority::Hostname { .. }, None) => self.destination,
        }
    }
}

/// Plans a tunnel that came to `arrived_at`, an address of the pod of `local`, and asks for `authority`.
///
/// Only the port comes from the authority: the address is always the one the tunnel came to.
///
/// # Errors
/// A [`Refusal`], whose reason has the status to answer with: 400 for a request that makes no sense here, 503 for one
/// that cannot be served.
pub fn inbound(
    snapshot: &Snapshot,
    local: &Workload,
    arrived_at: SocketAddr,
    authority: &str,
) -> Result<Arrival, Box<Refusal>> {
    let arrived_at = canonical(arrived_at);
    let authority: Authority =
        authority.parse().map_err(|error| Refusal::new(Reason::BadRequest, format_args!("{authority:?}: {error}")))?;
    let (port, service) = match &authority {
        Authority::Address(address) => {
            if address.ip() != arrived_at.ip()
                && local.application_tunnel.is_none()
                && !is_waypoint_of(snapshot, local, address.ip())
            {
                return Err(Refusal::new(
                    Reason::AuthorityMismatch,
                    format_args!("asked for {authority} at {}", arrived_at.ip()),
                ));
            }
            (address.port(), None)
        }
        Authority::Hostname { host, port } => {
            let unknown = || Refusal::new(Reason::UnknownAuthority, &authority);
            let service = snapshot.service_by_hostname(host, local.namespace()).ok_or_else(unknown)?;
            let declared = local.services.iter().find(|entry| entry.key == service.key);
            let target = declared
                .and_then(|entry| entry.target_port(*port))
                .or_else(|| service.port(*port)?.target_port)
                .ok_or_else(|| unknown().with_service(Some(service)))?;
            (target, Some(service.clone()))
        }
    };
    let tunnel = local.application_tunnel;
    let port = tunnel.and_then(|tunnel| tunnel.port).unwrap_or(port);
    if is_illegal_port(port) {
        return Err(Refusal::new(Reason::IllegalPort, port).with_service(service.as_ref()));
    }
    let proxy_protocol = tunnel.is_some_and(|tunnel| tunnel.protocol == TunnelPrefix::Proxy);
    let destination = SocketAddr::new(arrived_at.ip(), port);
    let dial = if proxy_protocol { SocketAddr::new(loopback(arrived_at.ip()), port) } else { destination };
    Ok(Arrival { destination, dial, proxy_protocol, authority, service, network: local.network.clone() })
}

/// Checks a plaintext connection that arrived for a pod.
///
/// # Errors
/// A [`Refusal`] when the port belongs to the proxy itself.
pub fn passthrough(destination: SocketAddr) -> Result<SocketAddr, Box<Refusal>> {
    let destination = canonical(destination);
    if is_illegal_port(destination.port()) {
        return Err(Refusal::new(Reason::IllegalPort, destination));
    }
    Ok(destination)
}

fn loopback(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// Whether the local workload is the waypoint of what has this address; only the single reference counts, not weighted ones.
fn is_waypoint_of(snapshot: &Snapshot, local: &Workload, ip: IpAddr) -> bool {
    let address = NetworkAddress { network: local.network.clone(), ip };
    let is_local = |destination: &GatewayDestination| snapshot.resolves_to(destination, local);
    if let Some(workload) = snapshot.workload_by_address(&address) {
        return workload.waypoint.as_ref().is_some_and(|waypoint| is_local(&waypoint.destination));
    }
    snapshot
        .service_by_vip(&address, local.namespace())
        .and_then(|service| service.waypoint.as_ref())
        .is_some_and(|waypoint| is_local(&waypoint.destination))
}
