//! Clusters and who is in them.

use std::time::Duration;

use fairway_proto::envoy::cluster::Cluster as ClusterMessage;
use fairway_proto::envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
use fairway_proto::envoy::core::HealthStatus;
use fairway_proto::envoy::endpoint::lb_endpoint::HostIdentifier;
use fairway_proto::envoy::endpoint::{ClusterLoadAssignment, LbEndpoint};
use fairway_proto::envoy::upstream_http::HttpProtocolOptions;
use fairway_proto::envoy::upstream_http::http_protocol_options::UpstreamProtocolOptions;
use fairway_proto::envoy::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use prost::Message;

use super::wrong::{Within, Wrong, all};
use super::{Assignment, Cluster, Protocol, address, duration, fields};

/// Key of the options that say what endpoints speak.
const UPSTREAM_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Where the resource names no time to connect in; Envoy's default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where the resource does not bound requests; Envoy's default.
const REQUESTS: u32 = 1024;
/// Where the resource does not bound repetitions; Envoy's default.
const RETRIES: u32 = 3;
/// The one way to spread requests.
const ROUND_ROBIN: &str = "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin";

/// Reads a `Cluster`.
///
/// # Errors
/// The field that cannot be used.
pub fn cluster(bytes: &[u8]) -> Result<Cluster, Wrong> {
    fields::check("envoy.config.cluster.v3.Cluster", bytes)?;
    let message = ClusterMessage::decode(bytes).map_err(|error| Wrong::here(error.to_string()))?;
    match message.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) if kind == i32::from(DiscoveryType::Eds) => {}
        _ => return Err(Wrong::new("type", "must be EDS")),
    }
    let endpoints = message.eds_cluster_config.map(|config| config.service_name).unwrap_or_default();
    let endpoints = if endpoints.is_empty() { message.name } else { endpoints };
    let mut protocol = Protocol::Http1;
    for (key, options) in &message.typed_extension_protocol_options {
        let field = || format!("typed_extension_protocol_options[{key}]");
        if key != UPSTREAM_OPTIONS {
            return Err(Wrong::new(field(), "is not supported"));
        }
        let options =
            HttpProtocolOptions::decode(&*options.value).map_err(|error| Wrong::new(field(), error.to_string()))?;
        protocol = match options.upstream_protocol_options {
            Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) => Protocol::AsClient,
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match explicit.protocol_config {
                Some(ProtocolConfig::HttpProtocolOptions(_)) => Protocol::Http1,
                Some(ProtocolConfig::Http2ProtocolOptions(_)) => Protocol::Http2,
                None => return Err(Wrong::new(field(), "says no protocol")),
            },
            None => return Err(Wrong::new(field(), "says no protocol")),
        };
    }
    if let Some(policies) = &message.load_balancing_policy {
        let mut configs = policies.policies.iter().filter_map(|policy| policy.typed_extension_config.as_ref());
        let known = |config: &fairway_proto::envoy::core::TypedExtensionConfig| {
            config.typed_config.as_ref().is_some_and(|any| any.type_url == ROUND_ROBIN)
        };
        if !configs.any(known) {
            return Err(Wrong::new("load_balancing_policy", "must name round robin"));
        }
    }
    let thresholds = message.circuit_breakers.unwrap_or_default().thresholds.into_iter().next().unwrap_or_default();
    let timeout = message.connect_timeout.as_ref().map(duration).transpose().within("connect_timeout")?;
    Ok(Cluster {
        endpoints,
        protocol,
        connect_timeout: timeout.unwrap_or(CONNECT_TIMEOUT),
        requests: thresholds.max_requests.unwrap_or(REQUESTS),
        retries: thresholds.max_retries.unwrap_or(RETRIES),
    })
}

/// Reads a `ClusterLoadAssignment`.
///
/// # Errors
/// The field that cannot be used.
pub fn assignment(bytes: &[u8]) -> Result<Assignment, Wrong> {
    fields::check("envoy.config.endpoint.v3.ClusterLoadAssignment", bytes)?;
    let message = ClusterLoadAssignment::decode(bytes).map_err(|error| Wrong::here(error.to_string()))?;
    let mut localities: Vec<_> = message.endpoints.iter().enumerate().collect();
    localities.sort_by_key(|(_, locality)| locality.priority);
    let mut priorities: Vec<(u32, Vec<_>)> = Vec::new();
    for (index, locality) in localities {
        let found = all("lb_endpoints", &locality.lb_endpoints, endpoint).within(format_args!("endpoints[{index}]"))?;
        let found = found.into_iter().flatten();
        match priorities.last_mut() {
            Some((priority, endpoints)) if *priority == locality.priority => endpoints.extend(found),
            _ => priorities.push((locality.priority, found.collect())),
        }
    }
    Ok(Assignment { priorities: priorities.into_iter().map(|(_, endpoints)| endpoints).collect() })
}

/// The address of one that may be used.
fn endpoint(message: &LbEndpoint) -> Result<Option<std::net::SocketAddr>, Wrong> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &message.host_identifier else {
        return Err(Wrong::missing("endpoint"));
    };
    let found = address(endpoint.address.as_ref()).within("endpoint.address")?;
    let usable = matches!(message.health_status(), HealthStatus::Unknown | HealthStatus::Healthy);
    Ok(usable.then_some(found))
}
