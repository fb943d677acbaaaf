//! What each waypoint stands before, and which policies it enforces there.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fairway_core::source::external_processor::ProcessingMode;
use fairway_core::source::{Kind, ObjectKey, Objects};
use fairway_core::upgrade::Upgrades;

use super::authorizers::Authorizers;
use super::authz::{Place, Policy, Verdict};
use super::model::{Attached, Entry, Routes, Target};
use super::processors::{self, Processor};
use super::providers::Limiter;
use super::proxies::{self, Proxies};
use super::rates;
use super::telemetry::{Counted, Logged, Telemetries, Traced};
use super::tokens::{self, Keys, Origin};
use crate::translate::Fault;
use crate::translate::waypoint::{ServiceBinding, Waypoints};

/// Namespace and name of a gateway.
pub type GatewayName = (String, String);

/// A service that is bound to waypoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Key of the service in workload discovery.
    pub service: String,
    /// The object that it is made of.
    pub object: ObjectKey,
    /// The waypoints.
    pub gateways: Vec<GatewayName>,
    /// What its requests may go on as there, where it says so itself.
    pub upgrades: Option<Upgrades>,
}

impl Bound {
    /// The service with this binding, if it has a waypoint.
    #[must_use]
    pub fn of(
        service: &str,
        object: &ObjectKey,
        binding: &ServiceBinding,
        upgrades: Option<&Upgrades>,
    ) -> Option<Self> {
        let (gateways, upgrades) = (binding.gateways.clone(), upgrades.cloned());
        let bound = || Self { service: service.to_owned(), object: object.clone(), gateways, upgrades };
        (!binding.gateways.is_empty()).then(bound)
    }
}

/// A waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waypoint {
    /// Class of its gateway.
    pub class: String,
    /// Whether connections to workloads come its way.
    pub for_workloads: bool,
    /// Who is believed about where requests come from.
    pub proxies: Proxies,
    /// The services that are bound to it, by key, and the objects that they are made of.
    pub services: BTreeMap<String, ObjectKey>,
}

impl Waypoint {
    /// The objects of what it stands before; none of them stands for workloads.
    pub fn guarded(&self) -> impl Iterator<Item = Option<&ObjectKey>> {
        self.services.values().map(Some).chain(self.for_workloads.then_some(None))
    }

    /// The same, with the hostnames of services.
    fn by_host(&self) -> impl Iterator<Item = (Option<&str>, Option<&ObjectKey>)> {
        let services = self.services.iter().filter_map(|(service, object)| {
            let (_namespace, hostname) = service.split_once('/')?;
            Some((Some(hostname), Some(object)))
        });
        services.chain(self.for_workloads.then_some((None, None)))
    }
}

/// What a waypoint stands before, in words.
fn in_words(object: Option<&ObjectKey>) -> String {
    object.map_or_else(|| "workloads".to_owned(), ToString::to_string)
}

/// All waypoints, and their policies.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// By namespace and name of the gateway.
    pub waypoints: BTreeMap<GatewayName, Waypoint>,
    policies: BTreeMap<Place, Vec<Arc<Policy>>>,
    tokens: BTreeMap<Place, Vec<Arc<tokens::Policy>>>,
    rates: BTreeMap<Place, Vec<Arc<rates::Policy>>>,
    processors: BTreeMap<Place, Vec<Arc<processors::Policy>>>,
    /// What requests may go on as, by the objects of services that say so.
    upgrades: BTreeMap<ObjectKey, Upgrades>,
    /// Who may be asked by policies.
    pub authorizers: Arc<Authorizers>,
    /// Whom waypoints tell what requests took.
    pub telemetry: Arc<Telemetries>,
    /// Where each policy is attached.
    places: BTreeMap<ObjectKey, BTreeSet<Place>>,
}

/// Who sees requests before one port of a service.
#[derive(Clone, Copy, Debug)]
pub struct Sees<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// Where it is, and what holds without it.
    pub processor: &'a Processor,
    /// What it sees, unless a route says otherwise; nothing where only routes have it see anything.
    pub mode: Option<ProcessingMode>,
}

/// What is attached to places, by the object that says so.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attachments {
    /// Who may do what.
    pub(crate) policies: Vec<(ObjectKey, Arc<Policy>)>,
    /// Whose tokens are believed.
    pub(crate) tokens: Vec<(ObjectKey, Arc<tokens::Policy>)>,
    /// How many requests pass.
    pub(crate) rates: Vec<(ObjectKey, Arc<rates::Policy>)>,
    /// Who sees requests.
    pub(crate) processors: Vec<(ObjectKey, Arc<processors::Policy>)>,
    /// Who may be asked.
    pub(crate) authorizers: Arc<Authorizers>,
    /// Who is told.
    pub(crate) telemetry: Telemetries,
}

/// What is attached, by each of its places; `attach` hears of every object, in turn.
fn by_place<T>(
    attached: Vec<(ObjectKey, Arc<T>)>,
    places: fn(&T) -> &[Place],
    mut attach: impl FnMut(&ObjectKey, &[Place]),
) -> BTreeMap<Place, Vec<Arc<T>>> {
    let mut found: BTreeMap<Place, Vec<Arc<T>>> = BTreeMap::new();
    for (key, it) in attached {
        attach(&key, places(&it));
        for place in places(&it) {
            found.entry(place.clone()).or_default().push(Arc::clone(&it));
        }
    }
    found
}

impl Plan {
    /// Puts things where they belong; what is attached to nothing is a fault of the policy.
    pub(crate) fn new(
        objects: &Objects,
        gateways: &Waypoints<'_>,
        bound: Vec<Bound>,
        Attachments { policies, tokens, rates, processors, authorizers, mut telemetry }: Attachments,
        faults: &mut Vec<(ObjectKey, Fault)>,
    ) -> Self {
        let mut plan = Self::default();
        for (name, class, for_workloads) in gateways.all() {
            let key = ObjectKey::new(Kind::Gateway, &name.0, &name.1);
            let said = objects.gateways.get(&key).map(|gateway| proxies::of(gateway, gateways.settings()));
            let (proxies, wrong) = said.unwrap_or_default();
            faults.extend(wrong.into_iter().map(|fault| (key.clone(), fault)));
            let waypoint = Waypoint { class: class.to_owned(), for_workloads, proxies, services: BTreeMap::new() };
            plan.waypoints.insert(name, waypoint);
        }
        for Bound { service, object, gateways, upgrades } in bound {
            plan.upgrades.extend(upgrades.map(|upgrades| (object.clone(), upgrades)));
            for name in gateways {
                if let Some(waypoint) = plan.waypoints.get_mut(&name) {
                    waypoint.services.insert(service.clone(), object.clone());
                }
            }
        }
        let bound: HashSet<&ObjectKey> =
            plan.waypoints.values().flat_map(|waypoint| waypoint.services.values()).collect();
        let mut by_object: BTreeMap<ObjectKey, BTreeSet<Place>> = BTreeMap::new();
        let mut attach = |key: &ObjectKey, places: &[Place]| {
            let missed = places.iter().filter_map(|place| plan.misses(place, objects, &bound));
            faults.extend(missed.map(|message| {
                let field = "spec.targetRefs".to_owned();
                (key.clone(), Fault { field, message: format!("{message}: it has no effect there") })
            }));
            by_object.entry(key.clone()).or_default().extend(places.iter().cloned());
        };
        let policies = by_place(policies, |policy| &policy.places, &mut attach);
        let tokens = by_place(tokens, |policy| &policy.places, &mut attach);
        let rates = by_place(rates, |policy| &policy.places, &mut attach);
        let processors = by_place(processors, |policy| &policy.places, &mut attach);
        telemetry.note_missed(|place| plan.misses(place, objects, &bound));
        let telemetry = Arc::new(telemetry);
        let (waypoints, upgrades, places) = (plan.waypoints, plan.upgrades, by_object);
        Self { waypoints, policies, tokens, rates, processors, upgrades, authorizers, telemetry, places }
    }

    /// Why nobody enforces what is attached to a place.
    fn misses(&self, place: &Place, objects: &Objects, bound: &HashSet<&ObjectKey>) -> Option<String> {
        let Place::Object(key) = place else {
            let Place::Class(class) = place else { return None };
            let is_used = self.waypoints.values().any(|waypoint| waypoint.class == *class);
            return (!is_used).then(|| format!("there is no waypoint of class {class}"));
        };
        let (exists, is_enforced) = match key.kind {
            Kind::Gateway => {
                let name = (key.namespace.clone(), key.name.clone());
                (objects.gateways.contains_key(key), self.waypoints.contains_key(&name))
            }
            Kind::HTTPRoute => (objects.http_routes.contains_key(key), true),
            Kind::GRPCRoute => (objects.grpc_routes.contains_key(key), true),
            Kind::VirtualService => (objects.virtual_services.contains_key(key), true),
            kind => {
                let exists = if kind == Kind::Service {
                    objects.services.contains_key(key)
                } else {
                    objects.service_entries.contains_key(key)
                };
                (exists, bound.contains(key))
            }
        };
        match (exists, is_enforced) {
            (false, _) => Some(format!("there is no {key}")),
            (true, false) if key.kind == Kind::Gateway => Some(format!("{key} is no waypoint")),
            (true, false) => Some(format!("{key} has no waypoint")),
            (true, true) => None,
        }
    }

    /// The policies that a waypoint enforces before a service, or before workloads.
    #[must_use]
    pub fn policies(&self, gateway: &GatewayName, service: Option<&ObjectKey>) -> Vec<&Policy> {
        let places = self.places(gateway, service);
        places.iter().filter_map(|place| self.policies.get(place)).flatten().map(Arc::as_ref).collect()
    }

    /// What requests to a service may go on as, or to workloads.
    #[must_use]
    pub fn upgrades(&self, service: Option<&ObjectKey>) -> Upgrades {
        service.and_then(|service| self.upgrades.get(service)).cloned().unwrap_or_else(Upgrades::usual)
    }

    /// Whose tokens a waypoint believes before a service, or before workloads.
    #[must_use]
    pub fn tokens(&self, gateway: &GatewayName, service: Option<&ObjectKey>) -> Vec<&tokens::Policy> {
        let places = self.places(gateway, service);
        places.iter().filter_map(|place| self.tokens.get(place)).flatten().map(Arc::as_ref).collect()
    }

    /// Where those are who are asked by policies that a waypoint enforces before a service, or before workloads.
    pub fn asked(&self, gateway: &GatewayName, service: Option<&ObjectKey>) -> impl Iterator<Item = &Target> {
        let policies = self.policies(gateway, service).into_iter();
        policies.filter_map(|policy| match &policy.verdict {
            Verdict::Custom(provider) => self.authorizers.get(provider).map(|authorizer| &authorizer.target),
            Verdict::Allow | Verdict::Deny | Verdict::Audit => None,
        })
    }

    /// How many requests pass at a waypoint before a service, or before workloads, whatever their route.
    #[must_use]
    pub fn rates(&self, gateway: &GatewayName, service: Option<&ObjectKey>) -> Vec<&rates::Policy> {
        let places = self.places(gateway, service);
        places.iter().filter_map(|place| self.rates.get(place)).flatten().map(Arc::as_ref).collect()
    }

    /// How many requests of a route pass, besides that.
    #[must_use]
    pub fn rates_of(&self, route: &ObjectKey) -> Vec<&rates::Policy> {
        self.rates.get(&Place::Object(route.clone())).into_iter().flatten().map(Arc::as_ref).collect()
    }

    /// The provider that a waypoint asks before one port of a service: it asks one. Who says how many requests pass whatever
    /// their route comes before the routes of the service's namespace, and those before the routes of consumers: nobody is
    /// switched off by who has less to say there.
    #[must_use]
    pub fn counter<'a>(&'a self, of_all: &[&'a rates::Policy], attached: Option<&Attached>) -> Option<&'a str> {
        let of_producer = || self.counter_of(attached?.producer.as_deref()?);
        let of_consumers = || attached?.consumers.values().filter_map(|entries| self.counter_of(entries)).min();
        self.first_counter(of_all.iter().copied()).or_else(of_producer).or_else(of_consumers)
    }

    /// The provider that RateLimits of these routes name.
    fn counter_of(&self, entries: &[Entry]) -> Option<&str> {
        self.first_counter(entries.iter().flat_map(|entry| self.rates_of(&entry.route)))
    }

    /// The provider that these name, of those that are there.
    fn first_counter<'a>(&self, policies: impl Iterator<Item = &'a rates::Policy>) -> Option<&'a str> {
        let is_there = |policy: &&rates::Policy| {
            policy.global.as_ref().is_some_and(|global| self.limiter(&global.provider).is_some())
        };
        rates::Policy::provider(policies.filter(is_there))
    }

    /// Who counts requests for several proxies by this name.
    #[must_use]
    pub fn limiter(&self, provider: &str) -> Option<&Limiter> {
        self.telemetry.providers.limiters.get(provider)
    }

    /// What of RateLimits has no effect because a waypoint asks another provider.
    pub(crate) fn unasked(&self, routes: &Routes) -> Vec<(ObjectKey, Fault)> {
        let named = self.rates.values().flatten().filter_map(|policy| policy.global.as_ref());
        let named: BTreeSet<&str> = named.map(|global| global.provider.as_str()).collect();
        if named.len() < 2 {
            return Vec::new();
        }
        let mut unasked: BTreeSet<(&ObjectKey, String)> = BTreeSet::new();
        for (gateway, waypoint) in &self.waypoints {
            for (hostname, object) in waypoint.by_host() {
                let (of_all, what) = (self.rates(gateway, object), in_words(object));
                // Without a route, too, as on a port that nothing is attached to.
                let ports = hostname.into_iter().flat_map(|hostname| routes.of_host(hostname)).map(Some);
                for attached in [None].into_iter().chain(ports) {
                    let Some(asked) = self.counter(&of_all, attached) else { continue };
                    let entries = attached.into_iter().flat_map(Attached::entries);
                    let of_routes = entries.flat_map(|entry| self.rates_of(&entry.route));
                    for policy in of_all.iter().copied().chain(of_routes) {
                        if policy.global.as_ref().is_some_and(|global| global.provider != asked) {
                            let why = format!("its waypoint asks {asked:?}, and can ask one");
                            unasked.insert((&policy.object, format!("has no effect on {what}: {why}")));
                        }
                    }
                }
            }
        }
        let fault = |message| Fault { field: "spec.global.provider".to_owned(), message };
        unasked.into_iter().map(|(object, message)| (object.clone(), fault(message))).collect()
    }

    /// Who sees requests before one port of a service, or before workloads: one provider. The nearest object that holds whatever the route counts, before
    /// those of routes of the service's namespace, and those before the routes of consumers.
    #[must_use]
    pub fn sees<'a>(
        &'a self,
        gateway: &GatewayName,
        service: Option<&ObjectKey>,
        attached: Option<&Attached>,
    ) -> Option<Sees<'a>> {
        let nearest = self.nearest(gateway, service);
        let of_routes = |entries: &[Entry]| {
            let policies = entries.iter().flat_map(|entry| self.processors_of(&entry.route));
            policies.map(|policy| policy.provider.as_str()).min()
        };
        let of_producer = || of_routes(attached?.producer.as_deref()?);
        let of_consumers = || attached?.consumers.values().filter_map(|entries| of_routes(entries)).min();
        let provider = nearest.map(|policy| policy.provider.as_str()).or_else(of_producer).or_else(of_consumers)?;
        let processor = self.processor(provider)?;
        Some(Sees { provider, processor, mode: nearest.map(|policy| policy.mode) })
    }

    /// What of a route's requests a provider sees, besides that: the first object by name counts.
    #[must_use]
    pub fn seen_of(&self, route: &ObjectKey, provider: &str) -> Option<&ProcessingMode> {
        let policies = self.processors_of(route).filter(|policy| policy.provider == provider);
        policies.min_by_key(|policy| &policy.object).map(|policy| &policy.mode)
    }

    /// Who may be asked to see requests before a service, or before workloads, whatever their route or on these.
    pub fn may_see<'a>(
        &'a self,
        gateway: &GatewayName,
        service: Option<&ObjectKey>,
        routes: impl Iterator<Item = &'a ObjectKey>,
    ) -> BTreeSet<&'a Target> {
        let of_routes = routes.flat_map(|route| self.processors_of(route));
        let all = self.nearest(gateway, service).into_iter().chain(of_routes);
        all.filter_map(|policy| Some(&self.processor(&policy.provider)?.target)).collect()
    }

    /// The nearest object that holds whatever the route, of those whose provider is there.
    fn nearest(&self, gateway: &GatewayName, service: Option<&ObjectKey>) -> Option<&processors::Policy> {
        let places = self.places(gateway, service);
        let first = places.iter().find_map(|place| {
            let policies = self.processors.get(place)?.iter().filter(|policy| self.is_there(policy));
            policies.min_by_key(|policy| &policy.object)
        });
        first.map(Arc::as_ref)
    }

    fn processors_of(&self, route: &ObjectKey) -> impl Iterator<Item = &processors::Policy> {
        let policies = self.processors.get(&Place::Object(route.clone())).into_iter().flatten();
        policies.filter(move |policy| self.is_there(policy)).map(Arc::as_ref)
    }

    /// Whether its provider is.
    fn is_there(&self, policy: &processors::Policy) -> bool {
        self.processor(&policy.provider).is_some()
    }

    fn processor(&self, provider: &str) -> Option<&Processor> {
        self.telemetry.providers.processors.get(provider)
    }

    /// What of ExternalProcessors has no effect because another one is nearer, or a waypoint has another provider see requests.
    pub(crate) fn unseen(&self, routes: &Routes) -> Vec<(ObjectKey, Fault)> {
        let mut unseen: BTreeSet<(&ObjectKey, String)> = BTreeSet::new();
        if self.processors.values().map(Vec::len).sum::<usize>() < 2 {
            return Vec::new();
        }
        for (gateway, waypoint) in &self.waypoints {
            for (hostname, object) in waypoint.by_host() {
                let (nearest, what) = (self.nearest(gateway, object), in_words(object));
                if let Some(nearest) = nearest {
                    let places = self.places(gateway, object);
                    let all = places.iter().filter_map(|place| self.processors.get(place)).flatten();
                    let others = all.filter(|policy| policy.object != nearest.object);
                    let why = format!("has no effect on {what}: {} comes before it", nearest.object);
                    unseen.extend(others.map(|policy| (&policy.object, why.clone())));
                }
                for attached in hostname.into_iter().flat_map(|hostname| routes.of_host(hostname)) {
                    let Some(sees) = self.sees(gateway, object, Some(attached)) else { continue };
                    let of_consumers: BTreeSet<&ObjectKey> =
                        attached.consumers.values().flatten().map(|entry| &entry.route).collect();
                    for route in attached.entries().map(|entry| &entry.route) {
                        let seen = self.processors_of(route).filter(|policy| policy.provider == sees.provider);
                        let first = seen.map(|policy| &policy.object).min();
                        for policy in self.processors_of(route) {
                            let why = if policy.provider != sees.provider {
                                let other = sees.provider;
                                format!("{what}: its waypoint has {other:?} see requests, and can have one")
                            } else if let Some(nearest) = nearest.filter(|_| of_consumers.contains(route)) {
                                format!("{what}: {} comes before it", nearest.object)
                            } else if let Some(first) = first.filter(|first| **first != policy.object) {
                                format!("{route}: {first} comes before it")
                            } else {
                                continue;
                            };
                            unseen.insert((&policy.object, format!("has no effect on {why}")));
                        }
                    }
                }
            }
        }
        let fault = |message| Fault { field: "spec.provider".to_owned(), message };
        unseen.into_iter().map(|(object, message)| (object.clone(), fault(message))).collect()
    }

    /// What a waypoint does with traces before a service, or before workloads.
    #[must_use]
    pub fn traced(&self, gateway: &GatewayName, service: Option<&ObjectKey>) -> Option<Traced> {
        self.telemetry.traced((&gateway.0, &gateway.1), &self.told_at(gateway, service)?)
    }

    /// Whom a waypoint tells of requests and connections that have ended, before a service or before workloads; nothing where nobody
    /// says anything.
    #[must_use]
    pub fn logged(&self, gateway: &GatewayName, service: Option<&ObjectKey>) -> Option<Logged> {
        self.telemetry.logged((&gateway.0, &gateway.1), &self.told_at(gateway, service)?)
    }

    /// What a waypoint counts otherwise than usual, before a service or before workloads.
    #[must_use]
    pub fn counted(&self, gateway: &GatewayName, service: Option<&ObjectKey>) -> Option<Counted> {
        self.telemetry.counted(&self.told_at(gateway, service)?)
    }

    /// Where Telemetries are that count before a service or before workloads, the most general place first.
    fn told_at(&self, gateway: &GatewayName, service: Option<&ObjectKey>) -> Option<Vec<Place>> {
        let waypoint = self.waypoints.get(gateway)?;
        let (namespace, name) = gateway;
        let mut places = vec![Place::Class(waypoint.class.clone()), Place::Namespace(namespace.clone())];
        // What is said twice of one place would undo what was said in between.
        let of_service = service.map(|service| &service.namespace).filter(|own| *own != namespace);
        places.extend(of_service.map(|own| Place::Namespace(own.clone())));
        places.push(Place::Object(ObjectKey::new(Kind::Gateway, namespace, name)));
        places.extend(service.map(|service| Place::Object(service.clone())));
        Some(places)
    }

    /// Where a policy is attached.
    pub fn attached_to(&self, policy: &ObjectKey) -> impl Iterator<Item = &Place> {
        self.places.get(policy).into_iter().flatten()
    }

    /// Whose tokens are believed anywhere.
    pub fn all_tokens(&self) -> impl Iterator<Item = &tokens::Policy> {
        self.tokens.values().flatten().map(Arc::as_ref)
    }

    /// Where keys have to be fetched, and how long each fetch may take.
    #[must_use]
    pub fn origins(&self) -> BTreeMap<Origin, Duration> {
        let mut origins = BTreeMap::new();
        for issuer in self.all_tokens().flat_map(|policy| &policy.issuers) {
            if let Keys::At(origin, timeout) = &issuer.keys {
                let longest: &mut Duration = origins.entry(origin.clone()).or_default();
                *longest = (*longest).max(*timeout);
            }
        }
        origins
    }

    /// Where policies are attached that hold for a service at a waypoint, or for workloads.
    fn places(&self, gateway: &GatewayName, service: Option<&ObjectKey>) -> Vec<Place> {
        let Some(waypoint) = self.waypoints.get(gateway) else { return Vec::new() };
        let (namespace, name) = gateway;
        let own = service
            .into_iter()
            .flat_map(|object| [Place::Object(object.clone()), Place::Namespace(object.namespace.clone())]);
        let of_gateway = [
            Place::Object(ObjectKey::new(Kind::Gateway, namespace, name)),
            Place::Namespace(namespace.clone()),
            Place::Class(waypoint.class.clone()),
        ];
        own.chain(of_gateway).collect()
    }
}

#[cfg(test)]
mod tests {
    use fairway_core::source::directory::load;

    use super::*;
    use crate::l7::mesh;
    use crate::state::Published;
    use crate::translate::Settings;

    const MESH: &str = "extensionProviders:\n\
        - {name: a, fairwayRateLimitGrpc: {service: a.shop.svc.cluster.local, port: 8081, domain: shop}}\n\
        - {name: b, fairwayRateLimitGrpc: {service: b.shop.svc.cluster.local, port: 8081, domain: shop}}\n\
        - {name: c, fairwayRateLimitGrpc: {service: c.shop.svc.cluster.local, port: 8081, domain: shop}}\n";
    const BOUND: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: way, namespace: shop}
spec: {gatewayClassName: fairway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: way}}
spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: own, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: theirs, namespace: other}
spec:
  parentRefs: [{group: "", kind: Service, name: web, namespace: shop}]
  rules: [{backendRefs: [{name: web, port: 80, namespace: shop}]}]
"#;

    /// A RateLimit, called as its provider, for something of its namespace.
    fn asking(provider: &str, namespace: &str, target: &str) -> String {
        format!(
            "---\napiVersion: fairway.dev/v1alpha1\nkind: RateLimit\nmetadata: {{name: {provider}, namespace: {namespace}}}\n\
             spec: {{targetRefs: [{{{target}}}], global: {{provider: {provider}, descriptors: [{{entries: [{{key: k, value: v}}]}}]}}}}\n"
        )
    }

    #[test]
    fn who_says_less_switches_off_no_other_counter_and_is_told() {
        const SERVICE: &str = "group: \"\", kind: Service, name: web";
        const OWN: &str = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: own";
        const THEIRS: &str = "group: gateway.networking.k8s.io, kind: HTTPRoute, name: theirs";
        let of_service = asking("c", "shop", SERVICE);
        let of_own = asking("b", "shop", OWN);
        let of_theirs = asking("a", "other", THEIRS);
        let rows: [(Vec<&String>, &str, &[&str]); 5] = [
            (vec![&of_theirs], "a", &[]),
            (vec![&of_own], "b", &[]),
            (vec![&of_own, &of_theirs], "b", &["a"]),
            (vec![&of_service, &of_theirs], "c", &["a"]),
            (vec![&of_service, &of_own, &of_theirs], "c", &["a", "b"]),
        ];
        let settings = Settings { mesh: mesh::read(MESH).unwrap(), ..Settings::default() };
        for (limits, asked, told) in rows {
            let root = tempfile::tempdir().unwrap();
            let limits: String = limits.into_iter().map(String::as_str).collect();
            std::fs::write(root.path().join("a.yaml"), format!("{BOUND}{limits}")).unwrap();
            let published = Published::default().next(Arc::new(load(root.path(), None)), &settings);
            let snapshot = published.world.l7();
            let plan = snapshot.waypoints();
            let (gateway, service) =
                (("shop".to_owned(), "way".to_owned()), ObjectKey::new(Kind::Service, "shop", "web"));
            let target = Target::parse("web.shop.svc.cluster.local:80").unwrap();
            let attached = snapshot.routes().attached.get(&target);
            assert_eq!(plan.counter(&plan.rates(&gateway, Some(&service)), attached), Some(asked), "{limits}");
            let problems = published.problems.iter().filter(|problem| problem.field == "spec.global.provider");
            let problems: Vec<(&str, &str)> =
                problems.map(|problem| (problem.object.name.as_str(), problem.message.as_str())).collect();
            let mut names: Vec<&str> = problems.iter().map(|(name, _)| *name).collect();
            names.sort_unstable();
            assert_eq!(names, told, "{problems:?}");
            assert!(problems.iter().all(|(_, message)| message.contains(&format!("{asked:?}"))), "{problems:?}");
        }
    }
}
