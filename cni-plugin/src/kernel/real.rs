//! The real kernel, through `nft` and `ip` run on a thread that entered the pod's namespace.
//!
//! A child process inherits the namespaces of the thread that starts it. The thread ends with the call, so no other
//! work can ever run in the wrong namespace.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::{Inspection, Kernel, KernelError, Namespace, NamespaceId};
use crate::rules::{
    Capture, MARK_MASK, RETURN_MARK, RETURN_PRIORITY, RETURN_TABLE, TableName, filling, removal, tables,
};

/// Longest message of a failed program that is passed on, in bytes.
const MAX_MESSAGE: usize = 600;
/// Different captures whose listing is remembered; pods with annotations of their own are few.
const MAX_REMEMBERED: usize = 64;
const NFT: Program = Program { name: "nft", package: "nftables" };
const IP: Program = Program { name: "ip", package: "iproute2" };

/// Runs `nft` and `ip` in pods' namespaces.
#[derive(Debug, Default)]
pub struct RealKernel {
    /// How the tools of this machine print each capture: they differ between versions, so it is asked rather than
    /// known.
    listings: Mutex<BTreeMap<Capture, String>>,
}

impl RealKernel {
    /// A kernel that has not been asked anything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What a namespace that holds exactly `capture` looks like, learned in a namespace made for that and thrown away.
    fn wanted_listing(&self, capture: &Capture) -> Result<String, KernelError> {
        let remembered = self.listings.lock().unwrap_or_else(PoisonError::into_inner).get(capture).cloned();
        if let Some(listing) = remembered {
            return Ok(listing);
        }
        let listing = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|error| KernelError::Enter(error.into()))?;
            IP.run(&["link", "set", "lo", "up"], "")?;
            write(capture)?;
            list()
        })?;
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        if listings.len() >= MAX_REMEMBERED {
            listings.clear();
        }
        listings.insert(capture.clone(), listing.clone());
        Ok(listing)
    }
}

impl Kernel for RealKernel {
    fn identify(&self, path: &Path) -> Result<NamespaceId, KernelError> {
        let metadata = fs::metadata(path).map_err(|error| open_error(path, error))?;
        Ok((metadata.dev(), metadata.ino()))
    }

    fn open(&self, path: &Path) -> Result<Namespace, KernelError> {
        let file = File::open(path).map_err(|error| open_error(path, error))?;
        let metadata = file.metadata().map_err(|error| open_error(path, error))?;
        let id = (metadata.dev(), metadata.ino());
        let is_namespace = fstatfs(&file).is_ok_and(|status| status.filesystem_type() == NSFS_MAGIC);
        if !is_namespace {
            return Err(KernelError::NotANamespace(path.to_owned()));
        }
        if self.identify(Path::new("/proc/self/ns/net"))? == id {
            return Err(KernelError::HostNamespace(path.to_owned()));
        }
        let namespace = Namespace::new(file.into(), id);
        // A file of another kind of namespace is refused by setns(2).
        match within(&namespace, || Ok(())) {
            Err(KernelError::Enter(error)) if error.raw_os_error() == Some(nix::libc::EINVAL) => {
                Err(KernelError::NotANamespace(path.to_owned()))
            }
            Err(error) => Err(error),
            Ok(()) => Ok(namespace),
        }
    }

    fn inspect(&self, namespace: &Namespace, capture: &Capture) -> Result<Inspection, KernelError> {
        let (capture, listing) = within(namespace, || Ok((possible(capture), list()?)))?;
        if listing.trim().is_empty() {
            return Ok(Inspection::Absent);
        }
        let same = listing == self.wanted_listing(&capture)?;
        Ok(if same { Inspection::Same } else { Inspection::Different })
    }

    fn apply(&self, namespace: &Namespace, capture: &Capture) -> Result<(), KernelError> {
        within(namespace, || write(&possible(capture)))
    }

    fn remove(&self, namespace: &Namespace) -> Result<(), KernelError> {
        within(namespace, || {
            NFT.run(&["-f", "-"], &removal())?;
            for family in ["-4", "-6"] {
                unroute(family)?;
            }
            Ok(())
        })
    }
}

fn open_error(path: &Path, error: io::Error) -> KernelError {
    let path = PathBuf::from(path);
    if error.kind() == io::ErrorKind::NotFound {
        KernelError::NoNamespace(path)
    } else {
        KernelError::Open { path, error }
    }
}

/// Runs `work` on a thread of its own, which may change its namespaces at will.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T, KernelError> + Send) -> Result<T, KernelError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work);
        let thread = thread.map_err(KernelError::Thread)?;
        thread.join().unwrap_or_else(|_| Err(KernelError::Thread(io::Error::other("the thread died"))))
    })
}

fn within<T: Send>(
    namespace: &Namespace,
    work: impl FnOnce() -> Result<T, KernelError> + Send,
) -> Result<T, KernelError> {
    on_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| KernelError::Enter(error.into()))?;
        work()
    })
}

/// `capture` without IPv6 where this namespace has none: its routes would be refused.
fn possible(capture: &Capture) -> Capture {
    // Files below /proc/sys/net show the namespace of the thread that reads them.
    let disabled = fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    let has_ipv6 = disabled.is_ok_and(|text| text.trim() == "0");
    Capture { ipv6: capture.ipv6 && has_ipv6, ..capture.clone() }
}

fn write(capture: &Capture) -> Result<(), KernelError> {
    // Routes first: without rules they do nothing, while rules without routes would lose replies.
    route("-4")?;
    if capture.ipv6 {
        route("-6")?;
    } else {
        unroute("-6")?;
    }
    NFT.run(&["-f", "-"], &filling(&tables(capture))).map(drop)
}

fn route(family: &str) -> Result<(), KernelError> {
    let table = RETURN_TABLE.to_string();
    IP.run(&[family, "route", "replace", "local", "default", "dev", "lo", "table", &table], "")?;
    if !rules(family)?.is_empty() {
        unrule(family)?;
    }
    let (mark, priority) = (format!("{RETURN_MARK:#x}/{MARK_MASK:#x}"), RETURN_PRIORITY.to_string());
    IP.run(&[family, "rule", "add", "fwmark", &mark, "priority", &priority, "lookup", &table], "").map(drop)
}

fn unroute(family: &str) -> Result<(), KernelError> {
    // A kernel without the family has nothing to remove.
    if rules(family).is_ok_and(|rules| !rules.is_empty()) {
        unrule(family)?;
    }
    let table = RETURN_TABLE.to_string();
    if routes(family).is_ok_and(|routes| !routes.is_empty()) {
        IP.run(&[family, "route", "del", "local", "default", "dev", "lo", "table", &table], "")?;
    }
    Ok(())
}

fn unrule(family: &str) -> Result<(), KernelError> {
    IP.run(&[family, "rule", "del", "priority", &RETURN_PRIORITY.to_string()], "").map(drop)
}

fn rules(family: &str) -> Result<String, KernelError> {
    IP.run(&[family, "rule", "show", "priority", &RETURN_PRIORITY.to_string()], "")
}

fn routes(family: &str) -> Result<String, KernelError> {
    match IP.run(&[family, "route", "show", "table", &RETURN_TABLE.to_string()], "") {
        // How `ip` says that the table is empty.
        Err(KernelError::Refused { message, .. }) if message.contains("does not exist") => Ok(String::new()),
        result => result,
    }
}

/// Everything of ours in the namespace of this thread, without counters.
fn list() -> Result<String, KernelError> {
    let ruleset = NFT.run(&["--stateless", "list", "ruleset", "inet"], "")?;
    let mut listing = own_tables(&ruleset);
    for family in ["-4", "-6"] {
        for lines in [rules(family), routes(family)] {
            // A kernel without the family refuses; then there is nothing of it.
            listing.push_str(&lines.unwrap_or_default());
        }
    }
    Ok(listing)
}

/// The part of a listing that is about our tables.
fn own_tables(ruleset: &str) -> String {
    let mut ours = String::new();
    let mut inside = false;
    for line in ruleset.lines() {
        if let Some(rest) = line.strip_prefix("table inet ") {
            let name = rest.split(' ').next().unwrap_or_default();
            inside = TableName::ALL.iter().any(|table| table.as_str() == name);
        }
        if inside {
            ours.push_str(line);
            ours.push('\n');
        }
        if line == "}" {
            inside = false;
        }
    }
    ours
}

struct Program {
    name: &'static str,
    package: &'static str,
}

impl Program {
    /// Runs it in the namespace of this thread and returns what it printed.
    fn run(&self, arguments: &[&str], input: &str) -> Result<String, KernelError> {
        let run_error = |error: io::Error| {
            if error.kind() == io::ErrorKind::NotFound {
                KernelError::MissingProgram { program: self.name, package: self.package }
            } else {
                KernelError::Run { program: self.name, error }
            }
        };
        let mut child = Command::new(self.name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(run_error)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input says why on its error output.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(run_error)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let mut message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " | ");
        if let Some((end, _)) = message.char_indices().find(|(position, _)| *position >= MAX_MESSAGE) {
            message.truncate(end);
        }
        Err(KernelError::Refused { program: self.name, message })
    }
}

#[cfg(test)]
mod tests;
