//! What would become of a connection, and why: the decisions of the data plane itself, told instead of acted on.
//!
//! `departure` is asked of the proxy of the client's node, `arrival` of the one of the destination's. Both take the
//! proxy's own snapshot, so that the answer holds for what that proxy knows, however old it is. Waypoints on the way are asked
//! for a [`passage`].

pub mod passage;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::{
    addr::{NetworkAddress, canonical},
    authz::{self, Decision},
    dns::{self, Family, Zone},
    facts::{ConnectionFacts, Original},
    ident::Identity,
    policy::Applied,
    reason::Reason,
    route::{self, Hop, Plan, Refusal},
    service::Service,
    snapshot::Snapshot,
    workload::Workload,
};

/// What a client's proxy would do with a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Departure {
    /// The client.
    pub source: Party,
    /// What it dials.
    pub destination: SocketAddr,
    /// The service that has this address.
    pub service: Option<Target>,
    /// The workload at the other end, as far as the proxy knows it: of several the one that was picked this time.
    pub workload: Option<Party>,
    /// What would happen.
    pub way: Way,
}

/// A workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Its node; empty when it has none.
    pub node: String,
    /// Whom its certificate names.
    pub identity: String,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Namespace.
    pub namespace: String,
    /// Host name.
    pub hostname: String,
    /// How many endpoints the proxy knows, whatever their state.
    pub endpoints: usize,
}

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Way {
    /// Into the other pod of the same node, without a tunnel.
    Neighbour(Tunnel),
    /// Through a tunnel to the destination.
    Tunnel(Tunnel),
    /// Through a tunnel to a waypoint, which decides further.
    Waypoint {
        /// The tunnel.
        tunnel: Tunnel,
        /// The waypoint.
        waypoint: Party,
    },
    /// Through a tunnel to another network's gateway, with a second one inside.
    Gateway {
        /// The outer tunnel.
        tunnel: Tunnel,
        /// Who may be at the end of the inner one.
        inner: Vec<String>,
    },
    /// In clear text, to a workload that is not in the mesh.
    Direct {
        /// Where to.
        address: SocketAddr,
    },
    /// In clear text, to what the mesh does not know.
    Passthrough {
        /// Where to.
        address: SocketAddr,
    },
    /// To a host whose address the proxy would ask for.
    Resolve {
        /// Its name.
        hostname: String,
        /// Its port.
        port: u16,
    },
    /// Nowhere.
    Refused(Refused),
}

/// A tunnel that would be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tunnel {
    /// Where it leads.
    pub address: SocketAddr,
    /// What is asked for there.
    pub authority: String,
    /// Who may be at the other end.
    pub identities: Vec<String>,
}

/// Why a connection would be refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// Label of the reason, as in logs and metrics.
    pub reason: String,
    /// What it means.
    pub message: String,
    /// What it is about: a policy, an address, a service.
    pub subject: Option<String>,
    /// What to do.
    pub hint: String,
}

/// What a destination's proxy would do with a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arrival {
    /// The destination.
    pub workload: Party,
    /// Its address, and the port of the application.
    pub destination: SocketAddr,
    /// Policies that apply to it, in the order they are asked.
    pub policies: Vec<String>,
    /// The policy that lets the connection in, if it takes one.
    pub allowed_by: Option<String>,
    /// Why it would be refused, if it would.
    pub refused: Option<Refused>,
    /// Rehearsed policies that match: they change nothing.
    pub dry_run: Vec<String>,
    /// The client that policies look at beside the waypoint that speaks for it.
    #[serde(default)]
    pub original: Option<String>,
}

/// What arrives at a destination's proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arriving<'a> {
    /// The address it arrives at, and the port for clear text.
    pub address: SocketAddr,
    /// What the tunnel asks for; none in clear text.
    pub authority: Option<&'a str>,
    /// Where it is from.
    pub source: SocketAddr,
    /// Who it proved to be.
    pub identity: Option<Identity>,
    /// For whom it says it speaks.
    pub original: Option<Original>,
}

/// A name that cannot be dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDialled {
    /// The mesh has no such name.
    #[error(
        "the mesh has no name {name:?} for a client in {namespace}; the pod would ask its DNS server, so give an address"
    )]
    Name {
        /// The name.
        name: String,
        /// The client's namespace.
        namespace: String,
    },
    /// There is no port.
    #[error("a port is needed: {host} has {}", ports_of(.ports))]
    Port {
        /// The host.
        host: String,
        /// The ports it has.
        ports: Vec<u16>,
    },
}

fn ports_of(ports: &[u16]) -> String {
    match ports {
        [] => "none that the mesh knows".to_owned(),
        ports => ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// The address that a client would dial for `host`, an address or a name; without a port that of a service with only one.
///
/// # Errors
/// When the mesh does not know the name, or several ports are possible.
pub fn dialled(
    snapshot: &Snapshot,
    zone: &Zone,
    client: &Workload,
    (host, port): (&str, Option<u16>),
    rng: &mut impl Rng,
) -> Result<SocketAddr, NotDialled> {
    let ip = match host.parse() {
        Ok(ip) => ip,
        Err(_) => [Family::V4, Family::V6]
            .into_iter()
            .find_map(|family| match dns::decide(snapshot, zone, client, host, family, rng) {
                dns::Decision::Answer(answer) => answer.addresses.first().copied(),
                dns::Decision::Forward => None,
            })
            .ok_or_else(|| NotDialled::Name { name: host.to_owned(), namespace: client.namespace().to_owned() })?,
    };
    if let Some(port) = port {
        return Ok(SocketAddr::new(ip, port));
    }
    let service = snapshot.service_by_vip(&address(client, ip), client.namespace());
    let ports: Vec<u16> = service.iter().flat_map(|service| &service.ports).map(|port| port.service_port).collect();
    match ports[..] {
        [port] => Ok(SocketAddr::new(ip, port)),
        _ => Err(NotDialled::Port { host: host.to_owned(), ports }),
    }
}

/// What would become of a connection that leaves the pod of `source`. `is_neighbour` says whether the proxy serves a
/// workload at this address itself.
#[must_use]
pub fn departure(
    snapshot: &Snapshot,
    source: &Workload,
    destination: SocketAddr,
    is_neighbour: impl FnOnce(&Workload, IpAddr) -> bool,
    rng: &mut impl Rng,
) -> Departure {
    let destination = canonical(destination);
    let planned = route::plan(snapshot, source, destination, rng);
    let (service, workload) = match &planned {
        Ok(plan) => (plan.service().cloned(), plan.workload().cloned()),
        Err(refusal) => (refusal.service.clone(), refusal.workload.clone()),
    };
    let way = match planned {
        Ok(plan) => way(plan, is_neighbour),
        Err(refusal) => Way::Refused(Refused::from(&*refusal)),
    };
    Departure {
        source: Party::from(source),
        destination,
        service: service.map(|service| Target::of(snapshot, &service)),
        workload: workload.as_deref().map(Party::from),
        way,
    }
}

/// Where a plan leads, and to whom.
#[must_use]
pub fn onward(plan: Plan) -> passage::Onward {
    let workload = plan.workload().map(|workload| Party::from(&**workload));
    passage::Onward { workload, way: way(plan, |_, _| false) }
}

fn way(plan: Plan, is_neighbour: impl FnOnce(&Workload, IpAddr) -> bool) -> Way {
    match plan {
        Plan::Passthrough { address, .. } => Way::Passthrough { address },
        Plan::Direct { address, .. } => Way::Direct { address },
        Plan::Tunnel { hop, workload, .. } if is_neighbour(&workload, hop.address.ip()) => {
            Way::Neighbour(Tunnel::from(&hop))
        }
        Plan::Tunnel { hop, .. } => Way::Tunnel(Tunnel::from(&hop)),
        Plan::ViaWaypoint { hop, waypoint, .. } => {
            Way::Waypoint { tunnel: Tunnel::from(&hop), waypoint: Party::from(&*waypoint) }
        }
        Plan::ViaGateway { hop, inner, .. } => Way::Gateway { tunnel: Tunnel::from(&hop), inner: texts(&inner) },
        Plan::Resolve { hostname, port, .. } => Way::Resolve { hostname: hostname.to_string(), port },
    }
}

/// What would become of a connection that arrives for `local`.
#[must_use]
pub fn arrival(snapshot: &Snapshot, local: &Arc<Workload>, arriving: Arriving<'_>) -> Arrival {
    let Arriving { address, authority, source, identity, original } = arriving;
    let view = snapshot.view_of(local);
    let policies = view.policies.iter().map(Applied::key).map(ToString::to_string).collect();
    let destination = match authority {
        Some(authority) => route::inbound(snapshot, local, address, authority).map(|arrival| arrival.destination),
        None => route::passthrough(address),
    };
    let mut arrival = Arrival {
        workload: Party::from(&**local),
        destination: canonical(address),
        policies,
        allowed_by: None,
        refused: None,
        dry_run: Vec::new(),
        original: None,
    };
    let destination = match destination {
        Ok(destination) => destination,
        Err(refusal) => {
            arrival.refused = Some(Refused::from(&*refusal));
            return arrival;
        }
    };
    arrival.destination = destination;
    let (source, original) = (canonical(source), original.map(Arc::new));
    let facts = ConnectionFacts { source, source_identity: identity, original, destination, http: None };
    arrival.original = authz::original(&view, &facts).map(|original| original.identity.to_string());
    let decision = authz::decide(&view, &facts);
    arrival.dry_run = decision.dry_run().iter().map(|hit| hit.policy.to_string()).collect();
    match decision {
        Decision::Allow { rule, .. } => arrival.allowed_by = rule.map(|key| key.to_string()),
        Decision::Deny(denial) => {
            arrival.refused = Some(Refused::new(denial.reason, denial.policy.map(|key| key.to_string())));
        }
    }
    arrival
}

fn address(client: &Workload, ip: IpAddr) -> NetworkAddress {
    NetworkAddress { network: client.network.clone(), ip }
}

fn texts(identities: &[Identity]) -> Vec<String> {
    identities.iter().map(Identity::to_string).collect()
}

impl Refused {
    /// For this reason.
    #[must_use]
    pub fn new(reason: Reason, subject: Option<String>) -> Self {
        Self {
            reason: reason.label().to_owned(),
            message: reason.message().to_owned(),
            subject,
            hint: reason.hint().to_owned(),
        }
    }
}

impl From<&Refusal> for Refused {
    fn from(refusal: &Refusal) -> Self {
        Self::new(refusal.reason, Some(refusal.subject.clone()))
    }
}

impl From<&Workload> for Party {
    fn from(workload: &Workload) -> Self {
        Self {
            namespace: workload.namespace().to_owned(),
            name: workload.name.to_string(),
            node: workload.node.to_string(),
            identity: workload.identity().to_string(),
        }
    }
}

impl Target {
    /// A service as this snapshot knows it.
    #[must_use]
    pub fn of(snapshot: &Snapshot, service: &Service) -> Self {
        Self {
            namespace: service.namespace().to_owned(),
            hostname: service.hostname().to_owned(),
            endpoints: snapshot.endpoints(&service.key).len(),
        }
    }
}

impl From<&Hop> for Tunnel {
    fn from(hop: &Hop) -> Self {
        Self { address: hop.address, authority: hop.authority.to_string(), identities: texts(&hop.identities) }
    }
}
