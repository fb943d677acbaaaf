//! What the lab says of its pods, written to the API server as a kubelet does; and their end.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_core::source::ObjectKey;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Reports;
use super::work::RETRY;

/// What there is to say of one pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    /// Which of all pods that ever had this name.
    pub(crate) uid: String,
    /// How it is now.
    pub(crate) state: State,
}

/// How a pod is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    /// It is there, and this is its `status`.
    Present(Value),
    /// Nothing of it is left.
    Ended,
}

/// Writes every report that differs from what was written last, for ever.
pub(crate) async fn run(client: &Client, mut reports: watch::Receiver<Arc<Reports>>) {
    let mut written: BTreeMap<ObjectKey, Report> = BTreeMap::new();
    loop {
        let wanted = reports.borrow_and_update().clone();
        written.retain(|key, _| wanted.contains_key(key));
        let mut failed = false;
        let due: Vec<_> = wanted.iter().filter(|(key, report)| written.get(*key) != Some(*report)).collect();
        for (key, report) in due {
            match write(client, key, report).await {
                Ok(()) => drop(written.insert(key.clone(), report.clone())),
                Err(error) => {
                    tracing::warn!(%error, pod = %key, "cannot say how a pod is; trying again");
                    failed = true;
                }
            }
        }
        let changed = reports.changed();
        if failed {
            // Newer reports are as good a reason to try again as time is.
            if matches!(timeout(RETRY, changed).await, Ok(Err(_))) {
                return;
            }
        } else if changed.await.is_err() {
            return;
        }
    }
}

async fn write(client: &Client, key: &ObjectKey, report: &Report) -> kube::Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    let State::Present(status) = &report.state else {
        let at_once = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(report.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        return or_gone(api.delete(&key.name, &at_once).await.map(drop));
    };
    let patch = json!({"metadata": {"uid": report.uid}, "status": status});
    or_gone(api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop))
}

/// Of a pod that is gone, or has made way for another one, there is nothing to say.
fn or_gone(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other,
    }
}
