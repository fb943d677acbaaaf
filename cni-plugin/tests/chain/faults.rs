//! What goes wrong on a node, with everything real but the node proxy.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::node::{Node, capture};
use super::proxy::{DELETION, Proxy, Temper};

/// How often the other CNI of a test rewrites its configuration.
const REWRITTEN_EVERY: Duration = Duration::from_secs(1);

#[test]
fn two_pods_that_start_at_once_are_both_captured() {
    let Some((node, _proxy)) = Node::enrolled("both") else { return };
    let uids = ["u1", "u2"];
    for uid in uids {
        node.declare("shop", uid, uid);
    }
    std::thread::scope(|scope| {
        let adds = uids.map(|uid| {
            let node = &node;
            scope.spawn(move || node.add("shop", uid, uid).unwrap())
        });
        let addresses = adds.map(|add| add.join().unwrap()["ips"][0]["address"].clone());
        assert_ne!(addresses[0], addresses[1]);
    });
    assert!(uids.iter().all(|uid| node.is_captured(uid)));
    node.stop_agent();
}

#[test]
fn a_proxy_killed_during_a_del_holds_no_pod_up_and_its_successor_never_hears_of_it() {
    let Some(node) = Node::start("delkill", "1.0.0") else { return };
    node.enrol("shop");
    // It dies in the middle of the deletion: it has heard of it, and does not answer.
    let proxy = Proxy::with(&node, Temper::DiesAt(DELETION));
    node.wait_installed();
    for uid in ["u1", "u2"] {
        node.declare("shop", uid, uid);
        node.add("shop", uid, uid).unwrap();
    }
    node.del("shop", "u1", "u1").unwrap();
    node.wait("the proxy died", || proxy.has_ended());
    let successor = Proxy::start(&node);
    node.wait("the successor was told what there is", || successor.has_heard("u2"));
    assert!(!successor.has_heard("u1"), "of a pod that ended");
    node.declare("shop", "u3", "u3");
    node.add("shop", "u3", "u3").unwrap();
    assert!(node.is_captured("u3"));
    node.stop_agent();
}

#[test]
fn while_another_cni_rewrites_its_configuration_every_second_pods_start_captured() {
    let Some((node, _proxy)) = Node::enrolled("rewrite") else { return };
    let is_over = AtomicBool::new(false);
    let rewritten = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = Instant::now();
            while !is_over.load(Ordering::Relaxed) {
                if Instant::now() >= next {
                    next += REWRITTEN_EVERY;
                    node.rewrite_configuration(rewritten.fetch_add(1, Ordering::Relaxed));
                }
                std::thread::yield_now();
            }
        });
        let mut number = 0;
        while number < 3 || rewritten.load(Ordering::Relaxed) < 3 {
            let uid = format!("u{number}");
            node.declare("shop", &uid, &uid);
            node.wait_installed();
            let configuration = node.configuration();
            // Between the rewriting and our coming back, runtimes start pods without us.
            if configuration.contains("fairway-cni") {
                node.add_with(&configuration, "shop", &uid, &uid).unwrap();
                assert!(node.is_captured(&uid), "{uid}");
                number += 1;
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    node.stop_agent();
}

#[test]
fn a_node_that_boots_again_is_strict_before_its_agent_runs_and_captures_everything_anew() {
    let Some((node, proxy)) = Node::enrolled("reboot") else { return };
    for uid in ["u1", "u2"] {
        node.declare("shop", uid, uid);
        node.add("shop", uid, uid).unwrap();
    }
    // Power fails: no DEL, no drain. What is on disk stays.
    node.kill_agent();
    drop(proxy);
    node.lose_namespaces();
    let error = node.add("shop", "u1", "u1").unwrap_err();
    assert!(error.contains("\"code\":11"), "{error}");
    node.del("shop", "u1", "u1").unwrap();
    node.start_agent();
    let _proxy = Proxy::start(&node);
    for uid in ["u1", "u2"] {
        node.add("shop", uid, uid).unwrap();
        assert!(node.is_captured(uid), "{uid}");
        node.wait("its status says so", || node.status("shop", uid).contains("enabled"));
    }
    node.stop_agent();
}

#[test]
fn where_nft_is_missing_iptables_captures_and_nft_takes_away_what_it_left() {
    if !Path::new("/usr/sbin/iptables-restore").exists() {
        super::node::skip("capture with iptables", "the package iptables");
        return;
    }
    let Some(node) = Node::start("iptables", "1.0.0") else { return };
    node.enrol("shop");
    node.wait_installed();
    node.stop_agent();
    let programs = node.programs(&["ip", "iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore"]);
    node.start_agent_with(&[("PATH", &programs)]);
    let proxy = Proxy::start(&node);
    node.declare("shop", "web", "u1");
    node.add("shop", "web", "u1").unwrap();
    let log = node.log();
    let said = log.lines().rev().find(|line| line.contains("how rules are written"));
    assert!(said.is_some_and(|line| line.contains("iptables")), "{log}");
    for program in ["iptables-save", "ip6tables-save"] {
        let rules = node.in_pod("u1", &[program]);
        assert!(rules.contains("--to-ports 15001") && rules.contains("--to-ports 15006"), "{rules}");
    }
    // The rules do what they say: what arrives for any port is at the proxy's.
    let heard = node.serve_in_pod("u1", &[15006]);
    assert!(node.connects_from_node(&node.address_of("u1"), 9090));
    assert_eq!(heard.recv_timeout(Duration::from_secs(10)).unwrap().1, 15006);
    node.stop_agent();
    drop(proxy);
    // By now nft is there, and takes away what the other way has left.
    node.uninstall().unwrap();
    for program in ["iptables-save", "ip6tables-save"] {
        let rules = node.in_pod("u1", &[program]);
        assert!(!rules.contains("FAIRWAY"), "{rules}");
    }
}

#[test]
fn a_pod_in_a_user_namespace_of_its_own_is_captured_like_any_other() {
    let Some(node) = Node::start("userns", "1.0.0") else { return };
    let Some(owner) = node.user_namespace("u1") else {
        super::node::skip("a pod in a user namespace", "user namespaces");
        return;
    };
    let _proxy = node.enrol_shop();
    node.declare("shop", "web", "u1");
    node.add_in(&owner, "shop", "web", "u1").unwrap();
    let rules = owner.run(&["nft", "list", "ruleset"]);
    assert!(capture(&rules), "{rules}");
    node.stop_agent();
}
