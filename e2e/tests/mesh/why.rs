//! `fairway why` says of a connection what then becomes of it.

use fairway_lab::Lab;
use serde_json::Value;

use super::labs;
use super::look::fairway;
use super::reference::metrics;
use super::shop::{self, CLIENT, CLIENT_IDENTITY, LONER, SERVER_IDENTITY};

const DENY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-client, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]}
";

/// A service with two versions behind a waypoint.
const WORLD: &str = include_str!("waypoint.yaml");
/// Requests with a header go to the second version, others to either; nobody may see `/admin`.
const ROUTES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: web}]
  rules:
    - matches: [{headers: [{name: x-canary, value: "yes"}]}]
      backendRefs: [{name: web-v2, port: 80}]
      timeouts: {request: 3s}
    - backendRefs: [{name: web-v1, port: 80, weight: 90}, {name: web-v2, port: 80, weight: 10}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  action: DENY
  rules: [{to: [{operation: {paths: [/admin*]}}]}, {from: [{source: {principals: [cluster.local/ns/shop/sa/guest]}}]}]
"#;
/// The pods let in nobody, not even the waypoint.
const NOBODY: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: shop}
spec: {selector: {matchLabels: {app: web}}}
";

/// Whether it succeeded, and what it printed.
fn why(lab: &Lab, arguments: &[&str]) -> (bool, String) {
    fairway(lab, &[&["why"], arguments].concat())
}

#[track_caller]
fn says(lab: &Lab, arguments: &[&str], parts: &[&str]) {
    let (succeeded, text) = why(lab, arguments);
    assert!(succeeded, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn what_becomes_of_a_connection_is_told_by_those_who_carry_it() {
    let Some(lab) = shop::enrolled("why") else { return };
    let through = [CLIENT_IDENTITY, "server.shop.svc.cluster.local", "mutual TLS to", SERVER_IDENTITY, "ALLOWED"];
    says(&lab, &[CLIENT, "server"], &through);
    says(&lab, &["client", "server.shop:80", "-n", "shop"], &through);
    let loner = format!("{}:8080", shop::address(&lab, LONER));
    says(&lab, &[CLIENT, &loner], &["the other end is shop/loner", "clear text", "ALLOWED"]);

    lab.apply(DENY).unwrap();
    lab.wait_until("the refusal to be told", || {
        let (_, text) = why(&lab, &[CLIENT, "server"]);
        let told = text.contains("REFUSED by the destination's proxy: policy_denied (shop/no-client)");
        if told { Ok(()) } else { Err(text) }
    })
    .unwrap();
    assert!(labs::get(&lab, CLIENT, "http://server/").starts_with("error:"));
    let (_, text) = why(&lab, &[CLIENT, "server", "-o", "json"]);
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&told["allowed"], &told["arrival"]["policies"][0]),
        (&false.into(), &"shop/no-client".into()),
        "{text}"
    );

    for (arguments, parts) in [
        ([LONER, "server"], ["shop/loner is not in the mesh", "label istio.io/dataplane-mode keeps it out"]),
        (["shop/nobody", "server"], ["there is no pod shop/nobody", CLIENT]),
        ([CLIENT, "example.com:443"], ["no name \"example.com\"", "give an address"]),
    ] {
        let (succeeded, text) = why(&lab, &arguments);
        assert!(!succeeded && parts.iter().all(|part| text.contains(part)), "{text}");
    }
}

#[test]
fn a_request_is_followed_through_its_waypoint() {
    let Some(lab) = labs::mesh_with("why-waypoint", WORLD) else { return };
    lab.wait_captured(&[("shop/client", true), ("shop/web-v1", true), ("shop/web-v2", true)]).unwrap();
    lab.apply(ROUTES).unwrap();
    let client = "shop/client";
    let told = |arguments: &[&str], parts: &[&str]| {
        lab.wait_until(&format!("{arguments:?} to tell {parts:?}"), || {
            let (_, text) = why(&lab, &[&[client], arguments].concat());
            if parts.iter().all(|part| text.contains(part)) { Ok(()) } else { Err(text) }
        })
        .unwrap();
    };
    let waypoint = "waypoint shop/waypoint-0";
    told(
        &["web:80"],
        &[waypoint, "GET / for web", "90% to", "none of these rules denies it: shop/no-admin/0", "\nALLOWED\n"],
    );
    told(
        &["web:80", "--header", "x-canary: yes", "--path", "/x/../y?z"],
        &["GET /y for web", "may take 3s", "to shop/web-v2 on node-1", "\nALLOWED\n"],
    );
    let refused = "REFUSED by waypoint shop/waypoint-0: policy_denied (shop/no-admin/0)";
    told(&["web:80", "--method", "POST", "--path", "/%61dmin/x"], &["POST /admin/x", refused, "answered with 403"]);
    told(&["web:80", "--as", "shop/guest"], &["policy_denied (shop/no-admin/1)"]);
    assert!(labs::get(&lab, client, "http://web/").contains(" v"));
    for (component, page) in metrics::pages(&lab, "node-1", "shop/waypoint-0") {
        metrics::are_in_reference(component, &page);
    }

    lab.apply(NOBODY).unwrap();
    told(&["web:80"], &["none of these rules denies it", "REFUSED by the destination's proxy: policy_not_allowed"]);
    let (_, text) = why(&lab, &[client, "web:80", "-o", "json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    let passage = &json["passage"];
    assert_eq!(
        (&json["allowed"], &passage["handling"], &passage["waypoint"]["name"], &passage["action"]["kind"]),
        (&false.into(), &"requests".into(), &"waypoint-0".into(), &"forward".into()),
        "{text}"
    );
}
