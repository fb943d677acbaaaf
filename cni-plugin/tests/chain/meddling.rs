//! What others do on a node, by mistake or as they please: to configurations, to namespaces, to a removal; and a crowd.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::node::{Node, capture, succeeds};
use super::proxy::Proxy;

#[test]
fn a_configuration_that_is_half_written_is_left_to_its_writer_and_joined_when_it_is_whole() {
    let Some((node, _proxy)) = Node::enrolled("half") else { return };
    let file = node.path("net.d/10-bridge.conflist");
    let whole = node.configuration_without_us();
    let half = &whole[..whole.len() / 2];
    fs::write(&file, half).unwrap();
    node.wait("the agent says so", || node.page("/metrics").lines().any(|line| line == "istio_cni_install_ready 0"));
    assert_eq!(fs::read_to_string(&file).unwrap(), half);
    fs::write(&file, &whole).unwrap();
    node.wait_installed();
    node.declare("shop", "web", "u1");
    node.add("shop", "web", "u1").unwrap();
    assert!(node.is_captured("u1"));
    node.stop_agent();
}

#[test]
fn a_namespace_path_that_another_pod_uses_again_is_not_served_for_the_first() {
    let Some((node, proxy)) = Node::enrolled("reused") else { return };
    node.declare("shop", "web", "u1");
    node.add("shop", "web", "u1").unwrap();
    let netns = node.netns("u1");
    // Its sandbox is gone without a DEL, and the path is another pod's, with another address.
    assert!(succeeds("ip", &["netns", "del", &netns]) && succeeds("ip", &["netns", "add", &netns]));
    node.add_bare_in(Path::new("/run/netns").join(&netns).as_path(), "bank", "till", "u9").unwrap();
    node.declare("bank", "till", "u9");
    node.wait("it is found out", || node.page("/debug/pods").contains("none of its addresses"));
    node.wait("the status is taken back", || !node.status("shop", "web").contains("enabled"));
    assert!(proxy.has_heard_the_end_of("u1"));
    assert_eq!(node.rules("u1"), "");
    node.stop_agent();
}

#[test]
fn a_pod_without_ipv6_is_captured_over_ipv4() {
    let Some(node) = Node::prepare("onlyipv4", "1.0.0", &[]) else { return };
    let mut list: serde_json::Value = serde_json::from_str(&node.configuration_without_us()).unwrap();
    list["plugins"][0]["ipam"]["ranges"] = json!([[{"subnet": "10.240.0.0/24"}]]);
    list["plugins"][0]["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}]);
    fs::write(node.path("net.d/10-bridge.conflist"), list.to_string()).unwrap();
    node.start_agent();
    let _proxy = node.enrol_shop();
    let netns = node.netns("u1");
    assert!(succeeds("ip", &["netns", "add", &netns]));
    let off = ["all", "lo"].map(|interface| format!("net.ipv6.conf.{interface}.disable_ipv6=1"));
    node.in_pod("u1", &["sysctl", "-q", "-w", &off[0], &off[1]]);
    node.in_pod("u1", &["ip", "link", "set", "lo", "up"]);
    node.declare("shop", "web", "u1");
    node.add_at(Path::new("/run/netns").join(&netns).as_path(), "shop", "web", "u1").unwrap();
    let rules = node.rules("u1");
    assert!(capture(&rules) && !rules.contains("ip6 "), "{rules}");
    assert!(node.status("shop", "web").contains("enabled"));
    node.stop_agent();
}

#[test]
fn five_hundred_running_pods_are_all_captured_when_their_namespace_is_labelled() {
    const PODS: usize = 500;
    let Some(node) = Node::start("crowd", "1.0.0") else { return };
    let proxy = Proxy::start(&node);
    node.wait_installed();
    let uids: Vec<String> = (0..PODS).map(|number| format!("u{number}")).collect();
    // Without the chain, which takes longer to make so many than everything that is looked at here.
    node.run_without_a_chain("shop", &uids);
    node.wait("all are seen", || node.page("/debug/pods").matches("\"not_labelled\"").count() == PODS);
    node.enrol("shop");
    let captured = format!("fairway_agent_pods{{state=\"captured\"}} {PODS}");
    node.wait("all are captured", || node.page("/metrics").lines().any(|line| line == captured));
    for uid in &uids {
        assert!(proxy.was_handed(uid) && node.status("shop", uid).contains("enabled"), "{uid}");
    }
    // Read by somebody else than the agent.
    for uid in uids.iter().step_by(50) {
        assert!(node.is_captured(uid), "{uid}");
    }
    node.stop_agent();
}

#[test]
fn a_pod_that_the_chain_missed_is_captured_once_it_is_seen() {
    let Some((node, _proxy)) = Node::enrolled("missed") else { return };
    node.declare("shop", "web", "u1");
    // Its runtime read the configuration just when another CNI had written it anew.
    node.add_with(&node.configuration_without_us(), "shop", "web", "u1").unwrap();
    assert!(!node.is_captured("u1"));
    node.run_on("shop", "web", "u1");
    node.wait("it is captured", || node.status("shop", "web").contains("enabled"));
    assert!(node.is_captured("u1"));
    node.del("shop", "web", "u1").unwrap();
    node.stop_agent();
}

#[test]
fn a_pod_in_its_nodes_network_is_told_at_once_and_nothing_is_done_to_the_node() {
    let Some((node, _proxy)) = Node::enrolled("hostnet") else { return };
    let before = node.exec(&["nft", "list", "ruleset"]);
    let manifest = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
        "spec": {"nodeName": "node-1", "hostNetwork": true, "containers": []},
        "status": {"phase": "Running", "podIP": "10.240.0.1"}});
    node.write_manifest("pod-u1", &manifest);
    node.wait("the event", || node.page("/debug/events").contains("CannotBeCaptured"));
    node.wait("the status", || node.status("shop", "web").contains("fairway.dev/not-captured"));
    let metrics = node.page("/metrics");
    for line in
        [r#"fairway_agent_events_total{reason="CannotBeCaptured"} 1"#, r#"fairway_agent_pods{state="refused"} 1"#]
    {
        assert!(metrics.contains(line), "{metrics}");
    }
    assert_eq!(node.exec(&["nft", "list", "ruleset"]), before);
    node.stop_agent();
}

#[test]
fn a_removal_that_was_killed_halfway_is_finished_by_the_next() {
    let Some((node, proxy)) = Node::enrolled("halfgone") else { return };
    node.declare("shop", "web", "u1");
    let configuration = node.configuration();
    node.add("shop", "web", "u1").unwrap();
    node.stop_agent();
    drop(proxy);
    let mut removal = node.agent_command().arg("--uninstall").spawn().unwrap();
    // From here on it gives peers a moment before it touches the rules.
    node.wait("the status is taken back", || node.status("shop", "web").is_empty());
    removal.kill().unwrap();
    removal.wait().unwrap();
    assert!(!node.configuration().contains("fairway") && node.is_captured("u1"), "it was killed halfway");
    node.uninstall().unwrap();
    assert_eq!(node.rules("u1"), "");
    node.del_with(&configuration, "shop", "web", "u1").unwrap();
    node.uninstall().unwrap();
    assert!(!node.has_program());
}
