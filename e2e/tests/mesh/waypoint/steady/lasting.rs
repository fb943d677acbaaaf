//! What lasts outlives changes of routes, policies and endpoints at its waypoint.

use super::{CLIENT, Steady, say};

/// Requests go elsewhere, and so would the download if it began now.
const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: elsewhere, namespace: shop}\nspec:\n  \
    parentRefs: [{group: \"\", kind: Service, name: web, port: 80}]\n  \
    rules: [{backendRefs: [{name: elsewhere, port: 80}]}]\n---\n\
    apiVersion: v1\nkind: Service\nmetadata: {name: elsewhere, namespace: shop}\n\
    spec: {selector: {app: other}, ports: [{name: http, port: 80, targetPort: 8080}]}\n";
/// About another path than those that are asked for.
const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: others, namespace: shop}\nspec:\n  \
    targetRefs: [{group: \"\", kind: Service, name: web}]\n  action: DENY\n  \
    rules: [{to: [{operation: {ports: [\"80\"], paths: [/admin]}}]}]\n";
/// One more endpoint for the service.
const ENDPOINT: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: more, namespace: shop, labels: {app: web}}\nspec:\n  nodeName: node-1\n  \
    serviceAccountName: web\n  containers:\n    \
    - {name: http, command: [PYTHON, STEADY, origin, \"8080\", more]}\n    \
    - {name: grpc, command: [PYTHON, PEER, server, \"9000\"]}\n    \
    - {name: talk, command: [PYTHON, PEER, websocket, \"9001\"]}\n    \
    - {name: echo, command: [fairway, lab, tool, echo, --port, \"7000\"]}\n";

#[test]
fn what_lasts_outlives_changes_at_its_waypoint() {
    let Some(steady) = Steady::up("lasting") else { return };
    let lab = &steady.lab;
    let hears = |path: &str, what: &str| {
        lab.wait_until(&format!("{what} from {path}"), || {
            let answer = super::super::ask(lab, CLIENT, &format!("http://web{path}"), &["-X", "POST"]);
            if answer.contains(what) { Ok(()) } else { Err(answer) }
        })
        .unwrap();
        steady.carries_on();
    };
    let mut lasting = steady.lasting();
    lab.apply(ROUTE).unwrap();
    hears("/", "other");
    say(&mut lasting, "routes are others");
    lab.delete(ROUTE).unwrap();
    hears("/", "web");
    say(&mut lasting, "routes are as before");
    lab.apply(POLICY).unwrap();
    hears("/admin", "403");
    say(&mut lasting, "a policy is about others");
    lab.delete(POLICY).unwrap();
    hears("/admin", "200");
    say(&mut lasting, "there is no policy");
    lab.apply(&steady.placed(ENDPOINT)).unwrap();
    hears("/", "more");
    say(&mut lasting, "there is another endpoint");
    say(&mut lasting, "end");
    steady.nothing_failed();
}
