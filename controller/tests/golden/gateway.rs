//! Waypoints: gateways and the objects that are made of each.

use std::fs;

use fairway_controller::lifecycle::render::{WaypointSettings, render};
use fairway_core::source::directory::load;
use serde_json::{Map, Value, json};

fn settings() -> WaypointSettings {
    WaypointSettings {
        image: "registry.test/waypoint:1".to_owned(),
        cpu: "100m".to_owned(),
        memory: "128Mi".to_owned(),
        controller: "https://fairway-controller.fairway-system.svc:15012".to_owned(),
        root_config_map: "istio-ca-root-cert".to_owned(),
        token_audience: "istio-ca".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        cluster_id: "Kubernetes".to_owned(),
    }
}

/// What the gateways become.
pub(crate) fn outcome(input: &str) -> String {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("input.yaml"), input).unwrap();
    let loaded = load(root.path(), None);
    assert_eq!(loaded.errors, []);
    let mut outcome = Map::new();
    for (key, gateway) in loaded.objects.gateways.iter() {
        let made = match render(gateway, &settings()) {
            Ok(objects) => objects.into_values().collect(),
            Err(fault) => json!(fault.to_string()),
        };
        outcome.insert(format!("{}/{}", key.namespace, key.name), made);
    }
    format!("{:#}\n", Value::Object(outcome))
}
