//! What the agent says of each pod of its node, for `/debug/pods` and the metrics.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

/// Whether a pod should be captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// It should.
    Captured,
    /// It should not.
    Excluded,
    /// Its namespace could not be read; it stays as it is.
    Unknown,
}

/// Whether a pod is captured, as read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Actual {
    /// The proxy serves it and its namespace holds the right rules.
    Captured,
    /// On the way in or out, or held up by the error shown.
    Pending,
    /// Nothing of ours is there.
    Absent,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodReport {
    /// Kubernetes uid; empty when it has none yet.
    pub uid: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// What should be.
    pub desired: Desired,
    /// Why.
    pub reason: &'static str,
    /// What is.
    pub actual: Actual,
    /// What is in the way.
    pub error: Option<String>,
}

/// The latest report on all pods, shared between the one who writes it and those who show it.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    latest: Arc<watch::Sender<Latest>>,
}

/// One complete pass over the pods.
#[derive(Clone, Debug, Default)]
pub struct Latest {
    /// All pods of the node.
    pub pods: Arc<[PodReport]>,
    /// How often the pods were gone through.
    pub passes: u64,
}

impl Reports {
    /// The latest report.
    #[must_use]
    pub fn latest(&self) -> Latest {
        self.latest.borrow().clone()
    }

    /// Follows the reports.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Latest> {
        self.latest.subscribe()
    }

    pub(crate) fn publish(&self, pods: Vec<PodReport>) {
        self.latest.send_modify(|latest| {
            latest.pods = pods.into();
            latest.passes += 1;
        });
    }
}
