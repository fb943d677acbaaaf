//! A running lab as tests and the demo use it: apply, run commands, look at the wire, wait for conditions.

use std::io::Read as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

use crate::apply::{self, Input};
use crate::capture::Capture;
use crate::control::{self, Page, Request};
use crate::error::{Doing, Error, Result};
use crate::layout::{BASE_VARIABLE, Layout};
use crate::manage;
use crate::options::{Config, Options};
use crate::status::Status;

/// Longest wait for a condition: generous, because a wait that ends here is a failure and never a measurement.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often conditions are looked at.
const POLL: Duration = Duration::from_millis(25);

/// A lab that is up; dropping it takes it down, and so does the end of this process.
#[derive(Debug)]
pub struct Lab {
    layout: Layout,
    config: Config,
    /// Held open: the lab ends when it closes.
    _tie: Option<ChildStdin>,
}

impl Lab {
    /// Brings a lab up that ends with this process.
    ///
    /// # Errors
    /// See [`manage::up`].
    pub fn up(options: Options) -> Result<Self> {
        Self::up_with(options, &mut |_| {})
    }

    /// As [`Lab::up`], saying what takes long.
    ///
    /// # Errors
    /// See [`manage::up`].
    pub fn up_with(options: Options, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        let running = manage::start(&Options { tied: true, ..options }, progress)?;
        Ok(Self { layout: running.layout, config: running.config, _tie: running.tie })
    }

    /// Where the lab keeps its files.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// When any document is refused; the others have been applied.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        refused(apply::apply(&self.layout, &[Input { name: "manifest".to_owned(), text: yaml.to_owned() }])?)
    }

    /// Removes the objects of manifests.
    ///
    /// # Errors
    /// When any document does not name an object.
    pub fn delete(&self, yaml: &str) -> Result<()> {
        refused(apply::delete(&self.layout, &[Input { name: "manifest".to_owned(), text: yaml.to_owned() }])?)
    }

    /// Changes labels of a namespace: `key=value` sets, `key-` removes.
    ///
    /// # Errors
    /// When a change cannot be understood.
    pub fn label_namespace(&self, name: &str, changes: &[&str]) -> Result<()> {
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        apply::label(&self.layout, fairway_core::source::Kind::Namespace, "", name, &changes).map(drop)
    }

    /// The command that runs `command` in the pod `NAMESPACE/POD`.
    #[must_use]
    pub fn command(&self, pod: &str, command: &[&str]) -> Command {
        self.fairway(&["exec", pod], command)
    }

    /// The command that runs `command` in the network namespace of `node` (or `underlay`).
    #[must_use]
    pub fn node_command(&self, node: &str, command: &[&str]) -> Command {
        self.fairway(&["exec", "--node", node], command)
    }

    /// The command that runs kubectl on the host, as administrator of the lab's Kubernetes.
    ///
    /// # Errors
    /// When the lab has none.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Command> {
        let Some(program) = &self.config.binaries.kubernetes else {
            return Err(Error::new(format!("lab `{}` has no Kubernetes", self.config.name)));
        };
        let mut command = Command::new(program);
        command.arg("kubectl").args(arguments).env("KUBECONFIG", self.layout.kubeconfig());
        // Else it leaves what it discovers in the caller's home.
        command.env("KUBECACHEDIR", self.layout.kubernetes().join("cache"));
        Ok(command)
    }

    fn fairway(&self, arguments: &[&str], inner: &[&str]) -> Command {
        let mut command = Command::new(&self.config.binaries.fairway);
        command.args(["lab", "--lab", &self.config.name]).args(arguments).arg("--").args(inner);
        if let Some(base) = self.layout.root().parent() {
            command.env(BASE_VARIABLE, base);
        }
        command
    }

    /// Runs a command in a pod to its end.
    ///
    /// # Errors
    /// When it cannot be run; its own failure is in the output.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<Output> {
        self.command(pod, command).stdin(Stdio::null()).output().doing(|| format!("running {command:?} in {pod}"))
    }

    /// Runs a command in a node's network namespace to its end.
    ///
    /// # Errors
    /// When it cannot be run; its own failure is in the output.
    pub fn exec_node(&self, node: &str, command: &[&str]) -> Result<Output> {
        self.node_command(node, command)
            .stdin(Stdio::null())
            .output()
            .doing(|| format!("running {command:?} on {node}"))
    }

    /// Starts a command in a pod; it ends with the handle.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, pod: &str, command: &[&str]) -> Result<Running> {
        start(self.command(pod, command)).doing(|| format!("starting {command:?} in {pod}"))
    }

    /// Starts a command in a node's network namespace; it ends with the handle.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_node(&self, node: &str, command: &[&str]) -> Result<Running> {
        start(self.node_command(node, command)).doing(|| format!("starting {command:?} on {node}"))
    }

    /// Records what passes the inter-node link at `node`.
    ///
    /// # Errors
    /// When the link cannot be watched.
    pub fn capture(&self, node: &str) -> Result<Capture> {
        let fairway = self.config.binaries.fairway.to_string_lossy().into_owned();
        let mut command = self.node_command(node, &[&fairway, "lab", "tool", "capture", crate::network::UPLINK]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Capture::of(command.spawn().doing(|| format!("watching the link of {node}"))?)
    }

    /// Waits until `condition` holds.
    ///
    /// # Errors
    /// Names `what` when it does not hold within [`PATIENCE`].
    pub fn wait_for(&self, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
        self.wait_until(what, || condition().then_some(()).ok_or_else(String::new))
    }

    /// Waits until `condition` gives a value.
    ///
    /// # Errors
    /// Names `what`, and the last reason it did not hold.
    pub fn wait_until<T>(
        &self,
        what: &str,
        mut condition: impl FnMut() -> std::result::Result<T, String>,
    ) -> Result<T> {
        let started = Instant::now();
        loop {
            match condition() {
                Ok(value) => return Ok(value),
                Err(reason) if started.elapsed() > PATIENCE => {
                    let error = Error::new(format!("waited {PATIENCE:?} for this: {what}"));
                    return Err(if reason.is_empty() { error } else { error.because(reason) });
                }
                Err(_) => thread::sleep(POLL),
            }
        }
    }

    /// Waits until every component and pod is ready.
    ///
    /// # Errors
    /// Names what is not ready.
    pub fn wait_ready(&self) -> Result<()> {
        self.wait_until("everything to be ready", || {
            let unsettled = unsettled(&self.layout).map_err(|error| error.to_string())?;
            if unsettled.is_empty() { Ok(()) } else { Err(unsettled.join("; ")) }
        })
    }

    /// Waits until the pods that `expected` says are captured are, and the others are not.
    ///
    /// # Errors
    /// Names the pods that differ.
    pub fn wait_captured(&self, expected: &[(&str, bool)]) -> Result<()> {
        self.wait_until("pods to be captured as labelled", || {
            let status = self.status().map_err(|error| error.to_string())?;
            let differs = |(pod, captured): &&(&str, bool)| {
                let found = status.pods.iter().find(|known| format!("{}/{}", known.namespace, known.name) == *pod);
                found.is_none_or(|known| known.captured != *captured)
            };
            let wrong: Vec<&str> = expected.iter().filter(differs).map(|(pod, _)| *pod).collect();
            if wrong.is_empty() { Ok(()) } else { Err(wrong.join(", ")) }
        })
    }

    /// The lab's state.
    ///
    /// # Errors
    /// When the supervisor does not answer.
    pub fn status(&self) -> Result<Status> {
        status_of(&self.layout)
    }

    /// Log of a node's ztunnel.
    #[must_use]
    pub fn ztunnel_log(&self, node: &str) -> String {
        self.log(&format!("ztunnel-{node}"))
    }

    /// Log of a component; empty when it has none.
    #[must_use]
    pub fn log(&self, component: &str) -> String {
        std::fs::read_to_string(self.layout.component_log(component)).unwrap_or_default()
    }

    /// GETs `http://IP:PORT/PATH` from inside a node, or from the `underlay`.
    ///
    /// # Errors
    /// When nothing answers.
    pub fn http(&self, node: &str, url: &str) -> Result<Page> {
        let node = (node != "underlay").then(|| node.to_owned());
        control::ask(&self.layout, &Request::Get { node, url: url.to_owned() })
    }

    /// Kills a component with SIGKILL; the supervisor will start it again.
    ///
    /// # Errors
    /// When there is no such component, or it does not run.
    pub fn kill(&self, component: &str) -> Result<()> {
        self.signal(component, Signal::SIGKILL)
    }

    /// Sends a signal to a component.
    ///
    /// # Errors
    /// When there is no such component, or it does not run.
    pub fn signal(&self, component: &str, signal: Signal) -> Result<()> {
        self.ask::<i32>(&Request::Signal { component: component.to_owned(), signal: signal.as_str().to_owned() })
            .map(drop)
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        control::ask(&self.layout, request)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = manage::down(&self.layout) {
            eprintln!("lab {} could not be taken down: {error}", self.config.name);
        }
    }
}

/// The state of the lab at `layout`.
///
/// # Errors
/// When the supervisor does not answer.
pub fn status_of(layout: &Layout) -> Result<Status> {
    let mut status: Status = control::ask(layout, &Request::Status)?;
    status.supervisor = manage::supervisor(layout);
    status.directory = layout.root().display().to_string();
    Ok(status)
}

/// Why the lab at `layout` is not settled yet, by what its manifests say now. Empty when it is.
///
/// # Errors
/// When the supervisor does not answer.
pub fn unsettled(layout: &Layout) -> Result<Vec<String>> {
    let objects = fairway_core::source::directory::load(&layout.manifests(), None).objects;
    let pods = objects.pods.iter().filter(|(key, pod)| !crate::kubelet::is_component(key, &***pod));
    let expected: Vec<_> = pods.map(|(key, _)| key.clone()).collect();
    Ok(status_of(layout)?.unsettled(&expected))
}

fn start(mut prepared: Command) -> std::io::Result<Running> {
    prepared.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = prepared.spawn()?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    Ok(Running { child, stdin, stdout })
}

fn refused(report: apply::Report) -> Result<()> {
    if report.errors.is_empty() {
        return Ok(());
    }
    let errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
    Err(Error::new("manifests refused").because(errors.join("\n")))
}

/// A command running in a pod.
#[derive(Debug)]
pub struct Running {
    /// The process that waits for it.
    pub child: Child,
    /// Its standard input; dropping it closes it.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, until taken.
    pub stdout: Option<ChildStdout>,
}

impl Running {
    /// Closes standard input and waits for the end; gives what was written since.
    ///
    /// # Errors
    /// When the end cannot be waited for.
    pub fn finish(mut self) -> Result<String> {
        drop(self.stdin.take());
        let mut output = String::new();
        if let Some(mut stdout) = self.stdout.take() {
            stdout.read_to_string(&mut output).doing(|| "reading a command's output")?;
        }
        self.child.wait().doing(|| "waiting for a command")?;
        Ok(output)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The command inside is bound to end with this process; both calls fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
