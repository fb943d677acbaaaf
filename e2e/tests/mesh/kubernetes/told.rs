//! What users of a real cluster are told: by conditions of services and routes, and by Events.

use serde_json::Value;

use super::{Lab, apply, json, kubectl, waypoints::wait};

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: elsewhere, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: server}]
  rules:
  - matches: [{path: {value: /elsewhere}}]
    backendRefs: [{name: vault, namespace: bank, port: 80}]
  - backendRefs: [{name: server, port: 80}]
";
const GRANT: &str = "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: routes-of-the-shop, namespace: bank}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]
  to: [{group: \"\", kind: Service, name: vault}]
";
/// Lets the port of the server through, and tunnels not.
const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-http, namespace: shop}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{ports: [{port: 8080}]}]
";

/// Tells of references that are not granted, of a waypoint that is not there, and of tunnels that do not get through. The shop
/// runs and is enrolled.
pub(super) fn of_troubles(lab: &Lab) {
    references(lab);
    let secret = json(lab, &["-n", "fairway-system", "get", "secret", "fairway-ca"]);
    assert!(secret["data"]["root-key.pem"].is_string(), "the mesh's root is where replicas find it");
    kubectl(lab, &["-n", "shop", "create", "service", "clusterip", "odd", "--tcp=80:80"]);
    kubectl(lab, &["-n", "shop", "label", "service", "odd", "istio.io/use-waypoint=none-such"]);
    kubectl(lab, &["-n", "shop", "wait", "--for=condition=fairway.dev/Accepted=false", "service/odd", "--timeout=60s"]);
    event(lab, "odd", "WaypointNotUsed", "waypoint shop/none-such does not exist");
    kubectl(lab, &["-n", "shop", "label", "service", "odd", "istio.io/use-waypoint-"]);
    kubectl(lab, &["-n", "shop", "wait", "--for=condition=fairway.dev/Accepted", "service/odd", "--timeout=60s"]);
    kubectl(lab, &["-n", "shop", "delete", "service", "odd"]);
    apply(lab, CLOSED);
    event(lab, "only-http", "BlocksTunnels", "TCP port 15008");
    kubectl(lab, &["-n", "shop", "delete", "networkpolicy", "only-http"]);
}

fn references(lab: &Lab) {
    kubectl(lab, &["create", "namespace", "bank"]);
    kubectl(lab, &["-n", "bank", "create", "service", "clusterip", "vault", "--tcp=80:80"]);
    apply(lab, ROUTE);
    let says = |reason: &'static str| {
        wait(lab, &["httproute", "elsewhere"], reason, |route| {
            let conditions = route.pointer("/status/parents/0/conditions").and_then(Value::as_array);
            conditions.into_iter().flatten().any(|it| it["type"] == "ResolvedRefs" && it["reason"] == reason)
        })
    };
    says("RefNotPermitted");
    apply(lab, GRANT);
    says("ResolvedRefs");
    kubectl(lab, &["-n", "shop", "delete", "httproute", "elsewhere"]);
    kubectl(lab, &["delete", "namespace", "bank", "--wait=false"]);
}

/// Waits for an Event about an object.
fn event(lab: &Lab, name: &str, reason: &str, words: &str) {
    let of = format!("--field-selector=involvedObject.name={name},reason={reason}");
    let list =
        wait(lab, &["events", &of], reason, |list| list["items"].as_array().is_some_and(|items| !items.is_empty()));
    let event = &list["items"][0];
    assert!(event["message"].as_str().is_some_and(|message| message.contains(words)), "{event}");
    assert_eq!(event["type"], "Warning", "{event}");
}
