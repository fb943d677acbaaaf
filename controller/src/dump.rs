//! What proxies are told, in a form people read; absent means default.

use std::fmt::Display;
use std::net::IpAddr;

use fairway_proto::security::string_match::MatchType;
use fairway_proto::security::{self, Authorization, Match, StringMatch};
use fairway_proto::workload::gateway_address::Destination;
use fairway_proto::workload::{
    AppProtocol, GatewayAddress, IpFamilies, LoadBalancing, Locality, NetworkAddress, NetworkMode, Port, Service,
    TunnelProtocol, WeightedWaypoint, Workload, WorkloadStatus, load_balancing, service::Visibility,
};
use serde_json::{Map, Value, json};

use crate::translate::Desired;

/// Everything.
#[must_use]
pub fn desired(desired: &Desired) -> Value {
    json!({
        "workloads": desired.workloads.values().filter_map(|it| Some(workload(&it.workload()?))).collect::<Vec<_>>(),
        "services": desired.services.values().map(|it| service(it)).collect::<Vec<_>>(),
        "policies": desired.policies.iter().map(policy).collect::<Vec<_>>(),
    })
}

/// An object without what is empty.
fn sparse<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let present = fields.into_iter().filter(|(_, value)| !is_empty(value));
    Value::Object(present.map(|(name, value)| (name.to_owned(), value)).collect())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
    }
}

/// The name of an enum's value, unless it is the default.
fn name<E: TryFrom<i32> + Default + PartialEq>(value: i32, name: impl Fn(&E) -> &'static str) -> Value {
    match E::try_from(value) {
        Ok(known) if known == E::default() => Value::Null,
        Ok(known) => name(&known).into(),
        Err(_) => value.into(),
    }
}

fn workload(workload: &Workload) -> Value {
    let services: Map<String, Value> = workload
        .services
        .iter()
        .map(|(key, ports)| (key.clone(), ports.ports.iter().map(port).collect::<Vec<_>>().into()))
        .collect();
    sparse([
        ("uid", workload.uid.clone().into()),
        ("name", workload.name.clone().into()),
        ("namespace", workload.namespace.clone().into()),
        ("addresses", workload.addresses.iter().map(|octets| address(octets)).collect::<Vec<_>>().into()),
        ("network", workload.network.clone().into()),
        ("tunnelProtocol", name(workload.tunnel_protocol, TunnelProtocol::as_str_name)),
        ("trustDomain", workload.trust_domain.clone().into()),
        ("serviceAccount", workload.service_account.clone().into()),
        ("node", workload.node.clone().into()),
        ("canonicalName", workload.canonical_name.clone().into()),
        ("canonicalRevision", workload.canonical_revision.clone().into()),
        ("workloadName", workload.workload_name.clone().into()),
        ("nativeTunnel", workload.native_tunnel.into()),
        ("authorizationPolicies", workload.authorization_policies.clone().into()),
        ("status", name(workload.status, WorkloadStatus::as_str_name)),
        ("clusterId", workload.cluster_id.clone().into()),
        ("services", services.into()),
        ("networkMode", name(workload.network_mode, NetworkMode::as_str_name)),
        ("hostname", workload.hostname.clone().into()),
        ("waypoint", workload.waypoint.as_ref().map(gateway).unwrap_or_default()),
        ("locality", workload.locality.as_ref().map(locality).unwrap_or_default()),
        ("capacity", workload.capacity.unwrap_or_default().into()),
    ])
}

fn address(octets: &[u8]) -> String {
    let parsed =
        <[u8; 4]>::try_from(octets).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from));
    parsed.map_or_else(|_| format!("{octets:?}"), |address| address.to_string())
}

/// `network/address`, with the length of a block.
fn network_address(vip: &NetworkAddress) -> String {
    let length = vip.length.map(|length| format!("/{length}")).unwrap_or_default();
    format!("{}/{}{length}", vip.network, address(&vip.address))
}

/// `namespace/hostname:port` or `network/address:port`.
fn gateway(gateway: &GatewayAddress) -> Value {
    let destination = match &gateway.destination {
        Some(Destination::Hostname(name)) => format!("{}/{}", name.namespace, name.hostname),
        Some(Destination::Address(address)) => network_address(address),
        None => String::new(),
    };
    format!("{destination}:{}", gateway.hbone_mtls_port).into()
}

fn locality(locality: &Locality) -> Value {
    format!("{}/{}/{}", locality.region, locality.zone, locality.subzone).into()
}

/// `80->8080`, with the protocol when it is known; `?` for a named port.
fn port(port: &Port) -> Value {
    let target = if port.target_port == 0 { "?".to_owned() } else { port.target_port.to_string() };
    let protocol = AppProtocol::try_from(port.app_protocol).ok().filter(|it| *it != AppProtocol::Unknown);
    let protocol = protocol.map(|it| format!(" {}", it.as_str_name())).unwrap_or_default();
    format!("{}->{target}{protocol}", port.service_port).into()
}

fn service(service: &Service) -> Value {
    let vip = |vip: &NetworkAddress| Value::from(network_address(vip));
    let weighted = |it: &WeightedWaypoint| {
        let waypoint = it.destination.as_ref().map(gateway).unwrap_or_default();
        Value::from(format!("{} {}", it.weight, waypoint.as_str().unwrap_or_default()))
    };
    sparse([
        ("name", service.name.clone().into()),
        ("namespace", service.namespace.clone().into()),
        ("hostname", service.hostname.clone().into()),
        ("addresses", service.addresses.iter().map(vip).collect::<Vec<_>>().into()),
        ("ports", service.ports.iter().map(port).collect::<Vec<_>>().into()),
        ("loadBalancing", service.load_balancing.as_ref().map(balancing).unwrap_or_default()),
        ("ipFamilies", name(service.ip_families, IpFamilies::as_str_name)),
        ("visibility", name(service.visibility, Visibility::as_str_name)),
        ("canonical", service.canonical.into()),
        ("subjectAltNames", service.subject_alt_names.clone().into()),
        ("waypoint", service.waypoint.as_ref().map(gateway).unwrap_or_default()),
        ("weightedWaypoints", service.weighted_waypoints.iter().map(weighted).collect::<Vec<_>>().into()),
        ("ingressUseWaypoint", service.ingress_use_waypoint.into()),
    ])
}

fn balancing(balancing: &LoadBalancing) -> Value {
    let scope = |scope: &i32| name(*scope, load_balancing::Scope::as_str_name);
    sparse([
        ("mode", name(balancing.mode, load_balancing::Mode::as_str_name)),
        ("preference", balancing.routing_preference.iter().map(scope).collect::<Vec<_>>().into()),
        ("health", name(balancing.health_policy, load_balancing::HealthPolicy::as_str_name)),
    ])
}

fn policy(policy: &Authorization) -> Value {
    let scope = security::Scope::try_from(policy.scope).unwrap_or_default();
    let action = security::Action::try_from(policy.action).unwrap_or_default();
    let rules = policy.rules.iter().map(|rule| {
        let clauses = rule.clauses.iter().map(|clause| clause.matches.iter().map(found).collect::<Vec<_>>());
        Value::from(clauses.map(Value::from).collect::<Vec<_>>())
    });
    sparse([
        ("name", policy.name.clone().into()),
        ("namespace", policy.namespace.clone().into()),
        ("scope", scope.as_str_name().into()),
        ("action", action.as_str_name().into()),
        ("rules", rules.collect::<Vec<_>>().into()),
        ("dryRun", policy.dry_run.into()),
    ])
}

fn found(found: &Match) -> Value {
    let blocks = |list: &[security::Address]| texts(list, |it| format!("{}/{}", address(&it.address), it.length));
    let accounts =
        |list: &[security::ServiceAccountMatch]| texts(list, |it| format!("{}/{}", it.namespace, it.service_account));
    let ports = |list: &[u32]| Value::from(list.to_vec());
    let strings = |list: &[StringMatch]| texts(list, string);
    sparse([
        ("namespaces", strings(&found.namespaces)),
        ("notNamespaces", strings(&found.not_namespaces)),
        ("principals", strings(&found.principals)),
        ("notPrincipals", strings(&found.not_principals)),
        ("serviceAccounts", accounts(&found.service_accounts)),
        ("notServiceAccounts", accounts(&found.not_service_accounts)),
        ("sourceIps", blocks(&found.source_ips)),
        ("notSourceIps", blocks(&found.not_source_ips)),
        ("destinationIps", blocks(&found.destination_ips)),
        ("notDestinationIps", blocks(&found.not_destination_ips)),
        ("destinationPorts", ports(&found.destination_ports)),
        ("notDestinationPorts", ports(&found.not_destination_ports)),
    ])
}

fn texts<T, D: Display>(list: &[T], show: impl Fn(&T) -> D) -> Value {
    list.iter().map(|it| Value::from(show(it).to_string())).collect::<Vec<_>>().into()
}

fn string(value: &StringMatch) -> String {
    match &value.match_type {
        None => "nothing".to_owned(),
        Some(MatchType::Exact(text)) => format!("={text}"),
        Some(MatchType::Prefix(text)) => format!("{text}*"),
        Some(MatchType::Suffix(text)) => format!("*{text}"),
        Some(MatchType::Presence(())) => "*".to_owned(),
    }
}
