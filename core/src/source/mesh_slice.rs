//! What a mesh keeps of an EndpointSlice: of an endpoint that is a pod its name, because everything else is known from the pod.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Label with the service a slice is of.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An EndpointSlice as a mesh needs to know it. Its name is in its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "WrittenSlice")]
pub struct MeshSlice {
    /// The service it is of; empty for one that is of none.
    pub service: Box<str>,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: Box<str>,
    /// Its ports.
    pub ports: Box<[SlicePort]>,
    /// Who serves on them.
    pub endpoints: Box<[Endpoint]>,
}

/// A port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SlicePort {
    /// The port of the service that it belongs to; none where that has no name.
    pub name: Option<Box<str>>,
    /// None for TCP.
    pub protocol: Option<Box<str>>,
    /// None for all.
    pub port: Option<i32>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The pod that it is, if it names one.
    pub pod: Option<Box<str>>,
    /// Its address, if it names no pod; all of its addresses are the same one's.
    pub address: Option<Box<str>>,
    /// The node that it is on, if it names no pod.
    pub node: Option<Box<str>>,
    /// Where it is, if it names no pod.
    pub zone: Option<Box<str>>,
    /// Whether it takes new connections.
    pub is_ready: bool,
}

/// A slice as it is written. As in the API's own types, what is absent or null is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WrittenSlice {
    pub(super) metadata: Metadata,
    address_type: Option<Box<str>>,
    ports: Option<Vec<SlicePort>>,
    endpoints: Option<Vec<WrittenEndpoint>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) resource_version: Option<String>,
    labels: Option<BTreeMap<Box<str>, Box<str>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenEndpoint {
    addresses: Option<Vec<Box<str>>>,
    conditions: Option<Conditions>,
    node_name: Option<Box<str>>,
    target_ref: Option<TargetReference>,
    zone: Option<Box<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TargetReference {
    kind: Option<String>,
    name: Option<Box<str>>,
}

impl From<WrittenSlice> for MeshSlice {
    fn from(written: WrittenSlice) -> Self {
        let labels = written.metadata.labels.unwrap_or_default();
        Self {
            service: labels
                .into_iter()
                .find(|(key, _)| **key == *SERVICE_NAME)
                .map(|(_, name)| name)
                .unwrap_or_default(),
            address_type: written.address_type.unwrap_or_default(),
            ports: written.ports.unwrap_or_default().into(),
            endpoints: written.endpoints.into_iter().flatten().map(Endpoint::from).collect(),
        }
    }
}

impl From<WrittenEndpoint> for Endpoint {
    fn from(written: WrittenEndpoint) -> Self {
        let conditions = written.conditions.unwrap_or_default();
        let is_ready = conditions.ready.unwrap_or(true) && conditions.terminating != Some(true);
        let target = written.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
        match target.and_then(|target| target.name) {
            Some(pod) => Self { pod: Some(pod), is_ready, ..Self::default() },
            None => Self {
                pod: None,
                address: written.addresses.into_iter().flatten().next(),
                node: written.node_name,
                zone: written.zone,
                is_ready,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_pod_its_name_is_kept_and_of_others_where_they_are() {
        let slice: MeshSlice = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "labels": {"a": "b", "kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 80, "appProtocol": "h2c"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "nodeName": "n", "targetRef": {"kind": "Pod", "name": "web-0", "uid": "u"}},
                {"addresses": ["192.0.2.1", "192.0.2.2"], "nodeName": "n", "zone": "z", "conditions": {"ready": false},
                    "targetRef": {"kind": "VirtualMachine", "name": "web-0"}},
                {"addresses": [], "conditions": {"ready": true, "terminating": true}, "targetRef": null},
            ],
        }))
        .unwrap();
        assert_eq!((&*slice.service, &*slice.address_type), ("web", "IPv4"));
        assert_eq!(*slice.ports, [SlicePort { name: Some("http".into()), protocol: None, port: Some(80) }]);
        let text = |text: &str| Some(text.into());
        let pod = Endpoint { pod: text("web-0"), is_ready: true, ..Endpoint::default() };
        let machine = Endpoint { address: text("192.0.2.1"), node: text("n"), zone: text("z"), ..Endpoint::default() };
        assert_eq!(*slice.endpoints, [pod, machine, Endpoint::default()]);
        let empty: MeshSlice = serde_json::from_value(json!({"endpoints": null, "ports": null})).unwrap();
        assert_eq!(empty, MeshSlice::default());
    }
}
