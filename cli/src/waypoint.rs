//! `fairway waypoint`: waypoints as gateways of class `fairway-waypoint`: write, apply, show, delete; and what they do just now.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use fairway_core::source::gateway::Gateway;
use fairway_core::source::labels::{USE_WAYPOINT, WAYPOINT_CLASS, WAYPOINT_FOR};
use fairway_core::source::{Kind, ObjectKey};
use fairway_lab::render::{Cell, Tone, wide_table as table};
use fairway_lab::{Error, Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;
use serde_json::{Value, json};

use crate::mesh::Where;
use crate::objects::{NOT_FOUND, Objects};
use crate::output::Format;

mod requests;

/// Port of a waypoint's tunnels.
const HBONE_PORT: u16 = 15_008;
/// The condition that says whether a waypoint runs.
const PROGRAMMED: &str = "Programmed";
/// Pause between two looks at a waypoint that is waited for.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `waypoint`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the gateway of a waypoint
    Generate(Wanted),
    /// Make a waypoint, and bind what is to use it
    Apply(Apply),
    /// Show waypoints
    List(List),
    /// Show how waypoints are, and why
    Status(Status),
    /// Delete waypoints
    Delete(Delete),
    /// Show requests and streams that are under way in a waypoint, oldest first
    Requests(requests::Requests),
}

#[derive(Debug, Args)]
struct Wanted {
    /// Name of the waypoint
    #[arg(long, default_value = "waypoint")]
    name: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// What it takes traffic for
    #[arg(long = "for", value_enum, default_value_t = Traffic::Service)]
    traffic: Traffic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Traffic {
    Service,
    Workload,
    All,
    None,
}

#[derive(Debug, Args)]
struct Apply {
    #[command(flatten)]
    wanted: Wanted,
    /// Label the namespace, so that all of it uses the waypoint
    #[arg(long)]
    enroll_namespace: bool,
    /// Label this service account, so that its pods use the waypoint; may be repeated
    #[arg(long, value_name = "NAME")]
    service_account: Vec<String>,
    /// Wait until it runs
    #[arg(short, long)]
    wait: bool,
    /// Longest wait, in seconds
    #[arg(long, default_value_t = 90, requires = "wait")]
    waypoint_timeout: u64,
}

#[derive(Debug, Args)]
struct Scope {
    /// Namespace to look at
    #[arg(short, long, default_value = "default", conflicts_with = "all_namespaces")]
    namespace: String,
    /// Look at all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

impl Scope {
    fn namespace(&self) -> Option<&str> {
        (!self.all_namespaces).then_some(self.namespace.as_str())
    }
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
struct Status {
    /// Only this one
    name: Option<String>,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
struct Delete {
    /// Names of the waypoints
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// Every waypoint of the namespace
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Their namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

/// A waypoint; the schema of `-o json`.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Waypoint {
    namespace: String,
    name: String,
    /// What it takes traffic for.
    traffic: String,
    /// Whether it runs, with Kubernetes' three answers.
    programmed: String,
    conditions: Vec<Condition>,
}

/// Does it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Command::Generate(wanted) = &arguments.command {
        let text = serde_saphyr::to_string(&gateway(wanted)).map_err(|error| Error::new("writing").because(error))?;
        fairway_lab::say!("{}", text.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let objects = arguments.place.objects()?;
    match &arguments.command {
        Command::Generate(_) => {}
        Command::Apply(wanted) => apply(&objects, wanted)?,
        Command::List(list) => {
            list.format.follow(|| {
                let found = waypoints(&objects, list.scope.namespace())?;
                list.format.print(&found, |colour| listed(&found, list.scope.namespace(), colour))
            })?;
        }
        Command::Status(status) => {
            status.format.follow(|| {
                let mut found = waypoints(&objects, status.scope.namespace())?;
                if let Some(name) = &status.name {
                    found.retain(|waypoint| waypoint.name == *name);
                    if found.is_empty() {
                        return Err(missing(status.scope.namespace().unwrap_or("any namespace"), name));
                    }
                }
                status.format.print(&found, |colour| conditions(&found, colour))
            })?;
        }
        Command::Requests(wanted) => requests::run(wanted, &arguments.place, &objects)?,
        Command::Delete(delete) => {
            let names = if delete.all {
                let all = waypoints(&objects, Some(&delete.namespace))?;
                all.into_iter().map(|waypoint| waypoint.name).collect()
            } else {
                delete.names.clone()
            };
            return remove(&objects, &delete.namespace, names);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Deletes waypoints, and says what is refused without them. Fails when one was not there.
fn remove(objects: &Objects, namespace: &str, names: Vec<String>) -> Result<ExitCode> {
    let mut last = None;
    for name in names {
        let what = objects.delete_gateway(namespace, &name)?;
        if what == NOT_FOUND {
            if let Some(before) = last.replace(missing(namespace, &name)) {
                fairway_lab::complain!("error: {before}");
            }
            continue;
        }
        fairway_lab::say!("waypoint {namespace}/{name} {what}");
        // Who may delete it need not be able to list everything.
        let bound = objects.bound_to(namespace, &name).unwrap_or_default();
        if !bound.is_empty() {
            let bound: Vec<String> = bound.iter().map(ToString::to_string).collect();
            fairway_lab::complain!(
                "what goes to these is refused from now on, as they still ask for it: {}; take their label {USE_WAYPOINT} away",
                bound.join(", ")
            );
        }
    }
    last.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn missing(namespace: &str, name: &str) -> Error {
    Error::new(format!("there is no waypoint {name} in {namespace}")).hint("fairway waypoint list -A shows all")
}

fn gateway(wanted: &Wanted) -> Value {
    let traffic = wanted.traffic.to_possible_value().map(|value| value.get_name().to_owned());
    json!({
        "apiVersion": Kind::Gateway.api_version(),
        "kind": Kind::Gateway.as_str(),
        "metadata": {"name": wanted.name, "namespace": wanted.namespace, "labels": {WAYPOINT_FOR: traffic}},
        "spec": {
            "gatewayClassName": WAYPOINT_CLASS,
            "listeners": [{"name": "mesh", "port": HBONE_PORT, "protocol": "HBONE"}],
        },
    })
}

fn apply(objects: &Objects, apply: &Apply) -> Result<()> {
    let Wanted { name, namespace, .. } = &apply.wanted;
    objects.require_namespace(namespace)?;
    fairway_lab::say!("waypoint {namespace}/{name} {}", objects.apply_gateway(&gateway(&apply.wanted))?);
    if apply.wait {
        wait(objects, &apply.wanted, Duration::from_secs(apply.waypoint_timeout))?;
        fairway_lab::say!("waypoint {namespace}/{name} runs");
    }
    // After the wait: what is bound to a waypoint that is not there is refused.
    let accounts = apply.service_account.iter().map(|account| ObjectKey::new(Kind::ServiceAccount, namespace, account));
    let whole = apply.enroll_namespace.then(|| ObjectKey::new(Kind::Namespace, "", namespace));
    for key in whole.into_iter().chain(accounts) {
        fairway_lab::say!("{key} {}", objects.label(&key, &[(USE_WAYPOINT, Some(name))])?);
    }
    Ok(())
}

fn wait(objects: &Objects, wanted: &Wanted, longest: Duration) -> Result<()> {
    let began = Instant::now();
    loop {
        let found = waypoints(objects, Some(&wanted.namespace))?;
        let found = found.into_iter().find(|waypoint| waypoint.name == wanted.name);
        let found = found.ok_or_else(|| missing(&wanted.namespace, &wanted.name))?;
        if found.programmed == "True" {
            return Ok(());
        }
        if began.elapsed() >= longest {
            let said: Vec<String> =
                found.conditions.iter().filter(|it| it.status != "True").map(|it| it.message.clone()).collect();
            return Err(Error::new(format!("waypoint {}/{} does not run yet", wanted.namespace, wanted.name))
                .because(if said.is_empty() { "the controller says nothing of it".to_owned() } else { said.join("; ") })
                .hint("see the controller's log, and the waypoint's pods"));
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

fn waypoints(objects: &Objects, namespace: Option<&str>) -> Result<Vec<Waypoint>> {
    let gateways = objects.gateways(namespace)?;
    Ok(gateways.into_iter().filter(|gateway| gateway.spec.gateway_class_name == WAYPOINT_CLASS).map(waypoint).collect())
}

fn waypoint(gateway: Gateway) -> Waypoint {
    let conditions = gateway.status.conditions;
    let programmed = conditions.iter().find(|condition| condition.type_ == PROGRAMMED);
    Waypoint {
        traffic: gateway
            .metadata
            .labels
            .and_then(|labels| labels.get(WAYPOINT_FOR).cloned())
            .unwrap_or_else(|| "service".to_owned()),
        namespace: gateway.metadata.namespace.unwrap_or_default(),
        name: gateway.metadata.name.unwrap_or_default(),
        programmed: programmed.map_or_else(|| "Unknown".to_owned(), |condition| condition.status.clone()),
        conditions,
    }
}

fn toned(status: &str) -> Cell {
    Cell::toned(status, if status == "True" { Tone::Good } else { Tone::Doubtful })
}

fn listed(waypoints: &[Waypoint], namespace: Option<&str>, colour: bool) -> String {
    if waypoints.is_empty() {
        return match namespace {
            Some(namespace) => format!("There is no waypoint in namespace {namespace}; -A shows those of all.\n"),
            None => "There is no waypoint.\n".to_owned(),
        };
    }
    let row = |waypoint: &Waypoint| {
        vec![
            waypoint.namespace.as_str().into(),
            waypoint.name.as_str().into(),
            waypoint.traffic.as_str().into(),
            toned(&waypoint.programmed),
        ]
    };
    let rows: Vec<_> = waypoints.iter().map(row).collect();
    table(&["NAMESPACE", "NAME", "TRAFFIC TYPE", "PROGRAMMED"], &rows, colour)
}

fn conditions(waypoints: &[Waypoint], colour: bool) -> String {
    let rows: Vec<Vec<Cell>> = waypoints
        .iter()
        .flat_map(|waypoint| waypoint.conditions.iter().map(move |condition| (waypoint, condition)))
        .map(|(waypoint, condition)| {
            vec![
                waypoint.namespace.as_str().into(),
                waypoint.name.as_str().into(),
                condition.type_.as_str().into(),
                toned(&condition.status),
                condition.reason.as_str().into(),
                condition.message.as_str().into(),
            ]
        })
        .collect();
    table(&["NAMESPACE", "NAME", "TYPE", "STATUS", "REASON", "MESSAGE"], &rows, colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_without_status_is_not_known_to_run() {
        let wanted = Wanted { name: "way".to_owned(), namespace: "shop".to_owned(), traffic: Traffic::All };
        let read: Gateway = serde_json::from_value(gateway(&wanted)).unwrap();
        let found = waypoint(read);
        assert_eq!((found.namespace.as_str(), found.name.as_str(), found.traffic.as_str()), ("shop", "way", "all"));
        assert_eq!(found.programmed, "Unknown");
        assert!(listed(&[], Some("shop"), false).contains("namespace shop; -A"));
        let table = listed(&[found], None, false);
        assert!(table.ends_with("shop       way   all           Unknown\n"), "{table}");
    }
}
