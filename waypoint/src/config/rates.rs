//! How many requests may pass, and what they are counted by.

use std::time::Duration;

use fairway_proto::envoy::core::RuntimeFractionalPercent;
use fairway_proto::envoy::local_ratelimit::LocalRateLimit;
use fairway_proto::envoy::rate_limit_descriptor::rate_limit_descriptor::Entry;
use fairway_proto::envoy::rate_limit_descriptor::{
    LocalRateLimitDescriptor, VhRateLimitsOptions, XRateLimitHeadersRfcVersion,
};
use fairway_proto::envoy::route::RateLimit;
use fairway_proto::envoy::route::rate_limit::Action;
use fairway_proto::envoy::route::rate_limit::action::ActionSpecifier;
use fairway_proto::envoy::token_bucket::TokenBucket;
use http::header::HeaderName;

use super::limiter::STAGE;
use super::route::header_name;
use super::wrong::{Within, Wrong, all};
use super::{MILLION, duration, per_million};

/// The shortest time between two fills that Envoy takes.
const SHORTEST_FILL: Duration = Duration::from_millis(50);
/// The longest one that times are reckoned with here; a century and more.
const LONGEST_FILL: Duration = Duration::from_secs(1 << 32);
/// What Envoy calls a client's address among what requests are counted by.
const ADDRESS: &str = "remote_address";

/// Limits of one listener, of which every one that is about a request must let it pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// The limits.
    pub limits: Vec<Rate>,
}

/// So many requests in so much time.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate {
    /// What a request is about that this limits: the same keys in this order, and values where there are any. Each
    /// combination of others is counted by itself.
    pub entries: Vec<(String, Option<String>)>,
    /// How many.
    pub bucket: Bucket,
}

/// How often something may happen: a bucket of tokens that is full at first and fills evenly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Tokens at most.
    pub most: u32,
    /// Tokens that come in `interval`.
    pub fill: u32,
    /// See `fill`.
    pub interval: Duration,
}

/// What requests are counted by: one value for each key, or not at all where one is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counting {
    /// Keys, and where their values are from.
    pub keys: Vec<(String, Value)>,
    /// Whether somebody else counts them for several proxies, rather than we.
    pub is_shared: bool,
}

/// Where a value is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// This one.
    Fixed(String),
    /// A header.
    Header(HeaderName),
    /// Whom the client has proved to be.
    Client,
    /// Where the client is.
    Address,
}

/// The header by which other proxies know who the client is; here nothing that a client says.
const CLIENT: &str = "x-forwarded-client-cert";

impl Rates {
    pub(super) fn of(message: &LocalRateLimit) -> Result<Self, Wrong> {
        // Envoy's defaults are to count and to let pass.
        for (field, share) in
            [("filter_enabled", &message.filter_enabled), ("filter_enforced", &message.filter_enforced)]
        {
            if !is_always(share.as_ref()) {
                return Err(Wrong::new(field, "must be all requests"));
            }
        }
        if message.always_consume_default_token_bucket != Some(false) {
            return Err(Wrong::new("always_consume_default_token_bucket", "must be false"));
        }
        if message.vh_rate_limits() != VhRateLimitsOptions::Include {
            return Err(Wrong::new("vh_rate_limits", "must be INCLUDE"));
        }
        if message.enable_x_ratelimit_headers() != XRateLimitHeadersRfcVersion::DraftVersion03 {
            return Err(Wrong::new("enable_x_ratelimit_headers", "must be DRAFT_VERSION_03"));
        }
        if !message.rate_limited_as_resource_exhausted {
            return Err(Wrong::new("rate_limited_as_resource_exhausted", "must be true"));
        }
        Ok(Self { limits: all("descriptors", &message.descriptors, rate)? })
    }
}

fn is_always(share: Option<&RuntimeFractionalPercent>) -> bool {
    share.and_then(|share| share.default_value.as_ref()).is_some_and(|share| per_million(share) == MILLION)
}

fn rate(message: &LocalRateLimitDescriptor) -> Result<Rate, Wrong> {
    let entry = |entry: &Entry| {
        let value = Some(entry.value.clone()).filter(|value| !value.is_empty());
        if entry.key.is_empty() { Err(Wrong::missing("key")) } else { Ok((entry.key.clone(), value)) }
    };
    let entries = all("entries", &message.entries, entry)?;
    if entries.is_empty() {
        return Err(Wrong::missing("entries"));
    }
    let bucket = message.token_bucket.as_ref().ok_or_else(|| Wrong::missing("token_bucket"))?;
    Ok(Rate { entries, bucket: self::bucket(bucket).within("token_bucket")? })
}

fn bucket(message: &TokenBucket) -> Result<Bucket, Wrong> {
    let interval = message.fill_interval.as_ref().ok_or_else(|| Wrong::missing("fill_interval"))?;
    let interval = duration(interval).within("fill_interval")?;
    if interval < SHORTEST_FILL {
        return Err(Wrong::new("fill_interval", format!("must be {SHORTEST_FILL:?} at least")));
    }
    if interval > LONGEST_FILL {
        return Err(Wrong::new("fill_interval", format!("must be {LONGEST_FILL:?} at most")));
    }
    let (most, fill) = (message.max_tokens, message.tokens_per_fill.unwrap_or(1));
    if most == 0 || fill == 0 {
        return Err(Wrong::new(if most == 0 { "max_tokens" } else { "tokens_per_fill" }, "must be 1 at least"));
    }
    Ok(Bucket { most, fill, interval })
}

/// What a route or a host says that requests are counted by.
pub(super) fn counting(message: &RateLimit) -> Result<Counting, Wrong> {
    if message.actions.is_empty() {
        return Err(Wrong::missing("actions"));
    }
    let is_shared = match message.stage {
        None | Some(0) => false,
        Some(STAGE) => true,
        Some(_) => return Err(Wrong::new("stage", format!("must be 0 or {STAGE}"))),
    };
    Ok(Counting { keys: all("actions", &message.actions, key)?, is_shared })
}

fn key(message: &Action) -> Result<(String, Value), Wrong> {
    let named = |field: &str, key: &String| {
        if key.is_empty() { Err(Wrong::missing(field)) } else { Ok(key.clone()) }
    };
    Ok(match message.action_specifier.as_ref().ok_or_else(|| Wrong::missing("action_specifier"))? {
        ActionSpecifier::GenericKey(fixed) => {
            let value = named("generic_key.descriptor_value", &fixed.descriptor_value)?;
            (named("generic_key.descriptor_key", &fixed.descriptor_key)?, Value::Fixed(value))
        }
        ActionSpecifier::RemoteAddress(_) => (ADDRESS.to_owned(), Value::Address),
        ActionSpecifier::RequestHeaders(header) => {
            let name = header_name(&header.header_name).within("request_headers.header_name")?;
            let value = if name == CLIENT { Value::Client } else { Value::Header(name) };
            (named("request_headers.descriptor_key", &header.descriptor_key)?, value)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_fill_neither_too_fast_nor_beyond_all_reckoning() {
        let with = |seconds, nanos| {
            let fill_interval = Some(prost_types::Duration { seconds, nanos });
            bucket(&TokenBucket { max_tokens: 1, tokens_per_fill: None, fill_interval }).is_ok()
        };
        let rows = [(0, 49_999_999), (0, 50_000_000), (1 << 32, 0), (1 << 32, 1), (i64::MAX, 0)];
        assert_eq!(rows.map(|(seconds, nanos)| with(seconds, nanos)), [false, true, true, false, false]);
    }
}
