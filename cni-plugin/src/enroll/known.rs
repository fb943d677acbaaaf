//! What is known of who is in: what the source says, and where that could not be read, what was written down before.
//! Whatever depends on a namespace asks here, so that none takes "could not be read" for "does not opt in".

use std::collections::BTreeSet;
use std::net::IpAddr;

use fairway_core::source::{Loaded, MeshPod, ObjectKey};
use k8s_openapi::api::core::v1::Namespace;

use super::{Decision, Rules, decide, is_enrolled};
use crate::plugin::remembered::Remembered;

/// A pod's namespace, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub enum Home<'a> {
    /// As the source has it.
    Read(&'a Namespace),
    /// There is no such object, so it does not opt in.
    Absent,
    /// It could not be read, or not yet. Whether it opted in when it was read last, if that is known.
    Unread(Option<bool>),
}

/// One reading of the source, and what was remembered before it.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The reading.
    pub loaded: &'a Loaded,
    /// Who opts in.
    pub rules: &'a Rules,
    /// The enrolled namespaces as they were written down last, by this agent or the one before.
    pub memory: &'a Remembered,
    /// Whether each pod's namespace must be an object, too, as an API server sees to it. A directory of manifests may
    /// leave it out.
    pub namespaces_exist: bool,
}

impl<'a> Known<'a> {
    /// What is known of the namespace `name`.
    #[must_use]
    pub fn home(&self, name: &str) -> Home<'a> {
        if let Some(namespace) = self.loaded.objects.namespace(name) {
            return Home::Read(namespace);
        }
        // Pods and namespaces come from an API server on their own ways, and either may be ahead.
        let has_pods = || self.loaded.objects.pods.keys().any(|pod| *pod.namespace == *name);
        if self.loaded.has_unseen() || self.namespaces_exist && has_pods() {
            return Home::Unread(self.memory.enrols(name));
        }
        Home::Absent
    }

    /// Whether `pod`, called `key`, belongs in. `assigned` are the addresses it was just given.
    #[must_use]
    pub fn decide(&self, key: &ObjectKey, pod: &MeshPod, assigned: &[IpAddr]) -> Decision {
        decide(key, pod, self.home(&key.namespace), self.rules, assigned)
    }

    /// Whether the pods of the namespace `name` are held to be captured, unless they say otherwise. Where nobody knows,
    /// they are.
    #[must_use]
    pub fn is_enrolled(&self, name: &str) -> bool {
        match self.home(name) {
            Home::Read(namespace) => is_enrolled(namespace, self.rules),
            Home::Absent => false,
            Home::Unread(was_enrolled) => was_enrolled.unwrap_or(true),
        }
    }

    /// The enrolled namespaces, to be written down; nothing when that would lose what cannot be known.
    #[must_use]
    pub fn enrolled(&self) -> Option<BTreeSet<String>> {
        let before = match self.memory {
            Remembered::Enrolled(namespaces) => namespaces.iter().collect(),
            Remembered::NotInstalled => Vec::new(),
            Remembered::Unreadable(_) if self.loaded.has_unseen() => return None,
            Remembered::Unreadable(_) => Vec::new(),
        };
        let read = self.loaded.objects.namespaces.values().filter_map(|namespace| namespace.metadata.name.as_ref());
        let all: BTreeSet<&String> = read.chain(before).collect();
        Some(all.into_iter().filter(|name| self.is_enrolled(name)).cloned().collect())
    }

    /// Whether a pod that the source does not show is gone, rather than not readable.
    #[must_use]
    pub fn is_gone(&self, pod: &ObjectKey) -> bool {
        // Another one that has its name by now was read.
        !self.loaded.has_unseen() || self.loaded.objects.pods.contains_key(pod)
    }
}

#[cfg(test)]
mod tests;
