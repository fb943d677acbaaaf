//! `fairway tap`: connections as they are opened and closed, from the proxies' own tables.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use fairway_lab::Result;
use fairway_lab::render::{Tone, paint};
use serde::{Deserialize, Serialize};
use std::io::IsTerminal as _;

use crate::mesh::{Mesh, Part, Where};

/// Pause between two looks: shorter connections may be missed.
const PAUSE: Duration = Duration::from_millis(250);

/// Pause between two looks for the parts themselves, while one does not answer: it may have been replaced.
const ANEW: Duration = Duration::from_secs(5);

/// Arguments of `tap`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only connections of this workload: POD, NAMESPACE/POD, or NAMESPACE/ for all of a namespace
    workload: Option<String>,
    /// Namespace of the workload
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Only connections to this service, pod or address: a part of its name
    #[arg(long, value_name = "TEXT")]
    to: Option<String>,
    /// Stop after so many events
    #[arg(long, value_name = "COUNT")]
    max: Option<usize>,
    /// Stop after so many seconds
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,
    /// Also those that are open already
    #[arg(long)]
    all: bool,
    /// One JSON object a line
    #[arg(short, long, value_parser = ["text", "json"], default_value = "text")]
    output: String,
    #[command(flatten)]
    place: Where,
}

/// A connection, as `/connections` of a node proxy has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    id: u64,
    direction: String,
    source: String,
    source_workload: Option<String>,
    source_identity: Option<String>,
    destination: String,
    hbone_destination: Option<String>,
    destination_workload: Option<String>,
    destination_identity: Option<String>,
    destination_service: Option<String>,
    mutual_tls: bool,
    policy: Option<String>,
    age_seconds: u64,
    bytes_to_destination: u64,
    bytes_to_source: u64,
}

/// What happened to a connection; the schema of `-o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    event: What,
    node: String,
    #[serde(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum What {
    /// It was open before anybody looked.
    Open,
    Opened,
    Closed,
}

/// Connections by the node whose proxy has them, and by its number there.
type Table = BTreeMap<(String, u64), Connection>;

/// Looks until it is enough.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut mesh = arguments.place.mesh()?;
    let mut found_at = Instant::now();
    let filter = Filter::of(arguments);
    let (began, mut told) = (Instant::now(), 0);
    let mut before = Table::new();
    // Nodes whose proxies have answered before, and those that did not the last time.
    let (mut known, mut were_silent) = (BTreeSet::new(), BTreeSet::new());
    let colour = std::io::stdout().is_terminal();
    loop {
        let (now, silent) = look(&mesh)?;
        for node in silent.difference(&were_silent) {
            eprintln!("not asked: {}", Part::Proxy(node).name());
        }
        let mut events = first(&now, &known, arguments.all);
        events.extend(changes(&before, &now, &known, &silent));
        known.extend(mesh.status.nodes.iter().map(|node| node.name.clone()).filter(|node| !silent.contains(node)));
        for event in events.into_iter().filter(|event| filter.takes(&event.connection)) {
            match arguments.output.as_str() {
                "json" => fairway_lab::say!("{}", serde_json::to_string(&event).unwrap_or_default()),
                _ => fairway_lab::say!("{}", shown(&event, colour)),
            }
            told += 1;
            if arguments.max.is_some_and(|max| told >= max) {
                return Ok(ExitCode::SUCCESS);
            }
        }
        // Of a proxy that says nothing, what it had stays.
        let kept = before.into_iter().filter(|((node, _), _)| silent.contains(node));
        before = now.into_iter().chain(kept).collect();
        if !silent.is_empty() && found_at.elapsed() >= ANEW {
            mesh = arguments.place.mesh().unwrap_or(mesh);
            found_at = Instant::now();
        }
        were_silent = silent;
        if arguments.duration.is_some_and(|seconds| began.elapsed() >= Duration::from_secs(seconds)) {
            if told == 0 {
                eprintln!("no connection was seen; fairway top counts those that are too short to be");
            }
            return Ok(ExitCode::SUCCESS);
        }
        sleep(PAUSE);
    }
}

/// The connections of all nodes, and the nodes whose proxies do not answer.
fn look(mesh: &Mesh) -> Result<(Table, BTreeSet<String>)> {
    let (mut table, mut silent, mut last) = (Table::new(), BTreeSet::new(), None);
    for node in &mesh.status.nodes {
        match mesh.ask_lines::<Connection>(Part::Proxy(&node.name), "/connections") {
            Ok(rows) => table.extend(rows.into_iter().map(|row| ((node.name.clone(), row.id), row))),
            Err(error) => {
                silent.insert(node.name.clone());
                last = Some(error);
            }
        }
    }
    match last {
        Some(error) if silent.len() == mesh.status.nodes.len() => Err(error),
        _ => Ok((table, silent)),
    }
}

/// Whether the proxy of the client tells of it. Both ends of a connection in the mesh have it; it is told of once.
fn is_told_here(connection: &Connection) -> bool {
    connection.direction == "outbound" || connection.source_identity.is_none()
}

fn event(what: What, (node, _): &(String, u64), connection: &Connection) -> Option<Event> {
    is_told_here(connection).then(|| Event { event: what, node: node.clone(), connection: connection.clone() })
}

/// What nodes that answer for the first time have: it was open before.
fn first(now: &Table, known: &BTreeSet<String>, all: bool) -> Vec<Event> {
    let open = now.iter().filter(|((node, _), _)| all && !known.contains(node));
    open.filter_map(|(key, connection)| event(What::Open, key, connection)).collect()
}

/// What differs, of nodes that have answered before and now. The last that was seen of a connection is what it had come to.
fn changes(before: &Table, now: &Table, known: &BTreeSet<String>, silent: &BTreeSet<String>) -> Vec<Event> {
    let closed = before.iter().filter(|(key, _)| !now.contains_key(*key) && !silent.contains(&key.0));
    let closed = closed.filter_map(|(key, connection)| event(What::Closed, key, connection));
    let opened = now.iter().filter(|(key, _)| known.contains(&key.0) && !before.contains_key(*key));
    let opened = opened.filter_map(|(key, connection)| event(What::Opened, key, connection));
    closed.chain(opened).collect()
}

/// Which connections are meant.
#[derive(Debug, Default)]
struct Filter {
    /// End of a workload's uid, or what is within it for a whole namespace.
    workload: Option<String>,
    to: Option<String>,
}

impl Filter {
    fn of(arguments: &Arguments) -> Self {
        let workload = arguments.workload.as_deref().map(|text| match text.split_once('/') {
            Some(_) => format!("/{text}"),
            None => format!("/{}/{text}", arguments.namespace),
        });
        Self { workload, to: arguments.to.clone() }
    }

    fn takes(&self, connection: &Connection) -> bool {
        let fits = |uid: &Option<String>, wanted: &str| {
            uid.as_deref()
                .is_some_and(|uid| if wanted.ends_with('/') { uid.contains(wanted) } else { uid.ends_with(wanted) })
        };
        let is_workload = self.workload.as_deref().is_none_or(|wanted| {
            fits(&connection.source_workload, wanted) || fits(&connection.destination_workload, wanted)
        });
        let named = [&connection.destination_service, &connection.destination_workload, &connection.hbone_destination];
        let is_meant = self.to.as_deref().is_none_or(|to| {
            connection.destination.contains(to)
                || named.iter().any(|name| name.as_deref().is_some_and(|it| it.contains(to)))
        });
        is_workload && is_meant
    }
}

/// `NAMESPACE/POD` of a workload's uid, `CLUSTER//Pod/NAMESPACE/POD`; else the address.
fn end(uid: Option<&String>, address: &str) -> String {
    let Some(uid) = uid else { return address.to_owned() };
    let mut parts = uid.rsplitn(3, '/');
    match (parts.next(), parts.next()) {
        (Some(name), Some(namespace)) => format!("{namespace}/{name}"),
        _ => uid.clone(),
    }
}

fn shown(event: &Event, colour: bool) -> String {
    let it = &event.connection;
    let (word, tone) = match event.event {
        What::Open => ("open  ", Tone::Plain),
        What::Opened => ("opened", Tone::Good),
        What::Closed => ("closed", Tone::Doubtful),
    };
    let target = it.hbone_destination.as_deref().unwrap_or(&it.destination);
    let service = it.destination_service.as_deref().and_then(|key| key.rsplit('/').next());
    let service = service.map(|name| format!(" ({name})")).unwrap_or_default();
    let how = if it.mutual_tls { "mTLS" } else { "plain" };
    let moved = match event.event {
        What::Opened => String::new(),
        _ => format!(" {} B sent, {} B received, {} s", it.bytes_to_destination, it.bytes_to_source, it.age_seconds),
    };
    let (source, destination) =
        (end(it.source_workload.as_ref(), &it.source), end(it.destination_workload.as_ref(), target));
    format!("{} {how:<5} {source} → {destination}{service}{moved}", paint(word, tone, colour))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(id: u64, direction: &str, identity: Option<&str>) -> Connection {
        Connection {
            id,
            direction: direction.to_owned(),
            source: "10.0.0.1:4000".to_owned(),
            source_workload: Some("Kubernetes//Pod/shop/client".to_owned()),
            source_identity: identity.map(str::to_owned),
            destination: "10.0.0.2:15008".to_owned(),
            hbone_destination: Some("10.0.0.2:8080".to_owned()),
            destination_workload: Some("Kubernetes//Pod/shop/server".to_owned()),
            destination_identity: identity.map(str::to_owned),
            destination_service: Some("shop/server.shop.svc.cluster.local".to_owned()),
            mutual_tls: identity.is_some(),
            policy: None,
            age_seconds: 3,
            bytes_to_destination: 10,
            bytes_to_source: 20,
        }
    }

    fn table(connections: &[Connection]) -> Table {
        connections.iter().map(|it| (("n1".to_owned(), it.id), it.clone())).collect()
    }

    #[test]
    fn what_comes_and_goes_is_told_once() {
        let (out, back) = (connection(1, "outbound", Some("i")), connection(2, "inbound", Some("i")));
        let plain = connection(3, "inbound", None);
        let (before, now) = (table(std::slice::from_ref(&out)), table(&[back.clone(), plain.clone()]));
        let (silent, known) = (BTreeSet::new(), BTreeSet::from(["n1".to_owned()]));
        let told: Vec<_> =
            changes(&before, &now, &known, &silent).into_iter().map(|it| (it.event, it.connection.id)).collect();
        assert_eq!(told, [(What::Closed, 1), (What::Opened, 3)], "the other end tells of 2");
        assert_eq!(changes(&before, &Table::new(), &known, &known), [], "a proxy that says nothing has closed nothing");
        let nobody = BTreeSet::new();
        assert_eq!(
            changes(&Table::new(), &before, &nobody, &silent),
            [],
            "it was open before its proxy answered first"
        );
        assert_eq!((first(&before, &nobody, false).len(), first(&before, &nobody, true).len()), (0, 1));
        assert_eq!(first(&before, &known, true), [], "what is new of a proxy that is known was opened");
    }

    #[test]
    fn lines_fit_and_say_who_and_how() {
        let event = event(What::Closed, &("n1".to_owned(), 1), &connection(1, "outbound", Some("i"))).unwrap();
        let line = shown(&event, false);
        assert_eq!(
            line,
            "closed mTLS  shop/client → shop/server (server.shop.svc.cluster.local) 10 B sent, 20 B received, 3 s"
        );
        assert!(line.chars().count() <= 100, "{line}");
    }

    #[test]
    fn filters_take_what_is_meant() {
        let it = connection(1, "outbound", Some("i"));
        for (workload, to, expected) in [
            (None, None, true),
            (Some("/shop/client"), None, true),
            (Some("/shop/server"), None, true),
            (Some("/shop/"), None, true),
            (Some("/street/"), None, false),
            (Some("/shop/other"), None, false),
            (None, Some("server.shop"), true),
            (None, Some(":8080"), true),
            (None, Some("db"), false),
        ] {
            let filter = Filter { workload: workload.map(str::to_owned), to: to.map(str::to_owned) };
            assert_eq!(filter.takes(&it), expected, "{workload:?} {to:?}");
        }
    }
}
