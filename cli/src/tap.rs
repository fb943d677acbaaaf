//! `fairway tap`: connections as they are opened and closed, from the proxies' own tables and what they remember of those that
//! have ended.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use fairway_lab::Result;
use fairway_lab::render::{Tone, paint};
use fairway_lab::status::PodStatus;
use serde::{Deserialize, Serialize};
use std::io::IsTerminal as _;

use crate::mesh::{Mesh, Part, Where};

/// Pause between two looks. What ends between them, proxies remember.
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

/// A line of that page.
#[derive(Debug, Deserialize)]
struct Row {
    #[serde(flatten)]
    connection: Connection,
    /// Its number among those that have ended, of one that has.
    ended: Option<u64>,
}

/// Numbers of connections that have ended, by node.
type Numbers = BTreeMap<String, BTreeSet<u64>>;

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
    if let Some(missing) = filter.missing(&mesh.status.pods) {
        fairway_lab::complain!("there is no pod {missing} now; what it does is shown once it is there");
    }
    let (began, mut told) = (Instant::now(), 0);
    let mut before = Table::new();
    // Number of the last connection of each node that is known to have ended.
    let mut seen = BTreeMap::new();
    // Nodes whose proxies have answered before, and those that did not the last time.
    let (mut known, mut were_silent) = (BTreeSet::new(), BTreeSet::new());
    let colour = std::io::stdout().is_terminal();
    loop {
        let Look { open: now, ended, numbers, silent } = look(&mesh, &seen)?;
        for node in silent.difference(&were_silent) {
            fairway_lab::complain!("not asked: {}", Part::Proxy(node).name());
        }
        for (node, count) in untold(&numbers, &mut seen, &known) {
            fairway_lab::complain!("{count} connections of {node} are not told of: too many ended at once");
        }
        let mut events = first(&now, &known, arguments.all);
        events.extend(changes(&before, &now, &ended, &known, &silent));
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
                fairway_lab::complain!("no connection was seen");
            }
            return Ok(ExitCode::SUCCESS);
        }
        sleep(PAUSE);
    }
}

/// What all nodes say.
struct Look {
    /// Connections open now.
    open: Table,
    /// Those that have ended since the last look, or before the first one.
    ended: Table,
    numbers: Numbers,
    /// Nodes whose proxies do not answer.
    silent: BTreeSet<String>,
}

/// Asks all nodes, for what has ended since those `seen`.
fn look(mesh: &Mesh, seen: &BTreeMap<String, u64>) -> Result<Look> {
    let (mut open, mut ended, mut numbers) = (Table::new(), Table::new(), Numbers::new());
    let (mut silent, mut last) = (BTreeSet::new(), None);
    for node in &mesh.status.nodes {
        let page = format!("/connections?ended={}", seen.get(&node.name).copied().unwrap_or_default());
        match mesh.ask_lines::<Row>(Part::Proxy(&node.name), &page) {
            Ok(rows) => {
                for Row { connection, ended: number } in rows {
                    let table = if number.is_some() { &mut ended } else { &mut open };
                    table.insert((node.name.clone(), connection.id), connection);
                    numbers.entry(node.name.clone()).or_default().extend(number);
                }
            }
            Err(error) => {
                silent.insert(node.name.clone());
                last = Some(error);
            }
        }
    }
    match last {
        Some(error) if silent.len() == mesh.status.nodes.len() => Err(error),
        _ => Ok(Look { open, ended, numbers, silent }),
    }
}

/// How many have ended that a node does not remember any more; takes note of the last ones. What ended before the first look
/// is nobody's loss, and numbers that begin anew are another process's.
fn untold(numbers: &Numbers, seen: &mut BTreeMap<String, u64>, known: &BTreeSet<String>) -> Vec<(String, u64)> {
    let mut untold = Vec::new();
    for (node, numbers) in numbers {
        let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { continue };
        let before = seen.insert(node.clone(), *last).unwrap_or_default();
        let missing = first.saturating_sub(before.saturating_add(1));
        if missing > 0 && known.contains(node) {
            untold.push((node.clone(), missing));
        }
    }
    untold
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

/// What differs, of nodes that have answered before and now. What a connection had come to is what its proxy remembers, or else what
/// was last seen of it.
fn changes(
    before: &Table,
    now: &Table,
    ended: &Table,
    known: &BTreeSet<String>,
    silent: &BTreeSet<String>,
) -> Vec<Event> {
    let closed = before.iter().filter(|(key, _)| !now.contains_key(*key) && !silent.contains(&key.0));
    let closed = closed.filter_map(|(key, seen)| event(What::Closed, key, ended.get(key).unwrap_or(seen)));
    let is_new = |key: &(String, u64)| known.contains(&key.0) && !before.contains_key(key);
    let opened = now.iter().filter(|(key, _)| is_new(key));
    let opened = opened.filter_map(|(key, connection)| event(What::Opened, key, connection));
    let brief = ended.iter().filter(|(key, _)| is_new(key));
    let brief = brief.flat_map(|(key, connection)| {
        [What::Opened, What::Closed].into_iter().filter_map(|what| event(what, key, connection))
    });
    // What is over by now began before most of what is still there.
    closed.chain(brief).chain(opened).collect()
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

    /// The pod that is named, or `NAMESPACE/` for any, where there is none.
    fn missing(&self, pods: &[PodStatus]) -> Option<&str> {
        let wanted = self.workload.as_deref()?.trim_start_matches('/');
        let is_it = |pod: &PodStatus| {
            let name = format!("{}/{}", pod.namespace, pod.name);
            name == wanted || (wanted.ends_with('/') && name.starts_with(wanted))
        };
        (!pods.iter().any(is_it)).then_some(wanted)
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

    #[test]
    fn a_pod_that_is_not_there_is_named() {
        let pod: PodStatus = serde_json::from_value(serde_json::json!({
            "namespace": "shop", "name": "web", "uid": "u", "node": null, "addresses": [], "phase": "Running", "ready": true,
            "pids": [], "restarts": 0, "captured": true, "message": null,
        }))
        .unwrap();
        for (workload, expected) in [
            (None, None),
            (Some("/shop/web"), None),
            (Some("/shop/"), None),
            (Some("/shop/we"), Some("shop/we")),
            (Some("/shpo/"), Some("shpo/")),
        ] {
            let filter = Filter { workload: workload.map(str::to_owned), to: None };
            assert_eq!(filter.missing(std::slice::from_ref(&pod)), expected, "{workload:?}");
        }
    }

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
        let told: Vec<_> = changes(&before, &now, &Table::new(), &known, &silent)
            .into_iter()
            .map(|it| (it.event, it.connection.id))
            .collect();
        assert_eq!(told, [(What::Closed, 1), (What::Opened, 3)], "the other end tells of 2");
        assert_eq!(
            changes(&before, &Table::new(), &Table::new(), &known, &known),
            [],
            "a proxy that says nothing has closed nothing"
        );
        let nobody = BTreeSet::new();
        assert_eq!(
            changes(&Table::new(), &before, &Table::new(), &nobody, &silent),
            [],
            "it was open before its proxy answered first"
        );
        assert_eq!((first(&before, &nobody, false).len(), first(&before, &nobody, true).len()), (0, 1));
        assert_eq!(first(&before, &known, true), [], "what is new of a proxy that is known was opened");
    }

    fn gone(id: u64) -> Connection {
        Connection { bytes_to_source: 99, ..connection(id, "outbound", Some("i")) }
    }

    #[test]
    fn what_was_open_for_a_moment_is_told_of() {
        let (known, silent) = (BTreeSet::from(["n1".to_owned()]), BTreeSet::new());
        let before = table(&[connection(1, "outbound", Some("i"))]);
        let ended = table(&[gone(1), gone(2)]);
        let told = |known| {
            let events = changes(&before, &Table::new(), &ended, known, &silent);
            events.into_iter().map(|it| (it.event, it.connection.id, it.connection.bytes_to_source)).collect::<Vec<_>>()
        };
        assert_eq!(told(&known), [(What::Closed, 1, 99), (What::Opened, 2, 99), (What::Closed, 2, 99)]);
        assert_eq!(told(&BTreeSet::new()), [(What::Closed, 1, 99)], "what ended before the first look is not told of");
    }

    #[test]
    fn what_is_remembered_no_more_is_counted() {
        let known = BTreeSet::from(["n1".to_owned()]);
        let mut seen = BTreeMap::new();
        let mut missing = |numbers: &[u64], known: &BTreeSet<String>| {
            let numbers = Numbers::from([("n1".to_owned(), numbers.iter().copied().collect())]);
            untold(&numbers, &mut seen, known).first().map(|(_, count)| *count)
        };
        assert_eq!(missing(&[7], &BTreeSet::new()), None, "before the first look");
        assert_eq!(missing(&[8, 9], &known), None);
        assert_eq!(missing(&[12], &known), Some(2));
        assert_eq!(missing(&[], &known), None);
        assert_eq!(missing(&[1], &known), None, "the proxy was started anew");
        assert_eq!(missing(&[2], &known), None);
    }

    #[test]
    fn a_line_of_the_page_is_read() {
        let mut line = serde_json::to_value(connection(3, "inbound", None)).unwrap();
        assert_eq!(serde_json::from_value::<Row>(line.clone()).unwrap().ended, None);
        line["ended"] = 5.into();
        let row: Row = serde_json::from_value(line).unwrap();
        assert_eq!((row.connection.id, row.ended), (3, Some(5)));
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
