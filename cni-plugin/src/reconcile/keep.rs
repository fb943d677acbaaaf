//! Pods that are left with the proxy that has them, because nothing says that they should go and their namespace cannot
//! be handed over: what an agent before this one has set up goes on working until it is known what becomes of it.

use std::collections::BTreeSet;

use fairway_core::source::{Loaded, ObjectKey};

use super::{Reconciler, is_plain};

impl Reconciler {
    /// Lets a proxy that has the pod keep it (interoperability notes §5.3). Only an agent before this one can have handed it
    /// over, so its object was there when this one looked for the first time.
    pub(super) fn keep(&mut self, key: &ObjectKey, uid: &str) {
        if self.keep_quietly(key, uid) {
            tracing::info!(pod = %key, uid, "whichever node proxy has the pod is to keep it");
        }
    }

    /// The same of a pod that is most likely not there; says whether it is kept now and was not.
    pub(super) fn keep_quietly(&mut self, key: &ObjectKey, uid: &str) -> bool {
        let is_inherited = self.reports.latest().passes == 0 && !self.ended.contains(key);
        if !is_inherited || !is_plain(uid) || self.tracked.contains_key(uid) {
            return false;
        }
        self.handoff.keep(uid);
        self.kept.insert(uid.to_owned(), key.clone()).is_none()
    }

    /// Keeps a pod of which an agent has said something.
    pub(super) fn keep_if_said(&mut self, key: &ObjectKey, uid: &str) {
        if self.status.has(key) {
            self.keep(key, uid);
        }
    }

    /// Takes a pod from the proxies that was only kept there.
    pub(super) fn no_longer_keep(&mut self, uid: &str) {
        if let Some(key) = self.kept.remove(uid) {
            tracing::info!(pod = %key, uid, "no node proxy is to keep the pod any more");
            self.handoff.remove(uid);
        }
    }

    /// The sandbox of a pod ends of which nothing else is known.
    pub(super) fn end_unseen(&mut self, key: &ObjectKey) {
        self.ended.insert(key.clone());
        let kept = self.kept.iter().filter(|(_, kept)| *kept == key).map(|(uid, _)| uid.clone());
        for uid in kept.collect::<Vec<_>>() {
            self.no_longer_keep(&uid);
        }
    }

    /// Keeps no pods whose object is gone.
    pub(super) fn keep_only(&mut self, loaded: &Loaded, present: &BTreeSet<&str>) {
        let gone =
            |(uid, key): &(&String, &ObjectKey)| !present.contains(uid.as_str()) && self.known(loaded).is_gone(key);
        let gone: Vec<_> = self.kept.iter().filter(gone).map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.no_longer_keep(&uid);
        }
    }
}
