//! `fairway namespace`: put namespaces into the mesh, take them out, show which are in.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use fairway_core::source::labels::{AMBIENT, DATAPLANE_MODE, HasLabels, NONE, USE_WAYPOINT};
use fairway_core::source::{Kind, ObjectKey, Objects};
use fairway_lab::render::{Cell, Tone, wide_table as table};
use fairway_lab::{Error, Result};
use k8s_openapi::api::core::v1::Namespace;
use serde::Serialize;

use crate::mesh::Where;
use crate::objects::LabelChange;
use crate::output::Format;

/// Pause between two looks at pods that are waited for.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// Arguments of `namespace`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put namespaces into the mesh
    Add(Add),
    /// Take namespaces out of the mesh
    Remove(Names),
    /// Show namespaces and which of them are in the mesh
    List(Format),
}

#[derive(Debug, Args)]
struct Names {
    /// Namespaces
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(Debug, Args)]
struct Add {
    #[command(flatten)]
    names: Names,
    /// Wait until the pods that are there are in the mesh
    #[arg(short, long)]
    wait: bool,
    /// Longest wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "wait")]
    timeout: u64,
}

/// A row of `namespace list`; the schema of `-o json`.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    /// Whether its label asks for the mesh.
    enrolled: bool,
    /// What its label `istio.io/use-waypoint` says.
    waypoint: Option<String>,
}

/// Does it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let objects = arguments.place.objects()?;
    let label = |names: &Names, change: LabelChange<'_>| {
        for name in &names.names {
            objects.require_namespace(name)?;
            let key = ObjectKey::new(Kind::Namespace, "", name);
            fairway_lab::say!("{key} {}", objects.label(&key, &[change])?);
        }
        Ok(ExitCode::SUCCESS)
    };
    match &arguments.command {
        Command::Add(add) => {
            let code = label(&add.names, (DATAPLANE_MODE, Some(AMBIENT)))?;
            if add.wait {
                let longest = Duration::from_secs(add.timeout);
                wait(&arguments.place, || Ok(meant(&objects.loaded()?.objects, &add.names.names)), longest)?;
            }
            Ok(code)
        }
        Command::Remove(names) => label(names, (DATAPLANE_MODE, None)),
        Command::List(format) => format.follow(|| {
            let rows: Vec<Row> = objects.namespaces()?.into_iter().map(row).collect();
            format.print(&rows, |colour| shown(&rows, colour))?;
            Ok(ExitCode::SUCCESS)
        }),
    }
}

/// Pods of these namespaces that are to be in the mesh, as `NAMESPACE/POD`.
fn meant(objects: &Objects, namespaces: &[String]) -> BTreeSet<String> {
    let pods = objects.pods.iter().filter(|(key, pod)| {
        let is_out = pod.is_host_network || pod.label(DATAPLANE_MODE) == Some(NONE);
        namespaces.contains(&key.namespace) && !is_out && !pod.is_terminal && !pod.is_ending
    });
    pods.map(|(key, _)| format!("{}/{}", key.namespace, key.name)).collect()
}

/// Waits until all of them are, as their agents say; who is meant is asked in each round, as pods come and go meanwhile.
fn wait(place: &Where, meant: impl Fn() -> Result<BTreeSet<String>>, longest: Duration) -> Result<()> {
    let began = Instant::now();
    loop {
        let meant = meant()?;
        let pods = place.mesh()?.status.pods;
        let missing = pods.iter().filter(|pod| !pod.captured).map(|pod| format!("{}/{}", pod.namespace, pod.name));
        let missing: Vec<String> = missing.filter(|name| meant.contains(name)).collect();
        if missing.is_empty() {
            fairway_lab::say!("{} pods are in the mesh", meant.len());
            return Ok(());
        }
        if began.elapsed() >= longest {
            return Err(Error::new(format!(
                "after {longest:?} these pods are not in the mesh: {}",
                missing.join(", ")
            ))
            .hint("fairway check says what is in the way"));
        }
        sleep(LOOK_PAUSE);
    }
}

fn row(namespace: Namespace) -> Row {
    let labels = namespace.metadata.labels.unwrap_or_default();
    Row {
        enrolled: labels.get(DATAPLANE_MODE).is_some_and(|mode| mode == AMBIENT),
        waypoint: labels.get(USE_WAYPOINT).cloned(),
        name: namespace.metadata.name.unwrap_or_default(),
    }
}

fn shown(rows: &[Row], colour: bool) -> String {
    let cells = |row: &Row| {
        let enrolled = if row.enrolled { Cell::toned("yes", Tone::Good) } else { "no".into() };
        vec![row.name.as_str().into(), enrolled, row.waypoint.as_deref().unwrap_or("-").into()]
    };
    table(&["NAMESPACE", "MESH", "WAYPOINT"], &rows.iter().map(cells).collect::<Vec<_>>(), colour)
}

#[cfg(test)]
mod tests {
    use fairway_core::source::directory::load;

    use super::*;

    #[test]
    fn pods_that_stay_outside_are_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pod = |name: &str, namespace: &str, labels: &str, spec: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
                 spec: {{containers: []{spec}}}\n---\n"
            )
        };
        let manifests = [
            pod("in", "shop", "app: web", ""),
            pod("out", "shop", "istio.io/dataplane-mode: none", ""),
            pod("host", "shop", "app: web", ", hostNetwork: true"),
            pod("other", "street", "app: web", ""),
        ];
        std::fs::write(directory.path().join("a.yaml"), manifests.concat()).unwrap();
        let loaded = load(directory.path(), None);
        assert_eq!(loaded.errors, []);
        assert_eq!(meant(&loaded.objects, &["shop".to_owned()]), ["shop/in".to_owned()].into());
    }
}
