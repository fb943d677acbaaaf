//! Whom policies of requests are about, and what they can be attached to: a table of paths, asked by two clients.

use fairway_lab::Lab;

use super::{CLIENT, GUEST, ask, hears};

/// Each path is allowed to somebody else; the port without requests to everybody.
const ALLOWED: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: who, namespace: shop}
spec:
  targetRefs: [{group: \"\", kind: Service, name: web}]
  rules:
  - {to: [{operation: {ports: [\"7000\"]}}]}
  - {to: [{operation: {paths: [/free, /gateway, /class]}}]}
  - {from: [{source: {namespaces: [shop]}}], to: [{operation: {paths: [/namespace]}}]}
  - {from: [{source: {namespaces: [other]}}], to: [{operation: {paths: [/other-namespace]}}]}
  - {from: [{source: {notNamespaces: [other]}}], to: [{operation: {paths: [/no-other-namespace]}}]}
  - {from: [{source: {serviceAccounts: [shop/client]}}], to: [{operation: {paths: [/account]}}]}
  - {from: [{source: {serviceAccounts: [guest]}}], to: [{operation: {paths: [/account-here]}}]}
  - {from: [{source: {serviceAccounts: [other/client]}}], to: [{operation: {paths: [/account-there]}}]}
  - {from: [{source: {notServiceAccounts: [shop/guest]}}], to: [{operation: {paths: [/no-account]}}]}
  - {from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}], to: [{operation: {paths: [/principal]}}]}
  - {from: [{source: {principals: [\"*/sa/guest\"]}}], to: [{operation: {paths: [/end]}}]}
  - {from: [{source: {principals: [other.domain/ns/shop/sa/client]}}], to: [{operation: {paths: [/other-domain]}}]}
  - {from: [{source: {principals: [\"other.domain/*\"], notPrincipals: [cluster.local/ns/shop/sa/guest]}}], to: [{operation: {paths: [/any-other-domain]}}]}
";
/// A path, and whether the client and the guest may ask for it.
const TABLE: [(&str, bool, bool); 16] = [
    ("/free", true, true),
    ("/gateway", true, true),
    ("/class", true, true),
    ("/nobody", false, false),
    ("/namespace", true, true),
    ("/other-namespace", false, false),
    ("/no-other-namespace", true, true),
    ("/account", true, false),
    ("/account-here", false, true),
    ("/account-there", false, false),
    ("/no-account", true, false),
    ("/principal", true, false),
    ("/end", false, true),
    ("/other-domain", false, false),
    ("/any-other-domain", false, false),
    ("/namespace/x", false, false),
];
/// Of the gateway that stands before the service, and of all gateways of its class.
const DENIED: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: gateway, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]
  action: DENY
  rules: [{to: [{operation: {paths: [/gateway], ports: [\"80\"]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: class, namespace: fairway-system}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: fairway-waypoint}]
  action: DENY
  rules: [{to: [{operation: {paths: [/class], ports: [\"80\"]}}]}]
";

pub(super) fn decides(lab: &Lab) {
    lab.apply(ALLOWED).unwrap();
    hears(lab, CLIENT, &[], &["403 ", "policy_not_allowed"]);
    for (path, client, guest) in TABLE {
        for (pod, is_allowed) in [(CLIENT, client), (GUEST, guest)] {
            let answer = ask(lab, pod, &format!("http://web{path}"), &[]);
            let expected = if is_allowed { ["200 ", " to "] } else { ["403 ", "policy_not_allowed"] };
            assert!(expected.iter().all(|part| answer.contains(part)), "{pod} {path}: {answer}");
        }
    }
    lab.apply(DENIED).unwrap();
    for path in ["/gateway", "/class"] {
        lab.wait_until(&format!("{path} to be refused"), || {
            let answer = ask(lab, CLIENT, &format!("http://web{path}"), &[]);
            if answer.starts_with("403 ") && answer.contains("policy_denied") { Ok(()) } else { Err(answer) }
        })
        .unwrap();
    }
    assert!(ask(lab, CLIENT, "http://web/free", &[]).starts_with("200 "), "nothing is said of it there");
    lab.delete(&format!("{DENIED}---\n{ALLOWED}")).unwrap();
    hears(lab, CLIENT, &[], &["200 "]);
}
