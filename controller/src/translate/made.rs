//! What was made of which object: kept from one translation to the next, and replaced object by object.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_core::ordered::OrderedMap;
use fairway_core::source::objects::ByKey;
use fairway_core::source::{Kind, MeshPod, MeshSlice, ObjectKey, Objects};
use fairway_proto::workload::{Service, Workload};
use k8s_openapi::api::core::v1::Service as KubernetesService;
use serde_json::Value;

use super::automatic::Needed;
use super::dependents::{Foreign, Stale, naming};
use super::endpoints::{PodAddresses, own_addresses};
use super::entry::Entries;
use super::policies::Policies;
use super::{ByName, Desired, Fault, Problem, Settings, service, workload};
use crate::l7::waypoints::Bound;
use crate::world::Resource;

/// What becomes of a Service, unless it is an alias.
pub(super) type OfService = Option<(Service, Option<Bound>, Vec<Fault>)>;

/// What one translation leaves to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Made {
    /// Of these.
    pub(super) objects: Objects,
    pub(super) rejected: BTreeMap<ObjectKey, Arc<Value>>,
    pub(super) policies: Arc<Policies>,
    pub(super) addresses: PodAddresses,
    pub(super) foreign: Foreign,
    pub(super) entries: Arc<Entries>,
    pub(super) needed: Arc<Needed>,
    /// Names of the workloads that are made of WorkloadEntries and slices; those of pods say their name.
    pub(super) others: OrderedMap<ObjectKey, Arc<Vec<Arc<str>>>>,
    /// Services that have a waypoint.
    pub(super) bound: OrderedMap<ObjectKey, Arc<Bound>>,
    /// What is wrong with single objects.
    pub(super) faults: OrderedMap<ObjectKey, Arc<Vec<Fault>>>,
    /// What is wrong with policies for waypoints.
    pub(super) of_plan: Arc<Vec<(ObjectKey, Fault)>>,
    /// What is wrong with routes.
    pub(super) of_routes: Arc<Vec<Problem>>,
}

/// The objects that are stale, with what is needed to make them.
pub(super) struct Scope<'a> {
    stale: &'a Stale,
    pods: BTreeMap<&'a ObjectKey, &'a Arc<MeshPod>>,
    /// Where pods and slices are looked up in slices and services.
    namespaces: BTreeSet<&'a str>,
}

impl<'a> Scope<'a> {
    pub(super) fn of(stale: &'a Stale, objects: &'a Objects) -> Self {
        let pods: BTreeMap<_, _> = if stale.everything {
            objects.pods.iter().collect()
        } else {
            let whole = stale.namespaces.iter().flat_map(|it| Objects::within(&objects.pods, Kind::Pod, it));
            whole.chain(stale.pods.iter().filter_map(|key| objects.pods.get_key_value(key))).collect()
        };
        let of_slices = stale.slices.iter().map(|key| key.namespace.as_str());
        let namespaces = pods.keys().map(|key| key.namespace.as_str()).chain(of_slices);
        let namespaces = namespaces.chain(stale.namespaces.iter().map(String::as_str)).collect();
        Self { stale, pods, namespaces }
    }

    /// The pods that are stale.
    pub(super) fn pods(&self) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<MeshPod>)> {
        self.pods.iter().map(|(key, pod)| (*key, *pod))
    }

    /// The objects of a kind of which nothing but their namespaces say whether they are stale.
    pub(super) fn whole<T>(&self, kind: Kind, all: &'a ByKey<T>) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<T>)> {
        let everything = self.stale.everything.then(|| all.iter()).into_iter().flatten();
        let some = self.stale.namespaces.iter().filter(|_| !self.stale.everything);
        everything.chain(some.flat_map(move |namespace| Objects::within(all, kind, namespace)))
    }

    /// Everything of a kind where stale pods and slices are.
    fn around<T>(&self, kind: Kind, all: &'a ByKey<T>) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<T>)> {
        let everything = self.stale.everything.then(|| all.iter()).into_iter().flatten();
        let some = self.namespaces.iter().filter(|_| !self.stale.everything);
        everything.chain(some.flat_map(move |namespace| Objects::within(all, kind, namespace)))
    }

    pub(super) fn services(
        &self,
        objects: &'a Objects,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<KubernetesService>)> {
        self.around(Kind::Service, &objects.services)
    }

    /// The slices of the namespaces, and those elsewhere that name a pod by its address.
    pub(super) fn slices(
        &self,
        objects: &'a Objects,
        foreign: &Foreign,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<MeshSlice>)> {
        let mut slices: BTreeMap<_, _> = self.around(Kind::EndpointSlice, &objects.endpoint_slices).collect();
        if !self.stale.everything && !foreign.is_empty() {
            let addresses = self.pods.values().flat_map(|pod| own_addresses(pod));
            let keys: BTreeSet<&ObjectKey> = addresses.flat_map(|address| naming(foreign, *address)).collect();
            slices.extend(keys.into_iter().filter_map(|key| objects.endpoint_slices.get_key_value(key)));
        }
        slices.into_iter()
    }

    /// Objects of which nothing should be left.
    pub(super) fn gone(&self, objects: &'a Objects) -> impl Iterator<Item = &'a ObjectKey> {
        let pods = self.stale.pods.iter().filter(|key| !objects.pods.contains_key(*key));
        let slices = self.stale.slices.iter().filter(|key| !objects.endpoint_slices.contains_key(*key));
        self.stale.gone.iter().chain(pods).chain(slices)
    }
}

/// The outcome of a translation while it is made.
pub(super) struct Making<'a> {
    before: &'a Desired,
    settings: &'a Settings,
    pub(super) workloads: ByName<Resource>,
    pub(super) services: ByName<Service>,
    pub(super) others: OrderedMap<ObjectKey, Arc<Vec<Arc<str>>>>,
    pub(super) bound: OrderedMap<ObjectKey, Arc<Bound>>,
    pub(super) faults: OrderedMap<ObjectKey, Arc<Vec<Fault>>>,
}

impl<'a> Making<'a> {
    pub(super) fn new(made: &Made, before: &'a Desired, settings: &'a Settings) -> Self {
        Self {
            before,
            settings,
            workloads: before.workloads.clone(),
            services: before.services.clone(),
            others: made.others.clone(),
            bound: made.bound.clone(),
            faults: made.faults.clone(),
        }
    }

    /// Takes out all that was made of an object.
    pub(super) fn take(&mut self, key: &ObjectKey) {
        match key.kind {
            Kind::Pod => drop(self.workloads.remove(workload::uid(&key.namespace, &key.name, self.settings).as_str())),
            Kind::Service => drop(self.services.remove(service::key_of(key, self.settings).as_str())),
            _ => {}
        }
        for name in self.others.remove(key).iter().flat_map(|names| names.iter()) {
            self.workloads.remove(name);
        }
        self.bound.remove(key);
        self.faults.remove(key);
    }

    pub(super) fn pod(&mut self, key: &ObjectKey, (workload, faults): (Option<Resource>, Vec<Fault>)) {
        match workload {
            Some(workload) => self.workload(workload),
            None => drop(self.workloads.remove(workload::uid(&key.namespace, &key.name, self.settings).as_str())),
        }
        keep(&mut self.faults, key, Some(faults).filter(|faults| !faults.is_empty()));
    }

    fn workload(&mut self, workload: Resource) {
        put(&mut self.workloads, &self.before.workloads, Arc::clone(&workload.name), workload);
    }

    pub(super) fn others(&mut self, key: &ObjectKey, (workloads, faults): (Vec<Workload>, Vec<Fault>)) {
        if !workloads.is_empty() || self.others.contains_key(key) {
            let workloads: Vec<Resource> = workloads.iter().map(Resource::of_workload).collect();
            let names: Vec<Arc<str>> = workloads.iter().map(|workload| Arc::clone(&workload.name)).collect();
            for old in self.others.get(key).cloned().iter().flat_map(|names| names.iter()) {
                if !names.contains(old) {
                    self.workloads.remove(old);
                }
            }
            workloads.into_iter().for_each(|workload| self.workload(workload));
            keep(&mut self.others, key, Some(names).filter(|names| !names.is_empty()));
        }
        keep(&mut self.faults, key, Some(faults).filter(|faults| !faults.is_empty()));
    }

    pub(super) fn service(&mut self, key: &ObjectKey, made: OfService) {
        let (bound, faults) = match made {
            Some((service, bound, faults)) => {
                put(&mut self.services, &self.before.services, service::key(&service).into(), service);
                (bound, faults)
            }
            None => {
                self.services.remove(service::key_of(key, self.settings).as_str());
                (None, Vec::new())
            }
        };
        keep(&mut self.bound, key, bound);
        keep(&mut self.faults, key, Some(faults).filter(|faults| !faults.is_empty()));
    }

    pub(super) fn take_entries(&mut self, entries: &Entries) {
        for service in &entries.services {
            self.services.remove(service::key(service).as_str());
        }
        for workload in &entries.endpoints {
            self.workloads.remove(workload.uid.as_str());
        }
    }

    pub(super) fn put_entries(&mut self, entries: &Entries) {
        for service in &entries.services {
            put(&mut self.services, &self.before.services, service::key(service).into(), service.clone());
        }
        for workload in &entries.endpoints {
            self.workload(Resource::of_workload(workload));
        }
    }
}

/// Puts a message; the very one that was there before when it is the same.
fn put<T: PartialEq>(messages: &mut ByName<T>, before: &ByName<T>, name: Arc<str>, message: T) {
    match before.get_key_value(name.as_ref()) {
        Some((name, known)) if **known == message => {
            if !messages.get(name.as_ref()).is_some_and(|present| Arc::ptr_eq(present, known)) {
                messages.insert(Arc::clone(name), Arc::clone(known));
            }
        }
        _ => drop(messages.insert(name, Arc::new(message))),
    }
}

/// Keeps what there is to know of an object, if anything.
fn keep<T: PartialEq>(known: &mut OrderedMap<ObjectKey, Arc<T>>, key: &ObjectKey, value: Option<T>) {
    match value {
        Some(value) if known.get(key).is_some_and(|known| **known == value) => {}
        Some(value) => drop(known.insert(key.clone(), Arc::new(value))),
        None => drop(known.remove(key)),
    }
}
