//! Conditions in the API server: server-side apply to the status of the object, by the replica that holds the lease.

use fairway_core::source::cluster::api_resource;
use fairway_core::source::{Kind, ObjectKey};
use kube::api::{Api, ApiResource, DynamicObject, Patch};
use serde_json::{Value, json};

use super::lease::Leadership;
use super::{Writer, addressed, routes};
use crate::api_server::{self, application, is_conflict, unless_gone, within};

/// How often a status is written that others write at the same time; what fails is tried again later.
const ATTEMPTS: usize = 4;

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

/// A list in the status of an object that several controllers write, as a whole: its name, and which entries are ours.
type Shared = (&'static str, fn(&Value) -> bool);

/// The shared list of a kind, if it has one. Conditions of Services are none: the API server tells them apart by type.
fn shared(kind: Kind) -> Option<Shared> {
    match kind {
        Kind::HTTPRoute | Kind::GRPCRoute | Kind::TCPRoute | Kind::TLSRoute => Some(("parents", routes::is_ours)),
        Kind::BackendTLSPolicy => Some(("ancestors", routes::is_ours)),
        Kind::ServiceEntry | Kind::WorkloadEntry => Some(("conditions", addressed::is_ours)),
        _ => None,
    }
}

/// `wanted`, with our entries of the list beside those that others have there now.
fn beside(present: &Value, wanted: &Value, (field, is_ours): Shared) -> Value {
    let entries = |status: &Value| status.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let others = entries(present).into_iter().filter(|entry| !is_ours(entry));
    let ours = entries(wanted).into_iter().filter(is_ours);
    let mut status = wanted.clone();
    status[field] = others.chain(ours).collect();
    status
}

impl Cluster {
    /// Writes a list of which others have a part: what they say may be newer than what has been read, so it is read again and
    /// replaced only if nobody has written in between.
    async fn write_beside(
        &self,
        resource: &ApiResource,
        key: &ObjectKey,
        wanted: &Value,
        list: Shared,
    ) -> Result<(), String> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, resource);
        for _ in 0..ATTEMPTS {
            let present = match within(api.get_opt(&key.name)).await {
                Ok(Some(present)) => present,
                Ok(None) => return Ok(()),
                Err(failure) => return Err(failure.to_string()),
            };
            let status = beside(present.data.get("status").unwrap_or(&Value::Null), wanted, list);
            let partial = json!({
                "apiVersion": resource.api_version, "kind": resource.kind, "status": status,
                "metadata": {
                    "name": key.name, "namespace": key.namespace, "resourceVersion": present.metadata.resource_version,
                },
            });
            match within(api.patch_status(&key.name, &application(), &Patch::Apply(&partial))).await {
                Err(failure) if is_conflict(&failure) => {}
                result => return result.map(drop).or_else(unless_gone),
            }
        }
        Err(format!("others wrote its status at the same time, {ATTEMPTS} times"))
    }
}

impl Writer for Cluster {
    async fn write(&mut self, key: &ObjectKey, status: Value) -> Result<(), String> {
        let resource = api_resource(key.kind);
        match shared(key.kind) {
            Some(list) => self.write_beside(&resource, key, &status, list).await,
            None => api_server::say(&self.client, &resource, &key.namespace, &key.name, &status).await,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_others_stay_as_they_are_now() {
        let theirs = |text: &str| json!({"controllerName": "other", "conditions": [text]});
        let ours = |text: &str| json!({"controllerName": "fairway.dev/controller", "conditions": [text]});
        let present = json!({"parents": [theirs("new"), ours("before")], "more": 1});
        let wanted = json!({"parents": [theirs("old"), ours("now")]});
        let list = shared(Kind::HTTPRoute).unwrap();
        assert_eq!(beside(&present, &wanted, list), json!({"parents": [theirs("new"), ours("now")]}));
        assert_eq!(beside(&Value::Null, &wanted, list), json!({"parents": [ours("now")]}));
        let entry = json!({"conditions": [], "addresses": [{"host": "a.example", "value": "240.240.0.1"}]});
        assert_eq!(beside(&Value::Null, &entry, shared(Kind::ServiceEntry).unwrap()), entry);
        assert!(shared(Kind::AuthorizationPolicy).is_none());
    }
}
