//! The table: who dials whom, over what, under which policies; and what both proxies must do and say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fairway_lab::Lab;
use fairway_lab::capture::Capture;

use super::{NODES, OURS, THEIRS};
use crate::mesh::labs::{self, say};
use crate::mesh::observe::{self, Cursor, field};

const OPENED: &str = "istio_tcp_connections_opened_total";
const FAILED: &str = "istio_tcp_connections_failed_total";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Permissive,
    Strict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    None,
    Allow,
    Deny,
}

/// Who dials, and who serves: `ours` or `theirs` is whose proxy is in front of them.
const PAIRS: [(&str, &str); 5] = [
    ("mixed/ours-client", "theirs"),
    ("mixed/theirs-client", "ours"),
    ("mixed/theirs-client", "theirs"),
    ("street/ours-visitor", "theirs"),
    ("street/theirs-visitor", "ours"),
];

#[derive(Clone, Copy, Debug)]
struct Cell {
    client: &'static str,
    server: &'static str,
    service: bool,
    ipv6: bool,
    mode: Mode,
    rule: Rule,
}

impl Cell {
    fn all(mode: Mode, rule: Rule) -> impl Iterator<Item = Self> {
        PAIRS.into_iter().flat_map(move |(client, server)| {
            [(false, false), (false, true), (true, false), (true, true)].map(|(service, ipv6)| Self {
                client,
                server,
                service,
                ipv6,
                mode,
                rule,
            })
        })
    }

    fn captured(&self) -> bool {
        self.client.starts_with("mixed/")
    }

    fn answered(&self) -> bool {
        match (self.captured(), self.mode, self.rule) {
            (true, _, rule) => rule != Rule::Deny,
            (false, Mode::Strict, _) | (false, _, Rule::Allow) => false,
            (false, Mode::Permissive, _) => true,
        }
    }

    fn client_name(&self) -> &'static str {
        self.client.split_once('/').unwrap().1
    }

    fn client_node(&self) -> &'static str {
        if self.client.contains("/ours") { OURS } else { THEIRS }
    }

    fn server_node(&self) -> &'static str {
        if self.server == "ours" { OURS } else { THEIRS }
    }

    fn server_name(&self) -> String {
        format!("{}-server", self.server)
    }

    /// Proven identities of both, when both are in the mesh.
    fn identities(&self) -> (Option<String>, Option<String>) {
        let identity = |name: &str| self.captured().then(|| format!("spiffe://cluster.local/ns/mixed/sa/{name}"));
        (identity(self.client_name()), identity(&self.server_name()))
    }

    /// A text in the request that no other cell has.
    fn marker(&self) -> String {
        format!("{self:?}").to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-")
    }
}

#[test]
fn ours_and_theirs_agree_in_every_cell() {
    let Some(lab) = super::mixed("cells") else { return };
    let addresses = Addresses::of(&lab);
    let mut run = 0;
    for mode in [Mode::Permissive, Mode::Strict] {
        for rule in [Rule::None, Rule::Allow, Rule::Deny] {
            enforce(&lab, mode, rule);
            let cells: Vec<Cell> = Cell::all(mode, rule).collect();
            phase(&lab, &addresses, &cells);
            run += cells.len();
        }
    }
    say(&format!("interop: {run} cells"));
    assert_eq!(run, 120);
    assert!(observe::restarts(&lab).values().all(|count| *count == 0), "{:?}", observe::restarts(&lab));
}

fn phase(lab: &Lab, addresses: &Addresses, cells: &[Cell]) {
    let wire = lab.capture(OURS).unwrap();
    let before = Counts::read(lab);
    let mut expected = Counts::default();
    for cell in cells {
        probe(lab, addresses, cell);
        expected.add(cell);
    }
    lab.wait_until("the metrics of both to tell of every cell", || {
        let moved = Counts::read(lab).since(&before);
        if moved == expected { Ok(()) } else { Err(format!("expected {expected:#?}, found {moved:#?}")) }
    })
    .unwrap();
    check_wire(wire, cells);
}

/// What is protected must not be readable between the nodes; that the capture works shows in what is not protected.
fn check_wire(wire: Capture, cells: &[Cell]) {
    let segments = wire.finish().unwrap();
    for cell in cells.iter().filter(|cell| cell.client_node() != cell.server_node()) {
        let marker = cell.marker();
        let shown =
            segments.iter().any(|segment| segment.payload.windows(marker.len()).any(|part| part == marker.as_bytes()));
        if cell.captured() {
            assert!(!shown, "{cell:?}: the request was readable on the link");
        } else if cell.answered() {
            assert!(shown, "{cell:?}: the request was not on the link");
        }
    }
}

fn probe(lab: &Lab, addresses: &Addresses, cell: &Cell) {
    let logs: BTreeMap<&str, Cursor> =
        NODES.iter().map(|node| (*node, Cursor::at_end(lab, &format!("ztunnel-{node}")))).collect();
    let answer = labs::get(lab, cell.client, &addresses.url(cell));
    if cell.answered() {
        let own = format!("200 {} to {}", cell.server_name(), addresses.client(cell));
        assert!(answer.starts_with(&own), "{cell:?}: the server must see the client's own address: {answer}");
    } else {
        let refused = answer.starts_with("error:") && !answer.contains("no answer within");
        assert!(refused, "{cell:?}: expected a refusal, at once: {answer}");
    }
    let line = logs[cell.server_node()].wait(lab, &["connection complete", "direction=\"inbound\""]);
    check_line(cell, &line, true);
    if cell.captured() {
        let line = logs[cell.client_node()].wait(lab, &["connection complete", "direction=\"outbound\""]);
        check_line(cell, &line, cell.service);
    }
}

/// Both write the same fields. Which service a pod is part of counts at the server's, however it was dialled.
fn check_line(cell: &Cell, line: &str, service: bool) {
    let (source, destination) = cell.identities();
    assert_eq!(field(line, "src.identity"), source.as_deref(), "{cell:?}: {line}");
    assert_eq!(field(line, "dst.identity"), destination.as_deref(), "{cell:?}: {line}");
    assert_eq!(field(line, "src.workload"), Some(cell.client_name()), "{cell:?}: {line}");
    assert_eq!(field(line, "dst.workload"), Some(cell.server_name().as_str()), "{cell:?}: {line}");
    assert_eq!(field(line, "error").is_none(), cell.answered(), "{cell:?}: {line}");
    let service = service.then(|| format!("{}.mixed.svc.cluster.local", cell.server_name()));
    assert_eq!(field(line, "dst.service"), service.as_deref(), "{cell:?}: {line}");
    let level = if cell.answered() { "\tinfo\t" } else { "\terror\t" };
    assert!(line.contains(level), "{cell:?}: {line}");
}

struct Addresses {
    pods: BTreeMap<String, Vec<IpAddr>>,
    services: BTreeMap<String, Vec<IpAddr>>,
}

impl Addresses {
    fn of(lab: &Lab) -> Self {
        let parse = |addresses: &[String]| -> Vec<IpAddr> { addresses.iter().map(|ip| ip.parse().unwrap()).collect() };
        let status = lab.status().unwrap();
        Self {
            pods: status.pods.iter().map(|pod| (pod.name.clone(), parse(&pod.addresses))).collect(),
            services: status.services.iter().map(|service| (service.name.clone(), parse(&service.addresses))).collect(),
        }
    }

    fn client(&self, cell: &Cell) -> String {
        written(self.pods[cell.client_name()][usize::from(cell.ipv6)])
    }

    fn url(&self, cell: &Cell) -> String {
        let (name, family) = (cell.server_name(), usize::from(cell.ipv6));
        let place = if cell.service {
            written(self.services[&name][family])
        } else {
            format!("{}:8080", written(self.pods[&name][family]))
        };
        format!("http://{place}/{}", cell.marker())
    }
}

fn written(address: IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

/// Puts the policies of a phase in force and waits until both proxies have them.
fn enforce(lab: &Lab, mode: Mode, rule: Rule) {
    let mode_text = format!("{mode:?}").to_uppercase();
    lab.apply(&format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: mixed}}\n\
         spec: {{mtls: {{mode: {mode_text}}}}}\n"
    ))
    .unwrap();
    let policy = |action: &str| {
        let principals = "cluster.local/ns/mixed/sa/ours-client, cluster.local/ns/mixed/sa/theirs-client";
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: about-the-clients, namespace: mixed}}\n\
             spec: {{action: {action}, rules: [{{from: [{{source: {{principals: [{principals}]}}}}]}}]}}\n"
        )
    };
    let action = match rule {
        Rule::None => None,
        Rule::Allow => Some("Allow"),
        Rule::Deny => Some("Deny"),
    };
    match action {
        None => lab.delete(&policy("ALLOW")).unwrap(),
        Some(action) => lab.apply(&policy(&action.to_uppercase())).unwrap(),
    }
    let strict = if mode == Mode::Strict { 4 } else { 0 };
    for node in NODES {
        lab.wait_until(&format!("{node} to have the policies of {mode:?} and {rule:?}"), || {
            let dump = observe::config_dump(lab, node)?;
            let list = |name: &str| dump[name].as_array().cloned().unwrap_or_default();
            let named = list("policies").into_iter().find(|policy| policy["name"] == "about-the-clients");
            let found = named.as_ref().and_then(|policy| policy["action"].as_str());
            let is_strict = |workload: &&serde_json::Value| {
                let keys = workload["authorizationPolicies"].as_array();
                keys.is_some_and(|keys| {
                    keys.iter()
                        .any(|key| key.as_str().is_some_and(|key| key.ends_with("istio_converted_static_strict")))
                })
            };
            let told = list("workloads").iter().filter(is_strict).count();
            if found == action && told == strict { Ok(()) } else { Err(format!("{found:?}, {told} workloads strict")) }
        })
        .unwrap();
    }
}

/// Connections by node, metric, reporter, source, destination and, where both proxies agree on it, security policy.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counts(BTreeMap<[String; 6], f64>);

impl Counts {
    fn read(lab: &Lab) -> Self {
        let mut counts = Self::default();
        for node in NODES {
            let page = observe::metrics(lab, node);
            for metric in [OPENED, FAILED] {
                for (labels, value) in observe::samples(&page, metric) {
                    let label = |name: &str| labels[name].as_str();
                    let security = if metric == OPENED { label("connection_security_policy") } else { "" };
                    let (source, destination) = (label("source_workload"), label("destination_workload"));
                    counts.count([node, metric, label("reporter"), source, destination, security], value);
                }
            }
        }
        counts
    }

    fn count(&mut self, key: [&str; 6], value: f64) {
        *self.0.entry(key.map(str::to_owned)).or_default() += value;
    }

    fn add(&mut self, cell: &Cell) {
        let security = if cell.captured() { "mutual_tls" } else { "unknown" };
        let mut ends = vec![(cell.server_node(), "destination")];
        ends.extend(cell.captured().then_some((cell.client_node(), "source")));
        for (node, reporter) in ends {
            let server = cell.server_name();
            let mut count =
                |metric, security| self.count([node, metric, reporter, cell.client_name(), &server, security], 1.0);
            // Istio's counts what it refuses as opened, too.
            if cell.answered() || node == THEIRS {
                count(OPENED, security);
            }
            if !cell.answered() {
                count(FAILED, "");
            }
        }
    }

    fn since(mut self, before: &Self) -> Self {
        for (key, value) in &mut self.0 {
            *value -= before.0.get(key).copied().unwrap_or_default();
        }
        self.0.retain(|_, value| *value != 0.0);
        self
    }
}
