//! Virtual addresses for hosts that have none: the same for the same hosts, whoever asks and whenever.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairway_core::source::Objects;

/// First address of the block for version 4, of 2^16 addresses; nobody routes it (RFC 1112 §4).
const BLOCK_V4: u32 = u32::from_be_bytes([240, 240, 0, 0]);
/// First address of the block for version 6; for benchmarks, so nobody routes it either (RFC 5180 §8).
const BLOCK_V6: u128 = 0x2001_0002 << 96;
/// Addresses given out; the first and the last one of the block are not.
const SIZE: u32 = 65_534;
/// Addresses of the whole block for version 6, of which Istio gives out more than the first 2^16.
const SIZE_V6: u128 = 1 << 80;
/// What is said of an address that hosts are not given.
const FOREIGN: &str = "is not of those that hosts are given, 240.240.0.0/16 and 2001:2::/48";

/// The addresses that are taken.
#[derive(Debug, Default)]
pub struct Addresses {
    /// Those that a status has, or a host, by their place in the block: nobody else is given them. Whoever may write a status
    /// says so, which is why it does not make them anybody's.
    reserved: HashSet<u32>,
    /// Those that a host has, and which: namespace and host.
    used: HashMap<IpAddr, String>,
}

/// The place of an address in the block, if it is one of those given out.
fn offset(address: IpAddr) -> Option<u32> {
    let offset = match address {
        IpAddr::V4(address) => u32::from(address).checked_sub(BLOCK_V4)?,
        IpAddr::V6(address) => u32::try_from(u128::from(address).checked_sub(BLOCK_V6)?).ok()?,
    };
    (1..=SIZE).contains(&offset).then_some(offset)
}

/// Whether it is of those that hosts are given, by us or by Istio.
fn is_given_out(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => offset(address).is_some(),
        IpAddr::V6(address) => {
            u128::from(address).checked_sub(BLOCK_V6).is_some_and(|offset| (1..SIZE_V6).contains(&offset))
        }
    }
}

impl Addresses {
    /// Those that entries have in their status are reserved.
    #[must_use]
    pub fn new(objects: &Objects) -> Self {
        let given = objects.service_entries.values().flat_map(|entry| &entry.status.addresses);
        let reserved = given.filter_map(|given| offset(given.value.parse().ok()?)).collect();
        Self { reserved, used: HashMap::new() }
    }

    /// Lets a host have the address that its status says, if it is one that hosts are given, and nobody's who came before.
    ///
    /// # Errors
    /// Why not.
    pub fn keep(&mut self, address: IpAddr, namespace: &str, host: &str) -> Result<(), String> {
        if !is_given_out(address) {
            return Err(FOREIGN.to_owned());
        }
        let owner = format!("{namespace}/{host}");
        match self.used.get(&address) {
            Some(other) if *other != owner => return Err(format!("is that of {other}, which came first")),
            _ => drop(self.used.insert(address, owner)),
        }
        self.reserved.extend(offset(address));
        Ok(())
    }

    /// An address of each version for a host, where its name leads, or after those who came before; none when all are taken.
    pub fn allocate(&mut self, namespace: &str, host: &str) -> Vec<IpAddr> {
        let digest = ring::digest::digest(&ring::digest::SHA256, format!("{namespace}/{host}").as_bytes());
        let start = digest.as_ref().iter().take(4).fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte)) % SIZE;
        let offset = (0..SIZE).map(|step| (start + step) % SIZE + 1).find(|offset| self.reserved.insert(*offset));
        let Some(offset) = offset else { return Vec::new() };
        let v4 = Ipv4Addr::from(BLOCK_V4.saturating_add(offset));
        let v6 = Ipv6Addr::from(BLOCK_V6.saturating_add(offset.into()));
        let given = vec![v4.into(), v6.into()];
        self.used.extend(given.iter().map(|address| (*address, format!("{namespace}/{host}"))));
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_get_addresses_of_their_own_and_keep_them() {
        let mut first = Addresses::default();
        let mut second = Addresses::default();
        let a = first.allocate("shop", "a.example.com");
        assert_eq!(second.allocate("shop", "a.example.com"), a);
        assert_ne!(first.allocate("shop", "a.example.com"), a, "taken");
        assert!(a[0].to_string().starts_with("240.240.") && a[1].to_string().starts_with("2001:2::"), "{a:?}");
        let mut all = Addresses::default();
        for number in 0..SIZE {
            assert_eq!(all.allocate("shop", &number.to_string()).len(), 2);
        }
        assert!(all.allocate("shop", "one more").is_empty());
    }

    #[test]
    fn only_addresses_of_the_blocks_are_kept_and_by_the_first() {
        let mut addresses = Addresses::default();
        let mut keep = |address: &str, host: &str| addresses.keep(address.parse().unwrap(), "shop", host);
        for kept in ["240.240.0.1", "240.240.255.254", "2001:2::1", "2001:2::1:0:0", "2001:2:0:ffff::1"] {
            assert_eq!(keep(kept, "a.example"), Ok(()), "{kept}");
            assert_eq!(keep(kept, "a.example"), Ok(()), "{kept}: its own");
            let problem = keep(kept, "b.example").unwrap_err();
            assert!(problem.contains("shop/a.example"), "{kept}: {problem}");
        }
        for foreign in [
            "10.96.0.10",
            "240.240.0.0",
            "240.240.255.255",
            "240.239.255.255",
            "240.241.0.1",
            "2001:2::",
            "2001:2:1::1",
            "2001:1:ffff::1",
            "::ffff:240.240.0.7",
        ] {
            assert_eq!(keep(foreign, "a.example"), Err(FOREIGN.to_owned()), "{foreign}");
        }
    }

    #[test]
    fn what_one_host_has_no_other_gets() {
        let alone = Addresses::default().allocate("shop", "b.example");
        let mut addresses = Addresses::default();
        assert_eq!(addresses.keep(alone[0], "shop", "a.example"), Ok(()));
        let given = addresses.allocate("shop", "b.example");
        assert!(given.iter().all(|address| !alone.contains(address)), "{given:?}");
        assert!(addresses.keep(given[1], "shop", "a.example").is_err(), "{given:?}");
    }
}
