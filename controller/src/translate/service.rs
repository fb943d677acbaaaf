//! Kubernetes Service to WDS Service (interop §2.1, §2.5), and which ports a service has on a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_core::source::labels::HasLabels;
use fairway_core::source::objects::{annotation, matches_labels};
use fairway_core::source::{MeshPod, ObjectKey};
use fairway_proto::workload::load_balancing::{HealthPolicy, Mode, Scope};
use fairway_proto::workload::service::Visibility;
use fairway_proto::workload::{AppProtocol, IpFamilies, LoadBalancing, NetworkAddress, Port, PortList, Service};
use k8s_openapi::api::core::v1::{Service as KubernetesService, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Settings;
use super::endpoints::Served;
use super::waypoint::ServiceBinding;

const EXPORT_TO: &str = "networking.istio.io/exportTo";
pub(super) const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// The DNS name of a service.
#[must_use]
pub fn hostname(name: &str, namespace: &str, settings: &Settings) -> String {
    format!("{name}.{namespace}.svc.{}", settings.cluster_domain)
}

/// The name of a service in workload discovery.
#[must_use]
pub fn key(service: &Service) -> String {
    format!("{}/{}", service.namespace, service.hostname)
}

/// The same of what a Kubernetes Service is made into.
#[must_use]
pub fn key_of(object: &ObjectKey, settings: &Settings) -> String {
    format!("{}/{}", object.namespace, hostname(&object.name, &object.namespace, settings))
}

/// What proxies are told of a service; nothing of an ExternalName, which is a DNS alias.
///
/// `network` is that of its addresses, and `namespace_distribution` what its namespace says of where traffic should go.
#[must_use]
pub fn service(
    service: &KubernetesService,
    binding: &ServiceBinding,
    network: &str,
    namespace_distribution: Option<&str>,
    settings: &Settings,
) -> Option<Service> {
    let spec = sent(service)?;
    let annotated = annotation(&service.metadata, TRAFFIC_DISTRIBUTION).or(namespace_distribution);
    let metadata = &service.metadata;
    let name = metadata.name.clone().unwrap_or_default();
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let export_to = annotation(metadata, EXPORT_TO).unwrap_or_default();
    let visibility = visibility(export_to.split(',').map(str::trim).filter(|namespace| !namespace.is_empty()));
    Some(Service {
        hostname: hostname(&name, &namespace, settings),
        name,
        namespace,
        addresses: virtual_addresses(spec)
            .map(|address| NetworkAddress { network: network.to_owned(), address: octets(address), length: None })
            .collect(),
        ports: tcp_ports(spec)
            .map(|(port, service_port)| Port {
                service_port: service_port.into(),
                // 0 stands for a named port, which each workload resolves for itself.
                target_port: fixed_target(port, service_port).map_or(0, u32::from),
                app_protocol: app_protocol(port).into(),
            })
            .collect(),
        load_balancing: load_balancing(spec, annotated.unwrap_or_default()),
        ip_families: ip_families(spec).into(),
        canonical: true,
        visibility: visibility.into(),
        waypoint: binding.waypoint.clone(),
        weighted_waypoints: binding.weighted.clone(),
        ingress_use_waypoint: binding.ingress,
        ..Service::default()
    })
}

/// The spec of a service that proxies hear of.
pub(crate) fn sent(service: &KubernetesService) -> Option<&ServiceSpec> {
    service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"))
}

/// Who is told of a service that is exported to these namespaces; to nobody else in particular means to all. Node proxies
/// know all namespaces and the service's own: what names others, or none (`~`), is told to its own only, as more would be
/// told to too many.
pub(super) fn visibility<'a>(mut export_to: impl Iterator<Item = &'a str>) -> Visibility {
    let Some(first) = export_to.next() else { return Visibility::Public };
    let is_for_all = first == "*" || export_to.any(|namespace| namespace == "*");
    if is_for_all { Visibility::Public } else { Visibility::Namespace }
}

pub(super) fn virtual_addresses(spec: &ServiceSpec) -> impl Iterator<Item = IpAddr> {
    let several = spec.cluster_ips.as_deref().unwrap_or_default();
    let single = spec.cluster_ip.iter().filter(|_| several.is_empty());
    // A headless service says `None`, which is no address.
    several.iter().chain(single).filter_map(|text| text.parse().ok())
}

/// 4 or 16 bytes, network order.
#[must_use]
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Tunnels carry TCP, so other ports are not announced.
pub(crate) fn tcp_ports(spec: &ServiceSpec) -> impl Iterator<Item = (&ServicePort, u16)> {
    spec.ports
        .iter()
        .flatten()
        .filter(|port| matches!(port.protocol.as_deref(), None | Some("" | "TCP")))
        .filter_map(|port| Some((port, valid_port(port.port)?)))
}

pub(super) fn valid_port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

fn fixed_target(port: &ServicePort, service_port: u16) -> Option<u16> {
    match &port.target_port {
        None => Some(service_port),
        Some(IntOrString::Int(0)) => Some(service_port),
        Some(IntOrString::Int(number)) => valid_port(*number),
        Some(IntOrString::String(text)) => text.parse().ok().filter(|number| *number != 0),
    }
}

pub(crate) fn app_protocol(port: &ServicePort) -> AppProtocol {
    // The field beats the prefix of the port's name (api-surface A12).
    let by_name = || {
        let name = port.name.as_deref().unwrap_or_default();
        if name == "grpc-web" || name.starts_with("grpc-web-") {
            return "grpc-web";
        }
        name.split('-').next().unwrap_or_default()
    };
    match port.app_protocol.as_deref().unwrap_or_else(by_name) {
        "http" | "grpc-web" | "kubernetes.io/ws" => AppProtocol::Http11,
        "http2" | "kubernetes.io/h2c" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "https" | "tls" | "kubernetes.io/wss" => AppProtocol::Tls,
        "tcp" => AppProtocol::Tcp,
        _ => AppProtocol::Unknown,
    }
}

/// What a traffic distribution asks of load balancing (interop §2.5).
pub(super) fn distribution(text: &str) -> (Mode, &'static [Scope]) {
    match text {
        "PreferClose" | "PreferSameZone" => (Mode::Failover, &[Scope::Network, Scope::Region, Scope::Zone]),
        "PreferSameNode" => {
            (Mode::Failover, &[Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node])
        }
        _ => (Mode::UnspecifiedMode, &[]),
    }
}

fn load_balancing(spec: &ServiceSpec, annotated: &str) -> Option<LoadBalancing> {
    let (mode, scopes): (Mode, &[Scope]) = if spec.internal_traffic_policy.as_deref() == Some("Local") {
        (Mode::Strict, &[Scope::Node])
    } else {
        distribution(spec.traffic_distribution.as_deref().unwrap_or(annotated))
    };
    let health_policy =
        if spec.publish_not_ready_addresses == Some(true) { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy };
    let result = LoadBalancing {
        routing_preference: scopes.iter().map(|scope| i32::from(*scope)).collect(),
        mode: mode.into(),
        health_policy: health_policy.into(),
    };
    (result != LoadBalancing::default()).then_some(result)
}

fn ip_families(spec: &ServiceSpec) -> IpFamilies {
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let has = |wanted: &str| families.iter().any(|family| family == wanted);
    match (has("IPv4"), has("IPv6")) {
        (true, true) => IpFamilies::Dual,
        (true, false) => IpFamilies::Ipv4Only,
        (false, true) => IpFamilies::Ipv6Only,
        (false, false) => IpFamilies::Automatic,
    }
}

/// Services by namespace, for finding those that select a workload.
#[derive(Debug)]
pub struct Backends<'a> {
    by_namespace: BTreeMap<&'a str, Vec<Backend<'a>>>,
}

#[derive(Debug)]
struct Backend<'a> {
    name: &'a str,
    key: String,
    selector: Option<&'a BTreeMap<String, String>>,
    spec: &'a ServiceSpec,
}

impl<'a> Backends<'a> {
    /// Indexes these services.
    #[must_use]
    pub fn new(
        services: impl Iterator<Item = (&'a ObjectKey, &'a Arc<KubernetesService>)>,
        settings: &Settings,
    ) -> Self {
        let mut by_namespace: BTreeMap<&str, Vec<Backend<'a>>> = BTreeMap::new();
        for (object, service) in services {
            let Some(spec) = sent(service) else { continue };
            let host = hostname(&object.name, &object.namespace, settings);
            by_namespace.entry(&object.namespace).or_default().push(Backend {
                name: &object.name,
                key: format!("{}/{host}", object.namespace),
                // Without a selector, endpoints are given by hand.
                selector: spec.selector.as_ref().filter(|labels| !labels.is_empty()),
                spec,
            });
        }
        Self { by_namespace }
    }

    fn of(&self, namespace: &str) -> &[Backend<'a>] {
        self.by_namespace.get(namespace).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether the service takes endpoints in any state.
    #[must_use]
    pub fn takes_all(&self, namespace: &str, key: &str) -> bool {
        let backend = self.of(namespace).iter().find(|backend| backend.key == key);
        backend.is_some_and(|backend| backend.spec.publish_not_ready_addresses == Some(true))
    }

    /// The services that select a workload with this metadata, but for those that are `left_out` by name, with the ports
    /// they have on it, which `named` finds by the name of the target port.
    pub fn selecting(
        &self,
        namespace: &str,
        workload: &impl HasLabels,
        left_out: impl Fn(&str) -> bool,
        named: impl Fn(&ServicePort) -> Option<u16>,
    ) -> Served {
        self.of(namespace)
            .iter()
            .filter(|backend| backend.selector.is_some_and(|selector| matches_labels(workload, selector)))
            .filter(|backend| !left_out(backend.name))
            .map(|backend| {
                let ports = tcp_ports(backend.spec)
                    .filter_map(|(port, service_port)| {
                        // Who does not have the named port does not serve it.
                        let target = fixed_target(port, service_port).or_else(|| named(port))?;
                        Some(Port {
                            service_port: service_port.into(),
                            target_port: target.into(),
                            app_protocol: app_protocol(port).into(),
                        })
                    })
                    .collect();
                (backend.key.clone(), PortList { ports })
            })
            .collect()
    }
}

/// The port of a pod that a service means by name.
pub(super) fn named_target(port: &ServicePort, pod: &MeshPod) -> Option<u16> {
    let Some(IntOrString::String(wanted)) = &port.target_port else {
        return None;
    };
    pod.named_ports.iter().find(|(name, _)| **name == **wanted).map(|(_, port)| *port)
}
