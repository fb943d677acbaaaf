//! TCPRoutes and TLSRoutes to what is attached where: those that know names before those that do not, both after what tells
//! requests apart, and the older before the younger (api-surface A16).

use std::collections::BTreeMap;

use fairway_core::source::route::{StreamRoute, StreamRule};
use fairway_core::source::{Kind, ObjectKey};

use super::super::catalog::{Catalog, Unit};
use super::super::model::{Routes, Stream, Target};
use super::super::rules::{Reader, text};
use super::super::verdict::{AtParent, Class, Verdict};
use super::Place;
use crate::age::by_age;

/// Attaches all of them, where no route of requests has `taken` a place; takes what they are attached to.
pub(super) fn attach(catalog: Catalog<'_>, taken: &mut BTreeMap<Place, ObjectKey>, routes: &mut Routes) {
    let objects = catalog.objects;
    for all in [&objects.tls_routes, &objects.tcp_routes] {
        for (key, route) in by_age(all.iter(), |route| &route.metadata) {
            attach_one(catalog, key, route, taken, routes);
        }
    }
}

fn attach_one(
    catalog: Catalog<'_>,
    key: &ObjectKey,
    route: &StreamRoute,
    taken: &mut BTreeMap<Place, ObjectKey>,
    routes: &mut Routes,
) {
    let namespace = key.namespace.as_str();
    let parents = route.spec.parent_refs.iter().enumerate().filter_map(|(index, reference)| {
        let targets = catalog.parent(namespace, reference, Unit::Connection)?;
        Some((index, reference, targets))
    });
    let parents: Vec<_> = parents.collect();
    if parents.is_empty() {
        return;
    }
    let mut reader = Reader::new(catalog, key, &route.spec.parent_refs);
    let stream = reader.stream(key, route);
    let mut verdict =
        Verdict { generation: route.metadata.generation, is_unsupported: stream.is_none(), ..Verdict::default() };
    for (index, reference, targets) in parents {
        let is_consumer = reference.namespace.as_ref().is_some_and(|owner| owner != namespace);
        let accepted = match (targets, &stream) {
            (Err(refusal), _) => Err(refusal),
            (Ok(_), _) if is_consumer => {
                let message = "a route of connections counts in the namespace of the service only";
                Err(("UnsupportedValue", message.to_owned()))
            }
            (Ok(_), None) => Ok(()),
            (Ok(targets), Some(stream)) => take(key, stream, &targets, taken, routes),
        };
        verdict.parents.push(AtParent { index, parent: reference.clone(), accepted });
    }
    verdict.findings = reader.findings;
    routes.verdicts.insert(key.clone(), verdict);
}

/// Attaches a route to ports; an error where another one has all of them.
pub(super) fn take(
    key: &ObjectKey,
    stream: &Stream,
    targets: &[Target],
    taken: &mut BTreeMap<Place, ObjectKey>,
    routes: &mut Routes,
) -> Result<(), (&'static str, String)> {
    let mut winner = None;
    let mut is_attached = false;
    for target in targets {
        let place: Place = (target.clone(), None);
        let streams = &mut routes.attached.entry(target.clone()).or_default().streams;
        let has_requests = taken.get(&place).is_some_and(|_| streams.is_empty());
        let is_known = |name: &String| streams.iter().any(|known| known.servers.contains(name));
        let servers: Vec<String> = stream.servers.iter().filter(|name| !is_known(name)).cloned().collect();
        let is_beaten = if stream.servers.is_empty() {
            streams.iter().any(|known| known.servers.is_empty() || known.route.kind == Kind::TLSRoute)
        } else {
            servers.is_empty()
        };
        if has_requests || is_beaten {
            winner = winner.or_else(|| taken.get(&place).cloned());
            continue;
        }
        streams.push(Stream { servers, ..stream.clone() });
        taken.entry(place).or_insert_with(|| key.clone());
        is_attached = true;
    }
    match winner {
        Some(winner) if !is_attached => Err(("Conflicted", format!("{winner} is attached there, and comes first"))),
        _ => Ok(()),
    }
}

impl Reader<'_> {
    /// What a route does with connections; nothing where it cannot be told which.
    fn stream(&mut self, key: &ObjectKey, route: &StreamRoute) -> Option<Stream> {
        for name in route.spec.unread.keys() {
            self.find(Class::Different, format!("spec.{name}"), "is not supported and has no effect");
        }
        let mut servers = Vec::new();
        if key.kind == Kind::TLSRoute {
            for (index, name) in route.spec.hostnames.iter().enumerate() {
                servers.extend(self.server(&format!("spec.hostnames[{index}]"), name));
            }
            if servers.is_empty() {
                self.find(Class::Unsupported, "spec.hostnames".to_owned(), "has no name that clients could ask for");
                return None;
            }
        }
        let rules = route.spec.rules.as_deref().unwrap_or_default();
        let [rule] = rules else {
            self.find(
                Class::Unsupported,
                "spec.rules".to_owned(),
                "must be one; connections are not told apart further",
            );
            return None;
        };
        let shares = self.connections("spec.rules[0]", rule);
        Some(Stream { route: key.clone(), name: format!("{}/{}", key.namespace, key.name), servers, shares })
    }

    /// A name that clients ask for by SNI, or `*.` and a part of one.
    pub(in super::super) fn server(&mut self, at: &str, name: &str) -> Option<String> {
        let is_name = text::is_host(name.strip_prefix("*.").unwrap_or(name)) && name.contains('.');
        if !is_name {
            self.find(Class::Unsupported, at.to_owned(), format!("{name:?} is no name; it is left out"));
        }
        is_name.then(|| name.to_ascii_lowercase())
    }

    /// The shares of connections. What cannot be done is a share that leads nowhere: they are closed.
    fn connections(&mut self, at: &str, rule: &StreamRule) -> Vec<(u32, Option<Target>)> {
        if !self.reads_all(at, &rule.unread, "connections are closed") {
            return vec![(1, None)];
        }
        let mut shares = Vec::new();
        for (index, reference) in rule.backend_refs.iter().enumerate() {
            let at = format!("{at}.backendRefs[{index}]");
            let is_read = self.reads_all(&at, &reference.unread, "its share of connections is closed");
            let target = match self.catalog.backend(self.namespace, reference, Unit::Connection, &self.referrer) {
                Ok(target) => Some(target).filter(|_| is_read && reference.filters.is_empty()),
                Err((reason, message)) => {
                    self.find(Class::Reference(reason), at, format!("{message}; its share of connections is closed"));
                    None
                }
            };
            shares.extend(Some((reference.weight.unwrap_or(1), target)).filter(|(weight, _)| *weight > 0));
        }
        if shares.is_empty() { vec![(1, None)] } else { shares }
    }
}
