//! The resources proxies should hold, by name and version, and what differs between two states of them; pure.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use fairway_core::io::xds::Digest;
use fairway_core::io::xds::digest::Buckets;
use fairway_core::ordered::OrderedMap;
use fairway_proto::type_url;

use crate::l7::Snapshot;
use crate::translate::Desired;

mod lookup;
mod resource;

pub use lookup::Lookup;
pub use resource::Resource;

/// Types of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// Workloads and services.
    Address,
    /// Policies.
    Authorization,
    /// What HTTP clients dial.
    Listener,
    /// Which requests go where.
    RouteConfiguration,
    /// What requests are sent to.
    Cluster,
    /// Who serves it.
    ClusterLoadAssignment,
}

impl ResourceType {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Address,
        Self::Authorization,
        Self::Listener,
        Self::RouteConfiguration,
        Self::Cluster,
        Self::ClusterLoadAssignment,
    ];
    /// What node proxies hold, the same for each of them.
    pub const NODE: [Self; 2] = [Self::Address, Self::Authorization];
    /// What HTTP clients hold, each its own, in an order in which nothing is named before it is there.
    pub const L7: [Self; 4] = [Self::Cluster, Self::ClusterLoadAssignment, Self::Listener, Self::RouteConfiguration];

    /// Whether each client has its own.
    #[must_use]
    pub fn is_l7(self) -> bool {
        Self::L7.contains(&self)
    }

    /// The type's name in discovery.
    #[must_use]
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Address => type_url::ADDRESS,
            Self::Authorization => type_url::AUTHORIZATION,
            Self::Listener => type_url::LISTENER,
            Self::RouteConfiguration => type_url::ROUTE_CONFIGURATION,
            Self::Cluster => type_url::CLUSTER,
            Self::ClusterLoadAssignment => type_url::CLUSTER_LOAD_ASSIGNMENT,
        }
    }

    /// The type's name for people: what follows the last slash.
    #[must_use]
    pub fn short_name(self) -> &'static str {
        self.type_url().rsplit('/').next().unwrap_or_default()
    }

    /// The type with this name for people, if we have it.
    #[must_use]
    pub fn named(short_name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.short_name() == short_name)
    }

    /// The type called `url`, if we have it.
    #[must_use]
    pub fn find(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

/// Resources of one type by name; clones are cheap.
pub type Resources = OrderedMap<Arc<str>, Arc<Resource>>;

/// Workloads and services, and the ways to find them.
#[derive(Debug, Default)]
pub struct Addresses {
    resources: Arc<Resources>,
    lookup: OnceLock<Lookup>,
    /// What there was before this, and what leads here from there.
    step: Option<(Arc<Resources>, Delta)>,
}

impl Addresses {
    /// By what clients that do not hold everything look for; made when the first such client needs it, and brought up to
    /// date from then on.
    #[must_use]
    pub fn lookup(&self) -> &Lookup {
        self.lookup.get_or_init(|| Lookup::of(&self.resources))
    }

    /// The resource with this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Arc<Resource>> {
        self.resources.get(key)
    }

    /// What leads here from what a client holds. Nearly all clients hold what there was before, and share what was found once.
    fn since(&self, held: &Arc<Resources>) -> Delta {
        match &self.step {
            Some((before, delta)) if Arc::ptr_eq(before, held) => delta.clone(),
            _ => Delta::between(held, &self.resources),
        }
    }

    /// These with what is in `changed`: a name, and the resource it has now.
    fn with(&self, changed: Vec<(Arc<str>, Option<Arc<Resource>>)>) -> Option<Self> {
        let mut resources = Resources::clone(&self.resources);
        let mut lookup = self.lookup.get().cloned();
        for (name, new) in changed {
            let old = self.resources.get(&name);
            if old == new.as_ref() {
                continue;
            }
            if let Some(lookup) = &mut lookup {
                lookup.replace(old.map(Arc::as_ref), new.as_deref());
            }
            match new {
                Some(new) => drop(resources.insert(Arc::clone(&new.name), new)),
                None => drop(resources.remove(&name)),
            }
        }
        if resources.is_same(&self.resources) {
            return None;
        }
        let (lookup, resources) = (lookup.map(OnceLock::from).unwrap_or_default(), Arc::new(resources));
        let has_clients = !self.resources.is_empty();
        let step = has_clients.then(|| (Arc::clone(&self.resources), Delta::between(&self.resources, &resources)));
        Some(Self { resources, lookup, step })
    }
}

/// Everything proxies should hold.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Grows by one with every difference; 0 before the first.
    pub generation: u64,
    /// More may exist than is known: nothing may be taken for gone that was never known here.
    pub is_open: bool,
    desired: Desired,
    addresses: Arc<Addresses>,
    authorizations: Arc<Resources>,
    l7: Arc<Snapshot>,
    /// Stands where every client has its own.
    nothing: Arc<Resources>,
}

impl World {
    /// The world after `desired`, sharing what did not change. The generation stays when nothing did.
    #[must_use]
    pub fn next(&self, desired: &Desired) -> Self {
        let before = &self.desired;
        let workloads = before.workloads.differences(&desired.workloads, Arc::ptr_eq).into_iter();
        let workloads = workloads.map(|it| (Arc::clone(it.key), it.new.cloned()));
        let services = before.services.differences(&desired.services, Arc::ptr_eq).into_iter();
        let services = services.map(|it| (Arc::clone(it.key), it.new.map(|new| Arc::new(Resource::of_service(new)))));
        let addresses = self.addresses.with(workloads.chain(services).collect()).map(Arc::new);
        let authorizations = if Arc::ptr_eq(&before.policies, &desired.policies) {
            Arc::clone(&self.authorizations)
        } else {
            renew(&self.authorizations, desired.policies.iter().map(Resource::of_policy))
        };
        let same = addresses.is_none() && Arc::ptr_eq(&authorizations, &self.authorizations);
        let generation = if same && self.generation > 0 { self.generation } else { self.generation.saturating_add(1) };
        Self {
            generation,
            is_open: self.is_open,
            desired: desired.clone(),
            addresses: addresses.unwrap_or_else(|| Arc::clone(&self.addresses)),
            authorizations,
            l7: Arc::clone(&self.l7),
            nothing: Arc::clone(&self.nothing),
        }
    }

    /// This world, next after `previous`, with what HTTP clients should hold. What of that depends on addresses has made
    /// it a new generation by itself.
    #[must_use]
    pub fn with_l7(mut self, previous: &Self, l7: Snapshot) -> Self {
        let before = &previous.l7;
        let differs = !l7.is_like(before);
        if self.generation == previous.generation && differs {
            self.generation = self.generation.saturating_add(1);
        }
        self.l7 = Arc::new(l7);
        self
    }

    /// What HTTP clients should hold.
    #[must_use]
    pub fn l7(&self) -> &Snapshot {
        &self.l7
    }

    /// Resources of one type; none of a type of which each client has its own.
    #[must_use]
    pub fn resources(&self, kind: ResourceType) -> &Arc<Resources> {
        match kind {
            ResourceType::Address => &self.addresses.resources,
            ResourceType::Authorization => &self.authorizations,
            _ => &self.nothing,
        }
    }

    /// What leads from what a client holds to `resources`, which are those of a type in this world, or some of them.
    #[must_use]
    pub fn since(&self, held: &Arc<Resources>, resources: &Arc<Resources>) -> Delta {
        if Arc::ptr_eq(resources, &self.addresses.resources) {
            self.addresses.since(held)
        } else {
            Delta::between(held, resources)
        }
    }

    /// Finds resources by their key or by one of their aliases.
    #[must_use]
    pub fn find(&self, kind: ResourceType, name: &str) -> Vec<&Arc<Resource>> {
        let resources = self.resources(kind);
        if let Some(resource) = resources.get(name) {
            return vec![resource];
        }
        match kind {
            ResourceType::Address => {
                self.lookup().named(name).into_iter().filter_map(|key| resources.get(key)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Addresses by what clients that do not hold everything look for.
    #[must_use]
    pub fn lookup(&self) -> &Lookup {
        self.addresses.lookup()
    }

    /// Addresses with that, for what is made of this world.
    #[must_use]
    pub fn addresses(&self) -> &Arc<Addresses> {
        &self.addresses
    }
}

/// A map of the new resources; the old one when they are the same.
fn renew(old: &Arc<Resources>, new: impl Iterator<Item = Resource>) -> Arc<Resources> {
    let mut resources = Resources::new();
    let mut all_known = true;
    for resource in new {
        match old.get(&resource.name) {
            Some(known) if **known == resource => {
                resources.insert(Arc::clone(&known.name), Arc::clone(known));
            }
            _ => {
                all_known = false;
                resources.insert(Arc::clone(&resource.name), Arc::new(resource));
            }
        }
    }
    if all_known && resources.len() == old.len() { Arc::clone(old) } else { Arc::new(resources) }
}

/// What a client that holds one state needs in order to hold another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// New, or with another content.
    pub changed: Vec<Arc<Resource>>,
    /// Policies with another content that concern only the workloads that list them. The version before may have
    /// concerned all workloads of a namespace: until those that are meant list the policy, it must go on doing so.
    pub narrowed: Vec<Arc<Resource>>,
    /// Gone.
    pub removed: Vec<Arc<str>>,
    /// Set when what the client holds was said in a digest: where it differs.
    pub differing: Option<Buckets>,
}

impl Delta {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.narrowed.is_empty() && self.removed.is_empty()
    }

    /// From one state to another; what both share costs nothing.
    #[must_use]
    pub fn between(old: &Resources, new: &Resources) -> Self {
        let mut delta = Self::default();
        for it in old.differences(new, |old, new| Arc::ptr_eq(old, new) || old.version == new.version) {
            match it.new {
                Some(new) => delta.push(new, it.old.is_some()),
                None => delta.removed.push(Arc::clone(it.key)),
            }
        }
        delta
    }

    fn push(&mut self, resource: &Arc<Resource>, is_known: bool) {
        let place = if is_known && resource.is_listed { &mut self.narrowed } else { &mut self.changed };
        place.push(Arc::clone(resource));
    }

    /// From what a client says it holds, name to version.
    #[must_use]
    pub fn since(held: &BTreeMap<String, String>, new: &Resources) -> Self {
        let removed = held.keys().filter(|name| !new.contains_key(name.as_str())).map(|name| name.as_str().into());
        let mut delta = Self { removed: removed.collect(), ..Self::default() };
        for resource in new.values() {
            let known = held.get(resource.name.as_ref());
            if known != Some(&resource.version) {
                delta.push(resource, known.is_some());
            }
        }
        delta
    }

    /// From what a client says in a digest: everything in the buckets that differ, and those. What it holds there and is
    /// not sent it takes for gone.
    #[must_use]
    pub fn resume(held: &Digest, new: &Resources) -> Self {
        let own = Digest::like(held, new.values().map(|resource| resource.entry));
        let differing = own.differing(held);
        let changed = new.values().filter(|resource| differing.hold_entry(resource.entry)).cloned().collect();
        Self { changed, differing: Some(differing), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use fairway_proto::security::Authorization;
    use fairway_proto::workload::Workload;

    use super::*;

    fn desired(names: &[(&str, &str)]) -> Desired {
        let workloads = names.iter().map(|(uid, node)| Workload {
            uid: (*uid).to_owned(),
            node: (*node).to_owned(),
            addresses: vec![vec![10, 0, 0, 1]],
            ..Workload::default()
        });
        Desired::of(workloads, [], [])
    }

    fn names(delta: &Delta) -> (Vec<&str>, Vec<&str>) {
        let changed = delta.changed.iter().map(|resource| resource.name.as_ref());
        (changed.collect(), delta.removed.iter().map(AsRef::as_ref).collect())
    }

    #[test]
    fn delta_names_what_changed_and_what_went() {
        let one = World::default().next(&desired(&[("a", "1"), ("b", "1"), ("c", "1")]));
        let two = one.next(&desired(&[("a", "1"), ("b", "2"), ("d", "1")]));
        let kind = ResourceType::Address;
        let delta = Delta::between(one.resources(kind), two.resources(kind));
        assert_eq!(names(&delta), (vec!["b", "d"], vec!["c"]));
        let held: BTreeMap<String, String> = one
            .resources(kind)
            .values()
            .map(|resource| (resource.name.to_string(), resource.version.clone()))
            .collect();
        assert_eq!(Delta::since(&held, two.resources(kind)), delta);
        // Found once for all who hold what was before, and for whoever holds something else by itself.
        assert_eq!(two.since(one.resources(kind), two.resources(kind)), delta);
        let three = two.next(&desired(&[("a", "3"), ("b", "2")]));
        let delta = three.since(one.resources(kind), three.resources(kind));
        assert_eq!(names(&delta), (vec!["a", "b"], vec!["c"]));
        assert!(three.since(three.resources(kind), three.resources(kind)).is_empty());
        assert_eq!((one.generation, two.generation), (1, 2));
    }

    #[test]
    fn an_equal_world_keeps_generation_and_pointers() {
        let one = World::default().next(&desired(&[("a", "1")]));
        let two = one.next(&desired(&[("a", "1")]));
        assert_eq!(two.generation, one.generation);
        for kind in ResourceType::NODE {
            assert!(Arc::ptr_eq(one.resources(kind), two.resources(kind)));
        }
    }

    #[test]
    fn a_policy_change_leaves_addresses_alone() {
        let one = World::default().next(&desired(&[("a", "1")]));
        let mut with_policy = desired(&[("a", "1")]);
        let policy = Authorization { name: "p".into(), namespace: "n".into(), ..Default::default() };
        with_policy.policies = Arc::new(vec![policy]);
        let two = one.next(&with_policy);
        assert!(Arc::ptr_eq(one.resources(ResourceType::Address), two.resources(ResourceType::Address)));
        assert_eq!(two.find(ResourceType::Authorization, "n/p").len(), 1);
        assert_eq!(two.generation, 2);
    }

    #[test]
    fn resources_are_found_by_address() {
        let world = World::default().next(&desired(&[("a", "1")]));
        let found: Vec<&str> =
            world.find(ResourceType::Address, "/10.0.0.1").iter().map(|resource| resource.name.as_ref()).collect();
        assert_eq!(found, ["a"]);
        assert!(world.find(ResourceType::Address, "/10.0.0.2").is_empty());
    }

    #[test]
    fn the_first_world_counts_even_when_empty() {
        assert_eq!(World::default().next(&Desired::default()).generation, 1);
    }
}
