//! Pods' networks come from a real chain of CNI plugins with the mesh's at its end, whatever dies meanwhile.

use std::fs;
use std::path::PathBuf;

use fairway_lab::Lab;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::labs;
use super::observe::{Cursor, field};
use super::shop::{self, CLIENT, SERVER};

/// A file of a node's runtime, as the host sees it.
fn cni(lab: &Lab, node: &str, file: &str) -> PathBuf {
    lab.layout().cni(node).join(file)
}

fn chain(lab: &Lab, node: &str) -> Vec<String> {
    let text = fs::read(cni(lab, node, "net.d/10-lab.conflist")).unwrap();
    let list: Value = serde_json::from_slice(&text).unwrap();
    list["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
}

/// A pod that asks the shop's server once, at its very start, and then does nothing.
fn eager(name: &str, namespace: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  nodeName: node-1\n  containers:\n  \
         - {{name: main, command: [sh, -c, \"fairway lab tool http-get http://server.shop/; exec sleep infinity\"]}}\n"
    )
}

#[test]
fn the_chain_makes_a_pods_network_and_takes_it_down() {
    let Some(lab) = shop::enrolled("chain") else { return };
    assert_eq!(chain(&lab, "node-1"), ["ptp", "portmap", "fairway-cni"]);
    let client = labs::pod(&lab, CLIENT);
    let remembered = || {
        let results = fs::read_dir(cni(&lab, "node-1", "cache/results")).unwrap().flatten();
        results.filter(|result| result.file_name().to_string_lossy().contains(&client.uid)).count()
    };
    let reserved = |address: &String| cni(&lab, "node-1", &format!("addresses/pods/{address}")).exists();
    assert_eq!((client.addresses.len(), remembered()), (2, 1));
    assert!(client.addresses.iter().all(reserved), "host-local gave {:?}", client.addresses);
    let manifest = shop::MANIFESTS
        .split("---")
        .find(|document| document.contains("kind: Pod") && document.contains("name: client"));
    lab.delete(manifest.unwrap()).unwrap();
    lab.wait_for("everything of the pod to be gone", || remembered() == 0 && !client.addresses.iter().any(reserved))
        .unwrap();
    lab.wait_for("the agent to forget it", || {
        !lab.http("node-1", "http://127.0.0.1:15114/debug/pods").unwrap().body.contains(&client.uid)
    })
    .unwrap();
}

#[test]
fn while_the_agent_hangs_enrolled_pods_wait_and_others_start() {
    let Some(lab) = shop::enrolled("hang") else { return };
    lab.signal("agent-node-1", Signal::SIGSTOP).unwrap();
    lab.apply(&format!("{}---\n{}", eager("late", "shop"), eager("passer-by", "street"))).unwrap();
    let pod = |name: &str| lab.status().unwrap().pods.into_iter().find(|pod| pod.name == name);
    lab.wait_for("the pod outside to run", || pod("passer-by").is_some_and(|pod| pod.pids.len() == 1)).unwrap();
    lab.wait_until("the runtime to say what it waits for", || {
        let late = pod("late").ok_or("not placed yet")?;
        assert_eq!(late.pids, Vec::<i32>::new(), "an enrolled pod runs outside the mesh");
        let message = late.message.unwrap_or_default();
        if message.contains("must not run before it is captured") { Ok(()) } else { Err(message) }
    })
    .unwrap();
    let [own, peers] = ["ztunnel-node-1", "ztunnel-node-2"].map(|proxy| Cursor::at_end(&lab, proxy));
    lab.signal("agent-node-1", Signal::SIGCONT).unwrap();
    lab.wait_captured(&[("shop/late", true)]).unwrap();
    // Its first words, at its very start: so early that the other node need not know whose address it is.
    let said = lab.layout().container_log("shop", "late", "main");
    let answer = lab.wait_until("the pod to say what became of its first request", || {
        fs::read_to_string(&said).ok().filter(|said| said.ends_with('\n')).ok_or_else(|| "nothing yet".to_owned())
    });
    let answer = answer.unwrap();
    assert!(answer.starts_with("200 "), "{answer}{}", own.lines(&lab, &["shop"]).join("\n"));
    // Nobody else has its identity.
    let identity = "src.identity=\"spiffe://cluster.local/ns/shop/sa/default\"";
    peers.wait(&lab, &["connection complete", "direction=\"inbound\"", identity]);
}

#[test]
fn pulling_the_plug_while_pods_start_ends_in_a_correct_mesh() {
    let Some(lab) = shop::enrolled("plug") else { return };
    let all = ["controller", "agent-node-1", "ztunnel-node-1"];
    for (round, components) in all.iter().map(std::slice::from_ref).chain([&all[..]]).enumerate() {
        let names: Vec<String> = (0..3).map(|number| format!("r{round}-{number}")).collect();
        let manifests: Vec<String> = names.iter().map(|name| eager(name, "shop")).collect();
        lab.apply(&manifests.join("---\n")).unwrap();
        for component in components {
            lab.kill(component).unwrap();
        }
        lab.wait_ready().unwrap();
        for name in &names {
            let pod = format!("shop/{name}");
            lab.wait_captured(&[(&pod, true), (SERVER, true)]).unwrap();
            let log = Cursor::at_end(&lab, "ztunnel-node-2");
            let wanted = format!("src.workload=\"{name}\"");
            let line = lab.wait_until("an answer, and the server's node to know who was answered", || {
                let answer = labs::get(&lab, &pod, "http://server/");
                if !answer.starts_with("200 ") {
                    return Err(answer);
                }
                let mut lines = log.lines(&lab, &["connection complete", "direction=\"inbound\"", &wanted]);
                lines.pop().ok_or_else(|| "no line in the log names it".to_owned())
            });
            let line = line.unwrap();
            assert!(field(&line, "src.identity").is_some(), "after {components:?} were killed: {line}");
        }
        lab.delete(&manifests.join("---\n")).unwrap();
    }
}
