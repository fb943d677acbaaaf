//! Finds the waypoint a reference means. One that cannot be found is a refusal: a waypoint is never bypassed.

use std::{net::SocketAddr, sync::Arc};

use rand::{Rng, RngExt};

use super::{Hop, Refusal, address_of};
use crate::{
    addr::NetworkAddress,
    balance::{self, Pick, Target},
    reason::Reason,
    service::{GatewayAddress, GatewayDestination, Service},
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

/// Whether a connection's source is the waypoint itself, so that what it sends on must not come back to it.
pub(super) fn includes(snapshot: &Snapshot, reference: &GatewayAddress, source: &Workload) -> bool {
    snapshot.resolves_to(&reference.destination, source)
}

/// The tunnel to the waypoint for what was dialled, and the waypoint's workload.
pub(super) fn hop(
    snapshot: &Snapshot,
    source: &Workload,
    reference: &GatewayAddress,
    dialled: SocketAddr,
    rng: &mut impl Rng,
) -> Result<(Hop, Arc<Workload>), Box<Refusal>> {
    let unknown = || Refusal::new(Reason::UnknownWaypoint, &reference.destination);
    let (pick, service) = match find(snapshot, source, reference).ok_or_else(unknown)? {
        Found::Service(service) => {
            let request = balance::Request {
                client: source,
                port: reference.hbone_mtls_port,
                address: Some(dialled.ip()),
                gateway: true,
            };
            let pick = balance::pick(service, snapshot.endpoints(&service.key), &request, rng).ok_or_else(|| {
                Refusal::new(Reason::NoHealthyUpstream, format_args!("waypoint {}", reference.destination))
            })?;
            (pick, Some(service))
        }
        Found::Workload(workload) => (pick_workload(source, workload, reference, dialled).ok_or_else(unknown)?, None),
    };
    let address = match &pick.target {
        Target::Address(ip) => SocketAddr::new(*ip, pick.port),
        Target::Remote => {
            let subject =
                format_args!("waypoint {} in network {:?}", reference.destination, pick.workload.network).to_string();
            return Err(Refusal::new(Reason::WrongNetwork, subject));
        }
        Target::Hostname(hostname) => {
            return Err(Refusal::new(
                Reason::DnsFailed,
                format_args!("waypoint {} at {hostname}", reference.destination),
            ));
        }
    };
    // Whatever the waypoint's workload announces, a waypoint is spoken to by HBONE.
    Ok((Hop::new(address, dialled, &pick.workload, service.map(|service| &**service)), pick.workload))
}

/// Whether the waypoint can be found.
pub(super) fn is_known(snapshot: &Snapshot, source: &Workload, reference: &GatewayAddress) -> bool {
    find(snapshot, source, reference).is_some()
}

enum Found<'a> {
    Service(&'a Arc<Service>),
    Workload(&'a Arc<Workload>),
}

fn find<'a>(snapshot: &'a Snapshot, source: &Workload, reference: &GatewayAddress) -> Option<Found<'a>> {
    match &reference.destination {
        GatewayDestination::Hostname(key) => snapshot
            .service(key)
            .map(Found::Service)
            .or_else(|| snapshot.workload_by_hostname(key.namespace(), key.hostname()).map(Found::Workload)),
        GatewayDestination::Address(address) => snapshot
            .service_by_vip(address, source.namespace())
            .map(Found::Service)
            .or_else(|| snapshot.workload_by_address(address).map(Found::Workload)),
    }
}

/// A workload that is referred to directly, as if it were its service's only endpoint.
fn pick_workload(
    source: &Workload,
    workload: &Arc<Workload>,
    reference: &GatewayAddress,
    dialled: SocketAddr,
) -> Option<Pick> {
    let target = if workload.network != source.network {
        Target::Remote
    } else if let GatewayDestination::Address(NetworkAddress { ip, .. }) = &reference.destination {
        Target::Address(*ip)
    } else if let Some(ip) = address_of(workload, dialled.ip()) {
        Target::Address(ip)
    } else {
        Target::Hostname(workload.hostname.clone()?)
    };
    Some(Pick { workload: workload.clone(), target, port: reference.hbone_mtls_port })
}
