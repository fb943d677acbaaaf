//! What is said of a waypoint Gateway and of its class; pure.

use fairway_core::source::gateway::Gateway;
use serde_json::{Value, json};

use super::render::Fault;
use crate::status::condition::{Condition, is_said};

/// What became of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It cannot be a waypoint.
    Refused(Fault),
    /// Its objects could not be made.
    Failed(String),
    /// Its objects are as they should be.
    Made {
        /// Pods that are ready.
        ready: u64,
        /// Pods that there should be.
        wanted: u64,
    },
}

/// The status of a gateway, with times of conditions that have not changed. Nothing when it has that status already.
#[must_use]
pub fn status(gateway: &Gateway, outcome: &Outcome, cluster_domain: &str, now: &str) -> Option<Value> {
    let name = gateway.metadata.name.as_deref().unwrap_or_default();
    let namespace = gateway.metadata.namespace.as_deref().unwrap_or_default();
    let hostname = json!([{"type": "Hostname", "value": format!("{name}.{namespace}.svc.{cluster_domain}")}]);
    let present: Vec<Value> = gateway.status.addresses.iter().map(|address| json!(address)).collect();
    // Without an address, what is bound to it is refused. What was made before a mistake goes on as it was.
    let addresses = match outcome {
        Outcome::Refused(_) | Outcome::Failed(_) => json!(present),
        Outcome::Made { .. } => hostname,
    };
    let (accepted, programmed) = verdicts(outcome, name);
    let generation = gateway.metadata.generation;
    let present_conditions: Vec<Value> = gateway.status.conditions.iter().map(|it| json!(it)).collect();
    let conditions = json!([
        accepted.condition("Accepted").beside(&present_conditions, generation, now),
        programmed.condition("Programmed").beside(&present_conditions, generation, now),
    ]);
    let said = conditions.as_array().into_iter().flatten();
    if json!(present) == addresses && said.clone().all(|it| is_said(it, &present_conditions)) {
        return None;
    }
    let listeners: Vec<Value> = gateway.spec.listeners.iter().map(|listener| {
        let of = |kind: &str, verdict: &Verdict| verdict.condition(kind).written(generation, now);
        let fine = |reason: &'static str| Verdict { holds: true, reason, message: String::new() };
        json!({
            "name": listener.name,
            // Routes attach to services, and their traffic comes by way of the waypoint.
            "attachedRoutes": 0,
            "supportedKinds": [],
            "conditions": [of("Accepted", &accepted), of("Programmed", &programmed), of("ResolvedRefs", &fine("ResolvedRefs"))],
        })
    }).collect();
    Some(json!({"addresses": addresses, "conditions": conditions, "listeners": listeners}))
}

/// What is said of an object of somebody else that has the name of a waypoint's.
#[must_use]
pub fn in_the_way(kind: &str, name: &str) -> String {
    format!("{kind} {name} belongs to somebody else; rename the gateway, or delete that object")
}

/// The condition of a class of ours; nothing when it has it already.
#[must_use]
pub fn class(generation: Option<i64>, present: &[Value], now: &str) -> Option<Value> {
    let accepted =
        Verdict { holds: true, reason: "Accepted", message: "gateways of this class become waypoints".to_owned() };
    let condition = accepted.condition("Accepted").beside(present, generation, now);
    (!is_said(&condition, present)).then(|| json!({"conditions": [condition]}))
}

struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn condition<'a>(&'a self, kind: &'a str) -> Condition<'a> {
        Condition { kind, holds: self.holds, reason: self.reason, message: &self.message }
    }
}

fn verdicts(outcome: &Outcome, name: &str) -> (Verdict, Verdict) {
    let yes = |reason, message: &str| Verdict { holds: true, reason, message: message.to_owned() };
    let no = |reason, message: String| Verdict { holds: false, reason, message };
    let accepted = yes("Accepted", "it becomes a waypoint");
    match outcome {
        Outcome::Refused(fault) => {
            let reason = if fault.field.starts_with("spec.listeners") { "ListenersNotValid" } else { "Invalid" };
            let message = format!("a waypoint that was made before goes on as it was, and none is made now; {fault}");
            (no(reason, fault.to_string()), no("Invalid", message))
        }
        Outcome::Failed(why) => (accepted, no("Pending", why.clone())),
        Outcome::Made { ready: 0, wanted } => {
            let message =
                format!("none of {wanted} pods of Deployment {name} is ready; what is bound to it waits or is refused");
            (accepted, no("Pending", message))
        }
        Outcome::Made { ready, wanted } => {
            // The reason is that of the specification; how many are ready changes often and is the Deployment's to say.
            let message = if ready < wanted { "some of its pods are ready" } else { "its pods are ready" };
            (accepted, yes("Programmed", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(status: &Value) -> Gateway {
        serde_json::from_value(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "way", "namespace": "shop", "generation": 3},
            "spec": {"gatewayClassName": "fairway-waypoint", "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]},
            "status": status}))
        .unwrap()
    }

    const NOW: &str = "2024-01-01T00:00:00Z";
    const LATER: &str = "2024-01-01T00:00:09Z";

    fn say(gateway: &Gateway, outcome: &Outcome, now: &str) -> Option<Value> {
        status(gateway, outcome, "cluster.local", now)
    }

    #[test]
    fn a_waypoint_is_programmed_when_a_pod_is_ready_and_not_before() {
        let fault = Fault { field: "spec.listeners".to_owned(), message: "must have one".to_owned() };
        let host = json!([{"type": "Hostname", "value": "way.shop.svc.cluster.local"}]);
        let rows = [
            (Outcome::Refused(fault), json!([]), "False", "False", "must have one"),
            (Outcome::Failed("taken".to_owned()), json!([]), "True", "False", "taken"),
            (Outcome::Made { ready: 0, wanted: 2 }, host.clone(), "True", "False", "none of 2 pods"),
            (Outcome::Made { ready: 1, wanted: 2 }, host.clone(), "True", "True", "some of its pods"),
            (Outcome::Made { ready: 2, wanted: 2 }, host, "True", "True", "its pods are ready"),
        ];
        for (outcome, addresses, accepted, programmed, words) in rows {
            let said = say(&gateway(&json!({})), &outcome, NOW).unwrap();
            let conditions = &said["conditions"];
            assert_eq!(said["addresses"], addresses, "{outcome:?}");
            assert_eq!((&conditions[0]["status"], &conditions[1]["status"]), (&json!(accepted), &json!(programmed)));
            assert!(conditions[1]["message"].as_str().unwrap().contains(words), "{said}");
            assert_eq!(conditions[1]["observedGeneration"], 3);
        }
    }

    #[test]
    fn times_are_those_of_changes_and_nothing_is_said_twice() {
        let (none, some) = (Outcome::Made { ready: 0, wanted: 1 }, Outcome::Made { ready: 1, wanted: 1 });
        let first = say(&gateway(&json!({})), &none, NOW).unwrap();
        assert_eq!(say(&gateway(&first), &none, LATER), None);
        let second = say(&gateway(&first), &some, LATER).unwrap();
        let times = [0, 1].map(|index| second["conditions"][index]["lastTransitionTime"].as_str().unwrap().to_owned());
        assert_eq!(times, [NOW, LATER]);
        // What cannot be reached now has the address that it had.
        let typo = Fault { field: "metadata.annotations".to_owned(), message: "two is not a number".to_owned() };
        for outcome in [Outcome::Failed("slow".to_owned()), Outcome::Refused(typo)] {
            let said = say(&gateway(&second), &outcome, LATER).unwrap();
            assert_eq!(said["addresses"], second["addresses"], "{outcome:?}");
        }
    }

    #[test]
    fn a_class_is_accepted_once() {
        let said = class(Some(1), &[], NOW).unwrap();
        let present = said["conditions"].as_array().unwrap().clone();
        assert_eq!(class(Some(1), &present, LATER), None);
        assert!(class(Some(2), &present, LATER).is_some());
    }
}
