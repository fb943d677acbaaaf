//! Policies of pods about clients behind a waypoint: who is let in, who is refused, and what becomes of connections when that changes.

use fairway_lab::Lab;

use super::super::labs;
use super::super::look::fairway;
use super::super::observe::Cursor;
use super::super::shop::Conversation;
use super::{CLIENT, GUEST, WAYPOINT, WAYPOINT_IDENTITY, WORLD, ask};

/// Of the pods: one account is let in, and nobody has said a word of the waypoint.
fn only(account: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: only, namespace: shop}}\nspec:\n  \
         selector: {{matchLabels: {{app: web}}}}\n  rules: [{{from: [{{source: {{principals: [cluster.local/ns/shop/sa/{account}]}}}}]}}]\n"
    )
}

fn told(lab: &Lab, pod: &str, parts: &[&str]) {
    let (succeeded, text) = fairway(lab, &["why", pod, "web:80"]);
    assert!(succeeded && parts.iter().all(|part| text.contains(part)), "{parts:?} are not in:\n{text}");
}

/// Waits until requests of one pod are answered through the waypoint, and those of another are refused at their endpoint's node.
fn decided(lab: &Lab, allowed: &str, refused: &str) {
    for (pod, parts) in [(refused, ["403 ", "policy_not_allowed"]), (allowed, ["200 ", WAYPOINT_IDENTITY])] {
        lab.wait_until(&format!("{pod} to hear {parts:?}"), || {
            let answer = ask(lab, pod, "http://web/", &[]);
            if parts.iter().all(|part| answer.contains(part)) { Ok(()) } else { Err(answer) }
        })
        .unwrap();
    }
}

#[test]
fn policies_of_pods_are_about_clients_behind_their_waypoint() {
    let Some(lab) = labs::mesh_with("behind", WORLD) else { return };
    let captured = [(CLIENT, true), (GUEST, true), ("shop/web-v1", true), ("shop/web-v2", true), (WAYPOINT, false)];
    lab.wait_captured(&captured).unwrap();
    let services = lab.status().unwrap().services;
    let address = services.iter().find(|it| it.name == "web").unwrap().addresses[0].parse().unwrap();
    lab.apply(&only("client")).unwrap();
    let logs = ["ztunnel-node-1", "ztunnel-node-2"].map(|node| Cursor::at_end(&lab, node));
    decided(&lab, CLIENT, GUEST);
    let guest = "original.identity=\"spiffe://cluster.local/ns/shop/sa/guest\"";
    let refused = ["reason=\"policy_not_allowed\"", &format!("src.identity=\"{WAYPOINT_IDENTITY}\""), guest];
    lab.wait_for("the refusal to name both", || logs.iter().any(|log| !log.lines(&lab, &refused).is_empty())).unwrap();
    told(
        &lab,
        CLIENT,
        &["they look at the waypoint, and at spiffe://cluster.local/ns/shop/sa/client", "ALLOWED by policy shop/only"],
    );
    told(&lab, GUEST, &["REFUSED by the destination's proxy: policy_not_allowed"]);

    // Not only requests, and not only at the beginning.
    let mut open = Conversation::open(&lab, CLIENT, address, 7000);
    assert!(open.says("as the client"));
    lab.apply(&only("guest")).unwrap();
    decided(&lab, GUEST, CLIENT);
    lab.wait_for("the client's connection to be cut", || !open.says("still as the client")).unwrap();
}
