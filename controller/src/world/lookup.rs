//! Addresses by what a client can look for that does not hold them all: other names, nodes, services.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_core::ordered::OrderedMap;
use fairway_proto::workload::{NetworkMode, address};
use ipnet::IpNet;

use super::{Resource, Resources};

/// A name of a resource in [`Resources`].
type Key = Arc<str>;
/// Names of resources in order, by something they have in common.
type Index = OrderedMap<Arc<str>, Arc<Vec<Key>>>;
/// Blocks of addresses by network; few have any.
type Blocks = BTreeMap<String, Vec<(IpNet, Key)>>;

/// The ways to find addresses other than by key. Clones are cheap.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    aliases: Index,
    blocks: Arc<Blocks>,
    nodes: Index,
    services: Index,
}

/// What one resource is found by.
#[derive(Debug, Default)]
struct Found {
    aliases: Vec<String>,
    node: Option<String>,
    services: Vec<String>,
}

impl Found {
    fn of(resource: &Resource) -> Self {
        match resource.address() {
            None => Self::default(),
            Some(address::Type::Workload(workload)) => {
                // On the node's network the address is that of others, too.
                let is_own = workload.network_mode() != NetworkMode::HostNetwork;
                Self {
                    aliases: if is_own { resource.aliases.clone() } else { Vec::new() },
                    services: workload.services.into_keys().collect(),
                    node: Some(workload.node).filter(|node| !node.is_empty()),
                }
            }
            Some(address::Type::Service(_)) => Self { aliases: resource.aliases.clone(), ..Self::default() },
        }
    }
}

impl Lookup {
    pub(super) fn of(resources: &Resources) -> Self {
        let mut lookup = Self::default();
        for resource in resources.values() {
            lookup.replace(None, Some(resource));
        }
        lookup
    }

    /// Takes a resource out and puts another one of the same name in.
    pub(super) fn replace(&mut self, old: Option<&Resource>, new: Option<&Resource>) {
        if let Some(resource) = old {
            let Found { aliases, node, services } = Found::of(resource);
            for alias in aliases {
                take(&mut self.aliases, &alias, &resource.name);
                if let Some((network, _)) = block(&alias)
                    && let Some(blocks) = Arc::make_mut(&mut self.blocks).get_mut(network)
                {
                    blocks.retain(|(_, key)| *key != resource.name);
                }
            }
            node.iter().for_each(|node| take(&mut self.nodes, node, &resource.name));
            services.iter().for_each(|service| take(&mut self.services, service, &resource.name));
        }
        if let Some(resource) = new {
            let Found { aliases, node, services } = Found::of(resource);
            for alias in aliases {
                if let Some((network, block)) = block(&alias) {
                    let blocks = Arc::make_mut(&mut self.blocks).entry(network.to_owned()).or_default();
                    blocks.push((block, Arc::clone(&resource.name)));
                }
                put(&mut self.aliases, alias, &resource.name);
            }
            node.into_iter().for_each(|node| put(&mut self.nodes, node, &resource.name));
            services.into_iter().for_each(|service| put(&mut self.services, service, &resource.name));
        }
    }

    /// The keys of what is known by another name: `<network>/<address>`, which a block of addresses holds, too.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<&str> {
        if let Some(keys) = self.aliases.get(name) {
            return keys.iter().map(AsRef::as_ref).collect();
        }
        let Some((network, address)) = name.rsplit_once('/') else { return Vec::new() };
        let (Some(blocks), Ok(address)) = (self.blocks.get(network), address.parse::<IpAddr>()) else {
            return Vec::new();
        };
        blocks.iter().filter(|(block, _)| block.contains(&address)).map(|(_, key)| key.as_ref()).collect()
    }

    /// The keys of the workloads on a node.
    pub fn on_node<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.nodes.get(node).into_iter().flat_map(|keys| keys.iter())
    }

    /// The keys of the workloads of a service.
    pub fn of_service<'a>(&'a self, service: &str) -> impl Iterator<Item = &'a Key> + use<'a> {
        self.services.get(service).into_iter().flat_map(|keys| keys.iter())
    }
}

/// Network and block of an alias that is one.
fn block(alias: &str) -> Option<(&str, IpNet)> {
    let (network, block) = alias.split_once('/')?;
    Some((network, block.parse().ok()?))
}

fn put(index: &mut Index, place: String, key: &Key) {
    let mut keys = index.get(place.as_str()).map(|keys| keys.to_vec()).unwrap_or_default();
    if let Err(at) = keys.binary_search(key) {
        keys.insert(at, Arc::clone(key));
        index.insert(place.into(), Arc::new(keys));
    }
}

fn take(index: &mut Index, place: &str, key: &Key) {
    let Some(keys) = index.get_key_value(place) else { return };
    let (place, mut keys) = (Arc::clone(keys.0), keys.1.to_vec());
    keys.retain(|other| other != key);
    if keys.is_empty() {
        index.remove(&place);
    } else {
        index.insert(place, Arc::new(keys));
    }
}
