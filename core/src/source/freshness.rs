//! How far behind the newest reading of a source is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Which parts of a source cannot be read now, and since when. Cheap to clone; all clones show the same.
#[derive(Clone, Debug, Default)]
pub struct Freshness {
    stale: Arc<Mutex<BTreeMap<String, Stale>>>,
}

/// A part that cannot be read.
#[derive(Clone, Debug)]
pub struct Stale {
    /// Since when.
    pub since: Instant,
    /// What was tried last, and why it failed.
    pub why: String,
}

impl Freshness {
    /// Notes that `part` could not be read. Says since when that is so.
    pub fn failed(&self, part: &str, why: &str, now: Instant) -> Duration {
        let mut stale = self.lock();
        let entry = stale.entry(part.to_owned()).or_insert_with(|| Stale { since: now, why: String::new() });
        why.clone_into(&mut entry.why);
        now.saturating_duration_since(entry.since)
    }

    /// Notes that `part` is read again, or for the first time. Says since when it could not be.
    pub fn succeeded(&self, part: &str, now: Instant) -> Option<Duration> {
        let stale = self.lock().remove(part)?;
        Some(now.saturating_duration_since(stale.since))
    }

    /// The parts that cannot be read.
    #[must_use]
    pub fn stale(&self) -> BTreeMap<String, Stale> {
        self.lock().clone()
    }

    /// How long the oldest part cannot be read; nothing when all can.
    #[must_use]
    pub fn stale_for(&self, now: Instant) -> Option<Duration> {
        let since = self.lock().values().map(|stale| stale.since).min()?;
        Some(now.saturating_duration_since(since))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Stale>> {
        self.stale.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_failure_counts_until_it_is_over() {
        let freshness = Freshness::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(freshness.stale_for(start), None);
        assert_eq!(freshness.failed("pods", "refused", at(1)), Duration::ZERO);
        assert_eq!(freshness.failed("nodes", "refused", at(2)), Duration::ZERO);
        assert_eq!(freshness.failed("pods", "slow", at(5)), Duration::from_secs(4));
        assert_eq!(freshness.stale_for(at(11)), Some(Duration::from_secs(10)));
        assert_eq!(freshness.stale()["pods"].why, "slow");
        assert_eq!(freshness.succeeded("pods", at(12)), Some(Duration::from_secs(11)));
        assert_eq!(freshness.succeeded("pods", at(12)), None);
        assert_eq!(freshness.stale_for(at(12)), Some(Duration::from_secs(10)));
    }
}
