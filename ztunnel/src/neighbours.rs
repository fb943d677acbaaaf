//! The pods this proxy serves, found by name: what a connection between two of them needs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use fairway_core::workload::Workload;

use crate::pod::Pod;

/// Namespace and name.
type PodName = (Arc<str>, Arc<str>);

/// Pods by namespace and name. Readers never wait; the one writer replaces the map.
#[derive(Default)]
pub struct Neighbours {
    pods: ArcSwap<HashMap<PodName, Weak<Pod>>>,
}

impl Neighbours {
    /// A pod is served from now on. Pods that are not any more fall out with the last hold on them.
    pub fn add(&self, pod: &Arc<Pod>) {
        let key = (Arc::clone(&pod.reference.namespace), Arc::clone(&pod.reference.name));
        self.pods.rcu(|pods| {
            let mut pods: HashMap<_, _> = pods
                .iter()
                .filter(|(_, pod)| pod.strong_count() > 0)
                .map(|(key, pod)| (key.clone(), Weak::clone(pod)))
                .collect();
            pods.insert(key.clone(), Arc::downgrade(pod));
            pods
        });
    }

    /// The pod of `workload`, if this proxy serves it now and `address` is in its namespace.
    ///
    /// The address may have moved on: a pod that is recreated under its old name has another one before the controller
    /// has said so. A tunnel would find the wrong identity there; here the namespace itself is asked.
    #[must_use]
    pub fn find(&self, workload: &Workload, address: IpAddr) -> Option<Arc<Pod>> {
        let key = (Arc::from(workload.namespace()), Arc::clone(&workload.name));
        let pod = self.pods.load().get(&key)?.upgrade()?;
        let serves = pod.view().borrow().workload.as_ref().is_some_and(|own| own.uid == workload.uid);
        (serves && pod.drain.mode().is_none() && pod.sockets.owns(address)).then_some(pod)
    }
}
