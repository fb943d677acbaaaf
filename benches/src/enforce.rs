//! Time to enforce: from a policy applied with kubectl until open connections are cut on every node of a lab with a real API
//! server.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fairway_lab::binaries::{self, Build};
use fairway_lab::lab::Running;
use fairway_lab::options::Overrides;
use fairway_lab::{Lab, Options as LabOptions};
use serde_json::Value;

use crate::facts;
use crate::histogram::{Histogram, Percentiles};
use crate::table::{Table, significant};

/// Where the servers listen.
const PORT: u16 = 7000;
/// How long anything may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(180);
/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(200);
const MICROSECONDS: f64 = 1e6;

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// How often the policy is applied.
    #[arg(long, default_value_t = 50)]
    rounds: u32,
    /// Nodes, each with a server.
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// Connections that are open to each server.
    #[arg(long, default_value_t = 10)]
    connections: usize,
    /// Takes the binaries as they are.
    #[arg(long)]
    no_build: bool,
}

/// Measures, and prints a table.
///
/// # Errors
/// When there is no Kubernetes, the lab does not come up, or something never happens.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds must be 1 or more");
    let kubernetes = binaries::kubernetes().context("there is no API server; `./dev setup` builds it where Go is")?;
    let lab = Lab::up(LabOptions {
        name: format!("enforce-{}", std::process::id()),
        nodes: options.nodes,
        kubernetes: true,
        binaries: Overrides { kubernetes: Some(kubernetes), ..Overrides::default() },
        build: if options.no_build { Build::Never } else { Build::InCheckout },
        ..LabOptions::default()
    })?;
    let servers = servers(&lab, options.nodes)?;
    let (mut from_answer, mut from_start) = (Histogram::default(), Histogram::default());
    for round in 0..options.rounds {
        let mut held = Vec::new();
        for address in &servers {
            held.push(until("connections to open", || {
                Held::open(&lab, &format!("{address}:{PORT}"), options.connections)
            })?);
        }
        let started = Instant::now();
        // Another name each time, so that nothing is left of the one before.
        let answered = applied(&lab, &deny(round))?;
        let mut last = answered;
        for held in &held {
            last = last.max(held.cut(options.connections)?);
        }
        // It may be enforced before kubectl has heard that it was taken.
        from_answer.record(last.saturating_duration_since(answered));
        from_start.record(last.duration_since(started));
        kubectl(&lab, &["-n", "shop", "delete", "authorizationpolicy", &format!("no-client-{round}")], "")?;
    }
    let mut table = Table::default();
    table.row(["time to enforce", "unit", "p50", "p99", "bar"]);
    for (name, times, bar) in [
        ("from kubectl's answer until the last connection is cut", &from_answer, "≤ 100, ≤ 250"),
        ("  (from kubectl's start)", &from_start, ""),
    ] {
        let Percentiles { p50, p99, .. } = times.percentiles().context("nothing was measured")?;
        table.row([name.to_owned(), "ms".to_owned(), milliseconds(p50), milliseconds(p99), bar.to_owned()]);
    }
    println!(
        "{}, {}, {}\n{} rounds, {} nodes, {} connections to the server on each\n\n{}",
        facts::processors(),
        facts::kernel(),
        facts::PROFILE,
        options.rounds,
        options.nodes,
        options.connections,
        table.render()
    );
    Ok(())
}

fn milliseconds(nanoseconds: u64) -> String {
    significant(crate::measured::float(nanoseconds) / MICROSECONDS)
}

/// Tries until it works.
fn until<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() > deadline => return Err(error.context(what.to_owned())),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// A server on each node and a client, all in the mesh; the servers' addresses.
fn servers(lab: &Lab, nodes: u8) -> Result<Vec<String>> {
    until("the lab to be ready", || Ok(lab.wait_ready()?))?;
    until("the API server to take objects", || kubectl(lab, &["apply", "-f", "-"], &shop(nodes)))?;
    until("every pod to be captured", || {
        let text = kubectl(lab, &["-n", "shop", "get", "pods", "-o", "json"], "")?;
        let list: Value = serde_json::from_str(&text)?;
        let pods = list["items"].as_array().context("no pods")?;
        let captured = |pod: &&Value| pod["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled";
        ensure!(pods.iter().filter(captured).count() == usize::from(nodes) + 1, "not all are captured");
        let servers = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == "server");
        servers.map(|pod| Ok(pod["status"]["podIP"].as_str().context("no address")?.to_owned())).collect()
    })
}

fn shop(nodes: u8) -> String {
    let pod = |name: &str, app: &str, node: u8, command: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}\n\
             spec: {{nodeName: node-{node}, serviceAccountName: {app}, containers: [{{name: main, image: host, command: [{command}]}}]}}\n"
        )
    };
    let account = |name: &str| {
        format!("---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: shop}}\n")
    };
    let echo = format!("fairway, lab, tool, echo, --port, \"{PORT}\"");
    let servers = (1..=nodes).map(|node| pod(&format!("server-{node}"), "server", node, &echo));
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{istio.io/dataplane-mode: ambient}}}}\n{}{}{}{}",
        account("server"),
        account("client"),
        pod("client", "client", 1, "sleep, infinity"),
        servers.collect::<String>()
    )
}

fn deny(round: u32) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: no-client-{round}, namespace: shop}}\n\
         spec:\n  selector: {{matchLabels: {{app: server}}}}\n  action: DENY\n\
         \u{20}\u{20}rules: [{{from: [{{source: {{principals: [cluster.local/ns/shop/sa/client]}}}}]}}]\n"
    )
}

fn piped(lab: &Lab, arguments: &[&str]) -> Result<Command> {
    let mut command = lab.kubectl(arguments)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

fn kubectl(lab: &Lab, arguments: &[&str], input: &str) -> Result<String> {
    let mut child = piped(lab, arguments)?.spawn()?;
    child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Applies, and says when kubectl said that the API server took it: the process ends later.
fn applied(lab: &Lab, manifest: &str) -> Result<Instant> {
    let mut child = piped(lab, &["apply", "-f", "-"])?.spawn()?;
    child.stdin.take().context("no input")?.write_all(manifest.as_bytes())?;
    let mut said = [0];
    let read = child.stdout.as_mut().context("no output")?.read(&mut said)?;
    let answered = Instant::now();
    let output = child.wait_with_output()?;
    ensure!(read > 0 && output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr));
    Ok(answered)
}

/// Connections of the client that are open.
struct Held {
    events: Receiver<(Instant, Value)>,
    /// They end with it.
    _running: Running,
}

impl Held {
    fn open(lab: &Lab, to: &str, count: usize) -> Result<Self> {
        let mut running =
            lab.spawn("shop/client", &["fairway", "lab", "tool", "hold", to, "--count", &count.to_string()])?;
        let lines = BufReader::new(running.stdout.take().context("no output")?).lines();
        let (told, events) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let now = Instant::now();
                let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
                if told.send((now, event)).is_err() {
                    return;
                }
            }
        });
        let held = Self { events, _running: running };
        let (_, opened) = held.next()?;
        ensure!(opened["event"] == "open" && opened["connections"] == count, "not all connections open: {opened}");
        Ok(held)
    }

    fn next(&self) -> Result<(Instant, Value)> {
        self.events.recv_timeout(PATIENCE).with_context(|| format!("nothing happened to connections for {PATIENCE:?}"))
    }

    /// When the last of them was cut.
    fn cut(&self, count: usize) -> Result<Instant> {
        let mut last = None;
        for _ in 0..count {
            match self.next()? {
                (when, event) if event["event"] == "closed" => last = last.max(Some(when)),
                (_, event) => bail!("a connection did something else than end: {event}"),
            }
        }
        last.context("there are no connections")
    }
}
