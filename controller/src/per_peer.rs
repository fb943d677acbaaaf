//! A bound for each peer, beside the bound for all: who takes much must not take everything.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

/// How many peers are remembered before those that have nothing are forgotten.
const SWEPT_AT: usize = 256;

/// Places for each peer.
#[derive(Debug)]
pub(crate) struct PerPeer {
    places: usize,
    peers: Mutex<Peers>,
}

#[derive(Debug)]
struct Peers {
    known: HashMap<IpAddr, Weak<Semaphore>>,
    sweep_at: usize,
}

impl PerPeer {
    /// So many places for each.
    pub(crate) fn new(places: usize) -> Self {
        Self { places, peers: Mutex::new(Peers { known: HashMap::new(), sweep_at: SWEPT_AT }) }
    }

    /// The places of one peer. Who holds one of them keeps the count.
    pub(crate) fn of(&self, peer: IpAddr) -> Arc<Semaphore> {
        // IPv4 has two ways to be written. An address of IPv6 counts by itself: clouds put all nodes of a zone into one /64, and
        // the bound for all peers together holds those who have many addresses.
        let peer = peer.to_canonical();
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = peers.known.get(&peer).and_then(Weak::upgrade) {
            return known;
        }
        if peers.known.len() >= peers.sweep_at {
            peers.known.retain(|_, places| places.strong_count() > 0);
            peers.sweep_at = peers.known.len().saturating_mul(2).max(SWEPT_AT);
        }
        let places = Arc::new(Semaphore::new(self.places));
        peers.known.insert(peer, Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_peer_takes_its_own_places_only() {
        let places = PerPeer::new(2);
        let first = places.of(address("10.0.0.1")).try_acquire_owned().unwrap();
        let second = places.of(address("::ffff:10.0.0.1")).try_acquire_owned().unwrap();
        assert!(places.of(address("10.0.0.1")).try_acquire_owned().is_err());
        assert!(places.of(address("10.0.0.2")).try_acquire_owned().is_ok());
        drop(second);
        let again = places.of(address("10.0.0.1")).try_acquire_owned();
        assert!(again.is_ok());
        drop((first, again));
        let _one = places.of(address("2001:db8:0:1::1")).try_acquire_owned().unwrap();
        let _two = places.of(address("2001:db8:0:1::1")).try_acquire_owned().unwrap();
        assert!(places.of(address("2001:db8:0:1::1")).try_acquire_owned().is_err());
        assert!(places.of(address("2001:db8:0:1::2")).try_acquire_owned().is_ok(), "another node of the same network");
    }

    #[test]
    fn who_has_nothing_is_forgotten() {
        let places = PerPeer::new(1);
        let held = places.of(address("10.0.0.1")).try_acquire_owned().unwrap();
        for number in 0..10_000_u32 {
            let _ = places.of(std::net::Ipv4Addr::from_bits(0x0b00_0000 + number).into());
        }
        assert!(places.peers.lock().unwrap().known.len() <= SWEPT_AT);
        assert!(places.of(address("10.0.0.1")).try_acquire_owned().is_err(), "{held:?} is held");
    }
}
