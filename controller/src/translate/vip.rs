//! Virtual addresses for hosts that have none: the same for the same hosts, whoever asks and whenever.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairway_core::source::Objects;

/// First address of the block for version 4, of 2^16 addresses; nobody routes it (RFC 1112 §4).
const BLOCK_V4: u32 = u32::from_be_bytes([240, 240, 0, 0]);
/// First address of the block for version 6; for benchmarks, so nobody routes it either (RFC 5180 §8).
const BLOCK_V6: u128 = 0x2001_0002 << 96;
/// Addresses given out; the first and the last one of the block are not.
const SIZE: u32 = 65_534;

/// The addresses that are taken.
#[derive(Debug, Default)]
pub struct Addresses {
    taken: HashSet<u32>,
}

impl Addresses {
    /// Those that entries have in their status are taken.
    #[must_use]
    pub fn new(objects: &Objects) -> Self {
        let given = objects.service_entries.values().flat_map(|entry| &entry.status.addresses);
        let offsets = given.filter_map(|given| match given.value.parse().ok()? {
            IpAddr::V4(address) => u32::from(address).checked_sub(BLOCK_V4),
            IpAddr::V6(address) => u32::try_from(u128::from(address).checked_sub(BLOCK_V6)?).ok(),
        });
        Self { taken: offsets.filter(|offset| *offset <= SIZE).collect() }
    }

    /// An address of each version for a host, where its name leads, or after those who came before; none when all are taken.
    pub fn allocate(&mut self, namespace: &str, host: &str) -> Vec<IpAddr> {
        let digest = ring::digest::digest(&ring::digest::SHA256, format!("{namespace}/{host}").as_bytes());
        let start = digest.as_ref().iter().take(4).fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte)) % SIZE;
        let offset = (0..SIZE).map(|step| (start + step) % SIZE + 1).find(|offset| self.taken.insert(*offset));
        let Some(offset) = offset else { return Vec::new() };
        let v4 = Ipv4Addr::from(BLOCK_V4.saturating_add(offset));
        let v6 = Ipv6Addr::from(BLOCK_V6.saturating_add(offset.into()));
        vec![v4.into(), v6.into()]
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
}
