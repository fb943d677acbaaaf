//! A service as the file writes it, and what services share with workloads.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fairway_proto::workload as proto;
use ipnet::IpNet;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};

/// The fields of `/config_dump`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Entry {
    name: String,
    namespace: String,
    hostname: String,
    #[serde(default)]
    vips: Vec<Vip>,
    #[serde(default)]
    cidr_vips: Vec<CidrVip>,
    #[serde(default)]
    ports: BTreeMap<u16, u16>,
    #[serde(default)]
    subject_alt_names: Vec<String>,
    waypoint: Option<Gateway>,
    #[serde(default)]
    weighted_waypoints: Vec<WeightedWaypoint>,
    load_balancer: Option<LoadBalancer>,
    ip_families: Option<IpFamilies>,
    #[serde(default)]
    canonical: bool,
    #[serde(default)]
    visibility: Visibility,
    #[serde(default, rename = "endpoints")]
    _endpoints: NoEndpoints,
}

impl Entry {
    pub(super) fn into_message(self) -> proto::Service {
        let hosts = self.vips.into_iter().map(|Vip { network, ip }| proto::NetworkAddress {
            network,
            address: bytes(ip),
            length: None,
        });
        let blocks = self.cidr_vips.into_iter().map(|CidrVip { network, block }| proto::NetworkAddress {
            network,
            address: bytes(block.addr()),
            length: Some(block.prefix_len().into()),
        });
        proto::Service {
            name: self.name,
            namespace: self.namespace,
            hostname: self.hostname,
            addresses: hosts.chain(blocks).collect(),
            ports: port_list(&self.ports).ports,
            subject_alt_names: self.subject_alt_names,
            waypoint: self.waypoint.map(Into::into),
            load_balancing: self.load_balancer.map(LoadBalancer::into_message),
            ip_families: match self.ip_families {
                None => proto::IpFamilies::Automatic,
                Some(IpFamilies::IPv4) => proto::IpFamilies::Ipv4Only,
                Some(IpFamilies::IPv6) => proto::IpFamilies::Ipv6Only,
                Some(IpFamilies::Dual) => proto::IpFamilies::Dual,
            }
            .into(),
            extensions: Vec::new(),
            canonical: self.canonical,
            ingress_use_waypoint: false,
            weighted_waypoints: self
                .weighted_waypoints
                .into_iter()
                .map(|waypoint| proto::WeightedWaypoint {
                    destination: Some(waypoint.destination.into()),
                    weight: waypoint.weight,
                })
                .collect(),
            visibility: match self.visibility {
                Visibility::Public => proto::service::Visibility::Public,
                Visibility::Namespace => proto::service::Visibility::Namespace,
            }
            .into(),
        }
    }
}

/// Endpoints follow from the workloads' `services`; written here they would be read by nobody.
#[derive(Debug, Default)]
struct NoEndpoints;

impl<'de> Deserialize<'de> for NoEndpoints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let endpoints = BTreeMap::<String, IgnoredAny>::deserialize(deserializer)?;
        if endpoints.is_empty() {
            return Ok(Self);
        }
        Err(D::Error::custom("endpoints follow from the services that workloads list; leave them out here"))
    }
}

/// `network/ip`, where the network may be empty.
#[derive(Debug)]
struct Vip {
    network: String,
    ip: IpAddr,
}

impl<'de> Deserialize<'de> for Vip {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let read = text.rsplit_once('/').and_then(|(network, ip)| Some((network.to_owned(), ip.parse().ok()?)));
        let (network, ip) =
            read.ok_or_else(|| D::Error::custom(format!("{text:?} is not network/ip, such as /10.0.0.1")))?;
        Ok(Self { network, ip })
    }
}

/// `network/ip/length`, where the network may be empty.
#[derive(Debug)]
struct CidrVip {
    network: String,
    block: IpNet,
}

impl<'de> Deserialize<'de> for CidrVip {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let read = text.split_once('/').and_then(|(network, block)| Some((network.to_owned(), block.parse().ok()?)));
        let (network, block) =
            read.ok_or_else(|| D::Error::custom(format!("{text:?} is not network/block, such as /10.0.0.0/24")))?;
        Ok(Self { network, block })
    }
}

/// A waypoint or network gateway.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Gateway {
    destination: Destination,
    hbone_mtls_port: u16,
}

/// `network/ip` or `namespace/hostname`.
#[derive(Debug)]
enum Destination {
    Address { network: String, ip: IpAddr },
    Hostname { namespace: String, hostname: String },
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let Some((scope, name)) = text.split_once('/') else {
            return Err(D::Error::custom(format!("{text:?} is neither network/ip nor namespace/hostname")));
        };
        let scope = scope.to_owned();
        Ok(match name.parse() {
            Ok(ip) => Self::Address { network: scope, ip },
            Err(_) => Self::Hostname { namespace: scope, hostname: name.to_owned() },
        })
    }
}

impl From<Gateway> for proto::GatewayAddress {
    fn from(gateway: Gateway) -> Self {
        use proto::gateway_address::Destination as Message;

        let destination = match gateway.destination {
            Destination::Address { network, ip } => {
                Message::Address(proto::NetworkAddress { network, address: bytes(ip), length: None })
            }
            Destination::Hostname { namespace, hostname } => {
                Message::Hostname(proto::NamespacedHostname { namespace, hostname })
            }
        };
        Self { destination: Some(destination), hbone_mtls_port: gateway.hbone_mtls_port.into() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WeightedWaypoint {
    destination: Gateway,
    weight: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LoadBalancer {
    #[serde(default)]
    routing_preferences: Vec<Scope>,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    health_policy: HealthPolicy,
}

#[derive(Debug, Deserialize)]
enum Scope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

#[derive(Debug, Default, Deserialize)]
enum Mode {
    #[default]
    Standard,
    Strict,
    Failover,
    Passthrough,
}

#[derive(Debug, Default, Deserialize)]
enum HealthPolicy {
    #[default]
    OnlyHealthy,
    AllowAll,
}

#[derive(Debug, Deserialize)]
enum IpFamilies {
    Dual,
    IPv4,
    IPv6,
}

#[derive(Debug, Default, Deserialize)]
enum Visibility {
    #[default]
    Public,
    Namespace,
}

impl LoadBalancer {
    fn into_message(self) -> proto::LoadBalancing {
        use proto::load_balancing as wire;

        let scope = |scope| match scope {
            Scope::Region => wire::Scope::Region,
            Scope::Zone => wire::Scope::Zone,
            Scope::Subzone => wire::Scope::Subzone,
            Scope::Node => wire::Scope::Node,
            Scope::Cluster => wire::Scope::Cluster,
            Scope::Network => wire::Scope::Network,
        };
        proto::LoadBalancing {
            routing_preference: self.routing_preferences.into_iter().map(|entry| scope(entry).into()).collect(),
            mode: match self.mode {
                Mode::Standard => wire::Mode::UnspecifiedMode,
                Mode::Strict => wire::Mode::Strict,
                Mode::Failover => wire::Mode::Failover,
                Mode::Passthrough => wire::Mode::Passthrough,
            }
            .into(),
            health_policy: match self.health_policy {
                HealthPolicy::OnlyHealthy => wire::HealthPolicy::OnlyHealthy,
                HealthPolicy::AllowAll => wire::HealthPolicy::AllowAll,
            }
            .into(),
        }
    }
}

pub(super) fn port_list(ports: &BTreeMap<u16, u16>) -> proto::PortList {
    let port = |(&service_port, &target_port): (&u16, &u16)| proto::Port {
        service_port: service_port.into(),
        target_port: target_port.into(),
        app_protocol: 0,
    };
    proto::PortList { ports: ports.iter().map(port).collect() }
}

pub(super) fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
