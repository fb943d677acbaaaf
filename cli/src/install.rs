//! `fairway install`, `upgrade` and `uninstall`: puts the embedded chart on a cluster, in order, and takes it away again.

mod cluster;
mod options;
mod plan;
mod progress;
mod ready;
mod record;
mod uninstall;
mod upgrade;

use std::process::ExitCode;

use clap::Args;
use fairway_controller::l7::mesh;
use fairway_lab::{Error, Result};
use fairway_manifests::Rendered;
use serde_json::{Value, json};

use crate::connection::OLDEST_KUBERNETES;
use cluster::Cluster;
use options::Putting;
use plan::{Ownership, Stage};
use record::Record;

pub(crate) use uninstall::Arguments as UninstallArguments;
pub(crate) use uninstall::run as uninstall;
pub(crate) use upgrade::Arguments as UpgradeArguments;
pub(crate) use upgrade::run as upgrade;

/// Who applies what this applies, and looks after it, as the label `app.kubernetes.io/managed-by` says it.
const MANAGER: &str = "fairway";
/// What takes Gateway API's definitions, and where those are.
const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

/// Arguments of `install`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    putting: Putting,
    /// Print the objects instead of applying them; no cluster is asked
    #[arg(long)]
    dry_run: bool,
}

/// Does it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let putting = &arguments.putting;
    let values = putting.choice.over(json!({}))?;
    let namespace = putting.place.namespace();
    let rendered = rendered(&values, namespace)?;
    if arguments.dry_run {
        print(rendered)?;
        return Ok(ExitCode::SUCCESS);
    }
    let version = version()?;
    let cluster = putting.place.connect()?;
    fairway_lab::say!("cluster: {}", cluster.described());
    at_home(&cluster, namespace)?;
    let before = Record::of(&cluster, namespace)?;
    if let Some(before) = &before {
        same_again(before, &version, &values, namespace)?;
    }
    check(&cluster, &rendered, namespace)?;
    let record = Record::begun(before, &version, &values);
    put(&cluster, &rendered, &record, putting)?;
    Record::done(version, values).keep(&cluster, namespace)?;
    fairway_lab::say!("\n{}", rendered.notes.trim_end());
    Ok(ExitCode::SUCCESS)
}

/// An installation can be repeated, for example after a time-out, and changes nothing that was chosen before.
fn same_again(before: &Record, version: &str, values: &Value, namespace: &str) -> Result<()> {
    let is_version = before.target == version && before.spoken_version() == version;
    if !is_version {
        return Err(Error::new(format!("Fairway {} is installed in {namespace}", before.spoken_version()))
            .hint("replace it with: fairway upgrade"));
    }
    if before.values != *values {
        return Err(Error::new(format!("Fairway is installed in {namespace} with other values"))
            .hint("change values with: fairway upgrade --set …; it keeps those that are not named"));
    }
    Ok(())
}

/// What binds the controller's cluster-wide rights, if it is there.
fn binding(cluster: &Cluster) -> Result<Option<Value>> {
    cluster.get("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "", plan::CONTROLLER)
}

/// Refuses a namespace when the cluster's mesh is in another one: cluster-wide objects would be taken from that.
fn at_home(cluster: &Cluster, namespace: &str) -> Result<()> {
    let binding = binding(cluster)?;
    match binding.as_ref().and_then(plan::home) {
        Some(home) if home != namespace => {
            Err(Error::new(format!("Fairway is installed in {home}, not in {namespace}, and a cluster takes one mesh"))
                .hint(format!("name its namespace: -n {home}; to have it elsewhere, remove that one first")))
        }
        _ => Ok(()),
    }
}

/// The version of what this command installs.
fn version() -> Result<String> {
    fairway_manifests::version().map_err(|error| Error::new("reading the chart").because(error))
}

/// What the chart becomes with the user's values. The namespace is part of it: nobody has made it before.
fn rendered(values: &Value, namespace: &str) -> Result<Rendered> {
    let mut all = json!({"namespace": {"create": true}});
    fairway_manifests::merge(&mut all, values);
    let rendered = fairway_manifests::render(&all, namespace, MANAGER).map_err(|error| {
        Error::new("rendering the chart").because(error).hint("values are described in manifests/chart/values.yaml")
    })?;
    usable(&all["mesh"]["config"])?;
    Ok(rendered)
}

/// Refuses a mesh configuration that no controller would start with.
fn usable(config: &Value) -> Result<()> {
    if config.is_null() {
        return Ok(());
    }
    mesh::read(&config.to_string()).map(drop).map_err(|error| {
        Error::new("reading the value mesh.config")
            .because(error)
            .hint("docs/guides/waypoint.md has an example of each provider")
    })
}

fn definitions() -> Result<Vec<Value>> {
    fairway_manifests::definitions().map_err(|error| Error::new("reading the chart").because(error))
}

fn print(rendered: Rendered) -> Result<()> {
    let mut objects = definitions()?;
    objects.extend(rendered.objects);
    plan::sort(&mut objects);
    for object in objects {
        let text =
            serde_saphyr::to_string(&object).map_err(|error| Error::new("writing an object down").because(error))?;
        fairway_lab::say!("---\n{}", text.trim_end());
    }
    Ok(())
}

/// Whether the cluster can take it: before anything is changed.
fn check(cluster: &Cluster, rendered: &Rendered, namespace: &str) -> Result<()> {
    let (major, minor) = cluster.version()?;
    if (major, minor) < OLDEST_KUBERNETES {
        let (oldest, least) = OLDEST_KUBERNETES;
        return Err(Error::new(format!("this cluster runs Kubernetes {major}.{minor}"))
            .hint(format!("Fairway takes {oldest}.{least} or newer")));
    }
    if rendered.objects.iter().any(|object| object["kind"] == "GatewayClass") && !cluster.serves(GATEWAY_API)? {
        return Err(Error::new("this cluster does not have Gateway API, which waypoints take").hint(
            "install its standard definitions (https://gateway-api.sigs.k8s.io), or leave waypoints out: --set waypoints.enabled=false",
        ));
    }
    let controller = cluster.get("apps/v1", "Deployment", namespace, plan::CONTROLLER)?;
    match controller.as_ref().map(|object| plan::ownership(object, MANAGER)) {
        None | Some(Ownership::Ours) => Ok(()),
        Some(Ownership::Managed(by)) => Err(Error::new(format!("what is in {namespace} is looked after by {by}"))
            .hint("go on with that, for example: helm upgrade")),
        Some(Ownership::Foreign) => {
            Err(Error::new(format!("{namespace} has a Deployment fairway-controller that is not Fairway's"))
                .hint("choose another namespace with -n, or remove it"))
        }
    }
}

/// Applies everything stage by stage, each ready before the next, and remembers what was begun.
fn put(cluster: &Cluster, rendered: &Rendered, record: &Record, putting: &Putting) -> Result<()> {
    let mut stages = plan::stages(rendered.objects.clone());
    stages.entry(Stage::Definitions).or_default().extend(definitions()?);
    for (stage, objects) in stages {
        let mut kept = 0;
        for object in &objects {
            if stage == Stage::Definitions && is_somebody_elses(cluster, object)? {
                kept += 1;
                continue;
            }
            if object["kind"] == "Namespace" && !may_claim(cluster, object)? {
                cluster.apply(&plan::unclaimed(object.clone()), putting.force_conflicts)?;
            } else {
                cluster.apply(object, putting.force_conflicts)?;
            }
        }
        let also = if kept > 0 { format!(", {kept} left to who made them") } else { String::new() };
        fairway_lab::say!("{stage}: {} applied{also}", objects.len() - kept);
        // Before the first program starts, so that whatever happens then can be undone.
        if stage == Stage::Foundation {
            record.keep(cluster, putting.place.namespace())?;
        }
        if let Some(patience) = putting.patience() {
            let mut waited = objects.iter().filter(|object| ready::is_waited_for(object));
            waited.try_for_each(|object| progress::wait_ready(cluster, object, patience))?;
        }
    }
    Ok(())
}

/// Whether a definition of a kind is there already, from Istio for example: then it stays as it is.
fn is_somebody_elses(cluster: &Cluster, definition: &Value) -> Result<bool> {
    let present = cluster.same(definition)?;
    Ok(present.is_some_and(|present| plan::ownership(&present, MANAGER) == Ownership::Foreign))
}

/// Whether a namespace is ours, or will be. One that was there before is not, so that nothing removes it with the mesh.
fn may_claim(cluster: &Cluster, namespace: &Value) -> Result<bool> {
    let present = cluster.same(namespace)?;
    Ok(present.is_none_or(|present| plan::ownership(&present, MANAGER) == Ownership::Ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_configuration_that_no_controller_takes_is_not_installed() {
        let provider = |port: u32| {
            json!({"mesh": {"config": {"extensionProviders": [
                {"name": "judge", "envoyExtAuthzGrpc": {"service": "judge.shop.svc.cluster.local", "port": port}},
            ]}}})
        };
        for (values, problem) in [
            (json!({}), None),
            (json!({"mesh": {"config": null}}), None),
            (provider(9000), None),
            (provider(0), Some("extensionProviders[0].port")),
            (json!({"mesh": {"config": {"extensionProviders": 1}}}), Some("cannot be read")),
        ] {
            let said = rendered(&values, "n").err().map(|error| error.to_string());
            let is_expected = match (&said, problem) {
                (None, None) => true,
                (Some(said), Some(problem)) => said.contains("mesh.config") && said.contains(problem),
                _ => false,
            };
            assert!(is_expected, "{values}: {said:?}");
        }
    }

    #[test]
    fn an_installation_is_repeated_and_not_changed() {
        let values = json!({"controller": {"replicas": 3}});
        let begun = || Record::begun(None, "1.0.0", &values);
        let done = || Record::done("1.0.0".to_owned(), values.clone());
        let upgrading = || Record::begun(Some(done()), "1.1.0", &values);
        for (before, version, now, refused) in [
            (begun(), "1.0.0", &values, None),
            (done(), "1.0.0", &values, None),
            (done(), "1.0.0", &json!({}), Some("fairway upgrade --set")),
            (begun(), "1.0.0", &json!({}), Some("fairway upgrade --set")),
            (done(), "1.1.0", &values, Some("replace it with: fairway upgrade")),
            (upgrading(), "1.0.0", &values, Some("replace it with: fairway upgrade")),
            (upgrading(), "1.1.0", &values, Some("replace it with: fairway upgrade")),
        ] {
            let said = same_again(&before, version, now, "n").err().map(|error| error.to_string());
            let is_expected = match (&said, refused) {
                (None, None) => true,
                (Some(said), Some(words)) => said.contains(words),
                _ => false,
            };
            assert!(is_expected, "{before:?} {version} {now}: {said:?}");
        }
    }
}
