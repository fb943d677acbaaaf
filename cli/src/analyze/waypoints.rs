//! Waypoints that are there and do not work, and gateways that look like one and are none.

use fairway_controller::lifecycle::render::GATEWAY_NAME;
use fairway_controller::translate::waypoint::is_class;
use fairway_core::source::gateway::Gateway;
use fairway_core::source::labels::{HasLabels, WAYPOINT_CLASS};
use fairway_core::source::{ObjectKey, Objects};

use super::{Message, codes, message};

/// The condition of a gateway that says whether it works.
const PROGRAMMED: &str = "Programmed";
/// The protocol of listeners that take the mesh's tunnels.
const TUNNELS: &str = "HBONE";
/// Classes of Istio's whose gateways take tunnels and are no waypoints of this mesh: those between networks, and those that are elsewhere.
const NO_WAYPOINTS: [&str; 2] = ["istio-east-west", "istio-remote"];

/// All of it.
pub(super) fn look(objects: &Objects) -> Vec<Message> {
    let mut messages = Vec::new();
    for (key, gateway) in objects.gateways.iter() {
        let class = gateway.spec.gateway_class_name.as_str();
        if !is_class(class) {
            let takes_tunnels = gateway.spec.listeners.iter().any(|listener| listener.protocol == TUNNELS);
            if takes_tunnels && !NO_WAYPOINTS.contains(&class) {
                let said = format!(
                    "{class:?} is no class of waypoints, so nothing is made of it here; write {WAYPOINT_CLASS} if it is to be one"
                );
                let field = "spec.gatewayClassName";
                messages.push(message(codes::UNKNOWN_CLASS, Some(key.clone()), field, said, None));
            }
        } else if let Some(why) = why_down(objects, key, gateway) {
            let said = format!(
                "{why}; what has to come through it is refused, and not sent around it; see the log of its pods, and \
                 fairway waypoint status {} -n {}",
                key.name, key.namespace
            );
            messages.push(message(codes::WAYPOINT_DOWN, Some(key.clone()), "", said, None));
        }
    }
    messages
}

/// Why nobody can come through a waypoint, as its condition or its pods say. Where nothing says anything, as in files that
/// nobody has applied, nothing is known.
fn why_down(objects: &Objects, key: &ObjectKey, gateway: &Gateway) -> Option<String> {
    let conditions = &gateway.status.conditions;
    let programmed = conditions.iter().find(|condition| condition.type_ == PROGRAMMED);
    if let Some(condition) = programmed.filter(|condition| condition.status == "False") {
        return Some(condition.message.clone());
    }
    let pods = objects.pods.iter().filter(|(pod, it)| {
        let is_its = pod.namespace == key.namespace && it.label(GATEWAY_NAME) == Some(key.name.as_str());
        // Without an address it was never started.
        is_its && !it.is_terminal && !it.is_ending && !it.addresses.is_empty()
    });
    let pods: Vec<_> = pods.collect();
    let is_down = !pods.is_empty() && pods.iter().all(|(_, pod)| !pod.is_ready);
    is_down.then(|| format!("none of its pods is ready ({} there)", pods.len()))
}
