//! `fairway uninstall`: takes pods out of the mesh, sees that they are out, and only then takes the mesh away.

use std::io::{IsTerminal, Write, stdin, stdout};
use std::process::ExitCode;

use clap::Args;
use fairway_core::source::labels::{AMBIENT, DATAPLANE_MODE, WAYPOINT_CLASS};
use fairway_lab::{Error, Result};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::options::{Patience, Place};
use super::plan::{self, Ownership};
use super::progress;
use super::record::Record;
use super::upgrade::{named, ours};
use super::{GATEWAY_API, MANAGER, definitions, rendered};

/// Annotation of pods that are captured.
const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Label of what the controller makes: waypoints, and the mesh's root in every namespace.
const BY_CONTROLLER: &str = "app.kubernetes.io/managed-by=fairway-controller";
/// How many pods a message names.
const NAMED: usize = 5;

/// Arguments of `uninstall`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    patience: Patience,
    /// Do not ask before namespaces are taken out of the mesh
    #[arg(short, long)]
    yes: bool,
    /// Remove also what cannot be had again: policies and routes with the kinds they are of, waypoints, and the root that signed
    /// all certificates, with the namespace
    #[arg(long)]
    purge: bool,
    /// Go on where pods stay captured, or an agent does not clean its node
    #[arg(long)]
    force: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Does it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let cluster = arguments.place.connect()?;
    let namespace = arguments.place.namespace();
    let all: Vec<Value> = plan::leftovers(ours(&cluster)?, &[], namespace, MANAGER);
    if let Some(by) = managed_by_others(&cluster, namespace)? {
        return Err(Error::new(format!("what is in {namespace} is looked after by {by}")).hint(
            "take namespaces out with `fairway namespace remove`, then go on with that, for example: helm uninstall",
        ));
    }
    let enrolled = enrolled(&cluster)?;
    let waypoints = waypoints(&cluster)?;
    if arguments.dry_run {
        tell(&enrolled, &waypoints, &all, arguments.purge);
        return Ok(ExitCode::SUCCESS);
    }
    consent(&enrolled, arguments)?;
    // First of all: while the rest goes, nothing that users apply is asked about.
    for webhook in all.iter().filter(|object| object["kind"] == "ValidatingWebhookConfiguration") {
        cluster.delete(webhook)?;
    }
    fairway_lab::say!("webhook: deleted");
    for object in &enrolled {
        cluster.merge(object, &json!({"metadata": {"labels": {DATAPLANE_MODE: null}}}))?;
        fairway_lab::say!("taken out of the mesh: {}", named(object));
    }
    if let Err(error) = wait_released(&cluster, &arguments.patience) {
        forgive(arguments, error)?;
    }
    if arguments.purge {
        for waypoint in &waypoints {
            cluster.delete(waypoint)?;
            fairway_lab::say!("deleted: {}", named(waypoint));
        }
    }
    if let Err(error) = clean_nodes(&cluster, namespace, &arguments.patience) {
        forgive(arguments, error)?;
    }
    for object in &all {
        cluster.delete(object)?;
        if matches!(object["kind"].as_str(), Some("DaemonSet" | "Deployment")) {
            wait_gone(&cluster, object, &arguments.patience)?;
        }
        fairway_lab::say!("deleted: {}", named(object));
    }
    if arguments.purge {
        purge(&cluster, namespace, &arguments.patience)?;
    }
    verify(&cluster, namespace, &arguments.patience)?;
    after(&waypoints, namespace, arguments.purge);
    Ok(ExitCode::SUCCESS)
}

fn managed_by_others(cluster: &Cluster, namespace: &str) -> Result<Option<String>> {
    let controller = cluster.get("apps/v1", "Deployment", namespace, "fairway-controller")?;
    Ok(controller.and_then(|object| match plan::ownership(&object, MANAGER) {
        Ownership::Managed(by) => Some(by),
        Ownership::Ours | Ownership::Foreign => None,
    }))
}

/// Namespaces and pods whose own labels ask for the mesh.
fn enrolled(cluster: &Cluster) -> Result<Vec<Value>> {
    let labels = format!("{DATAPLANE_MODE}={AMBIENT}");
    let mut found = cluster.list("v1", "Namespace", &labels)?;
    found.extend(cluster.list("v1", "Pod", &labels)?);
    Ok(found)
}

fn waypoints(cluster: &Cluster) -> Result<Vec<Value>> {
    let mut gateways = cluster.list(GATEWAY_API, "Gateway", "")?;
    gateways.retain(|gateway| gateway["spec"]["gatewayClassName"] == WAYPOINT_CLASS);
    Ok(gateways)
}

fn tell(enrolled: &[Value], waypoints: &[Value], all: &[Value], purge: bool) {
    for object in enrolled {
        fairway_lab::say!("would be taken out of the mesh: {}", named(object));
    }
    for object in waypoints.iter().filter(|_| purge).chain(all) {
        fairway_lab::say!("would be deleted: {}", named(object));
    }
    if purge {
        fairway_lab::say!(
            "would be deleted: our definitions of kinds with all objects of them, the root, the namespace"
        );
    }
}

fn consent(enrolled: &[Value], arguments: &Arguments) -> Result<()> {
    if arguments.yes || (enrolled.is_empty() && !arguments.purge) {
        return Ok(());
    }
    for object in enrolled {
        fairway_lab::say!("in the mesh: {}", named(object));
    }
    let refused = || {
        Error::new("nothing was changed")
            .because("pods would lose identity, encryption and policies")
            .hint("say --yes if that is meant")
    };
    if !stdin().is_terminal() {
        return Err(refused());
    }
    print!("Their traffic will be plain, and no policy will hold. Go on? [y/N] ");
    let mut answer = String::new();
    let heard = stdout().flush().and_then(|()| stdin().read_line(&mut answer));
    if heard.is_ok() && answer.trim().eq_ignore_ascii_case("y") { Ok(()) } else { Err(refused()) }
}

fn forgive(arguments: &Arguments, error: Error) -> Result<()> {
    if !arguments.force {
        return Err(error);
    }
    fairway_lab::say!("going on all the same: {error}");
    Ok(())
}

/// Waits until no pod is captured: without an agent it would be cut off for ever.
fn wait_released(cluster: &Cluster, patience: &Patience) -> Result<()> {
    let hint = "look at what is in the way: fairway status; --force goes on and leaves these pods cut off until they are restarted";
    progress::wait("pods to be released", patience, hint, || {
        let captured: Vec<String> =
            cluster.list("v1", "Pod", "")?.iter().filter(|pod| is_captured(pod)).map(named).collect();
        Ok((!captured.is_empty()).then(|| format!("{} are captured", some_of(&captured))))
    })
}

fn is_captured(pod: &Value) -> bool {
    let is_over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    !is_over && pod["metadata"]["annotations"][REDIRECTION] == "enabled"
}

fn some_of(names: &[String]) -> String {
    let first = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMED);
    if more > 0 { format!("{first} and {more} more") } else { first }
}

/// Has every agent take its plugin and its configuration from its node as it ends.
fn clean_nodes(cluster: &Cluster, namespace: &str, patience: &Patience) -> Result<()> {
    let Some(record) = Record::of(cluster, namespace)? else { return Ok(()) };
    let mut values = record.values;
    fairway_manifests::merge(&mut values, &json!({"cni": {"cleanupOnExit": true}}));
    let objects = rendered(&values, namespace)?.objects;
    let Some(agents) = objects.iter().find(|object| plan::stage(object) == plan::Stage::Agents) else { return Ok(()) };
    if cluster.same(agents)?.is_none() {
        return Ok(());
    }
    cluster.apply(agents, true)?;
    progress::wait_ready(cluster, agents, patience)?;
    cluster.delete(agents)?;
    wait_gone(cluster, agents, patience)?;
    fairway_lab::say!("agents: have cleaned their nodes");
    Ok(())
}

fn wait_gone(cluster: &Cluster, object: &Value, patience: &Patience) -> Result<()> {
    let hint = "look at its pods: kubectl describe; then run the same command again";
    progress::wait(&format!("the end of {}", named(object)), patience, hint, || {
        Ok(cluster.same(object)?.map(|_| "its pods end".to_owned()))
    })
}

/// What only --purge removes.
fn purge(cluster: &Cluster, namespace: &str, patience: &Patience) -> Result<()> {
    for definition in definitions()? {
        let present = cluster.same(&definition)?;
        if let Some(present) = present.filter(|present| plan::ownership(present, MANAGER) == Ownership::Ours) {
            cluster.delete(&present)?;
            fairway_lab::say!("deleted: {}", named(&present));
        }
    }
    for map in cluster.list("v1", "ConfigMap", BY_CONTROLLER)? {
        cluster.delete(&map)?;
    }
    let own = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    let present = cluster.same(&own)?;
    if let Some(present) = present.filter(|present| plan::ownership(present, MANAGER) == Ownership::Ours) {
        cluster.delete(&present)?;
        wait_gone(cluster, &present, patience)?;
        fairway_lab::say!("deleted: {}", named(&present));
    }
    Ok(())
}

/// Waits until nothing of ours is left: what hangs on an object goes before it does.
fn verify(cluster: &Cluster, namespace: &str, patience: &Patience) -> Result<()> {
    progress::wait("everything to be gone", patience, "run the same command again", || {
        let left: Vec<String> = plan::leftovers(ours(cluster)?, &[], namespace, MANAGER).iter().map(named).collect();
        Ok((!left.is_empty()).then(|| format!("{} objects are left: {}", left.len(), some_of(&left))))
    })
}

fn after(waypoints: &[Value], namespace: &str, purge: bool) {
    fairway_lab::say!("\nFairway is removed.");
    if purge {
        return;
    }
    fairway_lab::say!(
        "Left, for another installation: {namespace} with the mesh's root, and the kinds of policies and routes."
    );
    for waypoint in waypoints {
        fairway_lab::say!("Left, and of no use without a mesh: {}", named(waypoint));
    }
    fairway_lab::say!("`fairway uninstall --purge` removes these, too.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_run_and_are_captured_count() {
        let pod = |phase: &str, value: &str| json!({"metadata": {"annotations": {REDIRECTION: value}}, "status": {"phase": phase}});
        assert!(is_captured(&pod("Running", "enabled")));
        assert!(is_captured(&pod("Pending", "enabled")));
        assert!(!is_captured(&pod("Succeeded", "enabled")));
        assert!(!is_captured(&pod("Running", "disabled")));
        assert!(!is_captured(&json!({"metadata": {}})));
    }

    #[test]
    fn a_message_does_not_name_a_thousand_pods() {
        let names: Vec<String> = (0..7).map(|number| format!("p{number}")).collect();
        assert_eq!(some_of(&names), "p0, p1, p2, p3, p4 and 2 more");
        assert_eq!(some_of(&names[..1]), "p0");
    }
}
