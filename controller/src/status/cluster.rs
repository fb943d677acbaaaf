//! Conditions in the API server: server-side apply to the status of the object, by the replica that holds the lease.

use std::time::Duration;

use fairway_core::source::{Kind, ObjectKey};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Writer;

/// Name of the controller among the owners of fields.
const MANAGER: &str = "fairway-controller";
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes by server-side apply while it leads.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    leads: watch::Receiver<bool>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("leads", &*self.leads.borrow()).finish_non_exhaustive()
    }
}

impl Cluster {
    /// A writer that writes while `leads` says so.
    #[must_use]
    pub fn new(client: kube::Client, leads: watch::Receiver<bool>) -> Self {
        Self { client, leads }
    }
}

fn resource(kind: Kind) -> ApiResource {
    let version = kind.versions().first().copied().unwrap_or("v1");
    ApiResource {
        group: kind.group().to_owned(),
        version: version.to_owned(),
        api_version: kind.api_version(),
        kind: kind.as_str().to_owned(),
        plural: kind.plural().to_owned(),
    }
}

impl Writer for Cluster {
    async fn write(&mut self, key: &ObjectKey, status: Value) -> Result<(), String> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &resource(key.kind));
        let partial = json!({
            "apiVersion": key.kind.api_version(), "kind": key.kind.as_str(),
            "metadata": {"name": key.name, "namespace": key.namespace},
            "status": status,
        });
        let parameters = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&partial);
        let applied = api.patch_status(&key.name, &parameters, &patch);
        match tokio::time::timeout(PATIENCE, applied).await {
            Ok(Ok(_)) => Ok(()),
            // It is gone, and so is what was to be said of it.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the API server did not answer within {PATIENCE:?}")),
        }
    }

    async fn forget(&mut self, _: &ObjectKey) {}

    fn may_write(&mut self) -> bool {
        *self.leads.borrow_and_update()
    }

    async fn turn(&mut self) {
        if self.leads.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
