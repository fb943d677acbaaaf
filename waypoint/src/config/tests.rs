//! Tests of what is read from resources: every word that the controller uses, and what is refused by its name.

use fairway_proto::envoy::core::data_source::Specifier;
use fairway_proto::envoy::core::header_value_option::HeaderAppendAction;
use fairway_proto::envoy::core::{DataSource, HeaderValue as Value, HeaderValueOption};
use fairway_proto::envoy::http_connection_manager::http_connection_manager::UpgradeConfig;
use fairway_proto::envoy::jwt_authn::jwt_provider::JwksSourceSpecifier;
use fairway_proto::envoy::jwt_authn::jwt_requirement::RequiresType;
use fairway_proto::envoy::jwt_authn::requirement_rule::RequirementType;
use fairway_proto::envoy::jwt_authn::{
    JwtAuthentication, JwtProvider, JwtRequirement, JwtRequirementOrList, RequirementRule,
};
use fairway_proto::envoy::matcher::string_matcher::MatchPattern;
use fairway_proto::envoy::matcher::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher};
use fairway_proto::envoy::rbac::{Policy as PolicyMessage, Rbac, permission, principal};
use fairway_proto::envoy::route::route::Action as ActionMessage;
use fairway_proto::envoy::route::route_action::ClusterSpecifier;
use fairway_proto::envoy::route::route_match::PathSpecifier;
use fairway_proto::envoy::route::{
    RetryPolicy, Route as RouteMessage, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use fairway_proto::envoy::{cluster as cluster_proto, rbac};
use prost::Message;

use super::*;

mod clusters;
mod spoken;

/// The table with one route, as changed.
fn read(change: impl FnOnce(&mut RouteMessage, &mut RouteAction)) -> Result<Route, String> {
    let mut action =
        RouteAction { cluster_specifier: Some(ClusterSpecifier::Cluster("c".into())), ..Default::default() };
    let matching = RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() };
    let mut route = RouteMessage { r#match: Some(matching), ..Default::default() };
    change(&mut route, &mut action);
    route.action.get_or_insert(ActionMessage::Route(action));
    let host = VirtualHost { name: "h".into(), domains: vec!["*".into()], routes: vec![route], ..Default::default() };
    let message = RouteConfiguration { name: "t".into(), virtual_hosts: vec![host] };
    let mut table = table(&message.encode_to_vec()).map_err(|wrong| wrong.to_string())?;
    Ok(table.hosts.remove(0).routes.remove(0))
}

fn forward(change: impl FnOnce(&mut RouteAction)) -> Forward {
    match read(|_, action| change(action)).unwrap().action {
        Action::Forward(forward) => *forward,
        other => panic!("{other:?}"),
    }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[test]
fn timeouts_are_envoys() {
    assert_eq!(forward(|_| {}).timeout, Some(Duration::from_secs(15)), "Envoy's own where none is named");
    assert_eq!(forward(|action| action.timeout = seconds(0)).timeout, None, "zero is none");
    assert_eq!(forward(|action| action.timeout = seconds(3)).timeout, Some(Duration::from_secs(3)));
    assert_eq!(forward(|_| {}).idle, None, "as the waypoint's limit says");
    assert_eq!(forward(|action| action.idle_timeout = seconds(0)).idle, Some(Duration::ZERO), "zero is for ever");
    assert_eq!(forward(|action| action.idle_timeout = seconds(3)).idle, Some(Duration::from_secs(3)));
}

#[test]
fn retries_are_read_condition_by_condition() {
    let policy = |retry_on: &str| RetryPolicy {
        retry_on: retry_on.into(),
        retriable_status_codes: vec![503],
        ..Default::default()
    };
    let retry = |retry_on: &str| forward(|action| action.retry_policy = Some(policy(retry_on))).retry.unwrap();
    let untouched = retry("connect-failure,refused-stream");
    assert!(untouched.connect_failure && untouched.refused_stream && untouched.statuses.is_empty());
    assert_eq!(untouched.attempts, 1);
    assert_eq!(retry("retriable-status-codes").statuses, [StatusCode::SERVICE_UNAVAILABLE]);
    assert_eq!(retry("unavailable, cancelled").grpc_statuses, [14, 1]);
    assert!(!untouched.elsewhere);
    let mut elsewhere = policy("reset");
    elsewhere.retry_host_predicate = vec![fairway_proto::envoy::route::retry_policy::RetryHostPredicate::default()];
    let elsewhere = forward(|action| action.retry_policy = Some(elsewhere)).retry.unwrap();
    assert!(elsewhere.elsewhere && elsewhere.reset);
    let wrong = read(|_, action| action.retry_policy = Some(policy("sometimes"))).unwrap_err();
    assert_eq!(wrong, "virtual_hosts[0].routes[0].route.retry_policy.retry_on: \"sometimes\" is not supported");
}

#[test]
fn attempts_are_hedged_where_the_route_says_so() {
    use fairway_proto::envoy::route::HedgePolicy;
    let retry = |hedge_policy: Option<HedgePolicy>| {
        let retry_policy = Some(RetryPolicy { per_try_timeout: seconds(1), ..Default::default() });
        forward(|action| (action.retry_policy, action.hedge_policy) = (retry_policy, hedge_policy)).retry.unwrap()
    };
    for (hedge_policy, expected) in [
        (None, false),
        (Some(HedgePolicy { hedge_on_per_try_timeout: false }), false),
        (Some(HedgePolicy { hedge_on_per_try_timeout: true }), true),
    ] {
        assert_eq!(retry(hedge_policy).hedges_after().is_some(), expected, "{hedge_policy:?}");
    }
    // Of itself it repeats nothing.
    let hedge_policy = Some(HedgePolicy { hedge_on_per_try_timeout: true });
    assert_eq!(forward(|action| action.hedge_policy = hedge_policy).retry, None);
}

#[test]
fn conditions_cover_connections_that_break_as_envoys_do() {
    use crate::retry::{Result as Came, wanted};
    let retry = |retry_on: &str| {
        let policy = RetryPolicy { retry_on: retry_on.into(), ..Default::default() };
        forward(|action| action.retry_policy = Some(policy)).retry.unwrap()
    };
    let status = |status| Came::Answered(StatusCode::from_u16(status).unwrap(), None);
    let came =
        [Came::NotReached, Came::Refused, Came::Reset, Came::Late, status(500), status(502), status(599), status(404)];
    let rows = [
        ("5xx", [true, true, true, true, true, true, true, false]),
        ("gateway-error", [true, true, true, true, false, true, false, false]),
        ("reset", [true, true, true, false, false, false, false, false]),
        ("reset-before-request", [true, true, false, false, false, false, false, false]),
        ("connect-failure", [true, true, false, false, false, false, false, false]),
        ("refused-stream", [false, true, false, false, false, false, false, false]),
    ];
    for (retry_on, expected) in rows {
        let retry = retry(retry_on);
        assert_eq!(came.map(|came| wanted(&retry, came)), expected, "{retry_on}");
    }
}

#[test]
fn values_of_headers_are_formats() {
    let with = |value: &str| {
        let header = HeaderValueOption {
            header: Some(Value { key: "x".into(), value: value.into() }),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
            keep_empty_value: true,
        };
        read(|route, _| route.request_headers_to_add = vec![header])
    };
    assert_eq!(with("100%%").unwrap().request.put[0].value, "100%");
    assert_eq!(with("").unwrap().request.put[0].manner, Manner::Overwrite);
    let wrong = with("%DOWNSTREAM_REMOTE_ADDRESS%").unwrap_err();
    assert_eq!(
        wrong,
        "virtual_hosts[0].routes[0].request_headers_to_add[0].header.value: commands (%…%) are not supported"
    );
}

#[test]
fn patterns_match_as_a_whole_and_substitutions_are_ours() {
    let regex = |text: &str| RegexMatcher { regex: text.into() };
    let route = read(|route, _| {
        let path = Some(PathSpecifier::SafeRegex(regex("/a|/b")));
        route.r#match = Some(RouteMatch { path_specifier: path, ..Default::default() });
    });
    let PathMatch::Regex(pattern) = route.unwrap().matching.path else { panic!("no pattern") };
    assert!(pattern.is_match("/b") && !pattern.is_match("/b/c"));
    let rewrite = forward(|action| {
        let (pattern, substitution) = (Some(regex("^/u/(.*)$")), "/$user/\\1\\\\".to_owned());
        action.regex_rewrite = Some(RegexMatchAndSubstitute { pattern, substitution });
    });
    let Some(PathRewrite::Regex(pattern, new)) = rewrite.path else { panic!("no rewrite") };
    assert_eq!(pattern.replace("/u/x", new.as_str()), "/$user/x\\");
    let wrong = read(|_, action| {
        action.regex_rewrite = Some(RegexMatchAndSubstitute { pattern: Some(regex("(")), substitution: String::new() });
    });
    assert!(wrong.unwrap_err().starts_with("virtual_hosts[0].routes[0].route.regex_rewrite.pattern.regex: "));
}

#[test]
fn texts_are_compared_in_every_way() {
    let text = |pattern: MatchPattern, ignore_case| {
        Text::of(&StringMatcher { match_pattern: Some(pattern), ignore_case }).unwrap()
    };
    let rows = [
        (text(MatchPattern::Exact("Ab".into()), false), "Ab", "ab"),
        (text(MatchPattern::Exact("Ab".into()), true), "aB", "abc"),
        (text(MatchPattern::Prefix("a".into()), false), "ab", "ba"),
        (text(MatchPattern::Suffix("B".into()), true), "ab", "ba"),
        (text(MatchPattern::Contains("b".into()), false), "abc", "ac"),
        (text(MatchPattern::SafeRegex(RegexMatcher { regex: "a.".into() }), false), "ab", "abc"),
    ];
    for (text, yes, no) in rows {
        assert!(text.matches(yes) && !text.matches(no), "{text:?}");
    }
}

#[test]
fn policies_are_read_and_what_is_not_known_refuses_the_whole() {
    let any = |rule| rbac::Permission { rule: Some(rule) };
    let rules = |permission, identifier| Rbac {
        policies: [(
            "shop/p/0".to_owned(),
            PolicyMessage {
                permissions: vec![any(permission)],
                principals: vec![rbac::Principal { identifier: Some(identifier) }],
            },
        )]
        .into(),
        ..Default::default()
    };
    let read = |message: &Rbac| Rules::of(Some(message)).map_err(|wrong| wrong.to_string());
    let good = rules(permission::Rule::DestinationPort(80), principal::Identifier::Any(true));
    assert_eq!(read(&good).unwrap().policies[0].permissions, [Permission::Port(80)]);
    let token = principal::Identifier::Metadata(fairway_proto::envoy::matcher::MetadataMatcher::default());
    let wrong = read(&rules(permission::Rule::Any(true), token)).unwrap_err();
    assert!(wrong.starts_with("policies[shop/p/0].principals[0].metadata.filter: "), "{wrong}");
    let log = Rbac { action: 2, ..Default::default() };
    assert_eq!(read(&log).unwrap_err(), "action: must be ALLOW or DENY");
    let future = Rbac { action: 7, ..Default::default() };
    assert_eq!(read(&future).unwrap_err(), "action: must be ALLOW or DENY");
}

#[test]
fn only_clusters_with_endpoints_that_can_be_found_are_taken() {
    let message = cluster_proto::Cluster { name: "c".into(), ..Default::default() };
    let error = cluster(&message.encode_to_vec()).unwrap_err().to_string();
    assert_eq!(error, "type: must be EDS, STRICT_DNS, LOGICAL_DNS or ORIGINAL_DST");
    // Field 8, which would otherwise be left out.
    let error = cluster(&[8 << 3 | 2, 0]).unwrap_err().to_string();
    assert_eq!(error, "health_checks: is not supported in envoy.config.cluster.v3.Cluster");
}

/// The listener for requests whose filters before the router are these.
fn listener_with(filters: Vec<(&str, Vec<u8>)>) -> Result<Listener, String> {
    listener_of(filters, Vec::new())
}

/// The same, whose connections may go on as something else.
fn listener_of(filters: Vec<(&str, Vec<u8>)>, upgrade_configs: Vec<UpgradeConfig>) -> Result<Listener, String> {
    use fairway_proto::envoy::core::{AggregatedConfigSource, ConfigSource, config_source::ConfigSourceSpecifier};
    use fairway_proto::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
    use fairway_proto::envoy::http_connection_manager::{HttpConnectionManager, HttpFilter, Rds, http_filter};
    use fairway_proto::envoy::listener as message;
    let any = |kind: &str, value| prost_types::Any {
        type_url: format!("type.googleapis.com/envoy.extensions.filters.{kind}"),
        value,
    };
    let router = ("http.router.v3.Router", Vec::new());
    let filter = |(kind, value)| HttpFilter {
        config_type: Some(http_filter::ConfigType::TypedConfig(any(kind, value))),
        ..HttpFilter::default()
    };
    let ads = ConfigSourceSpecifier::Ads(AggregatedConfigSource {});
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ConfigSource { config_source_specifier: Some(ads), ..ConfigSource::default() }),
            route_config_name: "r".into(),
        })),
        http_filters: filters.into_iter().chain([router]).map(filter).collect(),
        upgrade_configs,
        ..HttpConnectionManager::default()
    };
    let config = any("network.http_connection_manager.v3.HttpConnectionManager", manager.encode_to_vec());
    let filter =
        message::Filter { config_type: Some(message::filter::ConfigType::TypedConfig(config)), ..Default::default() };
    let chain = message::FilterChain { filters: vec![filter], ..Default::default() };
    let message = message::Listener { filter_chains: vec![chain], ..Default::default() };
    listener(&message.encode_to_vec()).map_err(|wrong| wrong.to_string())
}

#[test]
fn connections_go_on_as_what_is_named_and_as_nothing_that_carries_requests() {
    let named = |names: &[&str]| {
        let configs = names.iter().map(|name| UpgradeConfig { upgrade_type: (*name).to_owned() }).collect();
        match listener_of(Vec::new(), configs) {
            Ok(Listener::Http(http)) => Ok(http.upgrades.names().collect::<Vec<_>>()),
            Ok(other) => panic!("{other:?}"),
            Err(wrong) => Err(wrong),
        }
    };
    assert_eq!(named(&[]).unwrap(), [""; 0], "nothing by itself");
    assert_eq!(named(&["websocket", "SPDY/3.1", "CONNECT"]).unwrap(), ["websocket", "spdy/3.1", "CONNECT"]);
    for (name, expected) in [("h2c", "would carry requests"), ("a b", "is neither"), ("connect-udp", "carries packets")]
    {
        let wrong = named(&["websocket", name]).unwrap_err();
        let start = format!("filter_chains[0].filters[0].upgrade_configs[1].upgrade_type: {name:?} {expected}");
        assert!(wrong.starts_with(&start), "{wrong}");
    }
}

#[test]
fn connect_leads_where_its_client_says() {
    use fairway_proto::envoy::route::RouteAction as Changed;
    use fairway_proto::envoy::route::route_action::{HostRewriteSpecifier, RequestMirrorPolicy};
    use fairway_proto::envoy::route::route_match::ConnectMatcher;
    let with = |change: fn(&mut Changed)| {
        read(|route, action| {
            let matching = route.r#match.as_mut().unwrap();
            matching.path_specifier = Some(PathSpecifier::ConnectMatcher(ConnectMatcher {}));
            change(action);
        })
    };
    assert!(matches!(with(|_| {}).unwrap().matching.path, PathMatch::Connect));
    type Row = (fn(&mut Changed), &'static str);
    let rows: [Row; 4] = [
        (|it| it.prefix_rewrite = "/a".into(), "prefix_rewrite or regex_rewrite"),
        (
            |it| {
                let pattern = Some(RegexMatcher { regex: "a".into() });
                it.regex_rewrite = Some(RegexMatchAndSubstitute { pattern, substitution: "b".into() });
            },
            "prefix_rewrite or regex_rewrite",
        ),
        (
            |it| it.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral("b:1".into())),
            "host_rewrite_literal",
        ),
        (
            |it| {
                let cluster = "copy".to_owned();
                it.request_mirror_policies = vec![RequestMirrorPolicy { cluster, ..Default::default() }];
            },
            "request_mirror_policies",
        ),
    ];
    for (change, field) in rows {
        let expected = format!("virtual_hosts[0].routes[0].route.{field}: must not be there beside connect_matcher");
        assert_eq!(with(change).unwrap_err(), expected);
    }
    // What of the matcher itself is not known is refused, too: field 1, a number.
    let wrong = fields::check("envoy.config.route.v3.RouteMatch", &[12 << 3 | 2, 2, 1 << 3, 1]);
    let wrong = wrong.unwrap_err().to_string();
    assert_eq!(
        wrong,
        "connect_matcher[0].field 1: is not supported in envoy.config.route.v3.RouteMatch.ConnectMatcher"
    );
}

const JWT: &str = "http.jwt_authn.v3.JwtAuthentication";

/// One provider called `p`, as changed, and the rule that asks for it.
fn tokens(change: impl FnOnce(&mut JwtAuthentication, &mut JwtProvider)) -> Vec<u8> {
    let keys = DataSource { specifier: Some(Specifier::InlineString(r#"{"keys":[]}"#.into())) };
    let mut provider = JwtProvider {
        issuer: "a".into(),
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(keys)),
        payload_in_metadata: "payload".into(),
        ..Default::default()
    };
    let one = |requires| JwtRequirement { requires_type: Some(requires) };
    let any = [one(RequiresType::ProviderName("p".into())), one(RequiresType::AllowMissing(()))];
    let any = RequiresType::RequiresAny(JwtRequirementOrList { requirements: any.to_vec() });
    let matching = RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() };
    let rule = RequirementRule { r#match: Some(matching), requirement_type: Some(RequirementType::Requires(one(any))) };
    let mut message = JwtAuthentication { rules: vec![rule], ..Default::default() };
    change(&mut message, &mut provider);
    message.providers.entry("p".into()).or_insert(provider);
    message.encode_to_vec()
}

#[test]
fn tokens_are_read_and_looked_for_where_the_provider_says() {
    let places = |change: fn(&mut JwtProvider)| match listener_with(vec![(JWT, tokens(|_, provider| change(provider)))])
        .unwrap()
    {
        Listener::Http(http) => http.tokens.as_ref().unwrap().issuers[0].places.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(places(|_| {}), [Place::Bearer, Place::Parameter("access_token".into())]);
    assert_eq!(places(|provider| provider.from_cookies = vec!["c".into()]), [Place::Cookie("c".into())]);
    let wrong = |message| listener_with(vec![(JWT, message)]).unwrap_err();
    let filter = "filter_chains[0].filters[0].http_filters[0].typed_config";
    for (message, expected) in [
        (tokens(|message, _| message.rules.clear()), "rules: must be one"),
        (tokens(|_, provider| provider.issuer.clear()), "providers[p].issuer: is missing"),
        (
            tokens(|_, provider| provider.payload_in_metadata = "x".into()),
            "providers[p].payload_in_metadata: must be payload",
        ),
        (
            tokens(|_, provider| provider.jwks_source_specifier = None),
            "providers[p].local_jwks.inline_string: is missing",
        ),
        (
            tokens(|message, _| drop(message.providers.insert("q".into(), JwtProvider::default()))),
            "providers[q]: is not required by the rule",
        ),
        (
            tokens(|message, _| message.rules[0].r#match.as_mut().unwrap().path_specifier = None),
            "rules[0].match: must be the prefix / and nothing else",
        ),
    ] {
        assert_eq!(wrong(message), format!("{filter}.{expected}"));
    }
}

#[test]
fn filters_have_one_order() {
    let rules = || {
        let rules = Some(Rbac { action: 1, ..Default::default() });
        ("http.rbac.v3.RBAC", fairway_proto::envoy::http_rbac::Rbac { rules, ..Default::default() }.encode_to_vec())
    };
    let (jwt, cors, fault) =
        (|| (JWT, tokens(|_, _| {})), ("http.cors.v3.Cors", vec![]), ("http.fault.v3.HTTPFault", vec![]));
    listener_with(vec![jwt(), rules(), rules(), cors.clone(), fault.clone()]).unwrap();
    for filters in [vec![rules(), jwt()], vec![fault.clone(), cors.clone()], vec![cors, rules()], vec![jwt(), jwt()]] {
        let wrong = listener_with(filters).unwrap_err();
        assert!(wrong.contains("http_filters[1]: is out of order"), "{wrong}");
    }
    let wrong = listener_with(vec![("http.lua.v3.Lua", vec![])]).unwrap_err();
    assert!(wrong.ends_with("http.lua.v3.Lua is not supported"), "{wrong}");
}

/// Rules that log, and rules that are only shadows, decide nothing; who both decides and does not is not understood.
#[test]
fn what_decides_nothing_is_kept_apart() {
    use fairway_proto::envoy::http_rbac;
    const RBAC: &str = "http.rbac.v3.RBAC";
    let rbac = |action, name: &str| {
        let policies = [(name.to_owned(), PolicyMessage::default())].into();
        Some(Rbac { action, policies })
    };
    let filter = |rules: Option<Rbac>, shadow_rules: Option<Rbac>| {
        let shadow_rules_stat_prefix = "p_".to_owned();
        (RBAC, http_rbac::Rbac { rules, shadow_rules, shadow_rules_stat_prefix }.encode_to_vec())
    };
    let filters = vec![
        (JWT, tokens(|_, _| {})),
        filter(rbac(2, "shop/audit/0"), None),
        filter(None, rbac(1, "shop/tried/0")),
        filter(None, rbac(0, "shop/tried-allow/0")),
        filter(rbac(1, "shop/deny/0"), None),
    ];
    let Listener::Http(http) = listener_with(filters).unwrap() else { panic!("requests") };
    let names = |rules: &Rules| rules.policies.iter().map(|policy| policy.name.clone()).collect::<Vec<_>>().join(" ");
    let silent: Vec<_> = http.silent.iter().map(|it| (it.purpose, it.rules.verdict, names(&it.rules))).collect();
    assert_eq!(
        silent,
        [
            (Purpose::Audit, Verdict::Deny, "shop/audit/0".to_owned()),
            (Purpose::DryRun, Verdict::Deny, "shop/tried/0".to_owned()),
            (Purpose::DryRun, Verdict::Allow, "shop/tried-allow/0".to_owned()),
        ]
    );
    let decides: Vec<_> = http.policies.iter().map(names).collect();
    assert_eq!(decides, ["shop/deny/0"]);
    let wrong = |filters| listener_with(filters).unwrap_err();
    let both = wrong(vec![filter(rbac(1, "a/b/0"), rbac(1, "a/b/0"))]);
    assert!(both.ends_with("http_filters[0].typed_config.rules: must not be there beside shadow_rules"), "{both}");
    let neither = wrong(vec![filter(None, None)]);
    assert!(neither.ends_with("http_filters[0].typed_config.rules: is missing"), "{neither}");
    let late = wrong(vec![("http.cors.v3.Cors", vec![]), filter(None, rbac(1, "a/b/0"))]);
    assert!(late.contains("http_filters[1]: is out of order"), "{late}");
    let logs = wrong(vec![filter(None, rbac(2, "a/b/0"))]);
    assert!(logs.ends_with("shadow_rules.action: must be ALLOW or DENY"), "{logs}");
}

#[test]
fn what_routes_say_to_filters_is_read() {
    use fairway_proto::envoy::cors::CorsPolicy;
    use fairway_proto::envoy::fault::{FaultAbort, HttpFault, fault_abort::ErrorType};
    use fairway_proto::envoy::fraction::FractionalPercent;
    let with = |key: &str, kind: &str, value: Vec<u8>| {
        let any =
            prost_types::Any { type_url: format!("type.googleapis.com/envoy.extensions.filters.http.{kind}"), value };
        read(|route, _| drop(route.typed_per_filter_config.insert(format!("envoy.filters.http.{key}"), any)))
    };
    let abort = |status| {
        let percentage = Some(FractionalPercent { numerator: 5, denominator: 0 });
        let abort = Some(FaultAbort { error_type: Some(ErrorType::HttpStatus(status)), percentage });
        with("fault", "fault.v3.HTTPFault", HttpFault { delay: None, abort }.encode_to_vec())
    };
    let fault = abort(503).unwrap().before.fault;
    assert_eq!(fault.abort, Some((Abort::Http(StatusCode::SERVICE_UNAVAILABLE), 50_000)));
    let at = "virtual_hosts[0].routes[0].typed_per_filter_config";
    assert_eq!(
        abort(100).unwrap_err(),
        format!("{at}[envoy.filters.http.fault].abort.http_status: is no status of an answer")
    );
    let cors = with("cors", "cors.v3.CorsPolicy", CorsPolicy::default().encode_to_vec()).unwrap().before.cors.unwrap();
    assert!(cors.passes_others && !cors.has_credentials, "Envoy's own where nothing is said");
    let crossed = with("cors", "fault.v3.HTTPFault", Vec::new()).unwrap_err();
    assert!(crossed.starts_with(&format!("{at}[envoy.filters.http.cors]: ")), "{crossed}");
}

#[test]
fn where_clients_keep_an_endpoint_is_read() {
    use fairway_proto::envoy::core::TypedExtensionConfig;
    use fairway_proto::envoy::http_cookie::Cookie;
    use fairway_proto::envoy::session_cookie::CookieBasedSessionState;
    use fairway_proto::envoy::session_header::HeaderBasedSessionState;
    use fairway_proto::envoy::stateful_session::stateful_session_per_route::Override;
    use fairway_proto::envoy::stateful_session::{StatefulSession, StatefulSessionPerRoute};
    const KEY: &str = "envoy.filters.http.stateful_session";
    let any = |kind: &str, value| prost_types::Any { type_url: format!("type.googleapis.com/envoy.{kind}"), value };
    let with = |session: Override| {
        let message = StatefulSessionPerRoute { r#override: Some(session) }.encode_to_vec();
        let any = any("extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute", message);
        read(|route, _| drop(route.typed_per_filter_config.insert(KEY.into(), any))).map(|route| route.before.session)
    };
    let kept = |kind: &str, value: Vec<u8>, strict| {
        let state = any(&format!("extensions.http.stateful_session.{kind}"), value);
        let session_state = Some(TypedExtensionConfig { name: "s".into(), typed_config: Some(state) });
        with(Override::StatefulSession(StatefulSession { session_state, strict }))
    };
    let cookie = |name: &str, ttl, path: &str| {
        let message = CookieBasedSessionState { cookie: Some(Cookie { name: name.into(), ttl, path: path.into() }) };
        kept("cookie.v3.CookieBasedSessionState", message.encode_to_vec(), false)
    };
    let header = |name: &str, strict| {
        let message = HeaderBasedSessionState { name: name.into() };
        kept("header.v3.HeaderBasedSessionState", message.encode_to_vec(), strict)
    };
    let minute = Some(Duration::from_secs(60));
    let good = [
        (cookie("a", seconds(60), "/"), Some(Session::Cookie { name: "a".into(), ttl: minute })),
        (cookie("a", seconds(0), ""), Some(Session::Cookie { name: "a".into(), ttl: None })),
        (header("X-A", false), Some(Session::Header(HeaderName::from_static("x-a")))),
        (with(Override::Disabled(true)), None),
    ];
    for (found, expected) in good {
        assert_eq!(found, Ok(expected));
    }
    let wrong = [
        (cookie("a b", None, "/"), "session_state.cookie.name"),
        (cookie("a", None, "/b"), "session_state.cookie.path"),
        (cookie("a", seconds(-1), "/"), "session_state.cookie.ttl"),
        (header("", false), "session_state.name"),
        (header("x-a", true), "strict"),
    ];
    for (found, field) in wrong {
        let at = format!("virtual_hosts[0].routes[0].typed_per_filter_config[{KEY}].stateful_session.{field}: ");
        let wrong = found.unwrap_err();
        assert!(wrong.starts_with(&at), "{wrong}");
    }
    let of_all = ("http.stateful_session.v3.StatefulSession", StatefulSession { strict: true, ..Default::default() });
    assert!(listener_with(vec![(of_all.0, of_all.1.encode_to_vec())]).unwrap_err().contains("must be empty"));
    assert!(listener_with(vec![("http.fault.v3.HTTPFault", vec![]), (of_all.0, vec![])]).is_ok());
}

#[test]
fn names_of_tls_are_read_and_the_most_specific_counts() {
    use fairway_proto::envoy::listener as message;
    use fairway_proto::envoy::tcp_proxy::{TcpProxy, tcp_proxy::ClusterSpecifier};
    let any = |kind: &str, value| prost_types::Any {
        type_url: format!("type.googleapis.com/envoy.extensions.filters.{kind}"),
        value,
    };
    let chain = |names: &[&str], cluster: &str| {
        let proxy =
            TcpProxy { cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())), ..Default::default() };
        let config =
            message::filter::ConfigType::TypedConfig(any("network.tcp_proxy.v3.TcpProxy", proxy.encode_to_vec()));
        let server_names = names.iter().map(|name| (*name).to_owned()).collect();
        message::FilterChain {
            filter_chain_match: Some(message::FilterChainMatch { server_names, ..Default::default() }),
            filters: vec![message::Filter { config_type: Some(config), ..Default::default() }],
        }
    };
    let inspector =
        message::listener_filter::ConfigType::TypedConfig(any("listener.tls_inspector.v3.TlsInspector", vec![]));
    let inspector = message::ListenerFilter { config_type: Some(inspector), ..Default::default() };
    let read = |filter_chains, listener_filters| {
        let message = message::Listener { filter_chains, listener_filters, ..Default::default() };
        match listener(&message.encode_to_vec()).map_err(|wrong| wrong.to_string())? {
            Listener::Opaque(opaque) => Ok(opaque),
            other => Err(format!("{other:?}")),
        }
    };
    let all = vec![chain(&["a.example", "*.b.example"], "1"), chain(&["*.x.b.example"], "2"), chain(&[], "3")];
    let opaque = read(all.clone(), vec![inspector.clone()]).unwrap();
    let cluster = |name| opaque.chain(name).map(|chain| chain.clusters.at(0).unwrap().as_str());
    for (name, expected) in [
        (Some("a.example"), "1"),
        (Some("y.b.example"), "1"),
        (Some("y.x.b.example"), "2"),
        (Some("x.b.example"), "1"),
        (Some("b.example"), "3"),
        (Some(".b.example"), "3"),
        (None, "3"),
    ] {
        assert_eq!(cluster(name), Some(expected), "{name:?}");
    }
    // Policies may ask for them where no chain does.
    let read_for_nobody = |filters| read(vec![chain(&[], "1")], filters).unwrap().reads_names;
    assert_eq!(
        [opaque.reads_names, read_for_nobody(vec![inspector.clone()]), read_for_nobody(vec![])],
        [true, true, false]
    );
    let named_only = read(all[..2].to_vec(), vec![inspector.clone()]).unwrap();
    assert_eq!((named_only.chain(None), named_only.chain(Some("c"))), (None, None));
    for (chains, filters, wrong) in [
        (all.clone(), vec![], "listener_filters: must have tls_inspector where chains have server_names"),
        (
            vec![chain(&[], "1"), chain(&["a"], "2")],
            vec![inspector.clone()],
            "filter_chains[0]: without server_names must be the last",
        ),
        (
            vec![chain(&["a"], "1"), chain(&["A"], "2")],
            vec![inspector.clone()],
            "filter_chains[1].filter_chain_match.server_names[0]: is there twice",
        ),
        (
            vec![chain(&["*a"], "1")],
            vec![inspector],
            "filter_chains[0].filter_chain_match.server_names[0]: must be a name, or *. and one",
        ),
    ] {
        assert_eq!(read(chains, filters).unwrap_err(), wrong);
    }
}

/// Every resource in the controller's golden files, for every kind of client.
#[test]
fn all_that_the_controller_sends_is_taken() {
    let pool = prost_reflect::DescriptorPool::decode(fairway_proto::DESCRIPTORS).unwrap();
    let bytes = |kind: &str, value: &serde_json::Value| {
        let descriptor = pool.get_message_by_name(kind).unwrap();
        prost_reflect::DynamicMessage::deserialize(descriptor, value).unwrap().encode_to_vec()
    };
    let read = |kind: &str, value: &serde_json::Value| match kind {
        "Listener" => listener(&bytes("envoy.config.listener.v3.Listener", value)).map(drop),
        "RouteConfiguration" => table(&bytes("envoy.config.route.v3.RouteConfiguration", value)).map(drop),
        "Cluster" => cluster(&bytes("envoy.config.cluster.v3.Cluster", value)).map(drop),
        "ClusterLoadAssignment" => {
            assignment(&bytes("envoy.config.endpoint.v3.ClusterLoadAssignment", value)).map(drop)
        }
        other => panic!("what is {other}?"),
    };
    let mut taken = std::collections::BTreeMap::new();
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../controller/tests/golden");
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let Some((_, expected)) = text.split_once("# === expected ===\n") else { continue };
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        for (client, kinds) in expected["clients"].as_object().into_iter().flatten() {
            for (kind, resources) in kinds.as_object().into_iter().flatten() {
                for (name, value) in resources.as_object().into_iter().flatten().filter(|(_, value)| value.is_object())
                {
                    let result = read(kind, value);
                    assert!(result.is_ok(), "{}, {client}, {kind} {name}: {result:?}", path.display());
                    *taken.entry(kind.clone()).or_insert(0) += 1;
                }
            }
        }
    }
    let few: Vec<_> = taken.iter().filter(|(_, count)| **count < 3).collect();
    assert!(taken.len() == 4 && few.is_empty(), "{taken:?}");
}
