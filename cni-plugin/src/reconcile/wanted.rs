//! A pod that is to be captured: what is known of it, and of what that makes its proxies and its namespace.

use std::net::IpAddr;

use fairway_core::source::{MeshPod, ObjectKey};

use super::probes::Sources;
use super::{Reconciler, Settling};
use crate::handoff::HandedPod;
use crate::kernel::Namespace;
use crate::rules::Capture;

/// A pod that is wanted and has all that capturing it takes.
pub(super) struct Wanted {
    pub(super) key: ObjectKey,
    pub(super) uid: String,
    pub(super) service_account: String,
    /// Its namespace has one of these.
    pub(super) addresses: Vec<IpAddr>,
    /// Those among them at which its kubelet probes it.
    pub(super) probed: Vec<IpAddr>,
    /// But for what is known only of its sandbox.
    capture: Capture,
}

impl Wanted {
    pub(super) fn capture(&self, sources: &Sources, settling: Settling) -> Capture {
        let mut capture = Capture { phase: settling.phase(), ..self.capture.clone() };
        capture.probes.sources.extend(&sources.found);
        capture
    }

    pub(super) fn handed(&self, network: Namespace) -> HandedPod {
        HandedPod {
            uid: self.uid.clone(),
            name: self.key.name.clone(),
            namespace: self.key.namespace.clone(),
            service_account: self.service_account.clone(),
            network,
        }
    }
}

impl Reconciler {
    /// All that it takes to capture `pod`.
    pub(super) fn wanted(&self, key: &ObjectKey, pod: &MeshPod, capture: Capture) -> Wanted {
        let uid = pod.uid().unwrap_or_default().to_owned();
        let assigned = self.arrivals.addresses(key, &uid);
        // The status of a pod whose sandbox was replaced has the addresses of the one before for a while.
        let probed = match &assigned[..] {
            _ if capture.probes.ports.is_empty() => Vec::new(),
            [] => pod.addresses.to_vec(),
            assigned => assigned.to_vec(),
        };
        let addresses = assigned.iter().chain(&pod.addresses).copied().collect();
        Wanted { key: key.clone(), uid, service_account: pod.service_account.to_string(), addresses, probed, capture }
    }
}
