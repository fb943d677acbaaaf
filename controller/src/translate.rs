//! Kubernetes objects to what proxies are told; pure, so that the same objects always give the same resources.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_core::source::istio_network::WorkloadEntrySpec;
use fairway_core::source::objects::{annotation, label, node_name, service_account_name};
use fairway_core::source::{Location, ObjectKey, Objects};
use fairway_proto::security::Authorization;
use fairway_proto::workload::{Service, Workload};
use k8s_openapi::api::core::v1::{Pod, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

pub mod claims;
pub mod endpoints;
pub mod entry;
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
use crate::l7::model::Routes;
use crate::l7::waypoints::{Bound, Plan};
use claims::Claims;
use endpoints::{Endpoints, PodAddresses, Served};
use entry::{Entries, Surroundings};
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
            lenient_waypoints: false,
            private_entries: false,
        }
    }
}

/// Everything proxies are told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Pods, and what else serves something.
    pub workloads: Vec<Workload>,
    /// Services.
    pub services: Vec<Service>,
    /// Policies.
    pub policies: Vec<Authorization>,
}

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Whether this is the same problem, wherever it is written.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        (&self.object, &self.field, &self.message, self.severity)
            == (&other.object, &other.field, &other.message, other.severity)
    }
}

/// Result of [`translate`].
#[derive(Clone, Debug, Default)]
pub struct Translation {
    /// What proxies are told.
    pub desired: Desired,
    /// The last good version of each policy; the next translation needs it.
    pub accepted: Accepted,
    /// What a user should know.
    pub problems: Vec<Problem>,
    /// Which HTTP requests go where.
    pub routes: Routes,
    /// How endpoints are used.
    pub destinations: Destinations,
    /// What waypoints stand before, and enforce.
    pub waypoints: Plan,
}

/// Translates everything.
///
/// `rejected` holds objects in error that were never good, as they were written. `previous` is the outcome of the last
/// translation: a policy that was good and is not any more stays in force as it was.
#[must_use]
pub fn translate(
    objects: &Objects,
    rejected: &BTreeMap<ObjectKey, Arc<Value>>,
    settings: &Settings,
    previous: &Accepted,
) -> Translation {
    let policies = policies::translate(objects, rejected, settings, previous);
    let nodes = Nodes::new(objects, settings);
    let pods = PodAddresses::new(objects);
    let waypoints = Waypoints::new(objects, settings);
    let around = Surroundings { objects, settings, nodes: &nodes, pods: &pods, waypoints: &waypoints };
    let mut claims = Claims::new(objects, settings);
    let world = Translator {
        objects,
        settings,
        policies: &policies,
        nodes: &nodes,
        waypoints: &waypoints,
        endpoints: Endpoints::new(objects, &pods, &nodes, settings),
        entries: Entries::new(&around, &mut claims),
        backends: service::Backends::new(objects, settings),
    };
    let mut faults = Vec::new();
    let mut workloads = world.pods(&mut faults);
    workloads.extend(world.workload_entries(&owners_of_claimed(objects, &mut claims), &mut faults));
    let mut bound = Vec::new();
    let mut services = world.services(&mut faults, &mut bound);
    let Translator { endpoints, entries, .. } = world;
    bound.extend(entries.bound);
    workloads.extend(endpoints.others);
    workloads.extend(entries.endpoints);
    services.extend(entries.services);
    faults.extend(endpoints.faults);
    faults.extend(entries.faults);
    let Policies { authorizations, accepted, attached, tokens, mut problems, .. } = policies;
    let plan = Plan::new(objects, &waypoints, bound, attached, tokens, &mut faults);
    problems.extend(faults.into_iter().map(|(object, fault)| Problem {
        object,
        field: fault.field,
        message: fault.message,
        severity: Severity::Warning,
        location: None,
    }));
    let destinations = destinations::read::read(objects, settings);
    let routes = attach(objects, settings, &destinations);
    let verdicts = routes.verdicts.iter().chain(&destinations.verdicts);
    problems.extend(verdicts.flat_map(|(object, verdict)| verdict.problems(object)));
    let desired = Desired { workloads, services, policies: authorizations };
    Translation { desired, accepted, problems, routes, destinations, waypoints: plan }
}

/// Everything the translation of one object looks things up in.
struct Translator<'a> {
    objects: &'a Objects,
    settings: &'a Settings,
    policies: &'a Policies,
    nodes: &'a Nodes<'a>,
    waypoints: &'a Waypoints<'a>,
    endpoints: Endpoints<'a>,
    entries: Entries<'a>,
    backends: service::Backends<'a>,
}

type Faults = Vec<(ObjectKey, Fault)>;

impl Translator<'_> {
    fn pods(&self, faults: &mut Faults) -> Vec<Workload> {
        let pods = self.objects.pods.iter().filter_map(|(key, pod)| {
            let mut found = Vec::new();
            let node = node_name(pod).unwrap_or_default();
            let context = workload::Context {
                authorization_policies: self.policies.attached_to(&key.namespace, &pod.metadata),
                services: self.served_by_pod(key, pod),
                waypoint: self.waypoints.of_workload(&pod.metadata, service_account_name(pod), &mut found),
                locality: self.nodes.locality(node),
                network: self.nodes.network(node).to_owned(),
            };
            let workload = workload::workload(pod, context, self.settings)?;
            faults.extend(found.into_iter().map(|fault| (key.clone(), fault)));
            Some(workload)
        });
        pods.collect()
    }

    /// Where a service has slices, they say who serves it; otherwise its selector does.
    fn served_by_pod(&self, key: &ObjectKey, pod: &Pod) -> Served {
        let namespace = key.namespace.as_str();
        let metadata = &pod.metadata;
        let mut served = self.backends.selecting(
            metadata,
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
            |key, value| label(metadata, key) == Some(value),
            &written,
        ));
        served
    }

    fn workload_entries(&self, claimed: &BTreeMap<&ObjectKey, String>, faults: &mut Faults) -> Vec<Workload> {
        let entries = self.objects.workload_entries.iter().filter_map(|(key, entry)| {
            if let Some(owner) = claimed.get(key) {
                let message = format!("{} is the address of {owner}; the entry is left out", entry.spec.address);
                faults.push((key.clone(), Fault { field: "spec.address".to_owned(), message }));
                return None;
            }
            let metadata = entry::selectable(entry);
            // Slices never name what is no pod.
            let named = |port: &ServicePort| match &port.target_port {
                Some(IntOrString::String(name)) => entry.spec.ports.get(name).copied(),
                _ => None,
            };
            let mut services = self.backends.selecting(&metadata, |_| false, named);
            services.extend(self.entries.served_by(
                &key.namespace,
                None,
                |key, value| label(&metadata, key) == Some(value),
                &entry.spec,
            ));
            let mut found = Vec::new();
            let account = &entry.spec.service_account;
            let waypoint = self.waypoints.of_workload(&entry.metadata, account, &mut found);
            let translated =
                entry::workload_entry(key, entry, &metadata, services, self.nodes, self.settings, &mut found);
            faults.extend(found.into_iter().map(|fault| (key.clone(), fault)));
            let mut workload = translated?;
            workload.authorization_policies = self.policies.attached_to(&key.namespace, &metadata);
            let may_have_waypoint = !workload.native_tunnel && self.settings.is_exported(&key.namespace);
            workload.waypoint = waypoint.filter(|_| may_have_waypoint);
            Some(workload)
        });
        entries.collect()
    }

    fn services(&self, faults: &mut Faults, bound: &mut Vec<Bound>) -> Vec<Service> {
        let services = self.objects.services.iter().filter_map(|(key, object)| {
            let mut found = Vec::new();
            let binding = self.waypoints.of_service(&object.metadata, &mut found);
            let namespace = self.objects.namespace(&key.namespace);
            let distribution =
                namespace.and_then(|namespace| annotation(&namespace.metadata, service::TRAFFIC_DISTRIBUTION));
            let service = service::service(object, &binding, self.nodes.network(""), distribution, self.settings)?;
            bound.extend(Bound::of(&format!("{}/{}", service.namespace, service.hostname), key, &binding));
            faults.extend(found.into_iter().map(|fault| (key.clone(), fault)));
            Some(service)
        });
        services.collect()
    }
}

/// WorkloadEntries whose address is somebody else's, and whose.
fn owners_of_claimed<'a>(objects: &'a Objects, claims: &mut Claims<'a>) -> BTreeMap<&'a ObjectKey, String> {
    let by_age = entry::by_age(objects.workload_entries.iter(), |entry| &entry.metadata);
    let claimed = by_age.into_iter().filter_map(|(key, entry)| {
        let address = entry.spec.address.parse().ok()?;
        Some((key, claims.workload_entry(key, address).err()?))
    });
    claimed.collect()
}
