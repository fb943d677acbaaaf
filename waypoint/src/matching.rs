//! Finds the route of a request.

use crate::config::{Host, Match, PathMatch, Route, Table};
use crate::facts::Facts;

/// The first route that matches, and the hosts that it is one of; none if there is none.
#[must_use]
pub fn find<'a>(table: &'a Table, facts: &Facts<'_>) -> Option<(&'a Host, &'a Route)> {
    let authority = facts.request?.authority.to_ascii_lowercase();
    let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
    let is_named = |it: &&Host| it.domains.iter().any(|name| *name == authority || name == host);
    let for_all = |it: &&Host| it.domains.iter().any(|name| name == "*");
    let found = table.hosts.iter().find(is_named).or_else(|| table.hosts.iter().find(for_all))?;
    Some((found, found.routes.iter().find(|route| matches(&route.matching, facts))?))
}

fn matches(wanted: &Match, facts: &Facts<'_>) -> bool {
    let Some(head) = facts.request else { return false };
    let is = |text: &str, wanted: &str, any_case: bool| {
        if any_case { text.eq_ignore_ascii_case(wanted) } else { text == wanted }
    };
    let path = match (&wanted.path, head.path) {
        (PathMatch::Connect, path) => path.is_none(),
        (_, None) => false,
        (PathMatch::Prefix(prefix), Some(path)) => {
            path.get(..prefix.len()).is_some_and(|start| is(start, prefix, wanted.any_case))
        }
        (PathMatch::Exact(wanted_path), Some(path)) => is(path, wanted_path, wanted.any_case),
        (PathMatch::Regex(regex), Some(path)) => regex.is_match(path),
    };
    path && wanted.headers.iter().all(|header| head.has(header))
        && wanted.without.iter().all(|header| head.is_without(header))
        && wanted.query.iter().all(|(name, value)| head.parameter(name).is_some_and(|found| value.matches(found)))
        && wanted.namespace.iter().all(|namespace| namespace.matches(facts.identity.namespace()))
}

#[cfg(test)]
mod tests {
    use fairway_core::ident::Identity;
    use http::{HeaderMap, HeaderName, HeaderValue};
    use regex::Regex;

    use super::*;
    use crate::config::{Header, HeaderMatch, Text, Without};
    use crate::facts::Head;
    use crate::testing::route_to;

    fn route(name: &str, path: PathMatch, change: impl FnOnce(&mut Match)) -> Route {
        let mut route = route_to("web");
        route.name = name.to_owned();
        route.matching.path = path;
        change(&mut route.matching);
        route
    }

    fn prefix(text: &str) -> PathMatch {
        PathMatch::Prefix(text.to_owned())
    }

    fn exact(text: &str) -> Text {
        Text::Exact(text.to_owned())
    }

    fn named(name: &'static str) -> Header {
        Header::Named(HeaderName::from_static(name))
    }

    fn header(name: Header, value: Text) -> Vec<HeaderMatch> {
        vec![HeaderMatch { name, value }]
    }

    fn host(domains: &[&str], routes: Vec<Route>) -> Host {
        Host { domains: domains.iter().map(|name| (*name).to_owned()).collect(), routes, counted: Vec::new() }
    }

    /// The name of the route for a request that a client in `namespace` sends; its target, its host, and its headers.
    fn found<'a>(
        table: &'a Table,
        (method, target, authority): (&str, &str, &str),
        headers: &[(&'static str, &'static str)],
        namespace: &str,
    ) -> Option<&'a str> {
        let identity = Identity::new("cluster.local", namespace, "web").unwrap();
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let path = (method != "CONNECT").then_some(path);
        let lines =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let headers = HeaderMap::from_iter(lines);
        let head = Head { method, authority, path, query, headers: &headers, claims: None };
        let facts = Facts::of(&identity, "10.0.0.1".parse().unwrap(), "10.96.0.1:80".parse().unwrap());
        let facts = Facts { request: Some(head), ..facts };
        find(table, &facts).map(|(_, route)| route.name.as_str())
    }

    fn table() -> Table {
        let pattern = |text: &str| Regex::new(&format!("^(?:{text})$")).unwrap();
        let routes = vec![
            route("exact", PathMatch::Exact("/exact".into()), |_| {}),
            route("exact-any-case", PathMatch::Exact("/Cased".into()), |it| it.any_case = true),
            route("prefix-any-case", prefix("/Low/"), |it| it.any_case = true),
            route("pattern", PathMatch::Regex(pattern("/item/[0-9]+")), |_| {}),
            route("pattern-any-case", PathMatch::Regex(pattern("/Big")), |it| it.any_case = true),
            route("namespace", prefix("/from"), |it| it.namespace = vec![exact("other")]),
            route("two-namespaces", prefix("/both"), |it| it.namespace = vec![exact("other"), exact("shop")]),
            route("method", prefix("/"), |it| it.headers = header(Header::Method, exact("DELETE"))),
            route("authority", prefix("/host"), |it| {
                it.headers = header(Header::Authority, Text::Prefix("web.shop".into()));
            }),
            route("scheme", prefix("/scheme"), |it| it.headers = header(Header::Scheme, exact("http"))),
            route("other-scheme", prefix("/tls"), |it| it.headers = header(Header::Scheme, exact("https"))),
            route("two-headers", prefix("/"), |it| {
                it.headers = header(named("x-a"), exact("1"));
                it.headers.extend(header(named("x-b"), Text::Regex(pattern("[0-9]+"))));
            }),
            route("header", prefix("/"), |it| it.headers = header(named("x-a"), exact("1"))),
            route("query", prefix("/"), |it| it.query = vec![("v".into(), exact("2")), ("w".into(), exact(""))]),
            route("without-any", prefix("/none"), |it| {
                it.without = vec![Without { name: named("x-c"), value: None }];
            }),
            route("without-value", prefix("/no"), |it| {
                it.without = vec![Without { name: named("x-c"), value: Some(exact("bad")) }];
            }),
            route("long", prefix("/long/path"), |_| {}),
            route("short", prefix("/long"), |_| {}),
            route("never", prefix("/long/path/more"), |_| {}),
        ];
        Table {
            hosts: vec![
                host(&["*"], routes),
                host(&["api.shop", "api.shop:81"], vec![route("named", prefix("/"), |_| {})]),
                host(&["api.shop:82"], vec![route("port", prefix("/"), |_| {})]),
                host(&["bare.shop"], vec![]),
            ],
        }
    }

    /// A request, its headers, the namespace of its client, and the route that is for it.
    #[test]
    fn the_first_route_that_matches_counts() {
        type Row = (&'static str, &'static str, &'static [(&'static str, &'static str)], Option<&'static str>);
        let rows: &[Row] = &[
            ("GET /exact", "shop", &[], Some("exact")),
            ("GET /exact?a=b", "shop", &[], Some("exact")),
            ("GET /exact/", "shop", &[], None),
            ("GET /Exact", "shop", &[], None),
            ("GET /cASED", "shop", &[], Some("exact-any-case")),
            ("GET /cased/", "shop", &[], None),
            ("GET /LOW/a", "shop", &[], Some("prefix-any-case")),
            ("GET /lo", "shop", &[], None),
            ("GET /l\u{f6}w/", "shop", &[], None),
            ("GET /item/12", "shop", &[], Some("pattern")),
            ("GET /item/12/x", "shop", &[], None),
            ("GET /x/item/12", "shop", &[], None),
            ("GET /big", "shop", &[], None),
            ("GET /Big", "shop", &[], Some("pattern-any-case")),
            ("GET /from/a", "other", &[], Some("namespace")),
            ("GET /from/a", "shop", &[], None),
            ("GET /both", "shop", &[], None),
            ("DELETE /anything", "shop", &[], Some("method")),
            ("DELETE /exact", "shop", &[], Some("exact")),
            ("GET /scheme", "shop", &[], Some("scheme")),
            ("GET /tls", "shop", &[], None),
            ("GET /x", "shop", &[("x-a", "1")], Some("header")),
            ("GET /x", "shop", &[("x-a", "1"), ("x-b", "23")], Some("two-headers")),
            ("GET /x", "shop", &[("x-b", "23")], None),
            ("GET /x", "shop", &[("x-a", "1"), ("x-b", "2x")], Some("header")),
            ("GET /x?v=2&w", "shop", &[], Some("query")),
            ("GET /x?w=&v=2", "shop", &[], Some("query")),
            ("GET /x?v=2", "shop", &[], None),
            ("GET /x?v=1&v=2&w=", "shop", &[], None),
            ("GET /none", "shop", &[], Some("without-any")),
            ("GET /none", "shop", &[("x-c", "good")], Some("without-value")),
            ("GET /none", "shop", &[("x-c", "bad")], None),
            ("GET /no", "shop", &[], Some("without-value")),
            ("GET /no", "shop", &[("x-c", "")], Some("without-value")),
            ("GET /long/path/more", "shop", &[], Some("long")),
            ("GET /long/pat", "shop", &[], Some("short")),
            ("GET /", "shop", &[], None),
        ];
        let table = table();
        for (request, namespace, headers, expected) in rows {
            let (method, target) = request.split_once(' ').unwrap();
            assert_eq!(
                found(&table, (method, target, "any.example"), headers, namespace),
                *expected,
                "{request} {headers:?}"
            );
        }
    }

    #[test]
    fn what_has_no_path_takes_a_route_that_asks_for_none() {
        let host_of = |name: &str| header(Header::Authority, exact(name));
        let any = |text: &str| PathMatch::Regex(Regex::new(text).unwrap());
        let rows: [(&str, Vec<Route>, Option<&str>); 8] = [
            ("CONNECT", vec![route("all", prefix("/"), |_| {})], None),
            ("CONNECT", vec![route("empty", prefix(""), |_| {})], None),
            ("CONNECT", vec![route("exact", PathMatch::Exact(String::new()), |_| {})], None),
            ("CONNECT", vec![route("any", any(".*"), |_| {})], None),
            ("CONNECT", vec![route("tunnel", PathMatch::Connect, |_| {})], Some("tunnel")),
            ("CONNECT", vec![route("host", PathMatch::Connect, |it| it.headers = host_of("db:5432"))], Some("host")),
            ("CONNECT", vec![route("other", PathMatch::Connect, |it| it.headers = host_of("db:22"))], None),
            ("GET", vec![route("tunnel", PathMatch::Connect, |_| {})], None),
        ];
        for (method, routes, expected) in rows {
            let table = Table { hosts: vec![host(&["*"], routes.clone())] };
            assert_eq!(found(&table, (method, "/", "db:5432"), &[], "shop"), expected, "{method} {routes:?}");
        }
    }

    #[test]
    fn each_line_of_a_header_that_must_not_be_there_counts() {
        let without = |value: Option<Text>| {
            let routes = vec![route("it", prefix("/"), |it| {
                it.without = vec![Without { name: named("x-c"), value }];
            })];
            Table { hosts: vec![host(&["*"], routes)] }
        };
        let rows: [(Option<Text>, &[&'static str], bool); 8] = [
            (None, &[], true),
            (None, &[""], false),
            (Some(exact("bad")), &[], true),
            (Some(exact("bad")), &["good", "bad"], false),
            (Some(exact("bad")), &["good", "better"], true),
            // One that is not there is empty.
            (Some(exact("")), &[], false),
            (Some(Text::Regex(Regex::new("^(?:.*)$").unwrap())), &[], false),
            (Some(Text::Regex(Regex::new("^(?:.+)$").unwrap())), &[], true),
        ];
        for (value, lines, expected) in rows {
            let headers: Vec<_> = lines.iter().map(|line| ("x-c", *line)).collect();
            let mut all = HeaderMap::new();
            headers.iter().for_each(|(name, value)| {
                all.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            });
            let table = without(value.clone());
            let head =
                Head { method: "GET", authority: "a", path: Some("/"), query: None, headers: &all, claims: None };
            let identity = Identity::new("cluster.local", "shop", "web").unwrap();
            let (source, destination) = ("10.0.0.1".parse().unwrap(), "10.96.0.1:80".parse().unwrap());
            let facts = Facts { request: Some(head), ..Facts::of(&identity, source, destination) };
            assert_eq!(find(&table, &facts).is_some(), expected, "{value:?} {lines:?}");
        }
    }

    #[test]
    fn a_host_that_is_named_comes_before_the_one_for_all() {
        let table = table();
        let rows = [
            ("api.shop", Some("named")),
            ("API.Shop", Some("named")),
            ("api.shop:80", Some("named")),
            ("api.shop:81", Some("named")),
            // Of hosts that are named the first counts, with or without the port.
            ("api.shop:82", Some("named")),
            ("web.shop", Some("short")),
            // No route of another host is for it.
            ("bare.shop", None),
        ];
        for (authority, expected) in rows {
            assert_eq!(found(&table, ("GET", "/long", authority), &[], "shop"), expected, "{authority}");
        }
        let hosted = |authority| found(&table, ("GET", "/host", authority), &[], "shop");
        assert_eq!((hosted("web.shop:80"), hosted("other.shop")), (Some("authority"), None));
    }
}
