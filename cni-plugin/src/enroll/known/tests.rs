//! Tests of `known`.

use std::fs;

use fairway_core::source::directory::load;

use super::*;
use crate::enroll::{Reason, Selectors};
use crate::rules::Capture;

fn rules() -> Rules {
    Rules {
        excluded_namespaces: ["kube-system".to_owned()].into(),
        selectors: Selectors::default(),
        defaults: Capture::default(),
    }
}

const BANK: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: bank, labels: {istio.io/dataplane-mode: ambient}}\n";
const LABELLED: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}\n";
const PLAIN: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, uid: u1}\n\
    spec: {containers: []}\nstatus: {podIP: 10.0.0.1}\n";
const FAULT: &str = "kind: [";

fn enrolled(names: &[&str]) -> Remembered {
    Remembered::Enrolled(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn what_was_remembered_stands_for_a_namespace_that_cannot_be_read_and_for_no_other() {
    let nothing = || Remembered::Unreadable("garbage".to_owned());
    type Row<'a> = (Option<&'a str>, Option<&'a str>, bool, Remembered, Reason, bool, Option<&'a [&'a str]>);
    // what is in ns.yaml and other.yaml, namespaces exist, remembered: reason for the pod, enrolled, what to remember
    let rows: Vec<Row<'_>> = vec![
        (Some(LABELLED), None, false, enrolled(&[]), Reason::NamespaceLabel, true, Some(&["shop"])),
        (Some(LABELLED), Some(FAULT), false, nothing(), Reason::NamespaceLabel, true, None),
        (Some(PLAIN), None, false, enrolled(&["shop"]), Reason::NotLabelled, false, Some(&[])),
        (Some(PLAIN), Some(FAULT), false, enrolled(&["shop"]), Reason::NotLabelled, false, Some(&[])),
        (Some(PLAIN), None, false, nothing(), Reason::NotLabelled, false, Some(&[])),
        (None, None, false, enrolled(&["shop"]), Reason::NotLabelled, false, Some(&[])),
        (Some(FAULT), None, false, enrolled(&["shop"]), Reason::RememberedNamespace, true, Some(&["shop"])),
        (
            Some(FAULT),
            Some(BANK),
            false,
            enrolled(&["shop"]),
            Reason::RememberedNamespace,
            true,
            Some(&["bank", "shop"]),
        ),
        (Some(FAULT), None, false, enrolled(&["bank"]), Reason::UnreadNamespace, false, Some(&["bank"])),
        (Some(FAULT), None, false, Remembered::NotInstalled, Reason::UnreadNamespace, false, Some(&[])),
        (Some(FAULT), None, false, nothing(), Reason::UnreadNamespace, true, None),
        (None, None, true, enrolled(&["shop"]), Reason::RememberedNamespace, true, Some(&["shop"])),
        (None, None, true, enrolled(&["bank"]), Reason::UnreadNamespace, false, Some(&[])),
        (Some(PLAIN), None, true, enrolled(&["shop"]), Reason::NotLabelled, false, Some(&[])),
    ];
    for (number, (namespace, other, namespaces_exist, memory, reason, is_enrolled, remember)) in
        rows.into_iter().enumerate()
    {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [("ns.yaml", namespace), ("other.yaml", other), ("pod.yaml", Some(POD))] {
            let _ = text.map(|text| fs::write(root.path().join(file), text).unwrap());
        }
        let loaded = load(root.path(), None);
        let known = Known { loaded: &loaded, rules: &rules(), memory: &memory, namespaces_exist };
        let (key, pod) = loaded.objects.pods.iter().next().unwrap();
        assert_eq!(known.decide(key, pod, &[]).reason(), reason, "row {number}");
        assert_eq!(known.is_enrolled("shop"), is_enrolled, "row {number}");
        let remember = remember.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(known.enrolled(), remember, "row {number}");
    }
}

#[test]
fn a_pods_own_labels_decide_whatever_is_not_known_of_its_namespace() {
    for (label, reason) in [("ambient", Reason::PodLabel), ("none", Reason::PodOptsOut)] {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("ns.yaml"), FAULT).unwrap();
        let pod = POD.replace("uid: u1", &format!("uid: u1, labels: {{istio.io/dataplane-mode: {label}}}"));
        fs::write(root.path().join("pod.yaml"), pod).unwrap();
        let loaded = load(root.path(), None);
        let (key, pod) = loaded.objects.pods.iter().next().unwrap();
        for memory in [enrolled(&[]), enrolled(&["shop"])] {
            let known = Known { loaded: &loaded, rules: &rules(), memory: &memory, namespaces_exist: false };
            assert_eq!(known.decide(key, pod, &[]).reason(), reason, "{label} {memory:?}");
        }
    }
}

#[test]
fn a_pod_that_is_not_shown_is_gone_only_when_all_was_read() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("pod.yaml"), POD).unwrap();
    let [shown, other] = ["web", "other"].map(|name| ObjectKey::pod("shop", name));
    for fault in [false, true] {
        if fault {
            fs::write(root.path().join("fault.yaml"), FAULT).unwrap();
        }
        let loaded = load(root.path(), None);
        let memory = enrolled(&[]);
        let known = Known { loaded: &loaded, rules: &rules(), memory: &memory, namespaces_exist: false };
        assert_eq!(known.is_gone(&other), !fault);
        assert!(known.is_gone(&shown), "an earlier one of its name");
    }
}
