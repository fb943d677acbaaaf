//! `fairway upgrade`: a new version or other values, controller first, then agents, then proxies; what is left over goes.

use std::process::ExitCode;

use clap::Args;
use fairway_lab::{Error, Result};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::options::Putting;
use super::plan::{self, KINDS};
use super::record::{self, Record};
use super::{MANAGER, at_home, check, print, put, rendered, version};

/// Arguments of `upgrade`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    putting: Putting,
    /// Forget the values that were chosen before
    #[arg(long)]
    reset_values: bool,
    /// Print the objects, and what would be deleted, instead of doing it
    #[arg(long)]
    dry_run: bool,
}

/// Does it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let putting = &arguments.putting;
    let (namespace, version) = (putting.place.namespace(), version()?);
    let cluster = putting.place.connect()?;
    at_home(&cluster, namespace)?;
    let Some(before) = Record::of(&cluster, namespace)? else {
        return Err(Error::new(format!("there is no installation of this command's in {namespace}")).hint(
            "install it with: fairway install; or name its namespace with -n. What Helm installed, Helm upgrades",
        ));
    };
    // Not what an upgrade that failed was to bring: the way back from that is the old version.
    if let Some(whole) = before.version.as_deref().filter(|whole| !plan::may_replace(whole, &version)) {
        return Err(Error::new(format!("Fairway {whole} is installed, and this is {version}"))
            .hint("use the command of that version, or a newer one"));
    }
    let kept = if arguments.reset_values { json!({}) } else { before.values.clone() };
    let values = putting.choice.over(kept)?;
    let rendered = rendered(&values, namespace)?;
    let leftovers = leftovers(&cluster, &rendered.objects, namespace)?;
    if arguments.dry_run {
        fairway_lab::say!("# cluster: {}", cluster.described());
        print(rendered)?;
        for object in &leftovers {
            fairway_lab::say!("# would be deleted: {}", named(object));
        }
        return Ok(ExitCode::SUCCESS);
    }
    check(&cluster, &rendered, namespace)?;
    fairway_lab::say!("cluster: {}", cluster.described());
    fairway_lab::say!("from {} to {version}", before.spoken_version());
    let record = Record::begun(Some(before), &version, &values);
    put(&cluster, &rendered, &record, putting)?;
    for object in leftovers {
        cluster.delete(&object)?;
        fairway_lab::say!("deleted, as it is not used any more: {}", named(&object));
    }
    Record::done(version, values).keep(&cluster, namespace)?;
    fairway_lab::say!(
        "\nNew pods of waypoints come with the new controller by themselves. See how the mesh is: fairway status"
    );
    Ok(ExitCode::SUCCESS)
}

/// Objects that an earlier version or other values had.
fn leftovers(cluster: &Cluster, wanted: &[Value], namespace: &str) -> Result<Vec<Value>> {
    let mut left = plan::leftovers(ours(cluster)?, wanted, namespace, MANAGER);
    left.retain(|object| !record::is_record(object));
    Ok(left)
}

/// All that this command has installed, in the order in which it would go.
pub(super) fn ours(cluster: &Cluster) -> Result<Vec<Value>> {
    let labels = format!(
        "{}={},{}={MANAGER}",
        fairway_manifests::PART_OF.0,
        fairway_manifests::PART_OF.1,
        fairway_manifests::MANAGED_BY
    );
    let mut present = Vec::new();
    for (api_version, kind) in KINDS {
        present.extend(cluster.list(api_version, kind, &labels)?);
    }
    Ok(present)
}

/// How an object is called in messages.
pub(super) fn named(object: &Value) -> String {
    match fairway_manifests::key(object) {
        (kind, namespace, name) if namespace.is_empty() => format!("{kind} {name}"),
        (kind, namespace, name) => format!("{kind} {namespace}/{name}"),
    }
}
