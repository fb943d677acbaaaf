//! What is said on objects of which a part or all has no effect here: that it has none, and what holds instead.

use std::collections::BTreeMap;

use fairway_core::source::ObjectKey;
use fairway_core::source::unserved::Unserved;
use serde_json::{Value, json};

use super::condition::{Condition, since};
use super::routes::is_ours;
use super::{ACCEPTED, Verdict};
use crate::l7::telemetry::Findings;
use crate::l7::verdict::CONTROLLER_NAME;
use crate::state::Published;

pub(super) const BACKEND_TLS: &str = "has no effect: the mesh encrypts by itself between its members, and passes on what clients send to others; for TLS \
     with those, a DestinationRule with tls {mode: SIMPLE} has the waypoint speak it, or else the client does";

/// What is to be said of every Telemetry: what of it has no effect.
pub(super) fn telemetry(published: &Published) -> BTreeMap<ObjectKey, Verdict> {
    let findings = &published.world.l7().waypoints().telemetry.findings;
    let verdict = |found: &Findings| {
        let holds = found.texts.is_empty();
        let (reason, message) = if holds {
            let said =
                std::iter::once("accepted as written, for waypoints").chain(found.notes.iter().map(String::as_str));
            ("Accepted", said.collect::<Vec<_>>().join("; "))
        } else {
            let said = found.texts.iter().chain(&found.notes).map(String::as_str);
            ("UnsupportedValue", said.collect::<Vec<_>>().join("; "))
        };
        Verdict { condition: ACCEPTED, holds, reason, message, generation: found.generation }
    };
    findings.iter().map(|(key, found)| (key.clone(), verdict(found))).collect()
}

/// Every BackendTLSPolicy that is for services, with those.
pub(super) fn backend_tls(published: &Published) -> Vec<(ObjectKey, Vec<Value>)> {
    let services = |key: &ObjectKey, object: &Unserved| -> Vec<Value> {
        let targets = object.spec.get("targetRefs").and_then(Value::as_array).into_iter().flatten();
        let text =
            |target: &Value, field: &str| target.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let targets = targets.filter(|target| {
            matches!(text(target, "group").as_str(), "" | "core") && text(target, "kind") == "Service"
        });
        let ancestor = |target: &Value| {
            let mut ancestor =
                json!({"group": "", "kind": "Service", "namespace": key.namespace, "name": text(target, "name")});
            if let (Some(section), Some(ancestor)) = (target.get("sectionName"), ancestor.as_object_mut()) {
                ancestor.insert("sectionName".to_owned(), section.clone());
            }
            ancestor
        };
        targets.map(ancestor).collect()
    };
    let all = published.loaded.objects.backend_tls_policies.iter();
    all.map(|(key, object)| (key.clone(), services(key, object))).filter(|(_, services)| !services.is_empty()).collect()
}

/// The status to write to a BackendTLSPolicy, beside what others say there, and whether it says anything new.
pub(super) fn compare(ancestors: &[Value], published: &Published, key: &ObjectKey, now: &str) -> (Value, bool) {
    let Some(object) = published.loaded.objects.backend_tls_policies.get(key) else { return (json!({}), false) };
    let present = object.status.as_ref().and_then(|status| status.get("ancestors")).and_then(Value::as_array);
    let (ours, others): (Vec<&Value>, Vec<&Value>) = present.into_iter().flatten().partition(|entry| is_ours(entry));
    let entry = |ancestor: &Value| {
        let said = ours.iter().find(|entry| entry.get("ancestorRef") == Some(ancestor));
        let said = said.and_then(|entry| entry.get("conditions")).and_then(Value::as_array);
        let since = since(said.map(Vec::as_slice).unwrap_or_default(), ACCEPTED, false, now);
        let condition = Condition { kind: ACCEPTED, holds: false, reason: "Invalid", message: BACKEND_TLS };
        let conditions = [condition.written(object.metadata.generation, &since)];
        json!({"ancestorRef": ancestor, "controllerName": CONTROLLER_NAME, "conditions": conditions})
    };
    let entries: Vec<Value> = ancestors.iter().map(entry).collect();
    let is_new = ours.len() != entries.len() || ours.iter().zip(&entries).any(|(said, wanted)| *said != wanted);
    let all: Vec<Value> = others.into_iter().cloned().chain(entries).collect();
    (json!({"ancestors": all}), is_new)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fairway_core::source::directory::load;

    use super::*;
    use crate::translate::Settings;

    fn published(manifest: &str) -> Published {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.yaml"), manifest).unwrap();
        Published::default().next(Arc::new(load(root.path(), None)), &Settings::default())
    }

    #[test]
    fn a_policy_of_tls_is_told_of_each_service_that_it_has_no_effect_and_others_keep_their_word() {
        let head = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\n\
                    metadata: {name: tls, namespace: shop, generation: 2}\n\
                    spec: {targetRefs: [{group: \"\", kind: Service, name: web, sectionName: https}, {group: a, kind: B, name: c}]}\n";
        let said = |status: &str| {
            let published = published(&format!("{head}{status}"));
            let [(key, ancestors)] = backend_tls(&published).try_into().unwrap();
            compare(&ancestors, &published, &key, "2026-02-02T00:00:00Z")
        };
        let (first, is_new) = said("");
        assert!(is_new);
        assert_eq!(first["ancestors"][0]["ancestorRef"]["sectionName"], "https");
        assert_eq!(first["ancestors"][0]["conditions"][0]["status"], "False");
        assert_eq!(first["ancestors"].as_array().unwrap().len(), 1);
        let other = json!({"controllerName": "another", "conditions": []});
        let before = json!({"ancestors": [other, first["ancestors"][0]]});
        assert_eq!(said(&format!("status: {before}\n")), (before, false));
    }

    #[test]
    fn telemetry_is_told_what_of_it_has_no_effect() {
        let manifest = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: mesh, namespace: shop}\n\
                        spec: {tracing: [], metrics: [{reportingInterval: 5s}], accessLogging: [{disabled: true}]}\n";
        let [(_, said)] = telemetry(&published(manifest)).into_iter().collect::<Vec<_>>().try_into().unwrap();
        assert!(
            !said.holds && said.message.starts_with("spec.metrics[0].reportingInterval: has no effect"),
            "{said:?}"
        );
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.0.1}\n---\n";
        for (name, why) in [("web", "Service shop/web has no waypoint"), ("none", "there is no Service shop/none")] {
            let manifest = format!(
                "{service}apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: one, namespace: shop}}\n\
                 spec: {{targetRefs: [{{group: \"\", kind: Service, name: {name}}}], tracing: [{{randomSamplingPercentage: 1}}]}}\n"
            );
            let [(_, said)] = telemetry(&published(&manifest)).into_iter().collect::<Vec<_>>().try_into().unwrap();
            let expected = format!("spec.targetRefs: {why}: it has no effect there");
            assert!(!said.holds && said.message == expected, "{said:?}");
        }
    }
}
