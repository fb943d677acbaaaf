//! What was used of late, so that it need not be looked up again for every request of a connection.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many are kept: a few answers of each of a few endpoints or routes.
const MOST: usize = 32;

/// Looked up by key, and when each was used last.
pub(super) struct Recent<Key, Found>(Mutex<Vec<(Key, Instant, Found)>>);

impl<Key, Found> Default for Recent<Key, Found> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Key, Found> Recent<Key, Found> {
    /// Has `then` use what the key stands for that `is_meant`, or else what is looked up, with its key. What was not used for as long as
    /// `fresh` is looked up again, as it may have expired.
    pub(super) fn with(
        &self,
        is_meant: impl Fn(&Key) -> bool,
        (now, fresh): (Instant, Duration),
        look_up: impl FnOnce() -> (Key, Found),
        then: impl FnOnce(&Found),
    ) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|(known, used, _)| !is_meant(known) || now.saturating_duration_since(*used) < fresh);
        let known = recent.iter().position(|(known, ..)| is_meant(known)).unwrap_or_else(|| {
            // The one that was not used for the longest time makes room: those in use stay, however old they are.
            let oldest = recent.iter().enumerate().min_by_key(|(_, (_, used, _))| *used).map(|(at, _)| at);
            if let Some(oldest) = oldest.filter(|_| recent.len() >= MOST) {
                recent.remove(oldest);
            }
            let (key, found) = look_up();
            recent.push((key, now, found));
            recent.len() - 1
        });
        let Some((_, used, found)) = recent.get_mut(known) else { return };
        *used = now;
        then(found);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_was_used_of_late_is_not_looked_up_again() {
        let (recent, looked_up) = (Recent::default(), Cell::new(0));
        let (start, fresh) = (Instant::now(), Duration::from_secs(10));
        let used = |key: usize, now: Instant| {
            let look_up = || {
                looked_up.set(looked_up.get() + 1);
                (key, key)
            };
            recent.with(|known| *known == key, (now, fresh), look_up, |found| assert_eq!(*found, key));
            looked_up.take()
        };
        assert_eq!(used(0, start), 1);
        assert_eq!(used(0, start + fresh / 2), 0);
        assert_eq!(used(0, start + fresh), 0, "it was used in between");
        assert_eq!(used(0, start + fresh * 2), 1, "it may have expired");
        for key in 1..MOST {
            assert_eq!(used(key, start + fresh * 2), 1);
        }
        let later = start + fresh * 2 + fresh / 2;
        assert_eq!(used(0, later), 0, "there is room for all of them");
        assert_eq!(used(MOST, later), 1);
        assert_eq!(used(0, later), 0, "the first is in use");
        assert_eq!(used(MOST, later), 0);
        assert_eq!(used(1, later), 1, "the one that was not used for the longest time made room");
    }
}
