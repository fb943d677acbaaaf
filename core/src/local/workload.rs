//! A workload as the file writes it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fairway_proto::workload as proto;
use serde::Deserialize;

use super::Defaults;
use super::entry::EntryFault;
use super::service::{Gateway, bytes, port_list};

/// The fields of `/config_dump`, plus the services with their ports.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Entry {
    uid: Option<String>,
    name: String,
    namespace: String,
    #[serde(default)]
    service_account: String,
    trust_domain: Option<String>,
    workload_ips: Vec<IpAddr>,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default)]
    node: String,
    #[serde(default)]
    network: String,
    waypoint: Option<Gateway>,
    network_gateway: Option<Gateway>,
    #[serde(default)]
    network_mode: NetworkMode,
    workload_name: Option<String>,
    #[serde(default)]
    workload_type: WorkloadType,
    canonical_name: Option<String>,
    #[serde(default)]
    canonical_revision: String,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    native_tunnel: bool,
    application_tunnel: Option<Tunnel>,
    #[serde(default)]
    authorization_policies: Vec<String>,
    #[serde(default)]
    status: Status,
    cluster_id: Option<String>,
    #[serde(default)]
    locality: Locality,
    capacity: Option<u32>,
    #[serde(default)]
    services: BTreeMap<String, BTreeMap<u16, u16>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Protocol {
    #[default]
    Tcp,
    Hbone,
}

#[derive(Debug, Default, Deserialize)]
enum NetworkMode {
    #[default]
    Standard,
    HostNetwork,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WorkloadType {
    #[default]
    Pod,
    Deployment,
    Cronjob,
    Job,
}

#[derive(Debug, Default, Deserialize)]
enum Status {
    #[default]
    Healthy,
    Unhealthy,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Locality {
    #[serde(default)]
    region: String,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    subzone: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Tunnel {
    protocol: TunnelProtocol,
    port: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum TunnelProtocol {
    None,
    Proxy,
}

impl Entry {
    pub(super) fn into_message(self, defaults: &Defaults) -> Result<proto::Workload, EntryFault> {
        // An empty name would be taken for a default further on, and mean something else than was written.
        for (field, value) in [("name", &self.name), ("namespace", &self.namespace)] {
            if value.is_empty() {
                return Err((field, "is empty".to_owned()));
            }
        }
        let cluster_id = self.cluster_id.unwrap_or_else(|| defaults.cluster_id.clone());
        let uid = self.uid.unwrap_or_else(|| format!("{cluster_id}//Pod/{}/{}", self.namespace, self.name));
        let services = self.services.into_iter().map(|(key, ports)| (key, port_list(&ports))).collect();
        Ok(proto::Workload {
            uid,
            canonical_name: self.canonical_name.unwrap_or_else(|| self.name.clone()),
            workload_name: self.workload_name.unwrap_or_else(|| self.name.clone()),
            name: self.name,
            namespace: self.namespace,
            addresses: self.workload_ips.into_iter().map(bytes).collect(),
            hostname: self.hostname,
            network: self.network,
            tunnel_protocol: match self.protocol {
                Protocol::Tcp => proto::TunnelProtocol::None,
                Protocol::Hbone => proto::TunnelProtocol::Hbone,
            }
            .into(),
            trust_domain: self.trust_domain.unwrap_or_else(|| defaults.trust_domain.clone()),
            service_account: self.service_account,
            waypoint: self.waypoint.map(Into::into),
            network_gateway: self.network_gateway.map(Into::into),
            node: self.node,
            canonical_revision: self.canonical_revision,
            workload_type: match self.workload_type {
                WorkloadType::Pod => proto::WorkloadType::Pod,
                WorkloadType::Deployment => proto::WorkloadType::Deployment,
                WorkloadType::Cronjob => proto::WorkloadType::Cronjob,
                WorkloadType::Job => proto::WorkloadType::Job,
            }
            .into(),
            native_tunnel: self.native_tunnel,
            authorization_policies: self.authorization_policies,
            status: match self.status {
                Status::Healthy => proto::WorkloadStatus::Healthy,
                Status::Unhealthy => proto::WorkloadStatus::Unhealthy,
            }
            .into(),
            cluster_id,
            services,
            application_tunnel: self.application_tunnel.map(|tunnel| proto::ApplicationTunnel {
                protocol: match tunnel.protocol {
                    TunnelProtocol::None => proto::application_tunnel::Protocol::None,
                    TunnelProtocol::Proxy => proto::application_tunnel::Protocol::Proxy,
                }
                .into(),
                port: tunnel.port.unwrap_or_default().into(),
            }),
            locality: Some(proto::Locality {
                region: self.locality.region,
                zone: self.locality.zone,
                subzone: self.locality.subzone,
            }),
            network_mode: match self.network_mode {
                NetworkMode::Standard => proto::NetworkMode::Standard,
                NetworkMode::HostNetwork => proto::NetworkMode::HostNetwork,
            }
            .into(),
            extensions: Vec::new(),
            capacity: self.capacity,
        })
    }
}
