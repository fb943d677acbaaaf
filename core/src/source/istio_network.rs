//! Istio's networking kinds for what is not a pod: ServiceEntry and WorkloadEntry.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `networking.istio.io` ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEntry {
    /// `networking.istio.io/v1` or `v1beta1`.
    pub api_version: String,
    /// `ServiceEntry`.
    pub kind: String,
    /// Name, namespace, creation time.
    pub metadata: ObjectMeta,
    /// Hosts, and where they are.
    #[serde(default)]
    pub spec: ServiceEntrySpec,
    /// Addresses somebody has given it.
    #[serde(default)]
    pub status: ServiceEntryStatus,
}

/// Body of a [`ServiceEntry`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntrySpec {
    /// Names; one service each.
    pub hosts: Vec<String>,
    /// Virtual addresses and blocks of them.
    pub addresses: Vec<String>,
    /// Ports of all hosts.
    pub ports: Vec<EntryPort>,
    /// Inside the mesh or outside.
    pub location: Location,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Endpoints; excludes `workload_selector`.
    pub endpoints: Vec<WorkloadEntrySpec>,
    /// Selects pods and WorkloadEntries of its namespace.
    pub workload_selector: Option<EntrySelector>,
    /// Namespaces that see it.
    pub export_to: Vec<String>,
    /// Identities its endpoints may have.
    pub subject_alt_names: Vec<String>,
    /// Fields that are not read.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// A port of a [`ServiceEntry`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EntryPort {
    /// Port clients dial.
    pub number: u16,
    /// What is spoken.
    pub protocol: String,
    /// Unique within the entry.
    pub name: String,
    /// Port of the endpoints, if another.
    pub target_port: Option<u16>,
}

/// Where a [`ServiceEntry`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    /// Outside the mesh.
    #[default]
    MeshExternal,
    /// Part of the mesh.
    MeshInternal,
}

/// How the endpoints of a [`ServiceEntry`] are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// Not at all: clients know the address.
    #[default]
    None,
    /// By the addresses that are written.
    Static,
    /// By DNS; every address that it gives is used.
    Dns,
    /// By DNS; one address at a time.
    DnsRoundRobin,
    /// By DNS, of the name the client asks for.
    DynamicDns,
}

/// Labels of workloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EntrySelector {
    /// All must be present with these values.
    pub labels: BTreeMap<String, String>,
}

/// What somebody has given a [`ServiceEntry`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntryStatus {
    /// Virtual addresses of hosts without any.
    pub addresses: Vec<StatusAddress>,
    /// What controllers say of it, as they write it.
    pub conditions: Vec<Value>,
}

/// A virtual address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusAddress {
    /// The host; empty when it is the only one.
    pub host: String,
    /// The address.
    pub value: String,
}

/// `networking.istio.io` WorkloadEntry.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadEntry {
    /// `networking.istio.io/v1` or `v1beta1`.
    pub api_version: String,
    /// `WorkloadEntry`.
    pub kind: String,
    /// Name, namespace, labels.
    pub metadata: ObjectMeta,
    /// Where it is, and who.
    #[serde(default)]
    pub spec: WorkloadEntrySpec,
    /// How it is.
    #[serde(default)]
    pub status: WorkloadEntryStatus,
}

/// Body of a [`WorkloadEntry`], and an endpoint of a [`ServiceEntry`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEntrySpec {
    /// An address, a name for DNS, or the path of a socket after `unix://`.
    pub address: String,
    /// Ports by the names services give them.
    pub ports: BTreeMap<String, u16>,
    /// For selectors and names.
    pub labels: BTreeMap<String, String>,
    /// Its network.
    pub network: String,
    /// `region/zone/subzone`.
    pub locality: String,
    /// Share of the load.
    pub weight: u32,
    /// Its identity, in its namespace.
    pub service_account: String,
    /// Fields that are not read.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

/// How a [`WorkloadEntry`] is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEntryStatus {
    /// As they are written; `Healthy` is one.
    pub conditions: Vec<Value>,
}

impl WorkloadEntryStatus {
    /// Whether somebody says that it is not healthy.
    #[must_use]
    pub fn is_unhealthy(&self) -> bool {
        let says =
            |condition: &Value, field: &str, text: &str| condition.get(field).and_then(Value::as_str) == Some(text);
        self.conditions.iter().any(|condition| says(condition, "type", "Healthy") && says(condition, "status", "False"))
    }
}
