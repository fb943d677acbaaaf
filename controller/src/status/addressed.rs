//! What is said on Services, ServiceEntries and WorkloadEntries: that something about them has no effect, by field. Those that
//! are as they should be say nothing, unless they said otherwise before.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use fairway_core::source::{Kind, ObjectKey};
use serde_json::{Value, json};

use super::Verdict;
use crate::state::Published;

/// Condition of objects whose status is others' as well.
pub(super) const FAIRWAY_ACCEPTED: &str = "fairway.dev/Accepted";

/// Whether a condition is ours.
pub(super) fn is_ours(condition: &Value) -> bool {
    condition.get("type").and_then(Value::as_str) == Some(FAIRWAY_ACCEPTED)
}

/// The conditions that an object has now; of a service, as far as they are kept.
pub(super) fn present<'a>(published: &'a Published, key: &ObjectKey) -> Cow<'a, [Value]> {
    let objects = &published.loaded.objects;
    match key.kind {
        Kind::Service => {
            let status = objects.services.get(key).and_then(|service| service.status.as_ref());
            let conditions = status.and_then(|status| status.conditions.as_ref());
            conditions.into_iter().flatten().map(|condition| json!(condition)).collect()
        }
        Kind::ServiceEntry => {
            objects.service_entries.get(key).map(|it| it.status.conditions.as_slice()).unwrap_or_default().into()
        }
        Kind::WorkloadEntry => {
            objects.workload_entries.get(key).map(|it| it.status.conditions.as_slice()).unwrap_or_default().into()
        }
        _ => Cow::default(),
    }
}

fn generation(published: &Published, key: &ObjectKey) -> Option<i64> {
    let objects = &published.loaded.objects;
    match key.kind {
        Kind::Service => objects.services.get(key)?.metadata.generation,
        Kind::ServiceEntry => objects.service_entries.get(key)?.metadata.generation,
        Kind::WorkloadEntry => objects.workload_entries.get(key)?.metadata.generation,
        _ => None,
    }
}

/// What is to be said of all of them.
pub(super) fn verdicts(published: &Published) -> Vec<(ObjectKey, Verdict)> {
    let objects = &published.loaded.objects;
    let mut problems: BTreeMap<&ObjectKey, Vec<String>> = BTreeMap::new();
    let meant = |kind| matches!(kind, Kind::Service | Kind::ServiceEntry | Kind::WorkloadEntry);
    for problem in published.problems.iter().filter(|problem| meant(problem.object.kind)) {
        let text = match problem.field.as_str() {
            "" => problem.message.clone(),
            field => format!("{field}: {}", problem.message),
        };
        problems.entry(&problem.object).or_default().push(text);
    }
    // Hardly any of the many has a status that is kept.
    let services = objects.services.iter().filter(|(_, it)| it.status.is_some()).map(|(key, _)| key);
    let entries = objects.service_entries.iter().filter(|(_, it)| !it.status.conditions.is_empty());
    let workloads = objects.workload_entries.iter().filter(|(_, it)| !it.status.conditions.is_empty());
    let before = services.chain(entries.map(|(key, _)| key)).chain(workloads.map(|(key, _)| key));
    let before = before.filter(|key| present(published, key).iter().any(is_ours));
    let keys: BTreeSet<&ObjectKey> = problems.keys().copied().chain(before).collect();
    let verdict = |key: &ObjectKey| {
        let (holds, reason, message) = match problems.get(key) {
            Some(texts) => (false, "Invalid", texts.join("; ")),
            None => (true, "Accepted", "nothing about it is left out".to_owned()),
        };
        let generation = generation(published, key);
        (key.clone(), Verdict { condition: FAIRWAY_ACCEPTED, holds, reason, message, generation })
    };
    keys.into_iter().map(verdict).collect()
}

/// The status to write, beside what others say there, and whether it says anything new.
pub(super) fn compare(verdict: &Verdict, published: &Published, key: &ObjectKey, now: &str) -> (Value, bool) {
    let present = present(published, key);
    let (ours, differs) = verdict.compare(None, &present, now);
    let others = present.iter().filter(|condition| !is_ours(condition)).cloned();
    (json!({"conditions": others.chain(ours).collect::<Vec<_>>()}), differs)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fairway_core::source::directory::load;

    use super::*;
    use crate::translate::Settings;

    /// What is said of the only such object.
    fn said(manifests: &str) -> Option<(Value, bool)> {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.yaml"), manifests).unwrap();
        let published = Published::default().next(Arc::new(load(root.path(), None)), &Settings::default());
        let all = verdicts(&published);
        assert!(all.len() <= 1, "{all:?}");
        let (key, verdict) = all.into_iter().next()?;
        Some(compare(&verdict, &published, &key, "2026-02-02T00:00:00Z"))
    }

    #[test]
    fn what_has_no_effect_is_said_and_taken_back() {
        let service = |label: &str, status: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop, generation: 4{label}}}\n\
                 spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\n{status}\n"
            )
        };
        assert_eq!(said(&service("", "")), None);
        let label = ", labels: {istio.io/use-waypoint: none-such}";
        let (status, is_new) = said(&service(label, "")).unwrap();
        assert!(is_new);
        let condition = &status["conditions"][0];
        assert_eq!((&condition["type"], &condition["status"]), (&json!("fairway.dev/Accepted"), &json!("False")));
        assert_eq!(condition["observedGeneration"], 4);
        let message = condition["message"].as_str().unwrap();
        assert!(message.starts_with("metadata.labels[istio.io/use-waypoint]: waypoint shop/none-such"), "{message}");
        let before = format!("status: {status}");
        assert!(!said(&service(label, &before)).unwrap().1, "said already");
        let (status, is_new) = said(&service("", &before)).unwrap();
        assert_eq!((&status["conditions"][0]["status"], is_new), (&json!("True"), true));
    }

    #[test]
    fn what_others_say_of_an_entry_stays() {
        let entry = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: box, namespace: shop}\n\
                     spec: {address: \"unix:///run/box\"}\n\
                     status: {conditions: [{type: Healthy, status: \"True\", message: well}]}\n";
        let (status, is_new) = said(entry).unwrap();
        assert!(is_new);
        assert_eq!(status["conditions"][0], json!({"type": "Healthy", "status": "True", "message": "well"}));
        assert!(is_ours(&status["conditions"][1]), "{status}");
    }
}
