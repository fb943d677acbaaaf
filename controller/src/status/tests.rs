//! Tests of `status`.

use fairway_core::source::directory::load;

use super::*;
use crate::translate::Settings;

const POLICY: &str =
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: it, namespace: shop}\n";

fn published(spec: &str) -> Published {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("a.yaml"), format!("{POLICY}{spec}\n")).unwrap();
    Published::default().next(Arc::new(load(root.path(), None)), &Settings::default())
}

fn only(published: &Published) -> Verdict {
    verdicts(published).into_values().next().unwrap()
}

#[test]
fn verdicts_say_what_became_of_a_policy_by_field() {
    for (spec, condition, holds, reason, words) in [
        ("spec: {}", ZTUNNEL_ACCEPTED, true, "Accepted", "as written"),
        (
            "spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}",
            ZTUNNEL_ACCEPTED,
            false,
            "UnsupportedValue",
            "spec.rules[0].to[0].operation.methods",
        ),
        (
            "spec: {rules: [{to: [{operation: {ports: [http]}}]}]}",
            ZTUNNEL_ACCEPTED,
            false,
            "Invalid",
            "spec.rules[0].to[0].operation.ports[0]",
        ),
        ("spec: {action: MAYBE}", ZTUNNEL_ACCEPTED, false, "Invalid", "spec.action"),
        (
            "spec: {targetRefs: [{kind: Service, name: web}]}",
            WAYPOINT_ACCEPTED,
            false,
            "NeedsWaypoint",
            "spec.targetRefs",
        ),
    ] {
        let verdict = only(&published(spec));
        assert_eq!((verdict.condition, verdict.holds, verdict.reason), (condition, holds, reason), "{spec}");
        assert!(verdict.message.contains(words), "{spec}: {}", verdict.message);
    }
}

#[test]
fn nothing_is_written_that_is_said_already() {
    let said = |status: &str, message: &str| {
        json!({"type": ZTUNNEL_ACCEPTED, "status": status, "reason": "Accepted", "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z", "lastProbeTime": null})
    };
    let verdict = only(&published("spec: {}"));
    let message = verdict.message.clone();
    let now = "2026-02-02T00:00:00Z";
    let compare = |present: &[Value]| {
        let (conditions, differs) = verdict.compare(None, present, now);
        (conditions[0]["lastTransitionTime"].as_str().unwrap().to_owned(), differs)
    };
    assert_eq!(compare(&[]), (now.to_owned(), true));
    let before = "2026-01-01T00:00:00Z".to_owned();
    assert_eq!(compare(&[said("True", &message)]), (before.clone(), false));
    assert_eq!(compare(&[said("True", "other")]), (before, true), "still holds since then");
    assert_eq!(compare(&[said("False", &message)]), (now.to_owned(), true));
    let other = json!({"type": WAYPOINT_ACCEPTED, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    assert_eq!(compare(&[other]), (now.to_owned(), true));
}

#[test]
fn verdicts_say_what_became_of_a_virtual_service() {
    let head = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: it, namespace: shop, generation: 3}\n";
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n";
    for (spec, holds, words) in [
        ("{hosts: [web], http: [{route: [{destination: {host: web}}]}]}", true, "as written"),
        (
            "{hosts: [web], http: [{rewrite: {uriRegexRewrite: {}}, route: [{destination: {host: web}}]}]}",
            false,
            "spec.http[0].rewrite.uriRegexRewrite",
        ),
        ("{hosts: [none]}", false, "spec.hosts[0]"),
    ] {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.yaml"), format!("{head}spec: {spec}\n{service}")).unwrap();
        let published = Published::default().next(Arc::new(load(root.path(), None)), &Settings::default());
        let verdict = traffic(&published).into_values().next().unwrap();
        assert_eq!((verdict.condition, verdict.holds, verdict.generation), (ACCEPTED, holds, Some(3)), "{spec}");
        assert!(verdict.message.contains(words), "{spec}: {}", verdict.message);
    }
    // One that is for gateways alone is not ours to speak of.
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("a.yaml"), format!("{head}spec: {{hosts: [web], gateways: [edge]}}\n")).unwrap();
    let published = Published::default().next(Arc::new(load(root.path(), None)), &Settings::default());
    assert!(traffic(&published).is_empty());
}
