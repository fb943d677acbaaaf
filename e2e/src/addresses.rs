//! The lab's address plan: nodes, pods and services, in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The controller, and gateway of the underlay.
pub const UNDERLAY_V4: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The same for IPv6.
pub const UNDERLAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1);
/// Every service's address is in here.
pub const SERVICES_V4: &str = "10.96.0.0/16";
/// The same for IPv6.
pub const SERVICES_V6: &str = "fd00:96::/112";

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

/// Pod networks of a node.
#[must_use]
pub fn pod_networks(number: u8) -> [String; 2] {
    [format!("10.{}.0.0/24", number.saturating_add(100)), format!("fd00:100:{number:x}::/64")]
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
    use std::collections::BTreeSet;

    use super::*;

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
