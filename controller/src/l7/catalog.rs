//! Services as routes see them: what they are attached to, and what they send requests to.

use fairway_core::source::route::{BackendReference, ParentReference};
use fairway_core::source::{Kind, ObjectKey, Objects};
use fairway_proto::workload::AppProtocol;
use k8s_openapi::api::core::v1::Service;

use super::model::Target;
use crate::translate::Settings;
use crate::translate::service::{app_protocol, hostname, sent, tcp_ports};

/// Looks services up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Catalog<'a> {
    pub(super) objects: &'a Objects,
    pub(super) settings: &'a Settings,
}

/// Why a reference cannot be followed: the reason of Gateway API, and a message.
pub(super) type Refusal = (&'static str, String);

/// Whether requests to a port can be told apart.
fn is_http(protocol: AppProtocol) -> bool {
    !matches!(protocol, AppProtocol::Tcp | AppProtocol::Tls)
}

impl<'a> Catalog<'a> {
    fn service(&self, namespace: &str, name: &str) -> Option<&'a Service> {
        let service = self.objects.services.get(&ObjectKey::new(Kind::Service, namespace, name))?;
        sent(service).is_some().then_some(service)
    }

    fn target(&self, namespace: &str, name: &str, port: u16) -> Target {
        Target { hostname: hostname(name, namespace, self.settings), port }
    }

    /// The ports that a route of `namespace` is attached to by this reference; none when the parent is not a service and
    /// somebody else's to speak of.
    pub(super) fn parent(&self, namespace: &str, parent: &ParentReference) -> Option<Result<Vec<Target>, Refusal>> {
        let is_service =
            matches!(parent.group.as_deref(), Some("" | "core")) && parent.kind.as_deref() == Some("Service");
        is_service.then(|| self.ports_of(parent.namespace.as_deref().unwrap_or(namespace), parent))
    }

    /// The ports of a service that routes are attached to by this reference.
    pub(super) fn ports_of(&self, namespace: &str, parent: &ParentReference) -> Result<Vec<Target>, Refusal> {
        let name = parent.name.as_str();
        let Some(service) = self.service(namespace, name) else {
            return Err(("NoMatchingParent", format!("there is no Service {namespace}/{name}")));
        };
        let Some(spec) = sent(service) else { return Ok(Vec::new()) };
        if spec.cluster_ip.as_deref() == Some("None") {
            let message = format!("Service {namespace}/{name} is headless; routes are attached to a ClusterIP");
            return Err(("UnsupportedValue", message));
        }
        let is_meant = |port: i32, port_name: Option<&str>| {
            parent.port.is_none_or(|wanted| wanted == port)
                && parent.section_name.as_deref().is_none_or(|wanted| port_name == Some(wanted))
        };
        let mut opaque = None;
        let mut targets = Vec::new();
        for (port, number) in tcp_ports(spec).filter(|(port, _)| is_meant(port.port, port.name.as_deref())) {
            if is_http(app_protocol(port)) {
                targets.push(self.target(namespace, name, number));
            } else {
                opaque = Some(number);
            }
        }
        match (targets.is_empty(), opaque) {
            (false, _) => Ok(targets),
            (true, Some(port)) => {
                let message =
                    format!("port {port} of Service {namespace}/{name} does not speak HTTP; see its appProtocol");
                Err(("NoMatchingParent", message))
            }
            (true, None) => Err(("NoMatchingParent", format!("Service {namespace}/{name} has no such port over TCP"))),
        }
    }

    /// Namespace and name of the service that `host` stands for in `namespace`; a name without dots is of that namespace.
    pub(super) fn named<'h>(&self, namespace: &'h str, host: &'h str) -> Result<(&'h str, &'h str), Refusal> {
        if !host.contains('.') && !host.is_empty() {
            return Ok((namespace, host));
        }
        let name = host.strip_suffix(&self.settings.cluster_domain).and_then(|rest| rest.strip_suffix(".svc."));
        let parts = name.and_then(|name| name.split_once('.'));
        let (name, namespace) = parts
            .filter(|(_, namespace)| !namespace.contains('.'))
            .ok_or_else(|| ("BackendNotFound", format!("{host:?} is not the name of a Service of this cluster")))?;
        Ok((namespace, name))
    }

    /// The port of a service that has a single one over TCP.
    pub(super) fn only_port(&self, namespace: &str, name: &str) -> Option<u16> {
        let mut ports = tcp_ports(sent(self.service(namespace, name)?)?);
        let (_, only) = ports.next()?;
        ports.next().is_none().then_some(only)
    }

    /// What a route of `namespace` sends requests to by this reference.
    pub(super) fn backend(&self, namespace: &str, backend: &BackendReference) -> Result<Target, Refusal> {
        let group = backend.group.as_deref().unwrap_or_default();
        let kind = backend.kind.as_deref().unwrap_or("Service");
        if !matches!(group, "" | "core") || kind != "Service" {
            return Err(("InvalidKind", format!("{kind} of group {group:?} cannot be a backend; name a Service")));
        }
        let (namespace, name) = (backend.namespace.as_deref().unwrap_or(namespace), backend.name.as_str());
        let Some(spec) = self.service(namespace, name).and_then(sent) else {
            return Err(("BackendNotFound", format!("there is no Service {namespace}/{name}")));
        };
        let Some(wanted) = backend.port else {
            return Err(("BackendNotFound", "the port is missing".to_owned()));
        };
        match tcp_ports(spec).find(|(port, _)| port.port == wanted) {
            None => Err(("BackendNotFound", format!("Service {namespace}/{name} has no port {wanted} over TCP"))),
            Some((port, _)) if !is_http(app_protocol(port)) => {
                let message =
                    format!("port {wanted} of Service {namespace}/{name} does not speak HTTP; see its appProtocol");
                Err(("UnsupportedProtocol", message))
            }
            Some((_, number)) => Ok(self.target(namespace, name, number)),
        }
    }
}
