//! Tables of routes and the head of a request, beside a reader that follows the messages literally.

use fairway_core::ident::Identity;
use fairway_proto::envoy::matcher::StringMatcher;
use fairway_proto::envoy::matcher::filter_state_matcher::Matcher as StateMatcher;
use fairway_proto::envoy::matcher::string_matcher::MatchPattern;
use fairway_proto::envoy::route::header_matcher::HeaderMatchSpecifier;
use fairway_proto::envoy::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use fairway_proto::envoy::route::route_match::PathSpecifier;
use fairway_proto::envoy::route::{HeaderMatcher, RouteConfiguration, RouteMatch, VirtualHost};
use fairway_waypoint::config::table;
use fairway_waypoint::facts::{Facts, Head};
use fairway_waypoint::matching::find;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use prost::Message;
use regex::Regex;

use crate::input::Input;

/// What the head is, then a `RouteConfiguration`.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let identity = match input.byte() & 1 {
        0 => Identity::new("cluster.local", "shop", "web"),
        _ => Identity::new("cluster.local", "other", "web"),
    };
    let Ok(identity) = identity else { return };
    let (method, authority, target) = (input.text(), input.text(), input.text());
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let mut headers = HeaderMap::new();
    for _ in 0..input.byte() % 4 {
        let (name, value) = (HeaderName::from_bytes(input.piece()), HeaderValue::from_bytes(input.piece()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let bytes = input.rest();
    let Ok(read) = table(bytes) else { return };
    let path = (method != "CONNECT").then_some(path);
    let head = Head { method, authority, path, query, headers: &headers, claims: None };
    let facts = Facts::of(&identity, [10, 0, 0, 1].into(), ([10, 96, 0, 1], 80).into());
    let facts = Facts { request: Some(head), ..facts };
    let place = || {
        find(&read, &facts).map(|(host, route)| {
            let of = read.hosts.iter().position(|known| std::ptr::eq(known, host)).expect("a host of the table");
            (of, host.routes.iter().position(|known| std::ptr::eq(known, route)).expect("a route of the host"))
        })
    };
    let found = place();
    assert_eq!(found, place(), "the same each time");
    let message = RouteConfiguration::decode(bytes).expect("what is read can be decoded");
    assert_eq!(found, literally(&message, &facts, head), "{message:?}, {facts:?}");
    assert!(find(&read, &Facts { request: None, ..facts }).is_none(), "no request, no route");
}

/// The host that is named, or else the one for all; in it the first route that matches.
fn literally(message: &RouteConfiguration, facts: &Facts<'_>, head: Head<'_>) -> Option<(usize, usize)> {
    let whole = head.authority.to_ascii_lowercase();
    let bare = match whole.rfind(':') {
        Some(colon) => &whole[..colon],
        None => &whole,
    };
    let has = |host: &VirtualHost, name: &str| host.domains.iter().any(|domain| domain.to_ascii_lowercase() == name);
    let hosts = &message.virtual_hosts;
    let named = hosts.iter().position(|host| has(host, &whole) || has(host, bare));
    let host = named.or_else(|| hosts.iter().position(|host| has(host, "*")))?;
    let matches = |route: &fairway_proto::envoy::route::Route| {
        route.r#match.as_ref().is_some_and(|matching| holds(matching, facts, head))
    };
    Some((host, hosts[host].routes.iter().position(matches)?))
}

fn holds(matching: &RouteMatch, facts: &Facts<'_>, head: Head<'_>) -> bool {
    let ignores_case = matching.case_sensitive == Some(false);
    let cased = |text: &str| if ignores_case { text.to_ascii_lowercase() } else { text.to_owned() };
    let path = match matching.path_specifier.as_ref().expect("checked") {
        PathSpecifier::Prefix(prefix) => head.path.is_some_and(|path| cased(path).starts_with(&cased(prefix))),
        PathSpecifier::Path(wanted) => head.path.is_some_and(|path| cased(path) == cased(wanted)),
        PathSpecifier::SafeRegex(regex) => head.path.is_some_and(|path| whole(&regex.regex).is_match(path)),
        PathSpecifier::ConnectMatcher(_) => head.path.is_none(),
    };
    let query = matching.query_parameters.iter().all(|wanted| {
        let Some(QueryParameterMatchSpecifier::StringMatch(text)) = &wanted.query_parameter_match_specifier else {
            unreachable!("checked")
        };
        let pairs = head.query.into_iter().flat_map(|query| query.split('&'));
        let mut values = pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name == wanted.name).then_some(value)
        });
        values.next().is_some_and(|value| is_like(text, value))
    });
    let namespace = matching.filter_state.iter().all(|state| match &state.matcher {
        Some(StateMatcher::StringMatch(text)) => is_like(text, facts.identity.namespace()),
        None => unreachable!("checked"),
    });
    path && query && namespace && matching.headers.iter().all(|wanted| header_holds(wanted, head))
}

/// Each line counts by itself; one that is not there is empty where that is asked for.
fn header_holds(wanted: &HeaderMatcher, head: Head<'_>) -> bool {
    let target = |path: &str| head.query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut lines: Vec<String> = match wanted.name.as_str() {
        ":method" => vec![head.method.to_owned()],
        ":authority" | "host" | "Host" => vec![head.authority.to_owned()],
        ":path" => head.path.map(target).into_iter().collect(),
        ":scheme" => vec!["http".to_owned()],
        name => {
            let lines = head.headers.get_all(name.to_ascii_lowercase()).iter();
            lines.map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned()).collect()
        }
    };
    if lines.is_empty() && wanted.treat_missing_header_as_empty {
        lines.push(String::new());
    }
    let holds = match wanted.header_match_specifier.as_ref().expect("checked") {
        HeaderMatchSpecifier::StringMatch(text) => lines.iter().any(|line| is_like(text, line)),
        HeaderMatchSpecifier::PresentMatch(present) => lines.is_empty() != *present,
    };
    holds != wanted.invert_match
}

fn whole(pattern: &str) -> Regex {
    Regex::new(&format!("^(?:{pattern})$")).expect("checked")
}

fn is_like(wanted: &StringMatcher, text: &str) -> bool {
    let cased = |text: &str| if wanted.ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
    match wanted.match_pattern.as_ref().expect("checked") {
        MatchPattern::Exact(exact) => cased(text) == cased(exact),
        MatchPattern::Prefix(prefix) => cased(text).starts_with(&cased(prefix)),
        MatchPattern::Suffix(suffix) => cased(text).ends_with(&cased(suffix)),
        MatchPattern::Contains(part) => cased(text).contains(&cased(part)),
        MatchPattern::SafeRegex(pattern) => whole(&pattern.regex).is_match(text),
    }
}
