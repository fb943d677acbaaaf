//! The mesh's own processes: controller, and per node ztunnel and agent; started in order, restarted when they end.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::addresses::{self, UNDERLAY_V4};
use crate::backoff::Backoff;
use crate::cni;
use crate::http;
use crate::kubelet::{SYSTEM_NAMESPACE, ztunnel_pod};
use crate::kubernetes::control_plane::{self, AGENT, CONTROLLER};
use crate::layout::Layout;
use crate::options::Config;
use crate::reaper::{Exit, Process, Reaper};
use crate::sandbox::Sandbox;
use crate::status::ComponentStatus;

/// Port of the controller's discovery and certificate services.
const CONTROLLER_PORT: u16 = 15012;
/// Port of the controller's admin endpoints.
pub(crate) const CONTROLLER_ADMIN_PORT: u16 = 15014;
/// Port of the agent's endpoints, on its node's loopback.
const AGENT_PORT: u16 = 15114;
/// Port of ztunnel's readiness, on its node.
const ZTUNNEL_READINESS_PORT: u16 = 15021;
/// How often readiness is asked for.
const READINESS_PERIOD: Duration = Duration::from_millis(200);
/// How long a readiness answer may take.
const READINESS_PATIENCE: Duration = Duration::from_secs(1);
/// How often a missing prerequisite file is looked for.
const FILE_PERIOD: Duration = Duration::from_millis(20);

/// How one component is run; data, so that tests can look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) name: String,
    /// Number of its node; the underlay when there is none.
    pub(crate) node: Option<u8>,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    /// Files that must exist before it makes sense to start it.
    pub(crate) requires: Vec<PathBuf>,
    /// URL that answers 200 when it is ready.
    pub(crate) readiness: String,
}

/// Every component of a lab, in start order.
pub(crate) fn specs(config: &Config) -> Vec<Spec> {
    let layout = Layout::inside();
    let mut specs = control_plane::specs(config, &layout);
    if !config.mesh {
        return specs;
    }
    specs.push(controller(config, &layout));
    for number in 1..=config.nodes {
        specs.push(ztunnel(config, &layout, number));
        specs.push(agent(config, &layout, number));
    }
    specs
}

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_string_lossy().into_owned()
}

fn arguments(pairs: &[(&str, String)]) -> Vec<String> {
    pairs.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.clone()]).collect()
}

/// What every component gets, then what the options add for this kind of component and for this one.
pub(crate) fn environment(config: &Config, kind: &str, name: &str, own: &[(&str, String)]) -> BTreeMap<String, String> {
    let mut environment = config.passed.clone();
    environment.insert("PATH".to_owned(), config.path.clone());
    environment.entry("RUST_LOG".to_owned()).or_insert_with(|| "info".to_owned());
    environment.extend(own.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    for key in [kind, name] {
        environment.extend(config.environment.get(key).cloned().unwrap_or_default());
    }
    environment
}

/// How a part of the mesh reads from the lab's API server, as this service account.
fn api_server(layout: &Layout, account: &str) -> Vec<String> {
    arguments(&[("--source", "kubernetes".to_owned()), ("--kubeconfig", text(layout.account_kubeconfig(account)))])
}

fn controller(config: &Config, layout: &Layout) -> Spec {
    // With a Kubernetes of the lab's own, objects are read from it, and it is asked about tokens.
    let (source, requires) = match config.binaries.kubernetes {
        Some(_) => (api_server(layout, CONTROLLER), layout.account_token(CONTROLLER)),
        None => (
            arguments(&[
                ("--manifests", text(layout.manifests())),
                ("--service-account-key", text(layout.token_public_key())),
            ]),
            layout.token_public_key(),
        ),
    };
    let mesh =
        if config.mesh_config { arguments(&[("--mesh-config", text(layout.mesh_config()))]) } else { Vec::new() };
    let own = arguments(&[
        ("--state-dir", text(layout.controller())),
        // The same after a restart, so that it holds the lease still.
        ("--replica", "controller".to_owned()),
        ("--listen", format!("[::]:{CONTROLLER_PORT}")),
        ("--admin-listen", format!("[::]:{CONTROLLER_ADMIN_PORT}")),
        ("--tls-san", UNDERLAY_V4.to_string()),
        ("--waypoint-controller", format!("https://{UNDERLAY_V4}:{CONTROLLER_PORT}")),
    ]);
    Spec {
        name: "controller".to_owned(),
        node: None,
        program: config.binaries.controller.clone(),
        arguments: [source, own, mesh].concat(),
        environment: environment(config, "controller", "controller", &[]),
        requires: vec![requires],
        readiness: format!("http://{UNDERLAY_V4}:{CONTROLLER_ADMIN_PORT}/ready"),
    }
}

fn ztunnel(config: &Config, layout: &Layout, number: u8) -> Spec {
    let node = addresses::node_name(number);
    let server = format!("https://{UNDERLAY_V4}:{CONTROLLER_PORT}");
    let root = text(layout.root_certificate());
    let own = [
        ("XDS_ADDRESS", server.clone()),
        ("CA_ADDRESS", server),
        ("XDS_ROOT_CA", root.clone()),
        ("CA_ROOT_CA", root),
        ("INPOD_UDS", text(layout.node_socket(&node))),
        ("FAIRWAY_STATE_DIR", text(layout.ztunnel_state(&node))),
        ("NODE_NAME", node.clone()),
        ("POD_NAME", ztunnel_pod(&node)),
        ("POD_NAMESPACE", SYSTEM_NAMESPACE.to_owned()),
        ("SERVICE_ACCOUNT", "ztunnel".to_owned()),
        ("AUTH_TOKEN", text(layout.node_token(&node))),
        ("INSTANCE_IP", addresses::node(number).v4.to_string()),
        ("CLUSTER_ID", "Kubernetes".to_owned()),
    ];
    Spec {
        name: ztunnel_pod(&node),
        node: Some(number),
        program: config.binaries.ztunnel_of(number).to_owned(),
        arguments: Vec::new(),
        environment: environment(config, "ztunnel", &ztunnel_pod(&node), &own),
        requires: vec![layout.root_certificate(), layout.node_token(&node)],
        readiness: format!("http://127.0.0.1:{ZTUNNEL_READINESS_PORT}/healthz/ready"),
    }
}

fn agent(config: &Config, layout: &Layout, number: u8) -> Spec {
    let node = addresses::node_name(number);
    let name = format!("agent-{node}");
    let (source, requires) = match config.binaries.kubernetes {
        Some(_) => (api_server(layout, AGENT), vec![layout.account_token(AGENT)]),
        None => (arguments(&[("--manifests", text(layout.manifests()))]), Vec::new()),
    };
    let own = arguments(&[("--node-name", node.clone()), ("--monitoring-listen", format!("127.0.0.1:{AGENT_PORT}"))]);
    Spec {
        environment: environment(config, "agent", &name, &[]),
        name,
        node: Some(number),
        program: config.binaries.agent.clone(),
        arguments: [source, own, cni::agent_places(number, layout).arguments()].concat(),
        requires,
        readiness: format!("http://127.0.0.1:{AGENT_PORT}/readyz"),
    }
}

/// A component that is kept running.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    spec: Arc<Spec>,
    reaper: Reaper,
    state: Arc<Mutex<ComponentStatus>>,
}

impl Component {
    pub(crate) fn new(spec: Spec, reaper: Reaper) -> Self {
        let state = ComponentStatus {
            name: spec.name.clone(),
            node: spec.node.map(addresses::node_name),
            message: Some("starting".to_owned()),
            ..ComponentStatus::default()
        };
        Self { spec: Arc::new(spec), reaper, state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    pub(crate) fn node(&self) -> Option<u8> {
        self.spec.node
    }

    pub(crate) fn status(&self) -> ComponentStatus {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut ComponentStatus)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Sends a signal to the running process; gives its pid.
    pub(crate) fn signal(&self, signal: Signal) -> Option<i32> {
        let pid = self.status().pid?;
        self.reaper.signal(pid, signal);
        Some(pid)
    }

    /// Keeps it running for ever; `changed` hears of every change of readiness.
    pub(crate) async fn run(self, sandbox: Sandbox, changed: mpsc::Sender<()>) {
        let mut backoff = Backoff::default();
        loop {
            self.await_requirements().await;
            let started = Instant::now();
            let message = match self.start(&sandbox).await {
                Ok(process) => self.attend(process, &sandbox, &changed).await,
                Err(message) => message,
            };
            tracing::warn!(component = self.name(), why = message, "component ended");
            self.change(|state| (state.pid, state.ready, state.message) = (None, false, Some(message)));
            // Readiness is read from the state, so one pending notice is enough.
            let _ = changed.try_send(());
            sleep(backoff.after_run(started.elapsed())).await;
            self.change(|state| state.restarts = state.restarts.saturating_add(1));
        }
    }

    async fn await_requirements(&self) {
        for file in &self.spec.requires {
            while !file.exists() {
                self.change(|state| state.message = Some(format!("waiting for {}", file.display())));
                sleep(FILE_PERIOD).await;
            }
        }
    }

    async fn start(&self, sandbox: &Sandbox) -> Result<Process, String> {
        let (spec, reaper) = (self.spec.clone(), self.reaper.clone());
        let spawned =
            sandbox.run(move || reaper.spawn(&mut command(&spec)?)).await.map_err(|error| error.to_string())?;
        let process = spawned.map_err(|error| format!("cannot run {}: {error}", self.spec.program.display()))?;
        tracing::info!(component = self.name(), pid = process.pid, "component started");
        self.change(|state| (state.pid, state.message) = (Some(process.pid), Some("not ready yet".to_owned())));
        Ok(process)
    }

    /// Follows readiness until the process ends; says how it did.
    async fn attend(&self, mut process: Process, sandbox: &Sandbox, changed: &mpsc::Sender<()>) -> String {
        loop {
            let asked = http::fetch(sandbox, &self.spec.readiness, READINESS_PATIENCE);
            let answer = tokio::select! {
                exit = &mut process.exit => return ended(exit.ok()),
                answer = asked => answer,
            };
            let message = match answer {
                Ok(answer) if answer.status == 200 => None,
                Ok(answer) => Some(answer.body.trim().chars().take(MAX_MESSAGE_CHARACTERS).collect()),
                Err(_) => Some("not ready: its readiness endpoint does not answer".to_owned()),
            };
            let before = self.status().ready;
            self.change(|state| (state.ready, state.message) = (message.is_none(), message));
            if self.status().ready != before {
                let _ = changed.try_send(());
            }
            tokio::select! {
                exit = &mut process.exit => return ended(exit.ok()),
                () = sleep(READINESS_PERIOD) => {}
            }
        }
    }
}

/// Characters of a readiness answer that are shown.
const MAX_MESSAGE_CHARACTERS: usize = 200;

fn ended(exit: Option<Exit>) -> String {
    exit.map_or_else(|| "ended unnoticed".to_owned(), |exit| format!("ended with {exit}"))
}

fn command(spec: &Spec) -> std::io::Result<Command> {
    let log = OpenOptions::new().create(true).append(true).open(Layout::inside().component_log(&spec.name))?;
    let mut command = Command::new(&spec.program);
    command.args(&spec.arguments).env_clear().envs(&spec.environment).current_dir("/");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binaries::Binaries;

    fn config() -> Config {
        let extra = BTreeMap::from([("ZTUNNEL_WORKER_THREADS".to_owned(), "1".to_owned())]);
        Config {
            name: "t".into(),
            nodes: 2,
            mesh: true,
            tied: false,
            mesh_config: false,
            binaries: Binaries {
                fairway: "/f".into(),
                controller: "/c".into(),
                ztunnel: "/z".into(),
                node_ztunnels: BTreeMap::from([(2, "/other".into())]),
                agent: "/a".into(),
                kubernetes: None,
            },
            path: "/bin".into(),
            passed: BTreeMap::from([("RUST_LOG".to_owned(), "debug".to_owned())]),
            environment: BTreeMap::from([
                ("ztunnel".to_owned(), extra),
                ("ztunnel-node-2".to_owned(), BTreeMap::from([("NETWORK".to_owned(), "far".to_owned())])),
            ]),
        }
    }

    #[test]
    fn the_controller_starts_first_and_every_node_has_a_pair() {
        let names: Vec<String> = specs(&config()).into_iter().map(|spec| spec.name).collect();
        assert_eq!(names, ["controller", "ztunnel-node-1", "agent-node-1", "ztunnel-node-2", "agent-node-2"]);
        assert!(specs(&Config { mesh: false, ..config() }).is_empty());
        let has_mesh_config = |config: &Config| specs(config)[0].arguments.contains(&"--mesh-config".to_owned());
        assert_eq!(
            [false, true].map(|mesh_config| has_mesh_config(&Config { mesh_config, ..config() })),
            [false, true]
        );
    }

    #[test]
    fn kubernetes_comes_before_the_mesh() {
        let mut config = config();
        config.binaries.kubernetes = Some("/k".into());
        let names: Vec<String> = specs(&config).into_iter().map(|spec| spec.name).collect();
        let expected = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "controller"];
        assert_eq!(names[..5], expected);
        assert_eq!(specs(&Config { mesh: false, ..config }).len(), 4);
    }

    #[test]
    fn with_kubernetes_every_part_reads_from_it_as_its_own_account() {
        let mut config = config();
        config.binaries.kubernetes = Some("/k".into());
        let specs = specs(&config);
        for (name, account) in [("controller", "fairway-controller"), ("agent-node-2", "fairway-cni")] {
            let spec = specs.iter().find(|spec| spec.name == name).unwrap();
            let kubeconfig = format!("/run/fairway/kubernetes/{account}.kubeconfig");
            assert_eq!(spec.arguments[..4], ["--source", "kubernetes", "--kubeconfig", kubeconfig.as_str()], "{name}");
            assert!(!spec.arguments.contains(&"--manifests".to_owned()), "{name}");
            assert_eq!(spec.requires, [PathBuf::from(format!("/run/fairway/kubernetes/{account}.token"))]);
        }
    }

    #[test]
    fn one_node_can_have_another_ztunnel_and_environment() {
        let specs = specs(&config());
        assert_eq!((specs[1].program.as_path(), specs[3].program.as_path()), (Path::new("/z"), Path::new("/other")));
        assert_eq!(specs[1].environment.get("NETWORK"), None);
        assert_eq!(specs[3].environment["NETWORK"], "far");
    }

    #[test]
    fn a_ztunnel_knows_its_node_and_waits_for_root_and_token() {
        let specs = specs(&config());
        let spec = &specs[3];
        assert_eq!(spec.environment["NODE_NAME"], "node-2");
        assert_eq!(spec.environment["INPOD_UDS"], "/run/fairway/nodes/node-2/ztunnel.sock");
        assert_eq!(spec.environment["INSTANCE_IP"], "10.99.0.12");
        assert_eq!(spec.environment["RUST_LOG"], "debug");
        assert_eq!(spec.environment["ZTUNNEL_WORKER_THREADS"], "1");
        assert_eq!(specs[0].environment.get("ZTUNNEL_WORKER_THREADS"), None);
        assert!(spec.requires.contains(&"/run/fairway/controller/ca/root-cert.pem".into()));
    }
}
