//! Plans from tables, row by row of what a node proxy must do with a destination.

use std::sync::Arc;

use fairway_proto::workload as proto;

mod networks;

use super::{Plan, Refusal, inbound, passthrough, plan, resolved};
use crate::{
    reason::Reason,
    snapshot::{RefusedResource, Snapshot, Update, World},
    testing::{
        Draws, gateway_by_address, gateway_by_hostname, identity, network_address, pod, service, service_message,
        serving, socket, workload,
    },
    workload::Workload,
};

/// A client, a server in the mesh and one outside it, services for both, a waypoint, and what uses it.
fn updates() -> Vec<Update> {
    let plain = |mut message: proto::Workload| {
        message.tunnel_protocol = proto::TunnelProtocol::None.into();
        message
    };
    let with_waypoint = |mut message: proto::Service, waypoint| {
        message.waypoint = Some(waypoint);
        message
    };
    let waypoint = || gateway_by_hostname("waypoint");
    let mut behind = pod("behind", &["10.0.0.4", "fd00::4"]);
    behind.waypoint = Some(waypoint());
    let mut covered_behind = plain(pod("covered-behind", &["240.0.0.7"]));
    covered_behind.waypoint = Some(waypoint());
    let mut lost = pod("lost", &["10.0.0.5"]);
    lost.waypoint = Some(gateway_by_hostname("nothing"));
    // Waypoints are not captured and show no tunnel; they are spoken to by HBONE all the same.
    let mut waypoint_pod =
        plain(serving(pod("waypoint-1", &["10.0.0.100", "fd00::100"]), "waypoint", &[(15_008, 15_008)]));
    waypoint_pod.service_account = "waypoint".into();
    let mut remote = serving(pod("remote", &["10.0.0.6"]), "remote", &[(80, 8080)]);
    remote.network = "east".into();
    remote.network_gateway = Some(gateway_by_address("192.0.2.1"));
    let mut named = plain(serving(pod("named", &[]), "external", &[(443, 443)]));
    named.hostname = "api.example.com".into();
    let mut host_network = serving(pod("host", &["10.99.0.11"]), "host", &[(80, 8080)]);
    host_network.network_mode = proto::NetworkMode::HostNetwork.into();
    let mut direct_waypoint = plain(pod("waypoint-direct", &["10.0.0.101"]));
    direct_waypoint.service_account = "waypoint-direct".into();
    let mut sans = service_message("sans", &["10.96.0.9"], &[(80, 8080)]);
    sans.subject_alt_names = vec![
        "spiffe://cluster.local/ns/bank/sa/vault".into(),
        "spiffe://cluster.local/ns/shop/sa/default".into(),
        "api.example.com".into(),
    ];
    let mut open = service_message("open", &["10.96.0.8"], &[(80, 8080)]);
    open.load_balancing =
        Some(proto::LoadBalancing { mode: proto::load_balancing::Mode::Passthrough.into(), ..Default::default() });
    let mut canary = service_message("canary", &["10.96.0.12"], &[(80, 8080)]);
    let weighted = |destination, weight| proto::WeightedWaypoint { destination: Some(destination), weight };
    canary.waypoint = Some(gateway_by_hostname("nothing"));
    canary.weighted_waypoints =
        vec![weighted(gateway_by_hostname("nothing"), 0), weighted(gateway_by_address("10.0.0.101"), 10)];
    let mut wide = service_message("wide", &[], &[(80, 8080)]);
    wide.addresses = vec![network_address("240.0.0.0/8")];
    wide.load_balancing = open.load_balancing.clone();

    let workloads = [
        pod("client", &["10.0.0.1", "fd00::1"]),
        serving(serving(pod("server", &["10.0.0.2", "fd00::2"]), "server", &[(80, 8080)]), "sans", &[(80, 8080)]),
        plain(serving(pod("outside", &["10.0.0.3"]), "outside", &[(80, 8080)])),
        pod("covered", &["240.0.0.5"]),
        plain(pod("covered-outside", &["240.0.0.6"])),
        covered_behind,
        behind,
        lost,
        waypoint_pod,
        direct_waypoint,
        remote,
        named,
        host_network,
    ];
    let services = [
        service_message("server", &["10.96.0.2", "fd00:96::2"], &[(80, 8080)]),
        service_message("outside", &["10.96.0.3"], &[(80, 8080)]),
        with_waypoint(service_message("guarded", &["10.96.0.4"], &[(80, 8080)]), waypoint()),
        with_waypoint(service_message("guarded-lost", &["10.96.0.5"], &[(80, 8080)]), gateway_by_hostname("nothing")),
        with_waypoint(service_message("by-vip", &["10.96.0.10"], &[(80, 8080)]), gateway_by_address("10.96.0.100")),
        with_waypoint(service_message("by-pod", &["10.96.0.11"], &[(80, 8080)]), gateway_by_address("10.0.0.101")),
        with_waypoint(
            service_message("by-lost-address", &["10.96.0.13"], &[(80, 8080)]),
            gateway_by_address("10.0.0.200"),
        ),
        with_waypoint(
            proto::Service {
                load_balancing: open.load_balancing.clone(),
                ..service_message("open-guarded", &["10.96.0.14"], &[(80, 8080)])
            },
            waypoint(),
        ),
        service_message("waypoint", &["10.96.0.100"], &[(15_008, 15_008)]),
        service_message("remote", &["10.96.0.6"], &[(80, 8080)]),
        service_message("external", &["10.96.0.7"], &[(443, 443)]),
        service_message("host", &["10.96.0.15"], &[(80, 8080)]),
        service_message("empty", &["10.96.0.16"], &[(80, 8080)]),
        open,
        sans,
        canary,
        wide,
    ];
    workloads
        .into_iter()
        .map(|message| workload(message).into())
        .chain(services.into_iter().map(|message| service(message).into()))
        .collect()
}

fn world() -> Arc<Snapshot> {
    World::new().apply(updates())
}

fn find<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Arc<Workload> {
    snapshot.workload_by_uid(&format!("Kubernetes//Pod/shop/{name}")).unwrap()
}

fn from(source: &str, destination: &str) -> Result<Plan, Box<Refusal>> {
    let snapshot = world();
    plan(&snapshot, find(&snapshot, source), socket(destination), &mut Draws(1))
}

/// A plan in a word or two: kind, address to dial and, for tunnels, authority.
fn outline(result: &Result<Plan, Box<Refusal>>) -> String {
    match result {
        Ok(Plan::Passthrough { address, .. }) => format!("passthrough {address}"),
        Ok(Plan::Direct { address, .. }) => format!("direct {address}"),
        Ok(Plan::Tunnel { hop, .. }) => format!("tunnel {} {}", hop.address, hop.authority),
        Ok(Plan::ViaWaypoint { hop, .. }) => format!("waypoint {} {}", hop.address, hop.authority),
        Ok(Plan::ViaGateway { hop, .. }) => format!("gateway {} {}", hop.address, hop.authority),
        Ok(Plan::Resolve { hostname, port, .. }) => format!("resolve {hostname}:{port}"),
        Err(refusal) => format!("refused {}", refusal.reason),
    }
}

#[test]
fn outbound() {
    for (destination, expected) in [
        // The proxy's own ports on loopback, and others there.
        ("127.0.0.1:15001", "refused self_call"),
        ("[::1]:15006", "refused self_call"),
        ("[::ffff:127.0.0.1]:15008", "refused self_call"),
        ("127.0.0.1:8080", "passthrough 127.0.0.1:8080"),
        // Unknown.
        ("192.0.2.7:443", "passthrough 192.0.2.7:443"),
        ("[2001:db8::1]:443", "passthrough [2001:db8::1]:443"),
        ("192.0.2.7:15008", "passthrough 192.0.2.7:15008"),
        // Pods by address.
        ("10.0.0.2:8080", "tunnel 10.0.0.2:15008 10.0.0.2:8080"),
        ("[::ffff:10.0.0.2]:8080", "tunnel 10.0.0.2:15008 10.0.0.2:8080"),
        ("[fd00::2]:8080", "tunnel [fd00::2]:15008 [fd00::2]:8080"),
        ("10.0.0.3:8080", "direct 10.0.0.3:8080"),
        ("10.0.0.4:8080", "waypoint 10.0.0.100:15008 10.0.0.4:8080"),
        ("[fd00::4]:8080", "waypoint [fd00::100]:15008 [fd00::4]:8080"),
        ("10.0.0.5:8080", "refused unknown_waypoint"),
        // Of another network, and on its node's network: not known by address.
        ("10.0.0.6:8080", "passthrough 10.0.0.6:8080"),
        ("10.99.0.11:8080", "passthrough 10.99.0.11:8080"),
        // Services.
        ("10.96.0.2:80", "tunnel 10.0.0.2:15008 10.0.0.2:8080"),
        ("[fd00:96::2]:80", "tunnel [fd00::2]:15008 [fd00::2]:8080"),
        ("10.96.0.2:81", "refused no_healthy_upstream"),
        ("10.96.0.3:80", "direct 10.0.0.3:8080"),
        ("10.96.0.16:80", "refused no_healthy_upstream"),
        ("10.96.0.6:80", "refused wrong_network"),
        ("10.96.0.7:443", "resolve api.example.com:443"),
        ("10.96.0.15:80", "tunnel 10.99.0.11:15008 10.99.0.11:8080"),
        ("10.96.0.8:80", "passthrough 10.96.0.8:80"),
        ("240.1.2.3:80", "passthrough 240.1.2.3:80"),
        // Whoever declares such a service for the address of a member takes it off its tunnel as little as its waypoint.
        ("240.0.0.5:80", "tunnel 240.0.0.5:15008 240.0.0.5:80"),
        ("240.0.0.6:80", "direct 240.0.0.6:80"),
        ("240.0.0.7:80", "waypoint 10.0.0.100:15008 240.0.0.7:80"),
        // Services with a waypoint: by hostname, by service address, by pod address, unknown ones; it beats passthrough
        // and does not mind a port that is not declared.
        ("10.96.0.4:80", "waypoint 10.0.0.100:15008 10.96.0.4:80"),
        ("10.96.0.4:81", "waypoint 10.0.0.100:15008 10.96.0.4:81"),
        ("10.96.0.10:80", "waypoint 10.0.0.100:15008 10.96.0.10:80"),
        ("10.96.0.11:80", "waypoint 10.0.0.101:15008 10.96.0.11:80"),
        ("10.96.0.12:80", "waypoint 10.0.0.101:15008 10.96.0.12:80"),
        ("10.96.0.14:80", "waypoint 10.0.0.100:15008 10.96.0.14:80"),
        ("10.96.0.5:80", "refused unknown_waypoint"),
        ("10.96.0.13:80", "refused unknown_waypoint"),
    ] {
        assert_eq!(outline(&from("client", destination)), expected, "{destination}");
    }
}

#[test]
fn a_waypoint_does_not_send_to_itself() {
    for (source, destination, expected) in [
        ("waypoint-1", "10.0.0.4:8080", "tunnel 10.0.0.4:15008 10.0.0.4:8080"),
        ("waypoint-direct", "10.0.0.4:8080", "waypoint 10.0.0.100:15008 10.0.0.4:8080"),
        ("waypoint-1", "10.96.0.4:80", "refused no_healthy_upstream"),
        ("waypoint-1", "10.96.0.10:80", "refused no_healthy_upstream"),
        ("waypoint-1", "10.96.0.11:80", "waypoint 10.0.0.101:15008 10.96.0.11:80"),
        ("waypoint-direct", "10.96.0.11:80", "refused no_healthy_upstream"),
        // One of several, whichever was drawn.
        ("waypoint-direct", "10.96.0.12:80", "refused no_healthy_upstream"),
    ] {
        assert_eq!(outline(&from(source, destination)), expected, "{source} {destination}");
    }
}

#[test]
fn tunnels_name_who_must_answer() {
    let identities = |destination: &str| from("client", destination).unwrap().hop().unwrap().identities.to_vec();
    assert_eq!(identities("10.0.0.2:8080"), [identity("shop", "default")]);
    assert_eq!(identities("10.96.0.2:80"), [identity("shop", "default")]);
    assert_eq!(identities("10.96.0.9:80"), [identity("bank", "vault"), identity("shop", "default")]);
    assert_eq!(identities("10.96.0.4:80"), [identity("shop", "waypoint")]);
    assert_eq!(identities("10.96.0.11:80"), [identity("shop", "waypoint-direct")]);
}

#[test]
fn plans_and_refusals_say_what_they_are_about() {
    let names = |plan: &Plan| {
        (
            plan.service().map(|service| service.hostname().to_owned()),
            plan.workload().map(|workload| workload.name.to_string()),
        )
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(names(&from("client", "10.96.0.2:80").unwrap()), (some("server"), some("server")));
    assert_eq!(names(&from("client", "10.0.0.2:80").unwrap()), (None, some("server")));
    assert_eq!(names(&from("client", "10.0.0.4:80").unwrap()), (None, some("behind")));
    assert_eq!(names(&from("client", "10.96.0.4:80").unwrap()), (some("guarded"), None));
    assert_eq!(names(&from("client", "192.0.2.7:80").unwrap()), (None, None));

    let refusal = from("client", "10.96.0.5:80").unwrap_err();
    assert_eq!(refusal.service.as_ref().unwrap().hostname(), "guarded-lost");
    assert!(refusal.to_string().contains("shop/nothing"), "{refusal}");
    let refusal = from("client", "10.0.0.5:80").unwrap_err();
    assert_eq!(&*refusal.workload.unwrap().name, "lost");
}

#[test]
fn weights_of_waypoints_are_shares() {
    let snapshot = World::new().apply(
        updates()
            .into_iter()
            .chain([Update::from(service(proto::Service {
                weighted_waypoints: vec![
                    proto::WeightedWaypoint { destination: Some(gateway_by_hostname("waypoint")), weight: 3 },
                    proto::WeightedWaypoint { destination: Some(gateway_by_address("10.0.0.101")), weight: 1 },
                ],
                ..service_message("canary", &["10.96.0.12"], &[(80, 8080)])
            }))])
            .collect(),
    );
    let mut draws = Draws(3);
    let to_canary = (0..4_000)
        .filter(|_| {
            let plan = plan(&snapshot, find(&snapshot, "client"), socket("10.96.0.12:80"), &mut draws).unwrap();
            plan.hop().unwrap().address == socket("10.0.0.101:15008")
        })
        .count();
    // 1000 expected; 27 is the standard deviation.
    assert!((850..1_150).contains(&to_canary), "{to_canary}");
}

#[test]
fn invisible_services_are_unknown_addresses() {
    let mut hidden = service_message("hidden", &["10.96.0.99"], &[(80, 8080)]);
    hidden.visibility = proto::service::Visibility::Namespace.into();
    let mut stranger = pod("stranger", &["10.0.0.77"]);
    stranger.namespace = "bank".into();
    let mut all = updates();
    all.extend([Update::from(service(hidden)), workload(stranger).into()]);
    let snapshot = World::new().apply(all);
    let to = |source: &str| outline(&plan(&snapshot, find(&snapshot, source), socket("10.96.0.99:80"), &mut Draws(1)));
    assert_eq!(to("client"), "refused no_healthy_upstream");
    assert_eq!(to("stranger"), "passthrough 10.96.0.99:80");
}

/// Delivery in a word or two: policy destination, and where it differs the address to dial.
fn delivered(local: &str, arrived_at: &str, authority: &str) -> String {
    let snapshot = world();
    match inbound(&snapshot, find(&snapshot, local), socket(arrived_at), authority) {
        Ok(arrival) => arrival.dial.to_string(),
        Err(refusal) => format!("{} {}", refusal.reason.http_status(), refusal.reason),
    }
}

#[test]
fn tunnels_that_arrive() {
    for (arrived_at, authority, expected) in [
        ("10.0.0.2:15008", "10.0.0.2:8080", "10.0.0.2:8080"),
        ("[::ffff:10.0.0.2]:15008", "10.0.0.2:8080", "10.0.0.2:8080"),
        ("10.0.0.2:15008", "[::ffff:10.0.0.2]:8080", "10.0.0.2:8080"),
        ("[fd00::2]:15008", "[fd00::2]:8080", "[fd00::2]:8080"),
        // Any port may be asked for; policy decides.
        ("10.0.0.2:15008", "10.0.0.2:22", "10.0.0.2:22"),
        // The address the tunnel came to, not another of the same pod.
        ("10.0.0.2:15008", "[fd00::2]:8080", "400 authority_mismatch"),
        ("10.0.0.2:15008", "10.0.0.3:8080", "400 authority_mismatch"),
        ("10.0.0.2:15008", "10.96.0.2:80", "400 authority_mismatch"),
        ("10.0.0.2:15008", "10.96.0.4:80", "400 authority_mismatch"),
        ("10.0.0.2:15008", "127.0.0.1:8080", "400 authority_mismatch"),
        ("10.0.0.2:15008", "10.0.0.2", "400 bad_request"),
        ("10.0.0.2:15008", "", "400 bad_request"),
        ("10.0.0.2:15008", "10.0.0.2:0", "400 bad_request"),
        ("10.0.0.2:15008", "10.0.0.2:http", "400 bad_request"),
        ("10.0.0.2:15008", "10.0.0.2:15001", "503 illegal_port"),
        ("10.0.0.2:15008", "10.0.0.2:15006", "503 illegal_port"),
        ("10.0.0.2:15008", "10.0.0.2:15008", "503 illegal_port"),
        // By name: the service port becomes the workload's.
        ("10.0.0.2:15008", "server:80", "10.0.0.2:8080"),
        ("[fd00::2]:15008", "server:80", "[fd00::2]:8080"),
        ("10.0.0.2:15008", "server:81", "503 unknown_authority"),
        ("10.0.0.2:15008", "nothing:80", "503 unknown_authority"),
    ] {
        assert_eq!(delivered("server", arrived_at, authority), expected, "{arrived_at} {authority}");
    }
}

#[test]
fn a_waypoint_behind_the_proxy_takes_what_it_serves() {
    for (authority, expected) in [
        ("10.96.0.4:80", "10.0.0.100:80"),
        ("10.96.0.10:80", "10.0.0.100:80"),
        ("10.0.0.4:8080", "10.0.0.100:8080"),
        // Of another waypoint, or weighted only.
        ("10.96.0.11:80", "400 authority_mismatch"),
        ("10.96.0.12:80", "400 authority_mismatch"),
        ("10.96.0.2:80", "400 authority_mismatch"),
        ("10.0.0.2:8080", "400 authority_mismatch"),
    ] {
        assert_eq!(delivered("waypoint-1", "10.0.0.100:15008", authority), expected, "{authority}");
    }
    assert_eq!(delivered("waypoint-direct", "10.0.0.101:15008", "10.96.0.11:80"), "10.0.0.101:80");
}

#[test]
fn application_tunnels() {
    use proto::application_tunnel::Protocol;

    let arrive = |protocol: Protocol, port: u32, arrived_at: &str, authority: &str| {
        let mut message = pod("server", &["10.0.0.2", "fd00::2"]);
        message.application_tunnel = Some(proto::ApplicationTunnel { protocol: protocol.into(), port });
        let snapshot = World::new().apply(vec![workload(message).into()]);
        inbound(&snapshot, find(&snapshot, "server"), socket(arrived_at), authority)
    };
    // Any address may be asked for; the header tells the application which.
    let arrival = arrive(Protocol::Proxy, 9_000, "10.0.0.2:15008", "10.96.0.4:80").unwrap();
    assert_eq!((arrival.destination, arrival.dial), (socket("10.0.0.2:9000"), socket("127.0.0.1:9000")));
    assert!(arrival.proxy_protocol);
    assert_eq!(arrival.authority.to_string(), "10.96.0.4:80");
    let arrival = arrive(Protocol::Proxy, 0, "[fd00::2]:15008", "[fd00:96::2]:80").unwrap();
    assert_eq!((arrival.destination, arrival.dial), (socket("[fd00::2]:80"), socket("[::1]:80")));
    let arrival = arrive(Protocol::None, 9_000, "10.0.0.2:15008", "10.0.0.2:80").unwrap();
    assert_eq!((arrival.dial, arrival.proxy_protocol), (socket("10.0.0.2:9000"), false));
    let refusal = arrive(Protocol::Proxy, 15_006, "10.0.0.2:15008", "10.0.0.2:80").unwrap_err();
    assert_eq!(refusal.reason, Reason::IllegalPort);
}

#[test]
fn a_name_is_announced_as_the_address_nearest_to_the_pod() {
    let vip = |network: &str, ip: &str| proto::NetworkAddress { network: network.into(), ..network_address(ip) };
    for (vips, expected) in [
        (vec![vip("", "fd00:96::2"), vip("", "10.96.0.2")], "10.96.0.2:80"),
        (vec![vip("east", "10.97.0.2"), vip("", "fd00:96::2")], "[fd00:96::2]:80"),
        (vec![vip("east", "10.97.0.2")], "10.97.0.2:80"),
        (vec![], "10.0.0.2:9000"),
    ] {
        let mut message = serving(pod("server", &["10.0.0.2"]), "server", &[(80, 8080)]);
        let protocol = proto::application_tunnel::Protocol::Proxy.into();
        message.application_tunnel = Some(proto::ApplicationTunnel { protocol, port: 9_000 });
        let named = proto::Service { addresses: vips, ..service_message("server", &[], &[(80, 8080)]) };
        let snapshot = World::new().apply(vec![workload(message).into(), service(named).into()]);
        let arrival = inbound(&snapshot, find(&snapshot, "server"), socket("10.0.0.2:15008"), "server:80").unwrap();
        assert_eq!(arrival.announced(), socket(expected));
    }
}

#[test]
fn plaintext_that_arrives() {
    assert_eq!(passthrough(socket("[::ffff:10.0.0.2]:8080")), Ok(socket("10.0.0.2:8080")));
    for port in [15_001, 15_006, 15_008] {
        let refusal = passthrough(socket(&format!("10.0.0.2:{port}"))).unwrap_err();
        assert_eq!(refusal.reason, Reason::IllegalPort);
    }
}

#[test]
fn addresses_of_rejected_resources_are_refused_unless_somebody_known_has_them() {
    let uid = "Kubernetes//Pod/shop/broken";
    let rejected = RefusedResource::workload(uid, &pod("broken", &["10.0.0.77", "10.0.0.2", "240.0.0.8"]));
    let vip = RefusedResource::service("shop/broken", &service_message("broken", &["10.96.0.77"], &[]));
    let mut all = updates();
    all.extend([rejected, vip].map(|resource| Update::RefusedAddress(Box::new(resource))));
    let snapshot = World::new().apply(all);
    let plan = |to: &str| plan(&snapshot, find(&snapshot, "client"), socket(to), &mut Draws(1));
    for (to, name) in [("10.0.0.77:80", uid), ("10.96.0.77:80", "shop/broken"), ("240.0.0.8:80", uid)] {
        let refusal = plan(to).unwrap_err();
        assert_eq!(refusal.reason, Reason::ResourceInvalid);
        assert!(refusal.subject.contains(name), "{refusal}");
    }
    assert_eq!(outline(&plan("10.0.0.2:8080")), "tunnel 10.0.0.2:15008 10.0.0.2:8080");
    assert_eq!(outline(&plan("10.0.0.78:80")), "passthrough 10.0.0.78:80");
}

#[test]
fn an_endpoint_that_is_only_a_name_is_gone_to_by_what_its_address_means() {
    let mut tunnelled = serving(pod("machine", &[]), "machine", &[(80, 8080)]);
    tunnelled.hostname = "machine.example.com".into();
    let mut updates = updates();
    updates.push(workload(tunnelled).into());
    updates.push(service(service_message("machine", &["10.96.0.17"], &[(80, 8080)])).into());
    let snapshot = World::new().apply(updates);
    let client = find(&snapshot, "client");
    for (dialled, ip, expected) in [
        // Nothing is known of the address: what is known of the name counts.
        ("10.96.0.7:443", "192.0.2.1", "direct 192.0.2.1:443"),
        ("10.96.0.7:443", "::ffff:192.0.2.1", "direct 192.0.2.1:443"),
        ("10.96.0.7:443", "2001:db8::1", "direct [2001:db8::1]:443"),
        ("10.96.0.17:80", "192.0.2.1", "tunnel 192.0.2.1:15008 192.0.2.1:8080"),
        // A member of the mesh is reached as one.
        ("10.96.0.7:443", "10.0.0.2", "tunnel 10.0.0.2:15008 10.0.0.2:443"),
        ("10.96.0.7:443", "10.0.0.5", "refused unknown_waypoint"),
        ("10.96.0.17:80", "10.96.0.2", "refused no_healthy_upstream"),
        // Loopback is the client's own, and the way back leads nowhere.
        ("10.96.0.7:443", "127.0.0.1", "refused dns_failed"),
        ("10.96.0.17:80", "::ffff:127.0.0.1", "refused dns_failed"),
        ("10.96.0.7:443", "0.0.0.0", "refused dns_failed"),
        ("10.96.0.7:443", "10.96.0.7", "refused dns_failed"),
    ] {
        let unresolved = plan(&snapshot, client, socket(dialled), &mut Draws(1)).unwrap();
        assert!(matches!(unresolved, Plan::Resolve { .. }), "{unresolved:?}");
        let ip = ip.parse().unwrap();
        let found = resolved(&snapshot, client, unresolved, ip, &mut Draws(1));
        assert_eq!(outline(&found), expected, "{dialled} at {ip}");
    }
    let already = plan(&snapshot, client, socket("10.0.0.2:80"), &mut Draws(1)).unwrap();
    assert_eq!(
        *resolved(&snapshot, client, already.clone(), socket("10.0.0.3:1").ip(), &mut Draws(1)).as_ref().unwrap(),
        already
    );
}
