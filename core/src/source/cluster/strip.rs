//! Leaves out of objects what nobody here reads, before they are kept.

use k8s_openapi::api::core::v1::{Service, ServiceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::super::mesh_pod::is_read;

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
