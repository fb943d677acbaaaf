//! What captures look like once they are written. That depends on the versions of tools and kernel, so it is asked rather
//! than known, which takes a process each time.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::KernelError;
use super::backend::Listing;
use crate::rules::Capture;

/// Listings that are kept to be written again, some ten kilobytes each; those used last. A pod has one of its own with its
/// own ports of probes or annotations, and needs it whole only when its rules are written.
const MAX_LISTINGS: usize = 64;
/// Listings that are recognised: all that pods of one node have, more than any node takes.
const MAX_DIGESTS: usize = 4_096;

/// What was learned so far.
#[derive(Debug, Default)]
pub(super) struct Learned {
    /// With a key of its own for each process, so that nobody can make other rules that pass for ours.
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Rises with each use.
    clock: u64,
    listings: BTreeMap<Capture, (u64, Arc<Listing>)>,
    digests: BTreeMap<Capture, u64>,
}

impl Learned {
    /// What a namespace that holds exactly `capture` looks like; `ask` finds out.
    pub(super) fn listing(
        &self,
        capture: &Capture,
        ask: impl FnOnce() -> Result<Listing, KernelError>,
    ) -> Result<Arc<Listing>, KernelError> {
        let known = self.state().used(capture);
        known.map_or_else(|| self.learn(capture, ask()?), Ok)
    }

    /// Whether a namespace that looks like `listing` holds exactly `capture`.
    pub(super) fn is(
        &self,
        listing: &Listing,
        capture: &Capture,
        ask: impl FnOnce() -> Result<Listing, KernelError>,
    ) -> Result<bool, KernelError> {
        let known = self.state().digests.get(capture).copied();
        let digest = match known {
            Some(digest) => digest,
            None => self.hasher.hash_one(self.learn(capture, ask()?)?.as_ref()),
        };
        Ok(self.hasher.hash_one(listing) == digest)
    }

    fn learn(&self, capture: &Capture, listing: Listing) -> Result<Arc<Listing>, KernelError> {
        let listing = Arc::new(listing);
        let digest = self.hasher.hash_one(listing.as_ref());
        let mut state = self.state();
        if state.listings.len() >= MAX_LISTINGS {
            let unused = state.listings.iter().min_by_key(|(_, (used, _))| *used).map(|(capture, _)| capture.clone());
            let _ = unused.and_then(|capture| state.listings.remove(&capture));
        }
        if state.digests.len() >= MAX_DIGESTS {
            state.digests.pop_first();
        }
        state.clock += 1;
        let entry = (state.clock, Arc::clone(&listing));
        state.listings.insert(capture.clone(), entry);
        state.digests.insert(capture.clone(), digest);
        Ok(listing)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn used(&mut self, capture: &Capture) -> Option<Arc<Listing>> {
        self.clock += 1;
        let (used, listing) = self.listings.get_mut(capture)?;
        *used = self.clock;
        Some(Arc::clone(listing))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::rules::Probes;

    fn capture(port: u16) -> Capture {
        Capture { probes: Probes { ports: [port].into(), ..Probes::default() }, ..Capture::default() }
    }

    fn listing(port: u16) -> Listing {
        Listing { text: port.to_string(), ..Listing::default() }
    }

    #[test]
    fn pods_of_many_captures_are_recognised_without_asking_again_and_again() {
        let (learned, asked) = (Learned::default(), Cell::new(0));
        let ask = |port| {
            asked.set(asked.get() + 1);
            Ok(listing(port))
        };
        let ports = 1..=4 * u16::try_from(MAX_LISTINGS).unwrap();
        for _ in 0..3 {
            for port in ports.clone() {
                assert!(learned.is(&listing(port), &capture(port), || ask(port)).unwrap());
                assert!(!learned.is(&listing(port + 1), &capture(port), || ask(port)).unwrap());
                // The most common one is written again and again meanwhile.
                assert_eq!(*learned.listing(&capture(1), || ask(1)).unwrap(), listing(1));
            }
        }
        assert_eq!(asked.get(), ports.count(), "once for each");
        assert_eq!(learned.state().listings.len(), MAX_LISTINGS);
    }
}
