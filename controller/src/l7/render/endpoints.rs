//! Who serves a port, grouped by where they are and who comes first for the client that asks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fairway_proto::envoy::core::socket_address::PortSpecifier;
use fairway_proto::envoy::core::{Address, HealthStatus, Locality, SocketAddress, address};
use fairway_proto::envoy::endpoint::endpoint::AdditionalAddress;
use fairway_proto::envoy::endpoint::lb_endpoint::HostIdentifier;
use fairway_proto::envoy::endpoint::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use fairway_proto::workload::load_balancing::HealthPolicy;
use fairway_proto::workload::{IpFamilies, LoadBalancing, Service, Workload, WorkloadStatus};

use super::nearness::{Label, Place, Preference, Standpoint, covers, place};

/// Endpoints with their weights, where they are.
type Places = BTreeMap<Place, BTreeMap<Reached, u32>>;

/// What one in a hundred is in weights, so that many endpoints can share it.
const SHARE: u64 = 10_000;

/// What all weights come to at most, with room for what is rounded up.
const MOST: u64 = 1 << 31;

/// How a client sees endpoints.
pub struct Seen<'a> {
    /// By what they are told apart.
    pub preference: Preference<'a>,
    /// From where.
    pub from: &'a Standpoint,
    /// The labels that they have.
    pub label: Label<'a>,
    /// Whether it is told addresses of both families.
    pub has_both: bool,
    /// Whether it reaches them itself, and not by way of the service's waypoint.
    pub is_direct: bool,
    /// Whether it resolves names of endpoints; others are told of addresses only.
    pub resolves: bool,
}

/// Where something is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Reached {
    at: At,
    port: u16,
    /// The same thing's address of the other family.
    other: Option<IpAddr>,
}

/// An address, or a name that has some.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Address(IpAddr),
    Name(String),
}

impl Reached {
    /// By the first of these addresses, and by the first of the other family.
    fn by(mut addresses: impl Iterator<Item = IpAddr>, port: u16) -> Option<Self> {
        let address = addresses.next()?;
        Some(Self {
            at: At::Address(address),
            port,
            other: addresses.find(|other| other.is_ipv4() != address.is_ipv4()),
        })
    }
}

/// The endpoints of one port of a service, for one client.
pub fn assignment<'a>(
    name: &str,
    service: &Service,
    port: u16,
    members: impl Iterator<Item = &'a Workload>,
    seen: &Seen<'_>,
) -> ClusterLoadAssignment {
    let mut groups: BTreeMap<usize, Places> = BTreeMap::new();
    let has_waypoint = service.waypoint.is_some() || !service.weighted_waypoints.is_empty();
    match has_waypoint && !seen.is_direct {
        // Who dials endpoints goes around the waypoint of their service; its own address leads through. One that has none
        // cannot be reached this way, rather than around.
        true => {
            if let Some(reached) = Reached::by(virtual_addresses(service), port) {
                groups.insert(0, Places::from([(Place::default(), BTreeMap::from([(reached, 1)]))]));
            }
        }
        false => {
            let key = format!("{}/{}", service.namespace, service.hostname);
            let balancing = service.load_balancing.clone().unwrap_or_default();
            let mut taken = BTreeMap::new();
            for workload in members.filter(|it| it.network == seen.from.network && is_up(it, &balancing)) {
                let found = endpoint(workload, &key, port, service.ip_families());
                let Some(endpoint) = found.filter(|it| seen.resolves || matches!(it.at, At::Address(_))) else {
                    continue;
                };
                let Some(rank) = seen.preference.rank(workload, seen.from, seen.label) else { continue };
                // Two that share an address are one for whoever dials it.
                if taken.insert((endpoint.at.clone(), endpoint.port), ()).is_none() {
                    let weight = workload.capacity.unwrap_or(1).max(1);
                    groups.entry(rank).or_default().entry(place(workload)).or_default().insert(endpoint, weight);
                }
            }
        }
    }
    if let (Preference::Shares(shares), Some(places)) = (seen.preference, groups.get_mut(&0)) {
        share(places, shares);
    }
    fit(&mut groups);
    let is_weighed = groups.values().flat_map(BTreeMap::values).flat_map(BTreeMap::values).any(|weight| *weight != 1);
    let localities = groups.into_values().zip(0_u32..).flat_map(|(places, priority)| {
        places
            .into_iter()
            .map(move |(place, endpoints)| locality(place, &endpoints, priority, seen.has_both, is_weighed))
    });
    ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: localities.collect() }
}

/// Makes weights so small that proxies can add them up (gRFC A27: to 2^32 - 1).
fn fit(groups: &mut BTreeMap<usize, Places>) {
    let weights = groups.values().flat_map(BTreeMap::values).flat_map(BTreeMap::values);
    let total: u64 = weights.map(|weight| u64::from(*weight)).sum();
    let Ok(part @ 2..) = u32::try_from(total / MOST + 1) else { return };
    for weight in groups.values_mut().flat_map(BTreeMap::values_mut).flat_map(BTreeMap::values_mut) {
        *weight = (*weight / part).max(1);
    }
}

/// Gives places their shares; others get nothing, unless nobody is left by that. A share is divided as the endpoints weigh.
fn share(places: &mut Places, shares: &[(String, u32)]) {
    let mut shared = Places::new();
    for (written, share) in shares.iter().filter(|(_, share)| *share > 0) {
        let is_meant = |place: &Place| covers(written, place) && !shared.contains_key(place);
        let meant: Vec<_> = places.iter().filter(|(place, _)| is_meant(place)).collect();
        let total: u64 = meant.iter().flat_map(|(_, all)| all.values()).map(|weight| u64::from(*weight)).sum();
        let part = |weight: u32| {
            let part = u64::from(*share) * SHARE * u64::from(weight) / total.max(1);
            u32::try_from(part.max(1)).unwrap_or(u32::MAX)
        };
        let weighed = meant.into_iter().map(|(place, all)| {
            (place.clone(), all.iter().map(|(endpoint, weight)| (endpoint.clone(), part(*weight))).collect())
        });
        let weighed: Vec<(Place, BTreeMap<Reached, u32>)> = weighed.collect();
        shared.extend(weighed);
    }
    if !shared.is_empty() {
        *places = shared;
    }
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
    if is_known_by_name(workload) {
        return Some(Reached { at: At::Name(workload.hostname.clone()), port: target, other: None });
    }
    Reached::by(workload.addresses.iter().filter_map(|octets| ip(octets)).filter(is_served), target)
}

/// Whether whoever connects has to find out its address.
pub fn is_known_by_name(workload: &Workload) -> bool {
    workload.addresses.is_empty() && !workload.hostname.is_empty()
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?)),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)),
    }
}

fn socket(at: &At, port: u16) -> Address {
    let address = match at {
        At::Address(address) => address.to_string(),
        At::Name(name) => name.clone(),
    };
    let socket = SocketAddress { address, port_specifier: Some(PortSpecifier::PortValue(u32::from(port))) };
    Address { address: Some(address::Address::SocketAddress(socket)) }
}

fn locality(
    place: Place,
    endpoints: &BTreeMap<Reached, u32>,
    priority: u32,
    has_both: bool,
    is_weighed: bool,
) -> LocalityLbEndpoints {
    let [region, zone, sub_zone] = place;
    let one = |(reached, weight): (&Reached, &u32)| {
        let other = reached
            .other
            .filter(|_| has_both)
            .map(|other| AdditionalAddress { address: Some(socket(&At::Address(other), reached.port)) });
        let endpoint = Endpoint {
            address: Some(socket(&reached.at, reached.port)),
            additional_addresses: other.into_iter().collect(),
        };
        LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
            health_status: HealthStatus::Healthy.into(),
            load_balancing_weight: is_weighed.then_some(*weight),
        }
    };
    let total: u64 = endpoints.values().map(|weight| u64::from(*weight)).sum();
    LocalityLbEndpoints {
        locality: Some(Locality { region, zone, sub_zone }),
        // So that every endpoint gets what it weighs, wherever it is.
        load_balancing_weight: Some(u32::try_from(total).unwrap_or(u32::MAX)),
        lb_endpoints: endpoints.iter().map(one).collect(),
        priority,
    }
}
