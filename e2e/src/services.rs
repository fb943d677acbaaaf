//! Services of the lab: their addresses, and what stands behind each address and port.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use fairway_core::source::ObjectKey;
use fairway_core::source::objects::{Objects, is_ready, is_terminating, matches_labels, pod_ips};
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::addresses::{self, Dual};

/// One address and port of a service, and where its connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frontend {
    /// Namespace and name, for comments in the rules.
    pub(crate) service: String,
    /// The service's address.
    pub(crate) address: SocketAddr,
    /// `tcp` or `udp`.
    pub(crate) protocol: &'static str,
    /// Ready pods.
    pub(crate) endpoints: Vec<SocketAddr>,
}

/// Addresses given to services, by the lab or by their manifests.
#[derive(Debug, Default)]
pub(crate) struct ServiceAddresses {
    given: BTreeMap<ObjectKey, Vec<IpAddr>>,
}

impl ServiceAddresses {
    /// Brings the table in line with the services that exist; gives those whose addresses the lab chose now.
    pub(crate) fn update(&mut self, objects: &Objects) -> Vec<(ObjectKey, Vec<IpAddr>)> {
        self.given.retain(|key, _| objects.services.contains_key(key));
        let mut chosen = Vec::new();
        for (key, service) in objects.services.iter() {
            if self.given.contains_key(key) || !wants_address(service) {
                continue;
            }
            let name = format!("{}/{}", key.namespace, key.name);
            let taken = |candidate: Dual| self.is_taken(candidate, objects);
            let own = explicit(service);
            let Some(free) = addresses::service(&name, taken) else { continue };
            let complete: Vec<IpAddr> = families(service)
                .into_iter()
                .map(|v4| own.iter().copied().find(|address| address.is_ipv4() == v4).unwrap_or_else(|| pick(free, v4)))
                .collect();
            if complete != own {
                chosen.push((key.clone(), complete.clone()));
            }
            self.given.insert(key.clone(), complete);
        }
        chosen
    }

    /// The addresses of a service; none for a headless one.
    pub(crate) fn of(&self, key: &ObjectKey) -> &[IpAddr] {
        self.given.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    fn is_taken(&self, candidate: Dual, objects: &Objects) -> bool {
        let given = self.given.values().flatten().copied();
        let asked = objects.services.values().flat_map(|service| explicit(service));
        given.chain(asked).any(|address| candidate.both().contains(&address))
    }
}

fn pick(address: Dual, v4: bool) -> IpAddr {
    if v4 { address.v4.into() } else { address.v6.into() }
}

/// Address families of a service, `true` for IPv4, in its order; both unless it asks for one.
fn families(service: &Service) -> Vec<bool> {
    let spec = service.spec.as_ref();
    let single = spec.and_then(|spec| spec.ip_family_policy.as_deref()) == Some("SingleStack");
    let mut asked: Vec<bool> =
        spec.and_then(|spec| spec.ip_families.as_ref()).into_iter().flatten().map(|family| family != "IPv6").collect();
    if single {
        asked.truncate(1);
        return if asked.is_empty() { vec![true] } else { asked };
    }
    for family in [true, false] {
        if !asked.contains(&family) {
            asked.push(family);
        }
    }
    asked
}

pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

fn wants_address(service: &Service) -> bool {
    let external = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
    !external && !is_headless(service)
}

/// Addresses written in the service itself.
fn explicit(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let several = spec.cluster_ips.iter().flatten().map(String::as_str);
    let mut found: Vec<IpAddr> = Vec::new();
    for address in spec.cluster_ip.as_deref().into_iter().chain(several).filter_map(|text| text.parse().ok()) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// The pods behind a service that may take new connections.
pub(crate) fn ready_pods<'a>(objects: &'a Objects, key: &ObjectKey, service: &'a Service) -> Vec<&'a Pod> {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let Some(selector) = selector.filter(|selector| !selector.is_empty()) else { return Vec::new() };
    objects
        .whole_pods
        .iter()
        .filter(|(pod_key, _)| pod_key.namespace == key.namespace)
        .map(|(_, pod)| pod.as_ref())
        .filter(|pod| matches_labels(&pod.metadata, selector) && is_ready(pod) && !is_terminating(pod))
        .collect()
}

/// Every address and port of every service.
pub(crate) fn frontends(objects: &Objects, addresses: &ServiceAddresses) -> Vec<Frontend> {
    let mut frontends = Vec::new();
    for (key, service) in objects.services.iter() {
        let pods = ready_pods(objects, key, service);
        for port in service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
            for address in addresses.of(key) {
                frontends.extend(frontend(key, *address, port, &pods));
            }
        }
    }
    frontends
}

fn frontend(key: &ObjectKey, address: IpAddr, port: &ServicePort, pods: &[&Pod]) -> Option<Frontend> {
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => "tcp",
        Some("UDP") => "udp",
        Some(_) => return None,
    };
    let endpoints = pods
        .iter()
        .filter_map(|pod| {
            let target = target_port(pod, port)?;
            let address = pod_ips(pod).into_iter().find(|candidate| candidate.is_ipv4() == address.is_ipv4())?;
            Some(SocketAddr::new(address, target))
        })
        .collect();
    let number = u16::try_from(port.port).ok()?;
    let service = format!("{}/{}", key.namespace, key.name);
    Some(Frontend { service, address: SocketAddr::new(address, number), protocol, endpoints })
}

/// The pod's port behind a service port; a name is looked up among the pod's container ports.
fn target_port(pod: &Pod, port: &ServicePort) -> Option<u16> {
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => container_port(pod, name)?,
    };
    u16::try_from(number).ok()
}

/// The port a pod's containers call `name`.
pub(crate) fn container_port(pod: &Pod, name: &str) -> Option<i32> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port)
}

#[cfg(test)]
mod tests;
