//! Whose an address is, so that no namespace's entries take the traffic of another (docs/adr/0019-whose-an-address-is.md).

use std::collections::HashMap;
use std::net::IpAddr;

use fairway_core::source::{ObjectKey, Objects};
use ipnet::IpNet;

use super::endpoints::PodAddresses;
use super::service::{sent, virtual_addresses};
use super::{Fault, Settings};

/// What has addresses before any entry, and what entries have claimed so far: the older ones have to come first.
#[derive(Debug)]
pub struct Claims<'a> {
    root_namespace: &'a str,
    services: HashMap<IpAddr, &'a ObjectKey>,
    pods: &'a PodAddresses,
    entries: HashMap<IpNet, &'a ObjectKey>,
    /// Those of `entries` that are more than one address.
    blocks: Vec<(IpNet, &'a ObjectKey)>,
    machines: HashMap<IpAddr, &'a ObjectKey>,
}

/// What of the cluster has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner<'a> {
    Service(&'a ObjectKey),
    Pod(&'a ObjectKey),
    Node,
}

/// What is left of the addresses that an entry claims.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// Those it may have.
    pub addresses: Vec<IpNet>,
    /// Whether only clients of its own namespace may be told, because others know the address as somebody else's.
    pub is_private: bool,
    /// What its user should know.
    pub faults: Vec<Fault>,
}

impl<'a> Claims<'a> {
    /// Whose addresses are whose in the cluster itself.
    #[must_use]
    pub fn new(objects: &'a Objects, pods: &'a PodAddresses, settings: &'a Settings) -> Self {
        let services = objects.services.iter().flat_map(|(key, service)| {
            sent(service).into_iter().flat_map(virtual_addresses).map(move |address| (address, key))
        });
        Self {
            root_namespace: &settings.root_namespace,
            services: services.collect(),
            pods,
            entries: HashMap::new(),
            blocks: Vec::new(),
            machines: HashMap::new(),
        }
    }

    /// What is left of the `written` addresses of a ServiceEntry, each with the path of its field.
    pub fn service_entry(&mut self, key: &'a ObjectKey, written: Vec<(String, IpNet)>) -> Claimed {
        let mut claimed = Claimed::default();
        for (field, block) in written {
            if let Some(owner) = self.of_cluster(key, block) {
                let message = format!("{block} is an address of {owner}; it is left out");
                claimed.faults.push(Fault { field, message });
                continue;
            }
            if let Some(older) = self.older(key, block) {
                let message = format!(
                    "{block} is claimed by {older}, which is older; only clients in {} see this entry",
                    key.namespace
                );
                claimed.faults.push(Fault { field, message });
                claimed.is_private = true;
            } else {
                self.entries.entry(block).or_insert(key);
                if block.prefix_len() < block.max_prefix_len() {
                    self.blocks.push((block, key));
                }
            }
            claimed.addresses.push(block);
        }
        claimed
    }

    /// Whether a WorkloadEntry may say what is at this address.
    ///
    /// # Errors
    /// Who has it.
    pub fn workload_entry(&mut self, key: &'a ObjectKey, address: IpAddr) -> Result<(), String> {
        if let Some(owner) = self.of_cluster(key, address.into()) {
            return Err(owner.to_string());
        }
        match *self.machines.entry(address).or_insert(key) {
            older if older.namespace != key.namespace => Err(format!("{older}, which is older")),
            _ => Ok(()),
        }
    }

    fn of_cluster(&self, key: &ObjectKey, block: IpNet) -> Option<Owner<'a>> {
        // Who may write there rules the mesh. Of a block, proxies take only what nobody else has.
        if key.namespace == self.root_namespace || block.prefix_len() < block.max_prefix_len() {
            return None;
        }
        let address = block.addr();
        let service = self.services.get(&address).map(|service| Owner::Service(service));
        // Before pods: what is on a node's network has the node's address.
        service
            .or_else(|| self.pods.is_node(address).then_some(Owner::Node))
            .or_else(|| self.pods.pod(address).map(Owner::Pod))
    }

    fn older(&self, key: &ObjectKey, block: IpNet) -> Option<&'a ObjectKey> {
        let exact = self.entries.get(&block).copied();
        let around = || self.blocks.iter().find(|(older, _)| older.contains(&block)).map(|(_, owner)| *owner);
        exact.or_else(around).filter(|owner| owner.namespace != key.namespace)
    }
}

impl std::fmt::Display for Owner<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service(key) | Self::Pod(key) => key.fmt(formatter),
            Self::Node => formatter.write_str("a node"),
        }
    }
}

#[cfg(test)]
mod tests;
