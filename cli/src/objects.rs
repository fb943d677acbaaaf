//! The objects of a mesh, in a directory of manifests or in a cluster: read, label, apply, delete.

mod cluster;

use fairway_core::source::gateway::Gateway;
use fairway_core::source::labels::{HasLabels, USE_WAYPOINT, USE_WAYPOINT_NAMESPACE};
use fairway_core::source::{DEFAULT_NAMESPACE, Kind, Loaded, ObjectKey, Objects as SourceObjects, directory};
use fairway_lab::apply::{self, Input};
use fairway_lab::layout::Layout;
use fairway_lab::options::Config;
use fairway_lab::{Error, Result};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

pub(crate) use cluster::{Cluster, failed};

/// What became of an object that was to be deleted and was not there.
pub(crate) const NOT_FOUND: &str = "not found";

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

    /// Refuses a namespace that is not there, which a directory of manifests would take: nothing in it would ever be meant. One
    /// with objects of its own needs no manifest.
    pub(crate) fn require_namespace(&self, name: &str) -> Result<()> {
        let Self::Directory(layout) = self else { return Ok(()) };
        let loaded = directory::load(&layout.manifests(), None);
        if name == DEFAULT_NAMESPACE || has_namespace(&loaded, name) {
            return Ok(());
        }
        let known: Vec<&str> = loaded.objects.namespaces.keys().map(|key| key.name.as_str()).collect();
        Err(Error::new(format!("there is no namespace {name}")).hint(format!("there are: {}", known.join(" "))))
    }

    /// What asks for a waypoint, by its labels or by those of its namespace.
    pub(crate) fn bound_to(&self, namespace: &str, waypoint: &str) -> Result<Vec<ObjectKey>> {
        Ok(bound(&self.loaded()?.objects, namespace, waypoint))
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
                Ok(report.changes.first().map_or(NOT_FOUND, |change| change.what))
            }
            Self::Cluster(cluster) => cluster.delete_gateway(namespace, name),
        }
    }
}

/// Whether there is a namespace, or an object in it.
fn has_namespace(loaded: &Loaded, name: &str) -> bool {
    let objects = &loaded.objects;
    let of = [objects.pods.keys().collect::<Vec<_>>(), objects.services.keys().collect()];
    objects.namespace(name).is_some() || of.iter().flatten().any(|key| key.namespace == name)
}

/// What asks for this waypoint: in its namespace, or elsewhere by naming that.
fn bound(objects: &SourceObjects, namespace: &str, waypoint: &str) -> Vec<ObjectKey> {
    let asks =
        |name: Option<&str>, of: Option<&str>, own: &str| name == Some(waypoint) && of.unwrap_or(own) == namespace;
    let by_metadata = |it: &ObjectMeta, own: &str| asks(it.label(USE_WAYPOINT), it.label(USE_WAYPOINT_NAMESPACE), own);
    let namespaces = objects.namespaces.iter().filter(|(key, it)| by_metadata(&it.metadata, &key.name));
    let services = objects.services.iter().filter(|(key, it)| by_metadata(&it.metadata, &key.namespace));
    let entries = objects.service_entries.iter().filter(|(key, it)| by_metadata(&it.metadata, &key.namespace));
    let pods = objects
        .pods
        .iter()
        .filter(|(key, it)| asks(it.label(USE_WAYPOINT), it.label(USE_WAYPOINT_NAMESPACE), &key.namespace));
    let (namespaces, services) = (namespaces.map(|(key, _)| key), services.map(|(key, _)| key));
    let (entries, pods) = (entries.map(|(key, _)| key), pods.map(|(key, _)| key));
    namespaces.chain(services).chain(entries).chain(pods).cloned().collect()
}

fn input(gateway: &Value) -> Input {
    Input { name: "the gateway".to_owned(), text: format!("{gateway:#}\n") }
}

/// As `kubectl label` takes it.
fn as_kubectl((key, value): &LabelChange<'_>) -> String {
    value.map_or_else(|| format!("{key}-"), |value| format!("{key}={value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_for_a_waypoint_is_found_and_namespaces_are_known_by_what_is_in_them() {
        let directory = tempfile::tempdir().unwrap();
        let manifests = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/use-waypoint: way}}\n---\n\
            apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: street, labels: {istio.io/use-waypoint: way, \
            istio.io/use-waypoint-namespace: shop}}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n---\n\
            apiVersion: v1\nkind: Service\nmetadata: {name: own, namespace: street, labels: {istio.io/use-waypoint: way}}\n\
            spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}\n";
        std::fs::write(directory.path().join("a.yaml"), manifests).unwrap();
        let loaded = directory::load(directory.path(), None);
        let names = |namespace: &str, waypoint: &str| -> Vec<String> {
            bound(&loaded.objects, namespace, waypoint).iter().map(ToString::to_string).collect()
        };
        assert_eq!(names("shop", "way"), ["Namespace shop", "Service street/web"]);
        assert_eq!(names("street", "way"), ["Service street/own"]);
        assert_eq!(names("shop", "other"), Vec::<String>::new());
        let known = ["shop", "street", "shpo"].map(|name| has_namespace(&loaded, name));
        assert_eq!(known, [true, true, false]);
    }
}
