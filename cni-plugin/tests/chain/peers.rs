//! Istio's own node proxy with our agent. It is somebody else's program: `FAIRWAY_ISTIO_ZTUNNEL` says where it is, as for the
//! end-to-end tests beside it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::node::{Node, skip};

const PEER: &str = "FAIRWAY_ISTIO_ZTUNNEL";
/// Where it listens in every pod: for what the pod sends, for what it gets in clear text, and for tunnels.
const PORTS: [u16; 3] = [15001, 15006, 15008];

struct Ztunnel(Child);

impl Ztunnel {
    /// Without a control plane: all it knows is in a file, and nobody signs certificates, which listening does not take.
    fn start(node: &Node, program: &Path) -> Self {
        let world = node.path("local.yaml");
        fs::write(&world, "workloads: []\n").unwrap();
        let log = File::options().create(true).append(true).open(node.path("ztunnel.log")).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &node.name])
            .arg(program)
            .env("INPOD_UDS", node.node_socket())
            .envs([("XDS_ADDRESS", ""), ("CA_ADDRESS", "http://127.0.0.1:1"), ("NODE_NAME", "node-1")])
            .env("LOCAL_XDS_PATH", world)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        node.wait("it connects", || node.page("/metrics").lines().any(|line| line == "ztunnel_connected 1"));
        Self(child)
    }
}

impl Drop for Ztunnel {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn listens(node: &Node, uid: &str) -> bool {
    let sockets = node.in_pod(uid, &["cat", "/proc/net/tcp", "/proc/net/tcp6"]);
    let listening = |port: u16| {
        let local = format!(":{port:04X}");
        let is_it = |line: &str| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next().is_some_and(|address| address.ends_with(&local)) && fields.nth(1) == Some("0A")
        };
        sockets.lines().any(is_it)
    };
    PORTS.into_iter().all(listening)
}

#[test]
fn istios_node_proxy_serves_the_pods_that_our_agent_hands_it_and_comes_back_for_them() {
    let Some(program) = std::env::var_os(PEER) else {
        skip("Istio's node proxy with our agent", &format!("{PEER} to say where it is"));
        return;
    };
    let program = fs::canonicalize(&program).unwrap();
    let Some(node) = Node::start("istio", "1.0.0") else { return };
    node.enrol("shop");
    node.wait_installed();
    let first = Ztunnel::start(&node, &program);
    for uid in ["u1", "u2"] {
        node.declare("shop", uid, uid);
        node.add("shop", uid, uid).unwrap();
        // The runtime was told that it is captured.
        assert!(listens(&node, uid) && node.is_captured(uid), "{uid}");
    }
    drop(first);
    node.wait("the agent sees it go", || node.page("/metrics").lines().any(|line| line == "ztunnel_connected 0"));
    node.del("shop", "u1", "u1").unwrap();
    let _second = Ztunnel::start(&node, &program);
    node.wait("it serves the pod that stayed", || listens(&node, "u2"));
    node.declare("shop", "u3", "u3");
    node.add("shop", "u3", "u3").unwrap();
    assert!(listens(&node, "u3"));
    for uid in ["u2", "u3"] {
        node.del("shop", uid, uid).unwrap();
    }
    node.stop_agent();
}
