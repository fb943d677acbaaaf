//! `fairway ztunnel-config`: what node proxies hold, and which of them.

mod held;
mod rows;

use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use fairway_lab::Result;
use serde_json::{Value, json};

use crate::mesh::{Mesh, Part, Where};
use crate::output::Format;
use held::{Held, held};

/// Arguments of `ztunnel-config`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What to show
    #[arg(value_enum)]
    what: What,
    /// Only what the proxy of this node holds
    #[arg(long)]
    node: Option<String>,
    /// Only what is in this namespace
    #[arg(short, long, visible_alias = "workload-namespace")]
    namespace: Option<String>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    #[value(alias = "workload", alias = "w")]
    Workloads,
    #[value(alias = "service", alias = "svc")]
    Services,
    #[value(alias = "policy")]
    Policies,
    #[value(alias = "certificate", alias = "cert")]
    Certificates,
    #[value(alias = "connection")]
    Connections,
    /// All of them
    All,
}

impl What {
    const SECTIONS: [Self; 5] =
        [Self::Workloads, Self::Services, Self::Policies, Self::Certificates, Self::Connections];

    fn title(self) -> &'static str {
        match self {
            Self::Workloads => "workloads",
            Self::Services => "services",
            Self::Policies => "policies",
            Self::Certificates => "certificates",
            Self::Connections => "connections",
            Self::All => "all",
        }
    }

    /// The rows of a table; `nodes` is how many proxies were asked.
    fn table(self, items: &[Held], nodes: usize, colour: bool) -> String {
        match self {
            Self::Workloads => rows::workloads(items, nodes, colour),
            Self::Services => rows::services(items, nodes, colour),
            Self::Policies => rows::policies(items, nodes, colour),
            Self::Certificates => rows::certificates(items, SystemTime::now(), colour),
            Self::Connections | Self::All => rows::connections(items, colour),
        }
    }
}

/// Asks the proxies and prints what they hold.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    arguments.format.follow(|| once(arguments))
}

fn once(arguments: &Arguments) -> Result<ExitCode> {
    let mesh = arguments.place.mesh()?;
    let nodes = mesh.nodes(arguments.node.as_deref())?;
    let wanted: &[What] = match &arguments.what {
        What::All => &What::SECTIONS,
        one => std::slice::from_ref(one),
    };
    let is_wanted = |what: What, held: &Held| {
        arguments.namespace.as_deref().is_none_or(|namespace| rows::is_of(what, &held.item, namespace))
    };
    let mut sections = ask(&mesh, &nodes, wanted)?;
    for (what, items) in &mut sections {
        items.retain(|item| is_wanted(*what, item));
    }
    let data = match sections.as_slice() {
        [(_, items)] => json!(items),
        sections => sections.iter().map(|(what, items)| (what.title().to_owned(), json!(items))).collect(),
    };
    arguments.format.print(&data, |colour| match sections.as_slice() {
        [(what, items)] => what.table(items, nodes.len(), colour),
        sections => {
            let titled = |(what, items): &(What, Vec<Held>)| {
                format!("{}\n{}", what.title(), what.table(items, nodes.len(), colour))
            };
            sections.iter().map(titled).collect::<Vec<_>>().join("\n")
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What of each kind the proxies of nodes hold: each is asked once.
fn ask(mesh: &Mesh, nodes: &[String], wanted: &[What]) -> Result<Vec<(What, Vec<Held>)>> {
    let mut sections: Vec<_> = wanted.iter().map(|what| (*what, Vec::new())).collect();
    let needs_dump = wanted.iter().any(|what| *what != What::Connections);
    for node in nodes {
        let proxy = Part::Proxy(node);
        let mut dump: Value = if needs_dump { mesh.ask(proxy, "/config_dump")? } else { Value::Null };
        for (what, found) in &mut sections {
            let items = match what {
                What::Connections => mesh.ask_lines(proxy, "/connections")?,
                _ => match dump.get_mut(what.title()).map(Value::take) {
                    Some(Value::Array(items)) => items,
                    _ => Vec::new(),
                },
            };
            found.push((node.clone(), items));
        }
    }
    Ok(sections.into_iter().map(|(what, found)| (what, held(found))).collect())
}
