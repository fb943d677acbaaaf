//! A namespace that wants waypoints made has one while something needs it, and none before and after.

use fairway_lab::Lab;

use super::labs;

const WORLD: &str = include_str!("automatic.yaml");
const CLIENT: &str = "shop/client";
const WAYPOINT: &str = "waypoint-0";
const WAYPOINT_IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/waypoint";
/// Only a waypoint knows what is asked for.
const POLICY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
    metadata: {name: no-secrets, namespace: shop}\nspec:\n  targetRefs: [{group: \"\", kind: Service, name: web}]\n  \
    action: DENY\n  rules: [{to: [{operation: {paths: [/secret]}}]}]\n";

/// Waits until the client hears what is wanted of a path of the service.
fn hears(lab: &Lab, path: &str, wanted: impl Fn(&str) -> bool) {
    lab.wait_until(&format!("the client to hear of {path}"), || {
        let answer = labs::get(lab, CLIENT, &format!("http://web{path}"));
        if wanted(&answer) { Ok(()) } else { Err(answer) }
    })
    .unwrap();
}

fn has_waypoint(lab: &Lab) -> bool {
    lab.status().unwrap().pods.iter().any(|pod| pod.namespace == "shop" && pod.name == WAYPOINT)
}

#[test]
fn a_waypoint_is_made_when_a_policy_needs_one_and_goes_with_it() {
    let Some(lab) = labs::mesh_with("automatic", WORLD) else { return };
    lab.wait_captured(&[(CLIENT, true), ("shop/web", true)]).unwrap();
    hears(&lab, "/secret", |answer| answer.starts_with("200 ") && !answer.contains(WAYPOINT_IDENTITY));
    assert!(!has_waypoint(&lab));
    lab.apply(POLICY).unwrap();
    hears(&lab, "/", |answer| answer.starts_with("200 ") && answer.contains(WAYPOINT_IDENTITY));
    hears(&lab, "/secret", |answer| answer.starts_with("403 "));
    lab.delete(POLICY).unwrap();
    hears(&lab, "/secret", |answer| answer.starts_with("200 ") && !answer.contains(WAYPOINT_IDENTITY));
    lab.wait_for("the waypoint to be gone", || !has_waypoint(&lab)).unwrap();
    hears(&lab, "/secret", |answer| answer.starts_with("200 ") && !answer.contains(WAYPOINT_IDENTITY));
}
