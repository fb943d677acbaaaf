//! A small world to decide in: a pod of a service, one that takes the PROXY protocol, and a waypoint with its service.

use std::sync::Arc;

use fairway_core::snapshot::{Snapshot, Update, World};
use fairway_proto::workload::{
    ApplicationTunnel, GatewayAddress, NamespacedHostname, NetworkAddress, Port, PortList, Service, TunnelProtocol,
    Workload, application_tunnel, gateway_address,
};

/// The pod's address.
pub const POD: [u8; 4] = [10, 0, 0, 1];
/// The address of the pod that takes the PROXY protocol.
pub const PROXIED: [u8; 4] = [10, 0, 0, 2];
/// The waypoint's address.
pub const WAYPOINT: [u8; 4] = [10, 0, 0, 3];
/// The virtual address of the service behind the waypoint.
pub const VIP: [u8; 4] = [10, 9, 0, 1];
/// The service of the pod.
pub const HOST: &str = "cart.shop.svc.cluster.local";
/// The service behind the waypoint.
pub const GUARDED: &str = "guarded.shop.svc.cluster.local";

fn pod(name: &str, ip: [u8; 4], hostname: &str) -> Workload {
    let ports = vec![Port { service_port: 80, target_port: 8080, ..Default::default() }];
    Workload {
        uid: format!("Kubernetes//Pod/shop/{name}"),
        name: name.into(),
        namespace: "shop".into(),
        service_account: name.into(),
        addresses: vec![ip.to_vec()],
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        node: "n1".into(),
        services: [(format!("shop/{hostname}"), PortList { ports })].into(),
        ..Default::default()
    }
}

fn service(hostname: &str, vip: [u8; 4], waypoint: Option<GatewayAddress>) -> Service {
    Service {
        name: hostname.split('.').next().unwrap_or_default().into(),
        namespace: "shop".into(),
        hostname: hostname.into(),
        addresses: vec![NetworkAddress { address: vip.to_vec(), ..Default::default() }],
        ports: vec![Port { service_port: 80, target_port: 8080, ..Default::default() }],
        waypoint,
        ..Default::default()
    }
}

/// The messages the world is made of.
#[must_use]
pub fn messages() -> (Vec<Workload>, Vec<Service>) {
    let mut proxied = pod("proxied", PROXIED, HOST);
    proxied.application_tunnel =
        Some(ApplicationTunnel { protocol: application_tunnel::Protocol::Proxy.into(), port: 9000 });
    let host = NamespacedHostname { namespace: "shop".into(), hostname: "waypoint.shop.svc.cluster.local".into() };
    let waypoint =
        GatewayAddress { destination: Some(gateway_address::Destination::Hostname(host)), hbone_mtls_port: 15008 };
    (
        vec![pod("cart", POD, HOST), proxied, pod("waypoint", WAYPOINT, "waypoint.shop.svc.cluster.local")],
        vec![
            service(HOST, [10, 9, 0, 2], None),
            service(GUARDED, VIP, Some(waypoint)),
            service("waypoint.shop.svc.cluster.local", [10, 9, 0, 3], None),
        ],
    )
}

/// The world of [`messages`].
#[must_use]
pub fn snapshot() -> Arc<Snapshot> {
    let (workloads, services) = messages();
    let workloads = workloads.into_iter().map(|message| {
        Update::from(fairway_core::workload::Workload::try_from(message).expect("a workload of ours is sound"))
    });
    let services = services.into_iter().map(|message| {
        Update::from(fairway_core::service::Service::try_from(message).expect("a service of ours is sound"))
    });
    World::complete().apply(workloads.chain(services).collect())
}
