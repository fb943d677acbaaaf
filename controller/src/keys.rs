//! Keeps the keys of tokens' issuers: fetches them where RequestAuthentications say, again and again, so that no proxy has to.
//!
//! What could not be fetched again stays good for a while; what its issuer says that it has no more is gone at once
//! (ADR 0038). Keys are fetched by this process alone, from where an operator lets
//! it ([`Reach`]), and nothing but public keys comes out of an answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_core::io::drain::Drain;
use rand::RngExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::l7::tokens::{KeySet, KeySets, Origin};
use crate::metrics::{KeyStates, Metrics};
use crate::state::Published;

mod fetch;
mod reach;

pub use fetch::{Answer, Fetcher};
pub use reach::Reach;

/// Between fetches of the same keys: an issuer that rotates publishes new ones longer before it uses them.
const REFRESH: Duration = Duration::from_secs(5 * 60);
/// Before the first repetition of a fetch that failed; it doubles up to [`REFRESH`].
const RETRY: Duration = Duration::from_secs(5);
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
    fn learn(&mut self, result: Result<Answer, String>, now: Instant, jitter: f64) {
        let pause = match result {
            // That is no failure: the issuer is there, and tokens of its keys are not its any more.
            Ok(Answer::Withdrawn(trouble)) => {
                (self.keys, self.failures, self.trouble) = (None, 0, Some(trouble));
                REFRESH
            }
            Ok(Answer::Keys(keys)) => {
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

    /// What to say of them, where they are good for `maximum_age` after they came.
    fn told(&self, now: Instant, maximum_age: Duration) -> KeySet {
        let good = self.keys.as_ref().filter(|(_, since)| now.saturating_duration_since(*since) < maximum_age);
        KeySet { keys: good.map(|(keys, _)| Arc::clone(keys)), trouble: self.trouble.clone() }
    }

    /// When keys that are good now stop being so.
    fn end(&self, now: Instant, maximum_age: Duration) -> Option<Instant> {
        self.keys.as_ref().and_then(|(_, since)| since.checked_add(maximum_age)).filter(|end| *end > now)
    }
}

/// Of how many origins the keys are as they should be.
fn count(sets: &BTreeMap<Origin, KeySet>) -> KeyStates {
    let mut states = KeyStates::default();
    for set in sets.values() {
        match (&set.keys, &set.trouble) {
            (Some(_), None) => states.fresh += 1,
            (Some(_), Some(_)) => states.stale += 1,
            (None, _) => states.missing += 1,
        }
    }
    states
}

/// Keeps the keys that what is published asks for, until the drain starts. `told` gets what there is to know; keys that cannot be
/// fetched again are good for `maximum_age`.
pub async fn keep(
    mut published: watch::Receiver<Arc<Published>>,
    told: watch::Sender<Arc<KeySets>>,
    (fetcher, maximum_age): (Fetcher, Duration),
    metrics: Metrics,
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
        let sets = known.iter().map(|(origin, known)| (origin.clone(), known.told(now, maximum_age)));
        let sets: BTreeMap<_, _> = sets.collect();
        metrics.set_keys(count(&sets));
        told.send_if_modified(|before| {
            let differs = before.0 != sets;
            if differs {
                *before = Arc::new(KeySets(sets));
            }
            differs
        });
        let ends = known.values().filter_map(|known| known.end(now, maximum_age));
        let soonest = known.values().filter_map(|known| known.next).chain(ends).min();
        let pause = soonest.map_or(REFRESH, |next| next.saturating_duration_since(now));
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            Some(done) = fetches.join_next() => {
                let Ok((origin, result)) = done else { continue };
                if let Ok(Answer::Withdrawn(trouble)) | Err(trouble) = &result {
                    tracing::warn!(%origin, "there are no newer keys of tokens: {trouble}");
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
        const MAXIMUM_AGE: Duration = Duration::from_secs(24 * 3600);
        let start = Instant::now();
        let mut known = Known::new(start);
        assert_eq!(known.told(start, MAXIMUM_AGE), KeySet::default(), "never fetched");
        known.learn(Err("away".to_owned()), start, 1.0);
        assert_eq!(known.told(start, MAXIMUM_AGE), KeySet { keys: None, trouble: Some("away".to_owned()) });
        assert_eq!(known.next, Some(start + RETRY));
        known.learn(Ok(Answer::Keys("new".to_owned())), start, 1.0);
        let good = KeySet { keys: Some("new".into()), trouble: None };
        assert_eq!((known.told(start, MAXIMUM_AGE), known.next), (good.clone(), Some(start + REFRESH)));
        for failure in 0..40 {
            known.learn(Err("away".to_owned()), start, 1.0);
            assert_eq!(known.next, Some(start + RETRY * 2_u32.pow(failure.min(6)).min(60)), "{failure}");
        }
        let away = KeySet { trouble: Some("away".to_owned()), ..good };
        assert_eq!(known.told(start + MAXIMUM_AGE - RETRY, MAXIMUM_AGE), away);
        assert_eq!(known.end(start, MAXIMUM_AGE), Some(start + MAXIMUM_AGE));
        assert_eq!(known.told(start + MAXIMUM_AGE, MAXIMUM_AGE), KeySet { keys: None, ..away });
        assert_eq!(known.end(start + MAXIMUM_AGE, MAXIMUM_AGE), None);
        known.learn(Ok(Answer::Keys("newer".to_owned())), start + MAXIMUM_AGE, 0.5);
        assert_eq!(known.next, Some(start + MAXIMUM_AGE + REFRESH / 2));
    }

    #[test]
    fn keys_that_their_issuer_has_no_more_are_gone_at_once() {
        const AGE: Duration = Duration::from_secs(3600);
        let start = Instant::now();
        let mut known = Known::new(start);
        known.learn(Ok(Answer::Keys("old".to_owned())), start, 1.0);
        known.learn(Ok(Answer::Keys("rotated".to_owned())), start, 1.0);
        assert_eq!(known.told(start, AGE).keys.as_deref(), Some("rotated"), "of a rotation nothing old stays");
        known.learn(Ok(Answer::Withdrawn("has none".to_owned())), start, 1.0);
        let gone = KeySet { keys: None, trouble: Some("has none".to_owned()) };
        assert_eq!((known.told(start, AGE), known.next), (gone.clone(), Some(start + REFRESH)));
        known.learn(Err("away".to_owned()), start, 1.0);
        assert_eq!(known.told(start, AGE).keys, None, "nor does a failure bring them back");
        let fresh = KeySet { keys: Some("a".into()), trouble: None };
        let stale = KeySet { trouble: Some("away".to_owned()), ..fresh.clone() };
        let origin = |name: &str| Origin::Keys(name.to_owned());
        let sets = [(origin("a"), fresh), (origin("b"), stale), (origin("c"), gone), (origin("d"), KeySet::default())];
        assert_eq!(count(&sets.into()), KeyStates { fresh: 1, stale: 1, missing: 2 });
    }
}
