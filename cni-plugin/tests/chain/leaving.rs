//! An agent that leaves its node for good, and sandboxes that a runtime has lost.

use serde_json::{Value, json};

use super::node::Node;
use super::proxy::Proxy;

#[test]
fn an_agent_that_leaves_for_good_takes_everything_with_it_and_its_pods_run_on_and_can_be_deleted() {
    let Some(node) = Node::start_with("leaving", "1.0.0", &["--cleanup-on-exit"]) else { return };
    let proxy = node.enrol_shop();
    for uid in ["u1", "u2"] {
        node.declare("shop", uid, uid);
        node.add("shop", uid, uid).unwrap();
    }
    let configuration = node.configuration();
    // As after an agent that was killed: this one has been told nothing by the runtime.
    node.run_on("shop", "u2", "u2");
    node.kill_agent();
    drop(proxy);
    node.start_agent();
    let proxy = Proxy::start(&node);
    node.wait("the proxy has both", || proxy.was_handed("u2") && proxy.has_heard("u1"));
    let program = std::fs::read(node.path("bin/fairway-cni")).unwrap();
    node.run_on("shop", "u1", "u1");
    node.wait("both are captured", || {
        proxy.was_handed("u1") && node.page("/debug/pods").matches("\"captured\"").count() == 4
    });
    node.stop_agent();
    for uid in ["u1", "u2"] {
        assert_eq!((node.rules(uid).as_str(), node.status("shop", uid).as_str()), ("", ""), "{uid}");
        assert!(proxy.has_heard_the_end_of(uid), "{uid}: the proxy is rid of it");
    }
    assert!(!node.configuration().contains("fairway"), "{}", node.configuration());
    assert!(!node.path("net.d/fairway-cni").exists());
    // Pods run on, outside the mesh, and whoever starts now is not held up.
    let _heard = node.serve_in_pod("u1", &[9090]);
    assert!(node.connects_from_node(&node.address_of("u1"), 9090));
    node.declare("shop", "late", "u3");
    node.add("shop", "late", "u3").unwrap();
    assert_eq!(node.rules("u3"), "");
    // The runtime ends a pod with what it was made with, for which the program is still there.
    assert_eq!(std::fs::read(node.path("bin/fairway-cni")).unwrap(), program);
    for uid in ["u1", "u2"] {
        node.del_with(&configuration, "shop", uid, uid).unwrap();
    }
    assert!(node.log().contains("nothing of the mesh is left on this node"));
}

#[test]
fn a_sandbox_that_its_runtime_has_lost_is_taken_from_the_proxy_when_it_collects_garbage() {
    let Some((node, proxy)) = Node::enrolled("garbage") else { return };
    for uid in ["stays", "lost"] {
        node.declare("shop", uid, uid);
        node.add("shop", uid, uid).unwrap();
    }
    node.collect(&["stays", "lost"]).unwrap();
    node.collect(&["stays"]).unwrap();
    node.wait("the proxy is rid of it", || proxy.has_heard_the_end_of("lost"));
    assert!(node.is_captured("stays") && !proxy.has_heard_the_end_of("stays"));
    // The pod is started again once its runtime has cleaned up.
    node.del("shop", "lost", "lost").unwrap();
    node.add("shop", "lost", "lost").unwrap();
    assert!(node.is_captured("lost"));
    // An agent that has gone keeps nothing, so there is nothing to collect.
    node.kill_agent();
    node.collect(&[]).unwrap();
    node.stop_agent();
}

impl Node {
    /// Says that these pods' sandboxes are all there are, to the plugins that know what to do with that: Debian's do not.
    fn collect(&self, uids: &[&str]) -> Result<(), String> {
        let configuration: Value = serde_json::from_str(&self.configuration()).unwrap();
        let ours = configuration["plugins"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(ours["type"], "fairway-cni");
        let valid: Vec<Value> =
            uids.iter().map(|uid| json!({"containerID": format!("c{uid}"), "ifname": "eth0"})).collect();
        let mut input = ours;
        input["cniVersion"] = json!("1.1.0");
        input["name"] = configuration["name"].clone();
        input["cni.dev/valid-attachments"] = Value::from(valid);
        self.tell_our_plugin("GC", &input)
    }
}
