//! Rate limits in Envoy's words: the listener has the buckets, routes say what requests are counted by.

use fairway_proto::envoy::core::RuntimeFractionalPercent;
use fairway_proto::envoy::http_connection_manager::HttpFilter;
use fairway_proto::envoy::local_ratelimit::LocalRateLimit;
use fairway_proto::envoy::rate_limit_descriptor::rate_limit_descriptor::Entry;
use fairway_proto::envoy::rate_limit_descriptor::{
    LocalRateLimitDescriptor, VhRateLimitsOptions, XRateLimitHeadersRfcVersion,
};
use fairway_proto::envoy::route::RateLimit;
use fairway_proto::envoy::route::rate_limit::Action;
use fairway_proto::envoy::route::rate_limit::action::{ActionSpecifier, GenericKey, RemoteAddress, RequestHeaders};
use fairway_proto::envoy::token_bucket::TokenBucket;

use super::super::rates::{By, CLIENT_HEADER, Limit, Policy};
use super::listener::http_filter;
use super::route::millionths;
use super::{any, duration};

const LOCAL_RATE_LIMIT: &str = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
/// All of a million.
const ALL: u32 = 1_000_000;
/// What tells limits apart.
const LIMIT: &str = "limit";
/// What Envoy calls the client's address.
const ADDRESS: &str = "remote_address";
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

/// What requests are counted by for the limits of these.
pub(super) fn counted<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Vec<RateLimit> {
    let limits = policies.into_iter().flat_map(|policy| &policy.limits);
    let action = |specifier| Action { action_specifier: Some(specifier) };
    let counted = limits.map(|limit| {
        let own = GenericKey { descriptor_key: LIMIT.to_owned(), descriptor_value: limit.name.clone() };
        let by = limit.by.iter().map(|by| match by {
            By::Client => header(CLIENT_HEADER, by),
            By::Header(name) => header(name, by),
            By::Address => ActionSpecifier::RemoteAddress(RemoteAddress {}),
        });
        RateLimit { actions: [ActionSpecifier::GenericKey(own)].into_iter().chain(by).map(action).collect() }
    });
    counted.collect()
}

fn header(name: &str, by: &By) -> ActionSpecifier {
    ActionSpecifier::RequestHeaders(RequestHeaders { header_name: name.to_owned(), descriptor_key: key(by).to_owned() })
}

fn key(by: &By) -> &str {
    match by {
        By::Client => "client",
        By::Address => ADDRESS,
        By::Header(name) => name,
    }
}
