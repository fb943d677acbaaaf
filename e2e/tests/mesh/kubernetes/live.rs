//! The mesh in a real cluster: users change it with kubectl, and it carries on when the API server is gone.

use super::{Lab, SHOP, apply, cluster, kubectl, labs, only_pod, pods, rolled_out};
use crate::mesh::observe::{Cursor, field, restarts};
use crate::mesh::shop::AMBIENT;

const DENY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-client, namespace: shop}
spec:
  selector: {matchLabels: {app: server}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]
";

#[test]
fn kubectl_enrols_and_denies_and_the_loss_of_the_api_server_changes_nothing() {
    let Some(lab) = cluster("kubernetes-mesh", true) else { return };
    apply(&lab, SHOP);
    rolled_out(&lab);
    kubectl(&lab, &["label", "namespace", "shop", AMBIENT]);
    captured(&lab);
    mutual_tls(&lab);
    apply(&lab, DENY);
    answers(&lab, false);
    kubectl(&lab, &["-n", "shop", "delete", "authorizationpolicy", "no-client"]);
    answers(&lab, true);
    without_api_server(&lab);
}

/// Waits until the API server knows that every pod is captured.
fn captured(lab: &Lab) {
    lab.wait_until("pods of the labelled namespace to be captured", || {
        let all = [pods(lab, "server"), pods(lab, "client")].concat();
        let outside: Vec<String> = all
            .iter()
            .filter(|pod| pod["metadata"]["annotations"]["ambient.istio.io/redirection"] != "enabled")
            .map(|pod| pod["metadata"]["name"].to_string())
            .collect();
        if outside.is_empty() { Ok(()) } else { Err(outside.join(", ")) }
    })
    .unwrap();
}

fn mutual_tls(lab: &Lab) {
    let client = only_pod(lab, "client");
    let logs = ["ztunnel-node-1", "ztunnel-node-2"].map(|name| Cursor::at_end(lab, name));
    lab.wait_until("an answer over mutual TLS", || {
        let answer = labs::get(lab, &client, "http://server/");
        let lines = logs.iter().flat_map(|log| log.lines(lab, &["connection complete", "direction=\"inbound\""]));
        let proven = |line: &String| field(line, "src.identity") == Some("spiffe://cluster.local/ns/shop/sa/client");
        if answer.starts_with("200 ") && lines.into_iter().any(|line| proven(&line)) { Ok(()) } else { Err(answer) }
    })
    .unwrap();
}

/// Waits until the client is answered, or is not.
fn answers(lab: &Lab, expected: bool) {
    let client = only_pod(lab, "client");
    lab.wait_until("policy to be enforced as applied", || {
        let answer = labs::get(lab, &client, "http://server/");
        if answer.starts_with("200 ") == expected { Ok(()) } else { Err(answer) }
    })
    .unwrap();
}

fn without_api_server(lab: &Lab) {
    let client = only_pod(lab, "client");
    let before = (labs::pod(lab, &client), restarts(lab));
    lab.kill("kube-apiserver").unwrap();
    let started = |lab: &Lab| restarts(lab)["kube-apiserver"] > before.1["kube-apiserver"];
    let ready = |lab: &Lab| {
        let components = lab.status().unwrap().components;
        components.iter().any(|component| component.name == "kube-apiserver" && component.ready)
    };
    let mut asked = 0;
    lab.wait_for("the API server to be back, with every question answered meanwhile", || {
        let answer = labs::get(lab, &client, "http://server/");
        assert!(answer.starts_with("200 "), "without the API server: {answer}");
        asked += 1;
        started(lab) && ready(lab)
    })
    .unwrap();
    assert!(asked > 1, "the API server was never away");
    lab.wait_ready().unwrap();
    let now = labs::pod(lab, &client);
    assert_eq!((now.pids, now.restarts), (before.0.pids, before.0.restarts));
    // What is applied afterwards is heard again.
    apply(lab, DENY);
    answers(lab, false);
}
