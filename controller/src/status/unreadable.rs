//! What is said on objects of routing that cannot be read: which field is wrong, and what holds in their place.

use fairway_core::source::route::ParentReference;
use fairway_core::source::{Kind, ObjectKey};
use serde_json::Value;

use super::{ACCEPTED, INVALID, Verdict};
use crate::l7::catalog::parent_kind;
use crate::l7::verdict::{AtParent, Verdict as RouteVerdict};
use crate::state::Published;

/// What holds in place of an object that was good before.
const KEPT: &str = "the version before it stays in force until this is fixed";
/// What holds in place of one that never was.
const NOTHING: &str = "until this is fixed it has no effect";

/// Why an object cannot be read, by field.
pub(super) fn why(published: &Published, key: &ObjectKey) -> Option<String> {
    let error = published.loaded.errors.iter().find(|error| error.object.as_ref() == Some(key))?;
    let field = error.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
    Some(format!("{field}{}", error.message))
}

/// The status that an object has now of which no version could ever be read.
pub(super) fn status<'a>(published: &'a Published, key: &ObjectKey) -> Option<&'a Value> {
    published.loaded.rejected.get(key)?.get("status")
}

fn generation(written: &Value) -> Option<i64> {
    written.pointer("/metadata/generation").and_then(Value::as_i64)
}

/// What is to be said of routes that never could be read, at those parents that can be.
pub(super) fn routes(published: &Published) -> Vec<(ObjectKey, RouteVerdict)> {
    let is_route = |kind| matches!(kind, Kind::HTTPRoute | Kind::GRPCRoute | Kind::TCPRoute | Kind::TLSRoute);
    let rejected = published.loaded.rejected.iter().filter(|(key, _)| is_route(key.kind));
    let verdict = |(key, written): (&ObjectKey, &std::sync::Arc<Value>)| {
        let why = format!("{}; {NOTHING}", why(published, key)?);
        let parents = written.pointer("/spec/parentRefs").and_then(Value::as_array).into_iter().flatten().enumerate();
        let parents = parents.filter_map(|(index, parent)| {
            let parent: ParentReference = serde_json::from_value(parent.clone()).ok()?;
            parent_kind(&parent)?;
            Some(AtParent { index, parent, accepted: Err(("UnsupportedValue", why.clone())) })
        });
        let parents: Vec<AtParent> = parents.collect();
        let verdict =
            RouteVerdict { generation: generation(written), parents, is_unread: true, ..RouteVerdict::default() };
        (!verdict.parents.is_empty()).then(|| (key.clone(), verdict))
    };
    rejected.filter_map(verdict).collect()
}

/// What is to be said of a route whose newest version cannot be read, where one before it could be.
pub(super) fn instead(published: &Published, key: &ObjectKey, verdict: RouteVerdict) -> RouteVerdict {
    let Some(why) = why(published, key).map(|why| format!("{why}; {KEPT}")) else { return verdict };
    let mut verdict = RouteVerdict { is_unread: true, ..verdict };
    for parent in &mut verdict.parents {
        parent.accepted = Err(("UnsupportedValue", why.clone()));
    }
    verdict
}

/// What is to be said of VirtualServices and DestinationRules that cannot be read.
pub(super) fn traffic(published: &Published) -> Vec<(ObjectKey, Verdict)> {
    let is_traffic = |key: &&ObjectKey| matches!(key.kind, Kind::VirtualService | Kind::DestinationRule);
    let objects = &published.loaded.objects;
    let verdict = |key: &ObjectKey| {
        let known = match key.kind {
            Kind::VirtualService => objects.virtual_services.get(key).map(|it| it.metadata.generation),
            _ => objects.destination_rules.get(key).map(|it| it.metadata.generation),
        };
        let (generation, then) = match known {
            Some(generation) => (generation, KEPT),
            None => (published.loaded.rejected.get(key).and_then(|written| generation(written)), NOTHING),
        };
        let message = format!("{}; {then}", why(published, key)?);
        Some((key.clone(), Verdict { condition: ACCEPTED, holds: false, reason: INVALID, message, generation }))
    };
    let wrong = published.loaded.errors.iter().filter_map(|error| error.object.as_ref());
    wrong.filter(is_traffic).filter_map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fairway_core::source::directory::load;
    use serde_json::json;

    use super::super::routes;
    use super::*;
    use crate::translate::Settings;

    #[test]
    fn a_route_that_cannot_be_read_is_told_so_at_its_parents_and_not_twice() {
        let root = tempfile::tempdir().unwrap();
        let head = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: it, namespace: shop, generation: 3}\n\
                    spec: {parentRefs: [{group: \"\", kind: Service, name: web}, {name: edge}], rules: [{matches: 1}]}\n";
        let said = |status: &str| {
            std::fs::write(root.path().join("a.yaml"), format!("{head}{status}")).unwrap();
            let published = Published::default().next(Arc::new(load(root.path(), None)), &Settings::default());
            let [(key, verdict)] = routes::verdicts(&published).try_into().unwrap();
            routes::compare(&verdict, None, &published, &key, "2026-02-02T00:00:00Z")
        };
        let (first, is_new) = said("");
        assert!(is_new);
        let [parent] = &first["parents"].as_array().unwrap()[..] else { panic!("{first}") };
        let [condition] = &parent["conditions"].as_array().unwrap()[..] else { panic!("{first}") };
        assert_eq!((&condition["type"], &condition["status"]), (&json!("Accepted"), &json!("False")));
        assert_eq!(condition["observedGeneration"], 3);
        assert!(condition["message"].as_str().unwrap().starts_with("spec.rules[0].matches: "), "{condition}");
        assert!(!said(&format!("status: {first}\n")).1, "it says so already");
    }

    #[test]
    fn what_was_good_before_stays_and_is_told_that_it_does() {
        let root = tempfile::tempdir().unwrap();
        let written = |spec: &str| {
            let head =
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: it, namespace: shop}\n";
            std::fs::write(root.path().join("a.yaml"), format!("{head}spec: {spec}\n")).unwrap();
        };
        written("{hosts: [web], http: []}");
        let before = Published::default().next(Arc::new(load(root.path(), None)), &Settings::default());
        assert_eq!(traffic(&before), []);
        written("{hosts: 1}");
        let never = Published::default().next(Arc::new(load(root.path(), None)), &Settings::default());
        let kept = before.next(Arc::new(load(root.path(), Some(&before.loaded))), &Settings::default());
        for (published, then) in [(never, NOTHING), (kept, KEPT)] {
            let [(_, verdict)] = traffic(&published).try_into().unwrap();
            assert_eq!((verdict.condition, verdict.reason), (ACCEPTED, INVALID));
            assert!(verdict.message.starts_with("spec.hosts: ") && verdict.message.ends_with(then), "{verdict:?}");
        }
    }
}
