//! Addresses of services, and the pods behind their ports.

use std::sync::Arc;

use fairway_core::source::Kind;
use serde_json::json;

use super::*;

fn world(objects: &[serde_json::Value]) -> Objects {
    let mut world = Objects::default();
    for object in objects {
        let name = object["metadata"]["name"].as_str().unwrap();
        if object["kind"] == "Service" {
            let service: Service = serde_json::from_value(object.clone()).unwrap();
            world.services.insert(ObjectKey::new(Kind::Service, "shop", name), Arc::new(service));
        } else {
            let pod: Pod = serde_json::from_value(object.clone()).unwrap();
            world.whole_pods.insert(ObjectKey::pod("shop", name), Arc::new(pod));
        }
    }
    world
}

fn service(name: &str, spec: serde_json::Value) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

fn pod(name: &str, ip: &str, ready: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "server"}},
        "spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]}})
}

#[test]
fn services_get_both_families_and_keep_them() {
    let world = world(&[service("a", json!({})), service("b", json!({"clusterIP": "None"}))]);
    let mut addresses = ServiceAddresses::default();
    let chosen = addresses.update(&world);
    assert_eq!(chosen.len(), 1);
    assert!(chosen[0].1[0].is_ipv4() && chosen[0].1[1].is_ipv6());
    assert!(addresses.update(&world).is_empty());
    assert!(addresses.of(&ObjectKey::new(Kind::Service, "shop", "b")).is_empty());
}

#[test]
fn an_explicit_address_is_honoured_and_completed() {
    let mut addresses = ServiceAddresses::default();
    let chosen = addresses.update(&world(&[service("a", json!({"clusterIP": "10.96.0.9"}))]));
    assert_eq!(chosen[0].1[0].to_string(), "10.96.0.9");
    assert!(chosen[0].1[1].is_ipv6());
    let single = json!({"clusterIP": "10.96.0.9", "ipFamilyPolicy": "SingleStack"});
    assert!(ServiceAddresses::default().update(&world(&[service("a", single)])).is_empty());
}

#[test]
fn only_ready_pods_stand_behind_a_port() {
    let spec = json!({"clusterIP": "10.96.0.9", "ipFamilyPolicy": "SingleStack", "selector": {"app": "server"},
        "ports": [{"port": 80, "targetPort": "web"}]});
    let world = world(&[service("a", spec), pod("one", "10.101.0.2", "True"), pod("two", "10.101.0.3", "False")]);
    let mut addresses = ServiceAddresses::default();
    addresses.update(&world);
    let expected = Frontend {
        service: "shop/a".to_owned(),
        address: "10.96.0.9:80".parse().unwrap(),
        protocol: "tcp",
        endpoints: vec!["10.101.0.2:8080".parse().unwrap()],
    };
    assert_eq!(frontends(&world, &addresses), [expected]);
}
