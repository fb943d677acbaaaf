//! Ways to a waypoint and through it: ports of which nobody says what is spoken there, and pods that have a waypoint themselves.

use super::super::{CLIENT, WAYPOINT_IDENTITY, ask, labs, shop};
use super::Shop;

/// Of the gateway of a single pod: what only a request can show, on ports that carry requests.
const NO_DELETION: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: no-deletion, namespace: shop}\n\
    spec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: bodyguard}]\n  action: DENY\n  \
    rules: [{to: [{operation: {methods: [DELETE], ports: [\"8080\", \"9000\"]}}]}]\n";
/// Of the same: nobody comes in.
const DENIED: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: bodyguard, namespace: shop}\n\
    spec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: bodyguard}]\n  action: DENY\n  \
    rules: [{from: [{source: {serviceAccounts: [client]}}]}]\n";

pub(super) fn are_found(shop: &Shop) {
    // Who speaks first says what is spoken.
    let answer = shop.hears(&[], ":81/", &["200 ", "web to "]);
    assert!(answer.contains(&format!("By={WAYPOINT_IDENTITY};URI={}", shop::CLIENT_IDENTITY)), "{answer}");
    assert_eq!(shop.peer(&["listen", "web.shop.svc.cluster.local", "82"]), "welcome");

    a_pod_has_its_own(shop);
}

/// What is dialled as a pod goes through the waypoint of the pod, which looks into it.
fn a_pod_has_its_own(shop: &Shop) {
    let log = shop.lab.layout().container_log("shop", "bodyguard-0", "waypoint");
    let pod = shop::address(&shop.lab, "shop/guarded").to_string();
    let url = format!("http://{pod}:8080/");
    let goes = |result: &str, parts: &[&str]| {
        let waited = shop.lab.wait_until(&format!("the pod's waypoint to tell of {parts:?}"), || {
            let answer = ask(&shop.lab, CLIENT, &url, &[]);
            let written = std::fs::read_to_string(&log).unwrap();
            let is_told = written.lines().any(|line| parts.iter().all(|part| line.contains(part)));
            if is_told && answer.contains(result) { Ok(()) } else { Err(answer) }
        });
        waited.unwrap();
    };
    let request = "request complete";
    goes("guarded to ", &[request, "dst.workload=\"guarded\"", shop::CLIENT_IDENTITY, "status=200", "reason=\"ok\""]);
    shop.lab.apply(NO_DELETION).unwrap();
    let waited = shop.lab.wait_until("deletion to be refused", || {
        let answer = ask(&shop.lab, CLIENT, &url, &["-X", "DELETE"]);
        if answer.starts_with("403 ") && answer.contains("policy_denied") { Ok(()) } else { Err(answer) }
    });
    waited.unwrap();
    let answer = ask(&shop.lab, CLIENT, &url, &[]);
    assert!(answer.starts_with("200 ") && answer.contains("guarded to "), "{answer}");
    let http2 = ["--http2-prior-knowledge", "-X", "DELETE"];
    let answer = ask(&shop.lab, CLIENT, &format!("http://{pod}:9000/"), &http2);
    assert!(answer.starts_with("403 ") && answer.contains("policy_denied"), "over HTTP/2: {answer}");
    let said = shop.peer(&["call", &format!("{pod}:9000"), "/peer.Echo/Once", "hello"]);
    assert_eq!(said, "['hello'] of one StatusCode.OK");
    // A server that begins is heard, on a port that the policy is not about.
    assert_eq!(shop.peer(&["listen", &pod, "9002"]), "welcome");
    let kinds = [("http", 200), ("http", 403), ("grpc", 200)];
    let waited = shop.lab.wait_until("requests to the pod to be counted", || {
        let page = labs::output(&shop.lab, "shop/bodyguard-0", &["curl", "-sS", "http://127.0.0.1:15020/metrics"]);
        let is_counted = |(protocol, status): &(&str, u16)| {
            let ends =
                ["destination_workload=\"guarded\"", "destination_service=\"unknown\"", "source_workload=\"client\""];
            let said = [format!("request_protocol=\"{protocol}\""), format!("response_code=\"{status}\"")];
            let has_all =
                |line: &str| ends.iter().all(|part| line.contains(part)) && said.iter().all(|part| line.contains(part));
            page.lines().any(|line| line.starts_with("istio_requests_total{") && has_all(line))
        };
        if kinds.iter().all(is_counted) { Ok(()) } else { Err(page) }
    });
    waited.unwrap();
    shop.lab.apply(DENIED).unwrap();
    goes("403 ", &[request, shop::CLIENT_IDENTITY, "method=\"GET\"", "reason=\"policy_denied\""]);
}
