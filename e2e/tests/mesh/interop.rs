//! Ours beside Istio's node proxy: one node of the lab runs theirs, under our controller and our agent.
//!
//! The proxy is somebody else's program and not part of this repository: `FAIRWAY_ISTIO_ZTUNNEL` says where it is, and without it
//! these tests are skipped, visibly. How it was made, and what these tests found, is in `docs/interop.md`.

mod cell;
mod codes;
mod live;
mod operate;
mod restart;
mod stream;

use std::path::PathBuf;
use std::{env, fs};

use fairway_lab::Lab;
use fairway_lab::options::Overrides;
use fairway_lab::{Options, binaries::Build};

use super::labs;

/// Environment variable with the path of Istio's node proxy.
const PEER: &str = "FAIRWAY_ISTIO_ZTUNNEL";
/// The node whose proxy is ours.
const OURS: &str = "node-1";
/// The node whose proxy is theirs.
const THEIRS: &str = "node-2";
const NODES: [&str; 2] = [OURS, THEIRS];
/// Who dials whose server: `ours` or `theirs` is whose proxy is in front of them.
const PAIRS: [(&str, &str); 3] = [("ours", "theirs"), ("theirs", "ours"), ("theirs", "theirs")];
const MANIFESTS: &str = include_str!("interop/world.yaml");

/// The peer's program; when it is not given, says that `test` is skipped.
fn peer(test: &str) -> Option<PathBuf> {
    let path = env::var_os(PEER).map(PathBuf::from);
    if path.is_none() {
        labs::skip(test, &format!("{PEER} does not say where Istio's node proxy is"));
    }
    path.map(|path| fs::canonicalize(&path).unwrap_or_else(|error| panic!("{PEER}={}: {error}", path.display())))
}

/// A lab in which node-1 is ours and node-2 theirs, with its pods captured.
fn mixed(test: &str) -> Option<Lab> {
    let theirs = peer(test)?;
    if !labs::can_run(test) {
        return None;
    }
    labs::build();
    let options = labs::options(&format!("interop-{test}"));
    let binaries = Overrides { node_ztunnels: [(2, theirs)].into(), ..options.binaries };
    let lab = Lab::up(Options { binaries, build: Build::Never, ..options }).unwrap();
    lab.wait_ready().unwrap();
    lab.apply(MANIFESTS).unwrap();
    lab.wait_ready().unwrap();
    let inside = ["ours-client", "ours-server", "theirs-client", "theirs-server"].map(|pod| format!("mixed/{pod}"));
    let mut captured: Vec<(&str, bool)> = inside.iter().map(|pod| (pod.as_str(), true)).collect();
    captured.extend([("street/ours-visitor", false), ("street/theirs-visitor", false)]);
    lab.wait_captured(&captured).unwrap();
    for (client, server) in PAIRS {
        reachable(&lab, &format!("mixed/{client}-client"), server);
    }
    Some(lab)
}

/// The node of `ours` or `theirs`.
fn node_of(whose: &str) -> &'static str {
    if whose == "ours" { OURS } else { THEIRS }
}

/// Waits until a captured client reaches the server of `server`'s node over mutual TLS.
fn reachable(lab: &Lab, client: &str, server: &str) {
    let log = super::observe::Cursor::at_end(lab, &format!("ztunnel-{}", node_of(server)));
    lab.wait_until(&format!("{client} to reach {server}-server over mutual TLS"), || {
        let answer = labs::get(lab, client, &format!("http://{server}-server.mixed/"));
        let proven = ["connection complete", "direction=\"inbound\"", "src.identity=\"spiffe://"];
        let is_proven = !log.lines(lab, &proven).is_empty();
        if answer.starts_with("200 ") && is_proven { Ok(()) } else { Err(answer) }
    })
    .unwrap();
}
