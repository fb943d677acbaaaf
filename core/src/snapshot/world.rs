//! The writer: applies batches of updates, each giving the next snapshot.

use std::sync::Arc;

use super::{
    Endpoint, RefusedResource, Snapshot,
    index::{Changes, Few, Member},
    names::Names,
};
use crate::{
    policy::{Applied, Policy, PolicyKey, RejectedPolicy, Scope},
    service::{Service, ServiceKey},
    workload::{Workload, WorkloadUid},
};

/// One change to the world. An object replaces the one with the same key entirely.
#[derive(Debug, Clone)]
pub enum Update {
    /// A workload is new or changed.
    Workload(Box<Workload>),
    /// A service is new or changed.
    Service(Box<Service>),
    /// A policy is new or changed.
    Policy(Box<Policy>),
    /// A policy is new or changed, and not understood.
    InvalidPolicy(Box<RejectedPolicy>),
    /// A workload or service is new or changed, and not understood. An earlier version of it stays in use.
    RefusedAddress(Box<RefusedResource>),
    /// A workload (by uid) or else a service (by `namespace/hostname`) is gone.
    RemoveAddress(String),
    /// A policy is gone.
    RemovePolicy(PolicyKey),
    /// All that existed when we first asked has been given: from here on what is missing does not exist.
    Complete,
}

impl From<Workload> for Update {
    fn from(workload: Workload) -> Self {
        Self::Workload(Box::new(workload))
    }
}

impl From<Service> for Update {
    fn from(service: Service) -> Self {
        Self::Service(Box::new(service))
    }
}

impl From<Policy> for Update {
    fn from(policy: Policy) -> Self {
        Self::Policy(Box::new(policy))
    }
}

impl From<Box<RejectedPolicy>> for Update {
    fn from(rejected: Box<RejectedPolicy>) -> Self {
        Self::InvalidPolicy(rejected)
    }
}

/// The single writer. Readers keep the snapshots they were given.
#[derive(Debug)]
pub struct World {
    current: Arc<Snapshot>,
    /// What has been staged since. It owns what it has touched, so that the pages of a large answer cost what they hold:
    /// publishing each of them would copy, each time, a good part of what came before.
    draft: Option<Draft>,
    names: Names,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An empty world that waits for [`Update::Complete`] before it shows any pod.
    #[must_use]
    pub fn new() -> Self {
        Self { current: Arc::new(Snapshot::empty()), draft: None, names: Names::default() }
    }

    /// An empty world that is complete as it is: for those who know all there is without waiting for a control plane.
    #[must_use]
    pub fn complete() -> Self {
        let mut world = Self::new();
        world.apply(vec![Update::Complete]);
        world
    }

    /// The world as of the last batch that was published.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.clone()
    }

    /// Takes in one update, which nobody sees until [`World::publish`].
    pub fn stage(&mut self, update: Update) {
        let draft = self.draft.get_or_insert_with(|| Draft::of(&self.current));
        match update {
            Update::Workload(workload) => draft.put_workload(*workload, &mut self.names),
            Update::Service(service) => draft.put_service(*service),
            Update::Policy(policy) => draft.put_policy(*policy),
            Update::InvalidPolicy(rejected) => draft.reject_policy(*rejected),
            Update::RefusedAddress(resource) => draft.changed |= draft.next.refused.put(*resource),
            Update::RemoveAddress(name) => draft.remove_address(&name),
            Update::RemovePolicy(key) => draft.remove_policy(&key),
            Update::Complete => {
                draft.changed |= !draft.next.complete;
                draft.next.complete = true;
            }
        }
    }

    /// Gives the world after all that was staged. If that changed nothing the snapshot is the one before.
    pub fn publish(&mut self) -> Arc<Snapshot> {
        if let Some(next) = self.draft.take().and_then(Draft::finish) {
            self.current = Arc::new(next);
        }
        self.snapshot()
    }

    /// Forgets what was staged since the last publication.
    pub fn discard(&mut self) {
        self.draft = None;
    }

    /// Applies the updates in order, after those staged, and gives the world after all of them; nobody sees a state in
    /// between.
    pub fn apply(&mut self, batch: Vec<Update>) -> Arc<Snapshot> {
        for update in batch {
            self.stage(update);
        }
        self.publish()
    }
}

/// The next snapshot in the making.
#[derive(Debug)]
struct Draft {
    next: Snapshot,
    endpoints: Changes<ServiceKey, Endpoint>,
    nodes: Changes<Arc<str>, Arc<Workload>>,
    changed: bool,
}

impl Draft {
    fn of(current: &Snapshot) -> Self {
        Self { next: current.clone(), endpoints: Changes::new(), nodes: Changes::new(), changed: false }
    }

    fn finish(mut self) -> Option<Snapshot> {
        if !self.changed {
            return None;
        }
        self.endpoints.apply(&mut self.next.endpoints);
        self.nodes.apply(&mut self.next.nodes);
        self.next.version += 1;
        Some(self.next)
    }

    fn put_workload(&mut self, mut workload: Workload, names: &mut Names) {
        self.changed |= self.next.refused.take(workload.uid.as_str());
        if let Some(present) = self.next.workloads.get(&workload.uid) {
            // The same again, as after a reconnect: keep the pointer, so that views stay equal at a glance.
            if **present == workload {
                return;
            }
            let uid = workload.uid.clone();
            self.remove_workload(&uid);
        }
        self.changed = true;
        names.intern_workload(&mut workload);
        let workload = Arc::new(workload);
        for address in workload.indexed_addresses() {
            self.next.addresses.add(address, workload.clone());
        }
        if let Some(hostname) = &workload.hostname {
            self.next.workload_hostnames.add(hostname.clone(), workload.clone());
        }
        if !workload.node.is_empty() {
            self.nodes.put(workload.node.clone(), workload.clone());
        }
        for (service, entry) in workload.services.iter().enumerate() {
            self.endpoints.put(entry.key.clone(), Endpoint { workload: workload.clone(), service });
        }
        self.next.workloads.insert(workload.uid.clone(), workload);
    }

    fn remove_workload(&mut self, uid: &WorkloadUid) -> bool {
        let Some(workload) = self.next.workloads.remove(uid) else { return false };
        self.changed = true;
        for address in workload.indexed_addresses() {
            self.next.addresses.take(&address, uid);
        }
        if let Some(hostname) = &workload.hostname {
            self.next.workload_hostnames.take(hostname, uid);
        }
        if !workload.node.is_empty() {
            self.nodes.take(workload.node.clone(), uid.clone());
        }
        for entry in &workload.services {
            self.endpoints.take(entry.key.clone(), uid.clone());
        }
        true
    }

    fn put_service(&mut self, service: Service) {
        self.changed |= self.next.refused.take(service.key.as_str());
        if let Some(present) = self.next.services.get(&service.key) {
            if **present == service {
                return;
            }
            let key = service.key.clone();
            self.remove_service(&key);
        }
        self.changed = true;
        let service = Arc::new(service);
        for vip in &service.vips {
            self.next.vips.add(vip.clone(), service.clone());
        }
        if !service.cidr_vips.is_empty() {
            let added = service.cidr_vips.iter().map(|cidr| (cidr.clone(), service.clone()));
            let mut all: Vec<_> = self.next.cidr_vips.iter().cloned().chain(added).collect();
            all.sort_by(|left, right| left.1.key.cmp(&right.1.key).then_with(|| left.0.cmp(&right.0)));
            self.next.cidr_vips = all.into();
        }
        self.next.hostnames.add(service.hostname().into(), service.clone());
        self.next.services.insert(service.key.clone(), service);
    }

    fn remove_service(&mut self, key: &ServiceKey) {
        let Some(service) = self.next.services.remove(key) else { return };
        self.changed = true;
        for vip in &service.vips {
            self.next.vips.take(vip, key);
        }
        if !service.cidr_vips.is_empty() {
            self.next.cidr_vips = self.next.cidr_vips.iter().filter(|(_, other)| other.key != *key).cloned().collect();
        }
        self.next.hostnames.take(&Arc::from(service.hostname()), key);
    }

    /// Uid first, then service key, as names of both kinds share one space.
    fn remove_address(&mut self, name: &str) {
        self.changed |= self.next.refused.take(name);
        if !self.remove_workload(&WorkloadUid::new(name))
            && let Ok(key) = name.parse()
        {
            self.remove_service(&key);
        }
    }

    fn put_policy(&mut self, policy: Policy) {
        self.changed |= self.next.rejected.remove(&policy.key).is_some();
        if self.next.policies.get(&policy.key).is_some_and(|present| **present == policy) {
            return;
        }
        self.changed = true;
        self.unlist(&policy.key);
        let policy = Arc::new(policy);
        self.list(Some(policy.scope), &Applied::Known(policy.clone()));
        self.next.policies.insert(policy.key.clone(), policy);
    }

    /// Keeps the version that was understood; without one the policy refuses what it covers.
    fn reject_policy(&mut self, rejected: RejectedPolicy) {
        let key = &rejected.key;
        if self.next.rejected.get(key).is_some_and(|present| **present == rejected) {
            return;
        }
        self.changed = true;
        if self.next.policies.get(key).is_none() {
            self.unlist(key);
            if !rejected.dry_run {
                self.list(rejected.scope, &Applied::Refusing { key: key.clone(), invalid: true });
            }
        }
        self.next.rejected.insert(key.clone(), Arc::new(rejected));
    }

    fn remove_policy(&mut self, key: &PolicyKey) {
        let known = self.next.policies.remove(key).is_some();
        let rejected = self.next.rejected.remove(key).is_some();
        if known || rejected {
            self.changed = true;
            self.unlist(key);
        }
    }

    /// Makes a policy apply to all it covers without being listed.
    fn list(&mut self, scope: Option<Scope>, applied: &Applied) {
        match scope {
            Some(Scope::Global) => {
                let mut all: Vec<_> = self.next.global.iter().cloned().chain([applied.clone()]).collect();
                all.sort_by(|left, right| left.key().cmp(right.key()));
                self.next.global = all.into();
            }
            // Of unknown scope: what its name says it is about.
            Some(Scope::Namespace) | None => {
                self.next.namespaced.add(applied.key().namespace().into(), applied.clone());
            }
            Some(Scope::WorkloadSelector) => {}
        }
    }

    fn unlist(&mut self, key: &PolicyKey) {
        if self.next.global.iter().any(|applied| applied.id() == key) {
            self.next.global = self.next.global.iter().filter(|applied| applied.id() != key).cloned().collect();
        }
        let namespace: Arc<str> = key.namespace().into();
        if self.next.namespaced.get(&namespace).map_or(&[][..], Few::as_slice).iter().any(|applied| applied.id() == key)
        {
            self.next.namespaced.take(&namespace, key);
        }
    }
}
