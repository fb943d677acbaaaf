//! A new pod that connects before the controller has announced it: out at once, as whom its node knows; in not yet.

use nix::sys::signal::Signal;

use super::labs;
use super::observe::{Cursor, field};
use super::shop::{self, CLIENT, CLIENT_IDENTITY, SERVER};

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
