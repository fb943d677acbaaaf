//! Who is in a cluster, who comes first, and who gets how much.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_proto::envoy::core::HealthStatus;
use fairway_proto::envoy::core::address::Address;
use fairway_proto::envoy::core::socket_address::PortSpecifier;
use fairway_proto::envoy::endpoint::lb_endpoint::HostIdentifier;
use fairway_proto::envoy::endpoint::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints};
use prost::Message;

use super::wrong::{Within, Wrong, all};
use super::{address, fields};

/// The weight of an endpoint where nobody says anything of it: fine enough for shares of localities.
pub const UNIT: u64 = 1 << 16;

/// Who serves, best first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Of several the first counts that has somebody.
    pub priorities: Vec<Vec<SocketAddr>>,
    /// How much each gets in comparison with the others of its priority, none of it 0; empty where all get the same.
    pub weights: Vec<Vec<u64>>,
}

impl Assignment {
    /// How much each endpoint of a priority gets, unless all get the same.
    #[must_use]
    pub fn weights(&self, priority: usize) -> Option<&[u64]> {
        self.weights.get(priority).map(Vec::as_slice).filter(|weights| !weights.is_empty())
    }

    /// Of localities with their priorities, in order of these.
    fn of(localities: impl IntoIterator<Item = (u32, Vec<(SocketAddr, u64)>)>) -> Self {
        let mut priorities: Vec<(u32, Vec<(SocketAddr, u64)>)> = Vec::new();
        for (priority, found) in localities {
            match priorities.last_mut() {
                Some((last, endpoints)) if *last == priority => endpoints.extend(found),
                _ => priorities.push((priority, found)),
            }
        }
        let mut assignment = Self::default();
        for (_, endpoints) in priorities {
            let (endpoints, mut weights): (Vec<_>, Vec<_>) = endpoints.into_iter().unzip();
            if weights.iter().all(|weight| Some(weight) == weights.first()) {
                weights.clear();
            }
            assignment.priorities.push(endpoints);
            assignment.weights.push(weights);
        }
        assignment
    }
}

/// Endpoints of which some have only a name, whose addresses are found out here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// In order of their priorities.
    localities: Vec<Locality<At>>,
    /// Whether of a name the first address is used, and not all (`LOGICAL_DNS`).
    one_at_a_time: bool,
}

/// Endpoints in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Locality<T> {
    priority: u32,
    /// What they get together; none is what they weigh.
    share: Option<u32>,
    /// Where they are, and what they weigh.
    endpoints: Vec<(T, u32)>,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    Address(SocketAddr),
    Name(Arc<str>, u16),
}

impl Names {
    /// One name and port.
    #[cfg(test)]
    pub(crate) fn one(name: &str, port: u16, one_at_a_time: bool) -> Self {
        let endpoints = vec![(At::Name(name.into(), port), 1)];
        Self { localities: vec![Locality { priority: 0, share: None, endpoints }], one_at_a_time }
    }

    /// The names, some more than once.
    pub fn all(&self) -> impl Iterator<Item = &Arc<str>> {
        self.localities.iter().flat_map(|locality| &locality.endpoints).filter_map(|(at, _)| match at {
            At::Address(_) => None,
            At::Name(name, _) => Some(name),
        })
    }

    /// Who serves, as far as `known` has addresses of the names. Each address of a name gets what the endpoint does, as with
    /// Envoy.
    pub fn resolved<'a>(&self, known: impl Fn(&str) -> Option<&'a [IpAddr]>) -> Assignment {
        let addresses = |name: &str| {
            let found = known(name).unwrap_or_default();
            if self.one_at_a_time { found.get(..1).unwrap_or_default() } else { found }
        };
        let localities = self.localities.iter().map(|locality| {
            let mut found: Vec<(SocketAddr, u32)> = Vec::new();
            for (at, weight) in &locality.endpoints {
                match at {
                    At::Address(address) => found.push((*address, *weight)),
                    At::Name(name, port) => {
                        found.extend(addresses(name).iter().map(|ip| (SocketAddr::new(*ip, *port), *weight)));
                    }
                }
            }
            // Two names may have an address in common.
            found.sort_unstable();
            found.dedup_by_key(|(address, _)| *address);
            (locality.priority, weighed(locality.share, found))
        });
        Assignment::of(localities)
    }
}

/// Reads a `ClusterLoadAssignment`.
///
/// # Errors
/// The field that cannot be used.
pub fn assignment(bytes: &[u8]) -> Result<Assignment, Wrong> {
    fields::check("envoy.config.endpoint.v3.ClusterLoadAssignment", bytes)?;
    let message = ClusterLoadAssignment::decode(bytes).map_err(|error| Wrong::here(error.to_string()))?;
    let found = localities(&message, |message| address(Some(message)))?;
    let weighed = |locality: Locality<_>| (locality.priority, weighed(locality.share, locality.endpoints));
    Ok(Assignment::of(found.into_iter().map(weighed)))
}

/// Reads endpoints that may have names.
///
/// # Errors
/// The field that cannot be used.
pub(super) fn names(message: &ClusterLoadAssignment, one_at_a_time: bool) -> Result<Names, Wrong> {
    let localities = localities(message, named)?;
    let count = localities.iter().map(|locality| locality.endpoints.len()).sum::<usize>();
    if one_at_a_time && count != 1 {
        return Err(Wrong::new("endpoints", "must be one, as the type is LOGICAL_DNS"));
    }
    Ok(Names { localities, one_at_a_time })
}

/// Localities in order of their priorities, with those of their endpoints that may be used.
fn localities<T>(
    message: &ClusterLoadAssignment,
    convert: impl Fn(&fairway_proto::envoy::core::Address) -> Result<T, Wrong>,
) -> Result<Vec<Locality<T>>, Wrong> {
    let mut localities: Vec<_> = message.endpoints.iter().enumerate().collect();
    localities.sort_by_key(|(_, locality)| locality.priority);
    let read = |(index, locality): (usize, &LocalityLbEndpoints)| {
        let found = all("lb_endpoints", &locality.lb_endpoints, |message| endpoint(message, &convert));
        let endpoints = found.within(format_args!("endpoints[{index}]"))?.into_iter().flatten().collect();
        Ok(Locality { priority: locality.priority, share: locality.load_balancing_weight, endpoints })
    };
    localities.into_iter().map(read).collect()
}

/// An address, or a name with a port.
fn named(message: &fairway_proto::envoy::core::Address) -> Result<At, Wrong> {
    let Some(Address::SocketAddress(socket)) = &message.address else { return Err(Wrong::missing("socket_address")) };
    if socket.address.parse::<IpAddr>().is_ok() {
        return address(Some(message)).map(At::Address);
    }
    let port = match socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port).ok().filter(|port| *port > 0),
        None => None,
    };
    let port = port.ok_or_else(|| Wrong::new("socket_address.port_value", "must be from 1 to 65535"))?;
    if socket.address.is_empty() {
        return Err(Wrong::missing("socket_address.address"));
    }
    Ok(At::Name(socket.address.to_ascii_lowercase().into(), port))
}

/// What a locality gets is shared by its endpoints as they are weighed; without a word each endpoint gets the same, wherever it
/// is. One that gets nothing is not there.
fn weighed(share: Option<u32>, endpoints: Vec<(SocketAddr, u32)>) -> Vec<(SocketAddr, u64)> {
    let sum: u128 = endpoints.iter().map(|(_, weight)| u128::from(*weight)).sum();
    let share = share.map_or(sum, u128::from);
    let of = |weight: u32| share * u128::from(weight) * u128::from(UNIT) / sum.max(1);
    let weighed = endpoints.into_iter().map(|(endpoint, weight)| (endpoint, of(weight)));
    weighed
        .filter(|(_, weight)| *weight > 0)
        .map(|(it, weight)| (it, u64::try_from(weight).unwrap_or(u64::MAX)))
        .collect()
}

/// Where one is that may be used, and its weight.
fn endpoint<T>(
    message: &LbEndpoint,
    convert: impl Fn(&fairway_proto::envoy::core::Address) -> Result<T, Wrong>,
) -> Result<Option<(T, u32)>, Wrong> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &message.host_identifier else {
        return Err(Wrong::missing("endpoint"));
    };
    let missing = || Wrong::missing("endpoint.address.socket_address");
    let found = convert(endpoint.address.as_ref().ok_or_else(missing)?).within("endpoint.address")?;
    let weight = message.load_balancing_weight.unwrap_or(1);
    if weight == 0 {
        return Err(Wrong::new("load_balancing_weight", "must be 1 at least"));
    }
    let usable = matches!(message.health_status(), HealthStatus::Unknown | HealthStatus::Healthy);
    Ok(usable.then_some((found, weight)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_of_a_name_are_endpoints_or_the_first() {
        let ips: Vec<IpAddr> = ["192.0.2.2", "192.0.2.1"].iter().map(|ip| ip.parse().unwrap()).collect();
        let known = |name: &str| (name == "api.example").then_some(&*ips);
        let all = |names: &Names| {
            let assignment = names.resolved(known);
            assignment.priorities.concat().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let strict = Names::one("api.example", 443, false);
        assert_eq!(all(&strict), ["192.0.2.1:443", "192.0.2.2:443"]);
        // The resolver's order counts: it turns the answer around.
        assert_eq!(all(&Names::one("api.example", 443, true)), ["192.0.2.2:443"]);
        assert!(all(&Names::one("other.example", 443, false)).is_empty());
        let mut mixed = strict;
        mixed.localities[0].share = Some(30);
        mixed.localities[0].endpoints.push((At::Address("192.0.2.9:80".parse().unwrap()), 1));
        let assignment = mixed.resolved(known);
        assert_eq!(
            assignment.priorities,
            [["192.0.2.1:443", "192.0.2.2:443", "192.0.2.9:80"].map(|address| address.parse::<SocketAddr>().unwrap())]
        );
        assert_eq!(assignment.weights(0), None, "each the same");
    }
}
