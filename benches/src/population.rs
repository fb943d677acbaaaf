//! A large made-up mesh, as it comes over the wire.

use std::net::Ipv4Addr;

use fairway_proto::security::{
    Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match::MatchType,
};
use fairway_proto::workload::{Locality, NetworkAddress, Port, PortList, Service, TunnelProtocol, Workload};

/// Workloads of one service.
const REPLICAS: u32 = 10;
/// Workloads of one node.
const PODS_PER_NODE: u32 = 100;
/// Services of one namespace.
const SERVICES_PER_NAMESPACE: u32 = 20;
/// The first address of workloads and of services.
const WORKLOADS: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
const SERVICES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 0);

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Population {
    pub(crate) workloads: u32,
    pub(crate) services: u32,
    pub(crate) policies: u32,
}

/// A mesh at the size the project promises to handle.
pub(crate) const LARGE: Population = Population { workloads: 100_000, services: 10_000, policies: 1_000 };

impl Population {
    /// Workload `number`. A deployment of [`REPLICAS`] is one service, and the first ones are each selected by one policy.
    pub(crate) fn workload(self, number: u32) -> Workload {
        let app = (number / REPLICAS) % self.services.max(1);
        let namespace = namespace(app);
        let name = format!("app-{app}-6c8b4d7f9-{number:05}");
        let selected = app < self.policies;
        Workload {
            uid: format!("Kubernetes//Pod/{namespace}/{name}"),
            addresses: vec![address(WORKLOADS, number)],
            tunnel_protocol: TunnelProtocol::Hbone.into(),
            service_account: format!("app-{app}"),
            node: format!("node-{}", number / PODS_PER_NODE),
            canonical_name: format!("app-{app}"),
            canonical_revision: "v1".to_owned(),
            workload_name: format!("app-{app}"),
            authorization_policies: selected.then(|| format!("{namespace}/policy-{app}")).into_iter().collect(),
            cluster_id: "Kubernetes".to_owned(),
            services: [(format!("{namespace}/{}", hostname(app)), PortList { ports: ports() })].into(),
            locality: Some(Locality {
                region: "region-1".into(),
                zone: format!("zone-{}", number % 3),
                ..Locality::default()
            }),
            namespace,
            name,
            ..Workload::default()
        }
    }

    /// The first of the two deployments that policy `number`, and no other, allows.
    pub(crate) fn caller(policy: u32) -> u32 {
        2 * policy + 2_000
    }

    /// Any workload of a deployment.
    pub(crate) fn member(self, app: u32) -> Workload {
        self.workload(app * REPLICAS)
    }

    /// Service `number`.
    pub(crate) fn service(self, number: u32) -> Service {
        let address = NetworkAddress { network: String::new(), address: address(SERVICES, number + 10), length: None };
        Service {
            name: format!("app-{number}"),
            namespace: namespace(number),
            hostname: hostname(number),
            addresses: vec![address],
            ports: ports(),
            canonical: true,
            ..Service::default()
        }
    }

    /// Policy `number`: the workloads of one deployment may be reached by two others, on one port.
    pub(crate) fn policy(self, number: u32) -> Authorization {
        let caller = Self::caller(number);
        let principals = [caller, caller + 1]
            .map(|app| format!("cluster.local/ns/{}/sa/app-{app}", namespace(app)))
            .map(|principal| StringMatch { match_type: Some(MatchType::Exact(principal)) })
            .to_vec();
        Authorization {
            name: format!("policy-{number}"),
            namespace: namespace(number),
            scope: Scope::WorkloadSelector.into(),
            action: Action::Allow.into(),
            rules: vec![Rule {
                clauses: vec![Clause {
                    matches: vec![Match { principals, destination_ports: vec![8080], ..Match::default() }],
                }],
            }],
            ..Authorization::default()
        }
    }
}

fn namespace(app: u32) -> String {
    format!("team-{}", app / SERVICES_PER_NAMESPACE)
}

fn hostname(app: u32) -> String {
    format!("app-{app}.{}.svc.cluster.local", namespace(app))
}

fn ports() -> Vec<Port> {
    vec![Port { service_port: 80, target_port: 8080, ..Port::default() }]
}

fn address(first: Ipv4Addr, number: u32) -> Vec<u8> {
    Ipv4Addr::from_bits(first.to_bits() + number).octets().to_vec()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use fairway_core::addr::NetworkAddress;
    use fairway_core::policy::Policy;
    use fairway_core::service::Service;
    use fairway_core::snapshot::{Update, World};
    use fairway_core::workload::Workload;

    use super::*;

    #[test]
    fn the_population_is_a_consistent_mesh() {
        let small = Population { workloads: 100, services: 10, policies: 3 };
        let mut world = World::new();
        let workloads = (0..100).map(|number| Update::from(Workload::try_from(small.workload(number)).unwrap()));
        let services = (0..10).map(|number| Update::from(Service::try_from(small.service(number)).unwrap()));
        let policies = (0..3).map(|number| Update::from(Policy::try_from(small.policy(number)).unwrap()));
        let snapshot = world.apply(policies.chain(services).chain(workloads).collect());
        let counts = snapshot.counts();
        assert_eq!((counts.workloads, counts.services, counts.policies), (100, 10, 3));
        let service = snapshot.services().next().unwrap();
        assert_eq!(snapshot.endpoints(&service.key).len(), 10);
        let first = NetworkAddress::new("", IpAddr::from(WORKLOADS));
        let workload = snapshot.workload_by_address(&first).unwrap();
        assert_eq!(snapshot.view_of(workload).policies.len(), 1);
    }
}
