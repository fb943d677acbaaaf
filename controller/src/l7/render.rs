//! The model in Envoy's words, of which only those are used that Envoy, gRPC's own clients and our waypoint all take
//! (api-surface D5, ADR 0017).

use std::time::Duration;

use fairway_proto::envoy::core::config_source::ConfigSourceSpecifier;
use fairway_proto::envoy::core::{AggregatedConfigSource, ApiVersion, ConfigSource};
use prost::Message;
use prost_types::Any;

mod authorizers;
mod cluster;
pub mod endpoints;
pub mod hash;
pub mod listener;
mod logs;
mod metrics;
pub mod nearness;
mod per_route;
mod processors;
mod proxies;
mod rates;
mod rbac;
pub mod route;
mod tokens;
mod tracing;

pub use cluster::{Endpoints, cluster, whoever_is_dialled};

/// The cluster that shares of requests for backends that cannot be reached are given to. Proxies have no such cluster, and
/// answer with the status that the route says. gRPC's clients wait for every cluster, so for them there is one without
/// endpoints, and such calls end with UNAVAILABLE.
pub const INVALID_BACKEND: &str = "invalid-backend";

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
