//! Objects that keep traffic from working: what `analyze` finds, with those that people meet most by themselves.

use super::super::facts::Facts;
use super::{Check, Section};
use crate::analyze::{Message, Severity};

/// Codes of `analyze` that have a check of their own.
const WAYPOINT_MISSING: &str = "FW0301";
const WAYPOINT_DOWN: &str = "FW0303";
const BLOCKS_TUNNELS: &str = "FW0401";

pub(super) fn section(facts: &Facts) -> Section {
    let messages = match &facts.objects {
        Ok(messages) => messages,
        Err(error) => {
            let check = Check::of(
                "objects-known",
                "the objects of the mesh can be read",
                vec![error.clone()],
                "it takes the right to list them: kubectl auth can-i list pods -A",
            );
            return Section { title: "objects", checks: vec![check] };
        }
    };
    let of = |code: &str| messages.iter().filter(|it| it.code == code).collect::<Vec<_>>();
    let own = [WAYPOINT_MISSING, WAYPOINT_DOWN, BLOCKS_TUNNELS];
    let others = messages.iter().filter(|it| it.severity == Severity::Error && !own.contains(&it.code));
    let missing = of(WAYPOINT_MISSING);
    let make = missing.first().and_then(|it| waypoint_of(it)).map_or_else(
        || "fairway waypoint status -A says why".to_owned(),
        |(namespace, name)| {
            format!("fairway waypoint apply --namespace {namespace} --name {name} --wait; fairway waypoint status -A says why one does not run")
        },
    );
    let checks = vec![
        Check::of("waypoints-usable", "every waypoint that is asked for can be used", told(&missing), make),
        Check::of(
            "waypoints-up",
            "every waypoint has a pod that works",
            told(&of(WAYPOINT_DOWN)),
            "fairway waypoint status -A names the pods' deployment; their log says what is wrong, and a pod that hangs is mended by deleting it",
        ),
        Check::of(
            "tunnels-admitted",
            "no NetworkPolicy keeps the mesh's tunnels away (TCP port 15008)",
            told(&of(BLOCKS_TUNNELS)),
            "add to the policy's ingress: - ports: [{port: 15008, protocol: TCP}]; say in an AuthorizationPolicy who may do what",
        ),
        Check::doubtful(
            "objects-sound",
            "no other object is in error",
            told(&others.collect::<Vec<_>>()),
            "fairway analyze says more, and what each code means",
        ),
    ];
    Section { title: "objects", checks }
}

fn told(messages: &[&Message]) -> Vec<String> {
    messages.iter().map(|it| format!("{}: {}", it.object.as_deref().unwrap_or(it.code), it.message)).collect()
}

/// Namespace and name of the waypoint that is missing, from the sentence that names it: `waypoint NAMESPACE/NAME …`.
fn waypoint_of(message: &Message) -> Option<(&str, &str)> {
    message.message.strip_prefix("waypoint ")?.split_whitespace().next()?.split_once('/')
}
