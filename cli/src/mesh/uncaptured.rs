//! Why a pod is not captured: what its labels ask for, and what the agent of its node says of it.

use fairway_core::source::labels::DATAPLANE_MODE;
use fairway_lab::Error;
use fairway_lab::status::PodStatus;
use serde::Deserialize;

/// What an agent says of a pod, in `/debug/pods`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Report {
    pub(super) namespace: String,
    pub(super) name: String,
    desired: String,
    reason: String,
    error: Option<String>,
}

/// All of `/debug/pods`.
#[derive(Debug, Deserialize)]
pub(super) struct Reports {
    pub(super) pods: Vec<Report>,
}

/// What is in the way. `is_wanted` is whether labels ask for the mesh; `report` is what the agent says, nothing where it does not
/// know the pod, or why it cannot be asked; `logs` shows what it has logged.
pub(super) fn explained(pod: &PodStatus, is_wanted: bool, report: Result<Option<Report>, String>, logs: &str) -> Error {
    let name = format!("{}/{}", pod.namespace, pod.name);
    let Some(node) = &pod.node else {
        return Error::new(format!("{name} is on no node yet, so nobody decides on its connections"))
            .hint(format!("see what it waits for: kubectl -n {} describe pod {}", pod.namespace, pod.name));
    };
    let capturing =
        || Error::new(format!("{name} is being captured by the agent of {node}, and is not in the mesh yet"));
    let wait = format!("try again in a moment; if it stays so: fairway status, and {logs}");
    match report {
        Err(why) if is_wanted => Error::new(format!(
            "{name} is not in the mesh yet: the agent of {node}, which is to capture it, does not answer"
        ))
        .because(why)
        .hint(format!("see whether it runs: fairway status, and {logs}")),
        Ok(Some(Report { desired, error, .. })) if desired == "captured" => match error {
            Some(error) => capturing().because(error).hint(wait),
            None => capturing().hint(wait),
        },
        Ok(Some(report)) if !matches!(report.reason.as_str(), "not_labelled" | "unread_namespace") => {
            Error::new(format!("{name} is not in the mesh, so nobody decides on its connections"))
                .because(said(&report.reason))
                .hint("docs/guides/adoption.md says which pods are captured")
        }
        // It has not heard of the label.
        Ok(_) if is_wanted => capturing().hint(wait),
        _ => Error::new(format!("{name} is not in the mesh, so nobody decides on its connections"))
            .hint(format!("put it in: fairway namespace add {}", pod.namespace)),
    }
}

/// An agent's reason in words.
fn said(reason: &str) -> String {
    match reason {
        "pod_opts_out" => format!("its label {DATAPLANE_MODE} keeps it out"),
        "host_network" => "it is in its node's network, where its traffic cannot be told from the node's".to_owned(),
        "sidecar" => "it has a sidecar of another mesh".to_owned(),
        "excluded_namespace" => "its namespace is one of those whose pods are never captured".to_owned(),
        "terminal" => "it has ended".to_owned(),
        "waiting_for_uid" | "waiting_for_address" => format!("its node has not made it whole yet ({reason})"),
        other => format!("the agent of its node leaves it out ({other})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(node: Option<&str>) -> PodStatus {
        PodStatus {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            node: node.map(str::to_owned),
            ..PodStatus::default()
        }
    }

    fn report(desired: &str, reason: &str, error: Option<&str>) -> Report {
        Report {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            desired: desired.to_owned(),
            reason: reason.to_owned(),
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn what_was_just_done_is_not_advised() {
        let here = pod(Some("node-1"));
        let says = |desired, reason, error| Ok(Some(report(desired, reason, error)));
        let being = "is being captured by the agent of node-1";
        for (pod, is_wanted, report, words, hint) in [
            (&here, true, says("captured", "namespace_label", None), being, "the logs"),
            (&here, true, says("captured", "namespace_label", Some("no such netns")), "no such netns", "the logs"),
            (&here, true, says("excluded", "not_labelled", None), being, "the logs"),
            (&here, true, Ok(None), being, "the logs"),
            (&here, true, Err("timed out".to_owned()), "does not answer", "the logs"),
            (&here, true, says("excluded", "host_network", None), "its node's network", "adoption.md"),
            (&here, true, says("excluded", "pod_opts_out", None), "keeps it out", "adoption.md"),
            (&here, false, says("excluded", "not_labelled", None), "is not in the mesh", "fairway namespace add shop"),
            (&here, false, Ok(None), "is not in the mesh", "fairway namespace add shop"),
            (&here, false, Err("timed out".to_owned()), "is not in the mesh", "fairway namespace add shop"),
            (&pod(None), true, Ok(None), "on no node yet", "describe pod web"),
        ] {
            let told = explained(pod, is_wanted, report.clone(), "the logs").to_string();
            assert!(told.contains(words) && told.contains(hint), "{report:?}: {told}");
            assert!(told.contains("shop/web"), "{told}");
            assert_eq!(told.contains("namespace add"), hint.starts_with("fairway namespace"), "{told}");
        }
    }
}
