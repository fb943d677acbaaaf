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
    let path = match &wanted.path {
        PathMatch::Prefix(prefix) => head.path.starts_with(prefix),
        PathMatch::Exact(path) => head.path == path,
        PathMatch::Regex(regex) => regex.is_match(head.path),
    };
    path && wanted.headers.iter().all(|header| head.has(header))
        && wanted.query.iter().all(|(name, value)| head.parameter(name).is_some_and(|found| value.matches(found)))
        && wanted.namespace.iter().all(|namespace| namespace.matches(facts.identity.namespace()))
}
