//! A pod as an API server or a manifest writes it, as far as a [`MeshPod`] is made of it: the rest is skipped unread, and that is
//! most of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{MeshPod, is_read, ports};

/// A pod as it is written. As in the API's own types, what is absent or null is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in super::super) struct WrittenPod {
    pub(in super::super) metadata: Metadata,
    pub(super) spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in super::super) struct Metadata {
    pub(in super::super) name: Option<String>,
    pub(in super::super) namespace: Option<String>,
    pub(in super::super) resource_version: Option<String>,
    uid: Option<Box<str>>,
    labels: Option<BTreeMap<Box<str>, Box<str>>>,
    annotations: Option<BTreeMap<Box<str>, Box<str>>>,
    owner_references: Option<Vec<Owner>>,
    deletion_timestamp: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Owner {
    kind: String,
    name: String,
    controller: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) containers: Option<Vec<Container>>,
    pub(super) init_containers: Option<Vec<Container>>,
    node_name: Option<Box<str>>,
    service_account_name: Option<Box<str>>,
    runtime_class_name: Option<Box<str>>,
    host_network: Option<bool>,
    os: Option<Named>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Container {
    pub(super) ports: Option<Vec<ContainerPort>>,
    pub(super) restart_policy: Option<String>,
    pub(super) liveness_probe: Option<Call>,
    pub(super) readiness_probe: Option<Call>,
    pub(super) startup_probe: Option<Call>,
    pub(super) lifecycle: Option<Hooks>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ContainerPort {
    pub(super) name: Option<Box<str>>,
    pub(super) container_port: i32,
    pub(super) protocol: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Hooks {
    pub(super) post_start: Option<Call>,
    pub(super) pre_stop: Option<Call>,
}

/// A probe or a hook, one of these.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Call {
    pub(super) http_get: Option<Place>,
    pub(super) tcp_socket: Option<Place>,
    pub(super) grpc: Option<Place>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Place {
    pub(super) host: Option<String>,
    pub(super) port: IntOrString,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl Status {
    /// The primary address first; text that is not an address is left out.
    fn addresses(&self) -> Vec<IpAddr> {
        let several = self.pod_ips.iter().flatten().map(|entry| &entry.ip);
        let mut addresses = Vec::new();
        for address in self.pod_ip.iter().chain(several).filter_map(|text| text.parse().ok()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    fn is_ready(&self) -> bool {
        let mut conditions = self.conditions.iter().flatten();
        conditions.any(|condition| condition.kind == "Ready" && condition.status == "True")
    }
}

impl Metadata {
    /// A ReplicaSet is called as its deployment is, and then by the hash that its pods have as a label.
    fn maker(&self) -> &str {
        let controller = self.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let Some(controller) = controller else { return "" };
        let hash = self.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
        let hash = hash.filter(|_| controller.kind == "ReplicaSet");
        let deployment = hash.and_then(|hash| controller.name.strip_suffix(&**hash)?.strip_suffix('-'));
        deployment.filter(|name| !name.is_empty()).unwrap_or(&controller.name)
    }
}

impl From<WrittenPod> for MeshPod {
    fn from(written: WrittenPod) -> Self {
        let WrittenPod { metadata, spec, status } = written;
        let (spec, status) = (spec.unwrap_or_default(), status.unwrap_or_default());
        let maker = metadata.maker().into();
        let annotations = metadata.annotations.into_iter().flatten().filter(|(key, _)| is_read(key));
        Self {
            maker,
            uid: metadata.uid.unwrap_or_default(),
            labels: metadata.labels.into_iter().flatten().collect(),
            annotations: annotations.collect(),
            is_ending: metadata.deletion_timestamp.is_some(),
            named_ports: ports::named(&spec).into(),
            probed: ports::probed(&spec).into_iter().collect(),
            node: spec.node_name.unwrap_or_default(),
            service_account: spec.service_account_name.filter(|it| !it.is_empty()).unwrap_or_else(|| "default".into()),
            runtime_class: spec.runtime_class_name.unwrap_or_default(),
            is_host_network: spec.host_network.unwrap_or_default(),
            is_windows: spec.os.is_some_and(|os| os.name == "windows"),
            addresses: status.addresses().into(),
            host: status.host_ip.as_ref().and_then(|text| text.parse().ok()),
            is_terminal: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            is_ready: status.is_ready(),
        }
    }
}
