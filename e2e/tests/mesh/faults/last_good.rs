//! A node's proxy that starts while there is no control plane: it serves and enforces what it last had.

use std::fs;

use fairway_lab::Lab;
use nix::sys::signal::Signal;

use crate::mesh::labs;
use crate::mesh::observe::{config_dump, metrics, restarts, sum};
use crate::mesh::shop::{self, LONER, SERVER, VISITOR};

const NODE: &str = "node-2";
const PROXY: &str = "ztunnel-node-2";

#[test]
fn a_proxy_that_starts_without_a_controller_enforces_what_it_had() {
    let Some(lab) = shop::enrolled("last-good") else { return };
    let url = format!("http://{}:8080/", shop::address(&lab, SERVER));
    let answer = |pod| labs::get(&lab, pod, &url);
    lab.apply(&refusing(&shop::address(&lab, LONER).to_string())).unwrap();
    lab.wait_for("the policy to be in force", || answer(LONER).starts_with("error:")).unwrap();
    let file = lab.layout().ztunnel_state(NODE).join("last-good-configuration");
    let kept = || fs::read(&file).is_ok_and(|bytes| bytes.windows(NAME.len()).any(|part| part == NAME.as_bytes()));
    lab.wait_for("the policy to be on disk", kept).unwrap();

    // Stopped, it accepts connections and says nothing, and nobody starts another one.
    lab.signal("controller", Signal::SIGSTOP).unwrap();
    let before = restarts(&lab)[PROXY];
    lab.kill(PROXY).unwrap();
    lab.wait_until("the proxy to be back", || {
        let answer = answer(VISITOR);
        if restarts(&lab)[PROXY] > before && answer.starts_with("200 ") { Ok(()) } else { Err(answer) }
    })
    .unwrap();
    assert!(answer(LONER).starts_with("error:"), "a policy was not enforced without a controller");
    assert_eq!(source(&lab), "disk");
    assert_eq!(sum(&metrics(&lab, NODE), "fairway_xds_state_from_disk", &[]), 1.0);

    lab.signal("controller", Signal::SIGCONT).unwrap();
    lab.wait_for("the controller to have answered", || source(&lab) == "control plane").unwrap();
    shop::mutual_tls(&lab);
    assert!(answer(LONER).starts_with("error:"), "a policy was lost when the controller came back");
}

fn source(lab: &Lab) -> String {
    config_dump(lab, NODE)
        .map_or_else(|error| error, |dump| dump["configuration"]["source"].as_str().unwrap().to_owned())
}

const NAME: &str = "not-the-loner";

fn refusing(address: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\n\
         kind: AuthorizationPolicy\n\
         metadata: {{name: {NAME}, namespace: shop}}\n\
         spec: {{action: DENY, rules: [{{from: [{{source: {{ipBlocks: [{address}]}}}}]}}]}}\n"
    )
}
