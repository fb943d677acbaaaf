//! All routes to what is attached where: oldest first, the more specific kind alone on a port (api-surface A16).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_core::source::route::{ParentReference, Route};
use fairway_core::source::{Kind, ObjectKey, Objects};

use super::catalog::{Catalog, Refusal, Unit};
use super::destinations::Destinations;
use super::model::{Action, Entry, Routes, Rule, Target};
use super::rules::{Read, Reader};
use super::verdict::{AtParent, Class, Finding, Verdict};
use crate::age::Age;
use crate::translate::Settings;

mod streams;
mod traffic;

pub(crate) use traffic::is_of_mesh;

/// What happens to requests that would go where they may not.
const REFUSED: &str = "what the route sends there is answered with 500";

/// A route, read.
struct Candidate<'a> {
    key: &'a ObjectKey,
    age: Age<'a>,
    /// Of a kind that beats the others on a port.
    is_grpc: bool,
    parents: Vec<Parent<'a>>,
    entries: Vec<Entry>,
    /// The service of another namespace whose clients' requests stay on the port that they were sent to.
    bound_to: Option<Bound>,
    verdict: Verdict,
}

/// What the requests of a consumer's route are bound to.
struct Bound {
    hostnames: BTreeSet<String>,
    /// What would allow other ports.
    needed: String,
}

impl Bound {
    /// The entry as it is on a port, where it sends to no other one of the service. Nothing, where it does not anyway.
    fn narrowed(&self, entry: &Entry, place: &Target) -> Option<Entry> {
        let is_other = |to: &Target| self.hostnames.contains(&to.hostname) && to.port != place.port;
        let Action::Forward(forward) = &entry.rule.action else { return None };
        if !entry.backends().any(is_other) {
            return None;
        }
        let mut forward = forward.clone();
        forward.mirrors.retain(|mirror| !is_other(&mirror.target));
        for backend in &mut forward.backends {
            backend.target = backend.target.take().filter(|target| !is_other(target));
        }
        let is_left = forward.backends.iter().any(|backend| backend.target.is_some());
        let action = if is_left { Action::Forward(forward) } else { Action::Refuse };
        Some(Entry { rule: Arc::new(Rule { action, ..entry.rule.as_ref().clone() }), ..entry.clone() })
    }
}

/// A service that a route names.
struct Parent<'a> {
    index: usize,
    reference: &'a ParentReference,
    /// Namespace of the clients it is for, unless it is for all.
    scope: Option<String>,
    targets: Result<Vec<Target>, Refusal>,
}

impl Parent<'_> {
    fn places(&self) -> impl Iterator<Item = Place> {
        self.targets.iter().flatten().map(|target| (target.clone(), self.scope.clone()))
    }
}

/// Where a route is attached: the port, and the namespace of the clients unless it is for all.
type Place = (Target, Option<String>);

/// Attaches all routes.
#[must_use]
pub fn attach(objects: &Objects, settings: &Settings, destinations: &Destinations) -> Routes {
    let catalog = Catalog { objects, settings, destinations };
    let http = objects
        .http_routes
        .iter()
        .map(|(key, route)| read(catalog, key, route, |reader, at, rule| reader.http(at, rule)));
    let grpc = objects
        .grpc_routes
        .iter()
        .map(|(key, route)| read(catalog, key, route, |reader, at, rule| reader.grpc(at, rule)));
    let mut candidates: Vec<Candidate<'_>> = http.chain(grpc).filter(|route| !route.parents.is_empty()).collect();
    candidates.sort_by_key(|route| route.age);
    let places = |route: &Candidate<'_>| -> BTreeSet<Place> { route.parents.iter().flat_map(Parent::places).collect() };
    // Who is first of the kind that beats the others.
    let mut taken: BTreeMap<Place, ObjectKey> = BTreeMap::new();
    for route in candidates.iter().filter(|route| route.is_grpc) {
        for place in places(route) {
            taken.entry(place).or_insert_with(|| route.key.clone());
        }
    }
    let mut routes = Routes::default();
    let mut all_taken: BTreeMap<Place, ObjectKey> = BTreeMap::new();
    for mut route in candidates {
        let is_grpc = route.is_grpc;
        let beaten = |place: &Place| taken.get(place).filter(|_| !is_grpc);
        for place in places(&route).into_iter().filter(|place| beaten(place).is_none()) {
            all_taken.entry(place.clone()).or_insert_with(|| route.key.clone());
            let entries = route.entries_at(&place.0);
            routes.entries(place).extend(entries);
        }
        let verdicts = route.parents.iter().map(|parent| {
            let winners: Vec<_> = parent.places().map(|place| beaten(&place)).collect();
            let accepted = match (&parent.targets, winners.first()) {
                (Err(refusal), _) => Err(refusal.clone()),
                (Ok(_), Some(Some(winner))) if winners.iter().all(Option::is_some) => {
                    Err(("Conflicted", format!("{winner} is attached there, and its kind comes first")))
                }
                (Ok(_), _) => Ok(()),
            };
            AtParent { index: parent.index, parent: parent.reference.clone(), accepted }
        });
        let verdict = Verdict { parents: verdicts.collect(), ..route.verdict };
        routes.verdicts.insert(route.key.clone(), verdict);
    }
    for attached in routes.attached.values_mut() {
        for entries in attached.producer.iter_mut().chain(attached.consumers.values_mut()) {
            // Stable: among equals the older route comes first, and the earlier rule of one route.
            entries.sort_by_key(|entry| Reverse(entry.matching.rank));
        }
    }
    streams::attach(catalog, &mut all_taken, &mut routes);
    traffic::attach(catalog, &mut all_taken, &mut routes);
    routes
}

impl Candidate<'_> {
    /// What is attached to a port.
    fn entries_at(&mut self, place: &Target) -> Vec<Entry> {
        let Some(bound) = &self.bound_to else { return self.entries.clone() };
        let narrowed: Vec<Option<Entry>> = self.entries.iter().map(|entry| bound.narrowed(entry, place)).collect();
        if narrowed.iter().any(Option::is_some) {
            let needed = &bound.needed;
            let message = format!(
                "requests to port {} are sent to no other port of the service: {needed}; {REFUSED}",
                place.port
            );
            let field = "spec.parentRefs".to_owned();
            self.verdict.findings.push(Finding { field, message, class: Class::Unsupported });
        }
        let entries = narrowed.into_iter().zip(&self.entries);
        entries.map(|(narrowed, entry)| narrowed.unwrap_or_else(|| entry.clone())).collect()
    }
}

fn read<'a, R: Default>(
    catalog: Catalog<'a>,
    key: &'a ObjectKey,
    route: &'a Route<R>,
    read_rule: impl Fn(&mut Reader<'a>, &str, &R) -> Read,
) -> Candidate<'a> {
    let parents = route.spec.parent_refs.iter().enumerate().filter_map(|(index, reference)| {
        let targets = catalog.parent(&key.namespace, reference, Unit::Request)?;
        let is_consumer = reference.namespace.as_ref().is_some_and(|namespace| *namespace != key.namespace);
        Some(Parent { index, reference, scope: is_consumer.then(|| key.namespace.clone()), targets })
    });
    let parents: Vec<_> = parents.collect();
    let mut reader = Reader::new(catalog, key, &route.spec.parent_refs);
    reader.annotated(&route.metadata);
    for name in route.spec.unread.keys() {
        reader.find(Class::Different, format!("spec.{name}"), "is not supported and has no effect");
    }
    let default = [R::default()];
    let rules = route.spec.rules.as_deref().unwrap_or(&default);
    let mut entries = Vec::new();
    let mut is_unsupported = !rules.is_empty();
    for (index, rule) in rules.iter().enumerate() {
        let Read { matches, rule, is_supported } = read_rule(&mut reader, &format!("spec.rules[{index}]"), rule);
        is_unsupported &= !is_supported;
        let rule = Arc::new(rule);
        let named = matches.into_iter().map(|(place, matching)| Entry {
            name: format!("{}/{}/{index}/{place}", key.namespace, key.name),
            route: key.clone(),
            matching,
            rule: Arc::clone(&rule),
        });
        entries.extend(named);
    }
    reader.note_hedging();
    let bound_to = reader.referrer.bound_to(catalog.objects).map(|service| Bound {
        hostnames: parents.iter().flat_map(Parent::places).map(|(target, _)| target.hostname).collect(),
        needed: reader.referrer.needed(service),
    });
    let generation = &route.metadata.generation;
    Candidate {
        key,
        age: Age::of(key, &route.metadata),
        is_grpc: key.kind == Kind::GRPCRoute,
        parents,
        entries,
        bound_to,
        verdict: Verdict {
            generation: *generation,
            parents: Vec::new(),
            findings: reader.findings,
            is_unsupported,
            is_unread: false,
        },
    }
}
