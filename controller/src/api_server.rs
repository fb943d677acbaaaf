//! Writing to the API server: as whom, how long an answer may take, and what a refusal means.

use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::{Value, json};

/// Name of the controller among the owners of fields.
const MANAGER: &str = "fairway-controller";
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a request gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Server(Box<kube::Error>),
    #[error("the API server did not answer within {0:?}")]
    Silent(Duration),
}

/// The answer, if it comes in time.
pub(crate) async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Failure::Server(Box::new(error))),
        Err(_) => Err(Failure::Silent(PATIENCE)),
    }
}

/// What is gone need not be changed.
pub(crate) fn unless_gone(failure: Failure) -> Result<(), String> {
    match &failure {
        Failure::Server(error) if matches!(error.as_ref(), kube::Error::Api(status) if status.code == 404) => Ok(()),
        _ => Err(failure.to_string()),
    }
}

/// Server-side application in the controller's name.
pub(crate) fn application() -> PatchParams {
    PatchParams::apply(MANAGER).force()
}

/// How the API calls a kind.
pub(crate) fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// Says `status` of an object, which is without a namespace where that is empty; one that is gone needs none.
pub(crate) async fn say(
    client: &kube::Client,
    resource: &ApiResource,
    namespace: &str,
    name: &str,
    status: &Value,
) -> Result<(), String> {
    let mut partial = json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, "status": status});
    let api: Api<DynamicObject> = if namespace.is_empty() {
        Api::all_with(client.clone(), resource)
    } else {
        partial["metadata"]["namespace"] = json!(namespace);
        Api::namespaced_with(client.clone(), namespace, resource)
    };
    let patch = Patch::Apply(&partial);
    within(api.patch_status(name, &application(), &patch)).await.map(drop).or_else(unless_gone)
}
