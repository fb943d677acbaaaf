//! Keeps the keys of tokens' issuers: fetches them where RequestAuthentications say, again and again, so that no proxy has to.
//!
//! What could not be fetched again stays good for a while. Keys are fetched by this process alone, from where an operator lets
//! it ([`Reach`]), and nothing but public keys comes out of an answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_core::io::drain::Drain;
use rand::RngExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::l7::tokens::{KeySet, KeySets, Origin};
use crate::state::Published;

mod fetch;
mod reach;

pub use fetch::Fetcher;
pub use reach::Reach;

/// Between fetches of the same keys: an issuer that rotates publishes new ones longer before it uses them.
const REFRESH: Duration = Duration::from_secs(5 * 60);
/// Before the first repetition of a fetch that failed; it doubles up to [`REFRESH`].
const RETRY: Duration = Duration::from_secs(5);
/// How long keys are good that cannot be fetched again: an issuer may be away for a day, keys that it withdrew must not stay.
const MAXIMUM_AGE: Duration = Duration::from_secs(24 * 3600);
/// Fetches at a time.
const CONCURRENCY: usize = 8;
/// Origins of keys in the whole mesh; those beyond, in order of their names, are not fetched.
const MAXIMUM_ORIGINS: usize = 1024;

/// What is known of the keys of one origin.
#[derive(Clone, Debug)]
struct Known {
    /// Them, and when they came.
    keys: Option<(Arc<str>, Instant)>,
    /// Why there are no newer ones.
    trouble: Option<String>,
    /// Fetches that failed since one did not.
    failures: u32,
    /// When to fetch them; nothing while they are being fetched.
    next: Option<Instant>,
}

impl Known {
    fn new(now: Instant) -> Self {
        Self { keys: None, trouble: None, failures: 0, next: Some(now) }
    }

    /// After a fetch.
    fn learn(&mut self, result: Result<String, String>, now: Instant, jitter: f64) {
        let pause = match result {
            Ok(keys) => {
                let same = self.keys.as_ref().map(|(known, _)| known).filter(|known| ***known == *keys).cloned();
                self.keys = Some((same.unwrap_or_else(|| Arc::from(keys)), now));
                (self.failures, self.trouble) = (0, None);
                REFRESH
            }
            Err(trouble) => {
                let pause = RETRY.saturating_mul(2_u32.saturating_pow(self.failures)).min(REFRESH);
                self.failures = self.failures.saturating_add(1);
                self.trouble = Some(trouble);
                pause
            }
        };
        self.next = now.checked_add(pause.mul_f64(jitter));
    }

    /// What to say of them.
    fn told(&self, now: Instant) -> KeySet {
        let good = self.keys.as_ref().filter(|(_, since)| now.saturating_duration_since(*since) < MAXIMUM_AGE);
        KeySet { keys: good.map(|(keys, _)| Arc::clone(keys)), trouble: self.trouble.clone() }
    }
}

/// Keeps the keys that what is published asks for, until the drain starts. `told` gets what there is to know.
pub async fn keep(
    mut published: watch::Receiver<Arc<Published>>,
    told: watch::Sender<Arc<KeySets>>,
    fetcher: Fetcher,
    mut drain: Drain,
) {
    let fetcher = Arc::new(fetcher);
    let mut known: BTreeMap<Origin, Known> = BTreeMap::new();
    let mut fetches = JoinSet::new();
    loop {
        let mut wanted = published.borrow_and_update().world.l7().waypoints().origins();
        if wanted.len() > MAXIMUM_ORIGINS {
            tracing::error!(
                origins = wanted.len(),
                "keys are wanted from more than {MAXIMUM_ORIGINS} places; the rest is not fetched"
            );
            wanted = wanted.into_iter().take(MAXIMUM_ORIGINS).collect();
        }
        let now = Instant::now();
        known.retain(|origin, _| wanted.contains_key(origin));
        for (origin, timeout) in wanted {
            let entry = known.entry(origin.clone()).or_insert_with(|| Known::new(now));
            if fetches.len() < CONCURRENCY && entry.next.is_some_and(|next| next <= now) {
                entry.next = None;
                let fetcher = Arc::clone(&fetcher);
                fetches.spawn(async move {
                    let result = fetcher.keys(&origin, timeout).await;
                    (origin, result)
                });
            }
        }
        let sets: BTreeMap<_, _> = known.iter().map(|(origin, known)| (origin.clone(), known.told(now))).collect();
        told.send_if_modified(|before| {
            let differs = before.0 != sets;
            if differs {
                *before = Arc::new(KeySets(sets));
            }
            differs
        });
        let soonest = known.values().filter_map(|known| known.next).min();
        let pause = soonest.map_or(REFRESH, |next| next.saturating_duration_since(now));
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            Some(done) = fetches.join_next() => {
                let Ok((origin, result)) = done else { continue };
                if let Err(trouble) = &result {
                    tracing::warn!(%origin, "keys of tokens cannot be fetched: {trouble}");
                }
                if let Some(known) = known.get_mut(&origin) {
                    known.learn(result, Instant::now(), rand::rng().random_range(0.8..1.0));
                }
            }
            () = tokio::time::sleep(pause), if fetches.len() < CONCURRENCY => {}
            _ = drain.started() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_outlast_failures_for_a_day_and_no_longer() {
        let start = Instant::now();
        let mut known = Known::new(start);
        assert_eq!(known.told(start), KeySet::default(), "never fetched");
        known.learn(Err("away".to_owned()), start, 1.0);
        assert_eq!(known.told(start), KeySet { keys: None, trouble: Some("away".to_owned()) });
        assert_eq!(known.next, Some(start + RETRY));
        known.learn(Ok("new".to_owned()), start, 1.0);
        let good = KeySet { keys: Some("new".into()), trouble: None };
        assert_eq!((known.told(start), known.next), (good.clone(), Some(start + REFRESH)));
        for failure in 0..40 {
            known.learn(Err("away".to_owned()), start, 1.0);
            assert_eq!(known.next, Some(start + RETRY * 2_u32.pow(failure.min(6)).min(60)), "{failure}");
        }
        let away = KeySet { trouble: Some("away".to_owned()), ..good };
        assert_eq!(known.told(start + MAXIMUM_AGE - RETRY), away);
        assert_eq!(known.told(start + MAXIMUM_AGE), KeySet { keys: None, ..away });
        known.learn(Ok("newer".to_owned()), start + MAXIMUM_AGE, 0.5);
        assert_eq!(known.next, Some(start + MAXIMUM_AGE + REFRESH / 2));
    }
}
