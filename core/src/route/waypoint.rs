//! Finds the waypoint a reference means. One that cannot be found is a refusal: a waypoint is never bypassed.

use std::net::SocketAddr;

use rand::{Rng, RngExt};

use super::{
    Hop, Refusal,
    reference::{self, Found},
};
use crate::{
    addr::Authority,
    balance::{Pick, Role, Target},
    reason::Reason,
    service::{GatewayAddress, Service},
    snapshot::Snapshot,
    workload::Workload,
};

/// The service's waypoint; of several, one by weight.
pub(super) fn of_service<'a>(service: &'a Service, rng: &mut impl Rng) -> Option<&'a GatewayAddress> {
    let waypoints = &service.weighted_waypoints;
    let total: u64 = waypoints.iter().map(|waypoint| u64::from(waypoint.weight)).sum();
    if total == 0 {
        return service.waypoint.as_ref();
    }
    let mut draw = rng.random_range(0..total);
    for waypoint in waypoints {
        match draw.checked_sub(u64::from(waypoint.weight)) {
            Some(rest) => draw = rest,
            None => return Some(&waypoint.destination),
        }
    }
    service.waypoint.as_ref()
}

/// Whether a connection's source is one of the service's waypoints, so that what it sends on must not come back to it,
/// nor go round through another one.
pub(super) fn serves(snapshot: &Snapshot, service: &Service, source: &Workload) -> bool {
    all(service).any(|reference| includes(snapshot, reference, source))
}

/// Every waypoint of the service.
pub(super) fn all(service: &Service) -> impl Iterator<Item = &GatewayAddress> {
    let weighted = service.weighted_waypoints.iter().map(|waypoint| &waypoint.destination);
    service.waypoint.iter().chain(weighted)
}

/// Whether a connection's source is the waypoint itself.
pub(super) fn includes(snapshot: &Snapshot, reference: &GatewayAddress, source: &Workload) -> bool {
    snapshot.resolves_to(&reference.destination, source)
}

/// One of the waypoint's endpoints for what was dialled.
pub(super) fn endpoint<'a>(
    snapshot: &'a Snapshot,
    source: &Workload,
    reference: &GatewayAddress,
    dialled: SocketAddr,
    rng: &mut impl Rng,
) -> Result<(Found<'a>, Pick), Box<Refusal>> {
    let unknown = || Refusal::new(Reason::UnknownWaypoint, &reference.destination);
    let found = reference::find(snapshot, source, reference).ok_or_else(unknown)?;
    let pick = found.pick(snapshot, source, reference, Role::Waypoint, dialled.ip(), rng);
    let none = || Refusal::new(Reason::NoHealthyUpstream, format_args!("waypoint {}", reference.destination));
    Ok((found, pick.ok_or_else(none)?))
}

/// The tunnel to an endpoint of the waypoint.
pub(super) fn hop(
    found: &Found<'_>,
    pick: &Pick,
    reference: &GatewayAddress,
    dialled: SocketAddr,
) -> Result<Hop, Box<Refusal>> {
    let refuse = |reason, what: std::fmt::Arguments<'_>| {
        Err(Refusal::new(reason, format_args!("waypoint {} {what}", reference.destination)))
    };
    match &pick.target {
        // Whatever the waypoint's workload announces, a waypoint is spoken to by HBONE.
        Target::Address(ip) => {
            let address = SocketAddr::new(*ip, pick.port);
            Ok(Hop::new(address, Authority::Address(dialled), &pick.workload, found.service()))
        }
        Target::Remote => refuse(Reason::WrongNetwork, format_args!("in network {:?}", pick.workload.network)),
        Target::Hostname(hostname) => refuse(Reason::DnsFailed, format_args!("at {hostname}")),
    }
}
