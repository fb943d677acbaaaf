//! What the lab's kubelet decides: which pods it runs, and the status it writes of them.

use std::collections::BTreeMap;

use fairway_core::source::labels::{DATAPLANE_MODE, HasLabels, NONE};
use fairway_core::source::objects::{annotation, is_host_network, service_account_name};
use fairway_core::source::{Kind, ObjectKey};
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use crate::addresses::Dual;
use crate::container::ContainerState;

/// Namespace of the mesh's own pods.
pub(crate) const SYSTEM_NAMESPACE: &str = "fairway-system";
/// Annotation by which the agent says that a pod is captured.
pub(crate) const REDIRECTION: &str = "ambient.istio.io/redirection";

/// Name of a node's ztunnel pod.
pub(crate) fn ztunnel_pod(node: &str) -> String {
    format!("ztunnel-{node}")
}

/// Whether a pod stands for one of the lab's components, which run without containers.
pub(crate) fn is_component(key: &ObjectKey, pod: &impl HasLabels) -> bool {
    key.namespace == SYSTEM_NAMESPACE && pod.label("app") == Some("ztunnel")
}

/// Whether a pod is captured, as its agent says.
pub(crate) fn is_captured(pod: &Pod) -> bool {
    annotation(&pod.metadata, REDIRECTION) == Some("enabled")
}

/// What of a pod cannot change while it runs: when this differs, the pod is another one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fixed {
    containers: Vec<Container>,
    service_account: String,
    host_network: bool,
}

impl Fixed {
    pub(crate) fn of(pod: &Pod) -> Self {
        Self {
            containers: pod.spec.iter().flat_map(|spec| spec.containers.clone()).collect(),
            service_account: service_account_name(pod).to_owned(),
            host_network: is_host_network(pod),
        }
    }
}

/// Where a pod was put.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    pub(crate) uid: String,
    pub(crate) node: u8,
    /// Its addresses, once its network was made.
    pub(crate) address: Option<Dual>,
}

impl Placement {
    /// The addresses as text, none before there are any.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.address.iter().flat_map(|address| address.both()).map(|address| address.to_string()).collect()
    }
}

/// How far a pod has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Why its containers do not run yet, or cannot.
    pub(crate) waiting: Option<String>,
    /// Its containers, once they were started.
    pub(crate) containers: Vec<ContainerState>,
}

impl Progress {
    /// Kubernetes' phase.
    pub(crate) fn phase(&self) -> &'static str {
        if self.containers.is_empty() || self.waiting.is_some() {
            return "Pending";
        }
        if self.containers.iter().all(|container| container.finished == Some(true)) {
            return "Succeeded";
        }
        if self.containers.iter().all(|container| container.finished.is_some()) {
            return "Failed";
        }
        "Running"
    }

    /// Whether every container is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.waiting.is_none() && !self.containers.is_empty() && self.containers.iter().all(|container| container.ready)
    }

    /// Restarts of all containers.
    pub(crate) fn restarts(&self) -> u32 {
        self.containers.iter().map(|container| container.restarts).sum()
    }

    /// What is wrong, when something is.
    pub(crate) fn message(&self) -> Option<String> {
        let complaint =
            |container: &ContainerState| Some(format!("{}: {}", container.name, container.message.as_ref()?));
        self.waiting.clone().or_else(|| self.containers.iter().find_map(complaint))
    }
}

/// The status the lab writes over a pod's manifest.
pub(crate) fn pod_status(placement: &Placement, progress: &Progress) -> Value {
    let host = crate::addresses::node(placement.node);
    let ready = if progress.is_ready() { "True" } else { "False" };
    let scheduled = [("PodScheduled", "True"), ("Initialized", "True"), ("ContainersReady", ready), ("Ready", ready)];
    let conditions: Vec<Value> =
        scheduled.into_iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
    let ips = |texts: &[String]| texts.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
    let own = placement.addresses();
    json!({
        "metadata": {"uid": placement.uid},
        "spec": {"nodeName": crate::addresses::node_name(placement.node)},
        "status": {
            "phase": progress.phase(),
            "podIP": own.first(),
            "podIPs": ips(&own),
            "hostIP": host.v4.to_string(),
            "hostIPs": ips(&host.both().map(|ip| ip.to_string())),
            "conditions": conditions,
            "containerStatuses": progress.containers.iter().map(container_status).collect::<Vec<_>>(),
        },
    })
}

fn container_status(container: &ContainerState) -> Value {
    let state = match (&container.message, container.pid) {
        (_, Some(_)) => json!({"running": {}}),
        (_, None) if container.finished.is_some() => {
            json!({"terminated": {"exitCode": i32::from(container.finished == Some(false))}})
        }
        (Some(message), None) => json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}}),
        (None, None) => json!({"waiting": {"reason": "ContainerCreating"}}),
    };
    json!({"name": container.name, "ready": container.ready, "restartCount": container.restarts, "image": "host", "imageID": "", "state": state})
}

/// The manifest of the lab's own namespace, service account and ztunnel pods.
pub(crate) fn system_manifest(nodes: u8) -> String {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "ztunnel", "namespace": SYSTEM_NAMESPACE}});
    let mut documents =
        vec![json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}}), account];
    documents.extend((1..=nodes).map(|number| ztunnel_manifest(&crate::addresses::node_name(number))));
    documents.iter().map(|document| format!("---\n{document:#}\n")).collect()
}

/// The pod that stands for the ztunnel of a node.
pub(crate) fn ztunnel_manifest(node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": ztunnel_pod(node), "namespace": SYSTEM_NAMESPACE,
            "labels": {"app": "ztunnel", DATAPLANE_MODE: NONE},
        },
        "spec": {
            "hostNetwork": true, "nodeName": node, "serviceAccountName": "ztunnel",
            "containers": [{"name": "ztunnel", "image": "host"}],
        },
    })
}

/// Key of a service account's or pod's status in the lab's own namespace.
pub(crate) fn system_pod(node: &str) -> ObjectKey {
    ObjectKey::new(Kind::Pod, SYSTEM_NAMESPACE, ztunnel_pod(node))
}

/// Labels of a pod, for the environment of its containers.
pub(crate) fn labels(pod: &Pod) -> BTreeMap<String, String> {
    pod.metadata.labels.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(ready: bool, finished: Option<bool>) -> ContainerState {
        ContainerState { name: "c".into(), ready, finished, ..ContainerState::default() }
    }

    #[test]
    fn phases_follow_the_containers() {
        let progress = |containers: &[ContainerState]| Progress { waiting: None, containers: containers.to_vec() };
        assert_eq!(progress(&[]).phase(), "Pending");
        assert_eq!(progress(&[container(true, None)]).phase(), "Running");
        assert!(progress(&[container(true, None)]).is_ready());
        assert!(!progress(&[container(true, None), container(false, None)]).is_ready());
        assert_eq!(progress(&[container(false, Some(true))]).phase(), "Succeeded");
        assert_eq!(progress(&[container(false, Some(false))]).phase(), "Failed");
        assert_eq!(Progress { waiting: Some("x".into()), containers: vec![container(true, None)] }.phase(), "Pending");
    }

    #[test]
    fn the_system_manifest_is_a_valid_world() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("system.yaml"), system_manifest(2)).unwrap();
        let loaded = fairway_core::source::directory::load(directory.path(), None);
        assert_eq!(loaded.errors, []);
        assert_eq!(loaded.objects.pods.len(), 2);
        assert!(loaded.objects.pods.iter().all(|(key, pod)| is_component(key, &**pod)));
    }
}
