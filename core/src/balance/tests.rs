//! Ranks and addresses from tables; and never an endpoint that is not eligible, whatever the draw.

use std::collections::{BTreeMap, BTreeSet};

use fairway_proto::workload as proto;
use proptest::prelude::*;

use super::{Pick, Request, Role, Target, pick};
use crate::{
    service::{Service, ServiceKey},
    snapshot::{Snapshot, Update, World},
    testing::{Draws, gateway_by_address, ip_bytes, pod, service, service_message, serving, workload},
    workload::{HealthStatus, Workload},
};
use std::sync::Arc;

use proto::load_balancing::{HealthPolicy, Mode, Scope};

fn key() -> ServiceKey {
    ServiceKey::new("shop", "web")
}

fn build(service_with: proto::Service, endpoints: Vec<proto::Workload>) -> (Arc<Snapshot>, Arc<Service>) {
    let mut updates: Vec<Update> = endpoints.into_iter().map(|message| workload(message).into()).collect();
    updates.push(service(service_with).into());
    let snapshot = World::new().apply(updates);
    let service = snapshot.service(&key()).unwrap().clone();
    (snapshot, service)
}

fn request(client: &Workload, port: u16) -> Request<'_> {
    Request { client, port, address: None, role: Role::Destination }
}

fn choose(world: &(Arc<Snapshot>, Arc<Service>), request: &Request<'_>, seed: u64) -> Option<Pick> {
    pick(&world.1, world.0.endpoints(&key()), request, &mut Draws(seed))
}

/// Names of the endpoints that ever get picked.
fn reachable(world: &(Arc<Snapshot>, Arc<Service>), request: &Request<'_>) -> BTreeSet<String> {
    (0..200).filter_map(|seed| choose(world, request, seed)).map(|pick| pick.workload.name.to_string()).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

fn balanced(mode: Mode, scopes: &[Scope]) -> proto::Service {
    let mut message = service_message("web", &["10.96.0.1"], &[(80, 8080)]);
    message.load_balancing = Some(proto::LoadBalancing {
        routing_preference: scopes.iter().map(|scope| i32::from(*scope)).collect(),
        mode: mode.into(),
        health_policy: HealthPolicy::OnlyHealthy.into(),
    });
    message
}

/// An endpoint at `region/zone/subzone/node/cluster/network`.
fn at(name: &str, place: &str) -> proto::Workload {
    let mut message = serving(pod(name, &["10.0.0.1"]), "web", &[(80, 8080)]);
    let place: Vec<&str> = place.split('/').collect();
    message.locality =
        Some(proto::Locality { region: place[0].into(), zone: place[1].into(), subzone: place[2].into() });
    message.node = place[3].into();
    message.cluster_id = place[4].into();
    message.network = place[5].into();
    message.network_gateway = Some(gateway_by_address("192.0.2.1"));
    message
}

#[test]
fn locality_modes() {
    use Scope::{Cluster, Network, Node, Region, Subzone, Zone};

    let client = workload(at("client", "r1/z1/s1/n1/c1/w1"));
    let endpoints = || {
        vec![
            at("same", "r1/z1/s1/n1/c1/w1"),
            at("node", "r1/z1/s1/n2/c1/w1"),
            at("subzone", "r1/z1/s2/n3/c1/w1"),
            at("zone", "r1/z2/s1/n4/c1/w1"),
            at("region", "r2/z1/s1/n5/c2/w1"),
            at("remote", "r1/z1/s1/n6/c1/w2"),
            at("remote-region", "r2/z1/s1/n7/c1/w2"),
        ]
    };
    let all = &["same", "node", "subzone", "zone", "region", "remote", "remote-region"];
    for (mode, scopes, without, expected) in [
        (Mode::UnspecifiedMode, vec![], vec![], &all[..]),
        (Mode::Strict, vec![Node], vec![], &["same"]),
        (Mode::Strict, vec![Node], vec!["same"], &[]),
        (Mode::Strict, vec![Region, Zone], vec![], &["same", "node", "subzone", "remote"]),
        (Mode::Strict, vec![Cluster, Network], vec![], &["same", "node", "subzone", "zone"]),
        (Mode::Strict, vec![Network], vec![], &["same", "node", "subzone", "zone", "region"]),
        (Mode::Strict, vec![], vec![], all),
        (Mode::Failover, vec![Region, Zone, Subzone, Node], vec![], &["same"]),
        (Mode::Failover, vec![Region, Zone, Subzone, Node], vec!["same"], &["node", "remote"]),
        (Mode::Failover, vec![Region, Zone, Subzone], vec!["same", "node", "remote"], &["subzone"]),
        (Mode::Failover, vec![Region, Zone], vec!["same", "node", "subzone", "remote"], &["zone"]),
        // Counting stops at the first mismatch: another region's zone of the same name is no match.
        (
            Mode::Failover,
            vec![Region, Zone],
            vec!["same", "node", "subzone", "zone", "remote"],
            &["region", "remote-region"],
        ),
        // With the network first, anything local beats anything remote, and remote ones are ranked on the rest.
        (Mode::Failover, vec![Network, Region, Zone], vec![], &["same", "node", "subzone"]),
        (Mode::Failover, vec![Network, Region, Zone], vec!["same", "node", "subzone", "zone"], &["region"]),
        (Mode::Failover, vec![Network, Region], vec!["same", "node", "subzone", "zone", "region"], &["remote"]),
        (Mode::Failover, vec![], vec![], all),
    ] {
        let present = endpoints().into_iter().filter(|endpoint| !without.contains(&endpoint.name.as_str())).collect();
        let world = build(balanced(mode, &scopes), present);
        let found = reachable(&world, &request(&client, 80));
        assert_eq!(found, names(expected), "{mode:?} {scopes:?} without {without:?}");
    }
}

#[test]
fn health_counts_unless_the_service_says_otherwise() {
    let client = workload(pod("client", &["10.0.0.9"]));
    let endpoints = || {
        let mut sick = serving(pod("sick", &["10.0.0.1"]), "web", &[(80, 8080)]);
        sick.status = proto::WorkloadStatus::Unhealthy.into();
        vec![sick, serving(pod("well", &["10.0.0.2"]), "web", &[(80, 8080)])]
    };
    let mut message = balanced(Mode::UnspecifiedMode, &[]);
    assert_eq!(reachable(&build(message.clone(), endpoints()), &request(&client, 80)), names(&["well"]));
    message.load_balancing.as_mut().unwrap().health_policy = HealthPolicy::AllowAll.into();
    assert_eq!(reachable(&build(message, endpoints()), &request(&client, 80)), names(&["sick", "well"]));
}

#[test]
fn ports_come_from_the_endpoint_and_then_from_the_service() {
    let client = workload(pod("client", &["10.0.0.9"]));
    let endpoint = |ports: &[(u32, u32)]| vec![serving(pod("web-1", &["10.0.0.1"]), "web", ports)];
    let picked = |service_ports: &[(u32, u32)], endpoint_ports: &[(u32, u32)], gateway, tunnel: bool| {
        let mut endpoints = endpoint(endpoint_ports);
        endpoints[0].application_tunnel = tunnel.then(Default::default);
        let world = build(service_message("web", &[], service_ports), endpoints);
        let role = if gateway { Role::Waypoint } else { Role::Destination };
        choose(&world, &Request { role, ..request(&client, 80) }, 1).map(|pick| pick.port)
    };
    assert_eq!(picked(&[(80, 8080)], &[(80, 9090)], false, false), Some(9090));
    assert_eq!(picked(&[(80, 8080)], &[], false, false), Some(8080));
    assert_eq!(picked(&[(80, 0)], &[(80, 9090)], false, false), Some(9090));
    assert_eq!(picked(&[(80, 0)], &[], false, false), None, "a named port the endpoint lacks");
    assert_eq!(picked(&[(81, 8080)], &[(81, 8080)], false, false), None, "an undeclared port");
    assert_eq!(picked(&[(81, 8080)], &[], true, false), None, "a gateway without tunnel is no exception");
    assert_eq!(picked(&[(81, 8080)], &[], true, true), Some(80));
    assert_eq!(picked(&[(81, 8080)], &[], false, true), None, "a tunnel that is no gateway is no exception");
}

#[test]
fn addresses_follow_the_dialled_one_and_its_family() {
    let client = workload(pod("client", &["10.0.0.9"]));
    let target = |ips: &[&str], families: proto::IpFamilies, dialled: Option<&str>| {
        let mut message = service_message("web", &[], &[(80, 8080)]);
        message.ip_families = families.into();
        let world = build(message, vec![serving(pod("web-1", ips), "web", &[])]);
        let address = dialled.map(|ip| ip.parse().unwrap());
        choose(&world, &Request { address, ..request(&client, 80) }, 1)
            .map(|pick| pick.socket_address().unwrap().ip().to_string())
    };
    use proto::IpFamilies::{Automatic, Dual, Ipv4Only, Ipv6Only};
    let both = &["10.0.0.1", "10.0.0.2", "fd00::1"];
    for (ips, families, dialled, expected) in [
        (&both[..], Automatic, None, Some("10.0.0.1")),
        (both, Automatic, Some("10.96.0.1"), Some("10.0.0.1")),
        (both, Automatic, Some("fd00:96::1"), Some("fd00::1")),
        (both, Dual, Some("fd00:96::1"), Some("fd00::1")),
        (both, Automatic, Some("10.0.0.2"), Some("10.0.0.2")),
        (both, Ipv6Only, Some("10.96.0.1"), Some("fd00::1")),
        (both, Ipv4Only, Some("fd00:96::1"), Some("10.0.0.1")),
        (&["10.0.0.1"], Automatic, Some("fd00:96::1"), Some("10.0.0.1")),
        (&["10.0.0.1"], Ipv6Only, Some("fd00:96::1"), None),
    ] {
        assert_eq!(target(ips, families, dialled).as_deref(), expected, "{ips:?} {families:?} {dialled:?}");
    }
}

#[test]
fn endpoints_without_address() {
    let client = workload(pod("client", &["10.0.0.9"]));
    let target = |message: proto::Workload| {
        choose(&build(service_message("web", &[], &[(80, 8080)]), vec![message]), &request(&client, 80), 1)
            .map(|pick| pick.target)
    };
    let plain = || serving(pod("web-1", &[]), "web", &[]);
    assert_eq!(target(plain()), None);
    let named = proto::Workload { hostname: "example.com".into(), ..plain() };
    assert_eq!(target(named), Some(Target::Hostname("example.com".into())));
    let unreachable = proto::Workload { network: "east".into(), ..plain() };
    assert_eq!(target(unreachable.clone()), None);
    let remote = proto::Workload { network_gateway: Some(gateway_by_address("192.0.2.1")), ..unreachable };
    assert_eq!(target(remote), Some(Target::Remote));
}

#[test]
fn capacity_is_the_share() {
    let client = workload(pod("client", &["10.0.0.9"]));
    let endpoint =
        |name: &str, capacity| proto::Workload { capacity, ..serving(pod(name, &["10.0.0.1"]), "web", &[(80, 8080)]) };
    let endpoints = vec![endpoint("one", None), endpoint("three", Some(3)), endpoint("none", Some(0))];
    let world = build(service_message("web", &[], &[(80, 8080)]), endpoints);
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    let mut draws = Draws(7);
    for _ in 0..8_000 {
        let pick = pick(&world.1, world.0.endpoints(&key()), &request(&client, 80), &mut draws).unwrap();
        *counts.entry(pick.workload.name.to_string()).or_default() += 1;
    }
    assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), ["one", "three"]);
    // 2000 expected; 39 is the standard deviation.
    assert!((1_800..2_200).contains(&counts["one"]), "{counts:?}");
}

fn some_endpoint() -> impl Strategy<Value = proto::Workload> {
    let place = ("[ab]", "[ab]", "[ab]", "[ab]", "[ab]", prop::sample::select(vec!["", "east"]));
    let shape = (any::<bool>(), 0..3_u32, 0..3_u8, any::<bool>(), any::<bool>());
    (place, shape).prop_map(|(place, (healthy, capacity, addresses, gateway, port))| {
        let ports: &[(u32, u32)] = if port { &[(80, 8080)] } else { &[] };
        let mut message = serving(pod("x", &[]), "web", ports);
        message.locality = Some(proto::Locality { region: place.0, zone: place.1, subzone: place.2 });
        (message.node, message.cluster_id, message.network) = (place.3, place.4, place.5.into());
        message.status = i32::from(!healthy);
        message.capacity = Some(capacity);
        message.addresses = ["10.0.0.1", "fd00::1"].iter().take(addresses.into()).map(|ip| ip_bytes(ip)).collect();
        message.network_gateway = gateway.then(|| gateway_by_address("192.0.2.1"));
        message
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn never_picks_what_is_not_eligible_and_picks_if_anything_is(
        endpoints in prop::collection::vec(some_endpoint(), 0..8),
        mode in 0..3_i32,
        scopes in prop::collection::vec(1..7_i32, 0..4),
        named_port in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let client = workload(at("client", "a/a/a/a/a/"));
        let mut message = service_message("web", &[], &[(80, if named_port { 0 } else { 80 })]);
        message.load_balancing = Some(proto::LoadBalancing { routing_preference: scopes.clone(), mode, health_policy: 0 });
        let endpoints = endpoints.into_iter().enumerate()
            .map(|(index, endpoint)| proto::Workload { uid: format!("w{index}"), ..endpoint }).collect();
        let world = build(message, endpoints);

        let usable = |workload: &Workload| {
            let in_reach = if workload.network.is_empty() { !workload.addresses.is_empty() } else { workload.network_gateway.is_some() };
            let has_port = !named_port || workload.service_ports(&key()).is_some_and(|ports| !ports.is_empty());
            let in_scope = mode != i32::from(Mode::Strict) || scopes.iter().all(|scope| match *scope {
                1 => &*workload.locality.region == "a",
                2 => &*workload.locality.zone == "a",
                3 => &*workload.locality.subzone == "a",
                4 => &*workload.node == "a",
                5 => &*workload.cluster_id == "a",
                _ => workload.network.is_empty(),
            });
            workload.status == HealthStatus::Healthy && workload.capacity > 0 && in_reach && has_port && in_scope
        };
        match choose(&world, &request(&client, 80), seed) {
            Some(pick) => prop_assert!(usable(&pick.workload), "{pick:?}"),
            None => prop_assert!(!world.0.workloads().any(|workload| usable(workload))),
        }
    }
}
