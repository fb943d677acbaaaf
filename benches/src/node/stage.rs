//! The lab that measurements are taken in, and the paths through it.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail, ensure};
use fairway_lab::binaries::Build;
use fairway_lab::options::{Config, Overrides};
use fairway_lab::{Lab, Options as LabOptions};
use serde::de::DeserializeOwned;

use super::haproxy;
use super::{Options, progress};
use crate::load::Outcome;
use crate::sink::{BULK_PORT, ECHO_PORT, HTTP_PORT};

/// The namespace that is not enrolled, and the one that is.
const PLAIN: &str = "plain";
const MESH: &str = "mesh";
/// Where a ztunnel's metrics are, on its node.
const METRICS: &str = "http://127.0.0.1:15020/metrics";
/// Pods of a namespace.
const PODS: usize = 3;
const NODES: [&str; 2] = ["node-1", "node-2"];
/// Name and node of the server that is not on the client's node, and of the one that is.
const FAR: (&str, &str) = ("server", "node-2");
const NEAR: (&str, &str) = ("near", "node-1");

/// A lab with a client on one node and a server on each, in both namespaces.
pub(super) struct Stage {
    pub(super) lab: Lab,
    /// This binary, which is also what runs in the pods.
    bench: String,
}

impl Stage {
    /// Brings the lab up and waits for the pods. A mesh that does not come up is noticed later, by what needs it.
    pub(super) fn up(name: &str, options: &Options, ztunnel: Option<&PathBuf>) -> Result<Self> {
        let bench = std::env::current_exe()?.to_str().context("the path of this binary is not text")?.to_owned();
        let workers = [("ZTUNNEL_WORKER_THREADS".to_owned(), options.threads.to_string())].into();
        let lab = Lab::up_with(
            LabOptions {
                // Two measurements at once would disturb each other, but must not end each other.
                name: format!("{name}-{}", std::process::id()),
                binaries: Overrides { ztunnel: ztunnel.cloned(), ..Overrides::default() },
                build: if options.no_build { Build::Never } else { Build::InCheckout },
                environment: [("ztunnel".to_owned(), workers)].into(),
                ..LabOptions::default()
            },
            &mut progress,
        )?;
        let stage = Self { lab, bench };
        let sink_cpu = options.processors()?.map(|(_, load)| load);
        stage.lab.apply(&manifests(&stage.bench, sink_cpu)).map_err(said)?;
        // Pods of the mesh wait for it, and whoever measures it waits for them.
        stage
            .lab
            .wait_until("the pods outside the mesh to run", || {
                let status = stage.lab.status().map_err(|error| error.to_string())?;
                let ready = status.pods.iter().filter(|pod| pod.namespace == PLAIN && pod.ready).count();
                if ready == PODS { Ok(()) } else { Err(format!("{ready} of {PODS} are ready")) }
            })
            .map_err(said)?;
        Ok(stage)
    }

    pub(super) fn bench(&self) -> &str {
        &self.bench
    }

    /// The node tunnel of this lab.
    pub(super) fn ztunnel(&self) -> Result<PathBuf> {
        Ok(Config::read(self.lab.layout()).map_err(said)?.binaries.ztunnel)
    }

    /// Address of a pod.
    pub(super) fn address(&self, namespace: &str, pod: &str) -> Result<std::net::IpAddr> {
        let status = self.lab.status().map_err(said)?;
        let found = status.pods.iter().find(|known| known.namespace == namespace && known.name == pod);
        let address = found
            .and_then(|pod| pod.addresses.first())
            .with_context(|| format!("pod {namespace}/{pod} has no address"))?;
        address.parse().with_context(|| format!("address {address} of pod {namespace}/{pod}"))
    }

    /// Process ids, within the lab, of the ztunnels of both nodes.
    fn ztunnels(&self) -> Result<Vec<i32>> {
        let status = self.lab.status().map_err(said)?;
        NODES
            .iter()
            .map(|node| {
                let name = format!("ztunnel-{node}");
                let component = status.components.iter().find(|component| component.name == name);
                let component = component.with_context(|| format!("the lab has no {name}"))?;
                if !component.ready {
                    bail!("{name} is not ready: {}", component.message.as_deref().unwrap_or("no reason given"));
                }
                component.pid.with_context(|| format!("{name} does not run"))
            })
            .collect()
    }

    /// Whether the mesh's own pods are enrolled and it is up.
    fn meshed(&self) -> Result<()> {
        self.lab.wait_ready().map_err(said)?;
        self.lab
            .wait_captured(&[
                ("mesh/client", true),
                ("mesh/server", true),
                ("mesh/near", true),
                ("plain/client", false),
            ])
            .map_err(said)
    }
}

/// A lab's error names its own causes; as a chain they would be named twice.
fn said(error: fairway_lab::Error) -> anyhow::Error {
    anyhow!("{error}")
}

/// Client on the first node, a server on either, in each namespace.
fn manifests(bench: &str, cpu: Option<usize>) -> String {
    let cpu = cpu.map(|cpu| format!(", --cpu, \"{cpu}\"")).unwrap_or_default();
    let mut text = String::new();
    for (namespace, labels) in [(PLAIN, ""), (MESH, ", labels: {istio.io/dataplane-mode: ambient}")] {
        text.push_str(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}{labels}}}\n---\n"));
        let pods = [
            ("client", "node-1", "[sleep, infinity]".to_owned()),
            (FAR.0, FAR.1, format!("[\"{bench}\", sink{cpu}]")),
            (NEAR.0, NEAR.1, format!("[\"{bench}\", sink{cpu}]")),
        ];
        for (name, node, command) in pods {
            text.push_str(&format!(
                "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: {namespace}}}\n---\n\
                 apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\n\
                 spec:\n  nodeName: {node}\n  serviceAccountName: {name}\n  containers:\n  \
                 - name: main\n    command: {command}\n---\n"
            ));
        }
    }
    text
}

/// What carries the traffic of a path.
enum Carrier<'a> {
    Nothing,
    Haproxy(Result<&'a haproxy::Pair, String>),
    Mesh,
}

/// One way from client to server.
pub(super) struct Path<'a> {
    /// What it is called in the table.
    pub(super) name: &'static str,
    stage: &'a Stage,
    namespace: &'static str,
    /// Pod and node of the server.
    server: (&'static str, &'static str),
    carrier: Carrier<'a>,
    /// Set when traffic did not take this path: then nothing is measured.
    broken: Option<String>,
}

/// What a load connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Bulk,
    Http,
    Echo,
}

impl Port {
    pub(super) const ALL: [Self; 3] = [Self::Bulk, Self::Http, Self::Echo];

    pub(super) fn number(self) -> u16 {
        match self {
            Self::Bulk => BULK_PORT,
            Self::Http => HTTP_PORT,
            Self::Echo => ECHO_PORT,
        }
    }
}

impl<'a> Path<'a> {
    /// From pod to pod.
    pub(super) fn direct(stage: &'a Stage) -> Self {
        Self { name: "none", stage, namespace: PLAIN, server: FAR, carrier: Carrier::Nothing, broken: None }
    }

    /// Through a relay on each node.
    pub(super) fn haproxy(stage: &'a Stage, pair: &'a Result<haproxy::Pair>) -> Self {
        let pair = pair.as_ref().map_err(|error| format!("{error:#}"));
        Self { name: "haproxy", stage, namespace: PLAIN, server: FAR, carrier: Carrier::Haproxy(pair), broken: None }
    }

    /// Through the ztunnel of each node.
    pub(super) fn mesh(name: &'static str, stage: &'a Stage) -> Self {
        Self { name, stage, namespace: MESH, server: FAR, carrier: Carrier::Mesh, broken: None }
    }

    /// Through the one ztunnel of a node, to another pod there.
    pub(super) fn same_node(stage: &'a Stage) -> Self {
        Self { name: "same node", stage, namespace: MESH, server: NEAR, carrier: Carrier::Mesh, broken: None }
    }

    /// Whether there are proxies on this path.
    pub(super) fn has_proxies(&self) -> bool {
        !matches!(self.carrier, Carrier::Nothing)
    }

    /// Process ids, within the lab, of the proxies on this path.
    pub(super) fn proxies(&self) -> Result<Vec<i32>> {
        match &self.carrier {
            Carrier::Nothing => Ok(Vec::new()),
            Carrier::Haproxy(pair) => Ok(pair.as_ref().map_err(|error| anyhow!("{error}"))?.pids.to_vec()),
            Carrier::Mesh => self.stage.ztunnels(),
        }
    }

    /// Idle connections the path can hold, where that is known to be fewer than wanted.
    pub(super) fn capacity(&self) -> u64 {
        match &self.carrier {
            Carrier::Haproxy(Ok(pair)) => pair.capacity(),
            _ => u64::MAX,
        }
    }

    fn target(&self, port: Port) -> Result<SocketAddr> {
        match &self.carrier {
            Carrier::Haproxy(pair) => Ok(pair.as_ref().map_err(|error| anyhow!("{error}"))?.entrance(port)),
            Carrier::Nothing | Carrier::Mesh => {
                Ok((self.stage.address(self.namespace, self.server.0)?, port.number()).into())
            }
        }
    }

    /// Sends a little traffic and makes sure that it takes this path; when it does not, nothing is measured on it.
    pub(super) fn prove(&mut self) {
        self.broken = self.take_the_path().err().map(|error| format!("{error:#}"));
        if let Some(why) = &self.broken {
            progress(&format!("{} cannot be measured: {why}", self.name));
        }
    }

    fn take_the_path(&self) -> Result<()> {
        if matches!(self.carrier, Carrier::Mesh) {
            self.stage.meshed()?;
        }
        // Configuration may still be on its way to the proxies.
        self.stage
            .lab
            .wait_until("traffic to pass", || {
                let attempt = Port::ALL.iter().try_for_each(|port| self.touch(*port));
                attempt.map_err(|error| format!("{error:#}"))
            })
            .map_err(said)?;
        if matches!(self.carrier, Carrier::Mesh) {
            self.stage
                .lab
                .wait_until("traffic to be counted as mutual TLS", || {
                    let node = self.server.1;
                    let page = self.stage.lab.http(node, METRICS).map_err(|error| error.to_string())?;
                    let counted = |line: &str| {
                        line.starts_with("istio_tcp_connections_opened_total{")
                            && line.contains("reporter=\"destination\"")
                            && line.contains("connection_security_policy=\"mutual_tls\"")
                    };
                    let passed = page.body.lines().any(counted);
                    passed
                        .then_some(())
                        .ok_or_else(|| format!("ztunnel on {node} has counted no mutual_tls connection"))
                })
                .map_err(said)?;
        }
        Ok(())
    }

    fn touch(&self, port: Port) -> Result<()> {
        let arguments: &[&str] = match port {
            Port::Bulk => &["bulk", "--warm-up", "0", "--seconds", "0.01"],
            Port::Http => &["connect", "--workers", "1", "--warm-up", "0", "--seconds", "0.05"],
            Port::Echo => &["ping", "--warm-up", "0", "--seconds", "0.05"],
        };
        let outcome: Outcome = self.run(port, arguments)?;
        match outcome.first_failure {
            Some(failure) => Err(anyhow!(failure)),
            None => Ok(()),
        }
    }

    /// Keeps the proxies on one processor.
    pub(super) fn pin(&mut self, cpu: usize) {
        let cpu = cpu.to_string();
        let pinned = || {
            let pids: Vec<String> = self.proxies()?.iter().map(ToString::to_string).collect();
            let watched = pids.iter().flat_map(|pid| ["--watch", pid.as_str()]);
            let _: Vec<i32> = self.client(&["pin", "--cpu", &cpu].into_iter().chain(watched).collect::<Vec<_>>())?;
            Ok::<_, anyhow::Error>(())
        };
        if self.broken.is_none() && self.has_proxies() {
            self.broken = pinned().err().map(|error| format!("proxies could not be pinned: {error:#}"));
        }
    }

    /// Runs a load on this path; the proxies are watched.
    pub(super) fn load<T: DeserializeOwned>(&self, port: Port, arguments: &[&str]) -> Result<T> {
        if let Some(why) = &self.broken {
            bail!("{why}");
        }
        self.run(port, arguments)
    }

    fn run<T: DeserializeOwned>(&self, port: Port, arguments: &[&str]) -> Result<T> {
        let target = self.target(port)?.to_string();
        let pids: Vec<String> = self.proxies()?.iter().map(ToString::to_string).collect();
        let mut all = arguments.to_vec();
        all.extend(["--target", &target]);
        all.extend(pids.iter().flat_map(|pid| ["--watch", pid.as_str()]));
        self.client(&all)
    }

    /// What the proxies use now.
    pub(super) fn usage(&self) -> Result<Vec<crate::load::Usage>> {
        if let Some(why) = &self.broken {
            bail!("{why}");
        }
        let pids: Vec<String> = self.proxies()?.iter().map(ToString::to_string).collect();
        let mut all = vec!["usage"];
        all.extend(pids.iter().flat_map(|pid| ["--watch", pid.as_str()]));
        self.client(&all)
    }

    /// Runs `fairway-bench load` in the client pod.
    fn client<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let pod = format!("{}/client", self.namespace);
        let command: Vec<&str> = [self.stage.bench(), "load"].into_iter().chain(arguments.iter().copied()).collect();
        let output = self.stage.lab.exec(&pod, &command).map_err(said)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", said.trim().trim_start_matches("error: "));
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("reading what `load {}` printed", arguments.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_hold_three_pods_in_each_namespace() {
        let text = manifests("/bin/bench", Some(1));
        assert_eq!(text.matches("kind: Pod\n").count(), 6);
        assert_eq!(text.matches("ambient").count(), 1);
        assert_eq!(text.matches("command: [\"/bin/bench\", sink, --cpu, \"1\"]").count(), 4);
    }
}
