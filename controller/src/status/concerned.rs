//! Which proxies have to take an object over before it is in force, and what they know it by.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap};

use fairway_core::source::{Kind, ObjectKey};
use fairway_proto::workload::Service;

use super::answers::{Answers, Group, Refused};
use crate::l7::authz::Place;
use crate::l7::model::Target;
use crate::l7::waypoints::GatewayName;
use crate::state::Published;
use crate::translate::peer::CONVERTED_PREFIX;

/// Which proxies have to take an object over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Concerned {
    /// All node proxies, which know it as this policy.
    pub(super) node_policy: Option<String>,
    /// The waypoints of these gateways.
    pub(super) waypoints: BTreeSet<GatewayName>,
    /// Clients that speak HTTP and are no waypoint.
    pub(super) clients: BTreeSet<Audience>,
    /// What waypoints and clients know it as a part of.
    pub(super) services: Services,
}

/// Whose clients.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Audience {
    /// Those of this namespace.
    Namespace(String),
    /// All others'.
    Everybody,
}

/// Services that an object is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Services {
    /// These, by hostname.
    Named(BTreeSet<String>),
    /// All of a waypoint.
    All,
}

impl Default for Services {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl Concerned {
    /// Whether nobody is concerned who was not by `before`, and by no more than before.
    pub(super) fn is_within(&self, before: &Self) -> bool {
        let services = match (&self.services, &before.services) {
            (_, Services::All) => true,
            (Services::Named(now), Services::Named(before)) => now.is_subset(before),
            (Services::All, Services::Named(_)) => false,
        };
        services
            && (self.node_policy.is_none() || self.node_policy == before.node_policy)
            && self.waypoints.is_subset(&before.waypoints)
            && self.clients.is_subset(&before.clients)
    }

    /// What those who are concerned have answered.
    pub(super) fn groups<'a>(&'a self, answers: &'a Answers) -> impl Iterator<Item = &'a Group> {
        let nodes = self.node_policy.iter().map(|_| &answers.nodes);
        let waypoints = self.waypoints.iter().filter_map(|gateway| answers.waypoints.get(gateway));
        let is_everybody = self.clients.contains(&Audience::Everybody);
        let clients = answers.clients.iter().filter(move |(namespace, _)| {
            is_everybody || self.clients.contains(&Audience::Namespace((*namespace).clone()))
        });
        nodes.chain(waypoints).chain(clients.map(|(_, group)| group))
    }

    /// Somebody who refuses it and has not taken it over since the state `since`. Node proxies refuse policies by name. What
    /// HTTP clients are sent is made of many objects: one that they have taken over is not what they refuse.
    pub(super) fn refused_by<'a>(&'a self, group: &'a Group, since: u64) -> impl Iterator<Item = &'a Refused> {
        let by_nodes = self.node_policy.iter().flat_map(|name| group.refusing(name));
        let (named, all) = match &self.services {
            Services::Named(names) => (Some(names), None),
            Services::All => (None, Some(group.refusing_anything())),
        };
        let at_services =
            named.into_iter().flatten().flat_map(|name| group.refusing(name)).chain(all.into_iter().flatten());
        by_nodes.chain(at_services.filter(move |refused| refused.refusal.held < since))
    }
}

/// Where what of a state takes effect.
pub(super) struct Places<'a> {
    published: &'a Published,
    /// By route.
    routes: HashMap<&'a ObjectKey, Concerned>,
    /// Hostname and waypoints of services that have any.
    services: HashMap<&'a ObjectKey, (&'a str, BTreeSet<&'a GatewayName>)>,
    /// Waypoints of services that have any.
    by_hostname: HashMap<&'a str, BTreeSet<&'a GatewayName>>,
    /// All services, by hostname, once somebody asks.
    named: OnceCell<HashMap<&'a str, Vec<&'a Service>>>,
}

impl<'a> Places<'a> {
    pub(super) fn of(published: &'a Published) -> Self {
        let plan = published.world.l7().waypoints();
        let mut services: HashMap<&ObjectKey, (&str, BTreeSet<&GatewayName>)> = HashMap::new();
        let mut waypoints: HashMap<&str, BTreeSet<&GatewayName>> = HashMap::new();
        for (gateway, waypoint) in &plan.waypoints {
            for (service, object) in &waypoint.services {
                let hostname = service.split_once('/').map_or(service.as_str(), |(_, hostname)| hostname);
                waypoints.entry(hostname).or_default().insert(gateway);
                services.entry(object).or_insert_with(|| (hostname, BTreeSet::new())).1.insert(gateway);
            }
        }
        let mut routes: HashMap<&ObjectKey, Concerned> = HashMap::new();
        for (target, attached) in &published.routes().attached {
            let gateways = waypoints.get(target.hostname.as_str());
            let mut add = |route: &'a ObjectKey, audience: Audience, backends: Vec<&Target>| {
                let concerned = routes.entry(route).or_default();
                match gateways {
                    Some(gateways) => concerned.waypoints.extend(gateways.iter().copied().cloned()),
                    None => drop(concerned.clients.insert(audience)),
                }
                if let Services::Named(names) = &mut concerned.services {
                    let missing =
                        backends.into_iter().chain([target]).filter(|target| !names.contains(&target.hostname));
                    let missing: Vec<String> = missing.map(|target| target.hostname.clone()).collect();
                    names.extend(missing);
                }
            };
            for entry in attached.producer.iter().flatten() {
                add(&entry.route, Audience::Everybody, entry.backends().collect());
            }
            for (namespace, entries) in &attached.consumers {
                for entry in entries {
                    add(&entry.route, Audience::Namespace(namespace.clone()), entry.backends().collect());
                }
            }
            for stream in &attached.streams {
                add(&stream.route, Audience::Everybody, stream.backends().collect());
            }
        }
        Self { published, routes, services, by_hostname: waypoints, named: OnceCell::new() }
    }

    /// Those who look at a policy at waypoints, or on nodes.
    pub(super) fn policy(&self, key: &ObjectKey, is_attached: bool) -> Concerned {
        if is_attached {
            return self.attached(key);
        }
        let ObjectKey { kind, namespace, name } = key;
        let name = match kind {
            Kind::PeerAuthentication => format!("{namespace}/{CONVERTED_PREFIX}{name}"),
            _ => format!("{namespace}/{name}"),
        };
        Concerned { node_policy: Some(name), ..Concerned::default() }
    }

    fn attached(&self, key: &ObjectKey) -> Concerned {
        let plan = self.published.world.l7().waypoints();
        let mut concerned = Concerned::default();
        let mut names = BTreeSet::new();
        for place in plan.attached_to(key) {
            match place {
                Place::Object(object) if object.kind == Kind::Gateway => {
                    let gateway = (object.namespace.clone(), object.name.clone());
                    if plan.waypoints.contains_key(&gateway) {
                        concerned.waypoints.insert(gateway);
                        concerned.services = Services::All;
                    }
                }
                Place::Object(object) if object.kind.is_route() => {
                    let Some(route) = self.route(object) else { continue };
                    concerned.waypoints.extend(route.waypoints.iter().cloned());
                    match &route.services {
                        Services::Named(services) => names.extend(services.iter().cloned()),
                        Services::All => concerned.services = Services::All,
                    }
                }
                Place::Object(object) => {
                    let Some((hostname, gateways)) = self.services.get(object) else { continue };
                    names.insert((*hostname).to_owned());
                    concerned.waypoints.extend(gateways.iter().copied().cloned());
                }
                Place::Class(class) => {
                    let of_class = plan.waypoints.iter().filter(|(_, waypoint)| waypoint.class == *class);
                    concerned.waypoints.extend(of_class.map(|(gateway, _)| gateway.clone()));
                    concerned.services = Services::All;
                }
                Place::Namespace(namespace) => {
                    let own = plan.waypoints.keys().filter(|(of, _)| of == namespace);
                    let of_services = self.services.iter().filter(|(object, _)| object.namespace == *namespace);
                    let before = of_services.flat_map(|(_, (_, gateways))| gateways.iter().copied());
                    concerned.waypoints.extend(own.chain(before).cloned());
                    concerned.services = Services::All;
                }
            }
        }
        if let Services::Named(known) = &mut concerned.services {
            *known = names;
        }
        concerned
    }

    /// Those who use endpoints as a DestinationRule says; nobody if it is about no service. Waypoints look at those of the service's
    /// namespace and of the root; clients first at those of their own.
    pub(super) fn destination(&self, key: &ObjectKey) -> Option<Concerned> {
        let destinations = self.published.destinations();
        let mut concerned = Concerned::default();
        let mut names = BTreeSet::new();
        let all = self.named.get_or_init(|| {
            let mut named: HashMap<&str, Vec<&Service>> = HashMap::new();
            for service in self.published.desired().services.values() {
                named.entry(&service.hostname).or_default().push(service);
            }
            named
        });
        let services: Vec<&Service> = match destinations.only_about(key) {
            Some(name) => all.get(name).into_iter().flatten().copied().collect(),
            None => all.values().flatten().copied().filter(|it| destinations.is_about(key, &it.hostname)).collect(),
        };
        for service in services {
            names.insert(service.hostname.clone());
            let counts_for_all = service.namespace == key.namespace || destinations.is_root(&key.namespace);
            let gateways = self.by_hostname.get(service.hostname.as_str()).filter(|_| counts_for_all);
            match gateways {
                Some(gateways) => concerned.waypoints.extend(gateways.iter().copied().cloned()),
                None if counts_for_all => drop(concerned.clients.insert(Audience::Everybody)),
                None => drop(concerned.clients.insert(Audience::Namespace(key.namespace.clone()))),
            }
        }
        concerned.services = Services::Named(names);
        let is_about_any = !concerned.waypoints.is_empty() || !concerned.clients.is_empty();
        is_about_any.then_some(concerned)
    }

    /// Those who follow a route; nobody if it is attached to nothing.
    pub(super) fn route(&self, key: &ObjectKey) -> Option<&Concerned> {
        self.routes.get(key)
    }
}
