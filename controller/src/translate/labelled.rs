//! The labels of what workloads are made of, for what tells workloads apart by them when somebody asks.

use std::collections::BTreeMap;

use fairway_core::source::objects::matches_labels;
use fairway_core::source::{Kind, ObjectKey, Objects};
use fairway_proto::workload::Workload;

use super::entry::{WORKLOAD_ENTRY, selectable};
use super::workload::POD;

/// Pods and WorkloadEntries with their labels.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a>(pub(super) Option<&'a Objects>);

impl Labelled<'_> {
    /// Whether what a workload is made of has these labels. Endpoints in a ServiceEntry or a slice have none to speak of.
    #[must_use]
    pub fn has(&self, workload: &Workload, labels: &BTreeMap<String, String>) -> bool {
        let Self(Some(objects)) = self else { return false };
        let key = |kind| ObjectKey::new(kind, &workload.namespace, &workload.name);
        let kind = workload.uid.strip_prefix(&workload.cluster_id).unwrap_or_default();
        if kind.starts_with(POD) {
            return objects.pods.get(&key(Kind::Pod)).is_some_and(|pod| matches_labels(&**pod, labels));
        }
        kind.starts_with(WORKLOAD_ENTRY)
            && objects
                .workload_entries
                .get(&key(Kind::WorkloadEntry))
                .is_some_and(|entry| matches_labels(&selectable(entry), labels))
    }

    /// Whether these are the very same objects.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self.0, other.0) {
            (Some(own), Some(others)) => {
                own.pods.is_same(&others.pods) && own.workload_entries.is_same(&others.workload_entries)
            }
            (own, others) => own.is_none() && others.is_none(),
        }
    }
}
