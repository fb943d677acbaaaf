//! An agent that starts while it cannot be read who is enrolled: what the proxy serves stays served.

use std::fs;

use nix::sys::signal::Signal;

use super::super::observe::restarts;
use super::super::shop::{self, CLIENT, Conversation, SERVER};
use super::back;

#[test]
fn pods_of_a_namespace_that_the_next_agent_cannot_read_stay_with_the_real_proxy() {
    let Some(lab) = shop::enrolled("kept") else { return };
    let mut conversation = Conversation::open(&lab, CLIENT, shop::address(&lab, SERVER), 7000);
    assert!(conversation.says("before"));
    let before = restarts(&lab);
    // It neither reads who is enrolled nor finds it noted.
    lab.signal("agent-node-2", Signal::SIGSTOP).unwrap();
    let file = lab.layout().manifests().join("_cluster/namespace_shop.yaml");
    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, "kind: [").unwrap();
    fs::remove_file(lab.layout().cni_configurations("node-2").join("fairway-cni/enrolled.json")).unwrap();
    lab.kill("agent-node-2").unwrap();
    back(&lab, &["agent-node-2"], &before);
    lab.wait_for("the new agent to look at the pods", || page(&lab).contains("unread_namespace")).unwrap();
    assert!(conversation.says("after"), "it was cut");
    shop::mutual_tls(&lab);
    fs::write(&file, whole).unwrap();
    lab.wait_captured(&[(CLIENT, true), (SERVER, true)]).unwrap();
    assert!(conversation.says("and later"));
}

fn page(lab: &fairway_lab::Lab) -> String {
    lab.http("node-2", "http://127.0.0.1:15114/debug/pods").map(|answer| answer.body).unwrap_or_default()
}
