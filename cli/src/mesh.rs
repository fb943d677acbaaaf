//! Where the mesh is that a command looks at, and how its parts are asked.

mod cluster;
mod page;
mod uncaptured;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::Args;
use fairway_core::source::labels::{AMBIENT, DATAPLANE_MODE};
use fairway_core::source::{Kind, ObjectKey};
use fairway_lab::control::{self, Page, Request};
use fairway_lab::layout::Layout;
use fairway_lab::status::{PodStatus, Status};
use fairway_lab::{Error, Result, lab};
use serde::de::DeserializeOwned;

use crate::objects::{Cluster, Objects};
use cluster::Members;
use page::{unreadable, usable};
use uncaptured::Reports;

/// Name of the lab that is meant when nothing is said.
const DEFAULT_LAB: &str = "default";

/// Name of the program as a plugin of kubectl.
const PLUGIN: &str = "kubectl-fairway";
/// Config map of a cluster with the mesh configuration, and its key, as the chart has them.
const MESH_CONFIG: (&str, &str) = ("fairway-mesh", "mesh");
/// What the controller of a lab is called there.
const LAB_CONTROLLER: &str = "controller";
/// Pods named to whoever has named one that is not there.
const SHOWN_PODS: usize = 20;

/// Which mesh.
#[derive(Clone, Debug, Args)]
pub(crate) struct Where {
    /// Name of the lab to look at; without it and without a cluster, the lab `default`
    #[arg(long, global = true, env = "FAIRWAY_LAB")]
    lab: Option<String>,
    /// File that says where the cluster is, as for kubectl
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The cluster's name in there; without it, the current one
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Namespace of a cluster that the mesh's own parts are in
    #[arg(long, global = true, value_name = "NAMESPACE", env = "FAIRWAY_NAMESPACE", default_value = "fairway-system")]
    mesh_namespace: String,
}

/// A part of the mesh that has pages for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// The proxy of a node.
    Proxy(&'a str),
    /// The agent of a node.
    Agent(&'a str),
    /// The controller; of several replicas, one that is ready.
    Controller,
    /// One replica of the controller, by the name of its pod.
    Replica(&'a str),
    /// A waypoint, by namespace and name of its pod.
    Waypoint(&'a str, &'a str),
}

/// A mesh that can be asked.
pub(crate) struct Mesh {
    place: Place,
    /// What runs in it.
    pub(crate) status: Status,
}

/// Where a mesh is.
enum Place {
    Lab(Layout),
    Cluster { cluster: Box<Cluster>, members: Members },
}

/// Whether kubectl runs this as its plugin, which it finds by this name. Then the cluster of kubectl is meant.
pub(crate) fn is_kubectl_plugin() -> bool {
    is_plugin_name(std::env::args_os().next().as_deref())
}

fn is_plugin_name(program: Option<&OsStr>) -> bool {
    program.and_then(|program| Path::new(program).file_stem()).is_some_and(|name| name == PLUGIN)
}

impl Where {
    /// Finds the mesh, to ask its parts.
    pub(crate) fn mesh(&self) -> Result<Mesh> {
        if let Some(layout) = self.lab()? {
            let status = lab::status_of(&layout)?;
            return Ok(Mesh { place: Place::Lab(layout), status });
        }
        let cluster = self.cluster()?;
        let (members, status) = Members::find(&cluster, &self.mesh_namespace)?;
        Ok(Mesh { place: Place::Cluster { cluster: Box::new(cluster), members }, status })
    }

    /// Finds the objects that the mesh is made of.
    pub(crate) fn objects(&self) -> Result<Objects> {
        match self.lab()? {
            Some(layout) => Objects::of_lab(layout),
            None => self.cluster().map(Objects::Cluster),
        }
    }

    /// The cluster that is meant.
    pub(crate) fn cluster(&self) -> Result<Cluster> {
        Cluster::connect(self.kubeconfig.as_deref(), self.context.as_deref())
    }

    /// What the controller is told of whom waypoints may ask and tell, as it is written; none where nobody has said anything.
    pub(crate) fn mesh_config(&self) -> Result<Option<String>> {
        let Some(layout) = self.lab()? else {
            return self.cluster()?.data(&self.mesh_namespace, MESH_CONFIG.0, MESH_CONFIG.1);
        };
        let file = layout.mesh_config();
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::new(format!("reading {}", file.display())).because(error)),
        }
    }

    /// Namespace of the mesh's own parts.
    pub(crate) fn mesh_namespace(&self) -> &str {
        &self.mesh_namespace
    }

    /// The lab that is meant, if one is. A cluster that is named goes before the environment's lab.
    pub(crate) fn lab(&self) -> Result<Option<Layout>> {
        let names_cluster = self.kubeconfig.is_some() || self.context.is_some();
        if names_cluster || (is_kubectl_plugin() && self.lab.is_none()) {
            return Ok(None);
        }
        let layout = Layout::of(self.lab.as_deref().unwrap_or(DEFAULT_LAB))?;
        // Nobody has named a lab, and there is none: whoever has kubectl set up means that cluster.
        Ok((self.lab.is_some() || layout.root().exists()).then_some(layout))
    }
}

impl Part<'_> {
    /// Ports as in interop §9: node proxies and waypoints 15000, agents 15114, controllers 15014.
    fn port(self) -> u16 {
        match self {
            Self::Proxy(_) | Self::Waypoint(..) => 15_000,
            Self::Agent(_) => 15_114,
            Self::Controller | Self::Replica(_) => 15_014,
        }
    }

    /// Where its metrics are: proxies have a port of their own for them, which is open to scrapers.
    fn metrics_port(self) -> u16 {
        match self {
            Self::Proxy(_) | Self::Waypoint(..) => 15_020,
            other => other.port(),
        }
    }

    /// What people call it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Proxy(node) => format!("the proxy of {node}"),
            Self::Agent(node) => format!("the agent of {node}"),
            Self::Controller => "the controller".to_owned(),
            Self::Replica(LAB_CONTROLLER) => "the controller".to_owned(),
            Self::Replica(pod) => format!("controller {pod}"),
            Self::Waypoint(namespace, pod) => format!("waypoint pod {namespace}/{pod}"),
        }
    }

    /// What it is called among the components of a lab, or as a pod there.
    fn name_in_lab(self) -> String {
        match self {
            Self::Proxy(node) => format!("ztunnel-{node}"),
            Self::Agent(node) => format!("agent-{node}"),
            Self::Controller | Self::Replica(_) => LAB_CONTROLLER.to_owned(),
            Self::Waypoint(namespace, pod) => format!("{namespace}/{pod}"),
        }
    }

    /// The node whose network its pages are in; none for the underlay of a lab.
    fn node(self) -> Option<String> {
        match self {
            Self::Proxy(node) | Self::Agent(node) => Some(node.to_owned()),
            Self::Controller | Self::Replica(_) | Self::Waypoint(..) => None,
        }
    }
}

impl Mesh {
    /// Names of the nodes, or only `wanted`.
    ///
    /// # Errors
    /// When there is no such node.
    pub(crate) fn nodes(&self, wanted: Option<&str>) -> Result<Vec<String>> {
        let all = || self.status.nodes.iter().map(|node| node.name.clone());
        let nodes: Vec<String> = all().filter(|node| wanted.is_none_or(|wanted| wanted == node)).collect();
        match wanted.filter(|_| nodes.is_empty()) {
            None => Ok(nodes),
            Some(wanted) => Err(Error::new(format!("there is no node {wanted}"))
                .hint(format!("there are: {}", all().collect::<Vec<_>>().join(" ")))),
        }
    }

    /// The pod written as `NAMESPACE/POD` or `POD`.
    ///
    /// # Errors
    /// When there is no such pod, or it is not in the mesh.
    pub(crate) fn pod(&self, text: &str, default_namespace: &str) -> Result<&PodStatus> {
        let (namespace, name) = text.split_once('/').unwrap_or((default_namespace, text));
        let found = self.status.pods.iter().find(|pod| pod.namespace == namespace && pod.name == name);
        let pod = found.ok_or_else(|| {
            let pods = self.status.pods.iter();
            let near: Vec<String> = pods
                .filter(|pod| pod.captured)
                .map(|pod| format!("{}/{}", pod.namespace, pod.name))
                .take(SHOWN_PODS)
                .collect();
            Error::new(format!("there is no pod {namespace}/{name}")).hint(format!("there are: {}", near.join(" ")))
        })?;
        if !pod.captured {
            return Err(self.uncaptured(pod));
        }
        Ok(pod)
    }

    /// Why a pod is not captured.
    fn uncaptured(&self, pod: &PodStatus) -> Error {
        let node = pod.node.as_deref().unwrap_or_default();
        let reports = self.ask::<Reports>(Part::Agent(node), "/debug/pods");
        let is_it = |it: &uncaptured::Report| it.namespace == pod.namespace && it.name == pod.name;
        let report = reports.map(|reports| reports.pods.into_iter().find(is_it)).map_err(|error| error.to_string());
        let own = self.label(&ObjectKey::new(Kind::Pod, &*pod.namespace, &*pod.name), DATAPLANE_MODE);
        let mode = own.or_else(|| self.label(&ObjectKey::new(Kind::Namespace, "", &*pod.namespace), DATAPLANE_MODE));
        let logs = match &self.place {
            Place::Lab(_) => format!("fairway lab logs agent-{node}"),
            Place::Cluster { members, .. } => match members.pod_of(Part::Agent(node)) {
                Ok((namespace, name)) => format!("kubectl -n {namespace} logs {name}"),
                Err(_) => format!("fairway check, as {node} has no agent"),
            },
        };
        uncaptured::explained(pod, mode.as_deref() == Some(AMBIENT), report, &logs)
    }

    /// A label of an object, where that can be read.
    fn label(&self, key: &ObjectKey, label: &str) -> Option<String> {
        let value = match &self.place {
            Place::Lab(layout) => Objects::of_lab(layout.clone()).and_then(|objects| objects.label_of(key, label)),
            Place::Cluster { cluster, .. } => cluster.label_of(key, label),
        };
        value.ok()?
    }

    /// Names of the controller's replicas.
    pub(crate) fn replicas(&self) -> Vec<String> {
        match &self.place {
            Place::Lab(_) => vec![LAB_CONTROLLER.to_owned()],
            Place::Cluster { members, .. } => members.controllers(),
        }
    }

    /// Whether this is a lab.
    pub(crate) fn lab(&self) -> Option<&Layout> {
        match &self.place {
            Place::Lab(layout) => Some(layout),
            Place::Cluster { .. } => None,
        }
    }

    /// Asks a part for a page in JSON.
    pub(crate) fn ask<T: DeserializeOwned>(&self, part: Part<'_>, path: &str) -> Result<T> {
        let body = self.text(part, path)?;
        serde_json::from_str(&body).map_err(|error| unreadable(part, error))
    }

    /// Asks a part for a page with one JSON object a line.
    pub(crate) fn ask_lines<T: DeserializeOwned>(&self, part: Part<'_>, path: &str) -> Result<Vec<T>> {
        let body = self.text(part, path)?;
        let lines = body.lines().filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_str(line).map_err(|error| unreadable(part, error))).collect()
    }

    /// The metrics of a part, as Prometheus reads them.
    pub(crate) fn metrics(&self, part: Part<'_>) -> Result<String> {
        Ok(usable(part, self.fetch(part, part.metrics_port(), "/metrics")?)?.body)
    }

    /// A page of a part as it is.
    pub(crate) fn text(&self, part: Part<'_>, path: &str) -> Result<String> {
        Ok(self.page(part, path)?.body)
    }

    /// A page of a part, with what its clock says.
    pub(crate) fn page(&self, part: Part<'_>, path: &str) -> Result<Page> {
        usable(part, self.fetch(part, part.port(), path)?)
    }

    fn fetch(&self, part: Part<'_>, port: u16, path: &str) -> Result<Page> {
        match (&self.place, part) {
            (Place::Lab(layout), Part::Waypoint(namespace, pod)) => page::inside(layout, namespace, pod, port, path),
            (Place::Lab(layout), _) => {
                let url = format!("http://127.0.0.1:{port}{path}");
                let asked = control::ask(layout, &Request::Get { node: part.node(), url });
                asked.map_err(|error| silent(part, error))
            }
            (Place::Cluster { cluster, members }, _) => {
                let (namespace, pod) = members.pod_of(part)?;
                page::forwarded(cluster, namespace, pod, port, path)
            }
        }
    }
}

/// A part of a lab that does not answer. An error that says already what to do is about the lab itself.
fn silent(part: Part<'_>, error: Error) -> Error {
    if error.advice().is_some() {
        return error;
    }
    let name = part.name_in_lab();
    Error::new(format!("{} does not answer", part.name())).because(error).hint(format!(
        "see whether it runs (fairway lab status) and what it says last (fairway lab logs {name}); fairway check looks at all parts"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_is_named_with_what_to_do() {
        let refused = || Error::new("connecting to 127.0.0.1:15014: Connection refused");
        for (part, who, log) in [
            (Part::Replica("controller"), "the controller does not answer: connecting to", "lab logs controller)"),
            (Part::Proxy("node-1"), "the proxy of node-1 does not answer", "lab logs ztunnel-node-1)"),
            (Part::Agent("node-2"), "the agent of node-2 does not answer", "lab logs agent-node-2)"),
        ] {
            let said = silent(part, refused()).to_string();
            assert!(said.starts_with(who) && said.contains(log) && said.contains("Connection refused"), "{said}");
        }
        let known = silent(Part::Controller, refused().hint("bring it up")).to_string();
        assert!(known.starts_with("connecting") && known.contains("bring it up"), "{known}");
    }

    #[test]
    fn kubectl_finds_its_plugin_by_name() {
        for (program, expected) in [
            ("/usr/local/bin/kubectl-fairway", true),
            ("kubectl-fairway", true),
            ("fairway", false),
            ("/kubectl-fairway/fairway", false),
        ] {
            assert_eq!(is_plugin_name(Some(OsStr::new(program))), expected, "{program}");
        }
        assert!(!is_plugin_name(None));
    }

    #[test]
    fn a_cluster_that_is_named_is_no_lab() {
        let place = |lab: Option<&str>, context: Option<&str>| Where {
            lab: lab.map(str::to_owned),
            kubeconfig: None,
            context: context.map(str::to_owned),
            mesh_namespace: String::new(),
        };
        assert!(place(None, Some("c")).lab().unwrap().is_none());
        // Flags that contradict each other are refused before; this lab is the environment's.
        assert!(place(Some("mine"), Some("c")).lab().unwrap().is_none());
        assert_eq!(place(Some("mine"), None).lab().unwrap().map(|lab| lab.name()).as_deref(), Some("mine"));
    }
}
