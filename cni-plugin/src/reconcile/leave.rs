//! The way out: of pods that do not belong in any more, that were deleted, or whose namespace is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use fairway_core::source::{Loaded, MeshPod, ObjectKey};

use super::job::Job;
use super::{Reconciler, is_plain};
use crate::kernel::{KernelError, Namespace};
use crate::rules::{Capture, Phase};

/// Rules that an earlier agent may have left in a pod.
enum Leftovers {
    /// There are none.
    None,
    /// Its namespace is not found, which may come a moment later.
    Hidden,
    /// Its namespace is there; nothing when it cannot be opened now.
    Possible(Option<Namespace>),
}

impl Reconciler {
    /// The next step out for a pod that does not belong in.
    pub(super) fn leave(&mut self, key: &ObjectKey, pod: &MeshPod, now: Instant, full: bool) -> Option<Job> {
        let uid = pod.uid()?.to_owned();
        if !self.tracked.contains_key(&uid) {
            return if full { self.leave_unseen(key, pod, &uid) } else { None };
        }
        let found = self.locate(key, &uid).ok();
        let tracked = self.tracked.get_mut(&uid)?;
        if found.map(|(_, id)| id) != Some(tracked.network.id()) {
            // The namespace is gone, and its rules with it.
            self.let_go(&uid);
            return None;
        }
        let since = *tracked.leaving.get_or_insert(now);
        tracked.said = None;
        let (key, network) = (tracked.key.clone(), tracked.network.clone());
        let capture = Arc::new(Capture { phase: Phase::Leaving, ..Capture::clone(&tracked.capture) });
        self.withdraw(Some(&uid), &key);
        let waited = now.duration_since(since);
        if waited < self.settings.leave_grace {
            return None;
        }
        let is_over = waited >= self.settings.leave_grace + self.settings.established_grace;
        Some(if is_over { Job::Remove { uid, network } } else { Job::Drain { uid, network, capture } })
    }

    /// A pod that was un-enrolled while no agent ran goes from its proxy once its rules are gone, not before.
    fn leave_unseen(&mut self, key: &ObjectKey, pod: &MeshPod, uid: &str) -> Option<Job> {
        match self.look_for_leftovers(key, pod, uid) {
            Leftovers::None => self.no_longer_keep(uid),
            Leftovers::Hidden if self.reports.latest().passes > 0 => self.no_longer_keep(uid),
            Leftovers::Hidden => {
                self.keep_if_said(key, uid);
                self.withdraw(Some(uid), key);
            }
            Leftovers::Possible(network) => {
                self.keep_quietly(key, uid);
                self.withdraw(Some(uid), key);
                return Some(Job::Clean { uid: uid.to_owned(), network: network? });
            }
        }
        None
    }

    fn look_for_leftovers(&mut self, key: &ObjectKey, pod: &MeshPod, uid: &str) -> Leftovers {
        // The namespace of a host network pod is the node's own: never touched.
        if !is_plain(uid) || pod.is_host_network || self.clean.contains(uid) {
            return Leftovers::None;
        }
        let Ok((path, _)) = self.locate(key, uid) else { return Leftovers::Hidden };
        match self.kernel.open(&path) {
            Ok(network) => Leftovers::Possible(Some(network)),
            Err(KernelError::HostNamespace(_) | KernelError::NotANamespace(_)) => Leftovers::None,
            Err(KernelError::NoNamespace(_)) => Leftovers::Hidden,
            Err(error) => {
                tracing::warn!(pod = %key, uid, %error, "cannot see whether the pod still has rules; trying again");
                Leftovers::Possible(None)
            }
        }
    }

    /// Pods whose object is gone: nobody needs to be told in order any more. One that may only not be readable stays while
    /// its namespace does.
    pub(super) fn forget_deleted(&mut self, loaded: &Loaded, present: &BTreeSet<&str>, jobs: &mut Vec<Job>) {
        self.clean.retain(|uid| present.contains(uid.as_str()));
        self.keep_only(loaded, present);
        let gone: Vec<_> = self.tracked.keys().filter(|uid| !present.contains(uid.as_str())).cloned().collect();
        for uid in gone {
            let Some(tracked) = self.tracked.get(&uid) else { continue };
            let (key, network) = (tracked.key.clone(), tracked.network.clone());
            let lives = self.kernel.identify(&tracked.path).ok() == Some(network.id());
            if lives && !self.known(loaded).is_gone(&key) {
                continue;
            }
            tracing::info!(pod = %key, uid, "the pod was deleted");
            self.withdraw(Some(&uid), &key);
            if lives {
                // Its processes may run on for a while; they should not meet a proxy that has left.
                jobs.push(Job::Remove { uid, network });
            } else {
                self.let_go(&uid);
            }
        }
    }

    /// Forgets a pod whose namespace is gone.
    pub(super) fn let_go(&mut self, uid: &str) {
        if let Some(tracked) = self.tracked.remove(uid) {
            self.withdraw(Some(uid), &tracked.key);
        }
        self.handoff.remove(uid);
    }
}
