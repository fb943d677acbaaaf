//! Who serves a port, grouped by where they are and who comes first for the client that asks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairway_proto::envoy::core::socket_address::PortSpecifier;
use fairway_proto::envoy::core::{Address, HealthStatus, Locality, SocketAddress, address};
use fairway_proto::envoy::endpoint::endpoint::AdditionalAddress;
use fairway_proto::envoy::endpoint::lb_endpoint::HostIdentifier;
use fairway_proto::envoy::endpoint::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use fairway_proto::workload::load_balancing::{HealthPolicy, Mode, Scope};
use fairway_proto::workload::{IpFamilies, LoadBalancing, Service, Workload, WorkloadStatus};

use super::super::Client;

/// Region, zone, subzone.
type Place = [String; 3];

/// Endpoints, where they are.
type Places = BTreeMap<Place, BTreeSet<Reached>>;

/// Where something is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Reached {
    address: IpAddr,
    port: u16,
    /// The same thing's address of the other family.
    other: Option<IpAddr>,
}

impl Reached {
    /// By the first of these addresses, and by the first of the other family.
    fn by(mut addresses: impl Iterator<Item = IpAddr>, port: u16) -> Option<Self> {
        let address = addresses.next()?;
        Some(Self { address, port, other: addresses.find(|other| other.is_ipv4() != address.is_ipv4()) })
    }
}

/// The endpoints of one port of a service, for one client whose network is `network` unless it says another, and which
/// reaches them by way of the service's waypoint unless `is_direct`.
pub fn assignment<'a>(
    name: &str,
    service: &Service,
    port: u16,
    members: impl Iterator<Item = &'a Workload>,
    client: &Client,
    network: &str,
    is_direct: bool,
) -> ClusterLoadAssignment {
    let network = client.network.as_deref().unwrap_or(network);
    let mut groups: BTreeMap<Reverse<usize>, Places> = BTreeMap::new();
    let has_waypoint = service.waypoint.is_some() || !service.weighted_waypoints.is_empty();
    match has_waypoint && !is_direct {
        // Who dials endpoints goes around the waypoint of their service; its own address leads through. One that has none
        // cannot be reached this way, rather than around.
        true => {
            if let Some(reached) = Reached::by(virtual_addresses(service), port) {
                groups.insert(Reverse(0), Places::from([(Place::default(), BTreeSet::from([reached]))]));
            }
        }
        false => {
            let key = format!("{}/{}", service.namespace, service.hostname);
            let balancing = service.load_balancing.clone().unwrap_or_default();
            let mut taken = BTreeSet::new();
            for workload in members.filter(|workload| workload.network == network && is_up(workload, &balancing)) {
                let Some(endpoint) = endpoint(workload, &key, port, service.ip_families()) else { continue };
                let Some(rank) = rank(workload, &balancing, client, network) else { continue };
                // Two that share an address are one for whoever dials it.
                if taken.insert((endpoint.address, endpoint.port)) {
                    groups.entry(Reverse(rank)).or_default().entry(place(workload)).or_default().insert(endpoint);
                }
            }
        }
    }
    // A waypoint dials by way of tunnels, which lead to the same whichever address they name.
    let has_both = client.gateway.is_none();
    let localities = groups.into_values().zip(0_u32..).flat_map(|(places, priority)| {
        places.into_iter().map(move |(place, endpoints)| locality(place, &endpoints, priority, has_both))
    });
    ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: localities.collect() }
}

/// The addresses of a service, without blocks.
pub fn virtual_addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    service.addresses.iter().filter(|address| address.length.is_none()).filter_map(|address| ip(&address.address))
}

fn is_up(workload: &Workload, balancing: &LoadBalancing) -> bool {
    workload.status() == WorkloadStatus::Healthy || balancing.health_policy() == HealthPolicy::AllowAll
}

fn endpoint(workload: &Workload, service: &str, port: u16, families: IpFamilies) -> Option<Reached> {
    let ports = workload.services.get(service)?;
    let target = ports.ports.iter().find(|known| known.service_port == u32::from(port))?.target_port;
    let target = u16::try_from(target).ok().filter(|target| *target != 0)?;
    // A service of one family has endpoints of that family only, whatever else its pods have.
    let is_served = |address: &IpAddr| match families {
        IpFamilies::Ipv4Only => address.is_ipv4(),
        IpFamilies::Ipv6Only => address.is_ipv6(),
        IpFamilies::Dual | IpFamilies::Automatic => true,
    };
    Reached::by(workload.addresses.iter().filter_map(|octets| ip(octets)).filter(is_served), target)
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)),
    }
}

fn place(workload: &Workload) -> Place {
    let locality = workload.locality.clone().unwrap_or_default();
    [locality.region, locality.zone, locality.subzone]
}

/// How near a workload is, by the scopes the service names, or none when it must not be used from here (interop §2.5).
fn rank(workload: &Workload, balancing: &LoadBalancing, client: &Client, network: &str) -> Option<usize> {
    let [region, zone, subzone] = place(workload);
    let [client_region, client_zone, client_subzone] = &client.locality;
    let shares = |scope: &Scope| match scope {
        Scope::Network => workload.network == network,
        Scope::Region => region == *client_region,
        Scope::Zone => zone == *client_zone,
        Scope::Subzone => subzone == *client_subzone,
        Scope::Node => !client.node.is_empty() && workload.node == client.node,
        Scope::Cluster | Scope::UnspecifiedScope => true,
    };
    let preferred: Vec<Scope> = balancing.routing_preference().collect();
    let shared = preferred.iter().take_while(|scope| shares(scope)).count();
    match balancing.mode() {
        Mode::Strict => (shared == preferred.len()).then_some(0),
        Mode::Failover => Some(shared),
        Mode::UnspecifiedMode | Mode::Passthrough => Some(0),
    }
}

fn socket(address: IpAddr, port: u16) -> Address {
    let socket =
        SocketAddress { address: address.to_string(), port_specifier: Some(PortSpecifier::PortValue(u32::from(port))) };
    Address { address: Some(address::Address::SocketAddress(socket)) }
}

fn locality(place: Place, endpoints: &BTreeSet<Reached>, priority: u32, has_both: bool) -> LocalityLbEndpoints {
    let [region, zone, sub_zone] = place;
    let one = |reached: &Reached| {
        let other = reached
            .other
            .filter(|_| has_both)
            .map(|other| AdditionalAddress { address: Some(socket(other, reached.port)) });
        let endpoint = Endpoint {
            address: Some(socket(reached.address, reached.port)),
            additional_addresses: other.into_iter().collect(),
        };
        LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
            health_status: HealthStatus::Healthy.into(),
            load_balancing_weight: None,
        }
    };
    LocalityLbEndpoints {
        locality: Some(Locality { region, zone, sub_zone }),
        // So that every endpoint gets the same, wherever it is.
        load_balancing_weight: Some(u32::try_from(endpoints.len()).unwrap_or(u32::MAX)),
        lb_endpoints: endpoints.iter().map(one).collect(),
        priority,
    }
}
