//! What routes have done besides sending requests somewhere: filters of the listener that each route tells what to do.

use std::collections::BTreeMap;

use fairway_proto::envoy::cors::{Cors as CorsFilter, CorsPolicy};
use fairway_proto::envoy::fault::fault_abort::ErrorType;
use fairway_proto::envoy::fault::{FaultAbort, HttpFault};
use fairway_proto::envoy::fault_delay::{FaultDelay, fault_delay};
use fairway_proto::envoy::http_connection_manager::HttpFilter;
use prost_types::Any;

use super::super::model::{Abort, Cors, Entry, Fault, Rule};
use super::listener::http_filter;
use super::route::{millionths, text};
use super::{any, duration};

const CORS: &str = "envoy.filters.http.cors";
const CORS_FILTER: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors";
const CORS_POLICY: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy";
const FAULT: &str = "envoy.filters.http.fault";
const HTTP_FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";

/// The filters that these routes need, in their order, with `rates` in its place: browsers may read that there were too many
/// requests. Clients of gRPC know no CORS.
pub(super) fn filters<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    rates: impl IntoIterator<Item = HttpFilter>,
    is_grpc: bool,
) -> Vec<HttpFilter> {
    let (mut has_cors, mut has_fault) = (false, false);
    for entry in entries {
        has_cors |= entry.rule.cors.is_some() && !is_grpc;
        has_fault |= entry.rule.fault.is_some();
    }
    let cors = has_cors.then(|| http_filter(CORS, any(CORS_FILTER, &CorsFilter {})));
    let fault = has_fault.then(|| http_filter(FAULT, any(HTTP_FAULT, &HttpFault::default())));
    cors.into_iter().chain(rates).chain(fault).collect()
}

/// What one route tells those filters.
pub(super) fn settings(rule: &Rule, is_grpc: bool) -> BTreeMap<String, Any> {
    let cors = rule.cors.as_ref().filter(|_| !is_grpc).map(|cors| (CORS.to_owned(), any(CORS_POLICY, &policy(cors))));
    let fault = rule.fault.as_ref().map(|fault| (FAULT.to_owned(), any(HTTP_FAULT, &failure(fault))));
    cors.into_iter().chain(fault).collect()
}

fn policy(cors: &Cors) -> CorsPolicy {
    CorsPolicy {
        allow_origin_string_match: cors.origins.iter().map(text).collect(),
        allow_methods: cors.methods.join(","),
        allow_headers: cors.headers.join(","),
        expose_headers: cors.exposed.join(","),
        max_age: cors.max_age.map(|age| age.as_secs().to_string()).unwrap_or_default(),
        allow_credentials: Some(cors.has_credentials),
        forward_not_matching_preflights: Some(cors.passes_others),
    }
}

fn failure(fault: &Fault) -> HttpFault {
    HttpFault {
        delay: fault.delay.map(|(time, share)| FaultDelay {
            kind: Some(fault_delay::Kind::FixedDelay(duration(time))),
            percentage: Some(millionths(share)),
        }),
        abort: fault.abort.map(|(kind, share)| FaultAbort {
            error_type: Some(match kind {
                Abort::Http(status) => ErrorType::HttpStatus(u32::from(status)),
                Abort::Grpc(status) => ErrorType::GrpcStatus(status),
            }),
            percentage: Some(millionths(share)),
        }),
    }
}
