//! Who is asked about which requests (AuthorizationPolicy's CUSTOM), as Envoy says it: rules that only mark what they match,
//! and behind them the filter that asks about what is marked.

use std::sync::Arc;
use std::time::Duration;

use fairway_proto::envoy::core::HeaderValue as HeaderMessage;
use fairway_proto::envoy::core::grpc_service::TargetSpecifier;
use fairway_proto::envoy::ext_authz::ext_authz::Services;
use fairway_proto::envoy::ext_authz::{BufferSettings, ExtAuthz, HttpService};
use fairway_proto::envoy::http_rbac;
use fairway_proto::envoy::matcher::metadata_matcher::path_segment::Segment;
use fairway_proto::envoy::matcher::string_matcher::MatchPattern;
use fairway_proto::envoy::matcher::value_matcher::MatchPattern as ValuePattern;
use fairway_proto::envoy::matcher::{ListStringMatcher, MetadataMatcher};
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::duration;
use super::policy::{Rules, Verdict};
use super::route::{header_name, literal};
use super::text::Text;
use super::wrong::{Within, Wrong, all};

/// The filter that marks.
const MARKS: &str = "envoy.filters.http.rbac";
/// What it marks with, behind a prefix of its own.
const MARK: &str = "shadow_effective_policy_id";

/// Requests that somebody is asked about.
#[derive(Clone, Debug, PartialEq)]
pub struct Custom {
    /// Which requests: any rule may match.
    pub rules: Rules,
    /// Who is asked.
    pub authorizer: Authorizer,
}

/// Who is asked, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Authorizer {
    /// Where.
    pub cluster: Arc<str>,
    /// In which words.
    pub speech: Speech,
    /// An answer has to be there by then.
    pub timeout: Duration,
    /// Requests pass where there is no answer.
    pub fails_open: bool,
    /// The status where there is no answer, and requests do not pass.
    pub status_on_error: StatusCode,
    /// Whether the body is shown, too.
    pub body: Option<Shown>,
    /// Headers that are shown; none is all.
    pub headers: Option<Vec<Text>>,
}

/// How much of a request's body is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Bytes at most.
    pub most: usize,
    /// The beginning of a longer one is shown, which is refused otherwise.
    pub partial: bool,
    /// As bytes rather than as text.
    pub as_bytes: bool,
}

/// What is spoken.
#[derive(Clone, Debug, PartialEq)]
pub enum Speech {
    /// `envoy.service.auth.v3.Authorization`.
    Grpc,
    /// The request's own head is sent; 200 lets it pass.
    Http {
        /// Before the path.
        prefix: String,
        /// Said besides.
        add: Vec<(HeaderName, HeaderValue)>,
        /// Headers of an answer that the endpoint gets.
        onward: Vec<Text>,
        /// Headers of a refusal that the client gets; none is all.
        refused: Option<Vec<Text>>,
        /// Headers of an answer that the client gets with the endpoint's.
        passed: Vec<Text>,
    },
}

/// The rules that mark, and with what.
pub(super) fn marking(message: &http_rbac::Rbac) -> Result<(String, Rules), Wrong> {
    if message.rules.is_some() {
        return Err(Wrong::new("rules", "must not be there beside shadow_rules"));
    }
    let prefix = message.shadow_rules_stat_prefix.clone();
    if prefix.is_empty() {
        return Err(Wrong::missing("shadow_rules_stat_prefix"));
    }
    let rules = Rules::of(message.shadow_rules.as_ref()).within("shadow_rules")?;
    if rules.verdict != Verdict::Deny {
        return Err(Wrong::new("shadow_rules.action", "must be DENY"));
    }
    if rules.asks_for_claims() {
        return Err(Wrong::new("shadow_rules", "must not ask what tokens claim, which is found out later"));
    }
    Ok((prefix, rules))
}

/// Who is asked about what is marked with `prefix`.
pub(super) fn authorizer(message: &ExtAuthz, prefix: &str) -> Result<Authorizer, Wrong> {
    is_for_marked(message.filter_enabled_metadata.as_ref(), prefix).within("filter_enabled_metadata")?;
    let status = message.status_on_error.map_or(403, |status| status.code);
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.filter(|status| status.is_client_error() || status.is_server_error());
    let (cluster, speech, timeout) = match message.services.as_ref().ok_or_else(|| Wrong::missing("services"))? {
        Services::GrpcService(service) => {
            let Some(TargetSpecifier::EnvoyGrpc(target)) = &service.target_specifier else {
                return Err(Wrong::missing("grpc_service.envoy_grpc"));
            };
            (target.cluster_name.clone(), Speech::Grpc, (service.timeout, "grpc_service.timeout"))
        }
        Services::HttpService(service) => {
            let uri = service.server_uri.as_ref().ok_or_else(|| Wrong::missing("http_service.server_uri"))?;
            let speech = speech(service).within("http_service")?;
            (uri.cluster.clone(), speech, (uri.timeout, "http_service.server_uri.timeout"))
        }
    };
    let (timeout, field) = timeout;
    let timeout = duration(&timeout.ok_or_else(|| Wrong::missing(field))?).within(field)?;
    if cluster.is_empty() || timeout.is_zero() {
        return Err(Wrong::new(field, "must be more than nothing, as must be the cluster's name"));
    }
    if !message.clear_route_cache {
        return Err(Wrong::new("clear_route_cache", "must be true: routes are chosen afterwards"));
    }
    let headers = message.allowed_headers.as_ref().map(texts).transpose().within("allowed_headers")?;
    // Without a list, those that always are shown are all that an authorizer of HTTP sees.
    let headers = if speech == Speech::Grpc { headers } else { Some(headers.unwrap_or_default()) };
    Ok(Authorizer {
        cluster: cluster.as_str().into(),
        speech,
        timeout,
        fails_open: message.failure_mode_allow,
        status_on_error: status.ok_or_else(|| Wrong::new("status_on_error", "is no status of a refusal"))?,
        body: message.with_request_body.as_ref().map(shown),
        headers,
    })
}

fn is_for_marked(message: Option<&MetadataMatcher>, prefix: &str) -> Result<(), Wrong> {
    let message = message.ok_or_else(|| Wrong::here("is missing"))?;
    let path: Vec<&str> =
        message.path.iter().filter_map(|it| it.segment.as_ref().map(|Segment::Key(key)| key.as_str())).collect();
    let value = message.value.as_ref().and_then(|value| value.match_pattern.as_ref());
    let is_any = match value {
        Some(ValuePattern::StringMatch(text)) => matches!(&text.match_pattern, Some(MatchPattern::Prefix(_))),
        _ => false,
    };
    if message.filter != MARKS || path != [format!("{prefix}{MARK}")] || !is_any {
        return Err(Wrong::here(format!("must be what the filter before it marks with {prefix:?}")));
    }
    Ok(())
}

fn shown(message: &BufferSettings) -> Shown {
    Shown {
        most: usize::try_from(message.max_request_bytes).unwrap_or(usize::MAX),
        partial: message.allow_partial_message,
        as_bytes: message.pack_as_bytes,
    }
}

fn speech(message: &HttpService) -> Result<Speech, Wrong> {
    let add = message.authorization_request.as_ref().map(|request| &*request.headers_to_add).unwrap_or_default();
    let header =
        |header: &HeaderMessage| Ok((header_name(&header.key).within("key")?, literal(&header.value).within("value")?));
    let answer = message.authorization_response.clone().unwrap_or_default();
    let list = |field: &str, list: &Option<ListStringMatcher>| list.as_ref().map(texts).transpose().within(field);
    Ok(Speech::Http {
        prefix: message.path_prefix.clone(),
        add: all("authorization_request.headers_to_add", add, header)?,
        onward: list("authorization_response.allowed_upstream_headers", &answer.allowed_upstream_headers)?
            .unwrap_or_default(),
        refused: list("authorization_response.allowed_client_headers", &answer.allowed_client_headers)?,
        passed: list(
            "authorization_response.allowed_client_headers_on_success",
            &answer.allowed_client_headers_on_success,
        )?
        .unwrap_or_default(),
    })
}

fn texts(message: &ListStringMatcher) -> Result<Vec<Text>, Wrong> {
    all("patterns", &message.patterns, Text::of)
}

#[cfg(test)]
mod tests {
    use fairway_proto::envoy::ext_authz::AuthorizationRequest;

    use super::*;

    #[test]
    fn what_is_said_besides_is_a_format() {
        let with = |value: &str| {
            let headers_to_add = vec![HeaderMessage { key: "x-a".into(), value: value.into() }];
            let authorization_request = Some(AuthorizationRequest { headers_to_add });
            speech(&HttpService { authorization_request, ..HttpService::default() })
        };
        let Ok(Speech::Http { add, .. }) = with("100%%") else { panic!("two percent signs are one") };
        assert_eq!(add, [(HeaderName::from_static("x-a"), HeaderValue::from_static("100%"))]);
        assert!(with("%HOST%").is_err(), "commands are not supported");
    }
}
