//! Which outputs depend on an object that changed; pure, and rather too many than too few.
//!
//! The unit for what changes all the time, pods and the slices that name them, is the pod. For everything else it is the
//! namespace, or all there is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_core::ordered::{Difference, OrderedMap};
use fairway_core::source::labels::HasLabels;
use fairway_core::source::mesh_slice::Endpoint;
use fairway_core::source::objects::{ByKey, label};
use fairway_core::source::{Kind, MeshPod, MeshSlice, ObjectKey, Objects};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Settings;
use super::endpoints::{PodAddresses, foreign_address, own_addresses};
use super::nodes::{NETWORK, PLACE};
use super::waypoint::BINDING;

/// Slices by the addresses in them that name no pod.
pub(super) type Foreign = OrderedMap<(IpAddr, ObjectKey), ()>;

/// What must be made anew.
#[derive(Debug, Default)]
pub(super) struct Stale {
    /// All of it.
    pub(super) everything: bool,
    /// All that is made of objects of these.
    pub(super) namespaces: BTreeSet<String>,
    /// These pods; some may be gone.
    pub(super) pods: BTreeSet<ObjectKey>,
    /// These slices; some may be gone.
    pub(super) slices: BTreeSet<ObjectKey>,
    /// All ServiceEntries: who has a host depends on all of them.
    pub(super) entries: bool,
    /// Objects that are no more.
    pub(super) gone: BTreeSet<ObjectKey>,
}

/// Two states of everything, and of the indices over them.
pub(super) struct Change<'a> {
    pub(super) before: &'a Objects,
    pub(super) now: &'a Objects,
    pub(super) addresses_before: &'a PodAddresses,
    pub(super) addresses: &'a PodAddresses,
    pub(super) foreign: &'a Foreign,
    /// Addresses that entries name.
    pub(super) of_entries: &'a BTreeSet<IpAddr>,
    pub(super) settings: &'a Settings,
}

/// Whether what routes, rules of destinations and waypoints come to depends on objects of a kind: not on what a pod is, where
/// it runs, and who names it.
pub(super) fn has_routes(kind: Kind) -> bool {
    let is_of_pods = matches!(kind, Kind::Pod | Kind::EndpointSlice | Kind::Node | Kind::ServiceAccount);
    !is_of_pods && !matches!(kind, Kind::BackendTLSPolicy | Kind::NetworkPolicy)
}

fn differences<'a, T>(before: &'a ByKey<T>, now: &'a ByKey<T>) -> Vec<Difference<'a, ObjectKey, Arc<T>>> {
    before.differences(now, Arc::ptr_eq)
}

impl<'a> Change<'a> {
    /// What the change makes stale.
    pub(super) fn stale(&self) -> Stale {
        let mut stale = Stale::default();
        for kind in self.before.changed_kinds(self.now) {
            match kind {
                Kind::Pod => self.pods(&mut stale),
                Kind::EndpointSlice => self.slices(&mut stale),
                Kind::Node => self.nodes(&mut stale),
                Kind::Namespace => self.namespaces(&mut stale),
                Kind::ServiceAccount => self.accounts(&mut stale),
                Kind::Service => {
                    // An entry does not get a host that a service has.
                    stale.entries = true;
                    stale.all_of(differences(&self.before.services, &self.now.services));
                }
                Kind::ServiceEntry => {
                    stale.entries = true;
                    stale.all_of(differences(&self.before.service_entries, &self.now.service_entries));
                }
                Kind::WorkloadEntry => {
                    stale.entries = true;
                    stale.all_of(differences(&self.before.workload_entries, &self.now.workload_entries));
                }
                Kind::Gateway => self.gateways(&mut stale),
                // What becomes of these is made anew as a whole, and says itself what hangs on it.
                Kind::AuthorizationPolicy
                | Kind::PeerAuthentication
                | Kind::RequestAuthentication
                | Kind::RateLimit
                | Kind::ExternalProcessor => {}
                // Nothing that node proxies hear of.
                Kind::HTTPRoute | Kind::GRPCRoute | Kind::TCPRoute | Kind::TLSRoute => {}
                Kind::VirtualService | Kind::DestinationRule | Kind::ReferenceGrant | Kind::Telemetry => {}
                // Nothing that anybody hears of.
                Kind::BackendTLSPolicy | Kind::NetworkPolicy => {}
            }
        }
        self.elsewhere(&mut stale);
        stale
    }

    /// Pods of any namespace that serve something in a stale one, because a slice there names their address.
    fn elsewhere(&self, stale: &mut Stale) {
        let slices = stale.namespaces.iter().flat_map(|namespace| {
            let of = |objects: &'a Objects| Objects::within(&objects.endpoint_slices, Kind::EndpointSlice, namespace);
            of(self.before).chain(of(self.now))
        });
        let addresses: BTreeSet<IpAddr> =
            slices.flat_map(|(_, slice)| slice.endpoints.iter().filter_map(foreign_address)).collect();
        for address in addresses {
            stale.pods.extend(self.addresses_before.pod(address).cloned());
            stale.pods.extend(self.addresses.pod(address).cloned());
        }
    }

    fn pods(&self, stale: &mut Stale) {
        for Difference { key, old, new } in differences(&self.before.pods, &self.now.pods) {
            stale.pods.insert(key.clone());
            // Of a pod that shares its node's network, and of the node, entries want to know, too.
            let known = |pod: &'a Arc<MeshPod>| (own_addresses(pod), &pod.addresses, pod.host, pod.is_terminal);
            let [before, now] = [old, new].map(|pod| pod.map(known));
            if before != now {
                for (own, all, node, _) in before.into_iter().chain(now) {
                    own.iter().for_each(|address| self.address(*address, stale));
                    stale.entries |= all.iter().copied().chain(node).any(|address| self.of_entries.contains(&address));
                }
            }
        }
    }

    /// Somebody else may have the address now.
    fn address(&self, address: IpAddr, stale: &mut Stale) {
        for slice in naming(self.foreign, address) {
            stale.slices.insert(slice.clone());
            stale.pods.extend(self.addresses_before.pod(address).cloned());
            stale.pods.extend(self.addresses.pod(address).cloned());
        }
    }

    fn slices(&self, stale: &mut Stale) {
        for Difference { key, old, new } in differences(&self.before.endpoint_slices, &self.now.endpoint_slices) {
            stale.slices.insert(key.clone());
            match (old, new) {
                (Some(old), Some(new)) if old.service == new.service => {
                    let with_ports = old.ports != new.ports || old.address_type != new.address_type;
                    let (left, right) = (by_target(old), by_target(new));
                    let names: BTreeSet<Target<'_>> = left.keys().chain(right.keys()).copied().collect();
                    for name in names.into_iter().filter(|name| with_ports || left.get(name) != right.get(name)) {
                        match name {
                            Target::Pod(name) => drop(stale.pods.insert(ObjectKey::pod(&key.namespace, name))),
                            Target::Address(address) => {
                                stale.pods.extend(self.addresses_before.pod(address).cloned());
                                stale.pods.extend(self.addresses.pod(address).cloned());
                            }
                        }
                    }
                }
                // Whether slices or a selector say who serves it may be another matter now.
                _ => {
                    stale.namespaces.insert(key.namespace.clone());
                    for slice in [old, new].into_iter().flatten() {
                        for address in slice.endpoints.iter().filter_map(foreign_address) {
                            stale.pods.extend(self.addresses_before.pod(address).cloned());
                            stale.pods.extend(self.addresses.pod(address).cloned());
                        }
                    }
                }
            }
        }
    }

    fn nodes(&self, stale: &mut Stale) {
        let says = |metadata: &ObjectMeta| PLACE.map(|key| label(metadata, key).map(str::to_owned));
        let moved: BTreeSet<&str> = differences(&self.before.nodes, &self.now.nodes)
            .into_iter()
            .filter(|it| it.old.map(|node| says(&node.metadata)) != it.new.map(|node| says(&node.metadata)))
            .map(|it| it.key.name.as_str())
            .collect();
        if moved.is_empty() {
            return;
        }
        let is_there = |node: Option<&str>| node.is_some_and(|node| moved.contains(node));
        let pods = self.now.pods.iter().filter(|(_, pod)| is_there(pod.node()));
        stale.pods.extend(pods.map(|(key, _)| key.clone()));
        let slices = self.now.endpoint_slices.iter();
        let slices = slices.filter(|(_, slice)| slice.endpoints.iter().any(|it| is_there(it.node.as_deref())));
        stale.slices.extend(slices.map(|(key, _)| key.clone()));
    }

    fn namespaces(&self, stale: &mut Stale) {
        stale.entries = true;
        for Difference { key, old, new } in differences(&self.before.namespaces, &self.now.namespaces) {
            stale.namespaces.insert(key.name.clone());
            let network = |it: Option<&Arc<Namespace>>| {
                it.and_then(|namespace| label(&namespace.metadata, NETWORK)).map(str::to_owned)
            };
            // The network of the mesh's own namespace is that of all who name none.
            stale.everything |= key.name == self.settings.root_namespace && network(old) != network(new);
        }
    }

    /// Accounts come with every application; of theirs only labels mean anything.
    fn accounts(&self, stale: &mut Stale) {
        for Difference { key, old, new } in differences(&self.before.service_accounts, &self.now.service_accounts) {
            let labels =
                [old, new].map(|it| it.and_then(|account| account.metadata.labels.clone()).unwrap_or_default());
            if labels[0] != labels[1] {
                stale.namespaces.insert(key.namespace.clone());
            }
        }
    }

    /// Where anything says that it has a waypoint or is one.
    fn gateways(&self, stale: &mut Stale) {
        stale.entries = true;
        let objects = self.now;
        fn binds(object: &impl HasLabels) -> bool {
            BINDING.iter().any(|key| object.label(key).is_some())
        }
        let namespaces = objects.namespaces.iter().filter(|(_, it)| binds(&it.metadata)).map(|(key, _)| &key.name);
        let pods = objects.pods.iter().filter(|(_, it)| binds(&***it)).map(|(key, _)| &key.namespace);
        let services = objects.services.iter().filter(|(_, it)| binds(&it.metadata)).map(|(key, _)| &key.namespace);
        let accounts = objects.service_accounts.iter().filter(|(_, it)| binds(&it.metadata));
        let accounts = accounts.map(|(key, _)| &key.namespace);
        let entries = objects.workload_entries.iter().filter(|(_, it)| binds(&it.metadata));
        let entries = entries.map(|(key, _)| &key.namespace);
        stale.namespaces.extend(namespaces.chain(pods).chain(services).chain(accounts).chain(entries).cloned());
    }
}

impl Stale {
    /// Everything in the namespaces of these.
    fn all_of<T>(&mut self, differences: Vec<Difference<'_, ObjectKey, Arc<T>>>) {
        for Difference { key, new, .. } in differences {
            self.namespaces.insert(key.namespace.clone());
            if new.is_none() {
                self.gone.insert(key.clone());
            }
        }
    }

    /// Whether all that is made of objects of this namespace is stale.
    pub(super) fn has_all_of(&self, namespace: &str) -> bool {
        self.everything || self.namespaces.contains(namespace)
    }
}

/// The slices that name an address without naming a pod.
pub(super) fn naming(foreign: &Foreign, address: IpAddr) -> impl Iterator<Item = &ObjectKey> {
    let first = ObjectKey { kind: Kind::EndpointSlice, namespace: String::new(), name: String::new() };
    let first = (address, first);
    let of_address = foreign.range_from(&first).map(|(key, ())| key).take_while(move |(it, _)| *it == address);
    of_address.map(|(_, slice)| slice)
}

/// Brings the index of addresses in slices up to date.
pub(super) fn index_foreign(foreign: &mut Foreign, before: &Objects, now: &Objects) {
    for Difference { key, old, new } in differences(&before.endpoint_slices, &now.endpoint_slices) {
        for address in old.iter().flat_map(|slice| &slice.endpoints).filter_map(foreign_address) {
            foreign.remove(&(address, key.clone()));
        }
        for address in new.iter().flat_map(|slice| &slice.endpoints).filter_map(foreign_address) {
            foreign.insert((address, key.clone()), ());
        }
    }
}

/// Whom an endpoint means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target<'a> {
    Pod(&'a str),
    Address(IpAddr),
}

fn by_target(slice: &MeshSlice) -> BTreeMap<Target<'_>, Vec<&Endpoint>> {
    let mut targets: BTreeMap<Target<'_>, Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in &slice.endpoints {
        let pod = endpoint.pod.as_deref().map(Target::Pod);
        let target = pod.or_else(|| foreign_address(endpoint).map(Target::Address));
        if let Some(target) = target {
            targets.entry(target).or_default().push(endpoint);
        }
    }
    targets
}
