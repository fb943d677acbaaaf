//! What is said on routes: an entry for each parent, beside those of other controllers.

use fairway_core::source::{Kind, ObjectKey};
use serde_json::{Value, json};

use super::condition::since;
use super::programmed::Programmed;
use super::unreadable;
use crate::l7::verdict::{CONTROLLER_NAME, Verdict};
use crate::state::Published;

/// Whether an entry of a parent or an ancestor is ours.
pub(super) fn is_ours(entry: &Value) -> bool {
    entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER_NAME)
}

/// The entries that a route has now.
fn present<'a>(published: &'a Published, key: &ObjectKey) -> &'a [Value] {
    let objects = &published.loaded.objects;
    let status = match key.kind {
        Kind::HTTPRoute => objects.http_routes.get(key).and_then(|route| route.status.as_ref()),
        Kind::TCPRoute => objects.tcp_routes.get(key).and_then(|route| route.status.as_ref()),
        Kind::TLSRoute => objects.tls_routes.get(key).and_then(|route| route.status.as_ref()),
        Kind::GRPCRoute => objects.grpc_routes.get(key).and_then(|route| route.status.as_ref()),
        _ => None,
    };
    let status = status.or_else(|| unreadable::status(published, key));
    status.and_then(|status| status.get("parents")).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What is to be said of every route that has a parent of ours, or had one when something was said last.
pub(super) fn verdicts(published: &Published) -> Vec<(ObjectKey, Verdict)> {
    let objects = &published.loaded.objects;
    let verdicts = &published.routes().verdicts;
    let keys = objects.http_routes.keys().chain(objects.grpc_routes.keys());
    let keys = keys.chain(objects.tcp_routes.keys()).chain(objects.tls_routes.keys());
    let verdict = |key: &ObjectKey| match verdicts.get(key) {
        Some(verdict) => Some((key.clone(), unreadable::instead(published, key, verdict.clone()))),
        None => present(published, key).iter().any(is_ours).then(|| (key.clone(), Verdict::default())),
    };
    keys.filter_map(verdict).chain(unreadable::routes(published)).collect()
}

/// What is said of a route at its first parent.
pub(super) fn said<'a>(published: &'a Published, key: &ObjectKey) -> &'a [Value] {
    let entry = present(published, key).iter().find(|entry| is_ours(entry));
    let conditions = entry.and_then(|entry| entry.get("conditions")).and_then(Value::as_array);
    conditions.map(Vec::as_slice).unwrap_or_default()
}

/// The status to write, and whether it says anything new.
pub(super) fn compare(
    verdict: &Verdict,
    programmed: Option<&Programmed>,
    published: &Published,
    key: &ObjectKey,
    now: &str,
) -> (Value, bool) {
    let (ours, others): (Vec<&Value>, Vec<&Value>) = present(published, key).iter().partition(|entry| is_ours(entry));
    let entries = verdict.parents(programmed.map(Programmed::condition), |parent, kind, holds| {
        let parent = json!(parent);
        let entry = ours.iter().find(|entry| entry.get("parentRef") == Some(&parent));
        let conditions = entry.and_then(|entry| entry.get("conditions")).and_then(Value::as_array);
        since(conditions.map(Vec::as_slice).unwrap_or_default(), kind, holds, now)
    });
    let is_new = ours.len() != entries.len() || ours.iter().zip(&entries).any(|(said, wanted)| *said != wanted);
    let parents: Vec<Value> = others.into_iter().cloned().chain(entries).collect();
    (json!({"parents": parents}), is_new)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fairway_core::source::directory::load;

    use super::*;
    use crate::translate::Settings;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                           spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n---\n";

    fn published(route: &str) -> Published {
        let root = tempfile::tempdir().unwrap();
        let head = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                    metadata: {name: it, namespace: shop, generation: 3}\n";
        std::fs::write(root.path().join("a.yaml"), format!("{SERVICE}{head}{route}\n")).unwrap();
        Published::default().next(Arc::new(load(root.path(), None)), &Settings::default())
    }

    fn said(published: &Published) -> (Value, bool) {
        let [(key, verdict)] = verdicts(published).try_into().unwrap();
        compare(&verdict, None, published, &key, "2026-02-02T00:00:00Z")
    }

    /// Type, status and reason of each condition of each parent.
    fn conditions(status: &Value) -> Vec<Vec<String>> {
        let short = |condition: &Value| {
            let text = |key: &str| condition[key].as_str().unwrap().to_owned();
            assert_eq!(condition["observedGeneration"], 3);
            [text("type"), text("status"), text("reason")].join(" ")
        };
        let parents = status["parents"].as_array().unwrap();
        parents.iter().map(|parent| parent["conditions"].as_array().unwrap().iter().map(short).collect()).collect()
    }

    #[test]
    fn each_parent_is_told_what_became_of_the_route() {
        let web = "{group: \"\", kind: Service, name: web}";
        for (parents, rules, expected) in [
            (
                web,
                "[{backendRefs: [{name: web, port: 80}]}]",
                vec![vec!["Accepted True Accepted", "ResolvedRefs True ResolvedRefs"]],
            ),
            (
                "{group: \"\", kind: Service, name: web, port: 81}",
                "[{backendRefs: [{name: none, port: 80}]}]",
                vec![vec!["Accepted False NoMatchingParent", "ResolvedRefs False BackendNotFound"]],
            ),
            (
                web,
                "[{backendRefs: [{kind: Odd, name: none, port: 80}]}]",
                vec![vec!["Accepted True Accepted", "ResolvedRefs False InvalidKind"]],
            ),
            (
                web,
                "[{filters: [{type: ExtensionRef}], backendRefs: [{name: web, port: 80}]}]",
                vec![vec!["Accepted False UnsupportedValue", "ResolvedRefs True ResolvedRefs"]],
            ),
            (
                web,
                "[{filters: [{type: ExtensionRef}], backendRefs: [{name: web, port: 80}]}, {backendRefs: [{name: web, port: 80}]}]",
                vec![vec![
                    "Accepted True Accepted",
                    "ResolvedRefs True ResolvedRefs",
                    "PartiallyInvalid True UnsupportedValue",
                ]],
            ),
        ] {
            let published = published(&format!("spec: {{parentRefs: [{parents}, {{name: gateway}}], rules: {rules}}}"));
            let (status, is_new) = said(&published);
            assert!(is_new);
            assert_eq!(conditions(&status), expected, "{rules}");
        }
    }

    #[test]
    fn what_others_say_stays_and_what_is_said_already_is_not_repeated() {
        let spec = "spec: {parentRefs: [{group: \"\", kind: Service, name: web}], rules: []}";
        let other = json!({"parentRef": {"name": "gateway"}, "controllerName": "another", "conditions": []});
        let (first, _) = said(&published(spec));
        let mut parents = first["parents"].as_array().unwrap().clone();
        parents.insert(0, other.clone());
        let before = json!({"parents": parents}).to_string().replace("2026-02-02", "2026-01-01");
        let (again, is_new) = said(&published(&format!("{spec}\nstatus: {before}")));
        assert!(!is_new, "{again}");
        assert_eq!(again, serde_json::from_str::<Value>(&before).unwrap());
        // The parent is another one now: what we said of the old one goes, and only that.
        let elsewhere = format!("spec: {{parentRefs: [{{name: gateway}}], rules: []}}\nstatus: {before}");
        assert_eq!(said(&published(&elsewhere)), (json!({"parents": [other]}), true));
    }
}
