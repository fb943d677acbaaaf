//! Ways to a waypoint and through it: ports of which nobody says what is spoken there, and pods that have a waypoint themselves.

use super::super::{CLIENT, WAYPOINT_IDENTITY, ask, shop};
use super::Shop;

/// Of the gateway of a single pod.
const DENIED: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: bodyguard, namespace: shop}\n\
    spec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: bodyguard}]\n  action: DENY\n  \
    rules: [{from: [{source: {serviceAccounts: [client]}}]}]\n";

pub(super) fn are_found(shop: &Shop) {
    // Who speaks first says what is spoken.
    let answer = shop.hears(&[], ":81/", &["200 ", "web to "]);
    assert!(answer.contains(&format!("By={WAYPOINT_IDENTITY};URI={}", shop::CLIENT_IDENTITY)), "{answer}");
    assert_eq!(shop.peer(&["listen", "web.shop.svc.cluster.local", "82"]), "welcome");

    // What is dialled as a pod goes through the waypoint of the pod, and nobody looks into it.
    let log = shop.lab.layout().container_log("shop", "bodyguard-0", "waypoint");
    let url = format!("http://{}:8080/", shop::address(&shop.lab, "shop/guarded"));
    let goes = |result: &str, parts: &[&str]| {
        let waited = shop.lab.wait_until(&format!("the pod's waypoint to tell of {parts:?}"), || {
            let answer = ask(&shop.lab, CLIENT, &url, &[]);
            let written = std::fs::read_to_string(&log).unwrap();
            let is_told = written.lines().any(|line| parts.iter().all(|part| line.contains(part)));
            if is_told && answer.contains(result) { Ok(()) } else { Err(answer) }
        });
        waited.unwrap();
    };
    goes("guarded to ", &["connection complete", "dst.workload=\"guarded\"", shop::CLIENT_IDENTITY, "reason=\"ok\""]);
    shop.lab.apply(DENIED).unwrap();
    goes("Connection reset", &[shop::CLIENT_IDENTITY, "reason=\"policy_denied\""]);
}
