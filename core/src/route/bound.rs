//! What a tunnel that arrives at a waypoint asks for: only what is bound to this very waypoint.

use std::{net::SocketAddr, sync::Arc};

use super::{Refusal, waypoint};
use crate::{
    addr::{Authority, NetworkAddress, canonical},
    reason::Reason,
    service::{AppProtocol, GatewayDestination, Service},
    snapshot::Snapshot,
    workload::Workload,
};

/// What a client of a waypoint wants to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// A port of a service.
    Service {
        /// The service.
        service: Arc<Service>,
        /// What the client dialled: an address of the service, its first one where the client named it.
        address: SocketAddr,
    },
    /// A port of a workload.
    Workload {
        /// The workload.
        workload: Arc<Workload>,
        /// What the client dialled.
        address: SocketAddr,
    },
}

impl Bound {
    /// What the client dialled.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Service { address, .. } | Self::Workload { address, .. } => *address,
        }
    }

    /// The service, if it is one.
    #[must_use]
    pub fn service(&self) -> Option<&Arc<Service>> {
        match self {
            Self::Service { service, .. } => Some(service),
            Self::Workload { .. } => None,
        }
    }

    /// The workload, if it is one.
    #[must_use]
    pub fn workload(&self) -> Option<&Arc<Workload>> {
        match self {
            Self::Service { .. } => None,
            Self::Workload { workload, .. } => Some(workload),
        }
    }

    /// What is declared to be spoken on it. Of a workload's port that is what all services say that lead there, and nothing where they
    /// contradict each other; one that declares nothing does not.
    #[must_use]
    pub fn declared(&self, snapshot: &Snapshot) -> AppProtocol {
        match self {
            Self::Service { service, address } => {
                service.port(address.port()).map(|port| port.app_protocol).unwrap_or_default()
            }
            Self::Workload { workload, address } => {
                let said = workload.services.iter().flat_map(|of| {
                    let service = snapshot.service(&of.key);
                    let pairs = of.ports.iter().filter(|pair| pair.target_port == address.port());
                    pairs.filter_map(move |pair| Some(service?.port(pair.service_port)?.app_protocol))
                });
                let mut said = said.filter(|protocol| *protocol != AppProtocol::Unknown);
                let first = said.next().unwrap_or_default();
                if said.all(|other| is_http(other) == is_http(first)) { first } else { AppProtocol::Unknown }
            }
        }
    }
}

const fn is_http(protocol: AppProtocol) -> bool {
    matches!(protocol, AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc)
}

/// Whether `local` is a waypoint of the service.
#[must_use]
pub fn is_bound(snapshot: &Snapshot, service: &Service, local: &Workload) -> bool {
    waypoint::serves(snapshot, service, local)
}

/// The services that `local` is a waypoint of, in no useful order.
pub fn bound_services<'a>(snapshot: &'a Snapshot, local: &'a Workload) -> impl Iterator<Item = &'a Arc<Service>> {
    // Nearly all of thousands name their waypoint in the same words, which are looked up once.
    let mut last: Option<(&GatewayDestination, bool)> = None;
    snapshot.services().filter(move |service| {
        waypoint::all(service).any(|reference| match last {
            Some((same, is_local)) if *same == reference.destination => is_local,
            _ => {
                let is_local = waypoint::includes(snapshot, reference, local);
                last = Some((&reference.destination, is_local));
                is_local
            }
        })
    })
}

/// What `authority` means at the waypoint `local`.
///
/// # Errors
/// A [`Refusal`] when it makes no sense, is unknown, or is not bound to this waypoint.
pub fn bound(snapshot: &Snapshot, local: &Workload, authority: &str) -> Result<Bound, Box<Refusal>> {
    let parsed: Authority =
        authority.parse().map_err(|error| Refusal::new(Reason::BadRequest, format_args!("{authority:?}: {error}")))?;
    let foreign = || Refusal::new(Reason::AuthorityMismatch, format_args!("{authority} is not bound to this waypoint"));
    let (service, address) = match &parsed {
        Authority::Address(address) => {
            let address = canonical(*address);
            let key = NetworkAddress { network: local.network.clone(), ip: address.ip() };
            match snapshot.service_by_vip(&key, local.namespace()) {
                Some(service) => (service, address),
                None => {
                    let workload = snapshot.workload_by_address(&key).ok_or_else(foreign)?;
                    let reference = workload.waypoint.as_deref();
                    return match reference.filter(|reference| waypoint::includes(snapshot, reference, local)) {
                        Some(_) => Ok(Bound::Workload { workload: workload.clone(), address }),
                        None => Err(foreign().with_workload(workload)),
                    };
                }
            }
        }
        Authority::Hostname { host, port } => {
            let unknown = || Refusal::new(Reason::UnknownAuthority, authority);
            let service = snapshot.service_by_hostname(host, local.namespace()).ok_or_else(unknown)?;
            let own = service.vips.iter().find(|vip| vip.network == local.network).or(service.vips.first());
            (service, SocketAddr::new(own.ok_or_else(unknown)?.ip, *port))
        }
    };
    if !waypoint::serves(snapshot, service, local) {
        return Err(foreign().with_service(Some(service)));
    }
    if service.port(address.port()).is_none() {
        return Err(Refusal::new(Reason::UnknownAuthority, authority).with_service(Some(service)));
    }
    Ok(Bound::Service { service: service.clone(), address })
}

#[cfg(test)]
mod tests {
    use fairway_proto::workload as proto;

    use super::*;
    use crate::{
        snapshot::World,
        testing::{gateway_by_hostname, pod, service, service_message, serving, socket, workload},
    };

    #[test]
    fn only_what_is_bound_to_this_waypoint_is_served() {
        let mut world = World::complete();
        let local = workload(serving(pod("waypoint", &["10.0.0.1"]), "waypoint", &[(15_008, 15_008)]));
        let mut web = service_message("web", &["10.96.0.1"], &[(80, 8080)]);
        web.waypoint = Some(gateway_by_hostname("waypoint"));
        let mut elsewhere = service_message("elsewhere", &["10.96.0.2"], &[(80, 8080)]);
        elsewhere.waypoint = Some(gateway_by_hostname("other"));
        let mut guarded = pod("guarded", &["10.0.0.2"]);
        guarded.waypoint = Some(gateway_by_hostname("waypoint"));
        world.apply(vec![
            service(web).into(),
            service(elsewhere).into(),
            service(service_message("bare", &["10.96.0.3"], &[(80, 80)])).into(),
            service(service_message("waypoint", &["10.96.0.9"], &[(15_008, 15_008)])).into(),
            workload(guarded).into(),
            workload(pod("open", &["10.0.0.3"])).into(),
        ]);
        let snapshot = world.snapshot();
        let rows = [
            ("10.96.0.1:80", Ok("10.96.0.1:80")),
            ("[::ffff:10.96.0.1]:80", Ok("10.96.0.1:80")),
            ("web:80", Ok("10.96.0.1:80")),
            ("10.0.0.2:9000", Ok("10.0.0.2:9000")),
            ("10.96.0.1:81", Err(Reason::UnknownAuthority)),
            ("web:81", Err(Reason::UnknownAuthority)),
            ("nobody:80", Err(Reason::UnknownAuthority)),
            ("10.96.0.2:80", Err(Reason::AuthorityMismatch)),
            ("10.96.0.3:80", Err(Reason::AuthorityMismatch)),
            ("elsewhere:80", Err(Reason::AuthorityMismatch)),
            ("10.0.0.3:80", Err(Reason::AuthorityMismatch)),
            ("192.0.2.1:80", Err(Reason::AuthorityMismatch)),
            ("nothing", Err(Reason::BadRequest)),
        ];
        for (authority, expected) in rows {
            let found = bound(&snapshot, &local, authority);
            let found = found.map(|found| found.address()).map_err(|refusal| refusal.reason);
            assert_eq!(found, expected.map(socket), "{authority}");
        }
        let services: Vec<_> = bound_services(&snapshot, &local).map(|service| service.hostname()).collect();
        assert_eq!(services, ["web"]);
    }

    #[test]
    fn what_services_declare_of_a_port_holds_for_the_workload_as_far_as_they_agree() {
        use proto::AppProtocol as Said;

        use AppProtocol::{Grpc, Tcp, Tls, Unknown};
        let declaring = |name: &str, vip: &str, ports: &[(u32, proto::AppProtocol)]| {
            let mut message = service_message(name, &[vip], &[]);
            let port = |(service_port, protocol): &(u32, proto::AppProtocol)| proto::Port {
                service_port: *service_port,
                app_protocol: (*protocol).into(),
                ..Default::default()
            };
            message.ports = ports.iter().map(port).collect();
            service(message)
        };
        let mut world = World::complete();
        let web = [(80, Said::Http11), (81, Said::Unknown), (82, Said::Tcp), (83, Said::Tls), (84, Said::Grpc)];
        let pod =
            serving(pod("web", &["10.0.0.2"]), "web", &[(80, 8080), (81, 8081), (82, 8082), (83, 8083), (84, 8084)]);
        // Another service of the same pod: it agrees, says nothing, or contradicts.
        let more = [(90, 8080), (91, 8081), (92, 8082), (93, 8083), (94, 8085)];
        let other = [(90, Said::Grpc), (91, Said::Unknown), (92, Said::Unknown), (93, Said::Http11), (94, Said::Tcp)];
        world.apply(vec![
            declaring("web", "10.96.0.1", &web).into(),
            declaring("other", "10.96.0.2", &other).into(),
            workload(serving(pod, "other", &more)).into(),
        ]);
        let snapshot = world.snapshot();
        let found = snapshot.workload_by_address(&NetworkAddress::new("", [10, 0, 0, 2].into())).unwrap();
        // Of two versions of HTTP the first service says which; that it is HTTP is what they agree on.
        let rows =
            [(8080, Grpc), (8081, Unknown), (8082, Tcp), (8083, Unknown), (8084, Grpc), (8085, Tcp), (9, Unknown)];
        for (port, expected) in rows {
            let bound =
                Bound::Workload { workload: found.clone(), address: SocketAddr::new([10, 0, 0, 2].into(), port) };
            assert_eq!(bound.declared(&snapshot), expected, "{port}");
        }
        let service = snapshot.service_by_hostname("web", "shop").unwrap().clone();
        let bound = Bound::Service { service, address: socket("10.96.0.1:83") };
        assert_eq!(bound.declared(&snapshot), Tls);
    }
}
