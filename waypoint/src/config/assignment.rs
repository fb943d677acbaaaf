//! Who is in a cluster, who comes first, and who gets how much.

use std::net::SocketAddr;

use fairway_proto::envoy::core::HealthStatus;
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
}

/// Reads a `ClusterLoadAssignment`.
///
/// # Errors
/// The field that cannot be used.
pub fn assignment(bytes: &[u8]) -> Result<Assignment, Wrong> {
    fields::check("envoy.config.endpoint.v3.ClusterLoadAssignment", bytes)?;
    let message = ClusterLoadAssignment::decode(bytes).map_err(|error| Wrong::here(error.to_string()))?;
    let mut localities: Vec<_> = message.endpoints.iter().enumerate().collect();
    localities.sort_by_key(|(_, locality)| locality.priority);
    let mut priorities: Vec<(u32, Vec<(SocketAddr, u64)>)> = Vec::new();
    for (index, locality) in localities {
        let found = all("lb_endpoints", &locality.lb_endpoints, endpoint).within(format_args!("endpoints[{index}]"))?;
        let found = weighed(locality, found.into_iter().flatten().collect());
        match priorities.last_mut() {
            Some((priority, endpoints)) if *priority == locality.priority => endpoints.extend(found),
            _ => priorities.push((locality.priority, found)),
        }
    }
    let mut assignment = Assignment::default();
    for (_, endpoints) in priorities {
        let (endpoints, mut weights): (Vec<_>, Vec<_>) = endpoints.into_iter().unzip();
        if weights.iter().all(|weight| Some(weight) == weights.first()) {
            weights.clear();
        }
        assignment.priorities.push(endpoints);
        assignment.weights.push(weights);
    }
    Ok(assignment)
}

/// What a locality gets is shared by its endpoints as they are weighed; without a word each endpoint gets the same, wherever it
/// is. One that gets nothing is not there.
fn weighed(locality: &LocalityLbEndpoints, endpoints: Vec<(SocketAddr, u32)>) -> Vec<(SocketAddr, u64)> {
    let sum: u128 = endpoints.iter().map(|(_, weight)| u128::from(*weight)).sum();
    let share = locality.load_balancing_weight.map_or(sum, u128::from);
    let of = |weight: u32| share * u128::from(weight) * u128::from(UNIT) / sum.max(1);
    let weighed = endpoints.into_iter().map(|(endpoint, weight)| (endpoint, of(weight)));
    weighed
        .filter(|(_, weight)| *weight > 0)
        .map(|(it, weight)| (it, u64::try_from(weight).unwrap_or(u64::MAX)))
        .collect()
}

/// The address and weight of one that may be used.
fn endpoint(message: &LbEndpoint) -> Result<Option<(SocketAddr, u32)>, Wrong> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &message.host_identifier else {
        return Err(Wrong::missing("endpoint"));
    };
    let found = address(endpoint.address.as_ref()).within("endpoint.address")?;
    let weight = message.load_balancing_weight.unwrap_or(1);
    if weight == 0 {
        return Err(Wrong::new("load_balancing_weight", "must be 1 at least"));
    }
    let usable = matches!(message.health_status(), HealthStatus::Unknown | HealthStatus::Healthy);
    Ok(usable.then_some((found, weight)))
}
