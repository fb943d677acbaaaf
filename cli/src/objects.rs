//! The objects of a mesh, in a directory of manifests or in a cluster: read, label, apply, delete.

mod cluster;

use fairway_core::source::gateway::Gateway;
use fairway_core::source::labels::HasLabels;
use fairway_core::source::{Kind, Loaded, ObjectKey, directory};
use fairway_lab::apply::{self, Input};
use fairway_lab::layout::Layout;
use fairway_lab::options::Config;
use fairway_lab::{Error, Result};
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

pub(crate) use cluster::{Cluster, failed};

/// A label to set, or to remove.
pub(crate) type LabelChange<'a> = (&'a str, Option<&'a str>);

/// Where objects are.
pub(crate) enum Objects {
    /// Files of a lab.
    Directory(Layout),
    /// An API server.
    Cluster(Cluster),
}

impl Objects {
    /// The objects of a lab: in its own Kubernetes, if it has one.
    pub(crate) fn of_lab(layout: Layout) -> Result<Self> {
        // Without a lab there is nothing to look at, and the error says so.
        Config::read(&layout)?;
        let kubeconfig = layout.kubeconfig();
        if kubeconfig.exists() { Self::of_cluster(Some(&kubeconfig), None) } else { Ok(Self::Directory(layout)) }
    }

    /// The objects of a cluster, found as kubectl finds it.
    pub(crate) fn of_cluster(kubeconfig: Option<&std::path::Path>, context: Option<&str>) -> Result<Self> {
        Cluster::connect(kubeconfig, context).map(Self::Cluster)
    }

    /// All objects that a mesh reads, as its controller reads them.
    pub(crate) fn loaded(&self) -> Result<Loaded> {
        match self {
            Self::Directory(layout) => Ok(directory::load(&layout.manifests(), None)),
            Self::Cluster(cluster) => cluster.loaded(),
        }
    }

    /// All namespaces, by name.
    pub(crate) fn namespaces(&self) -> Result<Vec<Namespace>> {
        match self {
            Self::Directory(layout) => {
                let objects = directory::load(&layout.manifests(), None).objects;
                Ok(objects.namespaces.values().map(|namespace| Namespace::clone(namespace)).collect())
            }
            Self::Cluster(cluster) => cluster.namespaces(),
        }
    }

    /// A label of a namespace or pod.
    pub(crate) fn label_of(&self, key: &ObjectKey, label: &str) -> Result<Option<String>> {
        match self {
            Self::Directory(layout) => {
                let objects = directory::load(&layout.manifests(), None).objects;
                let of_namespace = || objects.namespace(&key.name)?.metadata.label(label);
                let of_pod = || objects.pods.get(key)?.label(label);
                let value = if key.kind == Kind::Namespace { of_namespace() } else { of_pod() };
                Ok(value.map(str::to_owned))
            }
            Self::Cluster(cluster) => cluster.label_of(key, label),
        }
    }

    /// Gateways of one namespace, or of all.
    pub(crate) fn gateways(&self, namespace: Option<&str>) -> Result<Vec<Gateway>> {
        match self {
            Self::Directory(layout) => {
                let objects = directory::load(&layout.manifests(), None).objects;
                let wanted = |key: &ObjectKey| namespace.is_none_or(|namespace| key.namespace == namespace);
                let gateways = objects.gateways.iter().filter(|(key, _)| wanted(key));
                Ok(gateways.map(|(_, gateway)| Gateway::clone(gateway)).collect())
            }
            Self::Cluster(cluster) => cluster.gateways(namespace),
        }
    }

    /// Sets and removes labels; says what became of the object.
    pub(crate) fn label(&self, key: &ObjectKey, changes: &[LabelChange<'_>]) -> Result<&'static str> {
        match self {
            Self::Directory(layout) => {
                let changes: Vec<String> = changes.iter().map(as_kubectl).collect();
                Ok(apply::label(layout, key.kind, &key.namespace, &key.name, &changes)?.what)
            }
            Self::Cluster(cluster) => cluster.label(key, changes),
        }
    }

    /// Adds or changes a gateway; says what became of it.
    pub(crate) fn apply_gateway(&self, gateway: &Value) -> Result<&'static str> {
        match self {
            Self::Directory(layout) => {
                let report = apply::apply(layout, &[input(gateway)])?;
                match (report.errors.first(), report.changes.first()) {
                    (Some(error), _) => Err(Error::new("the gateway is refused").because(error.clone())),
                    (None, change) => Ok(change.map_or("unchanged", |change| change.what)),
                }
            }
            Self::Cluster(cluster) => cluster.apply_gateway(gateway),
        }
    }

    /// Deletes a gateway; says whether it was there.
    pub(crate) fn delete_gateway(&self, namespace: &str, name: &str) -> Result<&'static str> {
        match self {
            Self::Directory(layout) => {
                let gateway = json!({
                    "apiVersion": Kind::Gateway.api_version(), "kind": Kind::Gateway.as_str(),
                    "metadata": {"name": name, "namespace": namespace},
                });
                let report = apply::delete(layout, &[input(&gateway)])?;
                Ok(report.changes.first().map_or("not found", |change| change.what))
            }
            Self::Cluster(cluster) => cluster.delete_gateway(namespace, name),
        }
    }
}

fn input(gateway: &Value) -> Input {
    Input { name: "the gateway".to_owned(), text: format!("{gateway:#}\n") }
}

/// As `kubectl label` takes it.
fn as_kubectl((key, value): &LabelChange<'_>) -> String {
    value.map_or_else(|| format!("{key}-"), |value| format!("{key}={value}"))
}
