//! Which pods the proxies were handed, written down: a pod whose own manifest cannot be read when an agent starts is in no
//! reading, and only its uid tells a proxy which one to keep.

use std::collections::{BTreeMap, BTreeSet};

use fairway_core::source::{Loaded, ObjectKey};

use super::Reconciler;
use crate::install::InstallError;

impl Reconciler {
    /// Keeps what the agent before this one had handed over and what may only not be readable.
    pub(super) fn keep_noted(&mut self, loaded: &Loaded, present: &BTreeSet<&str>) {
        if self.reports.latest().passes > 0 {
            return;
        }
        for (uid, key) in self.noted.clone() {
            if !present.contains(uid.as_str()) && !self.known(loaded).is_gone(&key) {
                self.keep(&key, &uid);
            }
        }
    }

    /// Writes down what the proxies have, in turn with everything else: each time is a file that must reach the disk. From
    /// an API server all pods are read or none is, so there is nothing to bridge.
    pub(super) fn note_handed(&mut self) {
        let Some(install) = self.settings.memory.as_ref().filter(|_| self.status.is_kept()) else { return };
        let tracked = self.tracked.iter().map(|(uid, tracked)| (uid, &tracked.key));
        let handed: BTreeMap<String, ObjectKey> =
            tracked.chain(&self.kept).map(|(uid, key)| (uid.clone(), key.clone())).collect();
        if handed == self.noted {
            return;
        }
        match install.note_handed(&handed) {
            Ok(()) => self.noted = handed,
            // Without a runtime there is no place for it; the installation says so.
            Err(InstallError::NoDirectory(_)) => {}
            Err(error) => tracing::warn!(%error, "cannot write down which pods the node proxy has; trying again"),
        }
    }
}
