//! What users of a real cluster are told as they apply something, and that they can when nobody tells them.

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Lab, apply, kubectl, try_kubectl, waypoints::wait};

/// No definition of the kind knows what a port is.
const BAD_POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: at-once, namespace: shop}
spec:
  selector: {matchLabels: {app: nobody}}
  action: DENY
  rules: [{to: [{operation: {ports: [http]}}]}]
";
const BAD_ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: at-once, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: server}]
  rules: [{filters: [{type: ExtensionRef, extensionRef: {group: example.org, kind: Filter, name: odd}}]}]
";
/// The field that is wrong with the policy.
const FIELD: &str = "spec.rules[0].to[0].operation.ports[0]";

/// Refuses what can never be in force, in the words of conditions; takes what can; and is in nobody's way when it is gone. The
/// shop runs.
pub(super) fn answers(lab: &Lab) {
    wait(lab, &["validatingwebhookconfiguration", "fairway-controller"], "the webhook's bundle", |configuration| {
        configuration.pointer("/webhooks/0/clientConfig/caBundle").is_some_and(Value::is_string)
    });
    // API servers take notice of configurations a moment later.
    let refusal = |manifest: &str, words: &str| {
        lab.wait_until("the object to be refused", || match try_kubectl(lab, &["apply", "-f", "-"], manifest) {
            Err(said) if said.contains("validate.fairway.dev") && said.contains(words) => Ok(()),
            Err(said) => Err(said),
            Ok(said) => {
                try_kubectl(lab, &["delete", "-f", "-"], manifest)?;
                Err(said)
            }
        })
        .unwrap();
    };
    refusal(BAD_POLICY, FIELD);
    refusal(BAD_ROUTE, "ExtensionRef");
    apply(lab, &BAD_POLICY.replace("[http]", "[\"80\"]"));
    kubectl(
        lab,
        &["-n", "shop", "wait", "--for=condition=ZtunnelAccepted", "authorizationpolicy/at-once", "--timeout=60s"],
    );
    kubectl(lab, &["-n", "shop", "delete", "authorizationpolicy", "at-once"]);
    // It stands still: nobody answers.
    lab.signal("controller", Signal::SIGSTOP).unwrap();
    let applied = try_kubectl(lab, &["apply", "-f", "-"], BAD_POLICY);
    lab.signal("controller", Signal::SIGCONT).unwrap();
    applied.unwrap();
    let policy = wait(lab, &["authorizationpolicy", "at-once"], "its condition", |policy| {
        policy.pointer("/status/conditions/0/reason").is_some_and(|reason| reason == "Invalid")
    });
    let message = policy.pointer("/status/conditions/0/message").and_then(Value::as_str).unwrap_or_default();
    assert!(message.contains(FIELD), "{policy}");
    kubectl(lab, &["-n", "shop", "delete", "authorizationpolicy", "at-once"]);
}
