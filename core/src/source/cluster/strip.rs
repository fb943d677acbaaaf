//! Leaves out of objects what nobody here reads, before they are kept: most of a pod is for its kubelet.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

/// What is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strip {
    /// All that the mesh does not read.
    #[default]
    Unneeded,
    /// All that an agent on a node does not read, who needs to know of pods what is probed and what they run on.
    Node,
}

/// Domains of the annotations that mean something to a mesh.
const ANNOTATIONS: [&str; 2] = ["istio.io", "fairway.dev"];

/// Strips what all objects have; returns the version.
pub(super) fn metadata(strip: Strip, metadata: &mut ObjectMeta) -> String {
    metadata.managed_fields = None;
    metadata.self_link = None;
    metadata.finalizers = None;
    metadata.generate_name = None;
    if strip == Strip::Node {
        metadata.owner_references = None;
    }
    if let Some(annotations) = &mut metadata.annotations {
        let is_read = |domain: &str| ANNOTATIONS.iter().any(|ours| domain.ends_with(ours));
        annotations.retain(|key, _| key.split('/').next().is_some_and(is_read));
    }
    if metadata.annotations.as_ref().is_some_and(|annotations| annotations.is_empty()) {
        metadata.annotations = None;
    }
    metadata.resource_version.take().unwrap_or_default()
}

/// Strips an object that is not understood of what changes with every writer.
pub(super) fn written(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("resourceVersion");
    }
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
}

pub(super) fn nothing<T>(_: Strip, _: &mut T) {}

pub(super) fn pod(strip: Strip, pod: &mut Pod) {
    let is_node = strip == Strip::Node;
    let container = if is_node { probed } else { container };
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        containers: spec.containers.into_iter().map(container).collect(),
        init_containers: spec.init_containers.map(|all| all.into_iter().map(container).collect()),
        os: spec.os.filter(|_| is_node),
        runtime_class_name: spec.runtime_class_name.filter(|_| is_node),
        node_name: spec.node_name,
        service_account_name: spec.service_account_name,
        host_network: spec.host_network,
        ..PodSpec::default()
    });
    pod.status = pod.status.take().map(|status| {
        let ready = |conditions: Vec<_>| {
            let is_ready = |it: &k8s_openapi::api::core::v1::PodCondition| it.type_ == "Ready";
            let mut conditions: Vec<_> = conditions.into_iter().filter(is_ready).collect();
            for condition in &mut conditions {
                // Times and words change without meaning anything here.
                *condition = k8s_openapi::api::core::v1::PodCondition {
                    type_: std::mem::take(&mut condition.type_),
                    status: std::mem::take(&mut condition.status),
                    ..Default::default()
                };
            }
            conditions
        };
        PodStatus {
            phase: status.phase,
            pod_ip: status.pod_ip,
            pod_ips: status.pod_ips,
            host_ip: status.host_ip.filter(|_| !is_node),
            conditions: status.conditions.filter(|_| !is_node).map(ready),
            ..PodStatus::default()
        }
    });
}

fn container(container: Container) -> Container {
    Container {
        name: container.name,
        ports: container.ports,
        restart_policy: container.restart_policy,
        ..Container::default()
    }
}

/// As the other one, and what the kubelet calls.
fn probed(mut whole: Container) -> Container {
    let (liveness_probe, readiness_probe) = (whole.liveness_probe.take(), whole.readiness_probe.take());
    let (startup_probe, lifecycle) = (whole.startup_probe.take(), whole.lifecycle.take());
    Container { liveness_probe, readiness_probe, startup_probe, lifecycle, ..container(whole) }
}

pub(super) fn service(_: Strip, service: &mut Service) {
    service.status = None;
}

pub(super) fn endpoint_slice(_: Strip, slice: &mut EndpointSlice) {
    for endpoint in &mut slice.endpoints {
        endpoint.hints = None;
        endpoint.deprecated_topology = None;
    }
}
