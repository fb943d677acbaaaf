//! Who sees requests, in Envoy's words: one filter of the listener, and what each route says of it.

use fairway_core::source::external_processor::{BodyPart, Part, ProcessingMode as Mode};
use fairway_proto::envoy::core::GrpcService;
use fairway_proto::envoy::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use fairway_proto::envoy::ext_proc::ext_proc_per_route::Override;
use fairway_proto::envoy::ext_proc::processing_mode::{BodySendMode, HeaderSendMode};
use fairway_proto::envoy::ext_proc::{ExtProcOverrides, ExtProcPerRoute, ExternalProcessor, ProcessingMode};
use fairway_proto::envoy::fraction::HttpStatus;
use fairway_proto::envoy::http_connection_manager::HttpFilter;
use fairway_proto::envoy::matcher::RegexMatcher;
use fairway_proto::envoy::mutation_rules::HeaderMutationRules;
use prost_types::Any;

use super::super::waypoints::Sees;
use super::listener::http_filter;
use super::{any, duration};

/// By which routes know the filter.
pub(super) const NAME: &str = "envoy.filters.http.ext_proc";
const EXT_PROC: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor";
const PER_ROUTE: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute";
/// What frames and addresses a message, and says who the client is. Envoy looks after `content-length` itself.
const KEPT: &str =
    "(?i)host|transfer-encoding|connection|keep-alive|proxy-connection|upgrade|te|trailer|x-forwarded-client-cert";

/// The filter; without a mode of its own, only routes say what is seen.
pub(super) fn filter(sees: &Sees<'_>) -> HttpFilter {
    let processor = sees.processor;
    let target = EnvoyGrpc { cluster_name: processor.target.to_string() };
    // A timeout of the service would be one for all messages together.
    let service = GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)), timeout: None };
    let kept = RegexMatcher { regex: KEPT.to_owned() };
    let config = ExternalProcessor {
        grpc_service: Some(service),
        failure_mode_allow: processor.fails_open,
        processing_mode: Some(mode(&sees.mode.unwrap_or_default())),
        message_timeout: Some(duration(processor.timeout)),
        mutation_rules: Some(HeaderMutationRules { disallow_system: Some(true), disallow_expression: Some(kept) }),
        max_message_timeout: processor.longest.map(duration),
        allow_mode_override: processor.may_override,
        status_on_error: Some(HttpStatus { code: i32::from(processor.status) }),
    };
    http_filter(NAME, any(EXT_PROC, &config))
}

/// What a route says: these parts are seen, or nothing is.
pub(super) fn of_route(seen: Option<&Mode>) -> Any {
    let said = match seen {
        Some(seen) => Override::Overrides(ExtProcOverrides { processing_mode: Some(mode(seen)) }),
        None => Override::Disabled(true),
    };
    any(PER_ROUTE, &ExtProcPerRoute { r#override: Some(said) })
}

fn mode(mode: &Mode) -> ProcessingMode {
    let part = |part| match part {
        Part::Send => HeaderSendMode::Send.into(),
        Part::Skip => HeaderSendMode::Skip.into(),
    };
    let body = |part| match part {
        BodyPart::Buffered => BodySendMode::Buffered.into(),
        BodyPart::Streamed => BodySendMode::Streamed.into(),
        // The others are refused where objects are read.
        BodyPart::None | BodyPart::BufferedPartial | BodyPart::FullDuplexStreamed => BodySendMode::None.into(),
    };
    ProcessingMode {
        request_header_mode: part(mode.request_headers),
        response_header_mode: part(mode.response_headers),
        request_body_mode: body(mode.request_body),
        response_body_mode: body(mode.response_body),
        request_trailer_mode: part(mode.request_trailers),
        response_trailer_mode: part(mode.response_trailers),
    }
}
