//! The labels of what workloads are made of, for what tells workloads apart by them when somebody asks.

use std::collections::BTreeMap;

use fairway_core::source::MeshPod;
use fairway_core::source::labels::HasLabels;
use fairway_core::source::objects::matches_labels;
use fairway_core::source::{Kind, ObjectKey, Objects};
use fairway_proto::workload::{Locality, Workload};

use super::entry::{WORKLOAD_ENTRY, selectable};
use super::nodes::locality_in;
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

    /// The value of a label of what a workload is made of.
    #[must_use]
    pub fn label(&self, workload: &Workload, key: &str) -> Option<String> {
        let Self(Some(objects)) = self else { return None };
        let object = |kind| ObjectKey::new(kind, &workload.namespace, &workload.name);
        let kind = workload.uid.strip_prefix(&workload.cluster_id).unwrap_or_default();
        if kind.starts_with(POD) {
            return objects.pods.get(&object(Kind::Pod))?.label(key).map(str::to_owned);
        }
        let entry = objects.workload_entries.get(&object(Kind::WorkloadEntry));
        let entry = entry.filter(|_| kind.starts_with(WORKLOAD_ENTRY))?;
        selectable(entry).label(key).map(str::to_owned)
    }

    /// The value of a label of a pod.
    #[must_use]
    pub fn label_of_pod(&self, namespace: &str, name: &str, key: &str) -> Option<String> {
        self.pod(namespace, name)?.label(key).map(str::to_owned)
    }

    /// The node of a pod, and where that is.
    #[must_use]
    pub fn whereabouts(&self, namespace: &str, name: &str) -> Option<(&str, Option<Locality>)> {
        let node = self.pod(namespace, name)?.node()?;
        let metadata = self.0?.nodes.get(&ObjectKey::new(Kind::Node, "", node)).map(|node| &node.metadata);
        Some((node, metadata.and_then(locality_in)))
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<&MeshPod> {
        self.0?.pods.get(&ObjectKey::new(Kind::Pod, namespace, name)).map(|pod| &**pod)
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
