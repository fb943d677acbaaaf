//! The lab's address plan: nodes, pods and services, in both families.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The gateway every pod sees, answered by its node (link local, `RFC 3927`).
pub const POD_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same for IPv6.
pub const POD_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The controller, and gateway of the underlay.
pub const UNDERLAY_V4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The same for IPv6.
pub const UNDERLAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1);
/// Source of the kubelet's probes, which captured pods let through.
pub const PROBE_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 127);
/// The same for IPv6.
pub const PROBE_V6: Ipv6Addr = Ipv6Addr::new(0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff);
/// Every service's address is in here.
pub const SERVICES_V4: &str = "10.96.0.0/16";
/// The same for IPv6.
pub const SERVICES_V6: &str = "fd00:96::/112";

/// First host number given to a pod: .0 names the network and .1 is kept free.
const FIRST_POD: u8 = 2;
/// Last host number given to a pod: .255 is the broadcast address.
const LAST_POD: u8 = 254;
/// Service offsets start here, leaving the low addresses for explicit `clusterIP`s.
const FIRST_SERVICE: u16 = 256;

/// An address in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dual {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Dual {
    /// Both, IPv4 first.
    #[must_use]
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The one of the same family as `peer`.
    #[must_use]
    pub fn like(self, peer: IpAddr) -> IpAddr {
        if peer.is_ipv4() { self.v4.into() } else { self.v6.into() }
    }
}

/// Name of node `number`, counted from 1.
#[must_use]
pub fn node_name(number: u8) -> String {
    format!("node-{number}")
}

/// Address of a node on the inter-node link.
#[must_use]
pub fn node(number: u8) -> Dual {
    let host = number.saturating_add(10);
    Dual { v4: Ipv4Addr::new(10, 99, 0, host), v6: Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, u16::from(host)) }
}

/// Source addresses of probes.
#[must_use]
pub fn probe_source() -> Dual {
    Dual { v4: PROBE_V4, v6: PROBE_V6 }
}

/// Pod networks of a node.
#[must_use]
pub fn pod_networks(number: u8) -> [String; 2] {
    let any = pod(number, 0);
    [format!("{}/24", any.v4), format!("{}/64", any.v6)]
}

fn pod(node: u8, host: u8) -> Dual {
    Dual {
        v4: Ipv4Addr::new(10, node.saturating_add(100), 0, host),
        v6: Ipv6Addr::new(0xfd00, 0x100, u16::from(node), 0, 0, 0, 0, u16::from(host)),
    }
}

/// Pod addresses of one node. An address comes back into use as late as possible, as in real clusters.
#[derive(Clone, Debug)]
pub struct PodAddresses {
    node: u8,
    used: BTreeSet<u8>,
    next: u8,
}

impl PodAddresses {
    /// All addresses of node `number`, unused.
    #[must_use]
    pub fn of(number: u8) -> Self {
        Self { node: number, used: BTreeSet::new(), next: FIRST_POD }
    }

    /// A free host number and its address; `None` when the node is full.
    pub fn allocate(&mut self) -> Option<(u8, Dual)> {
        let host = (self.next..=LAST_POD).chain(FIRST_POD..self.next).find(|host| !self.used.contains(host))?;
        self.used.insert(host);
        self.next = if host == LAST_POD { FIRST_POD } else { host + 1 };
        Some((host, pod(self.node, host)))
    }

    /// Gives a host number back.
    pub fn release(&mut self, host: u8) {
        self.used.remove(&host);
    }

    /// Pods placed on the node.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.used.len()
    }
}

/// The address of a service whose name is `key`, avoiding those for which `taken` says so. The search starts at a hash of the name,
/// so that a service has the same address in every lab unless names collide.
pub fn service(key: &str, taken: impl Fn(Dual) -> bool) -> Option<Dual> {
    let span = u32::from(u16::MAX - FIRST_SERVICE);
    let start = fnv(key) % span;
    (0..span)
        .filter_map(|step| u16::try_from((start + step) % span).ok())
        .map(|offset| service_at(FIRST_SERVICE + offset))
        .find(|address| !taken(*address))
}

fn service_at(offset: u16) -> Dual {
    let [high, low] = offset.to_be_bytes();
    Dual { v4: Ipv4Addr::new(10, 96, high, low), v6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, offset) }
}

/// FNV-1a, 32 bits: stable between builds, unlike the standard library's hasher.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_holds_253_pods_and_reuses_late() {
        let mut addresses = PodAddresses::of(2);
        let (first, dual) = addresses.allocate().unwrap();
        assert_eq!(dual.both().map(|address| address.to_string()), ["10.102.0.2", "fd00:100:2::2"]);
        addresses.release(first);
        let all: Vec<u8> = std::iter::from_fn(|| addresses.allocate()).map(|(host, _)| host).collect();
        assert_eq!(all.len(), 253);
        assert_eq!(all.last(), Some(&2));
        assert_eq!(addresses.in_use(), 253);
    }

    #[test]
    fn services_keep_their_address_and_never_share_one() {
        let mut taken = BTreeSet::new();
        for number in 0..2000 {
            let address = service(&format!("shop/server-{number}"), |candidate| taken.contains(&candidate)).unwrap();
            assert!(taken.insert(address));
        }
        assert_eq!(service("shop/server", |_| false), service("shop/server", |_| false));
        assert_eq!(service("shop/server", |_| true), None);
    }
}
