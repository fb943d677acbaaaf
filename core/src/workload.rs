//! Workloads: one thing that runs, usually a pod, and how it is reached.

pub mod newcomer;
#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr, sync::Arc};

use fairway_proto::workload as proto;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    addr::{NetworkAddress, ip_from_bytes},
    ident::{Identity, IdentityError, TrustDomain},
    invalid::{FieldError, Invalid, Kind, Problem, optional_port, port},
    policy::PolicyKey,
    service::{GatewayAddress, ServiceKey},
};

/// What an empty service account on the wire stands for.
const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// What an empty cluster on the wire stands for.
const DEFAULT_CLUSTER: &str = "Kubernetes";

/// Primary key of a workload, `<cluster>//Pod/<namespace>/<name>` for a pod.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadUid(Arc<str>);

impl WorkloadUid {
    /// Takes the text as it is.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for WorkloadUid {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkloadUid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for WorkloadUid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for WorkloadUid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A workload, as far as proxies need to know it. A mesh has many, so what repeats is shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Primary key.
    pub uid: WorkloadUid,
    /// Name of the pod or workload entry.
    pub name: Arc<str>,
    /// Who it is; also holds its namespace, service account and trust domain.
    pub identity: Identity,
    /// Its addresses, canonical; may be empty.
    pub addresses: Box<[IpAddr]>,
    /// Resolved at connect time when there are no addresses.
    pub hostname: Option<Arc<str>>,
    /// Scopes the addresses; empty is the default network.
    pub network: Arc<str>,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Whether its addresses are its own.
    pub network_mode: NetworkMode,
    /// Proxy for traffic addressed to this workload.
    pub waypoint: Option<Arc<GatewayAddress>>,
    /// How another network reaches it.
    pub network_gateway: Option<Arc<GatewayAddress>>,
    /// Name of its node; may be empty.
    pub node: Arc<str>,
    /// Name of the application in telemetry.
    pub canonical_name: Arc<str>,
    /// Version of the application in telemetry.
    pub canonical_revision: Arc<str>,
    /// Kind of its owner.
    pub workload_type: WorkloadType,
    /// Name of its owner, for example the Deployment.
    pub workload_name: Arc<str>,
    /// It terminates HBONE itself.
    pub native_tunnel: bool,
    /// Selector-scoped policies that apply to it.
    pub authorization_policies: Arc<[PolicyKey]>,
    /// Whether it is ready.
    pub status: HealthStatus,
    /// The cluster it runs in.
    pub cluster_id: Arc<str>,
    /// Services it is an endpoint of, by key.
    pub services: Box<[WorkloadService]>,
    /// How the application itself wants to be spoken to.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Where it runs.
    pub locality: Arc<Locality>,
    /// Weight in load balancing.
    pub capacity: u32,
    /// What the contract does not name.
    pub extensions: Box<[Extension]>,
}

impl Workload {
    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.identity.namespace()
    }

    /// The service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        self.identity.service_account()
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.identity.trust_domain()
    }

    /// Its ports as an endpoint of a service; none if it is no endpoint of it.
    #[must_use]
    pub fn service_ports(&self, service: &ServiceKey) -> Option<&[PortPair]> {
        let index = self.services.binary_search_by(|entry| entry.key.cmp(service)).ok()?;
        self.services.get(index).map(|entry| &*entry.ports)
    }

    /// Whether the workload owns its addresses, so that it can be found by them.
    #[must_use]
    pub fn owns_addresses(&self) -> bool {
        self.network_mode == NetworkMode::Standard
    }

    /// Its addresses with their network, for the index; empty on the host's network, where several share one.
    pub(crate) fn indexed_addresses(&self) -> impl Iterator<Item = NetworkAddress> {
        let addresses: &[IpAddr] = if self.owns_addresses() { &self.addresses } else { &[] };
        addresses.iter().map(|ip| NetworkAddress { network: self.network.clone(), ip: *ip })
    }
}

/// How a workload is spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// In plaintext.
    #[default]
    Tcp,
    /// HTTP/2 CONNECT over mutual TLS, port 15008.
    Hbone,
}

/// Whether a workload's addresses are its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum NetworkMode {
    /// They are.
    #[default]
    Standard,
    /// They are its node's.
    HostNetwork,
}

/// Kind of a workload's owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum WorkloadType {
    #[default]
    Deployment,
    Cronjob,
    Pod,
    Job,
}

impl WorkloadType {
    /// The name in baggage and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::Cronjob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

/// Whether a workload is ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum HealthStatus {
    #[default]
    Healthy,
    Unhealthy,
}

/// One service port and the workload's port behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortPair {
    /// The port clients use.
    pub service_port: u16,
    /// The workload's port.
    pub target_port: u16,
}

/// A service the workload is an endpoint of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadService {
    /// The service.
    pub key: ServiceKey,
    /// The ports it has on this workload, by service port.
    pub ports: Arc<[PortPair]>,
}

impl WorkloadService {
    /// The workload's port behind a service port.
    #[must_use]
    pub fn target_port(&self, service_port: u16) -> Option<u16> {
        let index = self.ports.binary_search_by_key(&service_port, |pair| pair.service_port).ok()?;
        self.ports.get(index).map(|pair| pair.target_port)
    }
}

/// How the application itself wants to be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ApplicationTunnel {
    /// What is put before the stream.
    pub protocol: TunnelPrefix,
    /// The port to use instead of the one asked for.
    pub port: Option<u16>,
}

/// What is put before a stream that is handed to an application.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TunnelPrefix {
    /// Nothing.
    #[default]
    None,
    /// A PROXY protocol header, version 2.
    Proxy,
}

/// Where a workload runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}

/// What the contract does not name: a name and an encoded message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Name of the extension.
    pub name: Box<str>,
    /// Type of the message.
    pub type_url: Box<str>,
    /// The message, encoded.
    pub value: Box<[u8]>,
}

impl From<proto::Extension> for Extension {
    fn from(message: proto::Extension) -> Self {
        let config = message.config.unwrap_or_default();
        Self { name: message.name.into(), type_url: config.type_url.into(), value: config.value.into() }
    }
}

impl TryFrom<proto::Workload> for Workload {
    type Error = Invalid;

    fn try_from(message: proto::Workload) -> Result<Self, Self::Error> {
        let uid = message.uid.clone();
        convert(message).map_err(|error| error.of(Kind::Workload, uid))
    }
}

fn convert(message: proto::Workload) -> Result<Workload, FieldError> {
    if message.uid.is_empty() {
        return Err(FieldError::new("uid", Problem::Missing));
    }
    Ok(Workload {
        identity: identity(&message)?,
        addresses: addresses(&message.addresses)?,
        protocol: match proto::TunnelProtocol::try_from(message.tunnel_protocol) {
            Ok(proto::TunnelProtocol::None) => Protocol::Tcp,
            Ok(proto::TunnelProtocol::Hbone) => Protocol::Hbone,
            Ok(proto::TunnelProtocol::LegacyIstioMtls) | Err(_) => {
                return Err(FieldError::new("tunnel_protocol", Problem::Enum(message.tunnel_protocol)));
            }
        },
        network_mode: match proto::NetworkMode::try_from(message.network_mode) {
            Ok(proto::NetworkMode::Standard) => NetworkMode::Standard,
            Ok(proto::NetworkMode::HostNetwork) => NetworkMode::HostNetwork,
            Err(_) => return Err(FieldError::new("network_mode", Problem::Enum(message.network_mode))),
        },
        workload_type: match proto::WorkloadType::try_from(message.workload_type) {
            Ok(proto::WorkloadType::Deployment) => WorkloadType::Deployment,
            Ok(proto::WorkloadType::Cronjob) => WorkloadType::Cronjob,
            Ok(proto::WorkloadType::Pod) => WorkloadType::Pod,
            Ok(proto::WorkloadType::Job) => WorkloadType::Job,
            Err(_) => return Err(FieldError::new("workload_type", Problem::Enum(message.workload_type))),
        },
        status: match proto::WorkloadStatus::try_from(message.status) {
            Ok(proto::WorkloadStatus::Healthy) => HealthStatus::Healthy,
            Ok(proto::WorkloadStatus::Unhealthy) => HealthStatus::Unhealthy,
            Err(_) => return Err(FieldError::new("status", Problem::Enum(message.status))),
        },
        authorization_policies: policies(&message.authorization_policies)?,
        services: services(message.services)?,
        application_tunnel: message
            .application_tunnel
            .map(|tunnel| application_tunnel(&tunnel).map_err(|error| error.under("application_tunnel")))
            .transpose()?,
        waypoint: gateway(message.waypoint, "waypoint")?,
        network_gateway: gateway(message.network_gateway, "network_gateway")?,
        uid: WorkloadUid(message.uid.into()),
        name: message.name.into(),
        hostname: (!message.hostname.is_empty()).then(|| message.hostname.into()),
        network: message.network.into(),
        node: message.node.into(),
        canonical_name: message.canonical_name.into(),
        canonical_revision: message.canonical_revision.into(),
        workload_name: message.workload_name.into(),
        native_tunnel: message.native_tunnel,
        cluster_id: if message.cluster_id.is_empty() { DEFAULT_CLUSTER.into() } else { message.cluster_id.into() },
        locality: message.locality.map_or_else(Default::default, |locality| {
            Arc::new(Locality {
                region: locality.region.into(),
                zone: locality.zone.into(),
                subzone: locality.subzone.into(),
            })
        }),
        capacity: message.capacity.unwrap_or(1),
        extensions: message.extensions.into_iter().map(Extension::from).collect(),
    })
}

fn identity(message: &proto::Workload) -> Result<Identity, FieldError> {
    let or = |text: &'_ str, default: &'static str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    if message.namespace.is_empty() {
        return Err(FieldError::new("namespace", Problem::Missing));
    }
    Identity::new(
        &or(&message.trust_domain, TrustDomain::DEFAULT),
        &message.namespace,
        &or(&message.service_account, DEFAULT_SERVICE_ACCOUNT),
    )
    .map_err(|error| {
        let field = match error {
            IdentityError::TrustDomain => "trust_domain",
            IdentityError::ServiceAccount => "service_account",
            IdentityError::Namespace | IdentityError::Form | IdentityError::TooLong => "namespace",
        };
        FieldError::new(field, error)
    })
}

fn addresses<B: AsRef<[u8]>>(addresses: &[B]) -> Result<Box<[IpAddr]>, FieldError> {
    let read = |(index, bytes): (usize, &B)| {
        ip_from_bytes(bytes.as_ref()).map_err(|problem| FieldError::new(format!("addresses[{index}]"), problem))
    };
    addresses.iter().enumerate().map(read).collect()
}

fn policies(keys: &[String]) -> Result<Arc<[PolicyKey]>, FieldError> {
    let read = |(index, key): (usize, &String)| {
        key.parse().map_err(|problem: Problem| FieldError::new(format!("authorization_policies[{index}]"), problem))
    };
    let mut keys: Vec<PolicyKey> = keys.iter().enumerate().map(read).collect::<Result<_, _>>()?;
    keys.sort();
    keys.dedup();
    Ok(keys.into())
}

fn services(
    services: impl IntoIterator<Item = (String, proto::PortList)>,
) -> Result<Box<[WorkloadService]>, FieldError> {
    let mut entries = Vec::new();
    for (key, list) in services {
        let path = format!("services[{key}]");
        let key = key.parse().map_err(|problem: Problem| FieldError::new(path.clone(), problem))?;
        let mut ports = Vec::with_capacity(list.ports.len());
        for (index, entry) in list.ports.iter().enumerate() {
            let at = |field: &str, problem| FieldError::new(format!("{path}.ports[{index}].{field}"), problem);
            let service_port = port(entry.service_port).map_err(|problem| at("service_port", problem))?;
            // A port without target is one the workload does not have.
            if let Some(target_port) = optional_port(entry.target_port).map_err(|problem| at("target_port", problem))? {
                ports.push(PortPair { service_port, target_port });
            }
        }
        ports.sort_by_key(|pair| pair.service_port);
        ports.dedup_by_key(|pair| pair.service_port);
        entries.push(WorkloadService { key, ports: ports.into() });
    }
    entries.sort_by(|left, right| left.key.cmp(&right.key));
    Ok(entries.into())
}

fn application_tunnel(message: &proto::ApplicationTunnel) -> Result<ApplicationTunnel, FieldError> {
    use proto::application_tunnel::Protocol;

    Ok(ApplicationTunnel {
        protocol: match Protocol::try_from(message.protocol) {
            Ok(Protocol::None) => TunnelPrefix::None,
            Ok(Protocol::Proxy) => TunnelPrefix::Proxy,
            Err(_) => return Err(FieldError::new("protocol", Problem::Enum(message.protocol))),
        },
        port: optional_port(message.port).map_err(|problem| FieldError::new("port", problem))?,
    })
}

fn gateway(
    message: Option<proto::GatewayAddress>,
    field: &'static str,
) -> Result<Option<Arc<GatewayAddress>>, FieldError> {
    message.map(|message| GatewayAddress::read(message).map(Arc::new).map_err(|error| error.under(field))).transpose()
}

/// The shape Istio's node proxy gives it in `/config_dump`.
impl Serialize for Workload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("uid", &self.uid)?;
        map.serialize_entry("workloadIps", &self.addresses)?;
        if let Some(waypoint) = &self.waypoint {
            map.serialize_entry("waypoint", waypoint)?;
        }
        if let Some(gateway) = &self.network_gateway {
            map.serialize_entry("networkGateway", gateway)?;
        }
        map.serialize_entry("protocol", &self.protocol)?;
        map.serialize_entry("networkMode", &self.network_mode)?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("namespace", self.namespace())?;
        map.serialize_entry("serviceAccount", self.service_account())?;
        map.serialize_entry("trustDomain", self.trust_domain())?;
        map.serialize_entry("workloadName", &self.workload_name)?;
        map.serialize_entry("workloadType", &self.workload_type)?;
        map.serialize_entry("canonicalName", &self.canonical_name)?;
        map.serialize_entry("canonicalRevision", &self.canonical_revision)?;
        map.serialize_entry("clusterId", &self.cluster_id)?;
        map.serialize_entry("locality", &self.locality)?;
        map.serialize_entry("node", &self.node)?;
        map.serialize_entry("network", &self.network)?;
        map.serialize_entry("status", &self.status)?;
        if let Some(hostname) = &self.hostname {
            map.serialize_entry("hostname", hostname)?;
        }
        map.serialize_entry("capacity", &self.capacity)?;
        if let Some(tunnel) = &self.application_tunnel {
            map.serialize_entry("applicationTunnel", tunnel)?;
        }
        map.serialize_entry("authorizationPolicies", &self.authorization_policies)?;
        let services: Vec<_> = self.services.iter().map(|service| &service.key).collect();
        map.serialize_entry("services", &services)?;
        map.serialize_entry("nativeTunnel", &self.native_tunnel)?;
        map.end()
    }
}
