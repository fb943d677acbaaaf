//! One container: a host program run in its pod's namespaces, restarted as its policy says, probed for readiness.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::kubelet::{Placement, labels};
use crate::probe::{Probe, STARTING_PERIOD};
use crate::reaper::{Exit, Process, Reaper};
use crate::sandbox::Sandbox;

/// Programs of ours that a container can name by its image instead of a command.
const IMAGES: [&str; 4] = ["controller", "fairway", "waypoint", "ztunnel"];

/// What is known of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerState {
    pub(crate) name: String,
    pub(crate) pid: Option<i32>,
    pub(crate) restarts: u32,
    pub(crate) ready: bool,
    /// Set when it will not run again: whether its last run succeeded.
    pub(crate) finished: Option<bool>,
    /// Why it does not run or is not ready.
    pub(crate) message: Option<String>,
}

/// Everything one container needs.
pub(crate) struct Runner {
    pub(crate) launch: Launch,
    pub(crate) probe: Option<Probe>,
    pub(crate) restart: Restart,
    /// How long it may take to end when asked to.
    pub(crate) grace: Duration,
    pub(crate) reaper: Reaper,
    pub(crate) sandbox: Sandbox,
    pub(crate) node: Sandbox,
    /// Where its state goes: its number among the pod's containers, and the state.
    pub(crate) states: mpsc::Sender<(usize, ContainerState)>,
    pub(crate) number: usize,
    pub(crate) state: ContainerState,
}

/// When a container is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Restart {
    pub(crate) fn of(pod: &Pod) -> Self {
        match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    fn again(self, success: bool) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => !success,
            Self::Never => false,
        }
    }
}

/// How a container's program is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    program: Vec<String>,
    environment: BTreeMap<String, String>,
    directory: PathBuf,
    log: PathBuf,
}

impl Launch {
    /// What `container` says to run.
    pub(crate) fn of(
        pod: &Pod,
        container: &Container,
        placement: &Placement,
        variables: &BTreeMap<String, String>,
        log: PathBuf,
    ) -> Result<Self, String> {
        let command = container.command.as_ref().filter(|command| !command.is_empty());
        let entry = command.cloned().or_else(|| container.image.as_deref().and_then(entry_point));
        let Some(entry) = entry else {
            return Err(format!(
                "container {}: command: required, as the lab runs host programs and no images, except its own: {}",
                container.name,
                IMAGES.join(", ")
            ));
        };
        let program: Vec<String> = entry.into_iter().chain(container.args.iter().flatten().cloned()).collect();
        let environment = environment(pod, container, placement, variables);
        let program = program.iter().map(|word| expand(word, &environment)).collect();
        let directory = container.working_dir.clone().unwrap_or_else(|| "/".to_owned()).into();
        Ok(Self { program, environment, directory, log })
    }

    fn command(&self) -> std::io::Result<Command> {
        if let Some(parent) = self.log.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let [program, arguments @ ..] = self.program.as_slice() else {
            return Err(std::io::ErrorKind::InvalidInput.into());
        };
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(&self.environment).current_dir(&self.directory);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }
}

/// The program that an image of ours stands for: `REGISTRY/waypoint:TAG` is the lab's `waypoint`.
fn entry_point(image: &str) -> Option<Vec<String>> {
    let name = image.rsplit('/').next()?.split([':', '@']).next()?;
    IMAGES.contains(&name).then(|| vec![name.to_owned()])
}

/// The environment of a container: what every pod of the lab has, the pod's name, and what the container declares.
fn environment(
    pod: &Pod,
    container: &Container,
    placement: &Placement,
    variables: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut environment = variables.clone();
    environment.insert("HOME".to_owned(), "/".to_owned());
    environment.insert("HOSTNAME".to_owned(), pod.metadata.name.clone().unwrap_or_default());
    for variable in container.env.iter().flatten() {
        let value = match &variable.value {
            Some(value) => Some(expand(value, &environment)),
            None => reference(variable).and_then(|path| field(pod, path, placement)),
        };
        environment.insert(variable.name.clone(), value.unwrap_or_default());
    }
    environment
}

fn reference(variable: &EnvVar) -> Option<&str> {
    Some(&variable.value_from.as_ref()?.field_ref.as_ref()?.field_path)
}

/// The downward API's fields that make sense in the lab.
pub(crate) fn field(pod: &Pod, path: &str, placement: &Placement) -> Option<String> {
    match path {
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.namespace" => pod.metadata.namespace.clone(),
        "metadata.uid" => Some(placement.uid.clone()),
        "spec.nodeName" => Some(crate::addresses::node_name(placement.node)),
        "spec.serviceAccountName" => Some(fairway_core::source::objects::service_account_name(pod).to_owned()),
        "status.podIP" => placement.address.map(|address| address.v4.to_string()),
        "status.podIPs" => placement.address.map(|address| address.both().map(|ip| ip.to_string()).join(",")),
        "status.hostIP" => Some(crate::addresses::node(placement.node).v4.to_string()),
        other => labels(pod).remove(other.strip_prefix("metadata.labels['")?.strip_suffix("']")?),
    }
}

/// Replaces `$(NAME)` by the variable's value; unknown names stay, as in Kubernetes.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("$(") {
        expanded.push_str(before);
        match after.split_once(')').and_then(|(name, tail)| Some((environment.get(name)?, tail))) {
            Some((value, tail)) => {
                expanded.push_str(value);
                rest = tail;
            }
            None => {
                expanded.push_str("$(");
                rest = after;
            }
        }
    }
    expanded + rest
}

impl Runner {
    /// Runs the container until it is finished or `stop` is cancelled; by then its processes have ended.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let started = Instant::now();
            let result = self.start().await;
            let outcome = match result {
                Ok(process) => self.attend(process, &stop).await,
                Err(message) => Outcome { success: false, message },
            };
            self.state.pid = None;
            self.state.ready = false;
            self.state.message = (!outcome.success).then_some(outcome.message);
            let again = self.restart.again(outcome.success) && !stop.is_cancelled();
            self.state.finished = (!again).then_some(outcome.success);
            self.report().await;
            if !again {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(backoff.after_run(started.elapsed())) => {}
            }
            self.state.restarts = self.state.restarts.saturating_add(1);
        }
    }

    async fn start(&mut self) -> Result<Process, String> {
        let (launch, reaper) = (self.launch.clone(), self.reaper.clone());
        let spawned =
            self.sandbox.run(move || reaper.spawn(&mut launch.command()?)).await.map_err(|error| error.to_string())?;
        let process = spawned.map_err(|error| format!("cannot run {}: {error}", self.launch.program.join(" ")))?;
        self.state.pid = Some(process.pid);
        self.state.ready = self.probe.is_none();
        self.state.message = None;
        self.report().await;
        Ok(process)
    }

    /// Watches a running process to its end.
    async fn attend(&mut self, mut process: Process, stop: &CancellationToken) -> Outcome {
        loop {
            let period = match &self.probe {
                Some(probe) if self.state.ready => probe.period,
                _ => STARTING_PERIOD,
            };
            tokio::select! {
                exit = &mut process.exit => return Outcome::of(exit.ok()),
                () = stop.cancelled() => return self.terminate(process).await,
                () = sleep(period), if self.probe.is_some() => {}
            }
            let Some(probe) = self.probe.clone() else { continue };
            let node = self.node.clone();
            let result = tokio::select! {
                exit = &mut process.exit => return Outcome::of(exit.ok()),
                result = probe.check(&node) => result,
            };
            let message = result.as_ref().err().map(|reason| format!("not ready: {reason}"));
            if self.state.ready != result.is_ok() || self.state.message != message {
                self.state.ready = result.is_ok();
                self.state.message = message;
                self.report().await;
            }
        }
    }

    async fn terminate(&mut self, mut process: Process) -> Outcome {
        self.reaper.signal(process.pid, Signal::SIGTERM);
        if let Ok(exit) = tokio::time::timeout(self.grace, &mut process.exit).await {
            return Outcome::of(exit.ok());
        }
        self.reaper.signal(process.pid, Signal::SIGKILL);
        Outcome::of(process.exit.await.ok())
    }

    async fn report(&self) {
        // The pod's task only stops listening when it no longer cares.
        let _ = self.states.send((self.number, self.state.clone())).await;
    }
}

struct Outcome {
    success: bool,
    message: String,
}

impl Outcome {
    fn of(exit: Option<Exit>) -> Self {
        match exit {
            Some(exit) => Self { success: exit.success(), message: format!("ended with {exit}") },
            None => Self { success: false, message: "ended unnoticed".to_owned() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn programs_see_their_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "client", "namespace": "shop", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "command": ["run", "$(WHO)"], "args": ["$(UNKNOWN)", "a $(APP)"], "env": [
                {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}]}]}}))
        .unwrap();
        let placement = Placement { uid: "u".into(), node: 1, address: Some(crate::addresses::node(1)) };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let variables = BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]);
        let launch = Launch::of(&pod, container, &placement, &variables, "/log".into()).unwrap();
        assert_eq!(launch.program, ["run", "client", "$(UNKNOWN)", "a web"]);
        assert_eq!(launch.environment["PATH"], "/bin");
        assert_eq!(launch.environment["HOSTNAME"], "client");
    }

    #[test]
    fn a_container_without_a_command_says_what_to_do() {
        let placement = Placement { uid: "u".into(), node: 1, address: Some(crate::addresses::node(1)) };
        let launch = |image: &str| {
            let container = Container {
                image: Some(image.to_owned()),
                args: Some(vec!["--flag".to_owned()]),
                ..Container::default()
            };
            Launch::of(&Pod::default(), &container, &placement, &BTreeMap::new(), "/log".into())
        };
        let error = launch("docker.io/library/nginx:1").unwrap_err();
        assert!(error.contains("command: required"), "{error}");
        assert_eq!(launch("registry.test:5000/fairway/waypoint:0.1").unwrap().program, ["waypoint", "--flag"]);
    }

    #[test]
    fn restart_policies() {
        assert!(Restart::Always.again(true) && Restart::OnFailure.again(false));
        assert!(!Restart::OnFailure.again(true) && !Restart::Never.again(false));
    }
}
