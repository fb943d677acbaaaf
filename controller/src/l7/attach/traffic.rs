//! VirtualServices to what is attached where: oldest first, and after Gateway API's routes, which have a port alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_core::source::ObjectKey;
use fairway_core::source::istio_traffic::VirtualService;
use fairway_core::source::route::ParentReference;

use super::super::catalog::{Catalog, Refusal, Unit};
use super::super::grants::Referrer;
use super::super::model::{Entry, Routes, Stream};
use super::super::rules::{Read, Reader};
use super::super::verdict::{Class, Verdict};
use super::Place;
use super::streams::take;
use crate::age::by_age;

/// Name of what holds between workloads, among gateways.
const MESH: &str = "mesh";

/// Attaches all of them, where none of the routes that have `taken` a place is.
pub(super) fn attach(catalog: Catalog<'_>, taken: &mut BTreeMap<Place, ObjectKey>, routes: &mut Routes) {
    let objects = catalog.objects.virtual_services.iter().filter(|(_, object)| is_of_mesh(object));
    for (key, object) in by_age(objects, |object| &object.metadata) {
        let verdict = attach_one(catalog, key, object, taken, routes);
        routes.verdicts.insert(key.clone(), verdict);
    }
}

/// Whether it is for what goes on between workloads.
pub(crate) fn is_of_mesh(object: &VirtualService) -> bool {
    object.spec.gateways.is_empty() || object.spec.gateways.iter().any(|gateway| gateway == MESH)
}

fn attach_one(
    catalog: Catalog<'_>,
    key: &ObjectKey,
    object: &VirtualService,
    taken: &mut BTreeMap<Place, ObjectKey>,
    routes: &mut Routes,
) -> Verdict {
    let namespace = key.namespace.as_str();
    let mut reader = Reader::new(catalog, key, &[]);
    reader.annotated(&object.metadata);
    for name in object.spec.unread.keys() {
        reader.find(Class::Different, format!("spec.{name}"), "is not supported and has no effect");
    }
    let (mut is_supported, mut is_attached) = (true, false);
    for (index, host) in object.spec.hosts.iter().enumerate() {
        let at = format!("spec.hosts[{index}]");
        let found = catalog.named(namespace, host);
        if let Ok(owner) = &found {
            reader.referrer = Referrer::of_host(key, owner);
        }
        let parent = ParentReference::default();
        let mut targets = Vec::new();
        let refusal = match &found {
            Err(refusal) => Some(refusal.clone()),
            Ok(owner) => {
                let streams = streams(&mut reader, key, object, owner, host, taken, routes);
                // What is said of connections alone need not find requests.
                let requests = if object.spec.http.is_empty() && streams.is_some() {
                    Ok(Vec::new())
                } else {
                    catalog.ports_of(owner, Some(host), &parent, Unit::Request)
                };
                requests.map(|found| targets = found).err().or(streams.flatten())
            }
        };
        if let Some((reason, message)) = refusal {
            reader.find(Class::Reference(reason), at.clone(), format!("{message}; it has no effect there"));
        }
        let Ok(owner) = found else { continue };
        for scope in scopes(object, namespace, &owner.namespace) {
            for target in &targets {
                let place = (target.clone(), scope.clone());
                if let Some(winner) = taken.get(&place) {
                    let message = format!("{winner} is attached to {target}, and its kind comes first");
                    reader.find(Class::Unsupported, at.clone(), message);
                    continue;
                }
                let mut entries = Vec::new();
                for (index, rule) in object.spec.http.iter().enumerate() {
                    let read = reader.traffic(&format!("spec.http[{index}]"), rule, target);
                    let Read { matches, rule, is_supported: is_read } = read;
                    is_supported &= is_read;
                    let rule = Arc::new(rule);
                    let named = matches.into_iter().map(|(place, matching)| Entry {
                        name: format!("{namespace}/{}/{index}/{place}", key.name),
                        route: key.clone(),
                        matching,
                        rule: Arc::clone(&rule),
                    });
                    entries.extend(named);
                }
                is_attached = true;
                if !object.spec.http.is_empty() {
                    routes.entries(place).extend(entries);
                }
            }
        }
    }
    if is_attached {
        reader.note_hedging();
    }
    // Of each port the same is found.
    let mut findings = Vec::new();
    for finding in reader.findings {
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    let generation = object.metadata.generation;
    Verdict { generation, parents: Vec::new(), findings, is_unsupported: !is_supported, is_unread: false }
}

/// Attaches what is said of connections to one host. Nothing if nothing is said; otherwise why it has no effect, if so.
fn streams(
    reader: &mut Reader<'_>,
    key: &ObjectKey,
    object: &VirtualService,
    owner: &ObjectKey,
    host: &str,
    taken: &mut BTreeMap<Place, ObjectKey>,
    routes: &mut Routes,
) -> Option<Option<Refusal>> {
    let sections = [("tls", &object.spec.tls), ("tcp", &object.spec.tcp)];
    if sections.iter().all(|(_, rules)| rules.is_empty()) {
        return None;
    }
    if owner.namespace != key.namespace {
        let message = format!("tcp and tls of {key} count in the namespace of the service only");
        return Some(Some(("UnsupportedValue", message)));
    }
    let parent = ParentReference::default();
    let targets = match reader.catalog.ports_of(owner, Some(host), &parent, Unit::Connection) {
        Ok(targets) => targets,
        Err(refusal) => return Some(Some(refusal)),
    };
    let mut refused = None;
    for target in targets {
        // Requests of a port that does not say what it speaks are told apart by `http`, if that is there.
        let has_requests = !object.spec.http.is_empty()
            && reader
                .catalog
                .ports_of(owner, Some(host), &parent, Unit::Request)
                .is_ok_and(|all| all.contains(&target));
        if has_requests {
            continue;
        }
        for (section, rules) in sections {
            for (index, rule) in rules.iter().enumerate() {
                let at = format!("spec.{section}[{index}]");
                let Some(stream) = reader.traffic_stream(key, &at, section == "tls", rule, &target) else { continue };
                let stream = Stream { name: format!("{}/{}/{index}", key.namespace, key.name), ..stream };
                refused = take(key, &stream, std::slice::from_ref(&target), taken, routes).err().or(refused);
            }
        }
    }
    Some(refused)
}

/// Whose clients it is for: everybody's only where the service's own namespace says so.
fn scopes(object: &VirtualService, namespace: &str, owner: &str) -> Vec<Option<String>> {
    let exported = &object.spec.export_to;
    if owner != namespace {
        let is_seen = exported.is_empty() || exported.iter().any(|to| to == "*" || to == "." || to == namespace);
        return is_seen.then(|| Some(namespace.to_owned())).into_iter().collect();
    }
    if exported.is_empty() || exported.iter().any(|to| to == "*") {
        return vec![None];
    }
    let mut scopes: Vec<_> =
        exported.iter().map(|to| Some(if to == "." { namespace } else { to }.to_owned())).collect();
    scopes.sort();
    scopes.dedup();
    scopes
}
