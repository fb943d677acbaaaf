//! EndpointSlices: which pods serve a service and on which ports, and what serves one that is no pod.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use fairway_core::source::objects::{is_host_network, is_terminal, label, pod_ips};
use fairway_core::source::{Kind, ObjectKey, Objects};
use fairway_proto::workload::{NetworkMode, Port, PortList, Workload, WorkloadStatus, WorkloadType};
use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::nodes::Nodes;
use super::service::{app_protocol, hostname, octets, sent, tcp_ports, valid_port};
use super::{Fault, Settings};

/// Label with the service a slice is of.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Ports by the key of their service.
pub type Served = BTreeMap<String, PortList>;

/// Namespace and name.
type Name<'a> = (&'a str, &'a str);

/// What the slices say.
#[derive(Debug, Default)]
pub struct Endpoints<'a> {
    /// By namespace and name of the pod; `false` for a service whose slice says that this pod is not ready.
    pods: HashMap<Name<'a>, BTreeMap<String, (PortList, bool)>>,
    /// Namespace and name of the services that have slices.
    services: BTreeSet<Name<'a>>,
    /// What is no pod.
    pub others: Vec<Workload>,
    /// What is wrong with slices.
    pub faults: Vec<(ObjectKey, Fault)>,
}

/// Pods by address, for those whose address is theirs alone.
#[derive(Debug)]
pub struct PodAddresses<'a>(HashMap<IpAddr, Name<'a>>);

impl<'a> PodAddresses<'a> {
    /// Indexes the pods.
    #[must_use]
    pub fn new(objects: &'a Objects) -> Self {
        let own = objects.pods.iter().filter(|(_, pod)| !is_host_network(pod) && !is_terminal(pod));
        let addresses = own.flat_map(|(key, pod)| {
            pod_ips(pod).into_iter().map(|address| (address, (key.namespace.as_str(), key.name.as_str())))
        });
        Self(addresses.collect())
    }

    /// Namespace and name of the pod with this address.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<Name<'a>> {
        self.0.get(&address).copied()
    }
}

impl<'a> Endpoints<'a> {
    /// Reads all slices.
    #[must_use]
    pub fn new(objects: &'a Objects, pods: &PodAddresses<'a>, nodes: &Nodes<'_>, settings: &Settings) -> Self {
        let mut endpoints = Self::default();
        let mut others: BTreeMap<String, Workload> = BTreeMap::new();
        for (key, slice) in objects.endpoint_slices.iter() {
            let Some(name) = label(&slice.metadata, SERVICE_NAME) else { continue };
            let service = objects.services.get_key_value(&ObjectKey::new(Kind::Service, &key.namespace, name));
            let Some((service, spec)) = service.and_then(|(key, service)| Some((key, sent(service)?))) else {
                continue;
            };
            endpoints.services.insert((&service.namespace, &service.name));
            if slice.address_type == "FQDN" {
                let message = "FQDN is not supported; use a ServiceEntry with resolution DNS".to_owned();
                endpoints.faults.push((key.clone(), Fault { field: "addressType".to_owned(), message }));
                continue;
            }
            let served =
                (format!("{}/{}", key.namespace, hostname(name, &key.namespace, settings)), ports(spec, slice));
            for (index, endpoint) in slice.endpoints.iter().enumerate() {
                endpoints.add(key, index, endpoint, &served, pods, nodes, settings, &mut others);
            }
        }
        endpoints.others = others.into_values().collect();
        endpoints
    }

    #[expect(clippy::too_many_arguments, reason = "one step of a loop, named for its length")]
    fn add(
        &mut self,
        slice: &'a ObjectKey,
        index: usize,
        endpoint: &'a Endpoint,
        served: &(String, PortList),
        pods: &PodAddresses<'a>,
        nodes: &Nodes<'_>,
        settings: &Settings,
        others: &mut BTreeMap<String, Workload>,
    ) {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let is_ready = conditions.ready.unwrap_or(true) && conditions.terminating != Some(true);
        let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
        if let Some(name) = target.and_then(|target| target.name.as_deref()) {
            self.serve((&slice.namespace, name), served, is_ready);
            return;
        }
        // All addresses of an endpoint are the same one's.
        let Some(text) = endpoint.addresses.first() else { return };
        let Ok(address) = text.parse::<IpAddr>() else {
            let message = format!("{text:?} is not an address; the endpoint is left out");
            let field = format!("endpoints[{index}].addresses[0]");
            self.faults.push((slice.clone(), Fault { field, message }));
            return;
        };
        if let Some(pod) = pods.find(address) {
            // A peer that may be enrolled is reached as itself, never in clear text.
            self.serve(pod, served, is_ready);
            return;
        }
        let uid =
            format!("{}/discovery.k8s.io/EndpointSlice/{}/{}/{text}", settings.cluster_id, slice.namespace, slice.name);
        let node = endpoint.node_name.clone().unwrap_or_default();
        let in_zone = || {
            let zone = endpoint.zone.clone().filter(|zone| !zone.is_empty())?;
            Some(fairway_proto::workload::Locality { zone, ..Default::default() })
        };
        let status = if is_ready { WorkloadStatus::Healthy } else { WorkloadStatus::Unhealthy };
        others.insert(
            uid.clone(),
            Workload {
                uid,
                name: slice.name.clone(),
                namespace: slice.namespace.clone(),
                addresses: vec![octets(address)],
                network: nodes.network(&node).to_owned(),
                locality: nodes.locality(&node).or_else(in_zone),
                node,
                workload_name: slice.name.clone(),
                canonical_name: slice.name.clone(),
                workload_type: WorkloadType::Pod.into(),
                status: status.into(),
                cluster_id: settings.cluster_id.clone(),
                services: [served.clone()].into(),
                // Others may have the address as well, and are not to be found by it.
                network_mode: NetworkMode::HostNetwork.into(),
                ..Workload::default()
            },
        );
    }

    fn serve(&mut self, pod: Name<'a>, (service, ports): &(String, PortList), is_ready: bool) {
        let services = self.pods.entry(pod).or_default();
        let (known, ready) = services.entry(service.clone()).or_default();
        // A slice for each family says the same.
        known.ports.extend(ports.ports.iter().filter(|port| !known.ports.contains(port)).copied().collect::<Vec<_>>());
        *ready |= is_ready;
    }

    /// Whether slices say who serves the service.
    #[must_use]
    pub fn cover(&self, namespace: &str, service: &str) -> bool {
        self.services.contains(&(namespace, service))
    }

    /// What a pod serves. Who is ready by itself and not so in a slice is left out there, because proxies know one state
    /// for all services of a pod; `takes_all` names the services that take pods in any state.
    pub fn served_by(&self, namespace: &str, name: &str, is_healthy: bool, takes_all: impl Fn(&str) -> bool) -> Served {
        let services = self.pods.get(&(namespace, name)).into_iter().flatten();
        services
            .filter(|(service, (_, is_ready))| *is_ready || !is_healthy || takes_all(service))
            .map(|(service, (ports, _))| (service.clone(), ports.clone()))
            .collect()
    }
}

/// The ports of a service as a slice resolves them, which has those of the same names.
fn ports(spec: &ServiceSpec, slice: &EndpointSlice) -> PortList {
    let named = |name: &str| {
        slice.ports.iter().flatten().find(|port| {
            port.name.as_deref().unwrap_or_default() == name
                && matches!(port.protocol.as_deref(), None | Some("" | "TCP"))
        })
    };
    let ports = tcp_ports(spec).filter_map(|(port, service_port)| {
        let target = named(port.name.as_deref().unwrap_or_default())?.port.and_then(valid_port)?;
        Some(Port {
            service_port: service_port.into(),
            target_port: target.into(),
            app_protocol: app_protocol(port).into(),
        })
    });
    PortList { ports: ports.collect() }
}
