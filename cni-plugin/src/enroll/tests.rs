//! Tests of `enroll`.

use super::*;
use serde_json::{Value, json};

fn rules() -> Rules {
    Rules {
        excluded_namespaces: ["kube-system".to_owned()].into(),
        selectors: Selectors::default(),
        defaults: Capture::default(),
    }
}

/// A running pod with `change` merged at the top level of its fields.
fn pod(change: &Value) -> MeshPod {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "shop", "uid": "u1"},
        "spec": {"containers": []},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    });
    for (section, fields) in change.as_object().unwrap() {
        for (field, content) in fields.as_object().unwrap() {
            value[section][field] = content.clone();
        }
    }
    serde_json::from_value(value).unwrap()
}

fn key(change: &Value) -> ObjectKey {
    ObjectKey::pod(change["metadata"]["namespace"].as_str().unwrap_or("shop"), "a")
}

fn shop() -> ObjectKey {
    key(&Value::Null)
}

fn namespace(mode: Option<&str>) -> Namespace {
    let labels = mode.map(|mode| json!({DATAPLANE_MODE: mode})).unwrap_or(json!({}));
    let value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}});
    serde_json::from_value(value).unwrap()
}

fn labelled(mode: &str) -> Value {
    json!({"metadata": {"labels": {DATAPLANE_MODE: mode}}})
}

#[test]
fn verdicts() {
    let plain = json!({});
    let with = |mut base: Value, section: &str, field: &str, value: Value| {
        base[section][field] = value;
        base
    };
    let sidecar = json!({SIDECAR_STATUS: "{}"});
    // namespace label, pod, wanted, waiting, reason
    let rows: Vec<(Option<&str>, Value, bool, bool, Reason)> = vec![
        (None, plain.clone(), false, false, Reason::NotLabelled),
        (Some("none"), plain.clone(), false, false, Reason::NotLabelled),
        (Some("Ambient"), plain.clone(), false, false, Reason::NotLabelled),
        (Some("ambient"), plain.clone(), true, false, Reason::NamespaceLabel),
        (Some("ambient"), labelled("other"), true, false, Reason::NamespaceLabel),
        (Some("ambient"), labelled("none"), false, false, Reason::PodOptsOut),
        (None, labelled("none"), false, false, Reason::PodOptsOut),
        (None, labelled("ambient"), true, false, Reason::PodLabel),
        (Some("none"), labelled("ambient"), true, false, Reason::PodLabel),
        (Some("ambient"), with(plain.clone(), "spec", "hostNetwork", json!(true)), false, false, Reason::HostNetwork),
        (None, with(labelled("ambient"), "spec", "hostNetwork", json!(true)), false, false, Reason::HostNetwork),
        (None, with(plain.clone(), "spec", "hostNetwork", json!(true)), false, false, Reason::NotLabelled),
        (Some("ambient"), with(plain.clone(), "spec", "os", json!({"name": "windows"})), false, false, Reason::Windows),
        (
            Some("ambient"),
            with(plain.clone(), "spec", "os", json!({"name": "linux"})),
            true,
            false,
            Reason::NamespaceLabel,
        ),
        (
            Some("ambient"),
            with(plain.clone(), "spec", "runtimeClassName", json!("kata-qemu")),
            false,
            false,
            Reason::VirtualMachine,
        ),
        (
            Some("ambient"),
            with(plain.clone(), "spec", "runtimeClassName", json!("katalog")),
            true,
            false,
            Reason::NamespaceLabel,
        ),
        (Some("ambient"), with(plain.clone(), "spec", "hostUsers", json!(false)), true, false, Reason::NamespaceLabel),
        (
            Some("ambient"),
            with(plain.clone(), "spec", "hostNetwork", json!(false)),
            true,
            false,
            Reason::NamespaceLabel,
        ),
        (
            Some("ambient"),
            with(plain.clone(), "metadata", "annotations", sidecar.clone()),
            false,
            false,
            Reason::Sidecar,
        ),
        (None, with(labelled("ambient"), "metadata", "annotations", sidecar), false, false, Reason::Sidecar),
        (
            None,
            with(labelled("ambient"), "metadata", "namespace", json!("kube-system")),
            false,
            false,
            Reason::ExcludedNamespace,
        ),
        (Some("ambient"), with(plain.clone(), "status", "phase", json!("Succeeded")), false, false, Reason::Terminal),
        (Some("ambient"), with(plain.clone(), "status", "phase", json!("Failed")), false, false, Reason::Terminal),
        (
            Some("ambient"),
            with(plain.clone(), "status", "phase", json!("Pending")),
            true,
            false,
            Reason::NamespaceLabel,
        ),
        (Some("ambient"), with(plain.clone(), "metadata", "uid", json!("")), true, true, Reason::NoUid),
        (Some("ambient"), with(plain.clone(), "status", "podIP", Value::Null), true, true, Reason::NoAddress),
        (
            Some("ambient"),
            with(plain.clone(), "metadata", "deletionTimestamp", json!("2026-01-01T00:00:00Z")),
            true,
            false,
            Reason::NamespaceLabel,
        ),
    ];
    for (mode, change, wanted, waiting, reason) in rows {
        let decision = decide(&key(&change), &pod(&change), Home::Read(&namespace(mode)), &rules(), &[]);
        let got = (decision.desired() == Desired::Captured, matches!(decision, Decision::Wait(_)), decision.reason());
        assert_eq!(got, (wanted, waiting, reason), "namespace {mode:?}, pod {change}");
    }
}

#[test]
fn a_namespace_that_is_not_there_opts_nobody_in() {
    assert_eq!(decide(&shop(), &pod(&json!({})), Home::Absent, &rules(), &[]).reason(), Reason::NotLabelled);
    assert_eq!(decide(&shop(), &pod(&labelled("ambient")), Home::Absent, &rules(), &[]).reason(), Reason::PodLabel);
}

#[test]
fn annotations_change_how_a_pod_is_captured() {
    let captured = |annotations: Value| {
        let pod = pod(&json!({"metadata": {"annotations": annotations, "labels": {DATAPLANE_MODE: "ambient"}}}));
        match decide(&shop(), &pod, Home::Absent, &rules(), &[]) {
            Decision::Capture { capture, warnings, .. } => (capture, warnings),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(captured(json!({})), (Capture::default(), vec![]));
    let (capture, warnings) =
        captured(json!({DNS_CAPTURE: "true", BYPASS_INBOUND: "true", VIRTUAL_INTERFACES: "tap0, tap1,"}));
    assert!(capture.dns && !capture.inbound && warnings.is_empty());
    assert_eq!(capture.virtual_interfaces.iter().map(InterfaceName::as_str).collect::<Vec<_>>(), ["tap0", "tap1"]);
    let (capture, _) = captured(json!({BYPASS_INBOUND: "false"}));
    assert!(capture.inbound);
    let (capture, warnings) = captured(json!({DNS_CAPTURE: "yes", VIRTUAL_INTERFACES: "a\" accept; #"}));
    assert_eq!(capture, Capture::default());
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn what_cannot_be_captured_is_said_only_to_those_who_asked() {
    for reason in [Reason::HostNetwork, Reason::Windows, Reason::VirtualMachine] {
        assert!(reason.refusal().is_some_and(|text| text.contains("outside the mesh")), "{reason:?}");
    }
    for reason in [Reason::NotLabelled, Reason::PodOptsOut, Reason::Terminal, Reason::PodLabel] {
        assert_eq!(reason.refusal(), None, "{reason:?}");
    }
}

#[test]
fn an_address_that_was_just_given_is_as_good_as_one_in_the_status() {
    let pod = pod(&json!({"metadata": {"labels": {DATAPLANE_MODE: "ambient"}}, "status": {"podIP": null}}));
    assert_eq!(decide(&shop(), &pod, Home::Absent, &rules(), &[]), Decision::Wait(Reason::NoAddress));
    let assigned = ["10.0.0.1".parse().unwrap()];
    assert!(matches!(decide(&shop(), &pod, Home::Absent, &rules(), &assigned), Decision::Capture { .. }));
}
