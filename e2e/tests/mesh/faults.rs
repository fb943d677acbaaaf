//! Processes that die: the mesh recovers by itself, and what was open, issued or in force stays so.

mod authority;
mod kept;
mod labs_apart;
mod last_good;
mod upgrade;

use std::collections::BTreeSet;
use std::fs;

use fairway_lab::Lab;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::labs;
use super::observe::{self, restarts};
use super::shop::{self, CLIENT, Conversation, SERVER, VISITOR};

const NODES: [&str; 2] = ["node-1", "node-2"];

/// Kills components and waits until each was started again and is ready.
fn kill(lab: &Lab, components: &[&str]) {
    let before = restarts(lab);
    for component in components {
        lab.kill(component).unwrap();
    }
    back(lab, components, &before);
}

fn back(lab: &Lab, components: &[&str], before: &std::collections::BTreeMap<String, u32>) {
    lab.wait_until("killed components to be back", || {
        let now = restarts(lab);
        let missing: Vec<_> = components.iter().filter(|name| now[**name] <= before[**name]).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    })
    .unwrap();
    lab.wait_ready().unwrap();
}

#[test]
fn whatever_is_killed_comes_back_and_connections_work_again() {
    let Some(lab) = shop::enrolled("kill") else { return };
    let client = labs::pod(&lab, CLIENT);
    let all = ["controller", "agent-node-1", "agent-node-2", "ztunnel-node-1", "ztunnel-node-2"];
    for components in all.iter().map(std::slice::from_ref).chain([&all[..]]) {
        kill(&lab, components);
        shop::mutual_tls(&lab);
        shop::carries_on(&lab);
        let answer = labs::get(&lab, VISITOR, &format!("http://{}:8080/", shop::address(&lab, SERVER)));
        assert!(answer.starts_with("200 "), "after {components:?} were killed: {answer}");
    }
    let now = labs::pod(&lab, CLIENT);
    assert_eq!((now.pids, now.restarts), (client.pids, client.restarts));
}

#[test]
fn a_long_lived_connection_survives_controller_and_agent() {
    let Some(lab) = shop::enrolled("held") else { return };
    let server = shop::address(&lab, SERVER);
    let mut conversation = Conversation::open(&lab, CLIENT, server, 7000);
    assert!(conversation.says("before"));
    for components in [&["controller"][..], &["agent-node-1", "agent-node-2"]] {
        kill(&lab, components);
        assert!(conversation.says("after"), "killing {components:?} cut an open connection");
        shop::mutual_tls(&lab);
        assert!(conversation.says("and later"), "the restart of {components:?} cut an open connection");
    }
    kill(&lab, &["ztunnel-node-2"]);
    assert!(!conversation.says("anybody there?"), "the connection was not carried by the proxy that was killed");
}

#[test]
fn labels_applied_without_a_controller_take_effect_when_it_is_back() {
    let Some(lab) = labs::mesh_with("late", shop::MANIFESTS) else { return };
    let before = restarts(&lab);
    lab.signal("controller", Signal::SIGSTOP).unwrap();
    lab.label_namespace("shop", &[shop::AMBIENT]).unwrap();
    lab.kill("controller").unwrap();
    back(&lab, &["controller"], &before);
    lab.wait_captured(&[(CLIENT, true), (SERVER, true)]).unwrap();
    shop::mutual_tls(&lab);
}

#[test]
fn a_restarted_controller_changes_no_identity_and_withdraws_nothing() {
    let Some(lab) = shop::enrolled("restart") else { return };
    lab.apply(DENY_CLIENT).unwrap();
    lab.wait_for("the denial to be in force", || refused(&lab)).unwrap();
    let root = fs::read(lab.layout().root_certificate()).unwrap();
    let held: Vec<Held> = NODES.iter().map(|node| Held::by(&lab, node)).collect();
    let before = restarts(&lab);
    lab.kill("controller").unwrap();
    lab.wait_until("the controller to be back", || {
        assert!(refused(&lab), "a policy was not enforced while the controller was away");
        for (node, held) in NODES.iter().zip(&held) {
            assert_eq!(&Held::by(&lab, node), held, "{node} lost or changed something");
        }
        let proxies = lab.status().unwrap().proxies;
        let connected = proxies.as_array().map_or_else(|| proxies["proxies"].as_array().map_or(0, Vec::len), Vec::len);
        let back = restarts(&lab)["controller"] > before["controller"] && connected == NODES.len();
        if back { Ok(()) } else { Err(proxies.to_string()) }
    })
    .unwrap();
    lab.wait_ready().unwrap();
    assert_eq!(fs::read(lab.layout().root_certificate()).unwrap(), root);
    lab.delete(DENY_CLIENT).unwrap();
    shop::mutual_tls(&lab);
    for (node, held) in NODES.iter().zip(&held) {
        let now = Held::by(&lab, node);
        assert_eq!((&now.workloads, &now.certificates), (&held.workloads, &held.certificates), "{node}");
    }
}

fn refused(lab: &Lab) -> bool {
    labs::get(lab, CLIENT, &format!("http://{}:8080/", shop::address(lab, SERVER))).starts_with("error:")
}

/// What a proxy holds: names of workloads and policies, serial numbers of certificates.
#[derive(Debug, PartialEq)]
struct Held {
    workloads: BTreeSet<String>,
    policies: BTreeSet<String>,
    certificates: BTreeSet<String>,
}

impl Held {
    fn by(lab: &Lab, node: &str) -> Self {
        let dump = observe::config_dump(lab, node).unwrap();
        let all =
            |list: &str, text: &dyn Fn(&Value) -> String| dump[list].as_array().unwrap().iter().map(text).collect();
        Self {
            workloads: all("workloads", &|workload| format!("{} {}", workload["uid"], workload["protocol"])),
            policies: all("policies", &|policy| format!("{}/{}", policy["namespace"], policy["name"])),
            certificates: all("certificates", &|held| {
                format!("{} {} {}", held["identity"], held["state"], held["certChain"][0]["serialNumber"])
            }),
        }
    }
}

const DENY_CLIENT: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-client, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]}
";
