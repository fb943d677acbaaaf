//! What a lab says of itself: the answer of `lab status -o json`.

mod tables;

use fairway_core::source::ObjectKey;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use tables::{brief, tables};

/// State of a whole lab.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Name of the lab.
    pub name: String,
    /// Host pid of the supervisor.
    pub supervisor: Option<i32>,
    /// State directory on the host.
    pub directory: String,
    /// The mesh's processes.
    pub components: Vec<ComponentStatus>,
    /// Nodes.
    pub nodes: Vec<NodeStatus>,
    /// Pods, the mesh's own left out.
    pub pods: Vec<PodStatus>,
    /// Services.
    pub services: Vec<ServiceStatus>,
    /// Proxies connected to the controller, as its `/debug/syncz` says; null when it does not answer.
    pub proxies: Value,
    /// Problems with manifests: file, line, column, field, message.
    pub errors: Vec<ManifestError>,
    /// Objects of kinds nobody reads.
    pub unknown_kinds: Vec<UnknownObject>,
}

/// State of one component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// Its name, which is also the name of its log.
    pub name: String,
    /// Its node; none for the controller.
    pub node: Option<String>,
    /// Process id inside the lab while it runs.
    pub pid: Option<i32>,
    /// How often it was started again.
    pub restarts: u32,
    /// Whether its readiness endpoint says so.
    pub ready: bool,
    /// Why it is not ready.
    pub message: Option<String>,
    /// Memory it holds (resident set), in bytes, while it runs.
    #[serde(default)]
    pub memory: Option<u64>,
}

/// State of one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its addresses on the inter-node link.
    pub addresses: Vec<String>,
    /// How many pods it has.
    pub pods: usize,
}

/// State of one pod.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Unique id, which is also the name of its network namespace.
    pub uid: String,
    /// Its node.
    pub node: Option<String>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Kubernetes' phase.
    pub phase: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Processes of its containers, by their ids within the lab.
    pub pids: Vec<i32>,
    /// Restarts of its containers.
    pub restarts: u32,
    /// Whether its traffic goes through the mesh, as its agent says.
    pub captured: bool,
    /// What is wrong, when something is.
    pub message: Option<String>,
}

/// State of one service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Its addresses; none when headless.
    pub addresses: Vec<String>,
    /// Its ports, such as `80/tcp`.
    pub ports: Vec<String>,
    /// How many ready pods stand behind it.
    pub endpoints: usize,
}

/// One problem with the manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestError {
    /// File, relative to the manifests.
    pub file: String,
    /// Line, from 1.
    pub line: Option<u32>,
    /// Column, from 1.
    pub column: Option<u32>,
    /// Path of the field.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// One object of a kind nobody reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnknownObject {
    /// File, relative to the manifests.
    pub file: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl Status {
    /// Why the lab is not settled yet: components that are not ready, and pods of `expected` or the lab that are not. Empty when it is.
    #[must_use]
    pub fn unsettled(&self, expected: &[ObjectKey]) -> Vec<String> {
        let components =
            self.components.iter().filter(|component| !component.ready).map(|component| {
                format!("{}: {}", component.name, component.message.as_deref().unwrap_or("not ready"))
            });
        let pods =
            self.pods.iter().filter(|pod| !pod.ready && pod.phase != "Succeeded").map(|pod| {
                format!("pod {}/{}: {}", pod.namespace, pod.name, pod.message.as_deref().unwrap_or(&pod.phase))
            });
        let is_known =
            |key: &ObjectKey| self.pods.iter().any(|pod| pod.namespace == key.namespace && pod.name == key.name);
        let unknown = expected.iter().filter(|key| !is_known(key)).map(|key| format!("{key}: not seen yet"));
        components.chain(pods).chain(unknown).collect()
    }
}
