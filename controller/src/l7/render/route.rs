//! Routes: matches in order, and what follows from them.

use std::time::Duration;

use fairway_core::source::Kind;
use fairway_core::source::external_processor::ProcessingMode;
use fairway_proto::envoy::core::data_source::Specifier;
use fairway_proto::envoy::core::header_value_option::HeaderAppendAction;
use fairway_proto::envoy::core::{DataSource, HeaderValue, HeaderValueOption, RuntimeFractionalPercent};
use fairway_proto::envoy::fraction::FractionalPercent;
use fairway_proto::envoy::fraction::fractional_percent::DenominatorType;
use fairway_proto::envoy::matcher::string_matcher::MatchPattern;
use fairway_proto::envoy::matcher::{
    FilterStateMatcher, RegexMatchAndSubstitute, RegexMatcher, StringMatcher, filter_state_matcher,
};
use fairway_proto::envoy::previous_hosts::PreviousHostsPredicate;
use fairway_proto::envoy::route::header_matcher::HeaderMatchSpecifier;
use fairway_proto::envoy::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use fairway_proto::envoy::route::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use fairway_proto::envoy::route::retry_policy::{RetryBackOff, RetryHostPredicate, retry_host_predicate};
use fairway_proto::envoy::route::route::Action as RouteActionKind;
use fairway_proto::envoy::route::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration, RequestMirrorPolicy,
};
use fairway_proto::envoy::route::route_match::{ConnectMatcher, PathSpecifier};
use fairway_proto::envoy::route::weighted_cluster::ClusterWeight;
use fairway_proto::envoy::route::{
    DirectResponseAction, HeaderMatcher, HedgePolicy, QueryParameterMatcher, RedirectAction, RetryPolicy, Route,
    RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
};

use super::super::Client;
use super::super::model::{
    Action, Attached, Backend, Compare, Edits, Entry, Forward, Match, NewPath, Path, Redirect, Retry, Target, Text,
};
use super::super::rates;
use super::super::waypoints::{Plan, Sees};
use super::listener::WORKLOADS;
use super::rates::counted;
use super::{INVALID_BACKEND, any, duration, per_route, processors};

const PREVIOUS_HOSTS: &str = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
/// What an application cannot notice: the endpoint could not be reached, or said that it has not begun.
const UNTOUCHED: &str = "connect-failure,refused-stream";
/// Repetitions of what no endpoint has begun with.
const UNTOUCHED_ATTEMPTS: u32 = 2;
/// Choices of an endpoint that has not been tried yet.
const OTHER_HOSTS: i64 = 5;
/// Longest time before a repetition, in times of the first.
const BACKOFF_GROWTH: u32 = 10;
/// HTTP statuses, and what gRPC calls them.
const GRPC_STATUSES: [(u32, &str); 5] = [
    (429, "resource-exhausted"),
    (499, "cancelled"),
    (500, "internal"),
    (503, "unavailable"),
    (504, "deadline-exceeded"),
];
/// The method that has no path.
const CONNECT: &str = "CONNECT";
/// The status of what cannot be done.
const REFUSED: u32 = 500;
/// The status of what no route matches.
const NOT_FOUND: u32 = 404;
/// Where a waypoint leaves the namespace of the tunnel's peer.
const PEER_NAMESPACE: &str = "fairway.peer.namespace";

/// The routes of one port of a service; without entries everything goes to the service itself.
#[must_use]
pub fn configuration(target: &Target, entries: Option<&[Entry]>, client: &Client) -> RouteConfiguration {
    named(target.to_string(), all(target, entries, client))
}

/// The routes that a waypoint follows before one port of a service: first those of consumers, each for the clients of its
/// namespace and with nothing left for others to answer. Where it `has_connect`, what asks for no path is for CONNECT, too.
#[must_use]
pub fn at_waypoint(
    target: &Target,
    attached: Option<&Attached>,
    client: &Client,
    (of_all, sees, has_connect): (&[&rates::Policy], Option<&Sees<'_>>, bool),
    plan: &Plan,
) -> RouteConfiguration {
    let provider = plan.counter(of_all, attached);
    let routes = |entry: &Entry, is_consumer: bool| {
        let own: Vec<_> = plan.rates_of(&entry.route).into_iter().filter(|policy| !of_all.contains(policy)).collect();
        let mut routes = routes(entry, target, client, has_connect);
        for route in &mut routes {
            if let Some(RouteActionKind::Route(action)) = &mut route.action {
                action.rate_limits = counted(&own, provider);
                let has_both = provider.is_some() && !action.rate_limits.is_empty() && !of_all.is_empty();
                action.include_vh_rate_limits = has_both.then_some(true);
            }
            if let Some(sees) = sees {
                // Who uses a service does not say what its owner sees.
                let is_settled = is_consumer && sees.mode.is_some();
                see(route, sees, plan.seen_of(&entry.route, sees.provider).filter(|_| !is_settled));
            }
        }
        routes
    };
    let of_consumers = attached.iter().flat_map(|attached| &attached.consumers).flat_map(|(namespace, entries)| {
        let routes = entries.iter().flat_map(|entry| routes(entry, true));
        let nothing = catching(has_connect).map(|(matching, _)| {
            let mut nothing = nothing(namespace, matching);
            sees.into_iter().for_each(|sees| see(&mut nothing, sees, None));
            nothing
        });
        routes.chain(nothing).map(|route| of_peers(namespace, route))
    });
    let mut all: Vec<Route> = of_consumers.collect();
    match attached.and_then(|attached| attached.producer.as_deref()) {
        Some(entries) => all.extend(entries.iter().flat_map(|entry| routes(entry, false))),
        None => all.extend(catching(has_connect).map(|(matching, part)| {
            let mut own = own(target, matching, part);
            sees.into_iter().for_each(|sees| see(&mut own, sees, None));
            own
        })),
    }
    let mut configuration = named(target.to_string(), all);
    for host in &mut configuration.virtual_hosts {
        host.rate_limits = counted(of_all, provider);
    }
    configuration
}

/// The route that a waypoint follows before workloads: to whoever was dialled. Routes are attached to services.
#[must_use]
pub fn to_workloads((of_all, sees): (&[&rates::Policy], Option<&Sees<'_>>), plan: &Plan) -> RouteConfiguration {
    let mut route = to(ClusterSpecifier::Cluster(WORKLOADS.to_owned()), everything(), Part::Start);
    sees.into_iter().for_each(|sees| see(&mut route, sees, None));
    let mut configuration = named(WORKLOADS.to_owned(), vec![route]);
    for host in &mut configuration.virtual_hosts {
        host.rate_limits = counted(of_all, plan.counter(of_all, None));
    }
    configuration
}

/// Says what of a route's requests is seen, where that is not as for all: of what a route answers itself nothing is.
fn see(route: &mut Route, sees: &Sees<'_>, own: Option<&ProcessingMode>) {
    let is_sent_on = matches!(route.action, Some(RouteActionKind::Route(_)));
    let said = match own.filter(|_| is_sent_on) {
        Some(own) => processors::of_route(Some(own)),
        None if is_sent_on && sees.mode.is_some() => return,
        None => processors::of_route(None),
    };
    route.typed_per_filter_config.insert(processors::NAME.to_owned(), said);
}

fn named(name: String, routes: Vec<Route>) -> RouteConfiguration {
    let host = VirtualHost { name: name.clone(), domains: vec!["*".to_owned()], routes, ..VirtualHost::default() };
    RouteConfiguration { name, virtual_hosts: vec![host] }
}

fn all(target: &Target, entries: Option<&[Entry]>, client: &Client) -> Vec<Route> {
    match entries {
        Some(entries) => entries.iter().flat_map(|entry| routes(entry, target, client, false)).collect(),
        None => vec![own(target, everything(), Part::Start)],
    }
}

/// The same for peers from one namespace only.
fn of_peers(namespace: &str, route: Route) -> Route {
    let mut matching = route.r#match.unwrap_or_default();
    matching.filter_state.insert(0, peer(namespace));
    Route { r#match: Some(matching), ..route }
}

fn peer(namespace: &str) -> FilterStateMatcher {
    let matcher = Some(filter_state_matcher::Matcher::StringMatch(exact(namespace)));
    FilterStateMatcher { key: PEER_NAMESPACE.to_owned(), matcher }
}

/// What none of the routes of a namespace matched.
fn nothing(namespace: &str, matching: RouteMatch) -> Route {
    Route {
        name: format!("{namespace}/none"),
        r#match: Some(matching),
        action: Some(RouteActionKind::DirectResponse(DirectResponseAction { status: NOT_FOUND, body: None })),
        ..Route::default()
    }
}

pub(super) fn everything() -> RouteMatch {
    RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..RouteMatch::default() }
}

/// All requests there may be: those with a path, and where it `has_connect` those without one.
fn catching(has_connect: bool) -> impl Iterator<Item = (RouteMatch, Part)> {
    let connect = PathSpecifier::ConnectMatcher(ConnectMatcher {});
    let connect = RouteMatch { path_specifier: Some(connect), ..RouteMatch::default() };
    [(everything(), Part::Start)].into_iter().chain(has_connect.then_some((connect, Part::None)))
}

/// What holds where nobody has attached anything.
fn own(target: &Target, matching: RouteMatch, part: Part) -> Route {
    to(ClusterSpecifier::Cluster(target.to_string()), matching, part)
}

fn to(cluster: ClusterSpecifier, matching: RouteMatch, part: Part) -> Route {
    let action = RouteAction { cluster_specifier: Some(cluster), ..forward(&Forward::default(), part) };
    Route {
        name: "default".to_owned(),
        r#match: Some(matching),
        action: Some(RouteActionKind::Route(action)),
        ..Route::default()
    }
}

/// How much of a path a part of a match stands for.
#[derive(Clone, Copy)]
enum Part {
    /// All of it: this one.
    Whole,
    /// What comes before the rest, with the slash between them.
    Start,
    /// What begins with this text.
    Text,
    /// It cannot be said.
    Pattern,
    /// There is no path.
    None,
}

/// Whether a match is for CONNECT, too, which has neither path nor query.
fn takes_connect(entry: &Entry) -> bool {
    let Match { path, method, query, .. } = &entry.matching;
    let asks_for_none = matches!(path, Path::Prefix(prefix) if prefix.is_empty()) && query.is_empty();
    let is_meant = method.as_deref().is_none_or(|method| method == CONNECT);
    asks_for_none && is_meant && entry.route.kind != Kind::GRPCRoute
}

fn routes(entry: &Entry, target: &Target, client: &Client, has_connect: bool) -> Vec<Route> {
    let Match { path, method, headers, query, more, .. } = &entry.matching;
    let is_for_connect = method.as_deref() == Some(CONNECT);
    // Every call of gRPC is a POST without a query, and its clients do not see either.
    if client.is_grpc && (!query.is_empty() || method.as_deref().is_some_and(|method| method != "POST")) {
        return Vec::new();
    }
    // Nor do they see these.
    if client.is_grpc && headers.iter().any(|header| header.name.starts_with(':')) {
        return Vec::new();
    }
    // Whose proxy this is, is known; a waypoint sees it of each connection.
    let from = more.namespace.as_deref().filter(|_| client.gateway.is_some());
    if client.gateway.is_none() && more.namespace.as_ref().is_some_and(|namespace| *namespace != client.namespace) {
        return Vec::new();
    }
    let method = method.iter().filter(|_| !client.is_grpc).map(|method| HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact(method))),
        ..HeaderMatcher::default()
    });
    let without = more.without.iter().map(|(name, value)| without(name, value.as_ref()));
    let headers: Vec<HeaderMatcher> = method.chain(headers.iter().map(header)).chain(without).collect();
    let query_parameters: Vec<QueryParameterMatcher> = query.iter().map(parameter).collect();
    // A prefix of elements is two routes: the rule that would be one is not taken by gRPC (D5).
    let mut parts = match path {
        Path::Exact(path) => vec![(PathSpecifier::Path(path.clone()), Part::Whole)],
        Path::Prefix(prefix) if prefix.is_empty() => vec![(PathSpecifier::Prefix("/".to_owned()), Part::Start)],
        Path::Prefix(prefix) => vec![
            (PathSpecifier::Path(prefix.clone()), Part::Whole),
            (PathSpecifier::Prefix(format!("{prefix}/")), Part::Start),
        ],
        Path::Start(text) => vec![(PathSpecifier::Prefix(text.clone()), Part::Text)],
        Path::Regex(pattern) => vec![(PathSpecifier::SafeRegex(regex(pattern)), Part::Pattern)],
    };
    if has_connect && takes_connect(entry) {
        if is_for_connect {
            parts.clear();
        }
        parts.push((PathSpecifier::ConnectMatcher(ConnectMatcher {}), Part::None));
    }
    let route = |(path, part): (PathSpecifier, Part)| {
        let is_cased = more.any_case && !matches!(part, Part::None);
        let action = match &entry.rule.action {
            Action::Forward(action) => RouteActionKind::Route(forward(action, part)),
            Action::Redirect(action) => RouteActionKind::Redirect(redirect(action, target, part)),
            Action::Reply { status, body } => RouteActionKind::DirectResponse(DirectResponseAction {
                status: u32::from(*status),
                body: (!body.is_empty()).then(|| DataSource { specifier: Some(Specifier::InlineString(body.clone())) }),
            }),
            Action::Refuse => RouteActionKind::DirectResponse(DirectResponseAction { status: REFUSED, body: None }),
        };
        Route {
            name: entry.name.clone(),
            r#match: Some(RouteMatch {
                path_specifier: Some(path),
                headers: headers.clone(),
                query_parameters: query_parameters.clone(),
                filter_state: from.map(peer).into_iter().collect(),
                case_sensitive: is_cased.then_some(false),
            }),
            action: Some(action),
            request_headers_to_add: added(&entry.rule.request),
            request_headers_to_remove: entry.rule.request.remove.clone(),
            response_headers_to_add: added(&entry.rule.response),
            response_headers_to_remove: entry.rule.response.remove.clone(),
            typed_per_filter_config: per_route::settings(&entry.rule, client.is_grpc),
        }
    };
    parts.into_iter().map(route).collect()
}

pub(super) fn millionths(share: u32) -> FractionalPercent {
    FractionalPercent { numerator: share, denominator: DenominatorType::Million.into() }
}

pub(super) fn regex(pattern: &str) -> RegexMatcher {
    RegexMatcher { regex: pattern.to_owned() }
}

fn exact(text: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Exact(text.to_owned())), ignore_case: false }
}

pub(super) fn text(text: &Text) -> StringMatcher {
    match text {
        Text::Exact(text) => exact(text),
        Text::Regex(pattern) => {
            StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(regex(pattern))), ignore_case: false }
        }
    }
}

fn header(compare: &Compare) -> HeaderMatcher {
    let specifier = HeaderMatchSpecifier::StringMatch(text(&compare.value));
    HeaderMatcher { name: compare.name.clone(), header_match_specifier: Some(specifier), ..HeaderMatcher::default() }
}

/// A header that must not be there, or not with this value, which one that is not there has not.
fn without(name: &str, value: Option<&Text>) -> HeaderMatcher {
    let specifier = match value {
        None => HeaderMatchSpecifier::PresentMatch(true),
        Some(value) => HeaderMatchSpecifier::StringMatch(text(value)),
    };
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        invert_match: true,
        treat_missing_header_as_empty: value.is_some(),
    }
}

fn parameter(compare: &Compare) -> QueryParameterMatcher {
    let specifier = QueryParameterMatchSpecifier::StringMatch(text(&compare.value));
    QueryParameterMatcher { name: compare.name.clone(), query_parameter_match_specifier: Some(specifier) }
}

fn added(edits: &Edits) -> Vec<HeaderValueOption> {
    let option = |(name, value): &(String, String), action: HeaderAppendAction| HeaderValueOption {
        // The value is a format, in which a percent sign begins a command.
        header: Some(HeaderValue { key: name.clone(), value: value.replace('%', "%%") }),
        append_action: action.into(),
        keep_empty_value: true,
    };
    let set = edits.set.iter().map(|header| option(header, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = edits.add.iter().map(|header| option(header, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

fn cluster_of(backend: &Backend) -> String {
    backend.target.as_ref().map_or_else(|| INVALID_BACKEND.to_owned(), ToString::to_string)
}

fn clusters(backends: &[Backend]) -> ClusterSpecifier {
    let is_plain = |backend: &Backend| backend.request == Edits::default() && backend.response == Edits::default();
    if let [backend] = backends
        && is_plain(backend)
    {
        return ClusterSpecifier::Cluster(cluster_of(backend));
    }
    let mut clusters: Vec<(ClusterWeight, u32)> = Vec::new();
    for backend in backends {
        let cluster = ClusterWeight {
            name: cluster_of(backend),
            weight: None,
            request_headers_to_add: added(&backend.request),
            request_headers_to_remove: backend.request.remove.clone(),
            response_headers_to_add: added(&backend.response),
            response_headers_to_remove: backend.response.remove.clone(),
        };
        match clusters.iter_mut().find(|(known, _)| *known == cluster) {
            Some((_, weight)) => *weight = weight.saturating_add(backend.weight),
            None => clusters.push((cluster, backend.weight)),
        }
    }
    let weighed = clusters.into_iter().map(|(cluster, weight)| ClusterWeight { weight: Some(weight), ..cluster });
    ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: weighed.collect() })
}

/// The path in place of what matched.
fn prefix_rewrite(new: &str, part: Part) -> String {
    match part {
        Part::Whole if new.is_empty() => "/".to_owned(),
        Part::Whole | Part::Text | Part::Pattern | Part::None => new.to_owned(),
        Part::Start => format!("{new}/"),
    }
}

fn forward(forward: &Forward, part: Part) -> RouteAction {
    // A tunnel leads where its client says, which is what policies were asked about; and nobody talks to a copy.
    let is_tunnel = matches!(part, Part::None);
    let host = forward.host.clone().filter(|_| !is_tunnel);
    let has_invalid = forward.backends.iter().any(|backend| backend.target.is_none());
    let not_found = if has_invalid {
        ClusterNotFoundResponseCode::InternalServerError
    } else {
        ClusterNotFoundResponseCode::ServiceUnavailable
    };
    let (mut rewritten, mut pattern) = (String::new(), None);
    match (&forward.path, part) {
        (_, Part::None) | (None, _) => {}
        (Some(NewPath::Full(full)), Part::Whole) => rewritten.clone_from(full),
        (Some(NewPath::Full(full)), _) => {
            // A backslash refers to what the pattern has captured.
            pattern = Some(RegexMatchAndSubstitute {
                pattern: Some(regex("^/.*$")),
                substitution: full.replace('\\', "\\\\"),
            });
        }
        (Some(NewPath::Prefix(new)), part) => rewritten = prefix_rewrite(new, part),
        (Some(NewPath::Start(new)), _) => rewritten.clone_from(new),
    }
    let mirrors = forward.mirrors.iter().filter(|mirror| mirror.per_million > 0 && !is_tunnel);
    let mirrors = mirrors.map(|mirror| RequestMirrorPolicy {
        cluster: mirror.target.to_string(),
        runtime_fraction: Some(RuntimeFractionalPercent { default_value: Some(millionths(mirror.per_million)) }),
    });
    RouteAction {
        cluster_specifier: Some(clusters(&forward.backends)),
        cluster_not_found_response_code: not_found.into(),
        prefix_rewrite: rewritten,
        regex_rewrite: pattern,
        host_rewrite_specifier: host.map(HostRewriteSpecifier::HostRewriteLiteral),
        // Said twice, as gRPC reads the one and Envoy the other; without it Envoy's is 15 s.
        timeout: Some(duration(forward.timeout.unwrap_or(Duration::ZERO))),
        max_stream_duration: forward
            .timeout
            .map(|timeout| MaxStreamDuration { max_stream_duration: Some(duration(timeout)) }),
        retry_policy: retry(&forward.retry, forward.attempt_timeout),
        hedge_policy: forward.hedges.then_some(HedgePolicy { hedge_on_per_try_timeout: true }),
        request_mirror_policies: mirrors.collect(),
        ..RouteAction::default()
    }
}

fn retry(retry: &Retry, attempt_timeout: Option<Duration>) -> Option<RetryPolicy> {
    let elsewhere = RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(
            PREVIOUS_HOSTS,
            &PreviousHostsPredicate {},
        ))),
    };
    let basic = RetryPolicy {
        retry_on: UNTOUCHED.to_owned(),
        num_retries: Some(UNTOUCHED_ATTEMPTS),
        per_try_timeout: attempt_timeout.map(duration),
        retry_host_predicate: vec![elsewhere],
        host_selection_retry_max_attempts: OTHER_HOSTS,
        ..RetryPolicy::default()
    };
    match retry {
        Retry::Never => None,
        Retry::Untouched => Some(basic),
        Retry::Answers { codes, errors, resets, elsewhere, attempts, backoff } => {
            let mut retry_on = vec![UNTOUCHED];
            if !codes.is_empty() {
                retry_on.push("retriable-status-codes");
            }
            retry_on.extend([(*errors, "5xx"), (*resets, "reset")].iter().filter(|(is, _)| *is).map(|(_, name)| *name));
            retry_on.extend(GRPC_STATUSES.iter().filter(|(code, _)| codes.contains(code)).map(|(_, name)| *name));
            let back_off = backoff.map(|base| RetryBackOff {
                base_interval: Some(duration(base)),
                max_interval: Some(duration(base.saturating_mul(BACKOFF_GROWTH))),
            });
            Some(RetryPolicy {
                retry_on: retry_on.join(","),
                num_retries: Some(*attempts),
                retriable_status_codes: codes.clone(),
                retry_back_off: back_off,
                retry_host_predicate: if *elsewhere { basic.retry_host_predicate } else { Vec::new() },
                host_selection_retry_max_attempts: if *elsewhere { OTHER_HOSTS } else { 0 },
                ..basic
            })
        }
    }
}

fn redirect(redirect: &Redirect, target: &Target, part: Part) -> RedirectAction {
    let usual = |scheme: &str| if scheme == "https" { 443 } else { 80 };
    let scheme = redirect.scheme.as_deref();
    let port = match (redirect.port, scheme, &redirect.host) {
        // What a scheme has by itself need not be said.
        (Some(port), Some(scheme), _) if port == usual(scheme) => None,
        (Some(port), _, _) => Some(port),
        // Otherwise the port in the request's host would stay.
        (None, Some(scheme), None) if target.port != 80 => Some(usual(scheme)),
        (None, None, Some(_)) if target.port != 80 => Some(target.port),
        _ => None,
    };
    let code = match redirect.status {
        301 => RedirectResponseCode::MovedPermanently,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::Found,
    };
    let path = redirect.path.as_ref().map(|path| match path {
        NewPath::Full(full) => PathRewriteSpecifier::PathRedirect(full.clone()),
        NewPath::Prefix(new) => PathRewriteSpecifier::PrefixRewrite(prefix_rewrite(new, part)),
        NewPath::Start(new) => PathRewriteSpecifier::PrefixRewrite(new.clone()),
    });
    RedirectAction {
        host_redirect: redirect.host.clone().unwrap_or_default(),
        path_rewrite_specifier: path,
        response_code: code.into(),
        scheme_rewrite_specifier: scheme.map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_owned())),
        port_redirect: port.map_or(0, u32::from),
    }
}
