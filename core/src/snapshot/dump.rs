//! A snapshot in the shape of `/config_dump` of Istio's node proxy, which `istioctl ztunnel-config` reads.

use std::sync::Arc;

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{Endpoint, Snapshot};
use crate::{policy::RejectedPolicy, service::Service};

/// Serializes to a map with `workloads`, `services`, `policies`, `stagedServices` and, of ours, `rejectedPolicies`; meant
/// to be flattened into a larger dump.
#[derive(Debug, Clone, Copy)]
pub struct Dump<'a>(pub &'a Snapshot);

impl Serialize for Dump<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(snapshot) = self;
        let mut workloads: Vec<_> = snapshot.workloads().collect();
        workloads.sort_by(|left, right| left.uid.cmp(&right.uid));
        let mut services: Vec<_> = snapshot.services().map(|service| DumpedService { snapshot, service }).collect();
        services.sort_by(|left, right| left.service.key.cmp(&right.service.key));
        let mut policies: Vec<_> = snapshot.policies().collect();
        policies.sort_by(|left, right| left.key.cmp(&right.key));
        let mut rejected: Vec<_> = snapshot.rejected_policies().map(|rejected| DumpedRejection(rejected)).collect();
        rejected.sort_by(|left, right| left.0.key.cmp(&right.0.key));
        // Endpoints whose service has not arrived.
        let staged: Vec<_> = snapshot.endpoints.iter().filter(|(key, _)| snapshot.service(key).is_none()).collect();

        let mut map = serializer.serialize_map(Some(5))?;
        map.serialize_entry("workloads", &workloads)?;
        map.serialize_entry("services", &services)?;
        map.serialize_entry("policies", &policies)?;
        map.serialize_entry("stagedServices", &Staged(staged))?;
        map.serialize_entry("rejectedPolicies", &rejected)?;
        map.end()
    }
}

struct DumpedService<'a> {
    snapshot: &'a Snapshot,
    service: &'a Arc<Service>,
}

impl Serialize for DumpedService<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.service.entries(&mut map)?;
        map.serialize_entry("endpoints", &DumpedEndpoints(self.snapshot.endpoints(&self.service.key)))?;
        map.end()
    }
}

struct DumpedEndpoints<'a>(&'a [Endpoint]);

impl Serialize for DumpedEndpoints<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|endpoint| (&endpoint.workload.uid, DumpedEndpoint(endpoint))))
    }
}

struct DumpedEndpoint<'a>(&'a Endpoint);

impl Serialize for DumpedEndpoint<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ports: std::collections::BTreeMap<u16, u16> = self
            .0
            .service()
            .into_iter()
            .flat_map(|service| service.ports.iter().map(|pair| (pair.service_port, pair.target_port)))
            .collect();
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("workloadUid", &self.0.workload.uid)?;
        map.serialize_entry("port", &ports)?;
        map.serialize_entry("status", &self.0.workload.status)?;
        map.end()
    }
}

struct Staged<'a>(Vec<(&'a crate::service::ServiceKey, &'a Arc<[Endpoint]>)>);

impl Serialize for Staged<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, endpoints)| (key, DumpedEndpoints(endpoints))))
    }
}

struct DumpedRejection<'a>(&'a RejectedPolicy);

impl Serialize for DumpedRejection<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("name", self.0.key.name())?;
        map.serialize_entry("namespace", self.0.key.namespace())?;
        map.serialize_entry("error", &self.0.error.to_string())?;
        map.end()
    }
}
