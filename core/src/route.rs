//! Where a connection goes: `plan` for one that leaves a pod, `inbound` and `passthrough` for one that arrives.

#[cfg(test)]
mod tests;

mod around;
mod arrival;
mod bound;
mod gateway;
mod missing;
mod reference;
mod waypoint;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rand::Rng;

pub(crate) use self::around::waypoints;
pub use self::{
    around::{around, missing_around, missing_waypoints},
    arrival::{Arrival, inbound, passthrough},
    bound::{Bound, bound, bound_services, is_bound},
    missing::{missing, missing_inbound},
};
use crate::{
    addr::{Authority, NetworkAddress, canonical},
    balance::{self, Pick, Role, Target},
    ident::Identity,
    reason::Reason,
    service::{Mode, Service},
    snapshot::Snapshot,
    workload::{Protocol, Workload},
};

/// Where pods and waypoints take HBONE.
pub const HBONE_PORT: u16 = 15_008;
/// Where captured connections that leave a pod arrive.
pub const OUTBOUND_PORT: u16 = 15_001;
/// Where captured plaintext connections to a pod arrive.
pub const PLAINTEXT_PORT: u16 = 15_006;

/// Whether the port belongs to the proxy inside a captured pod, so that a connection to it would loop.
#[must_use]
pub const fn is_illegal_port(port: u16) -> bool {
    matches!(port, OUTBOUND_PORT | PLAINTEXT_PORT | HBONE_PORT)
}

/// What to do with a connection that leaves a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing is known of the destination, or nobody should choose for the client: plain TCP to where it dialled.
    Passthrough {
        /// Where to connect.
        address: SocketAddr,
        /// The service whose mode asks for it, if any.
        service: Option<Arc<Service>>,
    },
    /// Plain TCP to a known workload that is not in the mesh.
    Direct {
        /// Where to connect.
        address: SocketAddr,
        /// The workload there.
        workload: Arc<Workload>,
        /// The service the client dialled.
        service: Option<Arc<Service>>,
    },
    /// HBONE to the destination.
    Tunnel {
        /// The next hop.
        hop: Hop,
        /// The destination's workload.
        workload: Arc<Workload>,
        /// The service the client dialled.
        service: Option<Arc<Service>>,
    },
    /// HBONE to a waypoint, which decides further.
    ViaWaypoint {
        /// The next hop.
        hop: Hop,
        /// The waypoint's workload.
        waypoint: Arc<Workload>,
        /// The service the client dialled.
        service: Option<Arc<Service>>,
        /// The workload the client dialled.
        workload: Option<Arc<Workload>>,
    },
    /// A tunnel inside a tunnel: the outer one ends at the other network's gateway, the inner one at the destination or
    /// its waypoint there. Both ask for the service by name.
    ViaGateway {
        /// The next hop, the gateway.
        hop: Hop,
        /// The inner tunnel's peer must prove to be one of these; in order, without repeats, never empty.
        inner: Arc<[Identity]>,
        /// The gateway's workload.
        gateway: Arc<Workload>,
        /// What stands for the endpoint, or its waypoint, in the other network.
        workload: Arc<Workload>,
        /// The service the client dialled.
        service: Arc<Service>,
    },
    /// The destination has only a hostname. Ask the proxy's own resolver for its address, prefer the family of the
    /// client's own connection, go on with [`resolved`], and fail the connection if there is no answer.
    Resolve {
        /// The name to ask for.
        hostname: Arc<str>,
        /// The port to connect to.
        port: u16,
        /// The workload with the name.
        workload: Arc<Workload>,
        /// The service the client dialled.
        service: Option<Arc<Service>>,
    },
}

/// A tunnel to open: to where, for what, and who must be at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Where to connect.
    pub address: SocketAddr,
    /// The CONNECT request's authority.
    pub authority: Authority,
    /// The peer must prove to be one of these; in order, without repeats, never empty.
    pub identities: Arc<[Identity]>,
}

impl Hop {
    fn new(address: SocketAddr, authority: Authority, peer: &Workload, service: Option<&Service>) -> Self {
        let extra = service.map_or(&[][..], |service| &service.subject_alt_names);
        let identities = if extra.is_empty() {
            Arc::from([peer.identity()])
        } else {
            distinct(extra.iter().cloned().chain([peer.identity()]))
        };
        Self { address, authority, identities }
    }
}

/// In order and without repeats, so that equal sets are equal.
fn distinct(identities: impl Iterator<Item = Identity>) -> Arc<[Identity]> {
    let mut identities: Vec<_> = identities.collect();
    identities.sort();
    identities.dedup();
    identities.into()
}

impl Plan {
    /// The workload at the far end as far as it is known here, for telemetry.
    #[must_use]
    pub fn workload(&self) -> Option<&Arc<Workload>> {
        match self {
            Self::Passthrough { .. } => None,
            Self::Direct { workload, .. }
            | Self::Tunnel { workload, .. }
            | Self::ViaGateway { workload, .. }
            | Self::Resolve { workload, .. } => Some(workload),
            Self::ViaWaypoint { workload, .. } => workload.as_ref(),
        }
    }

    /// The service the client dialled, for telemetry.
    #[must_use]
    pub fn service(&self) -> Option<&Arc<Service>> {
        match self {
            Self::Passthrough { service, .. }
            | Self::Direct { service, .. }
            | Self::Tunnel { service, .. }
            | Self::ViaWaypoint { service, .. }
            | Self::Resolve { service, .. } => service.as_ref(),
            Self::ViaGateway { service, .. } => Some(service),
        }
    }

    /// The tunnel to open, if there is one; of two the outer.
    #[must_use]
    pub fn hop(&self) -> Option<&Hop> {
        match self {
            Self::Tunnel { hop, .. } | Self::ViaWaypoint { hop, .. } | Self::ViaGateway { hop, .. } => Some(hop),
            Self::Passthrough { .. } | Self::Direct { .. } | Self::Resolve { .. } => None,
        }
    }
}

/// A connection that goes nowhere, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} ({subject})", reason.message().trim_end_matches('.'))]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What the reason is about: the address, service, waypoint or network.
    pub subject: String,
    /// The service the client dialled.
    pub service: Option<Arc<Service>>,
    /// The workload that was meant.
    pub workload: Option<Arc<Workload>>,
}

impl Refusal {
    /// A refusal for this reason; nothing more is known of what was meant.
    #[must_use]
    pub fn new(reason: Reason, subject: impl std::fmt::Display) -> Box<Self> {
        Box::new(Self { reason, subject: subject.to_string(), service: None, workload: None })
    }

    fn with_service(mut self: Box<Self>, service: Option<&Arc<Service>>) -> Box<Self> {
        self.service = service.cloned();
        self
    }

    fn with_workload(mut self: Box<Self>, workload: &Arc<Workload>) -> Box<Self> {
        self.workload = Some(workload.clone());
        self
    }
}

/// Plans a connection that leaves the pod of `source` for `destination`.
///
/// # Errors
/// A [`Refusal`] when the connection must not be made. A known destination that cannot be reached is refused, never
/// tried in plaintext.
pub fn plan(
    snapshot: &Snapshot,
    source: &Workload,
    destination: SocketAddr,
    rng: &mut impl Rng,
) -> Result<Plan, Box<Refusal>> {
    let destination = canonical(destination);
    if destination.ip().is_loopback() && is_illegal_port(destination.port()) {
        return Err(Refusal::new(Reason::SelfCall, destination));
    }
    let address = NetworkAddress { network: source.network.clone(), ip: destination.ip() };
    if let Some(service) = snapshot.service_by_vip(&address, source.namespace()) {
        return to_service(snapshot, source, service, destination, rng)
            .map_err(|refusal| refusal.with_service(Some(service)));
    }
    let Some(workload) = snapshot.workload_by_address(&address) else {
        known_or_refused(snapshot, &address, destination)?;
        return Ok(Plan::Passthrough { address: destination, service: None });
    };
    to_workload(snapshot, source, workload, destination, rng).map_err(|refusal| refusal.with_workload(workload))
}

/// Refuses what the controller has said something of that could not be understood.
fn known_or_refused(
    snapshot: &Snapshot,
    address: &NetworkAddress,
    destination: SocketAddr,
) -> Result<(), Box<Refusal>> {
    match snapshot.refused_address(address) {
        Some(resource) => {
            Err(Refusal::new(Reason::ResourceInvalid, format_args!("{destination} of {}", resource.name)))
        }
        None => Ok(()),
    }
}

fn to_service(
    snapshot: &Snapshot,
    source: &Workload,
    service: &Arc<Service>,
    destination: SocketAddr,
    rng: &mut impl Rng,
) -> Result<Plan, Box<Refusal>> {
    // A waypoint beats everything else. It does not send to itself what it sends on.
    if let Some(reference) = waypoint::of_service(service, rng)
        && !waypoint::serves(snapshot, service, source)
    {
        let (found, pick) = waypoint::endpoint(snapshot, source, reference, destination, rng)?;
        if pick.target == Target::Remote {
            let accepted = found.subject_alt_names();
            return gateway::plan(snapshot, source, (service, destination), pick.workload, accepted, rng);
        }
        let hop = waypoint::hop(&found, &pick, reference, destination)?;
        return Ok(Plan::ViaWaypoint { hop, waypoint: pick.workload, service: Some(service.clone()), workload: None });
    }
    if service.load_balancing.mode == Mode::Passthrough {
        // A service that anybody may declare for an address takes no member of the mesh off its tunnel or its waypoint.
        let address = NetworkAddress { network: source.network.clone(), ip: destination.ip() };
        match snapshot.workload_by_address(&address) {
            Some(workload) if workload.protocol == Protocol::Hbone || workload.waypoint.is_some() => {
                return to_workload(snapshot, source, workload, destination, rng)
                    .map_err(|refusal| refusal.with_workload(workload));
            }
            Some(_) => {}
            None => known_or_refused(snapshot, &address, destination)?,
        }
        return Ok(Plan::Passthrough { address: destination, service: Some(service.clone()) });
    }
    let request = balance::Request {
        client: source,
        port: destination.port(),
        address: Some(destination.ip()),
        role: Role::Destination,
    };
    let pick = balance::pick(service, snapshot.endpoints(&service.key), &request, rng).ok_or_else(|| {
        Refusal::new(Reason::NoHealthyUpstream, format_args!("{}:{}", service.hostname(), destination.port()))
    })?;
    if pick.target == Target::Remote {
        let accepted = &service.subject_alt_names;
        return gateway::plan(snapshot, source, (service, destination), pick.workload, accepted, rng);
    }
    to_endpoint(pick, Some(service))
}

fn to_workload(
    snapshot: &Snapshot,
    source: &Workload,
    workload: &Arc<Workload>,
    destination: SocketAddr,
    rng: &mut impl Rng,
) -> Result<Plan, Box<Refusal>> {
    if let Some(reference) = &workload.waypoint
        && !waypoint::includes(snapshot, reference, source)
    {
        let (found, pick) = waypoint::endpoint(snapshot, source, reference, destination, rng)?;
        let hop = waypoint::hop(&found, &pick, reference, destination)?;
        return Ok(Plan::ViaWaypoint { hop, waypoint: pick.workload, service: None, workload: Some(workload.clone()) });
    }
    let target = Target::Address(destination.ip());
    to_endpoint(Pick { workload: workload.clone(), target, port: destination.port() }, None)
}

/// The plan for an endpoint that somebody else has picked: one of a service's, at an address in the network of whoever
/// connects. Whoever picks endpoints does the work of a waypoint, so none is asked for.
///
/// # Errors
/// A [`Refusal`] as for [`plan`].
pub fn endpoint(
    workload: &Arc<Workload>,
    address: SocketAddr,
    service: Option<&Arc<Service>>,
) -> Result<Plan, Box<Refusal>> {
    let address = canonical(address);
    let target = Target::Address(address.ip());
    to_endpoint(Pick { workload: workload.clone(), target, port: address.port() }, service)
}

fn to_endpoint(pick: Pick, service: Option<&Arc<Service>>) -> Result<Plan, Box<Refusal>> {
    let Pick { workload, target, port } = pick;
    let service = service.cloned();
    match (target, workload.protocol) {
        (Target::Address(ip), Protocol::Hbone) => {
            let authority = Authority::Address(SocketAddr::new(ip, port));
            let hop = Hop::new(SocketAddr::new(ip, HBONE_PORT), authority, &workload, service.as_deref());
            Ok(Plan::Tunnel { hop, workload, service })
        }
        (Target::Address(ip), Protocol::Tcp) => {
            Ok(Plan::Direct { address: SocketAddr::new(ip, port), workload, service })
        }
        (Target::Hostname(hostname), _) => Ok(Plan::Resolve { hostname, port, workload, service }),
        // Other networks are crossed for services only: both tunnels name one.
        (Target::Remote, _) => {
            Err(Refusal::new(Reason::WrongNetwork, format_args!("network {:?}", workload.network))
                .with_workload(&workload))
        }
    }
}

/// What of the mesh has the address that a name of an endpoint has turned out to have, where a waypoint stands for it and it is
/// none of the endpoints of the service that was dialled. Whoever picks endpoints for a service has asked the policies of that
/// service alone: who may write the records of its names must not reach what others guard.
#[must_use]
pub fn guarded(snapshot: &Snapshot, source: &Workload, service: Option<&Service>, ip: IpAddr) -> Option<String> {
    let address = NetworkAddress { network: source.network.clone(), ip: ip.to_canonical() };
    let has_waypoint = |service: &Service| waypoint::all(service).next().is_some();
    if let Some(found) = snapshot.service_by_vip(&address, source.namespace()) {
        // What is passed through may have the addresses that its own names have.
        let is_own = service.is_some_and(|service| service.key == found.key);
        if has_waypoint(found) && !(is_own && found.load_balancing.mode == Mode::Passthrough) {
            return Some(format!("service {}", found.hostname()));
        }
    }
    let workload = snapshot.workload_by_address(&address)?;
    let of_service = |service: &Service| workload.services.iter().any(|entry| entry.key == service.key);
    if service.is_some_and(of_service) {
        return None;
    }
    let mut services = workload.services.iter().filter_map(|entry| snapshot.service(&entry.key));
    let is_guarded = workload.waypoint.is_some() || services.any(|service| has_waypoint(service));
    is_guarded.then(|| format!("workload {}", workload.uid))
}

/// The plan for an endpoint that has only the name `hostname`, once the name has turned out to have the address `ip`.
///
/// An address that the mesh knows is gone to as if the client had dialled it: the name of an enrolled workload must not be
/// a way around its tunnel.
///
/// # Errors
/// As for [`plan`]; also when the name leads back to where it came from.
pub fn resolved(
    snapshot: &Snapshot,
    source: &Workload,
    unresolved: Plan,
    ip: IpAddr,
    rng: &mut impl Rng,
) -> Result<Plan, Box<Refusal>> {
    let Plan::Resolve { hostname, port, workload, service } = unresolved else { return Ok(unresolved) };
    let address = SocketAddr::new(ip.to_canonical(), port);
    let wrong = |what| {
        let subject = format_args!("{hostname} has the address {}, which is {what}", address.ip()).to_string();
        Err(Refusal::new(Reason::DnsFailed, subject).with_service(service.as_ref()).with_workload(&workload))
    };
    if address.ip().is_loopback() || address.ip().is_unspecified() {
        return wrong("the client's own");
    }
    match plan(snapshot, source, address, rng)? {
        Plan::Resolve { .. } => wrong("the mesh's own for it"),
        // Nothing is known of the address, so what is known of the name counts.
        Plan::Passthrough { service: None, .. } => {
            to_endpoint(Pick { workload, target: Target::Address(address.ip()), port }, service.as_ref())
        }
        planned => Ok(planned),
    }
}
