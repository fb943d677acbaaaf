//! Who counts requests for several proxies, and what holds where nobody answers.

use std::sync::Arc;
use std::time::Duration;

use fairway_proto::envoy::ratelimit::RateLimit as Message;
use fairway_proto::envoy::ratelimit::rate_limit::XRateLimitHeadersRfcVersion;
use http::StatusCode;

use super::duration;
use super::trace::called;
use super::wrong::{Within, Wrong};

/// The actions of routes that are meant, as those of stage 0 are for the buckets of the proxy itself.
pub(super) const STAGE: u32 = 1;
/// The status where nobody answers, where the resource does not say; Envoy's default.
const STATUS: i32 = 500;

/// A service of Envoy's for rate limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limiter {
    /// Where.
    pub cluster: Arc<str>,
    /// What its limits are said for.
    pub domain: String,
    /// An answer has to be there by then.
    pub timeout: Duration,
    /// The status where there is none; requests pass if it is none.
    pub status_on_error: Option<StatusCode>,
}

impl Limiter {
    pub(super) fn of(message: &Message) -> Result<Self, Wrong> {
        if message.stage != STAGE {
            return Err(Wrong::new("stage", format!("must be {STAGE}")));
        }
        if message.enable_x_ratelimit_headers() != XRateLimitHeadersRfcVersion::DraftVersion03 {
            return Err(Wrong::new("enable_x_ratelimit_headers", "must be DRAFT_VERSION_03"));
        }
        if !message.rate_limited_as_resource_exhausted {
            return Err(Wrong::new("rate_limited_as_resource_exhausted", "must be true"));
        }
        if !message.disable_x_envoy_ratelimited_header {
            return Err(Wrong::new("disable_x_envoy_ratelimited_header", "must be true"));
        }
        if message.domain.is_empty() {
            return Err(Wrong::missing("domain"));
        }
        let service = message.rate_limit_service.as_ref().and_then(|service| service.grpc_service.as_ref());
        let timeout = duration(&message.timeout.ok_or_else(|| Wrong::missing("timeout"))?).within("timeout")?;
        if timeout.is_zero() {
            return Err(Wrong::new("timeout", "must be more than nothing"));
        }
        let status = message.status_on_error.map_or(STATUS, |status| status.code);
        let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.filter(|status| status.is_client_error() || status.is_server_error());
        let status = status.ok_or_else(|| Wrong::new("status_on_error", "is no status of a refusal"))?;
        Ok(Self {
            cluster: called(service).within("rate_limit_service.grpc_service")?,
            domain: message.domain.clone(),
            timeout,
            status_on_error: message.failure_mode_deny.then_some(status),
        })
    }
}

#[cfg(test)]
mod tests {
    use fairway_proto::envoy::core::GrpcService;
    use fairway_proto::envoy::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    use fairway_proto::envoy::fraction::HttpStatus;
    use fairway_proto::envoy::rate_limit_service::RateLimitServiceConfig;

    use super::*;

    fn read(change: impl FnOnce(&mut Message)) -> Result<Limiter, String> {
        let target = EnvoyGrpc { cluster_name: "limiter:8081".into() };
        let service = GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)), timeout: None };
        let service = RateLimitServiceConfig { grpc_service: Some(service), ..RateLimitServiceConfig::default() };
        let mut message = Message {
            domain: "shop".into(),
            stage: STAGE,
            timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            rate_limited_as_resource_exhausted: true,
            rate_limit_service: Some(service),
            disable_x_envoy_ratelimited_header: true,
            ..Message::default()
        };
        message.set_enable_x_ratelimit_headers(XRateLimitHeadersRfcVersion::DraftVersion03);
        change(&mut message);
        Limiter::of(&message).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn requests_pass_without_an_answer_unless_the_provider_says_otherwise() {
        assert_eq!(read(|_| {}).unwrap().status_on_error, None);
        let denies = |status: Option<i32>| {
            read(|message| {
                message.failure_mode_deny = true;
                message.status_on_error = status.map(|code| HttpStatus { code });
            })
        };
        assert_eq!(denies(None).unwrap().status_on_error, Some(StatusCode::INTERNAL_SERVER_ERROR));
        assert_eq!(denies(Some(503)).unwrap().status_on_error, Some(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(denies(Some(200)).unwrap_err(), "status_on_error: is no status of a refusal");
    }

    #[test]
    fn what_is_missing_or_another_is_named() {
        let rows = [
            (read(|message| message.stage = 0), "stage: must be 1"),
            (read(|message| message.domain.clear()), "domain: is missing"),
            (read(|message| message.timeout = None), "timeout: is missing"),
            (read(|message| message.timeout = Some(Default::default())), "timeout: must be more than nothing"),
            (
                read(|message| message.rate_limit_service = None),
                "rate_limit_service.grpc_service.envoy_grpc: is missing",
            ),
            (
                read(|message| message.enable_x_ratelimit_headers = 0),
                "enable_x_ratelimit_headers: must be DRAFT_VERSION_03",
            ),
            (
                read(|message| message.rate_limited_as_resource_exhausted = false),
                "rate_limited_as_resource_exhausted: must be true",
            ),
            (
                read(|message| message.disable_x_envoy_ratelimited_header = false),
                "disable_x_envoy_ratelimited_header: must be true",
            ),
        ];
        for (read, expected) in rows {
            assert_eq!(read.unwrap_err(), expected);
        }
    }
}
