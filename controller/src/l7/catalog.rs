//! Services and ServiceEntries as routes see them: what they are attached to, and what they send requests and connections to.

use fairway_core::source::labels::{HasLabels, NONE, USE_WAYPOINT, USE_WAYPOINT_NAMESPACE};
use fairway_core::source::route::{BackendReference, ParentReference};
use fairway_core::source::{Kind, ObjectKey, Objects};
use fairway_proto::workload::AppProtocol;
use k8s_openapi::api::core::v1::Service;

use super::destinations::{Destinations, View};
use super::grants::Referrer;
use super::model::Target;
use crate::translate::Settings;
use crate::translate::entry;
use crate::translate::service::{app_protocol, hostname, sent, tcp_ports};

/// Label of namespaces whose waypoints are made when something needs one.
const WHEN_NEEDED: &str = "fairway.dev/waypoint";

/// Looks services up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Catalog<'a> {
    pub(super) objects: &'a Objects,
    pub(super) settings: &'a Settings,
    pub(super) destinations: &'a Destinations,
}

/// Why a reference cannot be followed: the reason of Gateway API, and a message.
pub(crate) type Refusal = (&'static str, String);

/// What a route tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Requests, on ports that speak HTTP or do not say.
    Request,
    /// Connections, on ports that are not said to speak HTTP.
    Connection,
}

impl Unit {
    fn is_told_apart(self, protocol: AppProtocol) -> bool {
        match protocol {
            AppProtocol::Tcp | AppProtocol::Tls => self == Self::Connection,
            AppProtocol::Unknown => true,
            _ => self == Self::Request,
        }
    }
}

/// A port that can be dialled.
#[derive(Debug)]
struct Offered {
    target: Target,
    name: Option<String>,
    protocol: AppProtocol,
}

impl<'a> Catalog<'a> {
    fn service(&self, namespace: &str, name: &str) -> Option<&'a Service> {
        let service = self.objects.services.get(&ObjectKey::new(Kind::Service, namespace, name))?;
        sent(service).is_some().then_some(service)
    }

    /// The ports of a Service or ServiceEntry, for each of its hosts or for `host` alone.
    fn offered(&self, object: &ObjectKey, host: Option<&str>) -> Option<Vec<Offered>> {
        if object.kind == Kind::ServiceEntry {
            let entry = self.objects.service_entries.get(object)?;
            let hosts = entry.spec.hosts.iter().filter(|known| host.is_none_or(|host| host == known.as_str()));
            let ports = hosts.flat_map(|hostname| {
                entry::tcp(&entry.spec.ports).map(move |port| Offered {
                    target: Target { hostname: hostname.clone(), port: port.number, subset: None },
                    name: Some(port.name.clone()),
                    protocol: entry::app_protocol(port),
                })
            });
            return Some(ports.collect());
        }
        let spec = sent(self.service(&object.namespace, &object.name)?)?;
        let hostname = hostname(&object.name, &object.namespace, self.settings);
        let ports = tcp_ports(spec).map(|(port, number)| Offered {
            target: Target { hostname: hostname.clone(), port: number, subset: None },
            name: port.name.clone(),
            protocol: app_protocol(port),
        });
        Some(ports.collect())
    }

    /// The ports that a route of `namespace` is attached to by this reference; none when the parent is neither a Service nor a
    /// ServiceEntry, and somebody else's to speak of.
    pub(super) fn parent(
        &self,
        namespace: &str,
        parent: &ParentReference,
        unit: Unit,
    ) -> Option<Result<Vec<Target>, Refusal>> {
        let object = parent_object(namespace, parent)?;
        if let Some(name) = parent.unread.keys().next() {
            // With a port misspelt it would be attached to all of them.
            return Some(Err(("UnsupportedValue", format!("{name} is not supported; the route is not attached"))));
        }
        Some(self.ports_of(&object, None, parent, unit))
    }

    /// The ports of a service, for all of its hosts or for one, that routes are attached to by what this reference says of
    /// ports.
    pub(super) fn ports_of(
        &self,
        object: &ObjectKey,
        host: Option<&str>,
        parent: &ParentReference,
        unit: Unit,
    ) -> Result<Vec<Target>, Refusal> {
        let Some(offered) = self.offered(object, host) else {
            return Err(("NoMatchingParent", format!("there is no {object}")));
        };
        let spec = self.service(&object.namespace, &object.name).and_then(sent);
        if object.kind == Kind::Service && spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
            let message = format!("{object} is headless; routes are attached to a ClusterIP");
            return Err(("UnsupportedValue", message));
        }
        let is_meant = |port: &Offered| {
            parent.port.is_none_or(|wanted| wanted == i32::from(port.target.port))
                && parent.section_name.as_deref().is_none_or(|wanted| port.name.as_deref() == Some(wanted))
        };
        let mut other = None;
        let mut targets = Vec::new();
        for port in offered.into_iter().filter(is_meant) {
            if unit.is_told_apart(port.protocol) {
                targets.push(port.target);
            } else {
                other = Some(port.target.port);
            }
        }
        match (targets.is_empty(), other) {
            (false, _) => Ok(targets),
            (true, Some(port)) => Err(("NoMatchingParent", wrong_protocol(port, object, unit))),
            (true, None) => Err(("NoMatchingParent", format!("{object} has no such port over TCP"))),
        }
    }

    /// The Service or ServiceEntry that `host` stands for in `namespace`.
    pub(super) fn named(&self, namespace: &str, host: &str) -> Result<ObjectKey, Refusal> {
        named(self.objects, self.settings, namespace, host)
    }

    /// The port of a service that has a single one over TCP.
    pub(super) fn only_port(&self, object: &ObjectKey, host: &str) -> Option<u16> {
        let host = (object.kind == Kind::ServiceEntry).then_some(host);
        match self.offered(object, host)?.as_slice() {
            [only] => Some(only.target.port),
            _ => None,
        }
    }

    /// The Service or ServiceEntry of this name.
    fn of_name(&self, hostname: &str) -> Option<ObjectKey> {
        let entries = || self.objects.service_entries.iter();
        let by_host = || entries().find(|(_, entry)| entry.spec.hosts.iter().any(|known| known == hostname));
        self.named("", hostname).ok().or_else(|| by_host().map(|(key, _)| key.clone()))
    }

    /// The ports of the service of this name on which clients speak TLS.
    pub(super) fn ports_of_tls(&self, hostname: &str) -> Vec<u16> {
        let Some(object) = self.of_name(hostname) else { return Vec::new() };
        let host = (object.kind == Kind::ServiceEntry).then_some(hostname);
        let offered = self.offered(&object, host).unwrap_or_default().into_iter();
        offered.filter(|port| port.protocol == AppProtocol::Tls).map(|port| port.target.port).collect()
    }

    /// Whether labels ask for a waypoint before the service of this name, or have one made when it is needed.
    pub(super) fn asks_for_waypoint(&self, hostname: &str) -> bool {
        let Some(object) = self.of_name(hostname) else { return false };
        let own = match object.kind {
            Kind::ServiceEntry => self.objects.service_entries.get(&object).map(|entry| &entry.metadata),
            _ => self.objects.services.get(&object).map(|service| &service.metadata),
        };
        let of_namespace = |key: &str| self.objects.namespace_label(&object.namespace, key);
        let label = own.and_then(|own| own.label(USE_WAYPOINT)).or_else(|| of_namespace(USE_WAYPOINT));
        label.is_some_and(|label| label != NONE) || of_namespace(WHEN_NEEDED).is_some()
    }

    /// The namespace of the waypoint that labels ask for before the service of this name, where it is not the service's own.
    pub(super) fn waypoint_elsewhere(&self, hostname: &str) -> Option<&'a str> {
        let object = self.of_name(hostname)?;
        let own = match object.kind {
            Kind::ServiceEntry => self.objects.service_entries.get(&object).map(|entry| &entry.metadata),
            _ => self.objects.services.get(&object).map(|service| &service.metadata),
        };
        let namespace = self.objects.namespace(&object.namespace).map(|namespace| &namespace.metadata);
        let asking = own.into_iter().chain(namespace).find(|metadata| metadata.label(USE_WAYPOINT).is_some())?;
        asking.label(USE_WAYPOINT_NAMESPACE).filter(|named| *named != object.namespace)
    }

    /// Whether there is a service of this name.
    pub(super) fn has(&self, hostname: &str) -> bool {
        let is_there = |object: ObjectKey| self.offered(&object, None).is_some();
        let mut entries = self.objects.service_entries.values();
        self.named("", hostname).is_ok_and(is_there)
            || entries.any(|entry| entry.spec.hosts.iter().any(|known| known == hostname))
    }

    /// A part of what a route of `namespace` sends something to, which is a service of `owner`.
    pub(super) fn part(&self, namespace: &str, owner: &str, whole: Target, subset: &str) -> Result<Target, Refusal> {
        let view = View { client: Some(namespace), owner };
        match self.destinations.subset(view, &whole.hostname, subset) {
            Some(_) => Ok(Target { subset: Some(subset.to_owned()), ..whole }),
            None => {
                let of = &whole.hostname;
                let message = format!("no DestinationRule that counts in {namespace} has a subset {subset:?} of {of}");
                Err(("BackendNotFound", message))
            }
        }
    }

    /// What a route of `namespace` sends requests or connections to by this reference.
    pub(super) fn backend(
        &self,
        namespace: &str,
        backend: &BackendReference,
        unit: Unit,
        referrer: &Referrer<'_>,
    ) -> Result<Target, Refusal> {
        let group = backend.group.as_deref().unwrap_or_default();
        let kind = backend.kind.as_deref().unwrap_or("Service");
        let (namespace, name) = (backend.namespace.as_deref().unwrap_or(namespace), backend.name.as_str());
        let (object, host) = match (group, kind) {
            ("" | "core", "Service") => (ObjectKey::new(Kind::Service, namespace, name), None),
            ("networking.istio.io", "ServiceEntry") => (ObjectKey::new(Kind::ServiceEntry, namespace, name), None),
            ("networking.istio.io", "Hostname") => (self.named(namespace, name)?, Some(name)),
            _ => {
                let message = format!(
                    "{kind} of group {group:?} cannot be a backend; name a Service, a ServiceEntry or a Hostname"
                );
                return Err(("InvalidKind", message));
            }
        };
        referrer.check(&object, self.objects)?;
        let Some(wanted) = backend.port else {
            return Err(("BackendNotFound", "the port is missing".to_owned()));
        };
        self.reached(&object, host, wanted, unit)
    }

    /// What is at a port of a service, of one of its hosts if it has several.
    pub(super) fn reached(
        &self,
        object: &ObjectKey,
        host: Option<&str>,
        wanted: i32,
        unit: Unit,
    ) -> Result<Target, Refusal> {
        let host = host.filter(|_| object.kind == Kind::ServiceEntry);
        let Some(offered) = self.offered(object, host) else {
            return Err(("BackendNotFound", format!("there is no {object}")));
        };
        match offered.into_iter().find(|port| i32::from(port.target.port) == wanted) {
            None => Err(("BackendNotFound", format!("{object} has no port {wanted} over TCP"))),
            // A connection may lead to a port that speaks HTTP; what is no request cannot become one.
            Some(port) if unit == Unit::Request && !unit.is_told_apart(port.protocol) => {
                Err(("UnsupportedProtocol", wrong_protocol(port.target.port, object, unit)))
            }
            Some(port) => Ok(port.target),
        }
    }
}

/// The Service or ServiceEntry that `host` stands for in `namespace`; a name without dots is of that namespace.
pub(crate) fn named(objects: &Objects, settings: &Settings, namespace: &str, host: &str) -> Result<ObjectKey, Refusal> {
    if !host.contains('.') && !host.is_empty() {
        return Ok(ObjectKey::new(Kind::Service, namespace, host));
    }
    let name = host.strip_suffix(&settings.cluster_domain).and_then(|rest| rest.strip_suffix(".svc."));
    let parts = name.and_then(|name| name.split_once('.'));
    if let Some((name, namespace)) = parts.filter(|(_, namespace)| !namespace.contains('.')) {
        return Ok(ObjectKey::new(Kind::Service, namespace, name));
    }
    let entries = objects.service_entries.iter();
    let mut entries = entries.filter(|(_, entry)| entry.spec.hosts.iter().any(|known| known == host));
    let first = entries.clone().next();
    let own = entries.find(|(key, _)| key.namespace == namespace).or(first);
    own.map(|(key, _)| key.clone()).ok_or_else(|| {
        ("BackendNotFound", format!("{host:?} is the name of no Service of this cluster and of no ServiceEntry"))
    })
}

/// The kind of a parent that routes are attached to here; none is somebody else's to speak of.
pub(crate) fn parent_kind(parent: &ParentReference) -> Option<Kind> {
    match (parent.group.as_deref(), parent.kind.as_deref()) {
        (Some("" | "core"), Some("Service")) => Some(Kind::Service),
        (Some("networking.istio.io"), Some("ServiceEntry")) => Some(Kind::ServiceEntry),
        _ => None,
    }
}

/// What a reference of something in `namespace` means, if routes are attached to that here.
pub(crate) fn parent_object(namespace: &str, parent: &ParentReference) -> Option<ObjectKey> {
    let namespace = parent.namespace.as_deref().unwrap_or(namespace);
    Some(ObjectKey::new(parent_kind(parent)?, namespace, &parent.name))
}

fn wrong_protocol(port: u16, object: &ObjectKey, unit: Unit) -> String {
    let what = if unit == Unit::Request { "does not speak HTTP" } else { "speaks HTTP" };
    format!("port {port} of {object} {what}; see its appProtocol")
}
