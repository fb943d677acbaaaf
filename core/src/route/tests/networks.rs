//! Plans that lead into other networks, row by row.

use super::*;
use crate::ident::Identity;

fn far(name: &str, service: &str, network: &str, gateway: Option<proto::GatewayAddress>) -> proto::Workload {
    // What stands for all endpoints behind a gateway has neither addresses nor an identity of its own.
    let mut message = serving(pod(name, &[]), service, &[(80, 8080), (15_008, 15_008)]);
    message.network = network.into();
    message.network_gateway = gateway;
    message
}

fn gateway_at(network: &str, ip: &str, port: u32) -> proto::GatewayAddress {
    let address = proto::NetworkAddress { network: network.into(), ..network_address(ip) };
    let destination = Some(proto::gateway_address::Destination::Address(address));
    proto::GatewayAddress { destination, hbone_mtls_port: port }
}

fn named(hostname: &str, vip: &str) -> proto::Service {
    let mut message = service_message(hostname, &[vip], &[(80, 8080)]);
    message.subject_alt_names = vec!["spiffe://cluster.local/ns/bank/sa/vault".into()];
    message
}

fn gateway(name: &str, ips: &[&str], network: &str) -> proto::Workload {
    let mut message = serving(pod(name, ips), &format!("{name}-service"), &[(15_008, 15_010)]);
    message.tunnel_protocol = proto::TunnelProtocol::None.into();
    message.service_account = "gateway".into();
    message.network = network.into();
    message
}

fn world() -> Arc<Snapshot> {
    let east = || Some(gateway_at("east", "192.0.2.1", 15_008));
    let mut nameless = gateway("nameless", &[], "south");
    nameless.hostname = "gateway.example.com".into();
    let mut guarded = named("guarded", "10.97.0.6");
    guarded.subject_alt_names.clear();
    guarded.waypoint = Some(gateway_by_hostname("waypoint"));
    let mut waypoint = service_message("waypoint", &[], &[(15_008, 15_008)]);
    waypoint.subject_alt_names = vec!["spiffe://cluster.local/ns/bank/sa/waypoint".into()];
    let mut near_first = named("near-first", "10.97.0.8");
    near_first.load_balancing = Some(proto::LoadBalancing {
        mode: proto::load_balancing::Mode::Failover.into(),
        routing_preference: vec![proto::load_balancing::Scope::Network.into()],
        ..Default::default()
    });
    let mut unnamed = named("unnamed", "10.97.0.3");
    unnamed.subject_alt_names.clear();
    let mut guarded_pod = pod("guarded-pod", &["10.0.0.9"]);
    guarded_pod.waypoint = Some(gateway_by_hostname("waypoint"));
    let mut west = service_message("west-service", &["198.51.100.9"], &[(15_008, 15_008)]);
    west.subject_alt_names = vec!["spiffe://cluster.local/ns/bank/sa/entrance".into()];

    let workloads = [
        pod("client", &["10.0.0.1"]),
        gateway("east", &["192.0.2.1"], "east"),
        gateway("west", &["198.51.100.1"], "west"),
        nameless,
        far("far-east", "far", "east", east()),
        far("far-port", "far-port", "east", Some(gateway_at("east", "192.0.2.1", 15_443))),
        far("far-west", "far-west", "west", Some(gateway_by_hostname("west-service"))),
        far("unnamed", "unnamed", "east", east()),
        far("lost", "lost", "north", Some(gateway_at("north", "192.0.2.9", 15_008))),
        far("closed", "closed", "north", None),
        far("no-address", "no-address", "south", Some(gateway_by_hostname("nameless-service"))),
        far("empty", "empty", "south", Some(gateway_by_hostname("empty-service"))),
        far("waypoint-far", "waypoint", "east", east()),
        far("near-first-far", "near-first", "east", east()),
        serving(pod("near-first-near", &["10.0.0.8"]), "near-first", &[(80, 8080)]),
        guarded_pod,
    ];
    let services = [
        named("far", "10.97.0.1"),
        named("far-port", "10.97.0.10"),
        named("far-west", "10.97.0.2"),
        unnamed,
        named("lost", "10.97.0.4"),
        named("closed", "10.97.0.5"),
        named("no-address", "10.97.0.11"),
        named("empty", "10.97.0.12"),
        guarded,
        waypoint,
        near_first,
        west,
        service_message("empty-service", &[], &[(15_008, 15_008)]),
        service_message("nameless-service", &[], &[(15_008, 15_008)]),
        service_message("east-service", &[], &[]),
    ];
    let workloads = workloads.into_iter().map(|message| Update::from(workload(message)));
    World::new().apply(workloads.chain(services.into_iter().map(|message| service(message).into())).collect())
}

fn planned(destination: &str) -> Result<Plan, Box<Refusal>> {
    let snapshot = world();
    plan(&snapshot, find(&snapshot, "client"), socket(destination), &mut Draws(1))
}

#[test]
fn services_of_other_networks_are_reached_through_a_tunnel_inside_a_tunnel() {
    for (destination, expected) in [
        // By address; at the port that is announced; by hostname, where the port is the gateway service's.
        ("10.97.0.1:80", "gateway 192.0.2.1:15008 far:80"),
        ("10.97.0.10:80", "gateway 192.0.2.1:15443 far-port:80"),
        ("10.97.0.2:80", "gateway 198.51.100.1:15010 far-west:80"),
        // A waypoint there: the service is named all the same, and its port need not be the waypoint's.
        ("10.97.0.6:80", "gateway 192.0.2.1:15008 guarded:80"),
        ("10.97.0.6:81", "gateway 192.0.2.1:15008 guarded:81"),
        // Near before far.
        ("10.97.0.8:80", "tunnel 10.0.0.8:15008 10.0.0.8:8080"),
        // Nobody to insist on; no gateway known; none named; one without address; one without endpoints.
        ("10.97.0.3:80", "refused wrong_network"),
        ("10.97.0.4:80", "refused unknown_gateway"),
        ("10.97.0.5:80", "refused no_healthy_upstream"),
        ("10.97.0.11:80", "refused dns_failed"),
        ("10.97.0.12:80", "refused no_healthy_upstream"),
        // A port that is not declared, and a pod whose waypoint is elsewhere: only services cross.
        ("10.97.0.1:81", "refused no_healthy_upstream"),
        ("10.0.0.9:80", "refused wrong_network"),
    ] {
        assert_eq!(outline(&planned(destination)), expected, "{destination}");
    }
}

#[test]
fn both_tunnels_name_who_must_answer() {
    let identities = |destination: &str| {
        let Ok(Plan::ViaGateway { hop, inner, .. }) = planned(destination) else { panic!("{destination}") };
        (hop.identities.to_vec(), inner.to_vec())
    };
    let gateway = || identity("shop", "gateway");
    let expected = |outer: &[Identity], inner: Identity| (outer.to_vec(), vec![inner]);
    assert_eq!(identities("10.97.0.1:80"), expected(&[gateway()], identity("bank", "vault")));
    let both = [identity("bank", "entrance"), gateway()];
    assert_eq!(identities("10.97.0.2:80"), expected(&both, identity("bank", "vault")));
    assert_eq!(identities("10.97.0.6:80"), expected(&[gateway()], identity("bank", "waypoint")));
}

#[test]
fn what_is_beyond_a_gateway_is_named_in_refusals() {
    let refusal = planned("10.97.0.4:80").unwrap_err();
    assert_eq!(refusal.service.as_ref().unwrap().hostname(), "lost");
    assert_eq!(refusal.workload.as_ref().unwrap().name.as_ref(), "lost");
    assert!(refusal.to_string().contains("north/192.0.2.9 of network \"north\""), "{refusal}");
}
