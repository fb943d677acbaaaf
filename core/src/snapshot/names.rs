//! Shares equal parts of workloads, of which a mesh of 100,000 has few distinct ones.

use std::{collections::HashSet, hash::Hash, sync::Arc};

use super::index::FixedState;
use crate::{
    policy::PolicyKey,
    service::GatewayAddress,
    workload::{Locality, PortPair, Workload},
};

/// Pools are searched for unused entries only once they have grown to twice what was in use, and not below this many.
const MINIMUM_SWEEP: usize = 1024;

#[derive(Debug)]
struct Pool<T: ?Sized> {
    entries: HashSet<Arc<T>, FixedState>,
    sweep_at: usize,
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self { entries: HashSet::default(), sweep_at: MINIMUM_SWEEP }
    }
}

impl<T: Hash + Eq + ?Sized> Pool<T> {
    fn intern(&mut self, value: &mut Arc<T>) {
        if let Some(shared) = self.entries.get(&**value) {
            *value = shared.clone();
            return;
        }
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|entry| Arc::strong_count(entry) > 1);
            self.entries.shrink_to_fit();
            self.sweep_at = (self.entries.len() * 2).max(MINIMUM_SWEEP);
        }
        self.entries.insert(value.clone());
    }
}

/// The pools of one world.
#[derive(Debug, Default)]
pub(crate) struct Names {
    texts: Pool<str>,
    localities: Pool<Locality>,
    gateways: Pool<GatewayAddress>,
    ports: Pool<[PortPair]>,
    policies: Pool<[PolicyKey]>,
}

impl Names {
    pub(crate) fn intern(&mut self, text: &mut Arc<str>) {
        self.texts.intern(text);
    }

    /// Shares what workloads have in common; name, uid and hostname are their own.
    pub(super) fn intern_workload(&mut self, workload: &mut Workload) {
        workload.identity.intern(self);
        for text in [
            &mut workload.network,
            &mut workload.node,
            &mut workload.canonical_name,
            &mut workload.canonical_revision,
            &mut workload.workload_name,
            &mut workload.cluster_id,
        ] {
            self.texts.intern(text);
        }
        for service in &mut workload.services {
            service.key.intern(self);
            self.ports.intern(&mut service.ports);
        }
        self.localities.intern(&mut workload.locality);
        self.policies.intern(&mut workload.authorization_policies);
        for gateway in [&mut workload.waypoint, &mut workload.network_gateway].into_iter().flatten() {
            self.gateways.intern(gateway);
        }
    }
}
