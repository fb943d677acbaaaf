//! Pods that the controller has not announced yet: out at once, as whom their node knows; in not yet, even where another
//! pod had the name before.

use nix::sys::signal::Signal;

use super::labs;
use super::observe::{Cursor, field};
use super::shop::{self, CLIENT, CLIENT_IDENTITY, SERVER, VISITOR};

const NEWCOMER: &str = "shop/newcomer";

/// Runs as the client does, so that its node has a certificate for it.
const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: newcomer, namespace: shop}
spec:
  nodeName: node-1
  serviceAccountName: client
  containers:
    - name: http
      command: [fairway, lab, tool, http-server, --port, \"8080\", --text, the newcomer]
";

#[test]
fn a_new_pod_connects_before_the_controller_has_announced_it() {
    let Some(lab) = shop::enrolled("newcomer") else { return };
    lab.signal("controller", Signal::SIGSTOP).unwrap();
    lab.apply(MANIFEST).unwrap();
    lab.wait_captured(&[(NEWCOMER, true)]).unwrap();

    let arrived = Cursor::at_end(&lab, "ztunnel-node-2");
    for url in [format!("http://{}:8080/", shop::address(&lab, SERVER)), "http://server/".to_owned()] {
        let answer = labs::get(&lab, NEWCOMER, &url);
        assert!(answer.starts_with("200 "), "{url}: {answer}");
        let line = arrived.wait(&lab, &["connection complete", "direction=\"inbound\""]);
        assert_eq!(field(&line, "src.identity"), Some(CLIENT_IDENTITY), "{line}");
    }
    // What policies protect it is not known.
    let refused = Cursor::at_end(&lab, "ztunnel-node-1");
    let answer = labs::get(&lab, CLIENT, &format!("http://{}:8080/", shop::address(&lab, NEWCOMER)));
    assert!(answer.starts_with("error:"), "{answer}");
    refused.wait(&lab, &["direction=\"inbound\"", "reason=\"workload_unknown\""]);

    lab.signal("controller", Signal::SIGCONT).unwrap();
    lab.wait_for("the newcomer to be announced", || {
        labs::get(&lab, CLIENT, &format!("http://{}:8080/", shop::address(&lab, NEWCOMER))).starts_with("200 ")
    })
    .unwrap();
}

/// The server again, as a controller might create it.
const AGAIN: &str = "
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: shop}
spec:
  nodeName: node-2
  serviceAccountName: server
  containers:
    - name: http
      command: [fairway, lab, tool, http-server, --port, \"8080\", --text, the next server]
";

#[test]
fn a_recreated_pod_is_not_taken_for_the_one_before() {
    let Some(lab) = shop::enrolled("recreated") else { return };
    let before = shop::address(&lab, SERVER);
    lab.signal("controller", Signal::SIGSTOP).unwrap();
    lab.delete(AGAIN).unwrap();
    lab.wait_for("the server to be gone", || {
        lab.status().unwrap().pods.iter().all(|pod| format!("{}/{}", pod.namespace, pod.name) != SERVER)
    })
    .unwrap();
    lab.apply(AGAIN).unwrap();
    lab.wait_captured(&[(SERVER, true)]).unwrap();
    let now = shop::address(&lab, SERVER);
    assert_ne!(now, before);

    // It may have other labels, and so other policies.
    let log = Cursor::at_end(&lab, "ztunnel-node-2");
    let get = || labs::get(&lab, VISITOR, &format!("http://{now}:8080/"));
    assert!(get().starts_with("error:"));
    log.wait(&lab, &["direction=\"inbound\"", "reason=\"workload_unknown\""]);
    lab.signal("controller", Signal::SIGCONT).unwrap();
    lab.wait_for("the next server to be announced", || get().starts_with("200 ")).unwrap();
}
