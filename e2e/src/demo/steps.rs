//! What the demo does and checks.

use std::io::{BufRead, BufReader};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use super::canary::canary;
use super::tour::Tour;
use crate::capture::Segment;
use crate::error::{Doing, Error, Result};
use crate::lab::{Lab, PATIENCE};
use crate::layout::Layout;
use crate::status::{self, PodStatus};

const WORLD: &str = include_str!("manifests.yaml");
const DENY: &str = include_str!("deny.yaml");
/// What every answer of the servers contains: on the wire, the proof of plain text.
pub(super) const PAYLOAD: &str = "greetings from server";
/// Port of HBONE.
const HBONE: u16 = 15008;
/// Answers that count as "it carries on".
pub(super) const ANSWERS: usize = 10;
const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/server";
const POLICY: &str = "shop/close-the-ledger";

/// All steps, in order.
pub(super) fn walk(lab: &Lab, tour: &mut Tour) -> Result<()> {
    bring_up(lab, tour)?;
    let client = client(lab)?;
    plain_text(lab, tour)?;
    enrol(lab, tour, &client)?;
    mutual_tls(lab, tour)?;
    identities(lab, tour)?;
    visitor(lab, tour)?;
    deny(lab, tour)?;
    canary(lab, tour)?;
    tour.step("Where things stand");
    let state = lab.status()?;
    for line in status::brief(&state, tour.colour()).lines() {
        crate::say!("{}", format!("   {line}").trim_end());
    }
    tour.step("Clean up");
    Ok(())
}

fn bring_up(lab: &Lab, tour: &mut Tour) -> Result<()> {
    tour.step("Two nodes, a controller, and on each node a ztunnel and an agent: real processes in network namespaces");
    lab.wait_ready()?;
    let state = lab.status()?;
    let names: Vec<&str> = state.components.iter().map(|component| component.name.as_str()).collect();
    tour.holds(&format!("ready: {}", names.join(", ")));
    tour.step(
        "Two namespaces from ordinary manifests: shop (client, server v1 and v2 behind a Service) and street (visitor)",
    );
    lab.apply(WORLD)?;
    lab.wait_ready()?;
    for version in ["v1", "v2"] {
        lab.wait_for(&format!("an answer of server {version}"), || {
            client_log(lab).contains(&format!("{PAYLOAD} {version}"))
        })?;
    }
    tour.holds("the client asks http://server/ ten times a second and hears from v1 and v2");
    let log = client_log(lab);
    tour.shows(log.lines().last().unwrap_or_default());
    Ok(())
}

pub(super) fn client_log(lab: &Lab) -> String {
    std::fs::read_to_string(lab.layout().container_log("shop", "client", "client")).unwrap_or_default()
}

fn answers(lab: &Lab) -> usize {
    client_log(lab).lines().filter(|line| line.starts_with("200 ")).count()
}

fn failures(lab: &Lab) -> usize {
    client_log(lab).lines().filter(|line| !line.starts_with("200 ")).count()
}

fn await_answers(lab: &Lab) -> Result<()> {
    let before = answers(lab);
    lab.wait_for("the client to hear more answers", || answers(lab) >= before + ANSWERS)
}

fn client(lab: &Lab) -> Result<PodStatus> {
    let found = lab.status()?.pods.into_iter().find(|pod| pod.namespace == "shop" && pod.name == "client");
    found.ok_or_else(|| Error::new("the client is gone"))
}

fn shows_payload(segment: &Segment) -> bool {
    segment.payload.windows(PAYLOAD.len()).any(|window| window == PAYLOAD.as_bytes())
}

fn plain_text(lab: &Lab, tour: &mut Tour) -> Result<()> {
    tour.step("Before: whoever watches the link between the nodes reads along");
    let capture = lab.capture("node-1")?;
    lab.wait_for("the payload to be seen on the link", || capture.has_seen(shows_payload))?;
    let segments = capture.finish()?;
    if segments.iter().any(|segment| segment.is_on_port(HBONE)) {
        return Err(Error::new("there was HBONE traffic before anything was enrolled"));
    }
    let seen = segments
        .iter()
        .find(|segment| shows_payload(segment))
        .ok_or_else(|| Error::new("the payload was not captured"))?;
    tour.holds("captured on node-1's eth0, in plain text:");
    tour.shows(&format!("{} -> {}", seen.source, seen.destination));
    let text = String::from_utf8_lossy(&seen.payload);
    tour.shows(text.lines().next().unwrap_or_default());
    tour.shows(text.lines().find(|line| line.contains(PAYLOAD)).unwrap_or_default());
    Ok(())
}

fn enrol(lab: &Lab, tour: &mut Tour, before: &PodStatus) -> Result<()> {
    tour.step("Enrol the namespace: fairway lab label namespace shop istio.io/dataplane-mode=ambient");
    let (answers_before, failures_before) = (answers(lab), failures(lab));
    lab.label_namespace("shop", &["istio.io/dataplane-mode=ambient"])?;
    lab.wait_captured(&[
        ("shop/client", true),
        ("shop/server-v1", true),
        ("shop/server-v2", true),
        ("street/visitor", false),
    ])?;
    tour.holds("client, server v1 and server v2 are captured; the visitor is not");
    await_answers(lab)?;
    let now = client(lab)?;
    if now.pids != before.pids || now.uid != before.uid || now.restarts != before.restarts {
        return Err(Error::new(format!("the client was restarted: {:?} became {:?}", before.pids, now.pids)));
    }
    let pids: Vec<String> = now.pids.iter().map(ToString::to_string).collect();
    tour.holds(&format!("the same client process (pid {}) carries on, nothing was restarted", pids.join(", ")));
    let (answers, failures) = (answers(lab) - answers_before, failures(lab) - failures_before);
    tour.holds(&format!("meanwhile it heard {answers} answers and {failures} errors"));
    Ok(())
}

fn mutual_tls(lab: &Lab, tour: &mut Tour) -> Result<()> {
    tour.step("After: the same requests, and nothing to read on the link");
    let capture = lab.capture("node-1")?;
    await_answers(lab)?;
    let segments = capture.finish()?;
    let tunnelled: Vec<&Segment> = segments.iter().filter(|segment| segment.is_on_port(HBONE)).collect();
    let records = tunnelled.iter().filter(|segment| segment.starts_tls_record()).count();
    if let Some(seen) = segments.iter().find(|segment| shows_payload(segment)) {
        return Err(Error::new(format!("the payload is still readable from {} to {}", seen.source, seen.destination)));
    }
    if records == 0 {
        return Err(Error::new(format!("no TLS on port {HBONE} among {} packets", segments.len())));
    }
    let bytes: usize = tunnelled.iter().map(|segment| segment.payload.len()).sum();
    tour.holds(&format!(
        "{ANSWERS} more answers: {bytes} bytes to and from port {HBONE}, TLS records, the payload nowhere"
    ));
    Ok(())
}

fn identities(lab: &Lab, tour: &mut Tour) -> Result<()> {
    tour.step("Both sides proved who they are");
    let line = lab.wait_until("both identities in the access log of node-2's ztunnel", || {
        let wanted = ["connection complete", "direction=\"inbound\"", CLIENT, SERVER];
        let log = lab.ztunnel_log("node-2");
        let found = log.lines().rev().find(|line| wanted.iter().all(|part| line.contains(part)));
        found.map(str::to_owned).ok_or_else(|| log.lines().last().unwrap_or("the log is empty").to_owned())
    })?;
    tour.holds("from the access log of ztunnel on node-2:");
    tour.shows(&fields(&line, &["src.identity", "dst.identity", "direction"]));
    Ok(())
}

/// The named `key=value` fields of a log line, one a line.
pub(super) fn fields(line: &str, names: &[&str]) -> String {
    let field = |name: &&str| {
        let start = line.find(&format!("{name}="))?;
        let rest = line.get(start..)?;
        let end = match rest.split_once("=\"") {
            Some((key, value)) if key == *name => value.find('"').map_or(rest.len(), |quote| key.len() + quote + 3),
            _ => rest.find(' ').unwrap_or(rest.len()),
        };
        rest.get(..end)
    };
    names.iter().filter_map(field).collect::<Vec<_>>().join("\n")
}

fn visitor(lab: &Lab, tour: &mut Tour) -> Result<()> {
    tour.step("The visitor from outside the mesh is still served, as long as nobody asks for STRICT");
    let output = lab.exec("street/visitor", &["fairway", "lab", "tool", "http-get", "http://server.shop/"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() || !text.contains(PAYLOAD) {
        return Err(Error::new("the visitor was not served")
            .because(format!("{text}{}", String::from_utf8_lossy(&output.stderr))));
    }
    tour.holds("it speaks plain text and gets its answer:");
    tour.shows(text.trim());
    Ok(())
}

fn deny(lab: &Lab, tour: &mut Tour) -> Result<()> {
    tour.step("A policy reaches connections that are already open");
    let mut held = lab.spawn("shop/client", &["fairway", "lab", "tool", "hold", "server:7000", "--count", "1"])?;
    let stdout = held.stdout.take().ok_or_else(|| Error::new("the connection has no output"))?;
    let events = events(BufReader::new(stdout))?;
    let opened = next(&events, "the connection to open")?;
    if opened.get("connections") != Some(&Value::from(1)) {
        return Err(Error::new("the long-lived connection did not open").because(opened.to_string()));
    }
    tour.holds("the client holds a connection to server:7000 open");
    lab.apply(DENY)?;
    let applied = Instant::now();
    tour.holds("applied: AuthorizationPolicy shop/close-the-ledger, DENY sa/client on port 7000");
    let closed = next(&events, "the open connection to be cut")?;
    let elapsed = applied.elapsed();
    if closed.get("event") != Some(&Value::from("closed")) {
        return Err(Error::new("the connection did not close").because(closed.to_string()));
    }
    let how = closed.get("how").and_then(Value::as_str).unwrap_or("?");
    tour.holds(&format!("the connection was cut ({how}) {} ms later", elapsed.as_millis()));
    let line = lab.wait_until("the policy's name in the access log of node-2's ztunnel", || {
        let log = lab.ztunnel_log("node-2");
        let found = log.lines().rev().find(|line| line.contains("connection complete") && line.contains(POLICY));
        found.map(str::to_owned).ok_or_else(|| log.lines().last().unwrap_or("the log is empty").to_owned())
    })?;
    tour.holds("and the log of ztunnel on node-2 says why:");
    tour.shows(&fields(&line, &["src.identity", "error", "reason", "policy"]));
    await_answers(lab)?;
    tour.holds("requests to port 80, which the policy does not name, carry on");
    Ok(())
}

/// JSON lines as they come.
fn events(output: impl BufRead + Send + 'static) -> Result<Receiver<Value>> {
    let (send, receive) = mpsc::channel();
    let read = move || {
        for line in output.lines().map_while(std::io::Result::ok) {
            let Ok(event) = serde_json::from_str(&line) else { continue };
            if send.send(event).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("events".to_owned()).spawn(read).doing(|| "reading events")?;
    Ok(receive)
}

fn next(events: &Receiver<Value>, what: &str) -> Result<Value> {
    events.recv_timeout(PATIENCE).map_err(|error| Error::new(format!("waited {PATIENCE:?} for {what}")).because(error))
}

/// After the lab was dropped: no files, no processes.
pub(super) fn check_nothing_is_left(layout: &Layout) -> Result<()> {
    if layout.root().exists() {
        return Err(Error::new(format!("{} was left behind", layout.root().display())));
    }
    let root = layout.root().to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let left = processes.filter_map(|entry| {
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&arguments).replace('\0', " ");
        command.contains(&root).then(|| format!("pid {}: {}", entry.file_name().to_string_lossy(), command.trim()))
    });
    let left: Vec<String> = left.collect();
    if left.is_empty() {
        crate::say!("   every process ended, every file removed");
        return Ok(());
    }
    Err(Error::new(format!("{} processes were left behind", left.len())).because(left.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_cut_out_of_log_lines() {
        let line = r#"x	info	access	connection complete	src.identity="spiffe://a b" direction="inbound" bytes=3 error="policy denied""#;
        let found = fields(line, &["src.identity", "bytes", "missing", "error"]);
        assert_eq!(found, "src.identity=\"spiffe://a b\"\nbytes=3\nerror=\"policy denied\"");
    }

    #[test]
    fn the_demo_world_is_valid() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("world.yaml"), WORLD).unwrap();
        std::fs::write(directory.path().join("deny.yaml"), DENY).unwrap();
        let load = || fairway_core::source::directory::load(directory.path(), None);
        let loaded = load();
        assert_eq!(loaded.errors, []);
        assert_eq!((loaded.objects.pods.len(), loaded.objects.unknown.len()), (4, 0));
        // What it changes is a later version of an object of the world.
        std::fs::write(directory.path().join("world.yaml"), crate::demo::canary::MANIFESTS).unwrap();
        let loaded = load();
        assert_eq!(loaded.errors, []);
        assert_eq!((loaded.objects.services.len(), loaded.objects.http_routes.len()), (3, 1));
    }
}
