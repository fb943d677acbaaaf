//! The pods that wait to be served, for operators.

use std::sync::{Arc, Mutex, PoisonError};

use super::{PodInfo, PodUid};

/// A pod that could not be started yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingPod {
    /// Its UID.
    pub uid: PodUid,
    /// Who it is.
    pub info: PodInfo,
    /// Why it could not be started the last time.
    pub error: String,
}

/// The pods that wait, as the node socket's client last knew them. Cheap to clone; clones share the list.
#[derive(Clone, Debug, Default)]
pub struct PendingPods {
    list: Arc<Mutex<Vec<PendingPod>>>,
}

impl PendingPods {
    /// The pods that wait now.
    #[must_use]
    pub fn list(&self) -> Vec<PendingPod> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, pods: Vec<PendingPod>) {
        *self.list.lock().unwrap_or_else(PoisonError::into_inner) = pods;
    }
}
