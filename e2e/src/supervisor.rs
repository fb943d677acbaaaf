//! The supervisor's event loop: it owns the lab's state and brings what runs in line with what the manifests say.

mod pods;
mod report;
mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use fairway_core::source::directory::{self, Loaded};
use fairway_core::source::objects::{is_host_network, is_terminating, node_name as wished_node};
use fairway_core::source::status::Writer;
use fairway_core::source::{Kind, ObjectKey};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::addresses::{self, node_name};
use crate::cni::{self, Chain};
use crate::component::{self, Component};
use crate::control::Request;
use crate::error::{Doing, Error, Result};
use crate::hosts;
use crate::kubelet::{self, Fixed, Placement, Progress};
use crate::kubernetes::{self, Kubernetes};
use crate::layout::Layout;
use crate::network;
use crate::options::Config;
use crate::pod::{self, PodEvent, PodTask};
use crate::reaper::Reaper;
use crate::sandbox::{Plan, Sandbox};
use crate::schedule;
use crate::service_proxy;
use crate::services::{self, ServiceAddresses};
use crate::token;
use crate::volumes::{self, Order, Supply};

/// Name of the namespace that holds the bridge and the controller.
const UNDERLAY: &str = "underlay";
/// Pods a node takes: its addresses.
const POD_CAPACITY: usize = 253;
/// Events not yet looked at; senders wait.
const WAITING_EVENTS: usize = 256;

/// Something the loop reacts to.
type PodNotice = (ObjectKey, String, PodEvent);
type Question = (Request, oneshot::Sender<Result<serde_json::Value>>);

struct Node {
    number: u8,
    sandbox: Sandbox,
    /// The service rules it has.
    rules: String,
}

struct PodRecord {
    placement: Placement,
    /// Whether it takes one of its node's pod addresses.
    has_network: bool,
    fixed: Fixed,
    tid: Option<i32>,
    progress: Progress,
    stop: CancellationToken,
    hosts: String,
}

struct Supervisor {
    config: Config,
    reaper: Reaper,
    writer: Writer,
    underlay: Sandbox,
    nodes: Vec<Node>,
    components: Vec<Component>,
    issuer: Arc<token::Issuer>,
    /// Where pods order their volumes.
    orders: mpsc::Sender<Order>,
    /// None in a lab whose manifests say what there is.
    kubernetes: Option<Kubernetes>,
    pods: BTreeMap<ObjectKey, PodRecord>,
    /// Pods that could not be placed, and why.
    unplaced: BTreeMap<ObjectKey, String>,
    services: ServiceAddresses,
    world: Arc<Loaded>,
    pod_events: mpsc::Sender<PodNotice>,
}

/// Runs the lab until it is killed.
pub(crate) async fn run(config: Config) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::new("info");
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let reaper = Reaper::default();
    let mut children = signal(SignalKind::child()).doing(|| "listening for ended children")?;
    let collector = reaper.clone();
    tokio::spawn(async move {
        loop {
            // Once before the first signal too: a child may have ended earlier.
            collector.collect();
            if children.recv().await.is_none() {
                return;
            }
        }
    });
    if config.tied {
        tokio::spawn(end_with_owner());
    }
    let (pod_events, mut notices) = mpsc::channel(WAITING_EVENTS);
    let (component_events, mut changes) = mpsc::channel(1);
    let (questions, mut asked) = mpsc::channel(WAITING_EVENTS);
    let layout = Layout::inside();
    let listener = serve::listen(&layout)?;
    let manifests = layout.manifests();
    fs::create_dir_all(&manifests).doing(|| "creating the manifests' directory")?;
    if config.mesh && config.binaries.kubernetes.is_none() {
        let system = manifests.join("fairway-system.yaml");
        fs::write(&system, kubelet::system_manifest(config.nodes)).doing(|| format!("writing {}", system.display()))?;
    }
    let mut world = directory::watch_whole(&manifests);
    let (orders, ordered) = mpsc::channel(volumes::WAITING_ORDERS);
    let first = world.borrow_and_update().clone();
    let mut supervisor = Supervisor::new(config, reaper, first, pod_events, orders).await?;
    if supervisor.config.binaries.kubernetes.is_some() {
        let (config, underlay) = (&supervisor.config, &supervisor.underlay);
        let started = Kubernetes::start(config, underlay, ordered, component_events.clone()).await?;
        supervisor.kubernetes = Some(started);
    } else {
        tokio::spawn(volumes::run(Supply::Lab(Arc::clone(&supervisor.issuer)), ordered));
    }
    supervisor.write_tokens()?;
    supervisor.start_components(&component_events);
    supervisor.reconcile().await;
    // From here on the lab is up: `lab up` waits for this answer.
    tokio::spawn(serve::run(listener, questions));
    let mut renewal = tokio::time::interval(token::RENEWAL);
    renewal.reset();
    loop {
        tokio::select! {
            Some(notice) = notices.recv() => {
                supervisor.heard(notice);
                while let Ok(notice) = notices.try_recv() {
                    supervisor.heard(notice);
                }
            }
            changed = world.changed() => {
                changed.doing(|| "watching the manifests")?;
                supervisor.world = world.borrow_and_update().clone();
            }
            Some(()) = changes.recv() => {}
            Some((request, answer)) = asked.recv() => {
                supervisor.answer(request, answer);
                continue;
            }
            _ = renewal.tick() => {
                if let Err(error) = supervisor.write_tokens() {
                    tracing::error!(%error, "cannot renew tokens; trying again at the next renewal");
                }
                continue;
            }
        }
        supervisor.reconcile().await;
    }
}

/// Ends the lab when the process that owns it closes the pipe, however it ended.
async fn end_with_owner() {
    use tokio::io::AsyncReadExt;
    let mut byte = [0];
    let _ = tokio::io::stdin().read(&mut byte).await;
    tracing::info!("the owner of this lab has ended, so the lab ends");
    std::process::exit(0);
}

impl Supervisor {
    async fn new(
        config: Config,
        reaper: Reaper,
        world: Arc<Loaded>,
        pod_events: mpsc::Sender<PodNotice>,
        orders: mpsc::Sender<Order>,
    ) -> Result<Self> {
        let writer = Writer::new(&Layout::inside().manifests(), "lab").doing(|| "preparing status")?;
        let underlay = namespace(&config, &reaper, UNDERLAY, network::underlay()).await?;
        let mut nodes = Vec::new();
        for number in 1..=config.nodes {
            let name = node_name(number);
            let directory = Layout::inside().node(&name);
            fs::create_dir_all(&directory).doing(|| format!("creating {}", directory.display()))?;
            let sandbox = namespace(&config, &reaper, &name, String::new()).await?;
            run_ip(&config, &reaper, &underlay, network::plug_node(number)).await?;
            run_ip(&config, &reaper, &sandbox, network::node(number, config.nodes)).await?;
            cni::prepare(number)?;
            nodes.push(Node { number, sandbox, rules: String::new() });
        }
        let components =
            component::specs(&config).into_iter().map(|spec| Component::new(spec, reaper.clone())).collect();
        Ok(Self {
            config,
            reaper,
            writer,
            underlay,
            nodes,
            components,
            issuer: Arc::new(token::Issuer::generate()?),
            orders,
            kubernetes: None,
            pods: BTreeMap::new(),
            unplaced: BTreeMap::new(),
            services: ServiceAddresses::default(),
            world,
            pod_events,
        })
    }

    fn start_components(&self, changed: &mpsc::Sender<()>) {
        for component in &self.components {
            let node = component.node().and_then(|number| self.nodes.iter().find(|node| node.number == number));
            let sandbox = node.map_or(&self.underlay, |node| &node.sandbox).clone();
            tokio::spawn(component.clone().run(sandbox, changed.clone()));
        }
    }

    /// Writes the tokens of ztunnels; the lab's Kubernetes issues its own.
    fn write_tokens(&self) -> Result<()> {
        if self.kubernetes.is_some() {
            return Ok(());
        }
        let layout = Layout::inside();
        crate::process::write_atomically(&layout.token_public_key(), self.issuer.public_key().as_bytes())?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).doing(|| "reading the clock")?.as_secs();
        for node in &self.nodes {
            let name = node_name(node.number);
            let subject = token::Subject {
                namespace: kubelet::SYSTEM_NAMESPACE.to_owned(),
                service_account: "ztunnel".to_owned(),
                service_account_uid: "fairway-system-ztunnel".to_owned(),
                pod: kubelet::ztunnel_pod(&name),
                pod_uid: kubelet::ztunnel_pod(&name),
                node: name.clone(),
            };
            let token = self.issuer.sign(&subject, token::AUDIENCE, now)?;
            let path = layout.node_token(&name);
            let temporary = path.with_extension("partial");
            fs::write(&temporary, token)
                .and_then(|()| fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600)))
                .and_then(|()| fs::rename(&temporary, &path))
                .doing(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// Takes note of what became of a pod.
    fn heard(&mut self, (key, uid, event): PodNotice) {
        let Some(record) = self.pods.get_mut(&key).filter(|record| record.placement.uid == uid) else { return };
        match event {
            PodEvent::Networked(tid, address) => {
                (record.tid, record.placement.address) = (Some(tid), Some(address));
            }
            PodEvent::Progress(progress) => record.progress = progress,
            PodEvent::Gone => {
                self.pods.remove(&key);
                // Its agent takes the missing uid as the end of this pod, also when another of the same name follows.
                note(self.writer.remove(&key));
            }
        }
    }

    /// Brings everything in line with the world.
    async fn reconcile(&mut self) {
        let world = self.world.clone();
        for (key, addresses) in self.services.update(&world.objects) {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            note(self.writer.write(&key, json!({"spec": {"clusterIP": addresses.first(), "clusterIPs": addresses}})));
        }
        self.reconcile_pods(&world);
        self.write_status(&world);
        if let Some(kubernetes) = &self.kubernetes {
            kubernetes.report(self.reports(&world));
        }
        self.reconcile_hosts(&world);
        self.reconcile_rules(&world).await;
    }

    fn reconcile_pods(&mut self, world: &Loaded) {
        let wanted: BTreeSet<&ObjectKey> = world
            .objects
            .whole_pods
            .iter()
            .filter(|(key, pod)| !kubelet::is_component(key, &pod.metadata))
            .map(|(key, _)| key)
            .collect();
        for (key, record) in &self.pods {
            let same = world.objects.whole_pods.get(key).is_some_and(|pod| record.is(pod));
            if !same {
                record.stop.cancel();
            }
        }
        self.unplaced.clear();
        for key in wanted {
            let Some(pod) = world.objects.whole_pods.get(key) else { continue };
            if self.pods.contains_key(key) {
                continue;
            }
            if self.config.mesh && self.kubernetes.is_none() && kubelet::is_captured(pod) {
                // Said of a pod that is gone; peers would take it for the new one's.
                self.unplaced.insert(key.clone(), "waiting for the agent to let go of its predecessor".to_owned());
                continue;
            }
            if self.kubernetes.is_some() && is_terminating(pod) {
                // It has ended, and is reported so.
                continue;
            }
            if let Err(reason) = self.start_pod(world, key) {
                self.unplaced.insert(key.clone(), reason);
            }
        }
    }

    fn start_pod(&mut self, world: &Loaded, key: &ObjectKey) -> std::result::Result<(), String> {
        let Some(pod) = world.objects.whole_pods.get(key) else { return Ok(()) };
        if self.kubernetes.is_some() && wished_node(pod).is_none() {
            return Err("waiting for the scheduler".to_owned());
        }
        let load: Vec<usize> = self.nodes.iter().map(|node| self.pods_with_network(node.number)).collect();
        let number = schedule::place(wished_node(pod), &load, POD_CAPACITY)?;
        let uid = match kubernetes::uid(pod) {
            Some(uid) => uid.to_owned(),
            None => new_uid().map_err(|error| error.to_string())?,
        };
        let Some(node) = self.nodes.iter().find(|node| node.number == number) else { return Ok(()) };
        let has_network = !is_host_network(pod);
        let chain = || Chain::new(number, node.sandbox.clone(), self.reaper.clone(), self.config.path.clone());
        let placement = Placement { uid, node: number, address: None };
        let stop = CancellationToken::new();
        let task = PodTask {
            key: key.clone(),
            pod: pod.clone(),
            placement: placement.clone(),
            chain: has_network.then(chain),
            mesh: self.config.mesh,
            node: node.sandbox.clone(),
            reaper: self.reaper.clone(),
            variables: self.variables(),
            orders: self.orders.clone(),
            hosts: hosts::entries(&world.objects, &self.services),
            stop: stop.clone(),
            events: self.pod_events.clone(),
        };
        tokio::spawn(task.run());
        let record = PodRecord {
            placement,
            has_network,
            fixed: Fixed::of(pod),
            tid: None,
            progress: Progress { waiting: Some("its network is being made".to_owned()), containers: Vec::new() },
            stop,
            hosts: String::new(),
        };
        self.pods.insert(key.clone(), record);
        Ok(())
    }

    fn pods_with_network(&self, node: u8) -> usize {
        self.pods.values().filter(|record| record.placement.node == node && record.has_network).count()
    }

    /// Writes pods' status. The agent has to see a pod's uid and node before the runtime asks it about the pod; the
    /// addresses follow once there are any.
    fn write_status(&self, world: &Loaded) {
        for (key, record) in &self.pods {
            if world.objects.whole_pods.contains_key(key) && !record.stop.is_cancelled() {
                note(self.writer.write(key, kubelet::pod_status(&record.placement, &record.progress)));
            }
        }
        for node in &self.nodes {
            let key = kubelet::system_pod(&node_name(node.number));
            if let Some(status) = self.component_status(world, &key) {
                note(self.writer.write(&key, status));
            }
        }
    }

    /// Status of the pod that stands for a ztunnel, if `key` is one.
    fn component_status(&self, world: &Loaded, key: &ObjectKey) -> Option<serde_json::Value> {
        let pod = world.objects.whole_pods.get(key).filter(|pod| kubelet::is_component(key, &pod.metadata))?;
        let component = self.components.iter().find(|component| component.name() == key.name)?;
        let number = component.node()?;
        let uid = kubernetes::uid(pod).unwrap_or(component.name()).to_owned();
        let container = crate::container::ContainerState {
            name: "ztunnel".to_owned(),
            pid: Some(1),
            ready: component.status().ready,
            ..crate::container::ContainerState::default()
        };
        let progress = Progress { waiting: None, containers: vec![container] };
        let placement = Placement { uid, node: number, address: Some(addresses::node(number)) };
        Some(kubelet::pod_status(&placement, &progress))
    }

    fn reconcile_hosts(&mut self, world: &Loaded) {
        let entries = hosts::entries(&world.objects, &self.services);
        for (key, record) in &mut self.pods {
            let Some(address) = record.placement.address else { continue };
            let hosts = hosts::render(&entries, &key.namespace, &key.name, &address.both());
            if record.hosts == hosts || record.stop.is_cancelled() {
                continue;
            }
            match pod::write_in_place(&pod::hosts_file(&record.placement.uid), &hosts) {
                Ok(()) => record.hosts = hosts,
                Err(error) => tracing::error!(pod = %key, %error, "cannot update a pod's hosts file"),
            }
        }
    }

    async fn reconcile_rules(&mut self, world: &Loaded) {
        let frontends = match &self.kubernetes {
            Some(kubernetes) => kubernetes.frontends(),
            None => Arc::new(services::frontends(&world.objects, &self.services)),
        };
        for node in &mut self.nodes {
            let script = service_proxy::script(&frontends, addresses::node(node.number));
            if node.rules == script {
                continue;
            }
            let (reaper, path, rules) = (self.reaper.clone(), self.config.path.clone(), script.clone());
            let applied =
                node.sandbox.run(move || service_proxy::apply(&reaper, &path, &rules)).await.and_then(|result| result);
            match applied {
                Ok(()) => node.rules = script,
                Err(error) => tracing::error!(node = node.number, %error, "cannot write the service rules"),
            }
        }
    }
}

/// Makes the network namespace of a node or the underlay.
async fn namespace(config: &Config, reaper: &Reaper, name: &str, script: String) -> Result<Sandbox> {
    let sandbox = Sandbox::start(Plan { network: name.to_owned(), fresh: true, files: None }).await?;
    sandbox.run(|| network::configure(true)).await??;
    if !script.is_empty() {
        run_ip(config, reaper, &sandbox, script).await?;
    }
    Ok(sandbox)
}

async fn run_ip(config: &Config, reaper: &Reaper, sandbox: &Sandbox, script: String) -> Result<()> {
    let (reaper, path) = (reaper.clone(), config.path.clone());
    sandbox.run(move || network::apply(&reaper, &path, &script)).await?
}

/// A random uid, from the kernel.
fn new_uid() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    Ok(fs::read_to_string(path).doing(|| format!("reading {path}"))?.trim().to_owned())
}

fn note(result: std::result::Result<(), fairway_core::source::status::StatusError>) {
    if let Err(error) = result {
        tracing::error!(%error, "cannot write status");
    }
}

/// The key of a pod by name.
fn pod_key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(Kind::Pod, namespace, name)
}

fn unknown(what: &str, name: &str, known: &[String]) -> Error {
    let hint =
        if known.is_empty() { format!("there is no {what} yet") } else { format!("there are: {}", known.join(", ")) };
    Error::new(format!("no {what} called `{name}`")).hint(hint)
}
