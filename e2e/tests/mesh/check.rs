//! `fairway check` finds what is broken, and its hints mend it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use fairway_core::source::Kind;
use fairway_lab::{Lab, apply};
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use super::look::{fairway, said};
use super::shop;
use super::{labs, trust};

/// Time for which a root holds that is to end: enough for the controller to take it, which looks every two seconds.
const HOLDS: Duration = Duration::seconds(8);
const BLOCKS: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-only, namespace: shop}
spec: {podSelector: {matchLabels: {app: server}}, ingress: [{ports: [{port: 8080}]}]}
";
/// Listens where the mesh will, before it is in the mesh.
const TAKES_PORT: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: taker, namespace: street}
spec:
  nodeName: node-1
  containers:
    - name: echo
      command: [fairway, lab, tool, echo, --port, \"15008\"]
      readinessProbe: {tcpSocket: {port: 15008}}
";
/// Cuts a node off from the controller, at once also where it is connected.
const CUT: [&[&str]; 4] = [
    &["nft", "add", "table", "inet", "cut"],
    &["nft", "add", "chain", "inet", "cut", "out", "{ type filter hook output priority 0; }"],
    &["nft", "add", "rule", "inet", "cut", "out", "tcp", "dport", "15012", "reject", "with", "tcp", "reset"],
    &["nft", "list", "table", "inet", "cut"],
];

/// The checks that fail now, with what they say to do.
pub(crate) fn failing(lab: &Lab) -> BTreeMap<String, String> {
    let (succeeded, text) = fairway(lab, &["check", "-o", "json"]);
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let sections = answer["sections"].as_array().unwrap().iter();
    let checks = sections.flat_map(|section| section["checks"].as_array().unwrap());
    let failed = checks.filter(|check| check["outcome"] == "failed");
    let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    let failed: BTreeMap<String, String> = failed.map(|check| (text(check, "id"), text(check, "hint"))).collect();
    assert_eq!(succeeded, failed.is_empty(), "the exit code tells: {failed:?}");
    failed
}

/// Waits until this check fails, and says what it says to do.
#[track_caller]
pub(crate) fn found(lab: &Lab, id: &str) -> String {
    lab.wait_until(&format!("check {id} to fail"), || {
        let mut failed = failing(lab);
        failed.remove(id).ok_or_else(|| format!("{failed:?}"))
    })
    .unwrap()
}

/// Waits until nothing is wrong.
#[track_caller]
pub(crate) fn well(lab: &Lab) {
    lab.wait_until("nothing to be wrong", || {
        let failed = failing(lab);
        if failed.is_empty() { Ok(()) } else { Err(format!("{failed:?}")) }
    })
    .unwrap();
}

#[test]
fn what_is_broken_is_found_and_mended_as_the_hint_says() {
    let Some(lab) = shop::enrolled("check") else { return };
    well(&lab);
    let text = said(&lab, &["check"]);
    assert!(
        text.contains("✓ the proxy of every node answers (2)") && text.lines().all(|it| it.chars().count() <= 100),
        "{text}"
    );

    a_waypoint_is_missing(&lab);
    a_network_policy_blocks_tunnels(&lab);
    a_port_is_taken(&lab);
    a_proxy_is_down(&lab);
    a_node_is_cut_off(&lab);
    a_plugin_is_removed(&lab);
    an_authority_ends(&lab);
}

fn label(lab: &Lab, kind: Kind, namespace: &str, name: &str, change: &str) {
    apply::label(lab.layout(), kind, namespace, name, &[change.to_owned()]).unwrap();
}

fn a_waypoint_is_missing(lab: &Lab) {
    label(lab, Kind::Service, "shop", "server", "istio.io/use-waypoint=way");
    let hint = found(lab, "waypoints-usable");
    let command = hint.split(';').next().unwrap_or_default();
    let words: Vec<&str> = command.split_whitespace().skip(1).collect();
    assert_eq!(words, ["waypoint", "apply", "--namespace", "shop", "--name", "way", "--wait"], "{hint}");
    said(lab, &words);
    well(lab);
    label(lab, Kind::Service, "shop", "server", "istio.io/use-waypoint-");
    said(lab, &["waypoint", "delete", "way", "-n", "shop"]);
}

fn a_network_policy_blocks_tunnels(lab: &Lab) {
    lab.apply(BLOCKS).unwrap();
    let hint = found(lab, "tunnels-admitted");
    assert!(hint.contains("- ports: [{port: 15008, protocol: TCP}]"), "{hint}");
    lab.apply(&BLOCKS.replace("{port: 8080}", "{port: 8080}, {port: 15008, protocol: TCP}")).unwrap();
    well(lab);
    lab.delete(BLOCKS).unwrap();
}

fn a_port_is_taken(lab: &Lab) {
    lab.apply(TAKES_PORT).unwrap();
    lab.wait_ready().unwrap();
    lab.label_namespace("street", &[shop::AMBIENT]).unwrap();
    let hint = found(lab, "ports-free");
    assert!(hint.contains("label the pod istio.io/dataplane-mode=none"), "{hint}");
    label(lab, Kind::Pod, "street", "taker", "istio.io/dataplane-mode=none");
    well(lab);
    lab.label_namespace("street", &["istio.io/dataplane-mode-"]).unwrap();
    lab.delete(TAKES_PORT).unwrap();
    lab.wait_ready().unwrap();
}

fn a_proxy_is_down(lab: &Lab) {
    lab.signal("ztunnel-node-2", Signal::SIGSTOP).unwrap();
    let hint = found(lab, "proxies-answer");
    assert!(hint.contains("fairway lab logs ztunnel-node-2"), "{hint}");
    lab.signal("ztunnel-node-2", Signal::SIGCONT).unwrap();
    well(lab);
}

fn a_node_is_cut_off(lab: &Lab) {
    for command in CUT {
        let output = lab.exec_node("node-2", command).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let hint = found(lab, "controller-reached");
    assert!(hint.contains("TCP port 15012"), "{hint}");
    assert!(lab.exec_node("node-2", &["nft", "delete", "table", "inet", "cut"]).unwrap().status.success());
    well(lab);
}

fn a_plugin_is_removed(lab: &Lab) {
    let folder = lab.layout().cni_configurations("node-2");
    let kept = folder.with_extension("kept");
    fs::create_dir(&kept).unwrap();
    let lists = || -> Vec<_> {
        let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|it| it == "conflist" || it == "conf")).collect()
    };
    for file in lists() {
        fs::rename(&file, kept.join(file.file_name().unwrap())).unwrap();
    }
    let hint = found(lab, "plugin-installed");
    assert!(hint.contains("fairway lab logs agent-node-2"), "{hint}");
    for file in fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path()) {
        fs::rename(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    well(lab);
}

/// The mesh's root with the same key, until soon.
fn ending(key: &KeyPair, until: OffsetDateTime) -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "ends soon");
    params.not_before = until - Duration::days(100);
    params.not_after = until;
    params.self_signed(key).unwrap().pem()
}

fn an_authority_ends(lab: &Lab) {
    let root = lab.layout().root_certificate();
    let good = fs::read_to_string(&root).unwrap();
    let key = KeyPair::from_pem(&fs::read_to_string(root.with_file_name("root-key.pem")).unwrap()).unwrap();
    trust::replace(&root, &ending(&key, OffsetDateTime::now_utc() + HOLDS));
    let hint = found(lab, "authority-valid");
    assert!(hint.contains("ca/root-cert.pem") && hint.contains("docs/guides/authority.md"), "{hint}");
    trust::replace(&root, &good);
    well(lab);
}

#[test]
fn a_proxy_of_another_trust_domain_is_found() {
    let other = BTreeMap::from([("TRUST_DOMAIN".to_owned(), "elsewhere.example".to_owned())]);
    let Some(lab) = labs::mesh_in("domain", BTreeMap::from([("ztunnel-node-2".to_owned(), other)])) else { return };
    lab.apply(shop::MANIFESTS).unwrap();
    lab.wait_ready().unwrap();
    let hint = found(&lab, "trust-domain");
    assert!(hint.contains("TRUST_DOMAIN"), "{hint}");
    let text = fairway(&lab, &["check"]).1;
    assert!(text.contains("node-2: its proxy is of trust domain elsewhere.example"), "{text}");
    assert!(!text.contains("node-1: its proxy is of trust domain"), "{text}");
    let only: BTreeSet<String> = failing(&lab).into_keys().collect();
    assert_eq!(only, BTreeSet::from(["trust-domain".to_owned()]));
}
