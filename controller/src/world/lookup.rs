//! Addresses by what a client can look for that does not hold them all: other names, nodes, services.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_proto::workload::{Address, NetworkMode, address};
use ipnet::IpNet;
use prost::Message;

use super::Resources;

/// A name of a resource in [`Resources`].
type Key = Arc<str>;

/// The ways to find addresses other than by key.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    aliases: HashMap<String, Vec<Key>>,
    /// Blocks of addresses by network.
    blocks: BTreeMap<String, Vec<(IpNet, Key)>>,
    nodes: HashMap<String, Vec<Key>>,
    services: HashMap<String, Vec<Key>>,
}

impl Lookup {
    pub(super) fn of(resources: &Resources) -> Self {
        let mut lookup = Self::default();
        for (key, resource) in resources {
            // We have encoded it ourselves.
            let Ok(Address { r#type: Some(message) }) = Address::decode(resource.body.as_slice()) else { continue };
            match message {
                address::Type::Workload(workload) => {
                    // On the node's network the address is that of others, too.
                    if workload.network_mode() != NetworkMode::HostNetwork {
                        lookup.alias(&resource.aliases, key);
                    }
                    for service in workload.services.into_keys() {
                        lookup.services.entry(service).or_default().push(Arc::clone(key));
                    }
                    if !workload.node.is_empty() {
                        lookup.nodes.entry(workload.node).or_default().push(Arc::clone(key));
                    }
                }
                address::Type::Service(_) => lookup.alias(&resource.aliases, key),
            }
        }
        lookup
    }

    fn alias(&mut self, aliases: &[String], key: &Key) {
        for alias in aliases {
            self.aliases.entry(alias.clone()).or_default().push(Arc::clone(key));
            if let Some((network, block)) = alias.split_once('/')
                && let Ok(block) = block.parse::<IpNet>()
            {
                self.blocks.entry(network.to_owned()).or_default().push((block, Arc::clone(key)));
            }
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
    pub fn on_node(&self, node: &str) -> impl Iterator<Item = &Key> {
        self.nodes.get(node).into_iter().flatten()
    }

    /// The keys of the workloads of a service.
    pub fn of_service(&self, service: &str) -> impl Iterator<Item = &Key> {
        self.services.get(service).into_iter().flatten()
    }
}
