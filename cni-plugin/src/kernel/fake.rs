//! A kernel that only remembers what it was told: for tests, passed in where the real one would be.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Census, Inspection, Kernel, KernelError, Namespace, NamespaceId};
use crate::rules::Capture;

/// Records calls and keeps namespaces in memory.
#[derive(Debug, Default)]
pub struct FakeKernel {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    paths: BTreeMap<PathBuf, u64>,
    contents: BTreeMap<u64, Capture>,
    calls: Vec<String>,
    refuse_open: bool,
    refuse_apply: bool,
    refuse_remove: bool,
    addresses: BTreeMap<u64, Vec<IpAddr>>,
    /// From where the node reaches addresses, where that was said.
    routes: BTreeMap<IpAddr, Option<IpAddr>>,
    census: Census,
    connections: usize,
}

/// The address every namespace has unless it was given others.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The node's address towards every IPv4 address of which nothing else was said.
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);

impl FakeKernel {
    /// Makes `path` stand for the namespace `inode`.
    pub fn place(&self, path: &Path, inode: u64) {
        self.state().paths.insert(path.to_owned(), inode);
    }

    /// Makes `path` stand for nothing.
    pub fn vanish(&self, path: &Path) {
        self.state().paths.remove(path);
    }

    /// What the namespace `inode` holds.
    pub fn content(&self, inode: u64) -> Option<Capture> {
        self.state().contents.get(&inode).cloned()
    }

    /// Puts something into the namespace `inode`, or empties it, behind the agent's back.
    pub fn tamper(&self, inode: u64, content: Option<Capture>) {
        match content {
            Some(content) => drop(self.state().contents.insert(inode, content)),
            None => drop(self.state().contents.remove(&inode)),
        }
    }

    /// Whether namespaces cannot be opened from now on, as when there are no descriptors left.
    pub fn refuse_open(&self, refuse: bool) {
        self.state().refuse_open = refuse;
    }

    /// Whether rules are refused from now on.
    pub fn refuse_apply(&self, refuse: bool) {
        self.state().refuse_apply = refuse;
    }

    /// Whether rules stay from now on, however they are removed.
    pub fn refuse_remove(&self, refuse: bool) {
        self.state().refuse_remove = refuse;
    }

    /// Gives the namespace `inode` other addresses than [`ADDRESS`].
    pub fn give(&self, inode: u64, addresses: &[IpAddr]) {
        self.state().addresses.insert(inode, addresses.to_vec());
    }

    /// From where the node reaches `address` from now on, if it does.
    pub fn route(&self, address: IpAddr, source: Option<IpAddr>) {
        self.state().routes.insert(address, source);
    }

    /// Lets a process of the pod `uid` run in the namespace `inode`, to be found at `path`.
    pub fn run_process(&self, uid: &str, inode: u64, path: &Path) {
        self.place(path, inode);
        self.state().census.note(uid, (0, inode), path);
    }

    /// How many connections every namespace has that the capture carries.
    pub fn hold_connections(&self, count: usize) {
        self.state().connections = count;
    }

    /// The changes made so far, such as `apply 7`.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel for FakeKernel {
    fn identify(&self, path: &Path) -> Result<NamespaceId, KernelError> {
        let inode = self.state().paths.get(path).copied();
        inode.map(|inode| (0, inode)).ok_or_else(|| KernelError::NoNamespace(path.to_owned()))
    }

    fn open(&self, path: &Path) -> Result<Namespace, KernelError> {
        let id = self.identify(path)?;
        if self.state().refuse_open {
            let error = io::Error::other("refused by the test");
            return Err(KernelError::Open { path: path.to_owned(), error });
        }
        let file = File::open("/dev/null").map_err(|error| KernelError::Open { path: path.to_owned(), error })?;
        Ok(Namespace::new(file.into(), id))
    }

    fn addresses(&self, namespace: &Namespace) -> Result<Vec<IpAddr>, KernelError> {
        let given = self.state().addresses.get(&namespace.id().1).cloned();
        Ok(given.unwrap_or_else(|| vec![ADDRESS.into()]))
    }

    fn census(&self) -> Census {
        self.state().census.clone()
    }

    fn source_towards(&self, address: IpAddr) -> Option<IpAddr> {
        let said = self.state().routes.get(&address).copied();
        said.unwrap_or_else(|| address.is_ipv4().then_some(NODE_ADDRESS.into()))
    }

    fn captured_connections(&self, _: &Namespace) -> Result<usize, KernelError> {
        Ok(self.state().connections)
    }

    fn inspect(&self, namespace: &Namespace, capture: &Capture) -> Result<Inspection, KernelError> {
        Ok(match self.state().contents.get(&namespace.id().1) {
            None => Inspection::Absent,
            Some(content) if content == capture => Inspection::Same,
            Some(_) => Inspection::Different,
        })
    }

    fn apply(&self, namespace: &Namespace, capture: &Capture) -> Result<(), KernelError> {
        let mut state = self.state();
        if state.refuse_apply {
            let error = io::Error::other("refused by the test");
            return Err(KernelError::Run { program: "nft", error });
        }
        state.calls.push(format!("apply {}", namespace.id().1));
        state.contents.insert(namespace.id().1, capture.clone());
        Ok(())
    }

    fn remove(&self, namespace: &Namespace) -> Result<(), KernelError> {
        let mut state = self.state();
        if state.refuse_remove {
            return Ok(());
        }
        state.calls.push(format!("remove {}", namespace.id().1));
        state.contents.remove(&namespace.id().1);
        Ok(())
    }
}
