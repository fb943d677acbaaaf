//! Kubernetes objects to what proxies are told; pure, so that the same objects always give the same resources.
//!
//! What was made of objects is kept, and only what hangs on a changed object is made again ([`dependents`]): a pod that
//! changes costs the same whatever else there is. A first translation is one in which everything has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_core::ordered::OrderedMap;
use fairway_core::source::istio_network::{WorkloadEntry, WorkloadEntrySpec};
use fairway_core::source::labels::HasLabels;
use fairway_core::source::objects::{annotation, label};
use fairway_core::source::{Kind, Location, MeshPod, ObjectKey, Objects};
use fairway_proto::security::Authorization;
use fairway_proto::workload::{Service, Workload};
use k8s_openapi::api::core::v1::{Service as KubernetesService, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

pub mod automatic;
pub mod claims;
mod dependents;
pub mod endpoints;
pub mod entry;
pub mod labelled;
mod made;
pub mod nodes;
pub mod peer;
pub mod policies;
pub mod policy;
pub mod service;
pub mod vip;
pub mod waypoint;
pub mod workload;

use crate::l7::attach::attach;
use crate::l7::destinations::{self, Destinations};
use crate::l7::mesh::Mesh;
use crate::l7::model::Routes;
use crate::l7::telemetry;
use crate::l7::upgrades;
use crate::l7::waypoints::{Attachments, Bound, Plan};
use crate::parallel;
use crate::world::Resource;
use dependents::{Change, Stale};
use endpoints::{Endpoints, Served};
use entry::{Entries, Given, Surroundings};
use labelled::Labelled;
use made::{Made, Making, OfService, Scope};
use nodes::Nodes;
use policies::{Accepted, Policies};
use waypoint::Waypoints;

/// What is the same for every object of this mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// First part of a workload's uid.
    pub cluster_id: String,
    /// Suffix of service names.
    pub cluster_domain: String,
    /// Trust domain of all identities.
    pub trust_domain: String,
    /// Namespace whose policies without selector apply to the whole mesh.
    pub root_namespace: String,
    /// Network of workloads that name none.
    pub network: String,
    /// Who may be asked by policies, and whom waypoints tell what requests took.
    pub mesh: Mesh,
    /// Traffic goes without a waypoint that is missing or not ready, instead of being refused.
    pub lenient_waypoints: bool,
    /// ServiceEntries and WorkloadEntries outside the root namespace mean nothing to clients of other namespaces.
    pub private_entries: bool,
}

impl Settings {
    /// Whether what a namespace writes of the world outside the cluster may mean something to all clients.
    #[must_use]
    pub fn is_exported(&self, namespace: &str) -> bool {
        !self.private_entries || namespace == self.root_namespace
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster_id: "Kubernetes".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            root_namespace: "fairway-system".to_owned(),
            network: String::new(),
            mesh: Mesh::default(),
            lenient_waypoints: false,
            private_entries: false,
        }
    }
}

/// Everything proxies are told. Clones are cheap, and share what does not change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Pods, and what else serves something, by uid; encoded, because there are many of them and hardly anybody looks inside.
    pub workloads: ByName<Resource>,
    /// Services, by namespace and hostname.
    pub services: ByName<Service>,
    /// Policies.
    pub policies: Arc<Vec<Authorization>>,
}

/// Messages by the name of the resource that they are sent as.
pub type ByName<T> = OrderedMap<Arc<str>, Arc<T>>;

impl Desired {
    /// These.
    #[must_use]
    pub fn of(
        workloads: impl IntoIterator<Item = Workload>,
        services: impl IntoIterator<Item = Service>,
        policies: impl IntoIterator<Item = Authorization>,
    ) -> Self {
        let workloads = workloads.into_iter().map(|it| Arc::new(Resource::of_workload(&it)));
        let services = services.into_iter().map(|it| (service::key(&it).into(), Arc::new(it)));
        Self {
            workloads: workloads.map(|it| (Arc::clone(&it.name), it)).collect(),
            services: services.collect(),
            policies: Arc::new(policies.into_iter().collect()),
        }
    }
}

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The object, as it is now, is not in force.
    Error,
    /// The object is in force, but not word for word.
    Warning,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field, for example `spec.rules[0].to[1].operation.ports[0]`.
    pub field: String,
    /// What is wrong, and what is expected.
    pub message: String,
}

/// What is wrong with one object, and what is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The object.
    pub object: ObjectKey,
    /// Path of the field.
    pub field: String,
    /// What is wrong, and what is in force instead.
    pub message: String,
    /// How bad.
    pub severity: Severity,
    /// Where it is written, once somebody has looked.
    pub location: Option<Location>,
}

impl Problem {
    /// What it is, wherever it is written.
    #[must_use]
    pub fn what(&self) -> (&ObjectKey, &str, &str, Severity) {
        (&self.object, &self.field, &self.message, self.severity)
    }
}

/// Result of [`translate`].
#[derive(Clone, Debug, Default)]
pub struct Translation {
    /// What proxies are told.
    pub desired: Desired,
    /// What a user should know.
    pub problems: Vec<Problem>,
    /// Which HTTP requests go where.
    pub routes: Arc<Routes>,
    /// How endpoints are used.
    pub destinations: Arc<Destinations>,
    /// What waypoints stand before, and enforce.
    pub waypoints: Arc<Plan>,
    /// What the next translation goes on from; nothing before the first.
    made: Option<Made>,
    /// What was accepted before the first.
    remembered: Accepted,
}

impl Translation {
    /// The state before the first translation, in which these policies were accepted.
    #[must_use]
    pub fn before(accepted: Accepted) -> Self {
        Self { remembered: accepted, ..Self::default() }
    }

    /// One of which nothing but this is known.
    #[cfg(test)]
    pub(crate) fn of(desired: Desired) -> Self {
        Self { desired, ..Self::default() }
    }

    /// The objects that this was made of, as far as labels of workloads are concerned.
    #[must_use]
    pub fn labelled(&self) -> Labelled<'_> {
        Labelled(self.made.as_ref().map(|made| &made.objects))
    }

    /// Namespaces in which a waypoint is to be made.
    #[must_use]
    pub fn automatic(&self) -> BTreeSet<&str> {
        let needed = self.made.iter().flat_map(|made| made.needed.iter());
        needed.map(|key| key.namespace.as_str()).collect()
    }

    /// Addresses that hosts of ServiceEntries were given, where none are written.
    #[must_use]
    pub fn given(&self) -> Option<&Given> {
        self.made.as_ref().map(|made| &made.entries.given)
    }

    /// Services of which one address of a name is used at a time.
    #[must_use]
    pub fn one_at_a_time(&self) -> Option<&BTreeSet<String>> {
        self.made.as_ref().map(|made| &made.entries.one_at_a_time)
    }

    /// The last good version of each policy; the next translation needs it.
    #[must_use]
    pub fn accepted(&self) -> &Accepted {
        self.made.as_ref().map_or(&self.remembered, |made| &made.policies.accepted)
    }
}

/// Translates everything, making anew what depends on the difference between these objects and those before.
///
/// `rejected` holds objects in error that were never good, as they were written. `previous` is the outcome of the last
/// translation, with the same settings: a policy that was good and is not any more stays in force as it was. But for that
/// the outcome does not depend on it.
#[must_use]
pub fn translate(
    objects: &Objects,
    rejected: &BTreeMap<ObjectKey, Arc<Value>>,
    settings: &Settings,
    previous: &Translation,
) -> Translation {
    let is_first = previous.made.is_none();
    let before = previous.made.clone().unwrap_or_default();
    let kinds = before.objects.changed_kinds(objects);
    let has_policies = is_first || before.rejected != *rejected || kinds.iter().any(|kind| kind.is_policy());
    let policies = if has_policies {
        Arc::new(policies::translate(objects, rejected, settings, previous.accepted()))
    } else {
        Arc::clone(&before.policies)
    };
    let addresses = before.addresses.after(&before.objects, objects);
    let mut foreign = before.foreign.clone();
    dependents::index_foreign(&mut foreign, &before.objects, objects);
    let change = Change {
        before: &before.objects,
        now: objects,
        addresses_before: &before.addresses,
        addresses: &addresses,
        foreign: &foreign,
        of_entries: &before.entries.addresses,
        settings,
    };
    let mut stale = if is_first { Stale { everything: true, ..Stale::default() } } else { change.stale() };
    if has_policies {
        match policies.relisted(&before.policies) {
            Some(namespaces) => stale.namespaces.extend(namespaces),
            None => stale.everything = true,
        }
    }
    let has_routes = has_policies || kinds.iter().any(|kind| dependents::has_routes(*kind));
    let needed =
        if has_routes { Arc::new(automatic::needed(objects, &policies, settings)) } else { Arc::clone(&before.needed) };
    for key in needed.symmetric_difference(&before.needed) {
        stale.namespaces.insert(key.namespace.clone());
        stale.entries |= key.kind == Kind::ServiceEntry;
    }
    let nodes = Nodes::new(objects, settings);
    let waypoints = Waypoints::new(objects, settings, &needed);
    let has_entries = stale.entries || stale.everything;
    let entries = if has_entries {
        let around = Surroundings { objects, settings, nodes: &nodes, pods: &addresses, waypoints: &waypoints };
        let entries = Entries::new(&around);
        let (namespaces, pods) = entries.differs(&before.entries);
        stale.namespaces.extend(namespaces);
        stale.pods.extend(pods);
        Arc::new(entries)
    } else {
        Arc::clone(&before.entries)
    };

    let scope = Scope::of(&stale, objects);
    let slices = scope.slices(objects, &foreign);
    let world = Translator {
        objects,
        settings,
        policies: &policies,
        nodes: &nodes,
        waypoints: &waypoints,
        endpoints: Endpoints::new(objects, slices, &addresses, &nodes, settings),
        entries: &entries,
        backends: service::Backends::new(scope.services(objects), settings),
    };
    let mut making = Making::new(&before, &previous.desired, settings);
    // First what goes, so that a name can change hands.
    if has_entries {
        making.take_entries(&before.entries);
    }
    scope.gone(objects).for_each(|key| making.take(key));
    let pods: Vec<_> = scope.pods().collect();
    for ((key, _), made) in pods.iter().zip(parallel::map(&pods, |(key, pod)| world.pod(key, pod))) {
        making.pod(key, made);
    }
    for (key, entry) in objects.workload_entries.iter().filter(|(key, _)| stale.has_all_of(&key.namespace)) {
        making.others(key, world.workload_entry(key, entry));
    }
    for (key, object) in scope.whole(Kind::Service, &objects.services) {
        making.service(key, world.service(key, object));
    }
    for (key, of_slice) in world.endpoints.slices {
        making.others(key, (of_slice.others.into_values().collect(), of_slice.faults));
    }
    if has_entries {
        making.put_entries(&entries);
    }

    let (mut routes, mut plan) = (Arc::clone(&previous.routes), Arc::clone(&previous.waypoints));
    let mut destinations = Arc::clone(&previous.destinations);
    let (mut of_routes, mut of_plan) = (Arc::clone(&before.of_routes), Arc::clone(&before.of_plan));
    if has_routes || has_entries {
        let mut faults = Vec::new();
        let bound = making.bound.values().map(|bound| bound.as_ref().clone()).chain(entries.bound.iter().cloned());
        let of_policies = Attachments {
            policies: policies.attached.clone(),
            tokens: policies.tokens.clone(),
            rates: policies.rates.clone(),
            processors: policies.processors.clone(),
            authorizers: Arc::clone(&settings.mesh.authorizers),
            telemetry: telemetry::read(objects, settings),
        };
        plan = Arc::new(Plan::new(objects, &waypoints, bound.collect(), of_policies, &mut faults));
        destinations = Arc::new(destinations::read::read(objects, settings));
        routes = Arc::new(attach(objects, settings, &destinations));
        faults.extend(plan.unasked(&routes));
        faults.extend(plan.unseen(&routes));
        of_plan = Arc::new(faults);
        let verdicts = routes.verdicts.iter().chain(&destinations.verdicts);
        of_routes = Arc::new(verdicts.flat_map(|(object, verdict)| verdict.problems(object)).collect());
    }
    let faults = making.faults.iter().flat_map(|(key, faults)| faults.iter().map(move |fault| (key, fault)));
    let further = entries.faults.iter().chain(of_plan.iter()).map(|(key, fault)| (key, fault));
    let warnings = faults.chain(further).map(|(object, fault)| Problem {
        object: object.clone(),
        field: fault.field.clone(),
        message: fault.message.clone(),
        severity: Severity::Warning,
        location: None,
    });
    let problems = policies.problems.iter().cloned().chain(warnings).chain(of_routes.iter().cloned()).collect();
    let Making { workloads, services, others, bound, faults, .. } = making;
    let told =
        if has_policies { Arc::new(policies.authorizations.clone()) } else { Arc::clone(&previous.desired.policies) };
    let made = Made {
        objects: objects.clone(),
        rejected: rejected.clone(),
        policies,
        addresses,
        foreign,
        entries,
        needed,
        others,
        bound,
        faults,
        of_plan,
        of_routes,
    };
    let desired = Desired { workloads, services, policies: told };
    let remembered = Accepted::default();
    Translation { desired, problems, routes, destinations, waypoints: plan, made: Some(made), remembered }
}

/// Everything the translation of one object looks things up in.
struct Translator<'a> {
    objects: &'a Objects,
    settings: &'a Settings,
    policies: &'a Policies,
    nodes: &'a Nodes<'a>,
    waypoints: &'a Waypoints<'a>,
    endpoints: Endpoints<'a>,
    entries: &'a Entries,
    backends: service::Backends<'a>,
}

impl<'a> Translator<'a> {
    fn pod(&self, key: &ObjectKey, pod: &MeshPod) -> (Option<Resource>, Vec<Fault>) {
        let mut found = Vec::new();
        let node = pod.node().unwrap_or_default();
        let context = workload::Context {
            authorization_policies: self.policies.attached_to(&key.namespace, pod),
            services: self.served_by_pod(key, pod),
            waypoint: self.waypoints.of_workload(&key.namespace, pod, &pod.service_account, &mut found),
            locality: self.nodes.locality(node),
            network: self.nodes.network(node).to_owned(),
        };
        match workload::workload(key, pod, context, self.settings) {
            Some(workload) => (Some(Resource::of_workload(&workload)), found),
            None => (None, Vec::new()),
        }
    }

    /// Where a service has slices, they say who serves it; otherwise its selector does.
    fn served_by_pod(&self, key: &ObjectKey, pod: &MeshPod) -> Served {
        let namespace = key.namespace.as_str();
        let mut served = self.backends.selecting(
            namespace,
            pod,
            |service| self.endpoints.cover(namespace, service),
            |port| service::named_target(port, pod),
        );
        served.extend(self.endpoints.served_by(namespace, &key.name, workload::is_healthy(pod), |service| {
            self.backends.takes_all(namespace, service)
        }));
        let written = WorkloadEntrySpec::default();
        served.extend(self.entries.served_by(
            namespace,
            Some(&key.name),
            |key, value| pod.label(key) == Some(value),
            &written,
        ));
        served
    }

    fn workload_entry(&self, key: &ObjectKey, entry: &'a WorkloadEntry) -> (Vec<Workload>, Vec<Fault>) {
        if let Some(owner) = self.entries.claimed.get(key) {
            let message = format!("{} is the address of {owner}; the entry is left out", entry.spec.address);
            return (Vec::new(), vec![Fault { field: "spec.address".to_owned(), message }]);
        }
        let metadata = entry::selectable(entry);
        // Slices never name what is no pod.
        let named = |port: &ServicePort| match &port.target_port {
            Some(IntOrString::String(name)) => entry.spec.ports.get(name).copied(),
            _ => None,
        };
        let mut services = self.backends.selecting(&key.namespace, &metadata, |_| false, named);
        services.extend(self.entries.served_by(
            &key.namespace,
            None,
            |key, value| label(&metadata, key) == Some(value),
            &entry.spec,
        ));
        let mut found = Vec::new();
        let account = &entry.spec.service_account;
        let waypoint = self.waypoints.of_workload(&key.namespace, &entry.metadata, account, &mut found);
        let translated = entry::workload_entry(key, entry, &metadata, services, self.nodes, self.settings, &mut found);
        let workload = translated.map(|mut workload| {
            workload.authorization_policies = self.policies.attached_to(&key.namespace, &metadata);
            let may_have_waypoint = !workload.native_tunnel && self.settings.is_exported(&key.namespace);
            workload.waypoint = waypoint.filter(|_| may_have_waypoint);
            workload
        });
        (workload.into_iter().collect(), found)
    }

    fn service(&self, key: &ObjectKey, object: &'a KubernetesService) -> OfService {
        let mut faults = Vec::new();
        let binding = self.waypoints.of_service(Kind::Service, &object.metadata, &mut faults);
        let namespace = self.objects.namespace(&key.namespace);
        let distribution =
            namespace.and_then(|namespace| annotation(&namespace.metadata, service::TRAFFIC_DISTRIBUTION));
        let made = service::service(object, &binding, self.nodes.network(""), distribution, self.settings)?;
        let upgrades = upgrades::read(&object.metadata, !binding.gateways.is_empty(), &mut faults);
        let bound = Bound::of(&service::key(&made), key, &binding, upgrades.as_ref());
        Some((made, bound, faults))
    }
}

#[cfg(test)]
mod tests;
