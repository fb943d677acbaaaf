//! Rate limits in Envoy's words: the listener has the buckets, routes say what requests are counted by.

use fairway_proto::envoy::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use fairway_proto::envoy::core::{ApiVersion, GrpcService, RuntimeFractionalPercent};
use fairway_proto::envoy::fraction::HttpStatus;
use fairway_proto::envoy::http_connection_manager::HttpFilter;
use fairway_proto::envoy::local_ratelimit::LocalRateLimit;
use fairway_proto::envoy::rate_limit_descriptor::rate_limit_descriptor::Entry;
use fairway_proto::envoy::rate_limit_descriptor::{
    LocalRateLimitDescriptor, VhRateLimitsOptions, XRateLimitHeadersRfcVersion,
};
use fairway_proto::envoy::rate_limit_service::RateLimitServiceConfig;
use fairway_proto::envoy::ratelimit::RateLimit as Asking;
use fairway_proto::envoy::ratelimit::rate_limit::XRateLimitHeadersRfcVersion as Headers;
use fairway_proto::envoy::route::RateLimit;
use fairway_proto::envoy::route::rate_limit::Action;
use fairway_proto::envoy::route::rate_limit::action::{ActionSpecifier, GenericKey, RemoteAddress, RequestHeaders};
use fairway_proto::envoy::token_bucket::TokenBucket;

use super::super::providers::Limiter;
use super::super::rates::{ADDRESS, By, CLIENT_HEADER, Counted, Limit, Policy};
use super::listener::http_filter;
use super::route::millionths;
use super::{any, duration};

const RATE_LIMIT: &str = "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit";
const LOCAL_RATE_LIMIT: &str = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
/// All of a million.
const ALL: u32 = 1_000_000;
/// What tells limits apart.
const LIMIT: &str = "limit";
/// Whose actions of routes are meant for who counts for several proxies; those without are for the proxy's own buckets.
const STAGE: u32 = 1;
/// Values for which Envoy keeps buckets; ours has a bound of its own.
const MOST_VALUES: u32 = 10_000;
/// Requests that no limit is about cost a token of this one; Envoy wants it, and periods that are multiples of its own.
const UNLIMITED: TokenBucket = TokenBucket {
    max_tokens: u32::MAX,
    tokens_per_fill: Some(u32::MAX),
    fill_interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
};

/// The filter with the buckets of these, each there once.
pub(super) fn filter(name: &str, policies: &[&Policy]) -> Option<HttpFilter> {
    let mut descriptors: Vec<LocalRateLimitDescriptor> = Vec::new();
    let mut limits: Vec<&Limit> = policies.iter().flat_map(|policy| &policy.limits).collect();
    limits.sort_by(|one, other| one.name.cmp(&other.name));
    limits.dedup_by(|one, other| one.name == other.name);
    for limit in &limits {
        let keys = limit.by.iter().map(|by| Entry { key: key(by).to_owned(), value: String::new() });
        let own = Entry { key: LIMIT.to_owned(), value: limit.name.clone() };
        let bucket = TokenBucket {
            max_tokens: limit.burst,
            tokens_per_fill: Some(limit.requests),
            fill_interval: Some(duration(limit.period)),
        };
        descriptors.push(LocalRateLimitDescriptor {
            entries: [own].into_iter().chain(keys).collect(),
            token_bucket: Some(bucket),
        });
    }
    if descriptors.is_empty() {
        return None;
    }
    let always = || Some(RuntimeFractionalPercent { default_value: Some(millionths(ALL)) });
    let has_values = limits.iter().any(|limit| !limit.by.is_empty());
    let config = LocalRateLimit {
        stat_prefix: name.to_owned(),
        token_bucket: Some(UNLIMITED),
        filter_enabled: always(),
        filter_enforced: always(),
        descriptors,
        enable_x_ratelimit_headers: XRateLimitHeadersRfcVersion::DraftVersion03.into(),
        vh_rate_limits: VhRateLimitsOptions::Include.into(),
        always_consume_default_token_bucket: Some(false),
        rate_limited_as_resource_exhausted: true,
        max_dynamic_descriptors: has_values.then_some(MOST_VALUES),
    };
    Some(http_filter("envoy.filters.http.local_ratelimit", any(LOCAL_RATE_LIMIT, &config)))
}

/// The filter that asks who counts for several proxies.
pub(super) fn asking(limiter: &Limiter) -> HttpFilter {
    let target = EnvoyGrpc { cluster_name: limiter.target.to_string() };
    let service = GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)), timeout: None };
    let config = Asking {
        domain: limiter.domain.clone(),
        stage: STAGE,
        timeout: Some(duration(limiter.timeout)),
        failure_mode_deny: !limiter.fails_open,
        rate_limited_as_resource_exhausted: true,
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(service),
            transport_api_version: ApiVersion::V3.into(),
        }),
        enable_x_ratelimit_headers: Headers::DraftVersion03.into(),
        // What it says, the status does.
        disable_x_envoy_ratelimited_header: true,
        status_on_error: Some(HttpStatus { code: i32::from(limiter.status) }),
    };
    http_filter("envoy.filters.http.ratelimit", any(RATE_LIMIT, &config))
}

/// What requests are counted by for the limits of these, and what `provider` is asked about.
pub(super) fn counted(policies: &[&Policy], provider: Option<&str>) -> Vec<RateLimit> {
    let action = |specifier| Action { action_specifier: Some(specifier) };
    let limits = policies.iter().flat_map(|policy| &policy.limits);
    let own = limits.map(|limit| {
        let own = GenericKey { descriptor_key: LIMIT.to_owned(), descriptor_value: limit.name.clone() };
        let by = limit.by.iter().map(|by| requests(key(by), by));
        let actions = [ActionSpecifier::GenericKey(own)].into_iter().chain(by).map(action).collect();
        RateLimit { stage: None, actions }
    });
    let globals = policies.iter().filter_map(|policy| policy.global.as_ref());
    let asked = globals.filter(|global| provider == Some(global.provider.as_str()));
    let asked = asked.flat_map(|global| &global.descriptors).map(|entries| {
        let specifier = |(key, from): &(String, Counted)| match from {
            Counted::Fixed(value) => {
                ActionSpecifier::GenericKey(GenericKey { descriptor_key: key.clone(), descriptor_value: value.clone() })
            }
            Counted::Request(by) => requests(key, by),
        };
        RateLimit { stage: Some(STAGE), actions: entries.iter().map(specifier).map(action).collect() }
    });
    own.chain(asked).collect()
}

fn requests(key: &str, by: &By) -> ActionSpecifier {
    match by {
        By::Client => header(CLIENT_HEADER, key),
        By::Header(name) => header(name, key),
        By::Address => ActionSpecifier::RemoteAddress(RemoteAddress {}),
    }
}

fn header(name: &str, key: &str) -> ActionSpecifier {
    ActionSpecifier::RequestHeaders(RequestHeaders { header_name: name.to_owned(), descriptor_key: key.to_owned() })
}

fn key(by: &By) -> &str {
    match by {
        By::Client => "client",
        By::Address => ADDRESS,
        By::Header(name) => name,
    }
}
