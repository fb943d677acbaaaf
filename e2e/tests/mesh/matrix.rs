//! The matrix: every combination of who is captured, where the server is, how it is addressed and what policy says, probed and
//! checked against an expectation that is written down here and nowhere else.

mod cell;
mod wire;
mod world;

use std::collections::BTreeMap;

use fairway_lab::Lab;

use super::labs::{self, say};
use super::observe::{self, Cursor, field};
use cell::{Cell, Mode, Outcome, Rule, Side};
use wire::Wire;
use world::World;

const CLIENT_IDENTITY: &str = "spiffe://cluster.local/ns/inside/sa/client";
const SERVER_IDENTITY: &str = "spiffe://cluster.local/ns/inside/sa/server";
const NODES: [&str; 2] = ["node-1", "node-2"];
const OPENED: &str = "istio_tcp_connections_opened_total";
const FAILED: &str = "istio_tcp_connections_failed_total";

#[test]
fn every_cell_of_the_matrix_is_as_expected() {
    let Some(lab) = labs::mesh_with("matrix", world::MANIFESTS) else { return };
    lab.label_namespace("inside", &["istio.io/dataplane-mode=ambient"]).unwrap();
    let pods = ["client", "near", "far"];
    let names: Vec<(String, bool)> = [("inside", true), ("outside", false)]
        .iter()
        .flat_map(|(namespace, captured)| pods.map(|pod| (format!("{namespace}/{pod}"), *captured)))
        .collect();
    let captured: Vec<(&str, bool)> = names.iter().map(|(name, captured)| (name.as_str(), *captured)).collect();
    lab.wait_captured(&captured).unwrap();
    let world = World::of(&lab);
    let (mut run, mut skipped) = (0, 0);
    for mode in Mode::ALL {
        for rule in Rule::ALL {
            world::enforce(&lab, mode, rule);
            let (cells, without): (Vec<Cell>, Vec<Cell>) =
                Cell::all(mode, rule).into_iter().partition(|cell| world.has(cell));
            for cell in &without {
                labs::skip(&format!("{cell:?}"), "the pods have no address of this family");
            }
            phase(&lab, &world, &cells);
            run += cells.len();
            skipped += without.len();
        }
    }
    say(&format!("matrix: {run} cells run, {skipped} skipped"));
    assert_eq!(run + skipped, 192);
    assert!(observe::restarts(&lab).values().all(|count| *count == 0), "{:?}", observe::restarts(&lab));
}

/// Probes all cells that share their policies, and looks at link and metrics as a whole afterwards.
fn phase(lab: &Lab, world: &World, cells: &[Cell]) {
    let wire = Wire::watch(lab);
    let before = Counts::read(lab);
    let mut expected = Counts::default();
    for cell in cells {
        probe(lab, world, &wire, cell);
        expected.add(cell);
    }
    lab.wait_until("the metrics to tell of every cell", || {
        let moved = Counts::read(lab).since(&before);
        if moved == expected { Ok(()) } else { Err(format!("expected {expected:#?}, found {moved:#?}")) }
    })
    .unwrap();
    wire.check(world, cells);
}

fn probe(lab: &Lab, world: &World, wire: &Wire, cell: &Cell) {
    let expected = cell.expected();
    let logs: BTreeMap<&str, Cursor> =
        NODES.iter().map(|node| (*node, Cursor::at_end(lab, &format!("ztunnel-{node}")))).collect();
    let tunnelled = wire.tunnelled(world, cell);
    let answer = labs::get(lab, &cell.client_pod(), &world.url(cell));
    match expected.outcome {
        Outcome::Answer => {
            let own = format!("200 {} to {}", cell.server_pod(), world.host(&cell.client_pod(), cell));
            assert!(answer.starts_with(&own), "{cell:?}: the server must see the client's own address: {answer}");
        }
        Outcome::Refused(_) => {
            let refused = answer.starts_with("error:") && !answer.contains("no answer within");
            assert!(refused, "{cell:?}: expected a refusal, at once: {answer}");
        }
    }
    if cell.server == Side::Captured {
        let line = logs[cell.server_node()].wait(lab, &["connection complete", "direction=\"inbound\""]);
        check_inbound(cell, &line);
    }
    if cell.client == Side::Captured {
        let line = logs["node-1"].wait(lab, &["connection complete", "direction=\"outbound\""]);
        let proven = expected.mutual_tls.then_some((CLIENT_IDENTITY, SERVER_IDENTITY)).unzip();
        assert_eq!((field(&line, "src.identity"), field(&line, "dst.identity")), proven, "{cell:?}: {line}");
        let reason = match expected.outcome {
            Outcome::Answer => "ok",
            Outcome::Refused(reason) => reason,
        };
        assert_eq!(field(&line, "reason"), Some(reason), "{cell:?}: {line}");
    }
    if cell.far && expected.mutual_tls {
        lab.wait_for("the tunnel to be seen on the link", || wire.tunnelled(world, cell) > tunnelled).unwrap();
    }
    if cell.far && !expected.mutual_tls && expected.outcome == Outcome::Answer {
        lab.wait_for("the request to be seen on the link in clear text", || wire.shows(&cell.marker())).unwrap();
    }
}

fn check_inbound(cell: &Cell, line: &str) {
    let expected = cell.expected();
    let (source, destination) =
        if expected.mutual_tls { (Some(CLIENT_IDENTITY), Some(SERVER_IDENTITY)) } else { (None, None) };
    assert_eq!(field(line, "src.identity"), source, "{cell:?}: {line}");
    assert_eq!(field(line, "dst.identity"), destination, "{cell:?}: {line}");
    assert_eq!(field(line, "src.workload"), Some("client"), "{cell:?}: {line}");
    assert_eq!(field(line, "dst.workload"), Some(cell.server_name()), "{cell:?}: {line}");
    let (reason, level) = match expected.outcome {
        Outcome::Answer => ("ok", "info"),
        Outcome::Refused(reason) => (reason, "error"),
    };
    assert_eq!(field(line, "reason"), Some(reason), "{cell:?}: {line}");
    assert!(line.contains(&format!("\t{level}\t")), "{cell:?}: {line}");
}

/// Connections by node, metric, reporter, security policy and response flags.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counts(BTreeMap<[String; 5], f64>);

impl Counts {
    fn read(lab: &Lab) -> Self {
        let mut counts = Self::default();
        for node in NODES {
            let page = observe::metrics(lab, node);
            for metric in [OPENED, FAILED] {
                for (labels, value) in observe::samples(&page, metric) {
                    let label = |name: &str| labels[name].as_str();
                    let (security, flags) = (label("connection_security_policy"), label("response_flags"));
                    counts.count([node, metric, label("reporter"), security, flags], value);
                }
            }
        }
        counts
    }

    fn count(&mut self, key: [&str; 5], value: f64) {
        *self.0.entry(key.map(str::to_owned)).or_default() += value;
    }

    fn add(&mut self, cell: &Cell) {
        let expected = cell.expected();
        let security = if expected.mutual_tls { "mutual_tls" } else { "unknown" };
        let node = cell.server_node();
        let answered = expected.outcome == Outcome::Answer;
        match (cell.client, answered) {
            (Side::Captured, true) => self.count(["node-1", OPENED, "source", security, "-"], 1.0),
            (Side::Captured, false) => self.count(["node-1", FAILED, "source", security, "DENY"], 1.0),
            (Side::Uncaptured, _) => {}
        }
        match (cell.server, answered) {
            (Side::Captured, true) => self.count([node, OPENED, "destination", security, "-"], 1.0),
            (Side::Captured, false) => self.count([node, FAILED, "destination", security, "DENY"], 1.0),
            (Side::Uncaptured, _) => {}
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
