//! The API server, for objects of any kind: applied, read, listed, deleted.

use std::path::Path;

use fairway_lab::{Error, Result};
use kube::Api;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PropagationPolicy,
};
use kube::core::PartialObjectMeta;
use serde_json::Value;

use super::MANAGER;
use crate::connection::{self, Connection, Hint, is_missing};

/// How else a cluster is named.
const NAMED: &str = "name it with --kubeconfig and --context, as for kubectl";
/// Objects of one page of a long list, as kubectl has it.
const PAGE: u32 = 500;
/// What to do about answers.
const HINTS: [Hint; 2] = [
    (
        409,
        "somebody else has set these fields; look who with kubectl get --show-managed-fields, or take them with --force-conflicts",
    ),
    (422, "the cluster refuses the object; change the values that led to it"),
];

/// An API server, as an installation asks it.
pub(super) struct Cluster(Connection);

impl Cluster {
    /// Finds the cluster in `kubeconfig`, or where kubectl would, and takes its `context`, or the current one.
    pub(super) fn connect(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Self> {
        Connection::open(kubeconfig, context, NAMED).map(Self)
    }

    /// Which one it is, for who may have meant another.
    pub(super) fn described(&self) -> &str {
        self.0.described()
    }

    /// Which Kubernetes it runs.
    pub(super) fn version(&self) -> Result<(u32, u32)> {
        let told = self.0.run(self.0.client().apiserver_version());
        let told = told.map_err(|error| failed("asking the cluster for its version", error))?;
        let number = |text: &str| {
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().unwrap_or(0)
        };
        Ok((number(&told.major), number(&told.minor)))
    }

    /// Whether it knows this group and version.
    pub(super) fn serves(&self, api_version: &str) -> Result<bool> {
        match self.0.run(self.0.client().list_api_group_resources(api_version)) {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(failed(&format!("asking the cluster for {api_version}"), error)),
        }
    }

    /// Server-side apply. `force` takes over fields of others.
    pub(super) fn apply(&self, object: &Value, force: bool) -> Result<()> {
        let (kind, namespace, name) = fairway_manifests::key(object);
        let api = self.api(object["apiVersion"].as_str().unwrap_or("v1"), &kind, &namespace);
        let parameters = PatchParams { force, ..PatchParams::apply(MANAGER) };
        let applied = self.0.run(api.patch(&name, &parameters, &Patch::Apply(object)));
        applied.map_err(|error| failed(&format!("applying {kind} {name}"), error))?;
        Ok(())
    }

    /// The object of this name, if it is there.
    pub(super) fn get(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        match self.0.run(self.api(api_version, kind, namespace).get_opt(name)) {
            Ok(found) => found.map(|found| value(found, api_version, kind)).transpose(),
            Err(error) => Err(failed(&format!("reading {kind} {name}"), error)),
        }
    }

    /// What is there under the name of `object`.
    pub(super) fn same(&self, object: &Value) -> Result<Option<Value>> {
        let (kind, namespace, name) = fairway_manifests::key(object);
        self.get(object["apiVersion"].as_str().unwrap_or("v1"), &kind, &namespace, &name)
    }

    /// All objects of a kind, in all namespaces, with these labels; none when the kind is not served.
    pub(super) fn list(&self, api_version: &str, kind: &str, labels: &str) -> Result<Vec<Value>> {
        let parameters = ListParams::default().labels(labels);
        match self.0.run(self.api(api_version, kind, "").list(&parameters)) {
            Ok(list) => list.items.into_iter().map(|object| value(object, api_version, kind)).collect(),
            Err(error) if is_missing(&error) => Ok(Vec::new()),
            Err(error) => Err(failed(&format!("listing objects of kind {kind}"), error)),
        }
    }

    /// What is said of all objects of a kind, in all namespaces, without what they are: a page at a time, as there may be very many.
    pub(super) fn metadata(&self, api_version: &str, kind: &str, fields: &str) -> Result<Vec<Value>> {
        let api = self.api(api_version, kind, "");
        let mut parameters = ListParams::default().fields(fields).limit(PAGE);
        let mut found = Vec::new();
        loop {
            let page = self.0.run(api.list_metadata(&parameters));
            let page = page.map_err(|error| failed(&format!("listing objects of kind {kind}"), error))?;
            let said = |object: PartialObjectMeta<DynamicObject>| serde_json::json!({"apiVersion": api_version, "kind": kind, "metadata": object.metadata});
            found.extend(page.items.into_iter().map(said));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    /// Changes fields of an object that is there.
    pub(super) fn merge(&self, object: &Value, change: &Value) -> Result<()> {
        let (kind, namespace, name) = fairway_manifests::key(object);
        let api = self.api(object["apiVersion"].as_str().unwrap_or("v1"), &kind, &namespace);
        match self.0.run(api.patch(&name, &PatchParams::default(), &Patch::Merge(change))) {
            Ok(_) => Ok(()),
            // It went by itself.
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(failed(&format!("changing {kind} {name}"), error)),
        }
    }

    /// Deletes an object, after what hangs on it.
    pub(super) fn delete(&self, object: &Value) -> Result<()> {
        let (kind, namespace, name) = fairway_manifests::key(object);
        let api = self.api(object["apiVersion"].as_str().unwrap_or("v1"), &kind, &namespace);
        let parameters =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
        match self.0.run(api.delete(&name, &parameters)) {
            Ok(_) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(failed(&format!("deleting {kind} {name}"), error)),
        }
    }

    fn api(&self, api_version: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match namespace {
            "" => Api::all_with(self.0.client(), &resource),
            namespace => Api::namespaced_with(self.0.client(), namespace, &resource),
        }
    }
}

/// Items of a list do not say what they are (Kubernetes API conventions, "Lists").
fn value(object: DynamicObject, api_version: &str, kind: &str) -> Result<Value> {
    let mut value =
        serde_json::to_value(object).map_err(|error| Error::new(format!("reading a {kind}")).because(error))?;
    value["apiVersion"] = api_version.into();
    value["kind"] = kind.into();
    Ok(value)
}

fn failed(doing: &str, error: kube::Error) -> Error {
    connection::failed(doing, error, &HINTS)
}
