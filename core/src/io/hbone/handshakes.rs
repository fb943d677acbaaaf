//! Shares the handshakes a pod may have under way among those who knock: no address can take more than its part.
//!
//! Until TLS is done nothing is known of a client but its address, which on a path that answers cannot be forged. A
//! stranger that opens connections and says nothing would otherwise keep everybody out for as long as a handshake may
//! take.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::{self, Limits};

/// The handshakes of one pod that are under way.
#[derive(Debug)]
pub struct Handshakes {
    at_most: usize,
    at_most_each: usize,
    under_way: Mutex<UnderWay>,
}

/// As many entries as there are sources with a handshake under way, and so never more than the limit.
#[derive(Debug, Default)]
struct UnderWay {
    all: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// One handshake under way; it is over when this is dropped.
#[derive(Debug)]
pub struct Handshake<'a> {
    of: &'a Handshakes,
    source: IpAddr,
}

/// Why a client must come again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// All are taken.
    #[error("{0} handshakes are under way, which is the limit (handshakes_per_pod)")]
    All(usize),
    /// The client's own share is taken.
    #[error("{0} handshakes of this address are under way, which is the limit (handshakes_per_source)")]
    Source(usize),
}

impl Handshakes {
    /// As many as these limits say.
    #[must_use]
    pub fn within(limits: &Limits) -> Self {
        Self::new(limits.size(&limits::HANDSHAKES_PER_POD), limits.size(&limits::HANDSHAKES_PER_SOURCE))
    }

    /// At most so many at once, and at most so many of one source.
    #[must_use]
    pub fn new(at_most: usize, at_most_each: usize) -> Self {
        Self { at_most, at_most_each, under_way: Mutex::default() }
    }

    /// Begins a handshake with a client at `address`.
    ///
    /// # Errors
    /// [`Busy`] when there are enough.
    pub fn begin(&self, address: IpAddr) -> Result<Handshake<'_>, Busy> {
        let source = source(address);
        let mut under_way = self.lock();
        if under_way.all >= self.at_most {
            return Err(Busy::All(self.at_most));
        }
        let own = under_way.by_source.entry(source).or_default();
        if *own >= self.at_most_each {
            return Err(Busy::Source(self.at_most_each));
        }
        *own += 1;
        under_way.all += 1;
        Ok(Handshake { of: self, source })
    }

    /// How many there are now.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        let mut under_way = self.of.lock();
        under_way.all = under_way.all.saturating_sub(1);
        if let Some(own) = under_way.by_source.get_mut(&self.source) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                under_way.by_source.remove(&self.source);
                if under_way.by_source.is_empty() {
                    // Memory returns after a flood.
                    under_way.by_source.shrink_to_fit();
                }
            }
        }
    }
}

/// Who counts as one: an IPv4 address, or the /64 that a single host on IPv6 is given (RFC 6177 §2).
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [first, second, third, fourth, ..] = address.segments();
            IpAddr::from([first, second, third, fourth, 0, 0, 0, 0])
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn no_source_takes_more_than_its_share() {
        let handshakes = Handshakes::new(16, 2);
        let stranger = ["10.0.0.1", "::ffff:10.0.0.1"].map(|address| handshakes.begin(ip(address)).unwrap());
        assert_eq!(handshakes.begin(ip("10.0.0.1")).unwrap_err(), Busy::Source(2));
        let _member = handshakes.begin(ip("10.0.0.2")).unwrap();
        drop(stranger);
        let _again = handshakes.begin(ip("10.0.0.1")).unwrap();
    }

    #[test]
    fn addresses_of_one_host_count_as_one() {
        let handshakes = Handshakes::new(16, 1);
        let _one = handshakes.begin(ip("fd00:0:0:1::1")).unwrap();
        assert_eq!(handshakes.begin(ip("fd00:0:0:1:ffff::2")).unwrap_err(), Busy::Source(1));
        let _another_host = handshakes.begin(ip("fd00:0:0:2::1")).unwrap();
    }

    #[test]
    fn all_together_are_bounded_and_nothing_is_kept_of_those_who_left() {
        let handshakes = Handshakes::new(3, 2);
        let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|address| handshakes.begin(ip(address)).unwrap());
        assert_eq!(handshakes.begin(ip("10.0.0.4")).unwrap_err(), Busy::All(3));
        assert_eq!(handshakes.lock().by_source.len(), 3, "who is turned away leaves no entry");
        drop(all);
        let under_way = handshakes.lock();
        assert_eq!((under_way.all, under_way.by_source.len(), under_way.by_source.capacity()), (0, 0, 0));
    }
}
