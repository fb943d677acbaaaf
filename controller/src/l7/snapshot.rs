//! One state of everything, from which resources are written down when a client asks for them and as that client needs
//! them: of tens of thousands of services most clients ask for a few.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use fairway_proto::workload::service::Visibility;
use fairway_proto::workload::{AppProtocol, Service, Workload};
use prost::Message;

use super::model::Target;
use super::render::{self, INVALID_BACKEND};
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

    fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::of(&self.translation))
    }

    fn service(&self, hostname: &str, client: &Client) -> Option<&Service> {
        let service = self.translation.desired.services.get(*self.index().services.get(hostname)?)?;
        let is_visible = service.visibility() == Visibility::Public || service.namespace == client.namespace;
        is_visible.then_some(service)
    }

    fn members<'a>(&'a self, service: &Service) -> impl Iterator<Item = &'a Workload> {
        let key = format!("{}/{}", service.namespace, service.hostname);
        let places = self.index().members.get(&key);
        places.into_iter().flatten().filter_map(|place| self.translation.desired.workloads.get(*place))
    }

    /// The resource of a type that is called `name`, as this client needs it.
    #[must_use]
    pub fn find(&self, kind: ResourceType, name: &str, client: &Client) -> Option<Resource> {
        if name == INVALID_BACKEND {
            return Self::invalid_backend(kind, client);
        }
        let target = Target::parse(name)?;
        let service = self.service(&target.hostname, client)?;
        let port = service.ports.iter().find(|port| port.service_port == u32::from(target.port))?;
        let protocol = port.app_protocol();
        if !is_http(protocol) {
            return None;
        }
        let body = match kind {
            ResourceType::Listener => render::listener(name).encode_to_vec(),
            ResourceType::Cluster => render::cluster(name, protocol).encode_to_vec(),
            ResourceType::RouteConfiguration => {
                render::route::configuration(&target, self.entries(&target, service, client), client).encode_to_vec()
            }
            ResourceType::ClusterLoadAssignment => {
                let members = self.members(service);
                assignment(name, service, target.port, members, client, &self.network).encode_to_vec()
            }
            ResourceType::Address | ResourceType::Authorization => return None,
        };
        Some(Resource::new(name.into(), body, Vec::new()))
    }

    /// What is attached to a port, as far as it is for this client to do.
    fn entries(&self, target: &Target, service: &Service, client: &Client) -> Option<&[super::model::Entry]> {
        let attached = self.translation.routes.attached.get(target)?;
        let has_waypoint = service.waypoint.is_some() || !service.weighted_waypoints.is_empty();
        if has_waypoint && !client.is_waypoint {
            // The waypoint does what the service's own namespace asks for, once.
            return attached.consumers.get(&client.namespace).map(Vec::as_slice);
        }
        attached.of(&client.namespace)
    }

    fn invalid_backend(kind: ResourceType, client: &Client) -> Option<Resource> {
        let body = match kind {
            _ if !client.is_grpc => return None,
            ResourceType::Cluster => render::cluster(INVALID_BACKEND, AppProtocol::Unknown).encode_to_vec(),
            ResourceType::ClusterLoadAssignment => {
                let nobody = Service::default();
                assignment(INVALID_BACKEND, &nobody, 0, std::iter::empty(), client, "").encode_to_vec()
            }
            _ => return None,
        };
        Some(Resource::new(INVALID_BACKEND.into(), body, Vec::new()))
    }

    /// All resources of a type, as this client needs them.
    pub fn all(&self, kind: ResourceType, client: &Client) -> impl Iterator<Item = Resource> {
        let services = self.index().services.values();
        let services = services.filter_map(|place| self.translation.desired.services.get(*place));
        let names = services.flat_map(|service| {
            service.ports.iter().map(move |port| format!("{}:{}", service.hostname, port.service_port))
        });
        names.filter_map(move |name| self.find(kind, &name, client))
    }
}
