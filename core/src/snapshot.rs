//! The world as one immutable, indexed snapshot, and the single writer that makes the next one from a batch.

mod dump;
mod index;
mod layers;
mod names;
mod refused;
mod salvage;
#[cfg(test)]
mod tests;
mod world;

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use self::index::{Few, Index, Member};
pub(crate) use self::names::Names;
use self::refused::Refused;
pub use self::{
    dump::Dump,
    layers::Layers,
    refused::RefusedResource,
    world::{Update, World},
};
use crate::{
    addr::{NetworkAddress, NetworkCidr},
    policy::{Applied, Policy, PolicyKey, RejectedPolicy},
    service::{GatewayDestination, Service, ServiceKey},
    view::PodView,
    workload::{Protocol, Workload, WorkloadService, WorkloadType, WorkloadUid},
};

/// Everything known at one moment. Never changes; a clone is a handful of pointer copies.
#[derive(Debug, Clone)]
pub struct Snapshot {
    version: u64,
    /// Whether all that existed when we first asked has arrived. Until then what is missing means nothing.
    complete: bool,
    workloads: Index<WorkloadUid, Arc<Workload>>,
    addresses: Index<NetworkAddress, Few<Arc<Workload>>>,
    workload_hostnames: Index<Arc<str>, Few<Arc<Workload>>>,
    nodes: Index<Arc<str>, Arc<[Arc<Workload>]>>,
    services: Index<ServiceKey, Arc<Service>>,
    vips: Index<NetworkAddress, Few<Arc<Service>>>,
    cidr_vips: Arc<[(NetworkCidr, Arc<Service>)]>,
    hostnames: Index<Arc<str>, Few<Arc<Service>>>,
    endpoints: Index<ServiceKey, Arc<[Endpoint]>>,
    policies: Index<PolicyKey, Arc<Policy>>,
    rejected: Index<PolicyKey, Arc<RejectedPolicy>>,
    refused: Refused,
    /// Policies of every workload.
    global: Arc<[Applied]>,
    /// Policies of every workload of a namespace.
    namespaced: Index<Arc<str>, Few<Applied>>,
}

/// A workload in its role as endpoint of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Which of the workload's services it is.
    service: usize,
}

impl Endpoint {
    /// The service, with its ports on this workload.
    #[must_use]
    pub fn service(&self) -> Option<&WorkloadService> {
        self.workload.services.get(self.service)
    }

    /// The workload's own port behind a service port, if it declares one.
    #[must_use]
    pub fn target_port(&self, service_port: u16) -> Option<u16> {
        self.service()?.target_port(service_port)
    }
}

impl Member for Endpoint {
    type Id = WorkloadUid;

    fn id(&self) -> &Self::Id {
        &self.workload.uid
    }
}

impl Member for Arc<Workload> {
    type Id = WorkloadUid;

    fn id(&self) -> &Self::Id {
        &self.uid
    }
}

impl Member for Arc<Service> {
    type Id = ServiceKey;

    fn id(&self) -> &Self::Id {
        &self.key
    }
}

impl Member for Applied {
    type Id = PolicyKey;

    fn id(&self) -> &Self::Id {
        self.key()
    }
}

/// Names a pod as the node agent does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodRef {
    /// Its node; with it the pod is found at once, without it by looking at every workload.
    pub node: Option<Arc<str>>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its service account; a workload with another one is not this pod.
    pub service_account: Arc<str>,
}

impl Snapshot {
    fn empty() -> Self {
        type Large<K, V> = Index<K, V>;
        Self {
            version: 0,
            complete: false,
            workloads: Large::new(Large::<WorkloadUid, Arc<Workload>>::LARGE),
            addresses: Large::new(Large::<NetworkAddress, Few<Arc<Workload>>>::LARGE),
            workload_hostnames: Index::new(Index::<Arc<str>, Few<Arc<Workload>>>::SMALL),
            nodes: Index::new(Index::<Arc<str>, Arc<[Arc<Workload>]>>::SMALL),
            services: Index::new(Index::<ServiceKey, Arc<Service>>::SMALL),
            vips: Index::new(Index::<NetworkAddress, Few<Arc<Service>>>::SMALL),
            cidr_vips: Arc::default(),
            hostnames: Index::new(Index::<Arc<str>, Few<Arc<Service>>>::SMALL),
            endpoints: Index::new(Index::<ServiceKey, Arc<[Endpoint]>>::SMALL),
            policies: Index::new(Index::<PolicyKey, Arc<Policy>>::SMALL),
            rejected: Index::new(Index::<PolicyKey, Arc<RejectedPolicy>>::SMALL),
            refused: Refused::new(),
            global: Arc::default(),
            namespaced: Index::new(Index::<Arc<str>, Few<Applied>>::SMALL),
        }
    }

    /// Grows by one with every batch that changed something.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether the first answer of every resource type has arrived. Before that pods are not found: policies or peers
    /// that are still to come would be missing from every decision.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The workload with this uid.
    #[must_use]
    pub fn workload_by_uid(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The workload that owns an address. Of several that claim it a pod that speaks HBONE wins, then any pod, then
    /// anything that speaks HBONE, then the smallest uid.
    #[must_use]
    pub fn workload_by_address(&self, address: &NetworkAddress) -> Option<&Arc<Workload>> {
        best_owner(self.addresses.members(address))
    }

    /// The workload that is known by this hostname in a namespace.
    #[must_use]
    pub fn workload_by_hostname(&self, namespace: &str, hostname: &str) -> Option<&Arc<Workload>> {
        self.workload_hostnames.members(hostname).iter().find(|workload| workload.namespace() == namespace)
    }

    /// The workloads of a node, by uid.
    #[must_use]
    pub fn workloads_on(&self, node: &str) -> &[Arc<Workload>] {
        self.nodes.get(node).map_or(&[], |workloads| workloads)
    }

    /// The pod the node agent means; none before the snapshot is complete, so that nothing is decided or planned for it.
    #[must_use]
    pub fn find_pod(&self, pod: &PodRef) -> Option<&Arc<Workload>> {
        if !self.complete {
            return None;
        }
        let is_it = |workload: &&Arc<Workload>| {
            workload.name == pod.name
                && workload.namespace() == &*pod.namespace
                && workload.service_account() == &*pod.service_account
        };
        match &pod.node {
            Some(node) => best(self.workloads_on(node).iter().filter(is_it)),
            None => best(self.workloads.values().filter(is_it)),
        }
    }

    /// What decides for one pod; nothing may reach it before the snapshot is complete.
    #[must_use]
    pub fn view(&self, pod: &PodRef) -> PodView {
        PodView::of(self, self.find_pod(pod).cloned())
    }

    /// What decides for one workload as far as it is known; unlike [`Snapshot::view`] it does not ask for completeness.
    #[must_use]
    pub fn view_of(&self, workload: &Arc<Workload>) -> PodView {
        PodView::of(self, Some(workload.clone()))
    }

    /// The service with this key.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// The service behind a virtual address, as a client of the namespace sees it. An exact address beats a block, which
    /// means only addresses that no workload has; the client's own namespace beats canonical services, which beat the
    /// first by key; of blocks the longest wins within a namespace.
    #[must_use]
    pub fn service_by_vip(&self, address: &NetworkAddress, client_namespace: &str) -> Option<&Arc<Service>> {
        preferred(self.vips.members(address), client_namespace).or_else(|| {
            let is_free = self.workload_by_address(address).is_none();
            is_free.then(|| self.service_by_block(address, client_namespace)).flatten()
        })
    }

    fn service_by_block(&self, address: &NetworkAddress, client_namespace: &str) -> Option<&Arc<Service>> {
        let holds = |cidr: &NetworkCidr| cidr.network == address.network && cidr.block.contains(&address.ip);
        let rank = |cidr: &NetworkCidr, service: &Service| {
            (service.namespace() == client_namespace, cidr.block.prefix_len(), service.canonical)
        };
        let mut chosen: Option<&(NetworkCidr, Arc<Service>)> = None;
        for entry in
            self.cidr_vips.iter().filter(|(cidr, service)| holds(cidr) && service.is_visible_to(client_namespace))
        {
            // Strictly better only, so that equals are settled by the order of keys.
            if chosen.is_none_or(|(cidr, service)| rank(&entry.0, &entry.1) > rank(cidr, service)) {
                chosen = Some(entry);
            }
        }
        chosen.map(|(_, service)| service)
    }

    /// The service with this hostname, as a client of the namespace sees it.
    #[must_use]
    pub fn service_by_hostname(&self, hostname: &str, client_namespace: &str) -> Option<&Arc<Service>> {
        preferred(self.hostnames.members(hostname), client_namespace)
    }

    /// As [`Snapshot::service_by_hostname`], with a namespace that is preferred where neither the client's own nor the
    /// canonical mark decides.
    #[must_use]
    pub fn service_by_name(&self, hostname: &str, client_namespace: &str, tie: Option<&str>) -> Option<&Arc<Service>> {
        let services = self.hostnames.members(hostname);
        let first = preferred(services, client_namespace)?;
        if first.namespace() == client_namespace || first.canonical {
            return Some(first);
        }
        let visible = |service: &&Arc<Service>| service.is_visible_to(client_namespace);
        services.iter().filter(visible).find(|service| Some(service.namespace()) == tie).or(Some(first))
    }

    /// The endpoints of a service, by uid, whatever their state.
    #[must_use]
    pub fn endpoints(&self, key: &ServiceKey) -> &[Endpoint] {
        self.endpoints.get(key).map_or(&[], |endpoints| endpoints)
    }

    /// The policy with this key.
    #[must_use]
    pub fn policy(&self, key: &PolicyKey) -> Option<&Arc<Policy>> {
        self.policies.get(key)
    }

    /// Why the last version of a policy was rejected, if it was.
    #[must_use]
    pub fn rejected_policy(&self, key: &PolicyKey) -> Option<&Arc<RejectedPolicy>> {
        self.rejected.get(key)
    }

    /// The resource that claims an address and was rejected. Of use where nothing known has the address: whoever does
    /// is likely to be in the mesh, and must not be spoken to in plaintext.
    #[must_use]
    pub fn refused_address(&self, address: &NetworkAddress) -> Option<&Arc<RefusedResource>> {
        self.refused.by_address(address)
    }

    /// Every name under which the control plane has given something that is kept, apart by kind: workloads and
    /// services first, then policies.
    #[must_use]
    pub fn resource_names(&self) -> (HashSet<String>, HashSet<String>) {
        let addresses = self
            .workloads
            .values()
            .map(|workload| workload.uid.as_str())
            .chain(self.services.values().map(|service| service.key.as_str()))
            .chain(self.refused.names())
            .map(str::to_owned)
            .collect();
        let policies = self
            .policies
            .values()
            .map(|policy| &policy.key)
            .chain(self.rejected.values().map(|rejected| &rejected.key))
            .map(|key| key.resource_name().to_owned())
            .collect();
        (addresses, policies)
    }

    /// How a listed policy meets the workload that lists it; none when it is only rehearsed.
    pub(crate) fn listed(&self, key: &PolicyKey) -> Option<Applied> {
        if let Some(policy) = self.policies.get(key) {
            return Some(Applied::Known(policy.clone()));
        }
        match self.rejected.get(key) {
            Some(rejected) if rejected.dry_run => None,
            Some(_) => Some(Applied::Refusing { key: key.clone(), invalid: true }),
            None => Some(Applied::Refusing { key: key.clone(), invalid: false }),
        }
    }

    /// Policies that apply to a namespace without being listed.
    pub(crate) fn unlisted(&self, namespace: &str) -> impl Iterator<Item = &Applied> {
        self.global.iter().chain(self.namespaced.members(namespace))
    }

    /// Every workload, in no useful order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// Every service, in no useful order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Every policy that is understood, in no useful order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values()
    }

    /// Every policy whose last version was rejected, in no useful order.
    pub fn rejected_policies(&self) -> impl Iterator<Item = &Arc<RejectedPolicy>> {
        self.rejected.values()
    }

    /// How many workloads, services and policies there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            workloads: self.workloads.len(),
            services: self.services.len(),
            policies: self.policies.len(),
            rejected_policies: self.rejected.len(),
        }
    }

    /// Whether a gateway reference means this workload.
    #[must_use]
    pub fn resolves_to(&self, destination: &GatewayDestination, workload: &Workload) -> bool {
        let serves = |key: &ServiceKey| workload.services.iter().any(|service| service.key == *key);
        match destination {
            GatewayDestination::Hostname(key) => {
                serves(key)
                    || (self.service(key).is_none()
                        && workload.namespace() == key.namespace()
                        && workload.hostname.as_deref() == Some(key.hostname()))
            }
            GatewayDestination::Address(address) => match self.service_by_vip(address, workload.namespace()) {
                Some(service) => serves(&service.key),
                None => self.workload_by_address(address).is_some_and(|owner| owner.uid == workload.uid),
            },
        }
    }

    /// The workload that owns an address in a network.
    #[must_use]
    pub fn workload_at(&self, network: &Arc<str>, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.workload_by_address(&NetworkAddress { network: network.clone(), ip: ip.to_canonical() })
    }
}

/// Sizes of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub workloads: usize,
    pub services: usize,
    pub policies: usize,
    pub rejected_policies: usize,
}

/// Visible services only: the client's namespace beats canonical, which beats the first by key.
fn preferred<'a>(services: &'a [Arc<Service>], client_namespace: &str) -> Option<&'a Arc<Service>> {
    let visible = || services.iter().filter(|service| service.is_visible_to(client_namespace));
    visible()
        .find(|service| service.namespace() == client_namespace)
        .or_else(|| visible().find(|service| service.canonical))
        .or_else(|| visible().next())
}

fn best_owner(owners: &[Arc<Workload>]) -> Option<&Arc<Workload>> {
    match owners {
        [owner] => Some(owner),
        owners => best(owners.iter()),
    }
}

fn best<'a>(workloads: impl Iterator<Item = &'a Arc<Workload>>) -> Option<&'a Arc<Workload>> {
    let rank = |workload: &Workload| match (workload.workload_type, workload.protocol) {
        (WorkloadType::Pod, Protocol::Hbone) => 0_u8,
        (WorkloadType::Pod, Protocol::Tcp) => 1,
        (_, Protocol::Hbone) => 2,
        (_, Protocol::Tcp) => 3,
    };
    workloads.min_by(|left, right| rank(left).cmp(&rank(right)).then_with(|| left.uid.cmp(&right.uid)))
}
