//! Small builders for tests: wire messages with defaults, domain types by way of them, repeatable random numbers.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
};

use fairway_proto::{security, workload as proto};
use rand::rand_core::TryRng;

use crate::{ident::Identity, policy::Policy, service::Service, workload::Workload};

/// SplitMix64: short, repeatable, good enough to spread draws.
pub(crate) struct Draws(pub(crate) u64);

impl TryRng for Draws {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|value| u32::try_from(value >> 32).unwrap())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(mixed ^ (mixed >> 31))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let value = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&value[..chunk.len()]);
        }
        Ok(())
    }
}

pub(crate) fn ip_bytes(text: &str) -> Vec<u8> {
    match text.parse().unwrap() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(crate) fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn identity(namespace: &str, account: &str) -> Identity {
    Identity::new("cluster.local", namespace, account).unwrap()
}

/// A ready pod that speaks HBONE, in namespace `shop`, account `default`, on node `n1`.
pub(crate) fn pod(name: &str, ips: &[&str]) -> proto::Workload {
    proto::Workload {
        uid: format!("Kubernetes//Pod/shop/{name}"),
        name: name.into(),
        namespace: "shop".into(),
        addresses: ips.iter().map(|ip| ip_bytes(ip)).collect(),
        tunnel_protocol: proto::TunnelProtocol::Hbone.into(),
        workload_type: proto::WorkloadType::Pod.into(),
        node: "n1".into(),
        ..Default::default()
    }
}

pub(crate) fn workload(message: proto::Workload) -> Workload {
    message.try_into().unwrap()
}

/// Makes the pod an endpoint of `shop/<hostname>`.
pub(crate) fn serving(mut pod: proto::Workload, hostname: &str, ports: &[(u32, u32)]) -> proto::Workload {
    let ports = ports
        .iter()
        .map(|&(service_port, target_port)| proto::Port { service_port, target_port, ..Default::default() })
        .collect();
    pod.services.insert(format!("shop/{hostname}"), proto::PortList { ports });
    pod
}

/// A service of namespace `shop`.
pub(crate) fn service_message(hostname: &str, vips: &[&str], ports: &[(u32, u32)]) -> proto::Service {
    proto::Service {
        name: hostname.into(),
        namespace: "shop".into(),
        hostname: hostname.into(),
        addresses: vips.iter().map(|vip| network_address(vip)).collect(),
        ports: ports
            .iter()
            .map(|&(service_port, target_port)| proto::Port { service_port, target_port, ..Default::default() })
            .collect(),
        ..Default::default()
    }
}

pub(crate) fn service(message: proto::Service) -> Service {
    message.try_into().unwrap()
}

/// An address, or with a slash a block.
pub(crate) fn network_address(text: &str) -> proto::NetworkAddress {
    let (ip, length) = text.split_once('/').map_or((text, None), |(ip, length)| (ip, Some(length.parse().unwrap())));
    proto::NetworkAddress { network: String::new(), address: ip_bytes(ip), length }
}

pub(crate) fn gateway_by_hostname(hostname: &str) -> proto::GatewayAddress {
    proto::GatewayAddress {
        destination: Some(proto::gateway_address::Destination::Hostname(proto::NamespacedHostname {
            namespace: "shop".into(),
            hostname: hostname.into(),
        })),
        hbone_mtls_port: 15_008,
    }
}

pub(crate) fn gateway_by_address(ip: &str) -> proto::GatewayAddress {
    proto::GatewayAddress {
        destination: Some(proto::gateway_address::Destination::Address(network_address(ip))),
        hbone_mtls_port: 15_008,
    }
}

/// A policy of namespace `shop` with one rule and one clause.
pub(crate) fn policy_message(
    name: &str,
    scope: security::Scope,
    action: security::Action,
    matches: Vec<security::Match>,
) -> security::Authorization {
    security::Authorization {
        name: name.into(),
        namespace: "shop".into(),
        scope: scope.into(),
        action: action.into(),
        rules: vec![security::Rule { clauses: vec![security::Clause { matches }] }],
        ..Default::default()
    }
}

pub(crate) fn policy(message: security::Authorization) -> Policy {
    message.try_into().unwrap()
}

pub(crate) fn exact(text: &str) -> security::StringMatch {
    security::StringMatch { match_type: Some(security::string_match::MatchType::Exact(text.into())) }
}

pub(crate) fn prefix(text: &str) -> security::StringMatch {
    security::StringMatch { match_type: Some(security::string_match::MatchType::Prefix(text.into())) }
}

pub(crate) fn suffix(text: &str) -> security::StringMatch {
    security::StringMatch { match_type: Some(security::string_match::MatchType::Suffix(text.into())) }
}

pub(crate) fn presence() -> security::StringMatch {
    security::StringMatch { match_type: Some(security::string_match::MatchType::Presence(())) }
}

pub(crate) fn block(text: &str) -> security::Address {
    let (ip, length) = text.split_once('/').unwrap();
    security::Address { address: ip_bytes(ip), length: length.parse().unwrap() }
}

pub(crate) fn account(namespace: &str, name: &str) -> security::ServiceAccountMatch {
    security::ServiceAccountMatch { namespace: namespace.into(), service_account: name.into() }
}
