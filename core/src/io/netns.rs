//! Runs short synchronous work inside another network namespace.
//!
//! Only socket creation needs this: a socket stays in the namespace it was made in, wherever it is used later.
//! The closure is synchronous on purpose. A future may move to another thread between two polls, and
//! setns(2) changes the calling thread alone.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};

/// A handle to a network namespace; clones share the descriptor, which keeps the namespace alive.
#[derive(Clone)]
pub struct NetworkNamespace {
    descriptor: Arc<OwnedFd>,
    inode: u64,
}

impl NetworkNamespace {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted or not readable.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Opens a namespace file such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::from_descriptor(File::open(path)?.into())
    }

    /// Takes over a descriptor, for example one received over the node socket.
    ///
    /// # Errors
    /// When the descriptor cannot be inspected.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let file = File::from(descriptor);
        let inode = file.metadata()?.ino();
        Ok(Self { descriptor: Arc::new(file.into()), inode })
    }

    /// The namespace's inode number: its identity for as long as it lives.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }
}

impl PartialEq for NetworkNamespace {
    fn eq(&self, other: &Self) -> bool {
        self.inode == other.inode
    }
}

impl Eq for NetworkNamespace {}

impl fmt::Debug for NetworkNamespace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "netns:[{}]", self.inode)
    }
}

/// A pod's namespace together with the way back to our own.
#[derive(Clone, Debug)]
pub struct NamespaceEntry {
    home: NetworkNamespace,
    target: NetworkNamespace,
}

impl NamespaceEntry {
    /// Prepares to enter `target` from `home`, the namespace this process lives in.
    #[must_use]
    pub fn new(home: NetworkNamespace, target: NetworkNamespace) -> Self {
        Self { home, target }
    }

    /// The namespace entered by [`NamespaceEntry::run`].
    #[must_use]
    pub fn target(&self) -> &NetworkNamespace {
        &self.target
    }

    /// Runs `work` in the target namespace and comes back, also when `work` panics.
    ///
    /// # Errors
    /// When entering is refused: `CAP_SYS_ADMIN` is missing, or the descriptor is not a network namespace.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        setns(self.target.descriptor.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let _back = WayBack { home: &self.home };
        Ok(work())
    }
}

/// Returns the thread to its own namespace when dropped.
struct WayBack<'a> {
    home: &'a NetworkNamespace,
}

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        if setns(self.home.descriptor.as_fd(), CloneFlags::CLONE_NEWNET).is_err() {
            // A worker thread stuck in a pod's namespace would open other pods' sockets there. Dying is safer.
            std::process::abort();
        }
    }
}
