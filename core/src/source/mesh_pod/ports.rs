//! Ports of a pod: those with names, and those on which its kubelet calls it for probes and lifecycle hooks.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::written::{Call, Container, ContainerPort, Place, Spec};

/// TCP ports with names; a name that is given twice means the first.
pub(super) fn named(spec: &Spec) -> Vec<(Box<str>, u16)> {
    // An init container that restarts always is a sidecar and serves as long as the pod.
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let containers = spec.containers.iter().flatten().chain(sidecars);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let is_tcp = |port: &&ContainerPort| matches!(port.protocol.as_deref(), None | Some("" | "TCP"));
    let named = |port: &ContainerPort| Some((port.name.clone()?, valid(port.container_port)?));
    ports.filter(is_tcp).filter_map(named).collect()
}

/// Ports that a node reaches without the mesh.
pub(super) fn probed(spec: &Spec) -> BTreeSet<u16> {
    // Of the init containers those that stay are probed too (sidecar containers of Kubernetes).
    let containers = spec.containers.iter().chain(&spec.init_containers).flatten();
    containers.flat_map(|container| calls(container).filter_map(|port| number(port, container))).collect()
}

fn calls(container: &Container) -> impl Iterator<Item = &IntOrString> {
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    let hooks = container.lifecycle.iter().flat_map(|hooks| [&hooks.post_start, &hooks.pre_stop]);
    probes.into_iter().chain(hooks).flatten().filter_map(at_the_pod)
}

/// A probe with a host of its own goes there and not to the pod.
fn at_the_pod(call: &Call) -> Option<&IntOrString> {
    let Place { host, port } = call.http_get.as_ref().or(call.tcp_socket.as_ref()).or(call.grpc.as_ref())?;
    host.as_deref().is_none_or(str::is_empty).then_some(port)
}

fn number(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => match text.parse() {
            Ok(number) => number,
            Err(_) => meant(text, container)?,
        },
    };
    valid(number)
}

fn valid(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

fn meant(name: &str, container: &Container) -> Option<i32> {
    let ports = container.ports.iter().flatten();
    ports.into_iter().find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn ports_of_everything_the_kubelet_calls() {
        let container = |fields: Value| {
            let mut container = json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]});
            container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            container
        };
        // container, ports
        let rows: Vec<(Value, Vec<u16>)> = vec![
            (json!({}), vec![]),
            (json!({"readinessProbe": {"httpGet": {"port": "web"}}}), vec![8080]),
            (json!({"livenessProbe": {"tcpSocket": {"port": 9}}, "startupProbe": {"grpc": {"port": 10}}}), vec![9, 10]),
            (
                json!({"lifecycle": {"preStop": {"httpGet": {"port": 11}}, "postStart": {"tcpSocket": {"port": "12"}}}}),
                vec![11, 12],
            ),
            (json!({"readinessProbe": {"exec": {"command": ["true"]}}}), vec![]),
            (json!({"readinessProbe": {"httpGet": {"port": "unknown"}}}), vec![]),
            (json!({"readinessProbe": {"httpGet": {"port": 80, "host": "elsewhere"}}}), vec![]),
            (json!({"readinessProbe": {"httpGet": {"port": 0}}}), vec![]),
            (json!({"readinessProbe": {"httpGet": {"port": 70000}}}), vec![]),
        ];
        for (fields, wanted) in rows {
            for place in ["containers", "initContainers"] {
                let mut pod = json!({"spec": {"containers": []}});
                pod["spec"][place] = json!([container(fields.clone())]);
                let spec: Spec = serde_json::from_value(pod["spec"].take()).unwrap();
                assert_eq!(probed(&spec).into_iter().collect::<Vec<_>>(), wanted, "{place}: {fields}");
            }
        }
    }
}
