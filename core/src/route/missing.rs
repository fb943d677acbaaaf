//! What a plan needs that the snapshot does not have, where it holds only what was asked for.

use std::net::SocketAddr;

use super::{
    around::entry_of,
    reference::{self, Found},
};
use crate::{
    addr::{Authority, NetworkAddress, canonical},
    service::{GatewayAddress, Mode, Service},
    snapshot::Snapshot,
    workload::Workload,
};

/// The name to ask the control plane for before a connection from `source` to `destination` can be planned: the
/// destination's own, its waypoint's, or that of another network's gateway. None if nothing is missing, or nothing that
/// has a name.
#[must_use]
pub fn missing(snapshot: &Snapshot, source: &Workload, destination: SocketAddr) -> Option<String> {
    let destination = canonical(destination);
    if destination.ip().is_loopback() {
        return None;
    }
    let address = NetworkAddress { network: source.network.clone(), ip: destination.ip() };
    let unknown = |reference: &&GatewayAddress| !reference::is_known(snapshot, source, reference);
    if let Some(service) = snapshot.service_by_vip(&address, source.namespace()) {
        let weighted = service.weighted_waypoints.iter().map(|waypoint| &waypoint.destination);
        let mut waypoints = weighted.chain(&service.waypoint);
        if let Some(reference) = waypoints.clone().find(unknown) {
            return Some(reference.destination.to_string());
        }
        let gateway = missing_gateway(snapshot, source, service).or_else(|| {
            waypoints.find_map(|reference| match reference::find(snapshot, source, reference)? {
                Found::Service(waypoint) => missing_gateway(snapshot, source, waypoint),
                Found::Workload(_) => None,
            })
        });
        // Somebody may have the very address, and a block, or a service that leaves the choice to its clients, is not to
        // hide that.
        let may_be_owned = !service.vips.contains(&address) || service.load_balancing.mode == Mode::Passthrough;
        let is_unknown =
            || snapshot.workload_by_address(&address).is_none() && snapshot.refused_address(&address).is_none();
        return gateway.or_else(|| (may_be_owned && is_unknown()).then(|| address.to_string()));
    }
    if let Some(workload) = snapshot.workload_by_address(&address) {
        return workload.waypoint.as_deref().filter(unknown).map(|reference| reference.destination.to_string());
    }
    snapshot.refused_address(&address).is_none().then(|| address.to_string())
}

/// The gateway of a network that the service has endpoints in, if it is not known.
fn missing_gateway(snapshot: &Snapshot, source: &Workload, service: &Service) -> Option<String> {
    let endpoints = snapshot.endpoints(&service.key).iter().map(|endpoint| &endpoint.workload);
    endpoints.filter(|workload| workload.network != source.network).find_map(|workload| {
        let reference = workload.network_gateway.as_ref()?;
        (!reference::is_known(snapshot, source, reference)).then(|| reference.destination.to_string())
    })
}

/// The same for a tunnel that came to `arrived_at`, an address of the pod of `local`, and asks for `authority`: the
/// service that is named, or what `local` may be the waypoint of. Of services only those the pod is part of, since the
/// peer chooses the name.
#[must_use]
pub fn missing_inbound(
    snapshot: &Snapshot,
    local: &Workload,
    arrived_at: SocketAddr,
    authority: &str,
) -> Option<String> {
    match authority.parse().ok()? {
        Authority::Hostname { host, .. } => {
            let named = entry_of(local, &host)?;
            snapshot.service(&named.key).is_none().then(|| named.key.to_string())
        }
        Authority::Address(address) => {
            let ip = canonical(address).ip();
            if ip == canonical(arrived_at).ip() || local.application_tunnel.is_some() {
                return None;
            }
            let address = NetworkAddress { network: local.network.clone(), ip };
            let (workload, service) =
                (snapshot.workload_by_address(&address), snapshot.service_by_vip(&address, local.namespace()));
            let reference = match (workload, service) {
                (Some(workload), _) => workload.waypoint.as_deref(),
                (None, Some(service)) => service.waypoint.as_ref(),
                (None, None) => return snapshot.refused_address(&address).is_none().then(|| address.to_string()),
            };
            let unknown = |reference: &&GatewayAddress| !reference::is_known(snapshot, local, reference);
            reference.filter(unknown).map(|reference| reference.destination.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        snapshot::World,
        testing::{gateway_by_hostname, network_address, pod, service, service_message, serving, socket, workload},
    };

    #[test]
    fn first_the_destination_then_its_waypoint_then_nothing() {
        let mut world = World::complete();
        let client = workload(pod("client", &["10.0.0.1"]));
        let needs = |world: &World, destination| missing(&world.snapshot(), &client, socket(destination));
        assert_eq!(needs(&world, "10.96.0.1:80").as_deref(), Some("/10.96.0.1"));
        assert_eq!(needs(&world, "[::ffff:10.96.0.1]:80").as_deref(), Some("/10.96.0.1"));
        assert_eq!(needs(&world, "127.0.0.1:80"), None);

        let mut message = service_message("web", &["10.96.0.1"], &[(80, 80)]);
        message.waypoint = Some(gateway_by_hostname("waypoint"));
        world.apply(vec![service(message).into()]);
        assert_eq!(needs(&world, "10.96.0.1:80").as_deref(), Some("shop/waypoint"));
        world.apply(vec![service(service_message("waypoint", &[], &[])).into()]);
        assert_eq!(needs(&world, "10.96.0.1:80"), None);

        // Somebody may have an address of a block.
        let mut block = service_message("wide", &[], &[(80, 80)]);
        block.addresses = vec![network_address("198.51.100.0/24")];
        world.apply(vec![service(block).into()]);
        assert_eq!(needs(&world, "198.51.100.1:80").as_deref(), Some("/198.51.100.1"));
        world.apply(vec![workload(pod("owner", &["198.51.100.1"])).into()]);
        assert_eq!(needs(&world, "198.51.100.1:80"), None);

        let mut far = serving(pod("far", &[]), "waypoint", &[(15_008, 15_008)]);
        far.network = "east".into();
        far.network_gateway = Some(gateway_by_hostname("gateway"));
        world.apply(vec![workload(far).into()]);
        assert_eq!(needs(&world, "10.96.0.1:80").as_deref(), Some("shop/gateway"));
        world.apply(vec![service(service_message("gateway", &[], &[])).into()]);
        assert_eq!(needs(&world, "10.96.0.1:80"), None);

        let mut message = pod("server", &["10.0.0.2"]);
        message.waypoint = Some(gateway_by_hostname("other"));
        world.apply(vec![workload(message).into()]);
        assert_eq!(needs(&world, "10.0.0.2:80").as_deref(), Some("shop/other"));
    }

    #[test]
    fn a_tunnel_needs_what_it_names_if_the_pod_serves_it_or_may_stand_before_it() {
        let mut world = World::complete();
        let local = workload(serving(pod("waypoint", &["10.0.0.1"]), "waypoint", &[]));
        let needs =
            |world: &World, authority| missing_inbound(&world.snapshot(), &local, socket("10.0.0.1:15008"), authority);
        assert_eq!(needs(&world, "10.0.0.1:80"), None);
        assert_eq!(needs(&world, "waypoint:80").as_deref(), Some("shop/waypoint"));
        assert_eq!(needs(&world, "elsewhere:80"), None);
        assert_eq!(needs(&world, "no authority"), None);
        world.apply(vec![service(service_message("waypoint", &["10.96.0.9"], &[])).into()]);
        assert_eq!(needs(&world, "waypoint:80"), None);

        assert_eq!(needs(&world, "10.96.0.1:80").as_deref(), Some("/10.96.0.1"));
        let mut message = service_message("web", &["10.96.0.1"], &[(80, 80)]);
        message.waypoint = Some(gateway_by_hostname("other"));
        world.apply(vec![service(message).into()]);
        assert_eq!(needs(&world, "10.96.0.1:80").as_deref(), Some("shop/other"));
        world.apply(vec![service(service_message("other", &[], &[])).into()]);
        assert_eq!(needs(&world, "10.96.0.1:80"), None);
    }
}
