//! What a mesh keeps of a pod: what its controller and its agents decide with. Typed whole, a pod takes ten times the
//! memory, most of it for what only its kubelet reads.

mod ports;
mod written;

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use super::labels::HasLabels;
pub(super) use written::WrittenPod;

/// Domains of the annotations that mean something to a mesh.
const ANNOTATIONS: [&str; 2] = ["istio.io", "fairway.dev"];
/// The fields of a pod that are lists of containers.
const CONTAINERS: [&str; 2] = ["containers", "initContainers"];

/// A pod as a mesh needs to know it. Its name is in its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "WrittenPod")]
pub struct MeshPod {
    uid: Box<str>,
    node: Box<str>,
    labels: Pairs,
    annotations: Pairs,
    /// The service account it runs as.
    pub service_account: Box<str>,
    /// Its addresses, the primary one first; none until it has them.
    pub addresses: Box<[IpAddr]>,
    /// The address of its node, once it is known.
    pub host: Option<IpAddr>,
    /// Its TCP ports that have names.
    pub named_ports: Box<[(Box<str>, u16)]>,
    /// What made it: the deployment where there is one, else its controller; empty for a pod made by hand.
    pub maker: Box<str>,
    /// The ports on which its kubelet calls it, in order.
    pub probed: Box<[u16]>,
    /// The runtime class it asks for; empty for the node's usual one.
    pub runtime_class: Box<str>,
    /// Whether it shares the network of its node.
    pub is_host_network: bool,
    /// Whether it ran to its end and will not run again.
    pub is_terminal: bool,
    /// Whether its condition `Ready` is true.
    pub is_ready: bool,
    /// Whether it was told to end.
    pub is_ending: bool,
    /// Whether it is for Windows.
    pub is_windows: bool,
}

/// Few, so they are searched one by one.
type Pairs = Box<[(Box<str>, Box<str>)]>;

impl MeshPod {
    /// Its uid, once it has one.
    #[must_use]
    pub fn uid(&self) -> Option<&str> {
        Some(&*self.uid).filter(|uid| !uid.is_empty())
    }

    /// The node it was placed on, once it was.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        Some(&*self.node).filter(|node| !node.is_empty())
    }

    /// The value of the annotation `key`, if it is one that means something to a mesh.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        find(&self.annotations, key)
    }
}

impl HasLabels for MeshPod {
    fn label(&self, key: &str) -> Option<&str> {
        find(&self.labels, key)
    }
}

fn find<'a>(pairs: &'a Pairs, key: &str) -> Option<&'a str> {
    pairs.iter().find(|(name, _)| **name == *key).map(|(_, value)| &**value)
}

/// Whether the annotation `key` means something to a mesh.
pub(super) fn is_read(key: &str) -> bool {
    key.split('/').next().is_some_and(|domain| ANNOTATIONS.iter().any(|ours| domain.ends_with(ours)))
}

/// Of a manifest, what a [`MeshPod`] is made of.
pub(super) fn pruned(mut whole: Value) -> Value {
    keep(&mut whole, &["apiVersion", "kind", "metadata", "spec", "status"]);
    if let Some(metadata) = whole.get_mut("metadata") {
        keep(metadata, &["name", "namespace", "uid", "labels", "annotations", "deletionTimestamp", "ownerReferences"]);
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.retain(|key, _| is_read(key));
        }
    }
    if let Some(spec) = whole.get_mut("spec") {
        let of_all = ["nodeName", "serviceAccountName", "hostNetwork", "runtimeClassName", "os"];
        keep(spec, &[&of_all[..], &CONTAINERS].concat());
        for containers in CONTAINERS {
            let containers = spec.get_mut(containers).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                let probes = ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"];
                keep(container, &[&["name", "ports", "restartPolicy"][..], &probes].concat());
            }
        }
    }
    if let Some(status) = whole.get_mut("status") {
        keep(status, &["phase", "podIP", "podIPs", "hostIP", "conditions"]);
    }
    whole
}

/// Leaves out of an object all other fields.
fn keep(object: &mut Value, fields: &[&str]) {
    if let Some(object) = object.as_object_mut() {
        object.retain(|field, _| fields.contains(&field.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_that_decides_is_kept_and_nothing_else() {
        let pod = json!({
            "metadata": {"name": "a", "namespace": "shop", "uid": "u1", "labels": {"app": "web", "pod-template-hash": "6c8"},
                "deletionTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6c8", "uid": "r", "controller": true}],
                "annotations": {"ambient.istio.io/dns-capture": "false", "large.example/notes": "x"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "web", "hostNetwork": true, "runtimeClassName": "kata",
                "os": {"name": "windows"},
                "containers": [{"name": "c", "image": "i", "readinessProbe": {"tcpSocket": {"port": 80}},
                    "ports": [{"name": "http", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}],
                "initContainers": [
                    {"name": "setup", "ports": [{"name": "early", "containerPort": 1}]},
                    {"name": "sidecar", "restartPolicy": "Always", "ports": [{"name": "stats", "containerPort": 9}]}]},
            "status": {"phase": "Failed", "hostIP": "192.0.2.1", "conditions": [{"type": "Ready", "status": "True"}], "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        });
        let read = |pod: Value| serde_json::from_value::<MeshPod>(pod).unwrap();
        let kept = read(pod.clone());
        assert_eq!(read(pruned(pod)), kept, "a manifest loses nothing of it");
        assert_eq!((kept.uid(), kept.node(), &*kept.service_account), (Some("u1"), Some("n1"), "web"));
        assert_eq!((kept.label("app"), kept.label("other")), (Some("web"), None));
        let annotations = ["ambient.istio.io/dns-capture", "large.example/notes"].map(|key| kept.annotation(key));
        assert_eq!(annotations, [Some("false"), None]);
        assert_eq!(*kept.addresses, ["10.0.0.1", "fd00::1"].map(|address| address.parse::<IpAddr>().unwrap()));
        assert_eq!((&*kept.probed, &*kept.runtime_class), (&[80][..], "kata"));
        assert!(kept.is_host_network && kept.is_terminal && kept.is_ending && kept.is_windows && kept.is_ready);
        let ports: Vec<(&str, u16)> = kept.named_ports.iter().map(|(name, port)| (&**name, *port)).collect();
        assert_eq!(ports, [("http", 8080), ("stats", 9)], "an init container that ends serves nobody");
        assert_eq!((kept.host, &*kept.maker), ("192.0.2.1".parse().ok(), "web"));
        let nothing =
            read(json!({"metadata": {"labels": null}, "spec": {"containers": null, "os": null}, "status": null}));
        assert_eq!(nothing, read(json!({})), "null is nothing");
        assert_eq!((nothing.uid(), nothing.node(), &*nothing.service_account), (None, None, "default"));
    }
}
