//! What is told is what the planner and the evaluator decide, row by row.

use fairway_proto::security;

use super::*;
use crate::{
    snapshot::{Update, World},
    testing::{
        Draws, exact, gateway_by_hostname, identity, pod, policy, policy_message, service, service_message, serving,
        socket, workload,
    },
};

/// A client, a server behind a service, one outside the mesh, one whose waypoint is missing, and a policy for the server.
fn snapshot() -> Arc<Snapshot> {
    let mut server = serving(pod("server", &["10.0.0.2"]), "server.shop.svc.cluster.local", &[(80, 8080)]);
    server.authorization_policies = vec!["shop/no-strangers".into()];
    server.node = "n2".into();
    let mut outside = pod("outside", &["10.0.0.3"]);
    outside.tunnel_protocol = fairway_proto::workload::TunnelProtocol::None.into();
    let mut lost = pod("lost", &["10.0.0.4"]);
    lost.waypoint = Some(gateway_by_hostname("nothing"));
    let strangers =
        security::Match { not_principals: vec![exact("cluster.local/ns/shop/sa/default")], ..Default::default() };
    let no_strangers =
        policy_message("no-strangers", security::Scope::WorkloadSelector, security::Action::Deny, vec![strangers]);
    let two_ports = service_message("two.shop.svc.cluster.local", &["10.96.0.2"], &[(80, 8080), (81, 8081)]);
    let mut updates: Vec<Update> =
        [pod("client", &["10.0.0.1"]), server, outside, lost].map(|message| workload(message).into()).into();
    updates.push(service(service_message("server.shop.svc.cluster.local", &["10.96.0.1"], &[(80, 8080)])).into());
    updates.push(service(two_ports).into());
    updates.push(policy(no_strangers).into());
    World::new().apply(updates)
}

fn known(snapshot: &Snapshot, name: &str) -> Arc<Workload> {
    snapshot.workload_by_uid(&format!("Kubernetes//Pod/shop/{name}")).unwrap().clone()
}

#[test]
fn names_are_dialled_as_the_pod_would() {
    let snapshot = snapshot();
    let client = known(&snapshot, "client");
    let dial = |host: &str, port| dialled(&snapshot, &Zone::default(), &client, (host, port), &mut Draws(1));
    assert_eq!(dial("server", None), Ok(socket("10.96.0.1:80")));
    assert_eq!(dial("server.shop", Some(443)), Ok(socket("10.96.0.1:443")));
    assert_eq!(dial("10.0.0.2", Some(8080)), Ok(socket("10.0.0.2:8080")));
    assert_eq!(dial("two.shop", None).unwrap_err().to_string(), "a port is needed: two.shop has 80, 81");
    let unknown = dial("example.com", Some(443)).unwrap_err();
    assert!(unknown.to_string().contains("no name \"example.com\""), "{unknown}");
}

#[test]
fn a_departure_tells_the_plan() {
    let snapshot = snapshot();
    let client = known(&snapshot, "client");
    let depart = |to: &str, neighbour: bool| departure(&snapshot, &client, socket(to), |_, _| neighbour, &mut Draws(1));

    let through_service = depart("10.96.0.1:80", false);
    let Way::Tunnel(tunnel) = &through_service.way else { panic!("{through_service:?}") };
    assert_eq!((tunnel.address, &*tunnel.authority), (socket("10.0.0.2:15008"), "10.0.0.2:8080"));
    assert_eq!(tunnel.identities, ["spiffe://cluster.local/ns/shop/sa/default"]);
    assert_eq!(through_service.service.unwrap().endpoints, 1);
    assert_eq!(through_service.workload.unwrap().node, "n2");

    assert!(matches!(depart("10.0.0.2:8080", true).way, Way::Neighbour(_)));
    assert_eq!(depart("10.0.0.3:80", false).way, Way::Direct { address: socket("10.0.0.3:80") });
    assert_eq!(depart("192.0.2.9:80", false).way, Way::Passthrough { address: socket("192.0.2.9:80") });
    let lost = depart("10.0.0.4:80", false);
    let Way::Refused(refused) = &lost.way else { panic!("{lost:?}") };
    assert_eq!((&*refused.reason, &*lost.workload.unwrap().name), ("unknown_waypoint", "lost"));
}

#[test]
fn an_arrival_tells_the_decision() {
    let snapshot = snapshot();
    let server = known(&snapshot, "server");
    let arrive = |authority: Option<&str>, identity: Option<Identity>| {
        let address = if authority.is_some() { socket("10.0.0.2:15008") } else { socket("10.0.0.2:8080") };
        let source = socket("10.0.0.1:1");
        arrival(&snapshot, &server, Arriving { address, authority, source, identity, original: None })
    };
    let friend = arrive(Some("10.0.0.2:8080"), Some(identity("shop", "default")));
    assert_eq!((friend.refused, friend.destination), (None, socket("10.0.0.2:8080")));
    assert_eq!(friend.policies, ["shop/no-strangers"]);
    for (authority, identity, reason, subject) in [
        (Some("10.0.0.2:8080"), Some(identity("bank", "default")), "policy_denied", "shop/no-strangers"),
        (None, None, "policy_denied", "shop/no-strangers"),
        (
            Some("10.0.0.9:8080"),
            Some(identity("shop", "default")),
            "authority_mismatch",
            "asked for 10.0.0.9:8080 at 10.0.0.2",
        ),
    ] {
        let refused = arrive(authority, identity).refused.unwrap();
        assert_eq!((&*refused.reason, refused.subject.as_deref()), (reason, Some(subject)));
    }
}

/// Beside a waypoint that speaks for a client, the client counts; anybody else speaks for himself.
#[test]
fn an_arrival_tells_for_whom_a_waypoint_speaks() {
    let mut way = serving(pod("way-0", &["10.0.0.8"]), "way", &[(15_008, 15_008)]);
    way.service_account = "way".into();
    let mut server = pod("server", &["10.0.0.2"]);
    server.waypoint = Some(gateway_by_hostname("way"));
    let client = security::Match { principals: vec![exact("cluster.local/ns/shop/sa/client")], ..Default::default() };
    let only = policy_message("client", security::Scope::Namespace, security::Action::Allow, vec![client]);
    let snapshot = World::new().apply(vec![
        workload(way).into(),
        workload(server).into(),
        service(service_message("way", &["10.96.0.8"], &[(15_008, 15_008)])).into(),
        policy(only).into(),
    ]);
    let server = known(&snapshot, "server");
    let arrive = |account: &str, original: &str| {
        let original = Original { identity: identity("shop", original), address: socket("10.0.0.1:1") };
        let arriving = Arriving {
            address: socket("10.0.0.2:15008"),
            authority: Some("10.0.0.2:8080"),
            source: socket("10.0.0.8:1"),
            identity: Some(identity("shop", account)),
            original: Some(original),
        };
        let told = arrival(&snapshot, &server, arriving);
        (told.original, told.allowed_by, told.refused.map(|refused| refused.reason))
    };
    let text = |text: &str| Some(text.to_owned());
    let client = text("spiffe://cluster.local/ns/shop/sa/client");
    assert_eq!(arrive("way", "client"), (client, text("shop/client"), None));
    let guest = text("spiffe://cluster.local/ns/shop/sa/guest");
    assert_eq!(arrive("way", "guest"), (guest, None, text("policy_not_allowed")));
    assert_eq!(arrive("guest", "client"), (None, None, text("policy_not_allowed")));
}

#[test]
fn what_is_told_can_be_read_again() {
    let snapshot = snapshot();
    let client = known(&snapshot, "client");
    for to in ["10.96.0.1:80", "10.0.0.3:80", "10.0.0.4:80", "192.0.2.9:80"] {
        let told = departure(&snapshot, &client, socket(to), |_, _| false, &mut Draws(1));
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Departure>(&text).unwrap(), told, "{text}");
    }
}
