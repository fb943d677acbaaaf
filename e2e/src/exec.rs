//! Running a command inside a lab, in the namespaces of a pod or a node, with the caller's terminal.

use std::fs::File;
use std::os::linux::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use crate::control::{self, Location, Request};
use crate::error::{Doing, Error, Result};
use crate::layout::{Layout, netns};
use crate::manage;
use crate::options::Config;

/// Hidden subcommand of `fairway lab` that runs [`become_command`].
pub const CHILD_COMMAND: &str = "__child";

/// Where a command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// In a pod.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// In the network namespace of a node, or of the `underlay`.
    Node(String),
}

impl Target {
    /// A pod written as `NAMESPACE/POD` or `POD`.
    #[must_use]
    pub fn pod(text: &str, default_namespace: &str) -> Self {
        let (namespace, name) = text.split_once('/').unwrap_or((default_namespace, text));
        Self::Pod { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// Runs `command` at `target` of the lab; returns its exit code, or 128 plus the signal that ended it.
///
/// The calling process joins the lab for good and must have a single thread.
///
/// # Errors
/// When the lab or the target does not exist, or the command cannot be started.
pub fn run(layout: &Layout, target: &Target, command: &[String]) -> Result<u8> {
    let config = Config::read(layout)?;
    let location = match target {
        Target::Pod { namespace, name } => {
            let request = Request::Locate { namespace: namespace.clone(), pod: name.clone() };
            Some(control::ask::<Location>(layout, &request)?)
        }
        Target::Node(_) => None,
    };
    let init = manage::supervisor(layout).ok_or_else(|| Error::new(format!("lab `{}` does not run", layout.name())))?;
    join_lab(init)?;
    match (location, target) {
        (Some(location), _) => {
            let directory = format!("/proc/1/task/{}/ns", location.tid);
            let network = open(&format!("{directory}/net"))?;
            let mounts = open(&format!("{directory}/mnt"))?;
            setns(network, CloneFlags::CLONE_NEWNET).doing(|| "entering the pod's network")?;
            setns(mounts, CloneFlags::CLONE_NEWNS).doing(|| "entering the pod's mounts")?;
        }
        (None, Target::Node(node) | Target::Pod { name: node, .. }) => {
            let path = netns(node);
            let network = File::open(&path).map_err(|error| {
                Error::new(format!("no node called `{node}`"))
                    .because(error)
                    .hint("`fairway lab status` lists the nodes")
            })?;
            setns(network, CloneFlags::CLONE_NEWNET).doing(|| format!("entering {node}'s network"))?;
        }
    }
    let mut child = Command::new(&config.binaries.fairway);
    child.args(["lab", CHILD_COMMAND, "--"]).args(command).env("PATH", &config.path).current_dir("/");
    if let Target::Pod { name, .. } = target {
        child.env("HOSTNAME", name);
    }
    let status = attend(child)?;
    Ok(exit_code(status))
}

fn open(path: &str) -> Result<File> {
    File::open(path).doing(|| format!("opening {path}"))
}

/// Enters the supervisor's user, process and mount namespaces; from then on `/proc` is the lab's.
fn join_lab(init: i32) -> Result<()> {
    let file = |name: &str| open(&format!("/proc/{init}/ns/{name}"));
    let (user, processes, mounts) = (file("user")?, file("pid")?, file("mnt")?);
    let inode = |file: &File| file.metadata().map(|metadata| metadata.st_ino()).doing(|| "comparing user namespaces");
    // Entering one's own user namespace again is an error (setns(2)).
    if inode(&user)? != inode(&open("/proc/self/ns/user")?)? {
        setns(user, CloneFlags::CLONE_NEWUSER).doing(|| "entering the lab's user namespace")?;
    }
    setns(processes, CloneFlags::CLONE_NEWPID).map_err(|error| {
        Error::new("entering the lab").because(error).hint("run as the user who brought the lab up")
    })?;
    setns(mounts, CloneFlags::CLONE_NEWNS).doing(|| "entering the lab's mounts")
}

/// Runs the child to its end. The terminal's signals reach it directly; those sent to this process are passed on.
fn attend(command: Command) -> Result<ExitStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing(|| "starting a runtime")?;
    runtime.block_on(async {
        let listen = |kind| signal(kind).doing(|| "listening for signals");
        let (mut interrupt, mut quit) = (listen(SignalKind::interrupt())?, listen(SignalKind::quit())?);
        let (mut terminate, mut hangup) = (listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
        // Tokio's process watches a descriptor of the child. A thread could not be started any more: it would have to be in the
        // process namespace that only children enter (setns(2)).
        let mut child = tokio::process::Command::from(command).spawn().doing(|| "starting the command")?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let forward = |signal| {
            // The child may have ended in the meantime; then its status is about to arrive.
            let _ = pid.map(|pid| kill(pid, signal));
        };
        loop {
            tokio::select! {
                status = child.wait() => return status.doing(|| "waiting for the command"),
                _ = interrupt.recv() => {}
                _ = quit.recv() => {}
                _ = terminate.recv() => forward(Signal::SIGTERM),
                _ = hangup.recv() => forward(Signal::SIGHUP),
            }
        }
    })
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Becomes `command`, bound to end with the process that asked for it. Only returns when that fails.
#[must_use]
pub fn become_command(command: &[String]) -> Error {
    let [program, arguments @ ..] = command else { return Error::new("no command given").hint("write it after `--`") };
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGKILL) {
        return Error::new("binding the command to its caller").because(error);
    }
    let error = Command::new(program).args(arguments).exec();
    let missing = error.kind() == std::io::ErrorKind::NotFound && !Path::new(program).is_absolute();
    let error = Error::new(format!("running {program}")).because(error);
    if missing { error.hint("programs come from this machine: is it installed, and in PATH?") } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_named_with_or_without_namespace() {
        let pod = |namespace: &str, name: &str| Target::Pod { namespace: namespace.into(), name: name.into() };
        assert_eq!(Target::pod("shop/client", "default"), pod("shop", "client"));
        assert_eq!(Target::pod("client", "default"), pod("default", "client"));
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }
}
