//! Objects of a cluster, through its API server.

use std::path::Path;
use std::time::Duration;

use fairway_core::source::cluster::api_resource;
use fairway_core::source::gateway::Gateway;
use fairway_core::source::{self, Kind, Loaded, ObjectKey, Source};
use fairway_lab::{Error, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, TypeMeta};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::LabelChange;
use crate::connection::{self, Connection, Hint, is_missing};

/// Who applied what this command applies.
const FIELD_MANAGER: &str = "fairway-cli";

/// Longest wait for all objects of a cluster.
const PATIENCE: Duration = Duration::from_secs(30);

/// How else a mesh is named.
const NAMED: &str = "name it with --kubeconfig and --context, as for kubectl; a lab is named with --lab";
/// What to do about answers.
const HINTS: [Hint; 1] = [(404, "see that it exists, and that Gateway API is installed")];

/// An API server, as commands ask it that look at a mesh.
pub(crate) struct Cluster(Connection);

impl Cluster {
    /// Finds the cluster in `kubeconfig`, or where kubectl would, and takes its `context`, or the current one.
    pub(crate) fn connect(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Self> {
        Connection::open(kubeconfig, context, NAMED).map(Self)
    }

    /// A client of its API server.
    pub(crate) fn client(&self) -> Client {
        self.0.client()
    }

    /// Runs a request to its end.
    pub(crate) fn run<T>(&self, request: impl Future<Output = T>) -> T {
        self.0.run(request)
    }

    /// All objects that a mesh reads, as its controller reads them. Kinds that cannot be listed are among its errors.
    pub(super) fn loaded(&self) -> Result<Loaded> {
        let loaded = self.run(async {
            let source = Box::new(source::cluster::Cluster::new(self.client()));
            let mut readings = source.start(&Loaded::default()).loaded;
            let all = readings.wait_for(|loaded| !loaded.is_never_read());
            let found =
                tokio::time::timeout(PATIENCE, all).await.map(|found| found.map(|loaded| Loaded::clone(&loaded)));
            match found {
                Ok(Ok(loaded)) => Ok(loaded),
                // What could not be listed is told of by name.
                _ => Err(readings.borrow().errors.iter().map(ToString::to_string).collect::<Vec<_>>()),
            }
        });
        loaded.map_err(|errors| {
            let because = if errors.is_empty() { format!("no answer within {PATIENCE:?}") } else { errors.join("; ") };
            Error::new("reading the objects of the cluster")
                .because(because)
                .hint("it takes the right to list and watch them: kubectl auth can-i list pods -A")
        })
    }

    /// What a config map holds under a key, if it does.
    pub(crate) fn data(&self, namespace: &str, name: &str, key: &str) -> Result<Option<String>> {
        let api: Api<ConfigMap> = Api::namespaced(self.client(), namespace);
        let map = self.run(api.get_opt(name));
        let map = map.map_err(|error| failed(&format!("reading config map {namespace}/{name}"), error))?;
        Ok(map.and_then(|map| map.data?.remove(key)))
    }

    pub(super) fn namespaces(&self) -> Result<Vec<Namespace>> {
        let api: Api<Namespace> = Api::all(self.client());
        let list = self.run(api.list(&ListParams::default()));
        Ok(list.map_err(|error| failed("listing namespaces", error))?.items)
    }

    pub(super) fn gateways(&self, namespace: Option<&str>) -> Result<Vec<Gateway>> {
        let api = match namespace {
            Some(namespace) => self.gateway_api(namespace),
            None => Api::all_with(self.client(), &api_resource(Kind::Gateway)),
        };
        let list = self.run(api.list(&ListParams::default()));
        let list = list.map_err(|error| failed("listing gateways", error))?;
        list.items.into_iter().map(gateway).collect()
    }

    /// A label of an object.
    pub(crate) fn label_of(&self, key: &ObjectKey, label: &str) -> Result<Option<String>> {
        let object = self.run(self.api(key).get_metadata(&key.name));
        let object = object.map_err(|error| failed(&format!("reading {key}"), error))?;
        Ok(object.metadata.labels.and_then(|mut labels| labels.remove(label)))
    }

    pub(super) fn label(&self, key: &ObjectKey, changes: &[LabelChange<'_>]) -> Result<&'static str> {
        let api = self.api(key);
        let labels: serde_json::Map<String, Value> =
            changes.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        let before = self.run(api.get(&key.name)).map_err(|error| failed(&format!("reading {key}"), error))?;
        let after = self.run(api.patch(&key.name, &PatchParams::default(), &patch));
        let after = after.map_err(|error| failed(&format!("labelling {key}"), error))?;
        Ok(if before.metadata.labels == after.metadata.labels { "unchanged" } else { "labeled" })
    }

    pub(super) fn apply_gateway(&self, gateway: &Value) -> Result<&'static str> {
        let text = |pointer| gateway.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let api = self.gateway_api(namespace);
        let doing = format!("applying gateway {namespace}/{name}");
        let before = self.run(api.get_opt(name)).map_err(|error| failed(&doing, error))?;
        let parameters = PatchParams::apply(FIELD_MANAGER);
        let after = self.run(api.patch(name, &parameters, &Patch::Apply(gateway)));
        let after = after.map_err(|error| failed(&doing, error))?;
        Ok(match before {
            None => "created",
            Some(before) if before.metadata.resource_version == after.metadata.resource_version => "unchanged",
            Some(_) => "changed",
        })
    }

    pub(super) fn delete_gateway(&self, namespace: &str, name: &str) -> Result<&'static str> {
        let api = self.gateway_api(namespace);
        match self.run(api.delete(name, &DeleteParams::default())) {
            Ok(_) => Ok("deleted"),
            Err(error) if is_missing(&error) => Ok(super::NOT_FOUND),
            Err(error) => Err(failed(&format!("deleting gateway {namespace}/{name}"), error)),
        }
    }

    fn api(&self, key: &ObjectKey) -> Api<DynamicObject> {
        let resource = api_resource(key.kind);
        if key.namespace.is_empty() {
            Api::all_with(self.client(), &resource)
        } else {
            Api::namespaced_with(self.client(), &key.namespace, &resource)
        }
    }

    fn gateway_api(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client(), namespace, &api_resource(Kind::Gateway))
    }
}

/// Items of a list do not say what they are (Kubernetes API conventions, "Lists").
fn gateway(mut object: DynamicObject) -> Result<Gateway> {
    object.types = Some(TypeMeta { api_version: Kind::Gateway.api_version(), kind: Kind::Gateway.to_string() });
    let read = serde_json::to_value(object).and_then(serde_json::from_value);
    read.map_err(|error| Error::new("reading a gateway").because(error))
}

/// What could not be done with the cluster, and what to do about it.
pub(crate) fn failed(doing: &str, error: kube::Error) -> Error {
    connection::failed(doing, error, &HINTS)
}
