//! `fairway namespace`: put namespaces into the mesh, take them out, show which are in.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use fairway_core::source::labels::{AMBIENT, DATAPLANE_MODE, USE_WAYPOINT};
use fairway_core::source::{Kind, ObjectKey};
use fairway_lab::Result;
use fairway_lab::render::{Cell, Tone, wide_table as table};
use k8s_openapi::api::core::v1::Namespace;
use serde::Serialize;

use crate::mesh::Where;
use crate::objects::LabelChange;
use crate::output::Format;

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
    Add(Names),
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
            let key = ObjectKey::new(Kind::Namespace, "", name);
            fairway_lab::say!("{key} {}", objects.label(&key, &[change])?);
        }
        Ok(ExitCode::SUCCESS)
    };
    match &arguments.command {
        Command::Add(names) => label(names, (DATAPLANE_MODE, Some(AMBIENT))),
        Command::Remove(names) => label(names, (DATAPLANE_MODE, None)),
        Command::List(format) => format.follow(|| {
            let rows: Vec<Row> = objects.namespaces()?.into_iter().map(row).collect();
            format.print(&rows, |colour| shown(&rows, colour))?;
            Ok(ExitCode::SUCCESS)
        }),
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
