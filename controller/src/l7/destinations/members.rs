//! Which workloads a subset has: those with its labels, where the service is.

use std::collections::{BTreeMap, BTreeSet};

use fairway_core::source::objects::matches_labels;
use fairway_core::source::{Kind, ObjectKey};

use crate::l7::catalog::Catalog;
use crate::translate::entry::{selectable, workload_entry_uid};
use crate::translate::workload;

/// Uids of the workloads with these labels in some namespaces. Which of them serve anything is another question.
pub(super) fn members(
    catalog: Catalog<'_>,
    namespaces: &BTreeSet<String>,
    labels: &BTreeMap<String, String>,
) -> BTreeSet<String> {
    let mut members = BTreeSet::new();
    for namespace in namespaces {
        let pods = catalog.objects.pods.range(ObjectKey::new(Kind::Pod, namespace, "")..);
        let pods = pods.take_while(|(key, _)| key.namespace == *namespace);
        let pods = pods.filter(|(_, pod)| matches_labels(&pod.metadata, labels));
        members.extend(pods.map(|(key, _)| workload::uid(namespace, &key.name, catalog.settings)));
        let entries = catalog.objects.workload_entries.range(ObjectKey::new(Kind::WorkloadEntry, namespace, "")..);
        let entries = entries.take_while(|(key, _)| key.namespace == *namespace);
        let entries = entries.filter(|(_, entry)| matches_labels(&selectable(entry), labels));
        members.extend(entries.map(|(key, _)| workload_entry_uid(key, catalog.settings)));
    }
    members
}
