//! Whether an object does what it is there for, and if not, what is missing; pure.

use serde_json::Value;

/// Whether readiness of this kind means something.
pub(super) fn is_waited_for(object: &Value) -> bool {
    matches!(object["kind"].as_str(), Some("CustomResourceDefinition" | "DaemonSet" | "Deployment"))
}

/// What is missing, if anything.
pub(super) fn missing(object: &Value) -> Option<String> {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let is_seen = object["status"]["observedGeneration"].as_u64() >= object["metadata"]["generation"].as_u64();
    match object["kind"].as_str()? {
        "CustomResourceDefinition" => {
            let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
            let is_served = conditions.clone().any(|it| it["type"] == "Established" && it["status"] == "True");
            (!is_served).then(|| "it is not served yet".to_owned())
        }
        _ if !is_seen => Some("it has not been looked at yet".to_owned()),
        "Deployment" => {
            let wanted = object["spec"]["replicas"].as_u64().unwrap_or(1);
            let (new, ready, all) =
                (number("/status/updatedReplicas"), number("/status/readyReplicas"), number("/status/replicas"));
            of(wanted, new, ready, all.saturating_sub(new), "replicas")
        }
        "DaemonSet" => {
            let wanted = number("/status/desiredNumberScheduled");
            let (new, ready) = (number("/status/updatedNumberScheduled"), number("/status/numberReady"));
            of(wanted, new, ready, 0, "nodes")
        }
        _ => None,
    }
}

fn of(wanted: u64, new: u64, ready: u64, old: u64, what: &str) -> Option<String> {
    if new < wanted {
        Some(format!("{new} of {wanted} {what} have the new version"))
    } else if ready < wanted {
        Some(format!("{ready} of {wanted} {what} are ready"))
    } else if old > 0 {
        Some(format!("{old} old {what} are still there"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing() {
        let deployment = |status: Value| json!({"kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status});
        let set = |status: Value| json!({"kind": "DaemonSet", "metadata": {"generation": 1}, "status": status});
        let definition = |status: &str| json!({"kind": "CustomResourceDefinition", "status": {"conditions": [{"type": "Established", "status": status}]}});
        for (object, expected) in [
            (deployment(json!({})), Some("it has not been looked at yet")),
            (
                deployment(json!({"observedGeneration": 1, "updatedReplicas": 2, "readyReplicas": 2, "replicas": 2})),
                Some("it has not been looked at yet"),
            ),
            (
                deployment(json!({"observedGeneration": 2, "updatedReplicas": 1, "readyReplicas": 2, "replicas": 3})),
                Some("1 of 2 replicas have the new version"),
            ),
            (
                deployment(json!({"observedGeneration": 2, "updatedReplicas": 2, "readyReplicas": 1, "replicas": 2})),
                Some("1 of 2 replicas are ready"),
            ),
            (
                deployment(json!({"observedGeneration": 2, "updatedReplicas": 2, "readyReplicas": 3, "replicas": 3})),
                Some("1 old replicas are still there"),
            ),
            (
                deployment(json!({"observedGeneration": 2, "updatedReplicas": 2, "readyReplicas": 2, "replicas": 2})),
                None,
            ),
            (
                set(
                    json!({"observedGeneration": 1, "desiredNumberScheduled": 3, "updatedNumberScheduled": 2, "numberReady": 3}),
                ),
                Some("2 of 3 nodes have the new version"),
            ),
            (
                set(
                    json!({"observedGeneration": 1, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberReady": 2}),
                ),
                Some("2 of 3 nodes are ready"),
            ),
            (
                set(
                    json!({"observedGeneration": 1, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberReady": 3}),
                ),
                None,
            ),
            (definition("False"), Some("it is not served yet")),
            (definition("True"), None),
            (json!({"kind": "CustomResourceDefinition"}), Some("it is not served yet")),
            (json!({"kind": "Service"}), None),
        ] {
            assert_eq!(missing(&object).as_deref(), expected, "{object}");
        }
    }
}
