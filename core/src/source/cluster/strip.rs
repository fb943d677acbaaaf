//! Leaves out of objects what nobody here reads, before they are kept: most of a pod is for its kubelet.

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec, PodStatus, Service, ServiceStatus};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::super::node_pod::is_read;

/// Strips what all objects have; returns the version.
pub(super) fn metadata(metadata: &mut ObjectMeta) -> String {
    metadata.managed_fields = None;
    metadata.self_link = None;
    metadata.finalizers = None;
    metadata.generate_name = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|key, _| is_read(key));
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

pub(super) fn nothing<T>(_: &mut T) {}

pub(super) fn pod(pod: &mut Pod) {
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        containers: spec.containers.into_iter().map(container).collect(),
        init_containers: spec.init_containers.map(|all| all.into_iter().map(container).collect()),
        node_name: spec.node_name,
        service_account_name: spec.service_account_name,
        host_network: spec.host_network,
        ..PodSpec::default()
    });
    pod.status = pod.status.take().map(|status| {
        let ready = |conditions: Vec<_>| {
            let is_ready = |it: &PodCondition| it.type_ == "Ready";
            let mut conditions: Vec<_> = conditions.into_iter().filter(is_ready).collect();
            for condition in &mut conditions {
                // Times and words change without meaning anything here.
                *condition = PodCondition {
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
            host_ip: status.host_ip,
            conditions: status.conditions.map(ready),
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

/// Conditions that we write ourselves, and compare with what is to be said.
const OWN_CONDITIONS: &str = "fairway.dev/";

pub(super) fn service(service: &mut Service) {
    let status = service.status.take();
    let mut conditions = status.and_then(|status| status.conditions).unwrap_or_default();
    conditions.retain(|condition| condition.type_.starts_with(OWN_CONDITIONS));
    if !conditions.is_empty() {
        service.status = Some(ServiceStatus { conditions: Some(conditions), ..ServiceStatus::default() });
    }
}

pub(super) fn endpoint_slice(slice: &mut EndpointSlice) {
    for endpoint in &mut slice.endpoints {
        endpoint.hints = None;
        endpoint.deprecated_topology = None;
    }
}
