//! A node proxy that is replaced while connections are open: two of them share a node until the old one is done.

use std::collections::BTreeMap;

use fairway_lab::Lab;
use fairway_lab::lab::Running;
use nix::sys::signal::Signal;

use super::NODES;
use crate::mesh::labs;
use crate::mesh::observe::restarts;
use crate::mesh::shop::{self, CLIENT, Conversation, SERVER};

/// Longer than this test may take: the old proxy is to end because its connections have, not because of its deadline.
const GRACE: &str = "600";

/// Where the second proxy of a node is ready, as the first has the usual port.
const READINESS_PORT: &str = "15121";

/// Starts a process as another one was started, with these arguments more.
const LIKE: &str = r#"
    pid=$1; shift
    mapfile -d '' -t given < "/proc/$pid/environ"; mapfile -d '' -t words < "/proc/$pid/cmdline"
    exec env -i "${given[@]}" RUST_LOG=warn "${words[0]}" "${words[@]:1}" "$@" >&2
"#;

#[test]
fn a_proxy_is_replaced_and_no_connection_is_lost() {
    let grace = BTreeMap::from([("CONNECTION_TERMINATION_DEADLINE".to_owned(), format!("{GRACE}s"))]);
    let Some(lab) = labs::mesh_in("upgrade", BTreeMap::from([("ztunnel".to_owned(), grace)])) else { return };
    lab.apply(shop::MANIFESTS).unwrap();
    lab.wait_ready().unwrap();
    shop::enrol(&lab);
    shop::carries_on(&lab);
    let failed = shop::heard(&lab).1;
    let mut seconds = Vec::new();
    for node in NODES {
        let mut conversation = Conversation::open(&lab, CLIENT, shop::address(&lab, SERVER), 7000);
        assert!(conversation.says("before"));
        let second = second_proxy(&lab, node);
        let (name, before) = (format!("ztunnel-{node}"), restarts(&lab));
        lab.signal(&name, Signal::SIGTERM).unwrap();
        lab.wait_for("the old proxy to leave", || lab.ztunnel_log(node).contains("shutting down")).unwrap();
        // New connections are the second one's now.
        shop::carries_on(&lab);
        assert!(conversation.says("meanwhile"), "{node}: the end of the old proxy cut an open connection");
        assert_eq!(restarts(&lab)[&name], before[&name], "{node}: the old proxy did not wait for its connection");
        drop(conversation);
        lab.wait_for("the old proxy to be gone with its last connection", || restarts(&lab)[&name] > before[&name])
            .unwrap();
        lab.wait_ready().unwrap();
        shop::carries_on(&lab);
        assert_eq!(shop::heard(&lab).1, failed, "{node}: a connection was lost");
        seconds.push(second);
    }
}

/// A proxy beside the one of `node`, ready.
fn second_proxy(lab: &Lab, node: &str) -> Running {
    let name = format!("ztunnel-{node}");
    let first = lab.status().unwrap().components.into_iter().find(|known| known.name == name).unwrap();
    let pid = first.pid.unwrap().to_string();
    let ports = ["--admin-port", "15100", "--stats-port", "15120", "--readiness-port", READINESS_PORT];
    let second = lab.spawn_node(node, &[&["bash", "-c", LIKE, "like", &pid][..], &ports].concat()).unwrap();
    let url = format!("http://127.0.0.1:{READINESS_PORT}/healthz/ready");
    lab.wait_for("the second proxy to be ready", || lab.http(node, &url).is_ok_and(|page| page.status == 200)).unwrap();
    second
}
