//! One state of everything, from which resources are written down when a client asks for them and as that client needs
//! them: of tens of thousands of services most clients ask for a few.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};

use fairway_proto::workload::service::Visibility;
use fairway_proto::workload::{AppProtocol, Port, Service, Workload};
use prost::Message;

use super::model::{Attached, Target};
use super::render::listener::WORKLOADS;
use super::render::{self, INVALID_BACKEND};
use super::waypoints::{GatewayName, Plan};
use super::{Client, render::endpoints::assignment};
use crate::translate::Translation;
use crate::world::{Resource, ResourceType};

/// One state of everything.
#[derive(Debug, Default)]
pub struct Snapshot {
    translation: Arc<Translation>,
    /// Network of clients that name none.
    network: String,
    /// Made for the first client.
    index: OnceLock<Index>,
}

/// Places in the translation.
#[derive(Debug, Default)]
struct Index {
    /// Services by hostname.
    services: HashMap<String, usize>,
    /// Workloads by the key of a service.
    members: HashMap<String, Vec<usize>>,
    /// The services of each waypoint by hostname: who is bound to it is meant, whoever else has the name.
    bound: HashMap<GatewayName, HashMap<String, usize>>,
    /// What routes of each waypoint's services send requests to.
    backends: HashMap<GatewayName, BTreeSet<Target>>,
}

impl Index {
    fn of(translation: &Translation) -> Self {
        let mut index = Self::default();
        for (place, service) in translation.desired.services.iter().enumerate() {
            // Of several with one name the first counts, and a Service before any entry.
            if service.canonical || !index.services.contains_key(&service.hostname) {
                index.services.insert(service.hostname.clone(), place);
            }
        }
        for (place, workload) in translation.desired.workloads.iter().enumerate() {
            for service in workload.services.keys() {
                match index.members.get_mut(service) {
                    Some(members) => members.push(place),
                    None => drop(index.members.insert(service.clone(), vec![place])),
                }
            }
        }
        let Translation { routes, waypoints, desired, .. } = translation;
        let by_key: HashMap<String, usize> =
            desired.services.iter().enumerate().map(|(place, service)| (key(service), place)).collect();
        for (gateway, waypoint) in &waypoints.waypoints {
            let places = waypoint.services.keys().filter_map(|key| by_key.get(key).copied());
            let services = places.filter_map(|place| Some((place, desired.services.get(place)?)));
            let services: Vec<_> = services.collect();
            let bound = services.iter().map(|(place, service)| (service.hostname.clone(), *place)).collect();
            index.bound.insert(gateway.clone(), bound);
            let targets = services.into_iter().flat_map(|(_, service)| {
                service.ports.iter().filter_map(|port| {
                    let port = u16::try_from(port.service_port).ok()?;
                    Some(Target { hostname: service.hostname.clone(), port })
                })
            });
            let attached = targets.filter_map(|target| routes.attached.get(&target));
            let backends: BTreeSet<Target> = attached.flat_map(Attached::backends).cloned().collect();
            index.backends.insert(gateway.clone(), backends);
        }
        index
    }
}

fn is_http(protocol: AppProtocol) -> bool {
    !matches!(protocol, AppProtocol::Tcp | AppProtocol::Tls)
}

impl Snapshot {
    /// The state after a translation, in which clients that name no network are in `network`.
    #[must_use]
    pub fn new(translation: Arc<Translation>, network: String) -> Self {
        Self { translation, network, index: OnceLock::new() }
    }

    /// The routes.
    #[must_use]
    pub fn routes(&self) -> &super::model::Routes {
        &self.translation.routes
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
        self.translation.desired.services.get(*self.index().services.get(hostname)?)
    }

    fn visible(&self, hostname: &str, client: &Client) -> Option<&Service> {
        let service = self.service(hostname)?;
        let is_visible = service.visibility() == Visibility::Public || service.namespace == client.namespace;
        is_visible.then_some(service)
    }

    fn members<'a>(&'a self, service: &Service) -> impl Iterator<Item = &'a Workload> {
        let places = self.index().members.get(&key(service));
        places.into_iter().flatten().filter_map(|place| self.translation.desired.workloads.get(*place))
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
        Some(match kind {
            ResourceType::Listener => render::listener::dialled(name).encode_to_vec(),
            ResourceType::Cluster => render::cluster(name, protocol).encode_to_vec(),
            ResourceType::RouteConfiguration => {
                // A waypoint does what is asked for, once.
                let attached = self.attached(&target).filter(|_| !has_waypoint);
                let entries = attached.and_then(|attached| attached.of(&client.namespace));
                render::route::configuration(&target, entries, client).encode_to_vec()
            }
            ResourceType::ClusterLoadAssignment => self.endpoints(&target, service, client, false),
            ResourceType::Address | ResourceType::Authorization => return None,
        })
    }

    fn for_waypoint(&self, kind: ResourceType, name: &str, client: &Client, gateway: &GatewayName) -> Option<Vec<u8>> {
        let plan = &self.translation.waypoints;
        let own = plan.waypoints.get(gateway)?;
        if name == WORKLOADS {
            let policies = plan.policies(gateway, None);
            let listener = render::listener::tcp(name, &[Ipv4Addr::UNSPECIFIED.into()], 0, &policies)?;
            return (kind == ResourceType::Listener && own.for_workloads).then(|| listener.encode_to_vec());
        }
        let target = Target::parse(name)?;
        let bound = self.index().bound.get(gateway).and_then(|bound| bound.get(&target.hostname));
        let bound = bound.and_then(|place| self.translation.desired.services.get(*place));
        let service = bound.or_else(|| self.service(&target.hostname))?;
        let protocol = protocol(service, target.port)?;
        let object = own.services.get(&key(service));
        let is_known = || object.is_some() || self.index().backends.get(gateway).is_some_and(|it| it.contains(&target));
        Some(match kind {
            ResourceType::Listener => {
                let policies = plan.policies(gateway, Some(object?));
                let addresses: Vec<_> = render::endpoints::virtual_addresses(service).collect();
                let render = if is_http(protocol) { render::listener::http } else { render::listener::tcp };
                render(name, &addresses, target.port, &policies)?.encode_to_vec()
            }
            ResourceType::RouteConfiguration if object.is_some() && is_http(protocol) => {
                render::route::at_waypoint(&target, self.attached(&target), client).encode_to_vec()
            }
            ResourceType::Cluster if is_known() => render::cluster(name, protocol).encode_to_vec(),
            // Of others' services only the addresses, which lead by way of their waypoints.
            ResourceType::ClusterLoadAssignment if is_known() => {
                self.endpoints(&target, service, client, object.is_some())
            }
            _ => return None,
        })
    }

    fn endpoints(&self, target: &Target, service: &Service, client: &Client, is_direct: bool) -> Vec<u8> {
        let (name, members) = (target.to_string(), self.members(service));
        assignment(&name, service, target.port, members, client, &self.network, is_direct).encode_to_vec()
    }

    fn attached(&self, target: &Target) -> Option<&Attached> {
        self.translation.routes.attached.get(target)
    }

    fn invalid_backend(kind: ResourceType, client: &Client) -> Option<Vec<u8>> {
        match kind {
            _ if !client.is_grpc => None,
            ResourceType::Cluster => Some(render::cluster(INVALID_BACKEND, AppProtocol::Unknown).encode_to_vec()),
            ResourceType::ClusterLoadAssignment => {
                let nobody = Service::default();
                let nobody = assignment(INVALID_BACKEND, &nobody, 0, std::iter::empty(), client, "", true);
                Some(nobody.encode_to_vec())
            }
            _ => None,
        }
    }

    /// All resources of a type, as this client needs them.
    pub fn all(&self, kind: ResourceType, client: &Client) -> impl Iterator<Item = Resource> {
        let names: Vec<String> = match &client.gateway {
            None => self.index().services.values().flat_map(|place| self.ports(*place)).collect(),
            Some(gateway) => {
                let places = self.index().bound.get(gateway).into_iter().flat_map(HashMap::values);
                let mut names: BTreeSet<String> = places.flat_map(|place| self.ports(*place)).collect();
                let backends = self.index().backends.get(gateway).into_iter().flatten();
                names.extend(backends.map(ToString::to_string));
                names.insert(WORKLOADS.to_owned());
                names.into_iter().collect()
            }
        };
        names.into_iter().filter_map(move |name| self.find(kind, &name, client))
    }

    fn ports(&self, place: usize) -> impl Iterator<Item = String> {
        let service = self.translation.desired.services.get(place);
        service
            .into_iter()
            .flat_map(|service| service.ports.iter().map(|port| format!("{}:{}", service.hostname, port.service_port)))
    }
}

/// Key of a service in workload discovery.
fn key(service: &Service) -> String {
    format!("{}/{}", service.namespace, service.hostname)
}

fn protocol(service: &Service, port: u16) -> Option<AppProtocol> {
    service.ports.iter().find(|known| known.service_port == u32::from(port)).map(Port::app_protocol)
}
