//! What a refused client's proxy is told: the same status whoever asks whom (interop §1.4).

use super::{NODES, PAIRS};
use crate::mesh::labs;
use crate::mesh::observe::{self, Cursor};

/// Refuses what is in the mesh and allowed otherwise.
const DENY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-port, namespace: mixed}
spec: {action: DENY, rules: [{to: [{operation: {ports: ['7001']}}]}]}
";

/// Why, the port dialled at the server's pod, and how the answer to the CONNECT request is written by both proxies.
const ROWS: [(&str, u16, &str); 2] =
    [("policy denies it", 7001, "401 Unauthorized"), ("nothing listens there", 9999, "503 Service Unavailable")];

#[test]
fn refusals_have_the_same_status_in_both_directions() {
    let Some(lab) = super::mixed("codes") else { return };
    lab.apply(DENY).unwrap();
    for node in NODES {
        lab.wait_until(&format!("{node} to have the policy"), || {
            let dump = observe::config_dump(&lab, node)?;
            let policies = dump["policies"].as_array().cloned().unwrap_or_default();
            if policies.iter().any(|policy| policy["name"] == "deny-port") {
                Ok(())
            } else {
                Err(dump["policies"].to_string())
            }
        })
        .unwrap();
    }
    let pods = lab.status().unwrap().pods;
    for (client, server) in PAIRS {
        let address = &pods.iter().find(|pod| pod.name == format!("{server}-server")).unwrap().addresses[0];
        for (why, port, status) in ROWS {
            let log = Cursor::at_end(&lab, &format!("ztunnel-{}", super::node_of(client)));
            let answer = labs::get(&lab, &format!("mixed/{client}-client"), &format!("http://{address}:{port}/"));
            assert!(answer.starts_with("error:"), "{client} to {server}, {why}: {answer}");
            let place = format!("{address}:{port}");
            let line = log.wait(&lab, &["connection complete", "direction=\"outbound\"", &place]);
            let error = observe::field(&line, "error").unwrap_or_default();
            assert!(error.contains(status), "{client} to {server}, {why}: expected {status}: {line}");
        }
    }
}
