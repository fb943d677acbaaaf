//! What a user would install first, applied to the lab's API server: definitions of the mesh's kinds.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::cluster::MANAGER;
use super::work::insist;
use crate::error::{Doing, Result};

/// Applies everything; comes back when all of it is there.
pub(crate) async fn install(client: &Client) -> Result<()> {
    for object in definitions() {
        apply(client, &object).await?;
    }
    Ok(())
}

/// Kinds of Istio's, with whatever fields: it is the controller that says what is wrong with them.
fn definitions() -> Vec<Value> {
    [("AuthorizationPolicy", "authorizationpolicies"), ("PeerAuthentication", "peerauthentications")]
        .map(|(kind, plural)| {
            let group = "security.istio.io";
            json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": format!("{plural}.{group}")},
                "spec": {
                    "group": group, "scope": "Namespaced",
                    "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
                    "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
                },
            })
        })
        .into()
}

/// Applies one object of any kind, again and again until the API server takes it.
async fn apply(client: &Client, object: &Value) -> Result<()> {
    let text = |field: &str| object.pointer(field).and_then(Value::as_str);
    let (group, version) = text("/apiVersion").and_then(|text| text.split_once('/')).unwrap_or(("", "v1"));
    let kind = GroupVersionKind::gvk(group, version, text("/kind").unwrap_or_default());
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match text("/metadata/namespace") {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let name = text("/metadata/name").ok_or("it has no name").doing(|| format!("applying a {}", resource.kind))?;
    let (force, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(object));
    insist("applying what a user would install", || api.patch(name, &force, &patch)).await;
    Ok(())
}
