//! The mesh's own pods in a cluster, told by their service accounts, and what else runs there.

use std::collections::BTreeMap;

use fairway_core::source::objects::{annotation, is_ready, service_account_name};
use fairway_lab::status::{ComponentStatus, NodeStatus, PodStatus, Status};
use fairway_lab::{Error, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;

use super::Part;
use crate::objects::{Cluster, failed};

/// Annotation by which an agent says that a pod is captured, with this value.
const REDIRECTION: (&str, &str) = ("ambient.istio.io/redirection", "enabled");
/// Service accounts of the parts, as `manifests/rbac` names them.
const ACCOUNTS: [(&str, Role); 3] =
    [("ztunnel", Role::Proxy), ("fairway-cni", Role::Agent), ("fairway-controller", Role::Controller)];

/// What a pod of the mesh is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Proxy,
    Agent,
    Controller,
}

/// A pod of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    role: Role,
    name: String,
    node: String,
    is_ready: bool,
}

/// The mesh's own pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Members {
    namespace: String,
    pods: Vec<Member>,
}

impl Members {
    /// Finds them, and describes what runs.
    pub(super) fn find(cluster: &Cluster, namespace: &str) -> Result<(Self, Status)> {
        let (pods, nodes): (Api<Pod>, Api<Node>) = (Api::all(cluster.client()), Api::all(cluster.client()));
        let list = ListParams::default();
        let pods = cluster.run(pods.list(&list)).map_err(|error| failed("listing pods", error))?.items;
        let nodes = cluster.run(nodes.list(&list)).map_err(|error| failed("listing nodes", error))?.items;
        let members = Self::among(&pods, namespace);
        let status = describe(&pods, &nodes, &members);
        Ok((members, status))
    }

    fn among(pods: &[Pod], namespace: &str) -> Self {
        let member = |pod: &Pod| {
            let (_, role) = ACCOUNTS.into_iter().find(|(account, _)| *account == service_account_name(pod))?;
            Some(Member {
                role,
                name: pod.metadata.name.clone()?,
                node: pod.spec.as_ref()?.node_name.clone()?,
                is_ready: is_ready(pod),
            })
        };
        let ours = pods.iter().filter(|pod| is_in(pod, namespace) && !is_over(pod));
        let mut pods: Vec<Member> = ours.filter_map(member).collect();
        // Where an update leaves two on one node for a moment, the one that is ready is meant.
        pods.sort_by(|left, right| (!left.is_ready, &left.name).cmp(&(!right.is_ready, &right.name)));
        Self { namespace: namespace.to_owned(), pods }
    }

    /// Names of the controller's replicas, those that are ready first.
    pub(super) fn controllers(&self) -> Vec<String> {
        self.pods.iter().filter(|pod| pod.role == Role::Controller).map(|pod| pod.name.clone()).collect()
    }

    /// Namespace and name of the pod that has the pages of a part.
    pub(super) fn pod_of<'a>(&'a self, part: Part<'a>) -> Result<(&'a str, &'a str)> {
        let of = |role: Role, node: Option<&str>| {
            let mut pods = self.pods.iter().filter(|pod| pod.role == role);
            pods.find(|pod| node.is_none_or(|node| pod.node == node)).map(|pod| pod.name.as_str())
        };
        let found = match part {
            Part::Proxy(node) => of(Role::Proxy, Some(node)),
            Part::Agent(node) => of(Role::Agent, Some(node)),
            Part::Controller => of(Role::Controller, None),
            Part::Replica(name) => Some(name),
            Part::Waypoint(namespace, name) => return Ok((namespace, name)),
        };
        found.map(|name| (self.namespace.as_str(), name)).ok_or_else(|| {
            Error::new(format!("{} has no pod in namespace {}", part.name(), self.namespace)).hint(
                "see whether the mesh is installed there (fairway check), or name its namespace with --mesh-namespace",
            )
        })
    }
}

fn is_in(pod: &Pod, namespace: &str) -> bool {
    pod.metadata.namespace.as_deref() == Some(namespace)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed") || pod.metadata.deletion_timestamp.is_some()
}

/// The cluster in the words in which a lab describes itself.
fn describe(pods: &[Pod], nodes: &[Node], members: &Members) -> Status {
    let is_member = |pod: &Pod| {
        let name = pod.metadata.name.as_deref();
        is_in(pod, &members.namespace) && members.pods.iter().any(|member| Some(member.name.as_str()) == name)
    };
    let (own, others): (Vec<&Pod>, Vec<&Pod>) = pods.iter().partition(|pod| is_member(pod));
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for node in others.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref()) {
        *counts.entry(node).or_default() += 1;
    }
    let nodes = nodes.iter().map(|node| {
        let name = node.metadata.name.clone().unwrap_or_default();
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let internal = addresses.filter(|address| address.type_ == "InternalIP");
        NodeStatus {
            addresses: internal.map(|address| address.address.clone()).collect(),
            pods: counts.get(name.as_str()).copied().unwrap_or_default(),
            name,
        }
    });
    Status {
        components: own.into_iter().map(component).collect(),
        nodes: nodes.collect(),
        pods: others.into_iter().map(pod_status).collect(),
        ..Status::default()
    }
}

fn component(pod: &Pod) -> ComponentStatus {
    let ready = is_ready(pod);
    ComponentStatus {
        name: pod.metadata.name.clone().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        pid: None,
        restarts: restarts(pod),
        ready,
        message: if ready { None } else { message(pod) },
        memory: None,
    }
}

fn restarts(pod: &Pod) -> u32 {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.map(|container| u32::try_from(container.restart_count).unwrap_or_default()).sum()
}

/// Why a pod is not ready: what a container waits for, or its phase.
fn message(pod: &Pod) -> Option<String> {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let waiting = containers.filter_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref().unwrap_or("waits");
        Some(match &waiting.message {
            Some(message) => format!("{reason}: {message}"),
            None => reason.to_owned(),
        })
    });
    waiting.chain([phase(pod).to_owned()]).next()
}

fn pod_status(pod: &Pod) -> PodStatus {
    let addresses = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    PodStatus {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        addresses: addresses.map(|address| address.ip.clone()).collect(),
        phase: phase(pod).to_owned(),
        ready: is_ready(pod),
        pids: Vec::new(),
        restarts: restarts(pod),
        captured: annotation(&pod.metadata, REDIRECTION.0) == Some(REDIRECTION.1),
        message: if is_ready(pod) { None } else { message(pod) },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, account: &str, node: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "fairway-system"},
            "spec": {"serviceAccountName": account, "nodeName": node, "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn parts_are_found_by_account_and_node_and_of_two_the_one_that_is_ready() {
        let mut elsewhere = pod("ztunnel-x", "ztunnel", "n2", "True");
        elsewhere.metadata.namespace = Some("istio-system".to_owned());
        let pods = [
            pod("ztunnel-old", "ztunnel", "n1", "False"),
            pod("ztunnel-new", "ztunnel", "n1", "True"),
            pod("cni-1", "fairway-cni", "n1", "True"),
            pod("controller-b", "fairway-controller", "n2", "False"),
            pod("controller-c", "fairway-controller", "n1", "True"),
            elsewhere,
        ];
        let members = Members::among(&pods, "fairway-system");
        let name = |part| members.pod_of(part).map(|(_, name)| name.to_owned()).ok();
        assert_eq!(name(Part::Proxy("n1")).as_deref(), Some("ztunnel-new"));
        assert_eq!(name(Part::Agent("n1")).as_deref(), Some("cni-1"));
        assert_eq!(name(Part::Controller).as_deref(), Some("controller-c"));
        assert_eq!(members.controllers(), ["controller-c", "controller-b"]);
        assert_eq!(members.pod_of(Part::Waypoint("shop", "way-0")).unwrap(), ("shop", "way-0"));
        let missing = members.pod_of(Part::Proxy("n2")).unwrap_err().to_string();
        assert!(missing.contains("the proxy of n2 has no pod in namespace fairway-system"), "{missing}");
    }

    #[test]
    fn a_cluster_is_described_as_a_lab_is() {
        let mut server = pod("server", "server", "n1", "True");
        server.metadata.namespace = Some("shop".to_owned());
        server.metadata.annotations = Some([(REDIRECTION.0.to_owned(), REDIRECTION.1.to_owned())].into());
        let mut broken = pod("ztunnel-1", "ztunnel", "n1", "False");
        let state = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}});
        broken.status.as_mut().unwrap().container_statuses = serde_json::from_value(json!([
            {"name": "z", "ready": false, "restartCount": 3, "image": "i", "imageID": "", "state": state}
        ]))
        .unwrap();
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}})).unwrap();
        let pods = [server, broken];
        let status = describe(&pods, &[node], &Members::among(&pods, "fairway-system"));
        assert_eq!((status.components.len(), status.pods.len(), status.nodes[0].pods), (1, 1, 1));
        let component = &status.components[0];
        let message = component.message.as_deref();
        assert_eq!((component.ready, component.restarts, message), (false, 3, Some("CrashLoopBackOff: back-off")));
        assert!(status.pods[0].captured && status.pods[0].ready);
    }
}
