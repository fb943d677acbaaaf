//! Golden waypoints: gateways and the objects that are made of each, in one file.
//!
//! A file in `tests/waypoint` holds gateways, a line `# === expected ===` and the outcome as JSON. `UPDATE_GOLDEN=1` writes
//! the outcome into the files.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::path::Path;

use fairway_controller::lifecycle::render::{WaypointSettings, render};
use fairway_core::source::directory::load;
use serde_json::{Map, Value, json};

const EXPECTED: &str = "# === expected ===\n";

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

fn outcome(input: &str) -> String {
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

#[test]
fn waypoints() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/waypoint");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut count = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let (input, expected) = text.split_once(EXPECTED).unwrap_or((&text, ""));
        let outcome = outcome(input);
        count += 1;
        if update {
            fs::write(&path, format!("{input}{EXPECTED}{outcome}")).unwrap();
        } else if outcome != expected {
            wrong.push(format!("{}: expected\n{expected}\nbut it is\n{outcome}", path.display()));
        }
    }
    assert!(count >= 3, "only {count} golden files were found");
    assert!(wrong.is_empty(), "{}\nUPDATE_GOLDEN=1 rewrites the files; read the difference", wrong.join("\n"));
}
