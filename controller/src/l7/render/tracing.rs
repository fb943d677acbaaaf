//! Traces in Envoy's words.

use fairway_proto::envoy::core::GrpcService;
use fairway_proto::envoy::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use fairway_proto::envoy::custom_tag::CustomTag;
use fairway_proto::envoy::custom_tag::custom_tag::{Header, Literal, Type};
use fairway_proto::envoy::fraction::Percent;
use fairway_proto::envoy::http_connection_manager::http_connection_manager::Tracing;
use fairway_proto::envoy::trace::OpenTelemetryConfig;
use fairway_proto::envoy::trace::tracing::Http;
use fairway_proto::envoy::trace::tracing::http::ConfigType;

use super::super::telemetry::{Tag, Traced};
use super::any;

const OPEN_TELEMETRY: &str = "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig";

/// What is done with traces.
pub(super) fn tracing(traced: &Traced) -> Tracing {
    let target = EnvoyGrpc { cluster_name: traced.collector.to_string() };
    let config = OpenTelemetryConfig {
        grpc_service: Some(GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)), timeout: None }),
        service_name: traced.service.clone(),
    };
    let tag = |(name, tag): (&String, &Tag)| {
        let kind = match tag {
            Tag::Fixed(value) => Type::Literal(Literal { value: value.clone() }),
            Tag::Header(name, otherwise) => {
                Type::RequestHeader(Header { name: name.clone(), default_value: otherwise.clone() })
            }
        };
        CustomTag { tag: name.clone(), r#type: Some(kind) }
    };
    Tracing {
        random_sampling: Some(Percent { value: traced.percent }),
        custom_tags: traced.tags.iter().map(tag).collect(),
        provider: Some(Http {
            name: "envoy.tracers.opentelemetry".to_owned(),
            config_type: Some(ConfigType::TypedConfig(any(OPEN_TELEMETRY, &config))),
        }),
    }
}
