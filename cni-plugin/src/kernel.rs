//! What the agent asks of the kernel: open a pod's namespace, look at the rules in it, write them, remove them.

mod attribute;
mod backend;
mod census;
pub mod fake;
mod learned;
mod leftovers;
mod netfilter;
mod program;
mod real;
mod routing;
mod sockets;
mod tables;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::rules::Capture;

pub use backend::{Backend, Tools};
pub use census::Census;
pub use real::RealKernel;

/// Identity of a namespace while it lives: device and inode of its file.
pub type NamespaceId = (u64, u64);

/// A pod's network namespace, held open; clones share the descriptor.
#[derive(Clone, Debug)]
pub struct Namespace {
    descriptor: Arc<OwnedFd>,
    id: NamespaceId,
}

impl Namespace {
    /// Takes over an open namespace file.
    #[must_use]
    pub fn new(descriptor: OwnedFd, id: NamespaceId) -> Self {
        Self { descriptor: Arc::new(descriptor), id }
    }

    /// Which namespace it is.
    #[must_use]
    pub fn id(&self) -> NamespaceId {
        self.id
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// What was read back from a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// Nothing of ours is there.
    Absent,
    /// Something of ours is there, but not what is wanted.
    Different,
    /// Exactly what is wanted is there.
    Same,
}

/// Why the kernel did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// There is no namespace file (yet, or any more).
    #[error("there is no network namespace at {0}; the pod has not started or has ended")]
    NoNamespace(PathBuf),
    /// The file is something else.
    #[error("{0} is not a network namespace")]
    NotANamespace(PathBuf),
    /// The file is the node's own namespace.
    #[error("{0} is the node's own network namespace, which is never captured")]
    HostNamespace(PathBuf),
    /// The file cannot be opened.
    #[error("cannot open {path}: {error}")]
    Open {
        /// The namespace file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The namespace cannot be entered.
    #[error("cannot enter the pod's network namespace: {0}; the agent needs CAP_SYS_ADMIN and CAP_NET_ADMIN")]
    Enter(io::Error),
    /// A program is not installed.
    #[error("the program `{program}` is not installed; install the package `{package}` (apt-get install {package})")]
    MissingProgram {
        /// The program.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// A program could not be run.
    #[error("cannot run `{program}`: {error}")]
    Run {
        /// The program.
        program: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// A program refused.
    #[error("`{program}` failed: {message}")]
    Refused {
        /// The program.
        program: &'static str,
        /// What it said.
        message: String,
    },
    /// A program hangs.
    #[error(
        "`{program}` did not end within {limit:?} and was killed; is the machine overloaded, or another program holding the kernel's rules?"
    )]
    Late {
        /// The program.
        program: &'static str,
        /// How long it was given.
        limit: Duration,
    },
    /// Rules were written and are others.
    #[error("the rules were written but something else changes them; look for another CNI in the pod")]
    Changed,
    /// Rules were removed and are there.
    #[error("its rules were removed and are there again; something else in the pod writes them")]
    StillThere,
    /// The addresses of a namespace cannot be read.
    #[error("cannot read the addresses of the pod's network namespace: {0}")]
    Addresses(io::Error),
    /// Routing rules or routes of a namespace cannot be read or written.
    #[error("the kernel refused the pod's routing rules: {0}; the agent needs CAP_NET_ADMIN")]
    Routing(io::Error),
    /// Tables of a namespace cannot be read or written.
    #[error("the kernel refused the pod's rules: {0}; the agent needs CAP_NET_ADMIN, and the kernel nf_tables")]
    Tables(io::Error),
    /// A thread could not be started or died.
    #[error("cannot start a thread to enter the namespace: {0}")]
    Thread(io::Error),
}

/// The kernel calls of the agent. They block for some milliseconds.
pub trait Kernel: Send + Sync {
    /// Which namespace `path` stands for now, without opening it.
    ///
    /// # Errors
    /// When there is no such file.
    fn identify(&self, path: &Path) -> Result<NamespaceId, KernelError>;

    /// Opens a pod's namespace.
    ///
    /// # Errors
    /// When the file is absent, not a network namespace, or the node's own.
    fn open(&self, path: &Path) -> Result<Namespace, KernelError>;

    /// Opens a pod's namespace and says which addresses it has: what comes first when a pod starts.
    ///
    /// # Errors
    /// As [`Kernel::open`] and [`Kernel::addresses`].
    fn look(&self, path: &Path) -> Result<(Namespace, Vec<IpAddr>), KernelError> {
        let namespace = self.open(path)?;
        let addresses = self.addresses(&namespace)?;
        Ok((namespace, addresses))
    }

    /// The addresses of all interfaces in the namespace.
    ///
    /// # Errors
    /// When they cannot be read.
    fn addresses(&self, namespace: &Namespace) -> Result<Vec<IpAddr>, KernelError>;

    /// Which pods' processes run in which namespace now. What cannot be read is left out.
    fn census(&self) -> Census;

    /// The address with which the node itself reaches `address`, when there is a route.
    fn source_towards(&self, address: IpAddr) -> Option<IpAddr>;

    /// How many connections in the namespace break when the capture ends.
    ///
    /// # Errors
    /// When they cannot be counted.
    fn captured_connections(&self, namespace: &Namespace) -> Result<usize, KernelError>;

    /// Compares what is in the namespace with `capture`.
    ///
    /// # Errors
    /// When it cannot be read.
    fn inspect(&self, namespace: &Namespace, capture: &Capture) -> Result<Inspection, KernelError>;

    /// Makes the namespace hold exactly what `capture` says; doing it again changes nothing.
    ///
    /// # Errors
    /// When the kernel refuses; rules are then as they were before.
    fn apply(&self, namespace: &Namespace, capture: &Capture) -> Result<(), KernelError>;

    /// Makes the namespace hold what `capture` says, unless it does, and reads it back: what counts is what is there then, not
    /// that writing succeeded. A namespace that is `fresh` cannot have it, which saves a look. Says whether it was written.
    ///
    /// # Errors
    /// When the kernel refuses, or something else changes what was written.
    fn ensure(&self, namespace: &Namespace, capture: &Capture, fresh: bool) -> Result<bool, KernelError> {
        ensure(fresh, || self.inspect(namespace, capture), || self.apply(namespace, capture))
    }

    /// Removes everything of ours; nothing there is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn remove(&self, namespace: &Namespace) -> Result<(), KernelError>;
}

/// See [`Kernel::ensure`].
fn ensure(
    fresh: bool,
    inspect: impl Fn() -> Result<Inspection, KernelError>,
    apply: impl FnOnce() -> Result<(), KernelError>,
) -> Result<bool, KernelError> {
    if !fresh && inspect()? == Inspection::Same {
        return Ok(false);
    }
    apply()?;
    match inspect()? {
        Inspection::Same => Ok(true),
        Inspection::Absent | Inspection::Different => Err(KernelError::Changed),
    }
}
