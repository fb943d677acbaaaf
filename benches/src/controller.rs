//! What a large mesh costs the controller: memory, the time to tell everything, the time to tell of one change.
//!
//! The controller is the real program. Its API server is in this process ([`api`]), as far as a controller asks for
//! anything: it lists made-up objects ([`mesh`]) as long as real ones and tells of changes. So are the node proxies
//! ([`client`]): each has a connection and a stream of its own, and answers all that it is sent. Clients but the first two
//! come as those that hold everything already, by digest.

mod api;
mod client;
mod mesh;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fairway_core::io::xds::Digest;
use tokio::sync::mpsc;

use crate::histogram::{Histogram, Percentiles};
use crate::table::{Table, significant};
use crate::{facts, limits, procfs};
use api::Api;
use client::Client;
use mesh::Mesh;

/// Ends a run in which something never happens.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a start is looked at; what is measured from it is at most this much too long.
const PERIOD: Duration = Duration::from_millis(5);
/// Time in which what has gone is given back, before memory is read.
const SETTLE: Duration = Duration::from_secs(3);
/// Pause between changes that are timed one by one.
const PAUSE: Duration = Duration::from_millis(100);
/// Changes a second under load.
const RATE: u32 = 50;
/// Pods that come and go at once, and how many of them each slice names.
const CROWD: u32 = 1_000;
const SLICE: u32 = 100;
/// Cycles after which memory is taken for what it is from then on.
const WARM_UP: u32 = 3;
const MEGABYTE: f64 = 1e6;

/// Flags.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Services, each with a slice and an account.
    #[arg(long, default_value_t = 20_000)]
    services: u32,
    /// Pods.
    #[arg(long, default_value_t = 100_000)]
    pods: u32,
    /// Policies, each of which selects the pods of one service.
    #[arg(long, default_value_t = 1_000)]
    policies: u32,
    /// Routes.
    #[arg(long, default_value_t = 500)]
    routes: u32,
    /// Node proxies that are connected while things change.
    #[arg(long, default_value_t = 200)]
    clients: u32,
    /// Changes that are timed one by one.
    #[arg(long, default_value_t = 100)]
    changes: u32,
    /// Seconds of 50 changes each.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// How often 1,000 pods come and go.
    #[arg(long, default_value_t = 20)]
    cycles: u32,
    /// The controller's program [default: beside this one].
    #[arg(long, value_name = "FILE")]
    controller: Option<PathBuf>,
}

/// Measures, and prints a table.
///
/// # Errors
/// When something does not start, or never happens.
pub(crate) fn run(options: &Options) -> Result<()> {
    limits::raise_open_files();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(options))
}

/// The controller's process, and its files.
struct Controller {
    process: Child,
    directory: PathBuf,
    started: Instant,
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Controller {
    fn start(options: &Options, api: &str, listen: &str) -> Result<Self> {
        let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("controller"));
        let program = options.controller.clone().map_or_else(beside, Ok)?;
        let directory = std::env::temp_dir().join(format!("fwbench-controller-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let kubeconfig = directory.join("kubeconfig");
        let text = serde_json::json!({"apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": format!("http://{api}")}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
            "users": [{"name": "bench", "user": {}}]});
        std::fs::write(&kubeconfig, text.to_string())?;
        let started = Instant::now();
        let process = Command::new(&program)
            .args(["--source", "kubernetes", "--waypoints", "false", "--log", "warn", "--admin-listen", "127.0.0.1:0"])
            .args(["--listen", listen, "--max-connection-age", "0s", "--ca-secret", ""])
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .arg("--state-dir")
            .arg(directory.join("state"))
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { process, directory, started })
    }

    fn root(&self) -> PathBuf {
        self.directory.join("state/ca/root-cert.pem")
    }

    fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.process.id())?)
    }

    fn resident(&self) -> Result<f64> {
        Ok(crate::measured::float(procfs::resident(self.pid()?)?) / MEGABYTE)
    }

    async fn settled(&self) -> Result<f64> {
        tokio::time::sleep(SETTLE).await;
        self.resident()
    }

    fn cpu(&self) -> Result<Duration> {
        procfs::cpu_time(self.pid()?)
    }
}

/// A port of the loopback that was free.
fn free_address() -> Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

async fn until_there(path: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        ensure!(Instant::now() < deadline, "{} does not come to be", path.display());
        tokio::time::sleep(PERIOD).await;
    }
    Ok(())
}

async fn soon<T>(what: &str, future: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(result) => result.with_context(|| what.to_owned()),
        Err(_) => bail!("{what}: not within {PATIENCE:?}"),
    }
}

async fn measure(options: &Options) -> Result<()> {
    let Options { services, pods, policies, routes, .. } = *options;
    let mesh = Mesh { services, pods, policies, routes };
    let (api, api_address) = Api::start(mesh).await?;
    let listen = free_address()?;
    let controller = Controller::start(options, &api_address.to_string(), &listen)?;
    until_there(&controller.root()).await?;
    let control = client::control_plane(&listen, &controller.root())?;
    let mut rows = Vec::new();
    let mut row = |name: &str, unit: &str, value: f64, bar: &str| {
        rows.push([name.to_owned(), unit.to_owned(), significant(value), bar.to_owned()]);
    };

    let mut first = soon("connecting", async {
        loop {
            match Client::open(&control, 0, None).await {
                Ok(client) => return Ok(client),
                Err(_) => tokio::time::sleep(PERIOD).await,
            }
        }
    })
    .await?;
    let held = soon("the first full push", first.take_all(mesh.resources())).await?;
    row("start of the process to first full push", "s", controller.started.elapsed().as_secs_f64(), "≤ 5");
    let started = Instant::now();
    let mut second = Client::open(&control, 1, None).await?;
    soon("a full push", second.take_all(mesh.resources())).await?;
    row("full push to one more ztunnel", "s", started.elapsed().as_secs_f64(), "≤ 2");
    row("RSS after that", "MB", controller.settled().await?, "≤ 700");
    let peak = crate::measured::float(procfs::peak_resident(controller.pid()?)?) / MEGABYTE;
    row("  (most RSS until then)", "MB", peak, "");

    let digest = Digest::of(held.len(), held.iter().map(|(name, version)| (name.as_str(), version.as_str())));
    drop(held);
    let names: Arc<Vec<String>> = Arc::new((0..options.changes.max(1)).map(|number| mesh.uid(number * 7)).collect());
    let (seen, mut sightings) = mpsc::unbounded_channel();
    let mut clients = tokio::task::JoinSet::new();
    clients.spawn(first.follow(Arc::clone(&names), seen.clone()));
    clients.spawn(second.follow(Arc::clone(&names), seen.clone()));
    let (cpu, started) = (controller.cpu()?, Instant::now());
    for number in 2..options.clients {
        let mut client = Client::open(&control, number, Some(&digest)).await?;
        soon("resuming", client.take_answers()).await?;
        clients.spawn(client.follow(Arc::clone(&names), seen.clone()));
    }
    let resumed = f64::from(options.clients.saturating_sub(2).max(1));
    row("  (one client that resumes)", "ms", started.elapsed().as_secs_f64() * 1e3 / resumed, "");
    row("  (the controller's part)", "ms CPU", (controller.cpu()? - cpu).as_secs_f64() * 1e3 / resumed, "");

    let mut latencies = Histogram::default();
    for (place, number) in (0..options.changes).map(|it| (usize::try_from(it).unwrap_or_default(), it * 7)) {
        let object = mesh.pod(number, "v2");
        let told = Instant::now();
        api.tell("pods", "MODIFIED", &object);
        let last = soon("a change", async {
            let mut waiting = options.clients;
            loop {
                let Some((which, when)) = sightings.recv().await else { bail!("all clients have gone") };
                waiting -= u32::from(which == place);
                if waiting == 0 {
                    return Ok(when);
                }
            }
        });
        latencies.record(last.await? - told);
        tokio::time::sleep(PAUSE).await;
    }
    let Percentiles { p50, p99, .. } = latencies.percentiles().context("no change was seen")?;
    let of = format!("one pod's change to {} clients, p", options.clients);
    row(&format!("{of}50"), "ms", crate::measured::float(p50) / 1e6, "");
    row(&format!("{of}99"), "ms", crate::measured::float(p99) / 1e6, "≤ 100");

    let (cpu, started) = (controller.cpu()?, Instant::now());
    for tick in 0..options.seconds * RATE {
        api.tell("pods", "MODIFIED", &mesh.pod((tick * 31) % mesh.pods, &format!("v{}", 3 + tick / mesh.pods)));
        tokio::time::sleep_until((started + Duration::from_secs(1) / RATE * (tick + 1)).into()).await;
    }
    let cores = (controller.cpu()? - cpu).as_secs_f64() / started.elapsed().as_secs_f64();
    row(&format!("{RATE} changes a second for {} s", options.seconds), "cores", cores, "≤ 0.5");

    let mut before = 0.0;
    for cycle in 0..options.cycles {
        crowd(&api, mesh, "ADDED").await;
        crowd(&api, mesh, "DELETED").await;
        if cycle + 1 == WARM_UP.min(options.cycles) {
            before = controller.settled().await?;
        }
    }
    let after = controller.settled().await?;
    let name = format!("RSS after {} more cycles of {CROWD} pods", options.cycles.saturating_sub(WARM_UP));
    row(&name, "% of before", after / before * 100.0, "98 to 102");
    row("  (RSS at the end)", "MB", after, "");
    ensure!(clients.try_join_next().is_none(), "a client was disconnected");

    let mut table = Table::default();
    table.row(["measure", "unit", "value", "bar"]);
    rows.into_iter().for_each(|row| table.row(row));
    println!(
        "{}, {}, {}\n{services} services, {pods} pods, {policies} policies, {routes} routes, {} clients\n\n{}",
        facts::processors(),
        facts::kernel(),
        facts::PROFILE,
        options.clients,
        table.render()
    );
    Ok(())
}

/// Tells that a crowd of pods has come or gone, with the slices that name them, and gives that time to be told on.
async fn crowd(api: &Api, mesh: Mesh, what: &str) {
    for first in (0..CROWD).step_by(usize::try_from(SLICE).unwrap_or(1)) {
        // Pods of ten services, beyond those that are always there.
        let app = first / SLICE;
        let members: Vec<u32> = (0..SLICE).map(|it| mesh.pods + app + (first + it) * mesh.services).collect();
        let slice = mesh.slice(app, "crowd", &members);
        members.iter().for_each(|number| api.tell("pods", what, &mesh.pod(*number, "v1")));
        api.tell("endpointslices", what, &slice);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
}
