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

/// What of an installation a lab does itself: it runs the mesh's parts, and they are not in pods.
const THE_LABS: [&str; 5] = ["DaemonSet", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"];
/// Port of the controller for the webhook.
const WEBHOOK_PORT: u16 = 15017;

/// Applies everything; comes back when all of it is there. Gateway API's definitions are those in `gateway_api`, if it exists.
pub(crate) async fn install(client: &Client, gateway_api: &Path) -> Result<()> {
    let definitions = definitions(gateway_api)?;
    for object in definitions.iter().chain(&installation(!definitions.is_empty())?) {
        apply(client, object).await?;
    }
    Ok(())
}

/// Kinds, then the namespace, then who may do what, as the chart has them.
fn installation(with_gateways: bool) -> Result<Vec<Value>> {
    let doing = || "rendering the chart";
    let values = json!({"namespace": {"create": true}, "waypoints": {"enabled": true}});
    let rendered = fairway_manifests::render(&values, fairway_manifests::NAMESPACE, MANAGER).doing(doing)?;
    let mut objects = fairway_manifests::definitions().doing(doing)?;
    let (first, rest): (Vec<_>, Vec<_>) =
        rendered.objects.into_iter().partition(|object| object["kind"] == "Namespace");
    objects.extend(first);
    let is_wanted = |object: &Value| {
        let kind = object["kind"].as_str().unwrap_or_default();
        !THE_LABS.contains(&kind) && (with_gateways || kind != "GatewayClass")
    };
    objects.extend(rest.into_iter().filter(is_wanted).map(|object| match object["kind"].as_str() {
        Some("ValidatingWebhookConfiguration") => on_underlay(object),
        _ => object,
    }));
    Ok(objects)
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

fn definitions(directory: &Path) -> Result<Vec<Value>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(directory).doing(|| format!("reading {}", directory.display()))?;
    let files =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "yaml"));
    let mut objects = Vec::new();
    for path in files {
        let doing = || format!("reading {}", path.display());
        let text = fs::read_to_string(&path).doing(doing)?;
        objects.extend(fairway_manifests::documents(&path.to_string_lossy(), &text).doing(doing)?);
    }
    Ok(objects)
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
        let objects = installation(true).unwrap();
        for object in &objects {
            assert!(object["apiVersion"].is_string() && object["metadata"]["name"].is_string(), "{object}");
        }
        let has = |kind: &str| objects.iter().any(|object| object["kind"] == kind);
        assert!(has("CustomResourceDefinition") && has("ClusterRoleBinding") && has("GatewayClass"));
        assert!(!has("Deployment") && !has("DaemonSet"), "the lab runs the parts itself");
        assert!(!installation(false).unwrap().iter().any(|object| object["kind"] == "GatewayClass"));
    }

    #[test]
    fn the_webhook_is_asked_where_the_controller_is() {
        let objects = installation(true).unwrap();
        let webhook = objects.iter().find(|object| object["kind"] == "ValidatingWebhookConfiguration").unwrap();
        assert_eq!(webhook["webhooks"][0]["failurePolicy"], "Ignore");
        assert_eq!(webhook["webhooks"][0]["clientConfig"], json!({"url": "https://10.99.0.1:15017/validate"}));
    }

    #[test]
    fn no_part_of_the_mesh_may_do_more_than_is_spelt_out() {
        let objects = installation(true).unwrap();
        let roles = objects.iter().filter(|object| matches!(object["kind"].as_str(), Some("ClusterRole" | "Role")));
        let rules: Vec<&Value> = roles.flat_map(|role| role["rules"].as_array().into_iter().flatten()).collect();
        assert!(rules.len() > 5, "{rules:?}");
        for rule in rules {
            assert!(!rule.to_string().contains('*'), "{rule}");
        }
    }
}
