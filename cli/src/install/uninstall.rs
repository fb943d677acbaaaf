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
use super::upgrade::{named, ours};
use super::{GATEWAY_API, MANAGER, at_home, binding, definitions};

/// Annotation of pods that are captured.
const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Pods that have not come to their end.
const NOT_OVER: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// Label of what the controller makes: waypoints, and the mesh's root in every namespace.
const BY_CONTROLLER: &str = "app.kubernetes.io/managed-by=fairway-controller";
/// Secret of the root that the controller makes.
const ROOT: &str = "fairway-ca";
/// The agents, and the container that they are.
const AGENTS: (&str, &str) = ("fairway-cni", "agent");
/// Variable that has an agent clean its node as it ends.
const CLEANS_UP: &str = "AMBIENT_DISABLE_SAFE_UPGRADE";
/// Time that an agent gets for that, as in the chart: rules go from all pods of a node.
const CLEANING_SECONDS: u32 = 120;
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
    /// all certificates, with the namespace unless it was there before
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
    fairway_lab::say!("cluster: {}", cluster.described());
    at_home(&cluster, namespace)?;
    if let Some(by) = managed_by_others(&cluster, namespace)? {
        return Err(Error::new(format!("what is in {namespace} is looked after by {by}")).hint(
            "take namespaces out with `fairway namespace remove`, then go on with that, for example: helm uninstall",
        ));
    }
    let present = ours(&cluster)?;
    let is_something = plan::is_installed(&present, namespace, MANAGER)
        || (arguments.purge && is_something_to_purge(&cluster, namespace)?);
    if !is_something {
        return Err(Error::new(format!("nothing of Fairway is installed in {namespace}"))
            .hint("name the namespace of the mesh with -n"));
    }
    let all = plan::leftovers(present, &[], namespace, MANAGER);
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
    let controller = cluster.get("apps/v1", "Deployment", namespace, plan::CONTROLLER)?;
    let mut found = [controller, binding(cluster)?].into_iter().flatten();
    Ok(found.find_map(|object| match plan::ownership(&object, MANAGER) {
        Ownership::Managed(by) => Some(by),
        Ownership::Ours | Ownership::Foreign => None,
    }))
}

/// Whether a removal without --purge has left something in `namespace`.
fn is_something_to_purge(cluster: &Cluster, namespace: &str) -> Result<bool> {
    let own = cluster.get("v1", "Namespace", "", namespace)?;
    let is_own = own.is_some_and(|own| plan::ownership(&own, MANAGER) == Ownership::Ours);
    Ok(is_own || cluster.get("v1", "Secret", namespace, ROOT)?.is_some())
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
            "would be deleted: our definitions of kinds with all objects of them, the root, the namespace unless it was there before"
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
    let question = consequences(!enrolled.is_empty(), arguments.purge, arguments.place.namespace());
    let mut answer = String::new();
    let mut output = stdout();
    let asked = write!(output, "{question} Go on? [y/N] ").and_then(|()| output.flush());
    let heard = asked.and_then(|()| stdin().read_line(&mut answer));
    if heard.is_ok() && answer.trim().eq_ignore_ascii_case("y") { Ok(()) } else { Err(refused()) }
}

/// What is lost.
fn consequences(any_enrolled: bool, purge: bool, namespace: &str) -> String {
    let mut lines = Vec::new();
    if any_enrolled {
        lines.push("Their traffic will be plain, and no policy will hold.".to_owned());
    }
    if purge {
        lines.push(format!(
            "For good: Fairway's definitions of kinds, with all policies and routes of these kinds in all namespaces; all \
             waypoints; the root that signed all certificates; the namespace {namespace}, unless it was there before."
        ));
    }
    lines.join("\n")
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
            cluster.metadata("v1", "Pod", NOT_OVER)?.iter().filter(|pod| is_captured(pod)).map(named).collect();
        Ok((!captured.is_empty()).then(|| format!("{} are captured", some_of(&captured))))
    })
}

fn is_captured(pod: &Value) -> bool {
    pod["metadata"]["annotations"][REDIRECTION] == "enabled"
}

fn some_of(names: &[String]) -> String {
    let first = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMED);
    if more > 0 { format!("{first} and {more} more") } else { first }
}

/// Has every agent take its plugin and its configuration from its node as it ends.
fn clean_nodes(cluster: &Cluster, namespace: &str, patience: &Patience) -> Result<()> {
    let present = cluster.get("apps/v1", "DaemonSet", namespace, AGENTS.0)?;
    let Some(agents) = present.filter(|agents| plan::ownership(agents, MANAGER) == Ownership::Ours) else {
        return Ok(());
    };
    cluster.apply(&cleaning(&agents), true)?;
    progress::wait_ready(cluster, &agents, patience)?;
    cluster.delete(&agents)?;
    wait_gone(cluster, &agents, patience)?;
    fairway_lab::say!("agents: have cleaned their nodes");
    Ok(())
}

/// The agents as they run, of whatever version, but told to clean their nodes; on all at once, as no pod needs them any more.
fn cleaning(agents: &Value) -> Value {
    let (_, namespace, name) = fairway_manifests::key(agents);
    let mut spec = agents["spec"].clone();
    spec["updateStrategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "100%"}});
    let pod = &mut spec["template"]["spec"];
    pod["terminationGracePeriodSeconds"] = CLEANING_SECONDS.into();
    let containers = pod["containers"].as_array_mut().into_iter().flatten();
    for container in containers.filter(|container| container["name"] == AGENTS.1) {
        let mut variables = container["env"].as_array().cloned().unwrap_or_default();
        variables.retain(|variable| variable["name"] != CLEANS_UP);
        variables.push(json!({"name": CLEANS_UP, "value": "true"}));
        container["env"] = variables.into();
    }
    // No status, and nothing that the API server says of the object itself: that is not to be applied.
    let metadata = json!({"name": name, "namespace": namespace, "labels": agents["metadata"]["labels"]});
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": spec})
}

fn wait_gone(cluster: &Cluster, object: &Value, patience: &Patience) -> Result<()> {
    let hint = "look at it, and at its pods: kubectl describe; then run the same command again";
    progress::wait(&format!("the end of {}", named(object)), patience, hint, || {
        Ok(cluster.same(object)?.map(|_| "it is still there, or pods of it are".to_owned()))
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
    let Some(present) = cluster.same(&own)? else { return Ok(()) };
    if plan::ownership(&present, MANAGER) == Ownership::Ours {
        cluster.delete(&present)?;
        wait_gone(cluster, &present, patience)?;
        fairway_lab::say!("deleted: {}", named(&present));
        return Ok(());
    }
    // It was there before, and may hold what others need.
    let root = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": ROOT, "namespace": namespace}});
    if cluster.same(&root)?.is_some() {
        cluster.delete(&root)?;
        wait_gone(cluster, &root, patience)?;
        fairway_lab::say!("deleted: {}", named(&root));
    }
    fairway_lab::say!("left, as it was there before: {}", named(&present));
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
    fn pods_that_are_captured_count() {
        let pod = |value: &str| json!({"metadata": {"annotations": {REDIRECTION: value}}});
        assert!(is_captured(&pod("enabled")));
        assert!(!is_captured(&pod("disabled")));
        assert!(!is_captured(&json!({"metadata": {}})));
    }

    #[test]
    fn agents_are_told_to_clean_and_are_otherwise_left_as_they_are() {
        let values = json!({"image": {"registry": "r.example/old", "tag": "v0"}, "cni": {"env": {"A": "b"}}});
        let objects = fairway_manifests::render(&values, "n", MANAGER).unwrap().objects;
        let is_agents = |object: &&Value| object["kind"] == "DaemonSet" && object["metadata"]["name"] == AGENTS.0;
        let mut live = objects.iter().find(is_agents).unwrap().clone();
        live["metadata"]["managedFields"] = json!([{}]);
        live["status"] = json!({"numberReady": 1});
        let cleaned = cleaning(&live);
        assert!(cleaned["metadata"].get("managedFields").is_none() && cleaned.get("status").is_none(), "{cleaned}");
        assert_eq!(cleaned["metadata"]["labels"], live["metadata"]["labels"]);
        assert_eq!(cleaned["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], "100%");
        // What the chart itself makes of it, roll-out aside.
        let mut asked = values.clone();
        fairway_manifests::merge(&mut asked, &json!({"cni": {"cleanupOnExit": true}}));
        let charts = fairway_manifests::render(&asked, "n", MANAGER).unwrap().objects;
        let charts = charts.iter().find(is_agents).unwrap();
        let sorted = |object: &Value| {
            let mut pod = object["spec"]["template"].clone();
            if let Some(variables) = pod["spec"]["containers"][0]["env"].as_array_mut() {
                variables.sort_by_key(|variable| variable["name"].to_string());
            }
            pod
        };
        assert_eq!(sorted(&cleaned), sorted(charts));
        assert_eq!(cleaning(&cleaned), cleaned, "again, after an interruption");
    }

    #[test]
    fn whoever_is_asked_is_told_what_is_lost() {
        let all = consequences(true, true, "mesh-system");
        for words in ["plain", "policies", "waypoints", "root", "namespace mesh-system"] {
            assert!(all.contains(words), "{words}: {all}");
        }
        assert!(!consequences(true, false, "mesh-system").contains("For good"));
        assert!(!consequences(false, true, "mesh-system").contains("plain"));
    }

    #[test]
    fn a_message_does_not_name_a_thousand_pods() {
        let names: Vec<String> = (0..7).map(|number| format!("p{number}")).collect();
        assert_eq!(some_of(&names), "p0, p1, p2, p3, p4 and 2 more");
        assert_eq!(some_of(&names[..1]), "p0");
    }
}
