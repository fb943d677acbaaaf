//! Which requests go where.

use std::time::Duration;

use bytes::Bytes;
use fairway_proto::envoy::core::HeaderValueOption;
use fairway_proto::envoy::core::data_source::Specifier;
use fairway_proto::envoy::core::header_value_option::HeaderAppendAction;
use fairway_proto::envoy::matcher::FilterStateMatcher;
use fairway_proto::envoy::matcher::filter_state_matcher::Matcher as FilterState;
use fairway_proto::envoy::route::header_matcher::HeaderMatchSpecifier;
use fairway_proto::envoy::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use fairway_proto::envoy::route::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use fairway_proto::envoy::route::route::Action as ActionMessage;
use fairway_proto::envoy::route::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HashPolicy, HostRewriteSpecifier, RequestMirrorPolicy,
    hash_policy::PolicySpecifier,
};
use fairway_proto::envoy::route::route_match::PathSpecifier;
use fairway_proto::envoy::route::{
    DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, RetryPolicy, Route as RouteMessage,
    RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use prost::Message;

use super::per_route::per_route;
use super::rates::counting;
use super::text::{Text, pattern, whole};
use super::wrong::{Within, Wrong, all};
use super::{
    Action, Backend, Edits, Forward, HashBy, Header, HeaderMatch, Host, MILLION, Manner, Match, Mirror, PathMatch,
    PathRewrite, Put, Redirect, RedirectPath, Retry, Route, Table, Weighted, Without, duration, fields, per_million,
};

/// Where a route says nothing of it; Envoy's default.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Before the first repetition where the route says nothing of it; Envoy's default.
const BACK_OFF: Duration = Duration::from_millis(25);
/// Longest time before a repetition, in times of the first; Envoy's default.
const BACK_OFF_GROWTH: u32 = 10;
/// What is known of a connection that routes may ask for: the namespace of its client.
const PEER_NAMESPACE: &str = "fairway.peer.namespace";
/// Statuses of gRPC that a route may name.
const GRPC_STATUSES: [(&str, u32); 5] =
    [("cancelled", 1), ("deadline-exceeded", 4), ("resource-exhausted", 8), ("internal", 13), ("unavailable", 14)];

/// Reads a `RouteConfiguration`.
///
/// # Errors
/// The field that cannot be used.
pub fn table(bytes: &[u8]) -> Result<Table, Wrong> {
    fields::check("envoy.config.route.v3.RouteConfiguration", bytes)?;
    let message = RouteConfiguration::decode(bytes).map_err(|error| Wrong::here(error.to_string()))?;
    let host = |host: &VirtualHost| -> Result<_, Wrong> {
        for (index, domain) in host.domains.iter().enumerate() {
            if domain.contains('*') && domain != "*" {
                return Err(Wrong::new(format!("domains[{index}]"), "a part of a name is not supported"));
            }
        }
        let domains = host.domains.iter().map(|domain| domain.to_ascii_lowercase()).collect();
        let counted = all("rate_limits", &host.rate_limits, counting)?;
        Ok(Host { domains, routes: all("routes", &host.routes, route)?, counted })
    };
    Ok(Table { hosts: all("virtual_hosts", &message.virtual_hosts, host)? })
}

fn route(message: &RouteMessage) -> Result<Route, Wrong> {
    let matching = message.r#match.as_ref().ok_or_else(|| Wrong::missing("match"))?;
    let action = match message.action.as_ref().ok_or_else(|| Wrong::missing("action"))? {
        ActionMessage::Route(action) => Action::Forward(Box::new(forward(action).within("route")?)),
        ActionMessage::Redirect(action) => Action::Redirect(redirect(action).within("redirect")?),
        ActionMessage::DirectResponse(action) => reply(action).within("direct_response")?,
    };
    let matching = matches(matching).within("match")?;
    if let (PathMatch::Connect, Action::Forward(forward)) = (&matching.path, &action) {
        leaves_target(forward).within("route")?;
    }
    Ok(Route {
        name: message.name.clone(),
        matching,
        action,
        request: edits("request", &message.request_headers_to_add, &message.request_headers_to_remove)?,
        response: edits("response", &message.response_headers_to_add, &message.response_headers_to_remove)?,
        before: per_route(&message.typed_per_filter_config)?,
    })
}

fn matches(message: &RouteMatch) -> Result<Match, Wrong> {
    let path = match message.path_specifier.as_ref().ok_or_else(|| Wrong::missing("path_specifier"))? {
        PathSpecifier::Prefix(prefix) => PathMatch::Prefix(prefix.clone()),
        PathSpecifier::Path(path) => PathMatch::Exact(path.clone()),
        PathSpecifier::SafeRegex(regex) => PathMatch::Regex(whole(regex).within("safe_regex")?),
        PathSpecifier::ConnectMatcher(_) => PathMatch::Connect,
    };
    let parameter = |message: &QueryParameterMatcher| {
        let Some(QueryParameterMatchSpecifier::StringMatch(text)) = &message.query_parameter_match_specifier else {
            return Err(Wrong::missing("string_match"));
        };
        Ok((message.name.clone(), Text::of(text).within("string_match")?))
    };
    let state = |message: &FilterStateMatcher| {
        if message.key != PEER_NAMESPACE {
            return Err(Wrong::new("key", format!("must be {PEER_NAMESPACE}")));
        }
        let Some(FilterState::StringMatch(text)) = &message.matcher else { return Err(Wrong::missing("string_match")) };
        Text::of(text).within("string_match")
    };
    let (mut headers, mut without) = (Vec::new(), Vec::new());
    for read in all("headers", &message.headers, wanted)? {
        match read {
            Wanted::Has(header) => headers.push(header),
            Wanted::Without(header) => without.push(header),
        }
    }
    Ok(Match {
        path,
        any_case: message.case_sensitive == Some(false),
        headers,
        without,
        query: all("query_parameters", &message.query_parameters, parameter)?,
        namespace: all("filter_state", &message.filter_state, state)?,
    })
}

/// What is asked of a header.
enum Wanted {
    Has(HeaderMatch),
    Without(Without),
}

fn wanted(message: &HeaderMatcher) -> Result<Wanted, Wrong> {
    if !message.invert_match {
        return header(message).map(Wanted::Has);
    }
    let value = match &message.header_match_specifier {
        Some(HeaderMatchSpecifier::PresentMatch(true)) => None,
        Some(HeaderMatchSpecifier::PresentMatch(false)) => return Err(Wrong::new("present_match", "must be true")),
        // Envoy would not take one that is not there for one that is without the value.
        Some(HeaderMatchSpecifier::StringMatch(_)) if !message.treat_missing_header_as_empty => {
            return Err(Wrong::new("treat_missing_header_as_empty", "must be true beside invert_match"));
        }
        Some(HeaderMatchSpecifier::StringMatch(text)) => Some(Text::of(text).within("string_match")?),
        None => return Err(Wrong::missing("string_match")),
    };
    Ok(Wanted::Without(Without { name: of_header(&message.name)?, value }))
}

/// A header to compare with.
pub(super) fn header(message: &HeaderMatcher) -> Result<HeaderMatch, Wrong> {
    let Some(HeaderMatchSpecifier::StringMatch(text)) = &message.header_match_specifier else {
        return Err(Wrong::missing("string_match"));
    };
    if message.invert_match || message.treat_missing_header_as_empty {
        return Err(Wrong::new("invert_match", "is only for headers of routes, with treat_missing_header_as_empty"));
    }
    Ok(HeaderMatch { name: of_header(&message.name)?, value: Text::of(text).within("string_match")? })
}

fn of_header(name: &str) -> Result<Header, Wrong> {
    Ok(match name {
        ":method" => Header::Method,
        ":authority" | "host" | "Host" => Header::Authority,
        ":path" => Header::Path,
        ":scheme" => Header::Scheme,
        name => Header::Named(header_name(name).within("name")?),
    })
}

pub(super) fn header_name(name: &str) -> Result<HeaderName, Wrong> {
    HeaderName::try_from(name).map_err(|_| Wrong::here(format!("{name:?} is no name of a header")))
}

/// `which` is `request` or `response`.
fn edits(which: &str, add: &[HeaderValueOption], remove: &[String]) -> Result<Edits, Wrong> {
    let name = |name: &String| header_name(name);
    Ok(Edits {
        remove: all(&format!("{which}_headers_to_remove"), remove, name)?,
        put: all(&format!("{which}_headers_to_add"), add, put)?,
    })
}

fn put(message: &HeaderValueOption) -> Result<Put, Wrong> {
    let header = message.header.as_ref().ok_or_else(|| Wrong::missing("header"))?;
    if header.value.is_empty() && !message.keep_empty_value {
        return Err(Wrong::new("keep_empty_value", "must be true where the value is empty"));
    }
    let manner = match HeaderAppendAction::try_from(message.append_action) {
        Ok(HeaderAppendAction::AppendIfExistsOrAdd) => Manner::Append,
        Ok(HeaderAppendAction::AddIfAbsent) => Manner::AddIfAbsent,
        Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) => Manner::Overwrite,
        Ok(HeaderAppendAction::OverwriteIfExists) => Manner::OverwriteIfPresent,
        Err(_) => return Err(Wrong::new("append_action", "is unknown")),
    };
    Ok(Put {
        name: header_name(&header.key).within("header.key")?,
        value: literal(&header.value).within("header.value")?,
        manner,
    })
}

/// A value is a format, in which a percent sign begins a command unless there are two.
pub(super) fn literal(format: &str) -> Result<HeaderValue, Wrong> {
    let text = format.replace("%%", "\u{0}");
    if text.contains('%') {
        return Err(Wrong::here("commands (%…%) are not supported"));
    }
    HeaderValue::try_from(text.replace('\u{0}', "%")).map_err(|_| Wrong::here("is no value of a header"))
}

fn forward(message: &RouteAction) -> Result<Forward, Wrong> {
    let plain = |name: &str| Backend { cluster: name.into(), request: Edits::default(), response: Edits::default() };
    let backends = match message.cluster_specifier.as_ref().ok_or_else(|| Wrong::missing("cluster"))? {
        ClusterSpecifier::Cluster(name) => vec![(1, plain(name))],
        ClusterSpecifier::WeightedClusters(several) => {
            all("weighted_clusters.clusters", &several.clusters, |cluster| {
                let backend = Backend {
                    cluster: cluster.name.as_str().into(),
                    request: edits("request", &cluster.request_headers_to_add, &cluster.request_headers_to_remove)?,
                    response: edits("response", &cluster.response_headers_to_add, &cluster.response_headers_to_remove)?,
                };
                Ok((cluster.weight.unwrap_or_default(), backend))
            })?
        }
    };
    let no_weight = || Wrong::new("weighted_clusters", "have no weight");
    let no_cluster = match message.cluster_not_found_response_code() {
        ClusterNotFoundResponseCode::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        ClusterNotFoundResponseCode::NotFound => StatusCode::NOT_FOUND,
        ClusterNotFoundResponseCode::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let path = match (&*message.prefix_rewrite, &message.regex_rewrite) {
        ("", None) => None,
        ("", Some(rewrite)) => {
            let text = &rewrite.pattern.as_ref().ok_or_else(|| Wrong::missing("regex_rewrite.pattern"))?.regex;
            let regex = pattern(text).within("regex_rewrite.pattern")?;
            Some(PathRewrite::Regex(regex, substitution(&rewrite.substitution).within("regex_rewrite.substitution")?))
        }
        (prefix, None) => Some(PathRewrite::Matched(prefix.to_owned())),
        (_, Some(_)) => return Err(Wrong::new("regex_rewrite", "excludes prefix_rewrite")),
    };
    let host = match &message.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            let host = HeaderValue::try_from(host).map_err(|_| Wrong::new("host_rewrite_literal", "is no host"))?;
            Some(host)
        }
        None => None,
    };
    if message.include_vh_rate_limits == Some(false) {
        return Err(Wrong::new("include_vh_rate_limits", "must be true: what a host says counts for its routes"));
    }
    let timeout = message.timeout.as_ref().map(duration).transpose().within("timeout")?.unwrap_or(TIMEOUT);
    let longest = message.max_stream_duration.as_ref().and_then(|stream| stream.max_stream_duration.as_ref());
    let longest = longest.map(duration).transpose().within("max_stream_duration")?;
    let bounds = [Some(timeout), longest].into_iter().flatten().filter(|bound| !bound.is_zero());
    let mut retry_policy = message.retry_policy.as_ref().map(retry).transpose().within("retry_policy")?;
    if let (Some(retry), Some(hedge)) = (&mut retry_policy, &message.hedge_policy) {
        retry.hedges = hedge.hedge_on_per_try_timeout;
    }
    Ok(Forward {
        backends: Weighted::new(backends).ok_or_else(no_weight)?,
        no_cluster,
        path,
        host,
        timeout: bounds.min(),
        idle: message.idle_timeout.as_ref().map(duration).transpose().within("idle_timeout")?,
        retry: retry_policy,
        mirrors: all("request_mirror_policies", &message.request_mirror_policies, mirror)?,
        hash: hash(&message.hash_policy)?,
        counted: all("rate_limits", &message.rate_limits, counting)?,
    })
}

/// Of CONNECT, what would be rewritten is where the tunnel leads, which policies were asked about; and nobody talks to a copy.
fn leaves_target(forward: &Forward) -> Result<(), Wrong> {
    let rewrites = [
        ("prefix_rewrite or regex_rewrite", forward.path.is_some()),
        ("host_rewrite_literal", forward.host.is_some()),
        ("request_mirror_policies", !forward.mirrors.is_empty()),
    ];
    match rewrites.iter().find(|(_, is_there)| *is_there) {
        Some((field, _)) => Err(Wrong::new(*field, "must not be there beside connect_matcher")),
        None => Ok(()),
    }
}

fn hash(messages: &[HashPolicy]) -> Result<Option<HashBy>, Wrong> {
    let policy = match messages {
        [] => return Ok(None),
        [only] => only.policy_specifier.as_ref(),
        _ => return Err(Wrong::new("hash_policy[1]", "more than one is not supported")),
    };
    let read = || -> Result<HashBy, Wrong> {
        Ok(match policy.ok_or_else(|| Wrong::missing("policy_specifier"))? {
            PolicySpecifier::Header(header) => HashBy::Header(header_name(&header.header_name).within("header")?),
            PolicySpecifier::Cookie(cookie) => HashBy::Cookie {
                name: cookie.name.clone(),
                path: cookie.path.clone(),
                ttl: cookie.ttl.as_ref().map(duration).transpose().within("cookie.ttl")?,
            },
            PolicySpecifier::ConnectionProperties(properties) if properties.source_ip => HashBy::Source,
            PolicySpecifier::ConnectionProperties(_) => {
                return Err(Wrong::new("connection_properties.source_ip", "must be true"));
            }
            PolicySpecifier::QueryParameter(parameter) => HashBy::Parameter(parameter.name.clone()),
        })
    };
    read().within("hash_policy[0]").map(Some)
}

/// A substitution in the words of our patterns: `\1` is `${1}`, and a dollar sign means itself.
fn substitution(text: &str) -> Result<String, Wrong> {
    let (mut written, mut characters) = (String::new(), text.chars());
    while let Some(character) = characters.next() {
        match character {
            '$' => written.push_str("$$"),
            '\\' => match characters.next() {
                Some(digit) if digit.is_ascii_digit() => written.push_str(&format!("${{{digit}}}")),
                Some('\\') => written.push('\\'),
                _ => return Err(Wrong::here("a backslash must come before a digit or another one")),
            },
            character => written.push(character),
        }
    }
    Ok(written)
}

fn retry(message: &RetryPolicy) -> Result<Retry, Wrong> {
    // There is one predicate in the contract, and it says that.
    let elsewhere = !message.retry_host_predicate.is_empty();
    let mut retry = Retry { attempts: message.num_retries.unwrap_or(1), elsewhere, ..Retry::default() };
    for condition in message.retry_on.split(',').map(str::trim).filter(|condition| !condition.is_empty()) {
        match condition {
            "connect-failure" => retry.connect_failure = true,
            "refused-stream" => retry.refused_stream = true,
            // An endpoint that does not respond at all may as well not be there, as with Envoy.
            "reset" => (retry.reset, retry.connect_failure) = (true, true),
            // What was never sent is what a stream that is refused is, or one for which there is no connection.
            "reset-before-request" => (retry.refused_stream, retry.connect_failure) = (true, true),
            "5xx" => (retry.server_errors, retry.reset, retry.connect_failure) = (true, true, true),
            "gateway-error" => {
                // A connection that breaks or is not made counts as an answer of 503, as with Envoy.
                (retry.reset, retry.connect_failure) = (true, true);
                retry.statuses.extend([
                    StatusCode::BAD_GATEWAY,
                    StatusCode::SERVICE_UNAVAILABLE,
                    StatusCode::GATEWAY_TIMEOUT,
                ]);
            }
            "retriable-4xx" => retry.statuses.push(StatusCode::CONFLICT),
            "retriable-status-codes" => {
                for code in &message.retriable_status_codes {
                    let code = u16::try_from(*code).ok().and_then(|code| StatusCode::from_u16(code).ok());
                    let code = code.ok_or_else(|| Wrong::new("retriable_status_codes", "is no status"))?;
                    retry.statuses.push(code);
                }
            }
            name => match GRPC_STATUSES.iter().find(|(known, _)| *known == name) {
                Some((_, status)) => retry.grpc_statuses.push(*status),
                None => return Err(Wrong::new("retry_on", format!("{name:?} is not supported"))),
            },
        }
    }
    retry.attempt_timeout = message.per_try_timeout.as_ref().map(duration).transpose().within("per_try_timeout")?;
    retry.attempt_timeout = retry.attempt_timeout.filter(|timeout| !timeout.is_zero());
    let back_off = message.retry_back_off.unwrap_or_default();
    let base = back_off.base_interval.as_ref().map(duration).transpose().within("retry_back_off.base_interval")?;
    let most = back_off.max_interval.as_ref().map(duration).transpose().within("retry_back_off.max_interval")?;
    let base = base.unwrap_or(BACK_OFF);
    retry.back_off = (base, most.unwrap_or(base.saturating_mul(BACK_OFF_GROWTH)).max(base));
    Ok(retry)
}

fn mirror(message: &RequestMirrorPolicy) -> Result<Mirror, Wrong> {
    let share = message.runtime_fraction.as_ref().and_then(|fraction| fraction.default_value.as_ref());
    let per_million = share.map_or(MILLION, per_million);
    Ok(Mirror { cluster: message.cluster.as_str().into(), per_million })
}

fn redirect(message: &RedirectAction) -> Result<Redirect, Wrong> {
    let status = match message.response_code() {
        RedirectResponseCode::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
        RedirectResponseCode::Found => StatusCode::FOUND,
        RedirectResponseCode::SeeOther => StatusCode::SEE_OTHER,
        RedirectResponseCode::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
        RedirectResponseCode::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
    };
    let path = message.path_rewrite_specifier.as_ref().map(|path| match path {
        PathRewriteSpecifier::PathRedirect(full) => RedirectPath::Full(full.clone()),
        PathRewriteSpecifier::PrefixRewrite(prefix) => RedirectPath::Matched(prefix.clone()),
    });
    let scheme = message.scheme_rewrite_specifier.as_ref().map(|scheme| match scheme {
        SchemeRewriteSpecifier::SchemeRedirect(scheme) => scheme.clone(),
    });
    let port = u16::try_from(message.port_redirect).map_err(|_| Wrong::new("port_redirect", "is above 65535"))?;
    Ok(Redirect {
        scheme,
        host: Some(message.host_redirect.clone()).filter(|host| !host.is_empty()),
        port: Some(port).filter(|port| *port != 0),
        path,
        status,
    })
}

fn reply(message: &DirectResponseAction) -> Result<Action, Wrong> {
    let status = u16::try_from(message.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let body = match message.body.as_ref().and_then(|body| body.specifier.as_ref()) {
        Some(Specifier::InlineString(text)) => Bytes::from(text.clone()),
        Some(Specifier::Filename(_)) => return Err(Wrong::missing("body.inline_string")),
        None => Bytes::new(),
    };
    Ok(Action::Reply { status: status.ok_or_else(|| Wrong::new("status", "is no status"))?, body })
}
