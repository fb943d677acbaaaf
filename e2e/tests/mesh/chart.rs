//! The chart's programs as the chart starts them: every flag and variable exists, and flags are taken as they are written.

use std::path::Path;
use std::process::Command;

use fairway_manifests::{NAMESPACE, profile, render};
use serde_json::{Value, json};

use super::labs;

/// Variables that a program reads without having a flag for them, and where.
const READ_ELSEWHERE: [(&str, &str, &str); 2] = [
    ("fairway-cni-agent", "LOG_FORMAT", "cni-plugin/src/bin/agent.rs"),
    ("fairway-cni-agent", "RUST_LOG", "cni-plugin/src/bin/agent.rs"),
];

/// Programs by the name of their container.
fn program(container: &str) -> &'static str {
    match container {
        "controller" => "controller",
        "ztunnel" => "ztunnel",
        "agent" => "fairway-cni-agent",
        other => panic!("which program is in a container {other}?"),
    }
}

/// All containers, with whatever values may add to them.
fn containers() -> Vec<Value> {
    let everything = json!({
        "mesh": {"network": "n"}, "ca": {"secretName": "s"},
        "ztunnel": {"onDemand": true}, "cni": {"dnsCapture": false, "cleanupOnExit": true},
    });
    let mut containers = Vec::new();
    for values in [everything, json!({}), profile("minimal").unwrap()] {
        let objects = render(&values, NAMESPACE, "test").unwrap().objects;
        let of = |object: &Value| object["spec"]["template"]["spec"]["containers"].as_array().cloned();
        containers.extend(objects.iter().filter_map(of).flatten());
    }
    assert_eq!(containers.len(), 9, "controller, agent and proxy of each");
    containers
}

fn help(program: &str) -> String {
    let output = Command::new(labs::binaries().join(program)).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_flag_and_variable_exists() {
    labs::build();
    for container in containers() {
        let program = program(container["name"].as_str().unwrap());
        let help = help(program);
        for argument in container["args"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            // What a DaemonSet of Istio's would say, too, and `--help` has no flag for.
            if (program, argument) == ("ztunnel", "proxy") {
                continue;
            }
            let flag = argument.split('=').next().unwrap();
            assert!(help.contains(&format!("{flag} <")), "{program} has no flag {flag}");
        }
        for variable in container["env"].as_array().into_iter().flatten() {
            let name = variable["name"].as_str().unwrap();
            // Without its value where that is nobody's business.
            if [format!("[env: {name}="), format!("[env: {name}]")].iter().any(|shown| help.contains(shown)) {
                continue;
            }
            let elsewhere = READ_ELSEWHERE.iter().find(|(of, known, _)| (*of, *known) == (program, name));
            let (_, _, file) = elsewhere.unwrap_or_else(|| panic!("{program} reads no variable {name}"));
            let source = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)).unwrap();
            assert!(source.contains(&format!("\"{name}\"")), "{file} does not read {name}");
        }
    }
}

#[test]
fn the_controller_takes_its_flags_as_they_are_written() {
    labs::build();
    let started = containers().into_iter().filter(|container| container["name"] == "controller");
    // What the chart mounts there.
    let config = json!({"extensionProviders": [{"name": "log", "envoyFileAccessLog": {"path": "/dev/stdout"}}]});
    let objects = render(&json!({"mesh": {"config": config}}), NAMESPACE, "test").unwrap().objects;
    let map = objects.iter().find(|object| object["metadata"]["name"] == "fairway-mesh").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), map["data"]["mesh"].as_str().unwrap()).unwrap();
    let mesh_config = format!("--mesh-config={}", file.path().display());
    for container in started {
        let written = container["args"].as_array().unwrap().iter().filter_map(Value::as_str);
        let arguments: Vec<&str> =
            written.map(|it| if it.starts_with("--mesh-config=") { mesh_config.as_str() } else { it }).collect();
        assert!(arguments.contains(&mesh_config.as_str()), "{arguments:?}");
        // There is no such file, and that is what it must end with.
        let mut command = Command::new(labs::binaries().join("controller"));
        let output = command.args(&arguments).args(["--kubeconfig", "/nowhere/kubeconfig"]).output().unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(said.contains("/nowhere/kubeconfig"), "{arguments:?}: {said}");
    }
}
