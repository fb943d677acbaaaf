//! What the wire says of a service, kept; and one row per thing it must not say.

use fairway_proto::workload as proto;

use super::{Service, ServicePort, Visibility};
use crate::testing::{gateway_by_hostname, identity, network_address, service, service_message};

#[test]
fn addresses_are_hosts_or_blocks() {
    let vips = ["10.96.0.1", "10.96.0.2/32", "fd00::1/128", "240.0.0.0/8", "fd00:1::5/64"];
    let service = service(service_message("web", &vips, &[]));
    let texts = |list: &[String]| list.join(" ");
    let hosts: Vec<_> = service.vips.iter().map(ToString::to_string).collect();
    let blocks: Vec<_> = service.cidr_vips.iter().map(ToString::to_string).collect();
    assert_eq!(texts(&hosts), "/10.96.0.1 /10.96.0.2 /fd00::1");
    assert_eq!(texts(&blocks), "/240.0.0.0/8 /fd00:1::/64");
}

#[test]
fn ports_are_found_by_service_port() {
    let service = service(service_message("web", &[], &[(443, 0), (80, 8080)]));
    let target = |port| service.port(port).map(|ServicePort { target_port, .. }| *target_port);
    assert_eq!(target(80), Some(Some(8080)));
    assert_eq!(target(443), Some(None));
    assert_eq!(target(8080), None);
}

#[test]
fn names_that_no_certificate_of_the_mesh_could_have_are_left_out() {
    let mut message = service_message("web", &[], &[]);
    message.subject_alt_names =
        vec!["web.example.com".into(), "spiffe://cluster.local/ns/shop/sa/web".into(), "spiffe://x/y".into()];
    assert_eq!(*service(message).subject_alt_names, [identity("shop", "web")]);
}

#[test]
fn unknown_visibility_is_public() {
    let seen = |visibility| service(proto::Service { visibility, ..service_message("web", &[], &[]) });
    assert_eq!(seen(1).visibility, Visibility::Namespace);
    assert_eq!(seen(7).visibility, Visibility::Public);
    assert!(seen(1).is_visible_to("shop") && !seen(1).is_visible_to("bank") && seen(0).is_visible_to("bank"));
}

#[test]
fn anything_invalid_names_the_field() {
    fn spoil(change: impl FnOnce(&mut proto::Service)) -> String {
        let mut message = service_message("web", &["10.96.0.1"], &[(80, 8080)]);
        change(&mut message);
        Service::try_from(message).unwrap_err().to_string()
    }
    let balancing = |change: fn(&mut proto::LoadBalancing)| {
        let mut balancing = proto::LoadBalancing::default();
        change(&mut balancing);
        Some(balancing)
    };
    let weighted = |weight| proto::WeightedWaypoint { destination: Some(gateway_by_hostname("waypoint")), weight };
    for (error, field) in [
        (spoil(|message| message.namespace.clear()), "namespace"),
        (spoil(|message| message.hostname.clear()), "hostname"),
        (spoil(|message| message.hostname = "a/b".into()), "hostname"),
        (spoil(|message| message.addresses[0].address.truncate(3)), "addresses[0].address"),
        (spoil(|message| message.addresses[0].length = Some(33)), "addresses[0].length"),
        (
            spoil(|message| {
                message.addresses.push(proto::NetworkAddress { length: Some(129), ..network_address("::") })
            }),
            "addresses[1].length",
        ),
        (spoil(|message| message.ports[0].service_port = 0), "ports[0].service_port"),
        (spoil(|message| message.ports[0].target_port = 65_536), "ports[0].target_port"),
        (spoil(|message| message.ports[0].app_protocol = 99), "ports[0].app_protocol"),
        (spoil(|message| message.ip_families = 4), "ip_families"),
        (spoil(|message| message.load_balancing = balancing(|it| it.mode = 4)), "load_balancing.mode"),
        (
            spoil(|message| message.load_balancing = balancing(|it| it.health_policy = 2)),
            "load_balancing.health_policy",
        ),
        (
            spoil(|message| message.load_balancing = balancing(|it| it.routing_preference = vec![1, 0])),
            "load_balancing.routing_preference[1]",
        ),
        (spoil(|message| message.waypoint = Some(Default::default())), "waypoint.destination"),
        (spoil(|message| message.weighted_waypoints = vec![weighted(0), weighted(0)]), "weighted_waypoints"),
        (
            spoil(|message| message.weighted_waypoints = vec![weighted(1), Default::default()]),
            "weighted_waypoints[1].destination",
        ),
    ] {
        assert!(error.contains(&format!("field `{field}`")), "{field}: {error}");
    }
}
