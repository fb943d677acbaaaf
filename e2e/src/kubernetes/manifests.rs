//! What a user would install first, applied to the lab's API server: definitions of kinds, and who may do what.

use std::fs;
use std::path::Path;

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::cluster::MANAGER;
use super::work::insist;
use crate::addresses::UNDERLAY_V4;
use crate::error::{Doing, Result};

/// What is installed, in this order: kinds, then the namespace, then who may do what.
const FILES: [&str; 13] = [
    include_str!("../../../manifests/crds/authorizationpolicies.yaml"),
    include_str!("../../../manifests/crds/peerauthentications.yaml"),
    include_str!("../../../manifests/crds/serviceentries.yaml"),
    include_str!("../../../manifests/crds/workloadentries.yaml"),
    include_str!("../../../manifests/crds/virtualservices.yaml"),
    include_str!("../../../manifests/crds/requestauthentications.yaml"),
    include_str!("../../../manifests/crds/ratelimits.yaml"),
    include_str!("../../../manifests/crds/destinationrules.yaml"),
    include_str!("../../../manifests/crds/telemetries.yaml"),
    include_str!("../../../manifests/rbac/namespace.yaml"),
    include_str!("../../../manifests/rbac/controller.yaml"),
    include_str!("../../../manifests/rbac/node.yaml"),
    include_str!("../../../manifests/rbac/waypoints.yaml"),
];

/// Asks the controller of what is applied.
const WEBHOOK: &str = include_str!("../../../manifests/webhook/validating.yaml");
/// Port of the controller for that.
const WEBHOOK_PORT: u16 = 15017;

/// What takes Gateway API's definitions.
const CLASS: &str = include_str!("../../../manifests/waypoint/gatewayclass.yaml");

/// Applies everything; comes back when all of it is there. Gateway API's definitions are those in `gateway_api`, if it exists.
pub(crate) async fn install(client: &Client, gateway_api: &Path) -> Result<()> {
    let definitions = definitions(gateway_api)?;
    let class: &[&str] = if definitions.is_empty() { &[] } else { &[CLASS] };
    let all = objects(&definitions.iter().map(String::as_str).collect::<Vec<_>>())?;
    let webhook = objects(&[WEBHOOK])?.into_iter().map(on_underlay);
    for object in all.into_iter().chain(objects(&FILES)?).chain(objects(class)?).chain(webhook) {
        apply(client, &object).await?;
    }
    Ok(())
}

/// The API server of a lab is not behind the addresses of services, and finds the controller on the underlay.
fn on_underlay(mut configuration: Value) -> Value {
    for webhook in configuration.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
        let path = webhook.pointer("/clientConfig/service/path").and_then(Value::as_str).unwrap_or_default();
        let url = format!("https://{UNDERLAY_V4}:{WEBHOOK_PORT}{path}");
        if let Some(webhook) = webhook.as_object_mut() {
            webhook.insert("clientConfig".to_owned(), json!({"url": url}));
        }
    }
    configuration
}

fn definitions(directory: &Path) -> Result<Vec<String>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(directory).doing(|| format!("reading {}", directory.display()))?;
    let files =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "yaml"));
    files.map(|path| fs::read_to_string(&path).doing(|| format!("reading {}", path.display()))).collect()
}

fn objects(files: &[&str]) -> Result<Vec<Value>> {
    let documents = files.iter().flat_map(|file| file.split("\n---\n")).filter(|text| text.contains("kind:"));
    documents
        .map(|document| serde_saphyr::from_str(document).doing(|| "reading the manifests of an installation"))
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_installed_can_be_applied() {
        let objects = objects(&FILES).unwrap();
        for object in &objects {
            assert!(object["apiVersion"].is_string() && object["metadata"]["name"].is_string(), "{object}");
        }
        assert!(objects.iter().any(|object| object["kind"] == "CustomResourceDefinition"));
        assert!(objects.iter().any(|object| object["kind"] == "ClusterRoleBinding"));
    }

    #[test]
    fn the_webhook_is_asked_where_the_controller_is() {
        let [webhook] = objects(&[WEBHOOK]).unwrap().try_into().unwrap();
        assert_eq!(webhook["webhooks"][0]["failurePolicy"], "Ignore");
        let here = on_underlay(webhook);
        assert_eq!(here["webhooks"][0]["clientConfig"], json!({"url": "https://10.99.0.1:15017/validate"}));
    }

    #[test]
    fn no_part_of_the_mesh_may_do_more_than_is_spelt_out() {
        let objects = objects(&FILES).unwrap();
        let roles = objects.iter().filter(|object| matches!(object["kind"].as_str(), Some("ClusterRole" | "Role")));
        let rules: Vec<&Value> = roles.flat_map(|role| role["rules"].as_array().into_iter().flatten()).collect();
        assert!(rules.len() > 5, "{rules:?}");
        for rule in rules {
            assert!(!rule.to_string().contains('*'), "{rule}");
        }
    }
}
