//! One state of everything, from which resources are written down when a client asks for them and as that client needs
//! them: of tens of thousands of services most clients ask for a few.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use fairway_proto::envoy::endpoint::ClusterLoadAssignment;
use fairway_proto::envoy::route::RouteConfiguration;
use fairway_proto::workload::service::Visibility;
use fairway_proto::workload::{AppProtocol, Port, Service, Workload};
use prost::Message;

use super::Client;
use super::destinations::{Destinations, Policy, Tls, View};
use super::members::Members;
use super::model::{Attached, Entry, Target};
use super::render::endpoints::{Seen, assignment};
use super::render::listener::{Before, Heard, WORKLOADS};
use super::render::nearness::{Preference, Standpoint};
use super::render::{self, INVALID_BACKEND};
use super::tokens::KeySets;
use super::waypoints::{GatewayName, Plan};
use crate::translate::Translation;
use crate::translate::service::key;
use crate::world::{Addresses, Resource, ResourceType};

/// One state of everything.
#[derive(Debug, Default)]
pub struct Snapshot {
    translation: Arc<Translation>,
    addresses: Arc<Addresses>,
    /// Network of clients that name none.
    network: String,
    /// The keys that had to be fetched.
    keys: Arc<KeySets>,
    /// Made for the first client, and again when services, routes or waypoints are others.
    index: Arc<OnceLock<Index>>,
    /// Who serves the services that clients have asked for, as long as addresses are the same.
    members: Arc<Members>,
}

/// Names of services in the translation.
#[derive(Debug, Default)]
struct Index {
    /// By hostname.
    services: HashMap<String, Arc<str>>,
    /// The services of each waypoint by hostname: who is bound to it is meant, whoever else has the name.
    bound: HashMap<GatewayName, HashMap<String, Arc<str>>>,
    /// What routes of each waypoint's services send requests to.
    backends: HashMap<GatewayName, BTreeSet<Target>>,
}

impl Index {
    fn of(translation: &Translation) -> Self {
        let mut index = Self::default();
        for (key, service) in translation.desired.services.iter() {
            // Of several with one name the first counts, and a Service before any entry.
            if service.canonical || !index.services.contains_key(&service.hostname) {
                index.services.insert(service.hostname.clone(), Arc::clone(key));
            }
        }
        let Translation { routes, waypoints, desired, .. } = translation;
        for (gateway, waypoint) in &waypoints.waypoints {
            let keys = waypoint.services.keys();
            let services: Vec<_> = keys.filter_map(|key| desired.services.get_key_value(key.as_str())).collect();
            let bound = services.iter().map(|(key, service)| (service.hostname.clone(), Arc::clone(key))).collect();
            index.bound.insert(gateway.clone(), bound);
            let targets = services.into_iter().flat_map(|(_, service)| {
                service.ports.iter().filter_map(|port| {
                    let port = u16::try_from(port.service_port).ok()?;
                    Some(Target { hostname: service.hostname.clone(), port, subset: None })
                })
            });
            let attached: Vec<&Attached> = targets.filter_map(|target| routes.attached.get(&target)).collect();
            let guarded = || waypoint.guarded();
            let asked = guarded().flat_map(|object| waypoints.asked(gateway, object));
            let backends = attached.iter().copied().flat_map(Attached::backends).chain(asked).cloned();
            let told = guarded().filter_map(|object| waypoints.traced(gateway, object));
            let logged = guarded().filter_map(|object| waypoints.logged(gateway, object));
            let logged: Vec<Target> = logged.flat_map(|logged| logged.targets()).collect();
            let entries = attached.iter().flat_map(|attached| attached.entries());
            let counted = entries.flat_map(|entry| waypoints.rates_of(&entry.route));
            let counted = guarded().flat_map(|object| waypoints.rates(gateway, object)).chain(counted);
            let counting = counted.filter_map(|policy| waypoints.limiter(&policy.global.as_ref()?.provider));
            let routes = || attached.iter().flat_map(|attached| attached.entries()).map(|entry| &entry.route);
            let seen = guarded().flat_map(|object| waypoints.may_see(gateway, object, routes()));
            let backends: BTreeSet<Target> = backends
                .chain(told.map(|traced| traced.collector))
                .chain(logged)
                .chain(counting.map(|limiter| limiter.target.clone()))
                .chain(seen.cloned())
                .collect();
            index.backends.insert(gateway.clone(), backends);
        }
        index
    }
}

fn is_http(protocol: AppProtocol) -> bool {
    !matches!(protocol, AppProtocol::Tcp | AppProtocol::Tls)
}

impl Snapshot {
    /// The state after this one, in which clients that name no network are in `network`.
    #[must_use]
    pub fn next(&self, translation: Arc<Translation>, addresses: Arc<Addresses>, network: &str) -> Self {
        let before = &self.translation;
        let same = before.desired.services.is_same(&translation.desired.services)
            && Arc::ptr_eq(&before.routes, &translation.routes)
            && Arc::ptr_eq(&before.waypoints, &translation.waypoints);
        let index = if same { Arc::clone(&self.index) } else { Arc::default() };
        let has_same_members = Arc::ptr_eq(&self.addresses, &addresses);
        let members = if has_same_members { Arc::clone(&self.members) } else { Arc::default() };
        Self { translation, addresses, network: network.to_owned(), keys: Arc::clone(&self.keys), index, members }
    }

    /// The same with these keys.
    #[must_use]
    pub fn with_keys(&self, keys: Arc<KeySets>) -> Self {
        Self {
            translation: Arc::clone(&self.translation),
            addresses: Arc::clone(&self.addresses),
            network: self.network.clone(),
            keys,
            index: Arc::clone(&self.index),
            members: Arc::clone(&self.members),
        }
    }

    /// The keys of tokens that had to be fetched.
    #[must_use]
    pub fn keys(&self) -> &Arc<KeySets> {
        &self.keys
    }

    /// The routes.
    #[must_use]
    pub fn routes(&self) -> &super::model::Routes {
        &self.translation.routes
    }

    /// Whether this says the same of what is said nowhere else.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let (own, others) = (&self.translation, &other.translation);
        let is_same_subsets = !own.destinations.asks_for_labels() || own.labelled().is_same(&others.labelled());
        // Mostly it is the very same.
        is_same_subsets
            && own.one_at_a_time() == others.one_at_a_time()
            && (Arc::ptr_eq(&own.routes, &others.routes) || own.routes.attached == others.routes.attached)
            && (Arc::ptr_eq(&own.destinations, &others.destinations) || own.destinations == others.destinations)
            && (Arc::ptr_eq(&own.waypoints, &others.waypoints) || own.waypoints == others.waypoints)
            && self.keys.has_same_keys(&other.keys)
    }

    /// What waypoints stand before.
    #[must_use]
    pub fn waypoints(&self) -> &Plan {
        &self.translation.waypoints
    }

    fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::of(&self.translation))
    }

    fn service(&self, hostname: &str) -> Option<&Service> {
        self.translation.desired.services.get(self.index().services.get(hostname)?).map(Arc::as_ref)
    }

    fn visible(&self, hostname: &str, client: &Client) -> Option<&Service> {
        let service = self.service(hostname)?;
        let is_visible = service.visibility() == Visibility::Public || service.namespace == client.namespace;
        is_visible.then_some(service)
    }

    fn members(&self, service: &Service) -> Arc<[Workload]> {
        let service = key(service);
        self.members.of(&service, || {
            let keys = self.addresses.lookup().of_service(&service);
            keys.filter_map(|key| self.addresses.get(key)?.workload()).collect()
        })
    }

    /// The resource of a type that is called `name`, as this client needs it.
    #[must_use]
    pub fn find(&self, kind: ResourceType, name: &str, client: &Client) -> Option<Resource> {
        let body = match &client.gateway {
            _ if name == INVALID_BACKEND => Self::invalid_backend(kind, client),
            None => self.for_client(kind, name, client),
            Some(gateway) => self.for_waypoint(kind, name, client, gateway),
        };
        body.map(|body| Resource::new(name.into(), body, Vec::new()))
    }

    fn for_client(&self, kind: ResourceType, name: &str, client: &Client) -> Option<Vec<u8>> {
        let target = Target::parse(name)?;
        let service = self.visible(&target.hostname, client)?;
        let protocol = protocol(service, target.port).filter(|protocol| is_http(*protocol))?;
        let has_waypoint = service.waypoint.is_some() || !service.weighted_waypoints.is_empty();
        let view = View { client: Some(&client.namespace), owner: &service.namespace };
        if !self.has_part(&target, view, kind) {
            return None;
        }
        Some(match kind {
            ResourceType::Listener => {
                let entries = self.entries(&target, client, has_waypoint).into_iter().flatten();
                render::listener::dialled(name, entries, client).encode_to_vec()
            }
            ResourceType::Cluster => self.cluster(&target, (service, protocol), client, view, false),
            ResourceType::RouteConfiguration => {
                let entries = self.entries(&target, client, has_waypoint);
                self.routed(render::route::configuration(&target, entries, client), view.client)
            }
            ResourceType::ClusterLoadAssignment => {
                self.endpoints(&target, service, client, view, (false, false)).encode_to_vec()
            }
            ResourceType::Address | ResourceType::Authorization => return None,
        })
    }

    fn for_waypoint(&self, kind: ResourceType, name: &str, client: &Client, gateway: &GatewayName) -> Option<Vec<u8>> {
        let plan = &self.translation.waypoints;
        let own = plan.waypoints.get(gateway)?;
        if name == WORKLOADS {
            return if own.for_workloads { self.before_workloads(kind, gateway) } else { None };
        }
        let target = Target::parse(name)?;
        let bound = self.index().bound.get(gateway).and_then(|bound| bound.get(&target.hostname));
        let bound = bound.and_then(|key| self.translation.desired.services.get(key)).map(Arc::as_ref);
        let service = bound.or_else(|| self.service(&target.hostname))?;
        let protocol = protocol(service, target.port)?;
        let object = own.services.get(&key(service));
        let view = View { client: None, owner: &service.namespace };
        if !self.has_part(&target, view, kind) {
            return None;
        }
        let is_known = || object.is_some() || self.index().backends.get(gateway).is_some_and(|it| it.contains(&target));
        Some(match kind {
            ResourceType::Listener => {
                let policies = plan.policies(gateway, Some(object?));
                let addresses: Vec<_> = render::endpoints::virtual_addresses(service).collect();
                let streams = self.attached(&target).map_or(&[][..], |attached| attached.streams.as_slice());
                let (logged, counted) = (plan.logged(gateway, object), plan.counted(gateway, object));
                let (logged, counted) = (logged.as_ref(), counted.as_ref());
                let listener = if is_http(protocol) && streams.is_empty() {
                    let tokens = plan.tokens(gateway, object);
                    let entries = || self.attached(&target).into_iter().flat_map(Attached::entries);
                    let mut rates = plan.rates(gateway, object);
                    let limiter = plan.counter(&rates, self.attached(&target)).and_then(|name| plan.limiter(name));
                    rates.extend(entries().flat_map(|entry| plan.rates_of(&entry.route)));
                    let (keys, authorizers) = (&*self.keys, &*plan.authorizers);
                    let traced = plan.traced(gateway, object);
                    let sees = plan.sees(gateway, object, self.attached(&target));
                    let upgrades = plan.upgrades(object);
                    let before = Before {
                        policies: &policies,
                        proxies: &own.proxies,
                        authorizers,
                        tokens: &tokens,
                        keys,
                        rates: &rates,
                        limiter,
                        sees: sees.as_ref(),
                        traced: traced.as_ref(),
                        logged,
                        counted,
                        upgrades: &upgrades,
                    };
                    render::listener::http(name, &addresses, target.port, before, entries())
                } else {
                    let idle = self.destinations().policy(view, &target).pool.and_then(|pool| pool.idle);
                    let (at, heard) = ((&*addresses, target.port), Heard { logged, counted });
                    let is_tls = protocol == AppProtocol::Tls;
                    render::listener::tcp(name, at, &policies, (streams, is_tls), idle, heard)
                };
                listener?.encode_to_vec()
            }
            ResourceType::RouteConfiguration if object.is_some() && is_http(protocol) => {
                let rates = plan.rates(gateway, object);
                let sees = plan.sees(gateway, object, self.attached(&target));
                let attached = self.attached(&target);
                let has_connect = plan.upgrades(object).has_connect();
                let of_all = (&*rates, sees.as_ref(), has_connect);
                let routes = render::route::at_waypoint(&target, attached, client, of_all, plan);
                self.routed(routes, None)
            }
            ResourceType::Cluster if is_known() => {
                self.cluster(&target, (service, protocol), client, view, object.is_some())
            }
            // Of others' services only the addresses, which lead by way of their waypoints.
            ResourceType::ClusterLoadAssignment if is_known() => {
                self.endpoints(&target, service, client, view, (object.is_some(), false)).encode_to_vec()
            }
            _ => return None,
        })
    }

    /// What stands before workloads: all that holds for the whole gateway, and no routes, which are attached to services.
    fn before_workloads(&self, kind: ResourceType, gateway: &GatewayName) -> Option<Vec<u8>> {
        let plan = &self.translation.waypoints;
        let (rates, sees) = (plan.rates(gateway, None), plan.sees(gateway, None, None));
        Some(match kind {
            ResourceType::Listener => {
                let (policies, tokens) = (plan.policies(gateway, None), plan.tokens(gateway, None));
                let (logged, counted) = (plan.logged(gateway, None), plan.counted(gateway, None));
                let (traced, upgrades) = (plan.traced(gateway, None), plan.upgrades(None));
                let heard = Heard { logged: logged.as_ref(), counted: counted.as_ref() };
                let before = Before {
                    policies: &policies,
                    proxies: &plan.waypoints.get(gateway)?.proxies,
                    authorizers: &plan.authorizers,
                    tokens: &tokens,
                    keys: &self.keys,
                    rates: &rates,
                    limiter: plan.counter(&rates, None).and_then(|name| plan.limiter(name)),
                    sees: sees.as_ref(),
                    traced: traced.as_ref(),
                    upgrades: &upgrades,
                    logged: heard.logged,
                    counted: heard.counted,
                };
                render::listener::workloads(before, heard)?.encode_to_vec()
            }
            ResourceType::RouteConfiguration => {
                render::route::to_workloads((&rates, sees.as_ref()), plan).encode_to_vec()
            }
            ResourceType::Cluster => render::whoever_is_dialled(WORKLOADS).encode_to_vec(),
            _ => return None,
        })
    }

    /// Whether there is such a resource of this target: of a part there are endpoints, and nothing is attached to it.
    fn has_part(&self, target: &Target, view: View<'_>, kind: ResourceType) -> bool {
        let is_of_endpoints = matches!(kind, ResourceType::Cluster | ResourceType::ClusterLoadAssignment);
        let has = |subset: &String| self.destinations().subset(view, &target.hostname, subset).is_some();
        target.subset.as_ref().is_none_or(|subset| is_of_endpoints && has(subset))
    }

    fn destinations(&self) -> &Destinations {
        &self.translation.destinations
    }

    fn cluster(
        &self,
        target: &Target,
        (service, protocol): (&Service, AppProtocol),
        client: &Client,
        view: View<'_>,
        is_direct: bool,
    ) -> Vec<u8> {
        let mut policy = self.destinations().policy(view, target);
        let has_waypoint = service.waypoint.is_some() || !service.weighted_waypoints.is_empty();
        // A waypoint does both once, for everybody; gRPC's own clients do neither as it is said here.
        let is_end = (is_direct || !has_waypoint) && !client.is_grpc;
        // Files are in the proxy's pod: those of a waypoint are its gateway's namespace's, those of a client its own.
        policy.tls = policy.tls.filter(|_| is_end).map(|tls| match (tls, &client.gateway) {
            (Tls::Begin(tls), Some((home, _name))) => Tls::Begin(self.destinations().own_files_only(tls, home)),
            (Tls::Begin(tls), None) => Tls::Begin(self.destinations().own_certificate_only(tls, &client.namespace)),
            (Tls::Off, _) => Tls::Off,
        });
        let is_named = is_end && self.members(service).iter().any(render::endpoints::is_known_by_name);
        let endpoints = if is_named {
            let key = key(service);
            let one_at_a_time = self.translation.one_at_a_time().is_some_and(|services| services.contains(&key));
            let all = self.endpoints(target, service, client, view, (is_direct, true));
            // Envoy takes one name only, of which it uses one address at a time.
            let is_single = all.endpoints.iter().map(|place| place.lb_endpoints.len()).sum::<usize>() == 1;
            render::Endpoints::Named { all, one_at_a_time: one_at_a_time && is_single }
        } else {
            render::Endpoints::Discovered
        };
        render::cluster(&target.to_string(), protocol, &policy, endpoints).encode_to_vec()
    }

    /// Routes, and what the clusters that they lead to are asked with.
    fn routed(&self, mut routes: RouteConfiguration, client: Option<&str>) -> Vec<u8> {
        render::hash::say(&mut routes, |name| {
            let target = Target::parse(name)?;
            let owner = self.service(&target.hostname)?.namespace.as_str();
            self.destinations().policy(View { client, owner }, &target).balancing?.balancer?.key().cloned()
        });
        routes.encode_to_vec()
    }

    fn endpoints(
        &self,
        target: &Target,
        service: &Service,
        client: &Client,
        view: View<'_>,
        (is_direct, resolves): (bool, bool),
    ) -> ClusterLoadAssignment {
        let name = target.to_string();
        let subset = target.subset.as_ref().and_then(|name| self.destinations().subset(view, &target.hostname, name));
        let labelled = self.translation.labelled();
        let is_meant = |workload: &Workload| subset.is_none_or(|subset| labelled.has(workload, &subset.labels));
        let members = self.members(service);
        let members = members.iter().filter(|workload| is_meant(workload));
        let from = self.standpoint(client);
        let (policy, balancing) = (self.destinations().policy(view, target), service.load_balancing.clone());
        let balancing = balancing.unwrap_or_default();
        let view = Seen {
            preference: Preference::of(&policy, &balancing, &from),
            from: &from,
            label: &|workload, key| match workload {
                Some(workload) => labelled.label(workload, key),
                None => labelled.label_of_pod(&client.namespace, &client.pod, key),
            },
            // A waypoint dials by way of tunnels, which lead to the same whichever address they name.
            has_both: client.gateway.is_none(),
            is_direct,
            resolves,
        };
        assignment(&name, service, target.port, members, &view)
    }

    /// Where a client is: where it says, or else where its pod is known to be.
    fn standpoint(&self, client: &Client) -> Standpoint {
        let (mut place, mut node) = (client.locality.clone(), client.node.clone());
        let labelled = self.translation.labelled();
        if let Some((known, locality)) = labelled.whereabouts(&client.namespace, &client.pod) {
            if node.is_empty() {
                known.clone_into(&mut node);
            }
            if place.iter().all(String::is_empty) && node == known {
                place = locality.map_or(place, |locality| [locality.region, locality.zone, locality.subzone]);
            }
        }
        let network = client.network.clone().unwrap_or_else(|| self.network.clone());
        Standpoint { place, node, network }
    }

    /// What a client follows itself: a waypoint does what is asked for, once.
    fn entries(&self, target: &Target, client: &Client, has_waypoint: bool) -> Option<&[Entry]> {
        self.attached(target).filter(|_| !has_waypoint)?.of(&client.namespace)
    }

    fn attached(&self, target: &Target) -> Option<&Attached> {
        self.translation.routes.attached.get(target)
    }

    fn invalid_backend(kind: ResourceType, client: &Client) -> Option<Vec<u8>> {
        match kind {
            _ if !client.is_grpc => None,
            ResourceType::Cluster => {
                let discovered = render::Endpoints::Discovered;
                let policy = Policy::default();
                Some(render::cluster(INVALID_BACKEND, AppProtocol::Unknown, &policy, discovered).encode_to_vec())
            }
            ResourceType::ClusterLoadAssignment => {
                let nobody = Service::default();
                let view = Seen {
                    preference: Preference::None,
                    from: &Standpoint::default(),
                    label: &|_, _| None,
                    has_both: true,
                    is_direct: true,
                    resolves: false,
                };
                let nobody = assignment(INVALID_BACKEND, &nobody, 0, std::iter::empty(), &view);
                Some(nobody.encode_to_vec())
            }
            _ => None,
        }
    }

    /// All resources of a type, as this client needs them.
    pub fn all(&self, kind: ResourceType, client: &Client) -> impl Iterator<Item = Resource> {
        let names: Vec<String> = match &client.gateway {
            None => {
                let own = self.index().services.values().flat_map(|key| self.ports(key));
                let parts = self.index().services.iter().flat_map(|(hostname, key)| {
                    let owner = self.translation.desired.services.get(key).map_or("", |service| &service.namespace);
                    let subsets =
                        self.destinations().subsets(View { client: Some(&client.namespace), owner }, hostname);
                    subsets.flat_map(|subset| self.ports(key).map(move |port| format!("{port}/{subset}")))
                });
                own.chain(parts).collect()
            }
            Some(gateway) => {
                let places = self.index().bound.get(gateway).into_iter().flat_map(HashMap::values);
                let mut names: BTreeSet<String> = places.flat_map(|key| self.ports(key)).collect();
                let backends = self.index().backends.get(gateway).into_iter().flatten();
                names.extend(backends.map(ToString::to_string));
                names.insert(WORKLOADS.to_owned());
                names.into_iter().collect()
            }
        };
        names.into_iter().filter_map(move |name| self.find(kind, &name, client))
    }

    fn ports(&self, key: &str) -> impl Iterator<Item = String> {
        let service = self.translation.desired.services.get(key);
        service
            .into_iter()
            .flat_map(|service| service.ports.iter().map(|port| format!("{}:{}", service.hostname, port.service_port)))
    }
}

fn protocol(service: &Service, port: u16) -> Option<AppProtocol> {
    service.ports.iter().find(|known| known.service_port == u32::from(port)).map(Port::app_protocol)
}
