//! Who is asked about which requests, in Envoy's words: rules that mark what they match, and a filter that asks about that.

use std::time::Duration;

use fairway_proto::envoy::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use fairway_proto::envoy::core::{ApiVersion, GrpcService, HeaderValue};
use fairway_proto::envoy::ext_authz::ext_authz::Services;
use fairway_proto::envoy::ext_authz::http_service::HttpUri;
use fairway_proto::envoy::ext_authz::{
    AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz, HttpService,
};
use fairway_proto::envoy::fraction::HttpStatus;
use fairway_proto::envoy::http_connection_manager::HttpFilter;
use fairway_proto::envoy::http_rbac;
use fairway_proto::envoy::matcher::metadata_matcher::PathSegment;
use fairway_proto::envoy::matcher::metadata_matcher::path_segment::Segment;
use fairway_proto::envoy::matcher::string_matcher::MatchPattern;
use fairway_proto::envoy::matcher::value_matcher::MatchPattern as ValuePattern;
use fairway_proto::envoy::matcher::{ListStringMatcher, MetadataMatcher, StringMatcher, ValueMatcher};

use super::super::authorizers::{Authorizer, Authorizers, Speech};
use super::super::authz::{Pattern, Policy, Verdict};
use super::listener::http_filter;
use super::rbac::marks;
use super::route::regex;
use super::{any, duration};

const EXT_AUTHZ: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
const HTTP_RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
/// What rules that mark are called, so that there is something that all of them begin with.
const CUSTOM: &str = "custom/";

/// Two filters for each provider that policies name and that is known.
pub(super) fn filters(policies: &[&Policy], authorizers: &Authorizers) -> Vec<HttpFilter> {
    let mut filters = Vec::new();
    for (index, (name, authorizer)) in authorizers.iter().enumerate() {
        let meant = policies.iter().filter(|policy| policy.verdict == Verdict::Custom(name.clone()));
        let rules = marks(meant.copied(), CUSTOM);
        if rules.policies.is_empty() {
            continue;
        }
        let prefix = format!("custom_{index}_");
        let marking = http_rbac::Rbac {
            shadow_rules: Some(rules),
            shadow_rules_stat_prefix: prefix.clone(),
            ..http_rbac::Rbac::default()
        };
        filters.push(http_filter(&format!("envoy.filters.http.rbac/{name}"), any(HTTP_RBAC, &marking)));
        let asking = asking(authorizer, &prefix);
        filters.push(http_filter(&format!("envoy.filters.http.ext_authz/{name}"), any(EXT_AUTHZ, &asking)));
    }
    filters
}

fn asking(authorizer: &Authorizer, prefix: &str) -> ExtAuthz {
    let marked = MetadataMatcher {
        filter: "envoy.filters.http.rbac".to_owned(),
        path: vec![PathSegment { segment: Some(Segment::Key(format!("{prefix}shadow_effective_policy_id"))) }],
        value: Some(ValueMatcher {
            match_pattern: Some(ValuePattern::StringMatch(StringMatcher {
                match_pattern: Some(MatchPattern::Prefix(CUSTOM.to_owned())),
                ignore_case: false,
            })),
        }),
    };
    let shown = match &authorizer.speech {
        Speech::Http { shown, .. } => list(shown),
        Speech::Grpc => None,
    };
    ExtAuthz {
        services: Some(service(authorizer)),
        failure_mode_allow: authorizer.fails_open,
        clear_route_cache: true,
        with_request_body: authorizer.body.map(|body| BufferSettings {
            max_request_bytes: body.max_request_bytes,
            allow_partial_message: body.allow_partial_message,
            pack_as_bytes: body.pack_as_bytes,
        }),
        status_on_error: Some(HttpStatus { code: i32::from(authorizer.status) }),
        transport_api_version: ApiVersion::V3.into(),
        filter_enabled_metadata: Some(marked),
        allowed_headers: shown,
    }
}

fn service(authorizer: &Authorizer) -> Services {
    let cluster = authorizer.target.to_string();
    let timeout: Option<Duration> = Some(authorizer.timeout);
    let Speech::Http { prefix, added, onward, refused, passed, .. } = &authorizer.speech else {
        let target = EnvoyGrpc { cluster_name: cluster };
        return Services::GrpcService(GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)),
            timeout: timeout.map(duration),
        });
    };
    let headers = added.iter().map(|(key, value)| HeaderValue { key: key.clone(), value: value.replace('%', "%%") });
    let headers: Vec<_> = headers.collect();
    let uri = format!("http://{}:{}", authorizer.target.hostname, authorizer.target.port);
    Services::HttpService(HttpService {
        server_uri: Some(HttpUri { uri, cluster, timeout: timeout.map(duration) }),
        path_prefix: prefix.clone(),
        authorization_request: (!headers.is_empty()).then_some(AuthorizationRequest { headers_to_add: headers }),
        authorization_response: Some(AuthorizationResponse {
            allowed_upstream_headers: list(onward),
            allowed_client_headers: list(refused),
            allowed_client_headers_on_success: list(passed),
        }),
    })
}

fn list(patterns: &[Pattern]) -> Option<ListStringMatcher> {
    let matcher = |pattern: &Pattern| {
        let pattern = match pattern {
            Pattern::Exact(text) => MatchPattern::Exact(text.clone()),
            Pattern::Prefix(text) => MatchPattern::Prefix(text.clone()),
            Pattern::Suffix(text) => MatchPattern::Suffix(text.clone()),
            Pattern::Regex(text) => MatchPattern::SafeRegex(regex(text)),
        };
        StringMatcher { match_pattern: Some(pattern), ignore_case: true }
    };
    (!patterns.is_empty()).then(|| ListStringMatcher { patterns: patterns.iter().map(matcher).collect() })
}
