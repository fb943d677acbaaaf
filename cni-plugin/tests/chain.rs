//! The plugin behind Debian's own, called as a container runtime calls them, with the real agent and kernel.
//!
//! A "node" is a network namespace; the agent and the chain run in it. The runtime is the few lines of the CNI
//! specification that `cnitool` is: environment, standard input, and results handed from plugin to plugin.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod chain {
    mod containers;
    mod cri;
    mod disks;
    mod faults;
    mod kills;
    mod leaving;
    mod meddling;
    pub(crate) mod node;
    mod peers;
    pub(crate) mod proxy;
    pub(crate) mod runtime;
    mod trouble;
    mod unread;
}

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use chain::node::{Node, capture};
use chain::proxy::Proxy;

#[test]
fn a_pod_of_an_enrolled_namespace_starts_captured_through_the_real_chain() {
    let Some((node, _proxy)) = Node::enrolled("captured") else { return };
    node.declare("shop", "web", "u1");
    let result = node.add("shop", "web", "u1").unwrap();
    let addresses: Vec<&str> =
        result["ips"].as_array().unwrap().iter().filter_map(|ip| ip["address"].as_str()).collect();
    assert!(addresses.iter().any(|ip| ip.starts_with("10.240.")) && addresses.len() == 2, "{result}");
    // Not "will be": it was captured before the runtime heard of it.
    let rules = node.rules("u1");
    assert!(capture(&rules) && rules.contains("redirect to :15006"), "{rules}");
    assert!(node.status("shop", "web").contains("enabled"));
    node.call("CHECK", "shop", "web", "u1", Some(&result)).unwrap();
    node.in_pod("u1", &["nft", "delete", "table", "inet", "fairway-nat"]);
    node.wait("the rules are put back", || node.is_captured("u1"));
    node.del("shop", "web", "u1").unwrap();
    node.del("shop", "web", "u1").unwrap();
    node.stop_agent();
}

#[test]
fn every_version_of_the_specification_passes_through() {
    // Debian's plugins end at 1.0.0.
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        let Some(node) = Node::start("versions", version) else { return };
        node.wait_installed();
        node.declare("bank", "till", "u1");
        let result = node.add("bank", "till", "u1").unwrap();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0].get("version").is_some(), version.starts_with("0."), "{result}");
        assert_eq!(node.rules("u1"), "", "it is not enrolled");
        node.del("bank", "till", "u1").unwrap();
        node.stop_agent();
    }
}

#[test]
fn without_an_agent_enrolled_pods_wait_and_others_start() {
    let Some(node) = Node::start("agentless", "1.0.0") else { return };
    node.enrol("shop");
    node.wait_installed();
    node.kill_agent();
    node.declare("shop", "web", "u1");
    let error = node.add("shop", "web", "u1").unwrap_err();
    assert!(error.contains("\"code\":11") && error.contains("does not answer"), "{error}");
    node.del("shop", "web", "u1").unwrap();
    node.add("bank", "till", "u2").unwrap();
    // The agent comes back, and the runtime tries again.
    node.start_agent();
    let _proxy = Proxy::start(&node);
    node.add("shop", "web", "u1").unwrap();
    assert!(node.is_captured("u1"));
    node.stop_agent();
}

#[test]
fn uninstalled_pods_run_on_and_can_be_deleted() {
    let Some((node, proxy)) = Node::enrolled("uninstall") else { return };
    node.declare("shop", "web", "u1");
    let configuration = node.configuration();
    node.add("shop", "web", "u1").unwrap();
    node.stop_agent();
    drop(proxy);
    node.uninstall().unwrap();
    assert_eq!(node.rules("u1"), "");
    assert!(!node.configuration().contains("fairway"), "{}", node.configuration());
    assert_eq!(node.status("shop", "web"), "");
    // A runtime that ends the pod with what it was made with.
    assert!(node.has_program());
    node.del_with(&configuration, "shop", "web", "u1").unwrap();
    node.declare("shop", "late", "u2");
    node.add("shop", "late", "u2").unwrap();
    assert_eq!(node.rules("u2"), "");
    node.uninstall().unwrap();
    assert!(!node.has_program(), "no pod needs it any more");
}

#[test]
fn a_kubelet_probes_from_the_nodes_own_address_and_nothing_else_of_the_node_gets_in() {
    let Some((node, _proxy)) = Node::enrolled("probes") else { return };
    node.declare_probed("shop", "web", "u1", 8080);
    node.add("shop", "web", "u1").unwrap();
    let heard = node.serve_in_pod("u1", &[8080, 9090]);
    let address = node.address_of("u1");
    // With the addresses the node really has towards its pods.
    for (to, from) in [(&address, "10.240.0.1"), (&node.second_address_of("u1"), "fd00:240::1")] {
        // The node may not use its own IPv6 address before it has made sure that nobody else has it; a kubelet probes again.
        node.wait(&format!("the probe to {to}"), || node.connects_from_node(to, 8080));
        let (peer, port) = heard.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!((peer.to_string().as_str(), port), (from, 8080));
    }
    // Redirected to the proxy's port, where in this test nobody listens.
    for to in [address, node.second_address_of("u1")] {
        assert!(!node.connects_from_node(&to, 9090), "not a probe: {to}");
    }
    node.stop_agent();
}

#[test]
fn connections_of_a_running_pod_go_on_when_it_is_enrolled_and_are_cut_at_both_ends_in_the_end() {
    for (grace, is_cut) in [("600000", false), ("500", true)] {
        let Some(node) = Node::start_with("grace", "1.0.0", &["--established-grace", grace]) else { return };
        let _proxy = Proxy::start(&node);
        node.wait_installed();
        node.declare("shop", "web", "u1");
        node.add("shop", "web", "u1").unwrap();
        let (mut near, mut far) = node.converse("u1", 7000);
        node.enrol("shop");
        node.wait("it is captured", || node.status("shop", "web").contains("enabled"));
        let mut buffer = [0; 5];
        if is_cut {
            // The end in the pod hears of it when it sends, and the other one at the same time.
            node.wait("it is cut", || far.write_all(b"hello").is_err());
            node.wait("its peer hears of it", || near.read(&mut buffer).is_err());
        } else {
            far.write_all(b"hello").unwrap();
            near.read_exact(&mut buffer).unwrap();
            near.write_all(b"world").unwrap();
            far.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"world");
        }
        node.stop_agent();
    }
}

#[test]
fn what_the_plugin_adds_to_a_pods_start_is_measured() {
    const PODS: usize = 20;
    let Some((node, _proxy)) = Node::enrolled("cost") else { return };
    let bare = node.configuration_without_us();
    let mut with = Vec::new();
    let mut without = Vec::new();
    for number in 0..PODS {
        let uid = format!("b{number}");
        let started = Instant::now();
        node.add_with(&bare, "bank", &uid, &uid).unwrap();
        without.push(started.elapsed());
        let uid = format!("s{number}");
        node.declare("shop", &uid, &uid);
        node.wait_seen(&uid);
        let started = Instant::now();
        node.add("shop", &uid, &uid).unwrap();
        with.push(started.elapsed());
    }
    with.sort();
    without.sort();
    // Compared, not asserted: the machine may be busy. See docs/guides/cni.md for what it was once.
    println!("median without {:?}, with {:?}", without[PODS / 2], with[PODS / 2]);
    node.stop_agent();
}
