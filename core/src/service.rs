//! Services: a name, with its virtual addresses, for a set of workloads.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use fairway_proto::workload as proto;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    addr::{NetworkAddress, NetworkCidr, cidr_from_bytes, ip_from_bytes},
    ident::Identity,
    invalid::{FieldError, Invalid, Kind, Problem, optional_port, port},
    key::two_part_key,
    workload::Extension,
};

two_part_key! {
    /// Primary key of a service: namespace and fully qualified hostname.
    ServiceKey, hostname, "The fully qualified hostname."
}

impl ServiceKey {
    /// Shares the text with equal keys.
    pub(crate) fn intern(&mut self, names: &mut crate::snapshot::Names) {
        names.intern(&mut self.0);
    }
}

/// A service, as far as proxies need to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and hostname.
    pub key: ServiceKey,
    /// Short name.
    pub name: Arc<str>,
    /// Virtual addresses.
    pub vips: Box<[NetworkAddress]>,
    /// Virtual blocks of addresses.
    pub cidr_vips: Box<[NetworkCidr]>,
    /// Declared ports, by service port.
    pub ports: Box<[ServicePort]>,
    /// Identities accepted from backends in addition to their own. What is no identity of the mesh is left out: no
    /// certificate could prove it.
    pub subject_alt_names: Box<[Identity]>,
    /// Proxy that must handle the service's traffic.
    pub waypoint: Option<GatewayAddress>,
    /// When not empty, used instead of `waypoint`: one is drawn per connection.
    pub weighted_waypoints: Box<[WeightedWaypoint]>,
    /// How endpoints are chosen.
    pub load_balancing: LoadBalancing,
    /// Families the service may be reached by.
    pub ip_families: IpFamilies,
    /// The winner when several services claim one address or hostname.
    pub canonical: bool,
    /// Ingress gateways go through the waypoint as well.
    pub ingress_use_waypoint: bool,
    /// Who can see the service.
    pub visibility: Visibility,
    /// What the contract does not name.
    pub extensions: Box<[Extension]>,
}

impl Service {
    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.key.namespace()
    }

    /// The fully qualified hostname.
    #[must_use]
    pub fn hostname(&self) -> &str {
        self.key.hostname()
    }

    /// The declaration of a service port.
    #[must_use]
    pub fn port(&self, service_port: u16) -> Option<&ServicePort> {
        let index = self.ports.binary_search_by_key(&service_port, |port| port.service_port).ok()?;
        self.ports.get(index)
    }

    /// Whether traffic must go through a waypoint.
    #[must_use]
    pub fn has_waypoint(&self) -> bool {
        self.waypoint.is_some() || !self.weighted_waypoints.is_empty()
    }

    /// Whether workloads of the namespace can see the service.
    #[must_use]
    pub fn is_visible_to(&self, namespace: &str) -> bool {
        match self.visibility {
            Visibility::Public => true,
            Visibility::Namespace => self.namespace() == namespace,
        }
    }
}

/// One port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServicePort {
    /// The port clients use.
    pub service_port: u16,
    /// The port of the workloads; none for a named port, which each workload resolves by itself.
    pub target_port: Option<u16>,
    /// What is spoken on it, as far as declared.
    pub app_protocol: AppProtocol,
}

/// What is declared to be spoken on a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "protocol names")]
pub enum AppProtocol {
    #[default]
    Unknown,
    Http11,
    Http2,
    Grpc,
    Tcp,
    Tls,
}

/// A reference to a waypoint or network gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayAddress {
    /// What is referred to.
    pub destination: GatewayDestination,
    /// Its HBONE port; for a hostname this is a *service* port.
    pub hbone_mtls_port: u16,
}

/// What a [`GatewayAddress`] refers to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum GatewayDestination {
    /// A service, or else a workload with this hostname.
    Hostname(ServiceKey),
    /// A service's virtual address, or else a workload's address.
    Address(NetworkAddress),
}

impl std::fmt::Display for GatewayDestination {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hostname(key) => key.fmt(formatter),
            Self::Address(address) => address.fmt(formatter),
        }
    }
}

/// One of several waypoints, with its share of the connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WeightedWaypoint {
    /// The waypoint.
    pub destination: GatewayAddress,
    /// Its weight among its siblings.
    pub weight: u32,
}

/// How endpoints of a service are chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadBalancing {
    /// What the scopes mean.
    pub mode: Mode,
    /// Scopes in order of importance.
    pub scopes: Box<[Scope]>,
    /// Which endpoints count as usable.
    pub health: HealthPolicy,
}

/// What the scopes of [`LoadBalancing`] mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Mode {
    /// Nothing: every endpoint is as good as any other.
    #[default]
    Standard,
    /// Only endpoints that match in every scope.
    Strict,
    /// Endpoints that match in most scopes first.
    Failover,
    /// The address the client asked for, whatever the endpoints are.
    Passthrough,
}

/// Something a client and an endpoint can have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Scope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

/// Which endpoints count as usable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum HealthPolicy {
    /// Those that are ready.
    #[default]
    OnlyHealthy,
    /// All.
    AllowAll,
}

/// Families a service may be reached by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum IpFamilies {
    #[default]
    Automatic,
    Ipv4Only,
    Ipv6Only,
    Dual,
}

/// Who can see a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Visibility {
    /// Everyone.
    #[default]
    Public,
    /// Workloads of the service's namespace.
    Namespace,
}

impl TryFrom<proto::Service> for Service {
    type Error = Invalid;

    fn try_from(message: proto::Service) -> Result<Self, Self::Error> {
        let name = format!("{}/{}", message.namespace, message.hostname);
        convert(message).map_err(|error| error.of(Kind::Service, name))
    }
}

fn convert(message: proto::Service) -> Result<Service, FieldError> {
    if message.namespace.is_empty() {
        return Err(FieldError::new("namespace", Problem::Missing));
    }
    if message.hostname.is_empty() {
        return Err(FieldError::new("hostname", Problem::Missing));
    }
    let key: ServiceKey = format!("{}/{}", message.namespace, message.hostname)
        .parse()
        .map_err(|problem: Problem| FieldError::new("hostname", problem))?;
    let (mut vips, mut cidr_vips) = (Vec::new(), Vec::new());
    for (index, address) in message.addresses.iter().enumerate() {
        match vip(address).map_err(|error| error.under(format_args!("addresses[{index}]")))? {
            Vip::Host(address) => vips.push(address),
            Vip::Block(block) => cidr_vips.push(block),
        }
    }
    let waypoint = message
        .waypoint
        .map(|gateway| GatewayAddress::read(gateway).map_err(|error| error.under("waypoint")))
        .transpose()?;
    Ok(Service {
        name: message.name.into(),
        vips: vips.into(),
        cidr_vips: cidr_vips.into(),
        ports: ports(&message.ports)?,
        subject_alt_names: message.subject_alt_names.iter().filter_map(|name| name.parse().ok()).collect(),
        waypoint,
        weighted_waypoints: weighted_waypoints(message.weighted_waypoints)?,
        load_balancing: message
            .load_balancing
            .map(|balancing| load_balancing(&balancing).map_err(|error| error.under("load_balancing")))
            .transpose()?
            .unwrap_or_default(),
        ip_families: match proto::IpFamilies::try_from(message.ip_families) {
            Ok(proto::IpFamilies::Automatic) => IpFamilies::Automatic,
            Ok(proto::IpFamilies::Ipv4Only) => IpFamilies::Ipv4Only,
            Ok(proto::IpFamilies::Ipv6Only) => IpFamilies::Ipv6Only,
            Ok(proto::IpFamilies::Dual) => IpFamilies::Dual,
            Err(_) => return Err(FieldError::new("ip_families", Problem::Enum(message.ip_families))),
        },
        canonical: message.canonical,
        ingress_use_waypoint: message.ingress_use_waypoint,
        // The one enum where an unknown value is not an error: newer kinds of visibility fall back to the widest.
        visibility: match proto::service::Visibility::try_from(message.visibility) {
            Ok(proto::service::Visibility::Namespace) => Visibility::Namespace,
            Ok(proto::service::Visibility::Public) | Err(_) => Visibility::Public,
        },
        extensions: message.extensions.into_iter().map(Extension::from).collect(),
        key,
    })
}

enum Vip {
    Host(NetworkAddress),
    Block(NetworkCidr),
}

fn vip(address: &proto::NetworkAddress) -> Result<Vip, FieldError> {
    let network = address.network.as_str();
    let Some(length) = address.length else {
        let ip = ip_from_bytes(&address.address).map_err(|problem| FieldError::new("address", problem))?;
        return Ok(Vip::Host(NetworkAddress::new(network, ip)));
    };
    let block = cidr_from_bytes(&address.address, length).map_err(|problem| {
        let field = if matches!(problem, Problem::PrefixLength { .. }) { "length" } else { "address" };
        FieldError::new(field, problem)
    })?;
    // A block of one address is that address.
    Ok(if block.prefix_len() == block.max_prefix_len() {
        Vip::Host(NetworkAddress::new(network, block.addr()))
    } else {
        Vip::Block(NetworkCidr { network: network.into(), block })
    })
}

fn ports(messages: &[proto::Port]) -> Result<Box<[ServicePort]>, FieldError> {
    let mut ports = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let at = |field: &str, problem| FieldError::new(format!("ports[{index}].{field}"), problem);
        ports.push(ServicePort {
            service_port: port(message.service_port).map_err(|problem| at("service_port", problem))?,
            target_port: optional_port(message.target_port).map_err(|problem| at("target_port", problem))?,
            app_protocol: match proto::AppProtocol::try_from(message.app_protocol) {
                Ok(proto::AppProtocol::Unknown) => AppProtocol::Unknown,
                Ok(proto::AppProtocol::Http11) => AppProtocol::Http11,
                Ok(proto::AppProtocol::Http2) => AppProtocol::Http2,
                Ok(proto::AppProtocol::Grpc) => AppProtocol::Grpc,
                Ok(proto::AppProtocol::Tcp) => AppProtocol::Tcp,
                Ok(proto::AppProtocol::Tls) => AppProtocol::Tls,
                Err(_) => return Err(at("app_protocol", Problem::Enum(message.app_protocol))),
            },
        });
    }
    // Stable, so that of two declarations of one port the first stays, on every node.
    ports.sort_by_key(|port| port.service_port);
    ports.dedup_by_key(|port| port.service_port);
    Ok(ports.into())
}

impl GatewayAddress {
    pub(crate) fn read(message: proto::GatewayAddress) -> Result<Self, FieldError> {
        use proto::gateway_address::Destination;

        let destination = match message.destination {
            Some(Destination::Hostname(name)) => GatewayDestination::Hostname(
                format!("{}/{}", name.namespace, name.hostname)
                    .parse()
                    .map_err(|problem: Problem| FieldError::new("destination.hostname", problem))?,
            ),
            Some(Destination::Address(address)) => GatewayDestination::Address(NetworkAddress::new(
                address.network,
                ip_from_bytes(&address.address).map_err(|problem| FieldError::new("destination.address", problem))?,
            )),
            None => return Err(FieldError::new("destination", Problem::Missing)),
        };
        let hbone_mtls_port =
            port(message.hbone_mtls_port).map_err(|problem| FieldError::new("hbone_mtls_port", problem))?;
        Ok(Self { destination, hbone_mtls_port })
    }
}

fn weighted_waypoints(messages: Vec<proto::WeightedWaypoint>) -> Result<Box<[WeightedWaypoint]>, FieldError> {
    let mut waypoints = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        let path = format!("weighted_waypoints[{index}].destination");
        let Some(destination) = message.destination else { return Err(FieldError::new(path, Problem::Missing)) };
        let destination = GatewayAddress::read(destination).map_err(|error| error.under(path))?;
        waypoints.push(WeightedWaypoint { destination, weight: message.weight });
    }
    // With no weight at all there is no waypoint to go to, and going past it is not an answer.
    if !waypoints.is_empty() && waypoints.iter().all(|waypoint| waypoint.weight == 0) {
        return Err(FieldError::new("weighted_waypoints", Problem::Weight));
    }
    Ok(waypoints.into())
}

fn load_balancing(message: &proto::LoadBalancing) -> Result<LoadBalancing, FieldError> {
    use proto::load_balancing as wire;

    let mut scopes = Vec::with_capacity(message.routing_preference.len());
    for (index, &scope) in message.routing_preference.iter().enumerate() {
        scopes.push(match wire::Scope::try_from(scope) {
            Ok(wire::Scope::Region) => Scope::Region,
            Ok(wire::Scope::Zone) => Scope::Zone,
            Ok(wire::Scope::Subzone) => Scope::Subzone,
            Ok(wire::Scope::Node) => Scope::Node,
            Ok(wire::Scope::Cluster) => Scope::Cluster,
            Ok(wire::Scope::Network) => Scope::Network,
            Ok(wire::Scope::UnspecifiedScope) | Err(_) => {
                return Err(FieldError::new(format!("routing_preference[{index}]"), Problem::Enum(scope)));
            }
        });
    }
    Ok(LoadBalancing {
        scopes: scopes.into(),
        mode: match wire::Mode::try_from(message.mode) {
            Ok(wire::Mode::UnspecifiedMode) => Mode::Standard,
            Ok(wire::Mode::Strict) => Mode::Strict,
            Ok(wire::Mode::Failover) => Mode::Failover,
            Ok(wire::Mode::Passthrough) => Mode::Passthrough,
            Err(_) => return Err(FieldError::new("mode", Problem::Enum(message.mode))),
        },
        health: match wire::HealthPolicy::try_from(message.health_policy) {
            Ok(wire::HealthPolicy::OnlyHealthy) => HealthPolicy::OnlyHealthy,
            Ok(wire::HealthPolicy::AllowAll) => HealthPolicy::AllowAll,
            Err(_) => return Err(FieldError::new("health_policy", Problem::Enum(message.health_policy))),
        },
    })
}

impl LoadBalancing {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The shape Istio's node proxy gives it in `/config_dump`.
impl Serialize for LoadBalancing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("mode", &self.mode)?;
        map.serialize_entry("routingPreferences", &self.scopes)?;
        map.serialize_entry("healthPolicy", &self.health)?;
        map.end()
    }
}

/// The ports as `/config_dump` shows them: service port to target port, 0 for a named one.
struct PortMap<'a>(&'a [ServicePort]);

impl Serialize for PortMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|port| (port.service_port, port.target_port.unwrap_or(0))))
    }
}

/// The shape Istio's node proxy gives it in `/config_dump`, without the endpoints, which only a snapshot knows.
impl Serialize for Service {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.entries(&mut map)?;
        map.end()
    }
}

impl Service {
    pub(crate) fn entries<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("namespace", self.namespace())?;
        map.serialize_entry("hostname", self.hostname())?;
        map.serialize_entry("vips", &self.vips)?;
        if !self.cidr_vips.is_empty() {
            map.serialize_entry("cidrVips", &self.cidr_vips)?;
        }
        map.serialize_entry("ports", &PortMap(&self.ports))?;
        if !self.load_balancing.is_default() {
            map.serialize_entry("loadBalancer", &self.load_balancing)?;
        }
        if let Some(waypoint) = &self.waypoint {
            map.serialize_entry("waypoint", waypoint)?;
        }
        if !self.weighted_waypoints.is_empty() {
            map.serialize_entry("weightedWaypoints", &self.weighted_waypoints)?;
        }
        if !self.subject_alt_names.is_empty() {
            map.serialize_entry("subjectAltNames", &self.subject_alt_names)?;
        }
        if self.ip_families != IpFamilies::Automatic {
            map.serialize_entry("ipFamilies", &self.ip_families)?;
        }
        map.serialize_entry("canonical", &self.canonical)?;
        map.serialize_entry("visibility", &self.visibility)
    }
}
