//! Addresses of workloads and services that were rejected: who dials one is refused, never sent on in plaintext.

use std::sync::Arc;

use fairway_proto::workload as proto;

use super::{
    index::{Few, Index, Member},
    salvage::{Field, fields},
};
use crate::addr::{NetworkAddress, NetworkCidr, cidr_from_bytes, ip_from_bytes};

/// A workload or service that could not be used, with the addresses that could be read nevertheless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedResource {
    /// The resource's name: a workload's uid or a service's key.
    pub name: Arc<str>,
    /// The addresses it claims.
    pub addresses: Box<[NetworkAddress]>,
    /// The blocks of addresses it claims.
    pub blocks: Box<[NetworkCidr]>,
}

impl RefusedResource {
    /// What a workload claims. One on its node's network claims nothing: the address is that of others, too.
    #[must_use]
    pub fn workload(name: &str, message: &proto::Workload) -> Self {
        let shared = message.network_mode == i32::from(proto::NetworkMode::HostNetwork);
        let claimed = if shared { &[][..] } else { &message.addresses };
        let addresses = claimed
            .iter()
            .filter_map(|bytes| Some(NetworkAddress::new(message.network.as_str(), ip_from_bytes(bytes).ok()?)))
            .collect();
        Self { name: name.into(), addresses, blocks: Box::default() }
    }

    /// What a service claims.
    #[must_use]
    pub fn service(name: &str, message: &proto::Service) -> Self {
        let (mut addresses, mut blocks) = (Vec::new(), Vec::new());
        for claimed in &message.addresses {
            match (ip_from_bytes(&claimed.address), claimed.length) {
                (Ok(ip), None) => addresses.push(NetworkAddress::new(claimed.network.as_str(), ip)),
                (Ok(_), Some(length)) => {
                    if let Ok(block) = cidr_from_bytes(&claimed.address, length) {
                        blocks.push(NetworkCidr { network: claimed.network.as_str().into(), block });
                    }
                }
                (Err(_), _) => {}
            }
        }
        Self { name: name.into(), addresses: addresses.into(), blocks: blocks.into() }
    }
}

impl RefusedResource {
    /// What a resource claims that cannot be decoded at all: the addresses that can be made out in its bytes.
    #[must_use]
    pub fn undecodable(name: &str, bytes: &[u8]) -> Self {
        let mut found = Self { name: name.into(), addresses: Box::default(), blocks: Box::default() };
        // `Address.workload` is field 1, `Address.service` field 2.
        for field in fields(bytes) {
            let claims = match field {
                (1, Field::Bytes(workload)) => Self::workload(name, &salvaged_workload(workload)),
                (2, Field::Bytes(service)) => Self::service(name, &salvaged_service(service)),
                _ => continue,
            };
            found.addresses = claims.addresses;
            found.blocks = claims.blocks;
        }
        found
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn salvaged_workload(bytes: &[u8]) -> proto::Workload {
    let mut message = proto::Workload::default();
    for field in fields(bytes) {
        match field {
            (3, Field::Bytes(address)) => message.addresses.push(address.to_vec()),
            (4, Field::Bytes(network)) => message.network = text(network),
            (25, Field::Number(mode)) => message.network_mode = i32::try_from(mode).unwrap_or_default(),
            _ => {}
        }
    }
    message
}

fn salvaged_service(bytes: &[u8]) -> proto::Service {
    let mut message = proto::Service::default();
    for field in fields(bytes) {
        let (4, Field::Bytes(address)) = field else { continue };
        let mut claimed = proto::NetworkAddress::default();
        for field in fields(address) {
            match field {
                (1, Field::Bytes(network)) => claimed.network = text(network),
                (2, Field::Bytes(address)) => claimed.address = address.to_vec(),
                (3, Field::Number(length)) => claimed.length = u32::try_from(length).ok(),
                _ => {}
            }
        }
        message.addresses.push(claimed);
    }
    message
}

impl Member for Arc<RefusedResource> {
    type Id = Arc<str>;

    fn id(&self) -> &Self::Id {
        &self.name
    }
}

/// The rejected resources of a snapshot, by name and by what they claim.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    names: Index<Arc<str>, Arc<RefusedResource>>,
    addresses: Index<NetworkAddress, Few<Arc<RefusedResource>>>,
    blocks: Arc<[(NetworkCidr, Arc<RefusedResource>)]>,
}

impl Refused {
    pub(super) fn new() -> Self {
        Self {
            names: Index::new(Index::<Arc<str>, Arc<RefusedResource>>::SMALL),
            addresses: Index::new(Index::<NetworkAddress, Few<Arc<RefusedResource>>>::SMALL),
            blocks: Arc::default(),
        }
    }

    pub(super) fn by_address(&self, address: &NetworkAddress) -> Option<&Arc<RefusedResource>> {
        let holds = |cidr: &NetworkCidr| cidr.network == address.network && cidr.block.contains(&address.ip);
        self.addresses
            .members(address)
            .first()
            .or_else(|| self.blocks.iter().find(|(cidr, _)| holds(cidr)).map(|(_, resource)| resource))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|(name, _)| &**name)
    }

    /// Lists a resource in place of its earlier version; whether that changed anything.
    pub(super) fn put(&mut self, resource: RefusedResource) -> bool {
        if self.names.get(&resource.name).is_some_and(|present| **present == resource) {
            return false;
        }
        self.take(&resource.name);
        let resource = Arc::new(resource);
        for address in &resource.addresses {
            self.addresses.add(address.clone(), resource.clone());
        }
        if !resource.blocks.is_empty() {
            let added = resource.blocks.iter().map(|cidr| (cidr.clone(), resource.clone()));
            let mut all: Vec<_> = self.blocks.iter().cloned().chain(added).collect();
            all.sort_by(|left, right| left.1.name.cmp(&right.1.name).then_with(|| left.0.cmp(&right.0)));
            self.blocks = all.into();
        }
        self.names.insert(resource.name.clone(), resource);
        true
    }

    /// Forgets a resource; whether it was there.
    pub(super) fn take(&mut self, name: &str) -> bool {
        let Some(resource) = self.names.remove(name) else { return false };
        for address in &resource.addresses {
            self.addresses.take(address, &resource.name);
        }
        if !resource.blocks.is_empty() {
            self.blocks = self.blocks.iter().filter(|(_, other)| other.name != resource.name).cloned().collect();
        }
        true
    }
}
