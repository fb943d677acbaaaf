//! Manifests that cannot be read, with everything real but the node proxy: what was captured stays, and what is enrolled.

use std::fs;

use super::node::Node;
use super::proxy::Proxy;

fn is_served(node: &Node, proxy: &Proxy, uid: &str) -> bool {
    node.is_captured(uid) && proxy.has_heard(uid) && !proxy.has_heard_the_end_of(uid)
}

#[test]
fn an_agent_that_starts_with_a_broken_manifest_of_a_namespace_keeps_its_pods_and_captures_new_ones() {
    let Some((node, proxy)) = Node::enrolled("broken") else { return };
    node.declare("shop", "web", "u1");
    node.add("shop", "web", "u1").unwrap();
    node.run_on("shop", "web", "u1");
    node.stop_agent();
    let (file, state) = (node.path("manifests/ns-shop.yaml"), node.path("net.d/fairway-cni/enrolled.json"));
    let (whole, noted) = (fs::read_to_string(&file).unwrap(), fs::read_to_string(&state).unwrap());
    fs::write(&file, "kind: [").unwrap();
    drop(proxy);
    node.start_agent();
    let proxy = Proxy::start(&node);
    node.wait("the proxy is told of the pod again", || is_served(&node, &proxy, "u1"));
    node.declare("shop", "next", "u2");
    node.add("shop", "next", "u2").unwrap();
    assert!(is_served(&node, &proxy, "u2"));
    assert!(node.page("/debug/pods").contains("remembered_namespace"));
    assert!(node.status("shop", "web").contains("enabled"));
    assert_eq!(fs::read_to_string(&state).unwrap(), noted);
    // Mended, and taken out: that is another matter.
    fs::write(&file, whole.replace("ambient", "none")).unwrap();
    node.wait("the pods are let go", || ["u1", "u2"].iter().all(|uid| node.rules(uid).is_empty()));
    assert!(!fs::read_to_string(&state).unwrap().contains("shop"));
    node.stop_agent();
}

#[test]
fn a_directory_of_manifests_that_vanishes_takes_no_pod_with_it() {
    let Some((node, proxy)) = Node::enrolled("vanished") else { return };
    node.declare("shop", "web", "u1");
    node.add("shop", "web", "u1").unwrap();
    node.run_on("shop", "web", "u1");
    let (manifests, elsewhere) = (node.path("manifests"), node.path("elsewhere"));
    fs::rename(&manifests, &elsewhere).unwrap();
    node.wait("the agent has noticed", || node.page("/debug/pods").contains("cannot write"));
    assert!(is_served(&node, &proxy, "u1") && !manifests.exists());
    // One that starts now knows what was written down for it.
    node.stop_agent();
    drop(proxy);
    node.start_agent();
    node.wait("the agent answers", || node.page("/healthz").contains("ok"));
    assert!(node.add("shop", "next", "u2").is_err());
    node.add("bank", "till", "u3").unwrap();
    assert!(node.is_captured("u1") && node.page("/readyz").contains("not been looked at"));
    fs::rename(&elsewhere, &manifests).unwrap();
    let proxy = Proxy::start(&node);
    node.wait("the proxy is told of the pod again", || is_served(&node, &proxy, "u1"));
    assert!(node.status("shop", "web").contains("enabled"));
    node.stop_agent();
}

#[test]
fn a_pod_that_the_next_agent_cannot_hand_over_stays_with_its_proxy_until_it_can() {
    let Some((node, proxy)) = Node::enrolled("kept") else { return };
    for uid in ["u1", "u2"] {
        node.declare("shop", uid, uid);
        node.add("shop", uid, uid).unwrap();
    }
    // Whoever takes over has not been told by the runtime where its namespace is, and finds no process in it.
    node.kill_agent();
    drop(proxy);
    node.start_agent();
    let proxy = Proxy::start(&node);
    node.wait("the proxy is told to keep them", || ["u1", "u2"].iter().all(|uid| proxy.has_been_told_to_keep(uid)));
    assert!(["u1", "u2"].iter().all(|uid| node.is_captured(uid) && node.status("shop", uid).contains("enabled")));
    node.run_on("shop", "u1", "u1");
    node.wait("the one that was found is handed over", || proxy.was_handed("u1"));
    assert!(!proxy.has_heard_the_end_of("u1"));
    node.del("shop", "u2", "u2").unwrap();
    node.wait("the one that ends is taken from the proxy", || proxy.has_heard_the_end_of("u2"));
    node.stop_agent();
}
