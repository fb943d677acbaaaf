//! Kubernetes objects to what proxies are told; pure, so that the same objects always give the same resources.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_core::source::{Location, ObjectKey, Objects};
use fairway_proto::security::Authorization;
use fairway_proto::workload::{Service, Workload};
use serde_json::Value;

pub mod peer;
pub mod policies;
pub mod policy;
pub mod service;
pub mod workload;

use policies::Accepted;

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
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster_id: "Kubernetes".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            root_namespace: "fairway-system".to_owned(),
            network: String::new(),
        }
    }
}

/// Everything proxies are told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Pods.
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
    let backends = service::Backends::new(objects, settings);
    let workloads = objects
        .pods
        .values()
        .filter_map(|pod| {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let keys = policies.attached_to(namespace, &pod.metadata);
            workload::workload(pod, &backends, keys, settings)
        })
        .collect();
    let services = objects.services.values().filter_map(|service| service::service(service, settings)).collect();
    Translation {
        desired: Desired { workloads, services, policies: policies.authorizations },
        accepted: policies.accepted,
        problems: policies.problems,
    }
}
