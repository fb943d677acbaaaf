//! From where the node itself reaches a pod: what comes from there to a probed port is a probe.

use std::net::IpAddr;

use crate::kernel::Kernel;

/// The node's addresses towards a sandbox. They belong to it, and end with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sources {
    towards: Box<[IpAddr]>,
    pub(super) found: Box<[IpAddr]>,
    /// There was a route to each address.
    is_complete: bool,
}

impl Sources {
    pub(super) fn ask(kernel: &dyn Kernel, towards: &[IpAddr]) -> Self {
        let found: Vec<_> = towards.iter().filter_map(|address| kernel.source_towards(*address)).collect();
        let is_complete = found.len() == towards.len();
        Self { towards: towards.into(), found: found.into(), is_complete }
    }

    /// Whether they need not be asked for again before their turn: routes seldom change, and each is asked for with a socket.
    pub(super) fn hold(&self, towards: &[IpAddr]) -> bool {
        self.is_complete && *self.towards == *towards
    }
}
