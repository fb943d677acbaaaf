//! What operators and their tools read: the same resources, fields and names from both proxies.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{NODES, OURS, THEIRS};
use crate::mesh::observe;

/// A policy with every kind of condition, so that every kind is compared.
const POLICIES: &str = r#"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: everything, namespace: mixed}
spec:
  action: DENY
  rules:
    - from:
        - source:
            principals: [cluster.local/ns/x/sa/y, "spiffe-*", "*-suffix"]
            notPrincipals: ["*"]
            namespaces: [elsewhere, "else*"]
            notNamespaces: [mixed]
            ipBlocks: [192.0.2.0/24, 2001:db8::/32]
            notIpBlocks: [192.0.2.7]
      to:
        - operation: {ports: ["80", "8080"], notPorts: ["443"]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: selected, namespace: mixed}
spec: {action: ALLOW, selector: {matchLabels: {app: nothing}}, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: mixed}
spec: {mtls: {mode: STRICT}}
"#;

/// Sections whose entries both received from the same controller.
const SECTIONS: [(&str, &[&str]); 3] =
    [("workloads", &["uid"]), ("services", &["namespace", "hostname"]), ("policies", &["namespace", "name"])];

#[test]
fn both_dumps_say_the_same() {
    let Some(lab) = super::mixed("dumps") else { return };
    lab.apply(POLICIES).unwrap();
    for node in NODES {
        lab.wait_until(&format!("{node} to have the policies"), || {
            let dump = observe::config_dump(&lab, node)?;
            let found = dump["policies"].as_array().map_or(0, Vec::len);
            if found >= 3 { Ok(()) } else { Err(found.to_string()) }
        })
        .unwrap();
    }
    lab.wait_until("both dumps to say the same", || {
        let [ours, theirs] = NODES.map(|node| observe::config_dump(&lab, node).unwrap());
        let mut differences = Vec::new();
        for (section, keys) in SECTIONS {
            compare_section(section, keys, &ours, &theirs, &mut differences);
        }
        if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) }
    })
    .unwrap();
    let [ours, theirs] = NODES.map(|node| observe::config_dump(&lab, node).unwrap());
    let mut missing = Vec::new();
    for (name, value) in theirs.as_object().unwrap() {
        if ours.get(name).is_none_or(|own| kind(own) != kind(value)) {
            missing.push(format!("{name}: theirs is {}, ours {:?}", kind(value), ours.get(name).map(kind)));
        }
    }
    compare_shape("certificates", &ours["certificates"][0], &theirs["certificates"][0], &mut missing);
    let state = |dump: &Value| dump["workloadState"].as_object().unwrap().values().next().cloned().unwrap();
    compare_shape("workloadState", &state(&ours), &state(&theirs), &mut missing);
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Every entry and field of theirs must be in ours, with the same value. Ours may say more.
fn compare_section(section: &str, keys: &[&str], ours: &Value, theirs: &Value, differences: &mut Vec<String>) {
    let entries = |dump: &Value| dump[section].as_array().cloned().unwrap_or_default();
    let (own, other) = (entries(ours), entries(theirs));
    if own.len() != other.len() {
        differences.push(format!("{section}: {} of ours, {} of theirs", own.len(), other.len()));
    }
    for entry in &other {
        let matching = own.iter().find(|own| keys.iter().all(|key| own[*key] == entry[*key]));
        let Some(matching) = matching else {
            differences.push(format!("{section}: ours lacks {entry}"));
            continue;
        };
        for (field, value) in entry.as_object().unwrap() {
            if normal(&matching[field]) != normal(value) {
                let name: Vec<_> = keys.iter().map(|key| entry[*key].to_string()).collect();
                differences.push(format!("{section} {name:?}: {field} is {}, theirs {value}", matching[field]));
            }
        }
    }
}

/// Absent, null and empty are the same to a reader; so is the order of what has none.
fn normal(value: &Value) -> Value {
    match value {
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(normal).collect();
            items.sort_by_key(Value::to_string);
            if items.is_empty() { Value::Null } else { items.into() }
        }
        Value::Object(fields) => {
            let kept = fields.iter().map(|(name, value)| (name.clone(), normal(value)));
            let kept: serde_json::Map<String, Value> = kept.filter(|(_, value)| !value.is_null()).collect();
            if kept.is_empty() { Value::Null } else { kept.into() }
        }
        Value::String(text) if text.is_empty() => Value::Null,
        other => other.clone(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a switch",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// Every field of theirs is in ours with a value of the same kind, and so on inwards.
fn compare_shape(place: &str, ours: &Value, theirs: &Value, missing: &mut Vec<String>) {
    if kind(ours) != kind(theirs) {
        missing.push(format!("{place}: ours is {}, theirs {}", kind(ours), kind(theirs)));
    }
    match theirs {
        Value::Object(fields) => {
            for (name, value) in fields {
                compare_shape(&format!("{place}.{name}"), &ours[name], value, missing);
            }
        }
        Value::Array(items) if !items.is_empty() && ours.get(0).is_some() => {
            compare_shape(&format!("{place}[]"), &ours[0], &items[0], missing);
        }
        _ => {}
    }
}

/// Names and labels of what both count about connections.
#[test]
fn both_count_under_the_same_names_and_labels() {
    let Some(lab) = super::mixed("names") else { return };
    let pages = NODES.map(|node| observe::metrics(&lab, node));
    for metric in [
        "istio_tcp_connections_opened_total",
        "istio_tcp_connections_closed_total",
        "istio_tcp_received_bytes_total",
        "istio_tcp_sent_bytes_total",
    ] {
        let labels = |page: &str| -> BTreeSet<Vec<String>> {
            observe::samples(page, metric).iter().map(|(labels, _)| labels.keys().cloned().collect()).collect()
        };
        assert_eq!(labels(&pages[0]), labels(&pages[1]), "{metric}");
        let values = |page: &str, name: &str| -> BTreeSet<String> {
            let samples = observe::samples(page, metric);
            samples
                .iter()
                .filter(|(labels, _)| labels["connection_security_policy"] == "mutual_tls")
                .map(|(labels, _)| labels[name].clone())
                .collect()
        };
        for label in ["source_cluster", "destination_service_namespace", "request_protocol", "source_version"] {
            assert_eq!(values(&pages[0], label), values(&pages[1], label), "{metric}: {label}");
        }
    }
    let names = |page: &str| -> BTreeSet<String> {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        let name = |line: &str| line.split(['{', ' ']).next().unwrap_or_default().to_owned();
        lines.map(name).filter(|name| name.starts_with("istio_") || name.starts_with("workload_manager_")).collect()
    };
    let lacking: Vec<String> = names(&pages[1]).difference(&names(&pages[0])).cloned().collect();
    assert!(lacking.is_empty(), "{OURS} does not have, and {THEIRS} has: {lacking:?}");
}
