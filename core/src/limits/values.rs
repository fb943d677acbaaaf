//! The values of the limits in one process: the defaults, and what was set instead.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{ALL, Limit, RELATIONS};

/// The values in force. Built once at start and passed to whoever is bound by one; a clone is a pointer copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    values: Arc<[u64; ALL.len()]>,
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(|limit| limit.default)
    }
}

/// Two values that do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{smaller} must be at least {smaller_value}, and not more than {larger}, which is at most {larger_value}")]
#[expect(missing_docs, reason = "the message says it")]
pub struct Conflict {
    pub smaller: &'static str,
    pub smaller_value: u64,
    pub larger: &'static str,
    pub larger_value: u64,
}

impl Limits {
    fn of(value: impl Fn(&Limit) -> u64) -> Self {
        let mut values = [0; ALL.len()];
        for (place, limit) in values.iter_mut().zip(ALL) {
            *place = value(limit);
        }
        Self { values: Arc::new(values) }
    }

    /// The defaults, with the values that were set, by name, instead; each must be in its limit's range. A default that
    /// does not go together with what was set follows it.
    ///
    /// # Errors
    /// When two values that were set contradict each other, or a default cannot follow far enough.
    pub fn with(set: &BTreeMap<&'static str, u64>) -> Result<Self, Conflict> {
        // What each value may be: what was set is fixed, and narrows what is related to it.
        let range =
            |limit: &&Limit| set.get(limit.name).map_or((limit.minimum, limit.maximum), |value| (*value, *value));
        let (mut low, mut high): (Vec<u64>, Vec<u64>) = ALL.iter().map(range).unzip();
        let at = |values: &[u64], limit: &Limit| values.get(limit.index).copied().unwrap_or(limit.default);
        // Relations form chains, so as often as there are relations.
        for _ in RELATIONS {
            for (smaller, larger) in RELATIONS {
                let (lowest, highest) = (at(&low, smaller), at(&high, larger));
                if lowest > highest {
                    let (smaller, larger) = (smaller.name, larger.name);
                    return Err(Conflict { smaller, smaller_value: lowest, larger, larger_value: highest });
                }
                low.iter_mut().skip(larger.index).take(1).for_each(|value| *value = lowest.max(*value));
                high.iter_mut().skip(smaller.index).take(1).for_each(|value| *value = highest.min(*value));
            }
        }
        // The defaults keep the relations, and so they do once each is moved into its range.
        let nearest = |limit: &Limit| limit.default.max(at(&low, limit)).min(at(&high, limit));
        Ok(Self::of(nearest))
    }

    /// The same, with one value replaced by another that is known to be in range.
    #[must_use]
    pub fn and(&self, limit: &Limit, value: u64) -> Self {
        Self::of(|other| if other.index == limit.index { value } else { self.value(other) })
    }

    /// The value, in the limit's unit.
    #[must_use]
    pub fn value(&self, limit: &Limit) -> u64 {
        self.values.get(limit.index).copied().unwrap_or(limit.default)
    }

    /// The value as a duration; meant for limits in milliseconds.
    #[must_use]
    pub fn duration(&self, limit: &Limit) -> Duration {
        Duration::from_millis(self.value(limit))
    }

    /// The value as a size or number of things in memory.
    #[must_use]
    pub fn size(&self, limit: &Limit) -> usize {
        usize::try_from(self.value(limit)).unwrap_or(usize::MAX)
    }

    /// The value as a number that fits HTTP/2 settings.
    #[must_use]
    pub fn number(&self, limit: &Limit) -> u32 {
        u32::try_from(self.value(limit)).unwrap_or(u32::MAX)
    }

    /// Every limit with its value, in the order of [`ALL`].
    pub fn all(&self) -> impl Iterator<Item = (&'static Limit, u64)> {
        ALL.iter().map(|limit| (*limit, self.value(limit)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::{
        CONNECTION_WINDOW, FRAME_SIZE, MAX_CONCURRENT_STREAMS, PING_INTERVAL, POOL_MAX_STREAMS, RESET_STREAM_MEMORY,
        SMALL_FRAMES, STREAM_WINDOW,
    };

    #[test]
    fn places_are_those_of_the_table() {
        for (index, limit) in ALL.iter().enumerate() {
            assert_eq!(limit.index, index, "{}", limit.name);
            assert_eq!(Limits::default().value(limit), limit.default);
        }
        assert_eq!(Limits::with(&BTreeMap::new()), Ok(Limits::default()));
        let limits = Limits::default().and(&FRAME_SIZE, 20_000);
        assert_eq!((limits.number(&FRAME_SIZE), limits.value(&STREAM_WINDOW)), (20_000, STREAM_WINDOW.default));
    }

    #[test]
    fn defaults_follow_what_is_set() {
        let set = BTreeMap::from([(STREAM_WINDOW.name, 64 << 20), (POOL_MAX_STREAMS.name, 5_000)]);
        let limits = Limits::with(&set).unwrap();
        assert_eq!(limits.value(&CONNECTION_WINDOW), 64 << 20);
        assert_eq!(limits.value(&SMALL_FRAMES), 64 << 20);
        assert_eq!(limits.value(&MAX_CONCURRENT_STREAMS), 5_000);
        let set = BTreeMap::from([(CONNECTION_WINDOW.name, 1 << 20), (RESET_STREAM_MEMORY.name, 1_000)]);
        let limits = Limits::with(&set).unwrap();
        assert_eq!((limits.value(&STREAM_WINDOW), limits.value(&PING_INTERVAL)), (1 << 20, 1_000));
        let set = BTreeMap::from([(STREAM_WINDOW.name, 2 << 20), (CONNECTION_WINDOW.name, 1 << 20)]);
        let conflict = Limits::with(&set).unwrap_err().to_string();
        assert!(conflict.contains("http2_stream_window_size must be at least 2097152"), "{conflict}");
    }

    proptest! {
        /// Whatever is set within its range: all goes together and what was set is what is in force, or two limits are
        /// named.
        #[test]
        fn what_is_set_is_in_force_and_goes_together(
            picks in prop::collection::vec((0..ALL.len(), any::<u64>(), 0..64_u32), 0..6),
        ) {
            let value = |limit: &Limit, random: u64, magnitude: u32| {
                limit.minimum + (random >> magnitude) % (limit.maximum - limit.minimum + 1)
            };
            let set: BTreeMap<_, _> =
                picks.iter().map(|(index, random, magnitude)| (ALL[*index].name, value(ALL[*index], *random, *magnitude))).collect();
            if let Ok(limits) = Limits::with(&set) {
                for (limit, value) in limits.all() {
                    prop_assert!((limit.minimum..=limit.maximum).contains(&value), "{}", limit.name);
                    prop_assert!(set.get(limit.name).is_none_or(|wanted| *wanted == value), "{}", limit.name);
                }
                for (smaller, larger) in RELATIONS {
                    prop_assert!(limits.value(smaller) <= limits.value(larger), "{} {}", smaller.name, larger.name);
                }
            }
        }
    }
}
