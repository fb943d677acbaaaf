//! Where a pod's network namespace is, and whether it is really that pod's.

use std::net::IpAddr;
use std::path::PathBuf;

use fairway_core::source::ObjectKey;

use super::{Census, Reconciler, Wanted};
use crate::kernel::{KernelError, Namespace, NamespaceId};

impl Reconciler {
    /// A file that stands for the pod's namespace now: as the runtime said, by its uid, where it was before, or that
    /// of its oldest process.
    pub(super) fn locate(&mut self, key: &ObjectKey, uid: &str) -> Result<(PathBuf, NamespaceId), KernelError> {
        let by_uid = self.settings.netns_dir.join(uid);
        let mut paths = self.arrivals.paths(key, uid, &self.settings.host_mounts);
        paths.push(by_uid.clone());
        paths.extend(self.tracked.get(uid).map(|tracked| tracked.path.clone()));
        for path in paths {
            if let Ok(id) = self.kernel.identify(&path) {
                return Ok((path, id));
            }
        }
        let path = self.census().namespace_of(uid).map(ToOwned::to_owned).ok_or(KernelError::NoNamespace(by_uid))?;
        let id = self.kernel.identify(&path)?;
        Ok((path, id))
    }

    /// Refuses a namespace that another pod's identity must not be served in: its file may have been used again.
    pub(super) fn verify(&mut self, wanted: &Wanted, network: &Namespace, addresses: &[IpAddr]) -> Result<(), String> {
        if !wanted.addresses.iter().any(|address| addresses.contains(address)) {
            let list = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(format!(
                "the network namespace found for it has none of its addresses ({}) but {}; it may be another pod's",
                list(&wanted.addresses),
                if addresses.is_empty() { "none at all".to_owned() } else { list(addresses) },
            ));
        }
        let id = network.id();
        match self.census().other_owner(id, &wanted.uid) {
            Some(other) => {
                Err(format!("the network namespace found for it runs processes of the pod with uid {other}"))
            }
            None => Ok(()),
        }
    }

    fn census(&mut self) -> &Census {
        self.census.get_or_insert_with(|| self.kernel.census())
    }
}
