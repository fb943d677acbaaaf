//! The model in Envoy's words, of which only those are used that Envoy, gRPC's own clients and our waypoint all take
//! (api-surface D5, ADR 0017).

use std::time::Duration;

use fairway_proto::envoy::cluster::circuit_breakers::Thresholds;
use fairway_proto::envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use fairway_proto::envoy::cluster::load_balancing_policy::Policy;
use fairway_proto::envoy::cluster::{CircuitBreakers, Cluster, LoadBalancingPolicy};
use fairway_proto::envoy::core::config_source::ConfigSourceSpecifier;
use fairway_proto::envoy::core::{
    AggregatedConfigSource, ApiVersion, ConfigSource, Http1ProtocolOptions, Http2ProtocolOptions, TypedExtensionConfig,
};
use fairway_proto::envoy::round_robin::RoundRobin;
use fairway_proto::envoy::upstream_http::HttpProtocolOptions;
use fairway_proto::envoy::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use fairway_proto::envoy::upstream_http::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};
use fairway_proto::workload::AppProtocol;
use prost::Message;
use prost_types::Any;

pub mod endpoints;
pub mod listener;
mod rbac;
pub mod route;

/// The cluster that shares of requests for backends that cannot be reached are given to. Proxies have no such cluster, and
/// answer with the status that the route says. gRPC's clients wait for every cluster, so for them there is one without
/// endpoints, and such calls end with UNAVAILABLE.
pub const INVALID_BACKEND: &str = "invalid-backend";

/// For an endpoint to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until somebody asks for a limit there is none; Envoy's own defaults would cut off at 1024 requests.
const UNLIMITED: u32 = u32::MAX;

const ROUND_ROBIN: &str = "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin";
const HTTP_PROTOCOL_OPTIONS: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Key of [`HTTP_PROTOCOL_OPTIONS`] in a cluster.
const UPSTREAM_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn any<M: Message>(type_url: &str, message: &M) -> Any {
    Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
}

/// From the stream this comes on.
fn ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3.into(),
    }
}

pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// The endpoints of the same name, and how they are spoken to.
#[must_use]
pub fn cluster(name: &str, protocol: AppProtocol) -> Cluster {
    let explicit =
        |config| UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) });
    let options = match protocol {
        AppProtocol::Http11 => explicit(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions {})),
        AppProtocol::Http2 | AppProtocol::Grpc => {
            explicit(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {}))
        }
        // Nobody has said: what the client speaks.
        _ => UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(Http1ProtocolOptions {}),
            http2_protocol_options: Some(Http2ProtocolOptions {}),
        }),
    };
    let options = HttpProtocolOptions { upstream_protocol_options: Some(options), ..HttpProtocolOptions::default() };
    let thresholds = Thresholds {
        max_connections: Some(UNLIMITED),
        max_pending_requests: Some(UNLIMITED),
        max_requests: Some(UNLIMITED),
        max_retries: Some(UNLIMITED),
    };
    let round_robin = TypedExtensionConfig {
        name: "envoy.load_balancing_policies.round_robin".to_owned(),
        typed_config: Some(any(ROUND_ROBIN, &RoundRobin {})),
    };
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads()), service_name: name.to_owned() }),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        circuit_breakers: Some(CircuitBreakers { thresholds: vec![thresholds] }),
        typed_extension_protocol_options: [(UPSTREAM_OPTIONS.to_owned(), any(HTTP_PROTOCOL_OPTIONS, &options))].into(),
        load_balancing_policy: Some(LoadBalancingPolicy {
            policies: vec![Policy { typed_extension_config: Some(round_robin) }],
        }),
        ..Cluster::default()
    }
}
