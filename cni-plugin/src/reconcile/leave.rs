//! The way out: of pods that do not belong in any more, that were deleted, or whose namespace is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use fairway_core::source::{Loaded, MeshPod, ObjectKey};

use super::job::Job;
use super::{Reconciler, is_plain};
use crate::rules::{Capture, Phase};

impl Reconciler {
    /// The next step out for a pod that does not belong in.
    pub(super) fn leave(&mut self, key: &ObjectKey, pod: &MeshPod, now: Instant, full: bool) -> Option<Job> {
        let uid = pod.uid()?.to_owned();
        if !self.tracked.contains_key(&uid) {
            let job = self.look_for_leftovers(key, pod, &uid, full);
            if job.is_some() {
                // It goes from its proxy once its rules are gone.
                self.withdraw(Some(&uid), key);
            } else if full {
                self.no_longer_keep(&uid);
            }
            return job;
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

    /// Rules that an earlier agent left in a pod that was un-enrolled while no agent ran.
    fn look_for_leftovers(&mut self, key: &ObjectKey, pod: &MeshPod, uid: &str, full: bool) -> Option<Job> {
        // The namespace of a host network pod is the node's own: never touched.
        if !full || !is_plain(uid) || pod.is_host_network || self.clean.contains(uid) {
            return None;
        }
        let (path, _) = self.locate(key, uid).ok()?;
        let network = self.kernel.open(&path).ok()?;
        Some(Job::Clean { uid: uid.to_owned(), network })
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
