//! Theirs under our controller and our agent survives the end of any of the three, and so do we beside it.

use nix::sys::signal::Signal;

use super::{PAIRS, THEIRS};
use crate::mesh::labs;
use crate::mesh::observe;

#[test]
fn theirs_comes_back_after_every_kill() {
    let Some(lab) = super::mixed("restart") else { return };
    for component in ["controller", "agent-node-2", "ztunnel-node-2", "ztunnel-node-1"] {
        let before = observe::restarts(&lab)[component];
        lab.signal(component, Signal::SIGKILL).unwrap();
        lab.wait_for(&format!("{component} to be started again"), || observe::restarts(&lab)[component] > before)
            .unwrap();
        lab.wait_ready().unwrap();
        for (client, server) in PAIRS {
            super::reachable(&lab, &format!("mixed/{client}-client"), server);
        }
    }
    // What changed while nothing was lost arrives as well: a pod that goes, and one that comes under its name.
    lab.delete(&pod("x")).unwrap();
    lab.wait_for("the pod to be gone from their proxy", || {
        let dump = observe::config_dump(&lab, THEIRS).unwrap();
        let workloads = dump["workloads"].as_array().unwrap();
        !workloads.iter().any(|workload| workload["name"] == "theirs-client")
    })
    .unwrap();
    lab.apply(&pod("again")).unwrap();
    lab.wait_ready().unwrap();
    lab.wait_captured(&[("mixed/theirs-client", true)]).unwrap();
    super::reachable(&lab, "mixed/theirs-client", "ours");
    let answer = labs::get(&lab, "mixed/theirs-client", "http://theirs-server.mixed/");
    assert!(answer.starts_with("200 "), "{answer}");
}

fn pod(label: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: theirs-client, namespace: mixed, labels: {{run: {label}}}}}\n\
         spec: {{nodeName: node-2, serviceAccountName: theirs-client, containers: [{{name: idle, command: [sleep, infinity]}}]}}\n"
    )
}
