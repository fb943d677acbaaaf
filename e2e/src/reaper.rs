//! Starting processes and collecting their ends, as the one place of PID 1 that does either.
//!
//! PID 1 inherits every orphan of the lab and has to reap it, but must not take the exit status of a child somebody waits for. So
//! one table says who is waited for: a child enters it under the lock it is started under, and whatever else ends is dropped.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use crate::error::{Doing, Error, Result};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It returned this code.
    Code(i32),
    /// It was ended by this signal.
    Signal(Signal),
}

impl Exit {
    pub(crate) fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "{signal}"),
        }
    }
}

/// A running child, leader of its own process group.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) exit: oneshot::Receiver<Exit>,
}

type Table = HashMap<i32, oneshot::Sender<Exit>>;

/// The table of children that are waited for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reaper {
    waited_for: Arc<Mutex<Table>>,
}

impl Reaper {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.waited_for.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts `command` in the calling thread's namespaces.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Process> {
        self.spawn_child(command).map(|(process, _)| process)
    }

    /// The same, with the pipes that `command` asks for.
    pub(crate) fn spawn_child(&self, command: &mut Command) -> io::Result<(Process, std::process::Child)> {
        command.process_group(0);
        let (done, exit) = oneshot::channel();
        let mut table = self.table();
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        table.insert(pid, done);
        Ok((Process { pid, exit }, child))
    }

    /// Runs a short command to its end with `input`, in the calling thread's namespaces. Blocks, so not for the event loop's thread:
    /// that one collects the exit.
    pub(crate) fn run(&self, command: &mut Command, input: &str) -> Result<()> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let (process, mut child) = self.spawn_child(command).doing(|| format!("starting {name}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that stops reading says why on its standard error.
            let _ = stdin.write_all(input.as_bytes());
        }
        let mut complaint = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            let _ = stderr.read_to_string(&mut complaint);
        }
        match process.exit.blocking_recv() {
            Ok(exit) if exit.success() => Ok(()),
            Ok(exit) => Err(Error::new(format!("{name} failed ({exit})")).because(complaint.trim().to_owned())),
            Err(_) => Err(Error::new(format!("{name} ended unnoticed"))),
        }
    }

    /// Signals the process group of a child that has not been reaped; a child that has ended is left alone, its pid may be another's.
    pub(crate) fn signal(&self, pid: i32, signal: Signal) {
        let table = self.table();
        if table.contains_key(&pid) {
            // It may end at this very moment; that is the purpose anyway.
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }

    /// Collects everything that has ended. Called on each SIGCHLD.
    pub(crate) fn collect(&self) {
        let mut table = self.table();
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::warn!(%error, "waiting for children failed");
                    return;
                }
            };
            if let Some(waiting) = table.remove(&pid.as_raw()) {
                // Nobody may be interested any more.
                let _ = waiting.send(exit);
            }
        }
    }
}
