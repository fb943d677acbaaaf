//! Conditions in the API server: server-side apply to the status of the object, by the replica that holds the lease.

use fairway_core::source::ObjectKey;
use serde_json::Value;

use super::Writer;
use super::lease::Leadership;
use crate::api_server;

/// Writes by server-side apply while it leads.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    leads: Leadership,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("leads", &self.leads).finish_non_exhaustive()
    }
}

impl Cluster {
    /// A writer that writes while `leads` says so.
    #[must_use]
    pub fn new(client: kube::Client, leads: Leadership) -> Self {
        Self { client, leads }
    }
}

impl Writer for Cluster {
    async fn write(&mut self, key: &ObjectKey, status: Value) -> Result<(), String> {
        let kind = key.kind;
        let version = kind.versions().first().copied().unwrap_or("v1");
        let resource = api_server::resource(kind.group(), version, kind.as_str(), kind.plural());
        api_server::say(&self.client, &resource, &key.namespace, &key.name, &status).await
    }

    async fn forget(&mut self, _: &ObjectKey) {}

    fn may_write(&mut self) -> bool {
        self.leads.may_write()
    }

    async fn turn(&mut self) {
        if self.leads.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
