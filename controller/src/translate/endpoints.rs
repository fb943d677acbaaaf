//! EndpointSlices: which pods serve a service and on which ports, and what serves one that is no pod.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_core::ordered::{Difference, OrderedMap};
use fairway_core::source::mesh_slice::Endpoint;
use fairway_core::source::{Kind, MeshPod, MeshSlice, ObjectKey, Objects};
use fairway_proto::workload::{NetworkMode, Port, PortList, Workload, WorkloadStatus, WorkloadType};
use k8s_openapi::api::core::v1::ServiceSpec;

use super::nodes::Nodes;
use super::service::{app_protocol, hostname, octets, sent, tcp_ports, valid_port};
use super::{Fault, Settings};

/// Ports by the key of their service.
pub type Served = BTreeMap<String, PortList>;

/// Namespace and name.
type Name<'a> = (&'a str, &'a str);

/// What the slices say.
#[derive(Debug, Default)]
pub struct Endpoints<'a> {
    /// By namespace and name of the pod.
    pods: HashMap<Name<'a>, Vec<Serving>>,
    /// Namespace and name of the services that have slices.
    services: BTreeSet<Name<'a>>,
    /// What becomes of each slice.
    pub slices: BTreeMap<&'a ObjectKey, OfSlice>,
}

/// What a pod serves by the word of slices. Nearly all serve one thing, so what is the same for all pods of a slice is shared.
#[derive(Debug)]
struct Serving {
    service: Arc<str>,
    ports: Arc<PortList>,
    is_ready: bool,
}

/// What becomes of a slice, other than of pods.
#[derive(Debug, Default)]
pub struct OfSlice {
    /// What is no pod, by uid.
    pub others: BTreeMap<String, Workload>,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

/// Who in the cluster has an address.
#[derive(Clone, Debug, Default)]
pub struct PodAddresses {
    /// Pods whose address is theirs alone.
    pods: OrderedMap<(IpAddr, ObjectKey), ()>,
    /// Addresses of nodes, and how many pods say so.
    nodes: OrderedMap<IpAddr, usize>,
}

impl PodAddresses {
    /// The index over the pods of `now`, where this is the one over those of `before`.
    #[must_use]
    pub fn after(&self, before: &Objects, now: &Objects) -> Self {
        let Self { mut pods, mut nodes } = self.clone();
        for Difference { key, old, new } in before.pods.differences(&now.pods, Arc::ptr_eq) {
            let [old_own, own] = [old, new].map(|pod| pod.map(|pod| own_addresses(pod)).unwrap_or_default());
            if old_own != own {
                for address in old_own {
                    pods.remove(&(*address, key.clone()));
                }
                for address in own {
                    pods.insert((*address, key.clone()), ());
                }
            }
            let [old_node, node] = [old, new].map(|pod| pod.map(|pod| node_addresses(pod)).unwrap_or_default());
            if old_node != node {
                for address in node {
                    let count = nodes.get(&address).copied().unwrap_or_default();
                    nodes.insert(address, count.saturating_add(1));
                }
                for address in old_node {
                    match nodes.get(&address).copied().unwrap_or_default() {
                        0 | 1 => drop(nodes.remove(&address)),
                        count => drop(nodes.insert(address, count.saturating_sub(1))),
                    }
                }
            }
        }
        Self { pods, nodes }
    }

    /// Whether it is an address of a node that runs a pod.
    #[must_use]
    pub fn is_node(&self, address: IpAddr) -> bool {
        self.nodes.contains_key(&address)
    }

    /// The pod with this address; of several the last by name.
    #[must_use]
    pub fn pod(&self, address: IpAddr) -> Option<&ObjectKey> {
        let first = (address, ObjectKey::pod("", ""));
        let of_address = self.pods.range_from(&first).take_while(|((it, _), ())| *it == address);
        of_address.last().map(|((_, pod), ())| pod)
    }

    /// Namespace and name of the pod with this address.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<Name<'_>> {
        self.pod(address).map(|pod| (pod.namespace.as_str(), pod.name.as_str()))
    }
}

/// The addresses that are a pod's alone.
pub(super) fn own_addresses(pod: &MeshPod) -> &[IpAddr] {
    if pod.is_host_network || pod.is_terminal { &[] } else { &pod.addresses }
}

/// The addresses of a pod's node that the pod knows: on its network they are the pod's, too.
fn node_addresses(pod: &MeshPod) -> BTreeSet<IpAddr> {
    let shared: &[IpAddr] = if pod.is_host_network && !pod.is_terminal { &pod.addresses } else { &[] };
    pod.host.iter().chain(shared).copied().collect()
}

/// The address of an endpoint that names no pod.
pub(super) fn foreign_address(endpoint: &Endpoint) -> Option<IpAddr> {
    endpoint.address.as_ref()?.parse().ok()
}

impl<'a> Endpoints<'a> {
    /// Reads these slices.
    #[must_use]
    pub fn new(
        objects: &'a Objects,
        slices: impl Iterator<Item = (&'a ObjectKey, &'a Arc<MeshSlice>)>,
        pods: &'a PodAddresses,
        nodes: &Nodes<'_>,
        settings: &Settings,
    ) -> Self {
        let mut endpoints = Self::default();
        for (key, slice) in slices {
            let mut outcome = OfSlice::default();
            endpoints.read(key, slice, &mut outcome, objects, pods, nodes, settings);
            endpoints.slices.insert(key, outcome);
        }
        endpoints
    }

    #[expect(clippy::too_many_arguments, reason = "one step of a loop, named for its length")]
    fn read(
        &mut self,
        key: &'a ObjectKey,
        slice: &'a MeshSlice,
        outcome: &mut OfSlice,
        objects: &'a Objects,
        pods: &'a PodAddresses,
        nodes: &Nodes<'_>,
        settings: &Settings,
    ) {
        let name = &*slice.service;
        let service = objects.services.get_key_value(&ObjectKey::new(Kind::Service, &key.namespace, name));
        let Some((service, spec)) = service.and_then(|(key, service)| Some((key, sent(service)?))) else { return };
        self.services.insert((&service.namespace, &service.name));
        if *slice.address_type == *"FQDN" {
            let message = "FQDN is not supported; use a ServiceEntry with resolution DNS".to_owned();
            outcome.faults.push(Fault { field: "addressType".to_owned(), message });
            return;
        }
        let host = hostname(name, &key.namespace, settings);
        let served = (format!("{}/{host}", key.namespace).into(), Arc::new(ports(spec, slice)));
        for (index, endpoint) in slice.endpoints.iter().enumerate() {
            self.add(key, index, endpoint, &served, outcome, pods, nodes, settings);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one step of a loop, named for its length")]
    fn add(
        &mut self,
        slice: &'a ObjectKey,
        index: usize,
        endpoint: &'a Endpoint,
        served: &(Arc<str>, Arc<PortList>),
        outcome: &mut OfSlice,
        pods: &'a PodAddresses,
        nodes: &Nodes<'_>,
        settings: &Settings,
    ) {
        let is_ready = endpoint.is_ready;
        if let Some(name) = &endpoint.pod {
            self.serve((&slice.namespace, name), served, is_ready);
            return;
        }
        let Some(text) = &endpoint.address else { return };
        let Some(address) = foreign_address(endpoint) else {
            let message = format!("{text:?} is not an address; the endpoint is left out");
            let field = format!("endpoints[{index}].addresses[0]");
            outcome.faults.push(Fault { field, message });
            return;
        };
        if let Some(pod) = pods.find(address) {
            // A peer that may be enrolled is reached as itself, never in clear text.
            self.serve(pod, served, is_ready);
            return;
        }
        let uid =
            format!("{}/discovery.k8s.io/EndpointSlice/{}/{}/{text}", settings.cluster_id, slice.namespace, slice.name);
        let node = endpoint.node.as_deref().unwrap_or_default();
        let in_zone = || {
            let zone = endpoint.zone.as_deref().filter(|zone| !zone.is_empty())?.to_owned();
            Some(fairway_proto::workload::Locality { zone, ..Default::default() })
        };
        let status = if is_ready { WorkloadStatus::Healthy } else { WorkloadStatus::Unhealthy };
        outcome.others.insert(
            uid.clone(),
            Workload {
                uid,
                name: slice.name.clone(),
                namespace: slice.namespace.clone(),
                addresses: vec![octets(address)],
                network: nodes.network(node).to_owned(),
                locality: nodes.locality(node).or_else(in_zone),
                node: node.to_owned(),
                workload_name: slice.name.clone(),
                canonical_name: slice.name.clone(),
                workload_type: WorkloadType::Pod.into(),
                status: status.into(),
                cluster_id: settings.cluster_id.clone(),
                services: [(served.0.to_string(), PortList::clone(&served.1))].into(),
                // Others may have the address as well, and are not to be found by it.
                network_mode: NetworkMode::HostNetwork.into(),
                ..Workload::default()
            },
        );
    }

    fn serve(&mut self, pod: Name<'a>, (service, ports): &(Arc<str>, Arc<PortList>), is_ready: bool) {
        let services = self.pods.entry(pod).or_default();
        let Some(known) = services.iter_mut().find(|known| known.service == *service) else {
            services.push(Serving { service: Arc::clone(service), ports: Arc::clone(ports), is_ready });
            return;
        };
        // A slice for each family says the same.
        if ports.ports.iter().any(|port| !known.ports.ports.contains(port)) {
            let all = &mut Arc::make_mut(&mut known.ports).ports;
            all.extend(ports.ports.iter().filter(|port| !all.contains(port)).copied().collect::<Vec<_>>());
        }
        known.is_ready |= is_ready;
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
            .filter(|serving| serving.is_ready || !is_healthy || takes_all(&serving.service))
            .map(|serving| (serving.service.to_string(), PortList::clone(&serving.ports)))
            .collect()
    }
}

/// The ports of a service as a slice resolves them, which has those of the same names.
fn ports(spec: &ServiceSpec, slice: &MeshSlice) -> PortList {
    let named = |name: &str| {
        slice.ports.iter().find(|port| {
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
