//! Tables of questions and answers.

use std::net::IpAddr;

use fairway_proto::workload as proto;
use proptest::prelude::*;

use super::*;
use crate::{
    snapshot::{Update, World},
    testing::{Draws, pod, service, service_message, serving, workload},
};

/// Services of every kind, as a client in namespace `shop` sees them.
fn world() -> World {
    let cluster = |name: &str, namespace: &str, vips: &[&str]| {
        let mut message = service_message(&format!("{name}.{namespace}.svc.cluster.local"), vips, &[(80, 8080)]);
        message.namespace = namespace.into();
        message
    };
    let entry = |host: &str, namespace: &str, vips: &[&str]| {
        let mut message = service_message(host, vips, &[(443, 443)]);
        message.namespace = namespace.into();
        message
    };
    let mut elsewhere = cluster("elsewhere", "shop", &["10.96.0.9"]);
    elsewhere.addresses[0].network = "east".into();
    let mut both = cluster("two-networks", "shop", &["10.96.0.10", "10.96.0.11"]);
    both.addresses[0].network = "east".into();
    let mut only_six = cluster("only-six", "shop", &["10.96.0.12", "fd00:96::12"]);
    only_six.ip_families = proto::IpFamilies::Ipv6Only.into();
    let mut hidden = cluster("hidden", "bank", &["10.96.0.13"]);
    hidden.visibility = proto::service::Visibility::Namespace.into();
    let mut canonical = entry("shared.example.com", "bank", &["240.240.0.2"]);
    canonical.canonical = true;
    let mut not_ready = cluster("starting", "shop", &[]);
    not_ready.load_balancing = Some(proto::LoadBalancing {
        health_policy: proto::load_balancing::HealthPolicy::AllowAll.into(),
        ..Default::default()
    });
    let services = [
        cluster("server", "shop", &["10.96.0.1", "fd00:96::1"]),
        cluster("vault", "bank", &["10.96.0.2"]),
        cluster("headless", "shop", &[]),
        cluster("empty", "shop", &[]),
        not_ready,
        elsewhere,
        both,
        only_six,
        hidden,
        entry("api.example.com", "shop", &["240.240.0.1"]),
        entry("no-address.example.org", "shop", &[]),
        entry("block.svc.cluster.local", "shop", &["10.200.0.0/16"]),
        entry("*.example.org", "shop", &["240.240.0.3"]),
        entry("*.deep.example.org", "shop", &["240.240.0.4"]),
        entry("shared.example.com", "air", &["240.240.0.5"]),
        canonical,
        entry("mine.example.com", "bank", &["240.240.0.6"]),
        entry("mine.example.com", "shop", &["240.240.0.7"]),
        entry("tied.example.com", "air", &["240.240.0.8"]),
        entry("tied.example.com", "sea", &["240.240.0.9"]),
    ];
    let endpoint = |name: &str, ips: &[&str], service: &str| {
        serving(pod(name, ips), &format!("{service}.shop.svc.cluster.local"), &[(80, 8080)])
    };
    let mut sick = endpoint("sick", &["10.0.0.4"], "headless");
    sick.status = proto::WorkloadStatus::Unhealthy.into();
    let mut starting = endpoint("starting", &["10.0.0.5"], "starting");
    starting.status = proto::WorkloadStatus::Unhealthy.into();
    let mut far = endpoint("far", &["10.0.0.6"], "headless");
    far.network = "east".into();
    let mut twin = endpoint("twin", &["10.0.0.2"], "headless");
    twin.network_mode = proto::NetworkMode::HostNetwork.into();
    let mut machine = pod("machine", &["192.0.2.7"]);
    machine.hostname = "machine.example.net".into();
    let mut named = pod("named", &[]);
    named.hostname = "named.example.net".into();
    let workloads = [
        pod("client", &["10.0.0.1"]),
        endpoint("one", &["10.0.0.2", "fd00::2"], "headless"),
        endpoint("two", &["10.0.0.3"], "headless"),
        sick,
        starting,
        far,
        twin,
        machine,
        named,
    ];
    let mut world = World::complete();
    let services = services.into_iter().map(|message| Update::from(service(message)));
    world.apply(services.chain(workloads.into_iter().map(|message| Update::from(workload(message)))).collect());
    world
}

fn ask(name: &str, family: Family, zone: &Zone) -> Decision {
    let snapshot = world().snapshot();
    let client = snapshot.workload_by_uid("Kubernetes//Pod/shop/client").unwrap();
    decide(&snapshot, zone, client, name, family, &mut Draws(7))
}

/// `-` for forward, else the addresses in order, after the alias if there is one.
fn outline(decision: Decision) -> String {
    match decision {
        Decision::Forward => "-".to_owned(),
        Decision::Answer(Answer { alias_of, mut addresses }) => {
            addresses.sort();
            let words = alias_of.iter().map(|alias| format!("{alias}:")).chain(addresses.iter().map(IpAddr::to_string));
            words.collect::<Vec<_>>().join(" ")
        }
    }
}

#[test]
fn names_and_their_ipv4_addresses() {
    let rows = [
        // Services of the cluster, in every length a pod may write them.
        ("server.shop.svc.cluster.local", "10.96.0.1"),
        ("SERVER.Shop.svc.Cluster.LOCAL", "10.96.0.1"),
        ("server", "10.96.0.1"),
        ("server.shop", "10.96.0.1"),
        ("server.shop.svc", "10.96.0.1"),
        ("vault.bank", "10.96.0.2"),
        ("vault.bank.svc.cluster.local", "10.96.0.2"),
        ("vault", "-"),
        ("nobody.shop.svc.cluster.local", "-"),
        // As a resolver asks that has appended its search list.
        ("server.shop.shop.svc.cluster.local", "server.shop: 10.96.0.1"),
        ("server.shop.svc.cluster.local.shop.svc.cluster.local", "server.shop.svc.cluster.local: 10.96.0.1"),
        ("vault.bank.shop.svc.cluster.local", "vault.bank: 10.96.0.2"),
        ("vault.bank.svc.svc.cluster.local", "vault.bank.svc: 10.96.0.2"),
        ("api.example.com.shop.svc.cluster.local", "api.example.com: 240.240.0.1"),
        ("api.example.com.svc.cluster.local", "api.example.com: 240.240.0.1"),
        ("api.example.com.cluster.local", "api.example.com: 240.240.0.1"),
        ("api.example.com.bank.svc.cluster.local", "-"),
        // Headless services: ready endpoints of this network, each address once.
        ("headless.shop.svc.cluster.local", "10.0.0.2 10.0.0.3"),
        ("starting.shop.svc.cluster.local", "10.0.0.5"),
        ("empty.shop.svc.cluster.local", ""),
        ("one.headless.shop.svc.cluster.local", "-"),
        // Networks, families, visibility.
        ("elsewhere.shop.svc.cluster.local", "-"),
        ("two-networks.shop.svc.cluster.local", "10.96.0.11"),
        ("only-six.shop.svc.cluster.local", ""),
        ("hidden.bank.svc.cluster.local", "-"),
        // Hosts of ServiceEntries, wildcards among them.
        ("api.example.com", "240.240.0.1"),
        ("example.com", "-"),
        ("no-address.example.org", "-"),
        ("block.svc.cluster.local", "-"),
        ("a.example.org", "240.240.0.3"),
        ("a.b.example.org", "240.240.0.3"),
        ("a.deep.example.org", "240.240.0.4"),
        ("deep.example.org", "240.240.0.3"),
        ("example.org", "-"),
        ("notexample.org", "-"),
        ("a.example.org.shop.svc.cluster.local", "240.240.0.3"),
        // One hostname, several services.
        ("mine.example.com", "240.240.0.7"),
        ("shared.example.com", "240.240.0.2"),
        ("tied.example.com", "240.240.0.8"),
        // Workloads, where they have addresses to give.
        ("machine.example.net", "192.0.2.7"),
        ("named.example.net", "-"),
        ("client", "-"),
        // What is hardly a name.
        ("", "-"),
        (".", "-"),
        ("..", "-"),
        ("*", "-"),
        ("cluster.local", "-"),
        ("svc.cluster.local", "-"),
        (".svc.cluster.local", "-"),
        ("10.96.0.1", "-"),
    ];
    for (name, expected) in rows {
        assert_eq!(outline(ask(name, Family::V4, &Zone::default())), expected, "{name}");
    }
}

#[test]
fn the_other_family_has_addresses_of_its_own_or_none() {
    let rows = [
        ("server", "fd00:96::1"),
        ("server.shop.shop.svc.cluster.local", "server.shop: fd00:96::1"),
        ("headless", "fd00::2"),
        ("only-six", "fd00:96::12"),
        ("vault.bank", ""),
        ("api.example.com", ""),
        ("a.example.org", ""),
        ("machine.example.net", ""),
        ("elsewhere", "-"),
        ("example.com", "-"),
    ];
    for (name, expected) in rows {
        assert_eq!(outline(ask(name, Family::V6, &Zone::default())), expected, "{name}");
    }
}

#[test]
fn the_preferred_namespace_breaks_ties_only() {
    let zone = Zone { preferred_namespace: Some("sea".into()), ..Zone::default() };
    for (name, expected) in [
        ("tied.example.com", "240.240.0.9"),
        ("shared.example.com", "240.240.0.2"),
        ("mine.example.com", "240.240.0.7"),
    ] {
        assert_eq!(outline(ask(name, Family::V4, &zone)), expected, "{name}");
    }
}

#[test]
fn another_domain_is_another_cluster() {
    let zone = Zone { domain: "example.org".into(), ..Zone::default() };
    // Known by its whole name; the short ones belong to the other domain, and what is headless here is unknown there.
    for (name, expected) in [
        ("server.shop.svc.cluster.local", "10.96.0.1"),
        ("server", "240.240.0.3"),
        ("headless.shop.svc.cluster.local", "-"),
    ] {
        assert_eq!(outline(ask(name, Family::V4, &zone)), expected, "{name}");
    }
}

#[test]
fn addresses_come_in_no_order_and_not_too_many() {
    let mut world = World::complete();
    let many = 3 * limits::DNS_ANSWER_ADDRESSES.size();
    let name = "crowd.shop.svc.cluster.local";
    let pods = (0..many).map(|index| {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + u32::try_from(index).unwrap()).to_string();
        Update::from(workload(serving(pod(&format!("p{index}"), &[&ip]), name, &[(80, 80)])))
    });
    let snapshot = world.apply(pods.chain([service(service_message(name, &[], &[(80, 80)])).into()]).collect());
    let client = snapshot.workload_by_uid("Kubernetes//Pod/shop/p0").unwrap();
    let ask = |seed| match decide(&snapshot, &Zone::default(), client, name, Family::V4, &mut Draws(seed)) {
        Decision::Answer(answer) => answer.addresses,
        Decision::Forward => panic!("forwarded"),
    };
    let (one, other) = (ask(1), ask(2));
    assert_eq!(one.len(), limits::DNS_ANSWER_ADDRESSES.size());
    assert_ne!(one, other);
    assert_eq!(one, ask(1));
}

proptest! {
    /// Whatever is asked, an answer holds only addresses of the family, and an alias is a proper beginning of the name.
    #[test]
    fn answers_fit_their_questions(name in "([a-z*]{0,3}|server|shop|svc|cluster|local|example|org|[.]){0,9}", six: bool) {
        let family = if six { Family::V6 } else { Family::V4 };
        if let Decision::Answer(answer) = ask(&name, family, &Zone::default()) {
            prop_assert!(answer.addresses.iter().all(|ip| family.is_of(ip)));
            if let Some(alias) = answer.alias_of {
                prop_assert!(name.strip_prefix(&alias).is_some_and(|rest| rest.starts_with('.')), "{name} {alias}");
            }
        }
    }
}
