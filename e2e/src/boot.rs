//! The stage between `lab up` and the supervisor: it makes the namespaces and starts the supervisor as PID 1 of them.
//!
//! It must run before any thread exists: a user namespace cannot be entered by one thread of several (`unshare(2)`).

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid, setsid};

use crate::error::{Doing, Result};
use crate::kubernetes::relay;
use crate::layout::Layout;
use crate::options::Config;
use crate::prerequisites::namespaces_refused;
use crate::process::Init;

/// Hidden subcommand of `fairway lab` that runs [`run`].
pub const COMMAND: &str = "__boot";

/// Hidden subcommand of `fairway lab` that runs [`crate::init::run`].
pub const INIT_COMMAND: &str = "__init";

/// Boots the lab whose state directory is `root`. Returns once the supervisor has been started.
///
/// # Errors
/// When the kernel refuses the namespaces, or the supervisor cannot be started.
pub fn run(root: &Path) -> Result<()> {
    let layout = Layout::at(root);
    let config = Config::read(&layout)?;
    // A new session: signals from the caller's terminal do not reach the lab. It fails when already a leader, which is as good.
    let _ = setsid();
    // Of the host's network, and so made before that is left.
    let port = config.binaries.kubernetes.is_some().then(relay::listen).transpose()?;
    enter_namespaces()?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(layout.component_log("supervisor"))
        .doing(|| "opening the supervisor's log")?;
    let errors = log.try_clone().doing(|| "opening the supervisor's log")?;
    let child = Command::new(&config.binaries.fairway)
        .args(["lab", INIT_COMMAND])
        .arg(root)
        .current_dir("/")
        .stdin(if config.tied { Stdio::inherit() } else { Stdio::null() })
        .stdout(port.map_or_else(|| Stdio::from(log), Stdio::from))
        .stderr(errors)
        .spawn()
        .doing(|| format!("starting the supervisor {}", config.binaries.fairway.display()))?;
    Init::of(child.id())?.write(&layout.init())
}

fn enter_namespaces() -> Result<()> {
    let fresh = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    if geteuid().is_root() {
        match unshare(fresh) {
            Ok(()) => return Ok(()),
            // Root of a container without CAP_SYS_ADMIN: a user namespace may still be allowed.
            Err(Errno::EPERM) => {}
            Err(error) => return Err(namespaces_refused(error, false)),
        }
    }
    // Read before: inside, both are the overflow id until the maps are written.
    let (user, group) = (geteuid(), getegid());
    unshare(fresh | CloneFlags::CLONE_NEWUSER).map_err(|error| namespaces_refused(error, !user.is_root()))?;
    // user_namespaces(7): an unprivileged writer of gid_map has to deny setgroups first.
    for (file, content) in
        [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {user} 1")), ("gid_map", format!("0 {group} 1"))]
    {
        std::fs::write(format!("/proc/self/{file}"), content).doing(|| format!("writing /proc/self/{file}"))?;
    }
    Ok(())
}
