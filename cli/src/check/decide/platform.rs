//! What the mesh stands on: an API server with the kinds that are read, and the right to install.

use super::super::facts::{Api, Facts};
use super::{Check, Section};
use crate::connection::OLDEST_KUBERNETES;

/// Where the kinds of Gateway API come from.
const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// What must be there before an installation, which itself brings the kinds that are ours.
pub(super) fn before(facts: &Facts) -> Section {
    section(facts, |api| {
        let (theirs, _) = missing(api);
        vec![gateway_api(&theirs)]
    })
}

/// What must be there for a mesh that runs.
pub(super) fn running(facts: &Facts) -> Section {
    section(facts, |api| {
        let (theirs, ours) = missing(api);
        // Without the class, the mesh is installed without waypoints, and works without these kinds.
        if api.has_waypoint_class {
            vec![defined(&[ours, theirs].concat()), gateway_api(&[])]
        } else {
            vec![defined(&ours), gateway_api(&theirs)]
        }
    })
}

/// Kinds that are missing: those of Gateway API, which others define, and all else.
fn missing(api: &Api) -> (Vec<String>, Vec<String>) {
    api.missing_kinds.iter().cloned().partition(|kind| kind.ends_with(GATEWAY_API))
}

fn told(missing: &[String]) -> Vec<String> {
    missing.iter().map(|kind| format!("there is no {kind}")).collect()
}

fn defined(missing: &[String]) -> Check {
    Check::of("kinds-defined", "every kind that the mesh reads is defined", told(missing), definitions(missing))
}

/// What waypoints and routes are made of; a mesh without them does not need it.
fn gateway_api(missing: &[String]) -> Check {
    Check::doubtful(
        "gateway-api",
        "Gateway API is there for waypoints and routes",
        told(missing),
        "install the standard channel of Gateway API (https://gateway-api.sigs.k8s.io), or leave waypoints out: \
         fairway install --set waypoints.enabled=false",
    )
}

fn section(facts: &Facts, kinds: impl Fn(&Api) -> Vec<Check>) -> Section {
    let mut checks = Vec::new();
    if let Some(machine) = &facts.machine {
        checks.push(Check::of(
            "machine",
            "this machine can run a lab",
            machine.as_ref().err().cloned().into_iter().collect(),
            "install what is missing: ./dev setup in a checkout does",
        ));
    }
    if let Some(api) = &facts.api {
        let error = api.as_ref().err().cloned();
        checks.push(Check::of(
            "api-server",
            "the API server answers",
            error.into_iter().collect(),
            "see that kubectl version works with the same --kubeconfig and --context",
        ));
        if let Ok(api) = api {
            let is_old = version(&api.version).is_some_and(|version| version < OLDEST_KUBERNETES);
            let (major, minor) = OLDEST_KUBERNETES;
            checks.push(Check::doubtful(
                "kubernetes-version",
                format!("Kubernetes is at least {major}.{minor} ({})", api.version),
                is_old.then(|| format!("it is {}", api.version)).into_iter().collect(),
                "upgrade the cluster; the mesh is not tried with this version",
            ));
            checks.extend(kinds(api));
        }
    }
    Section { title: "platform", checks }
}

/// What defines the kinds that are missing: ours come with the mesh, those of Gateway API are that project's own.
fn definitions(missing: &[String]) -> String {
    let (theirs, ours): (Vec<_>, Vec<_>) = missing.iter().partition(|kind| kind.ends_with(GATEWAY_API));
    let ours = (!ours.is_empty()).then(|| "fairway upgrade defines them again, and so does kubectl create -f manifests/chart/crds (what is there already stays)".to_owned());
    let theirs = (!theirs.is_empty()).then(|| "install the standard channel of Gateway API".to_owned());
    ours.into_iter().chain(theirs).collect::<Vec<_>>().join("; ")
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_start_matches('v').split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What an installation takes.
pub(super) fn rights(facts: &Facts) -> Section {
    let checks = match &facts.api {
        Some(Ok(api)) => vec![Check::of(
            "rights",
            "you may create what an installation creates",
            api.denied.iter().map(|what| format!("you may not create {what}")).collect(),
            "install as somebody with the ClusterRole cluster-admin: kubectl auth can-i --list shows what you may",
        )],
        _ => Vec::new(),
    };
    Section { title: "rights", checks }
}
