//! Connections that have ended, numbered, for whoever watches them; while nobody does, none is kept.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Who has not looked for so long watches no more: longer than a slow port-forward takes, and short enough that what is kept for
/// nobody is gone soon.
const ATTENTION: Duration = Duration::from_secs(10);

/// The latest that ended, each under the next number.
#[derive(Debug)]
pub(super) struct Ended<T> {
    kept: VecDeque<T>,
    /// Number of the last one; none has 0.
    last: u64,
    most: usize,
    /// Somebody watches until then.
    watched: Option<Instant>,
}

impl<T> Default for Ended<T> {
    fn default() -> Self {
        Self { kept: VecDeque::new(), last: 0, most: 0, watched: None }
    }
}

impl<T> Ended<T> {
    /// Whether anything has to be taken note of: what every connection costs.
    pub(super) fn is_watched(&self) -> bool {
        self.watched.is_some()
    }

    /// One has ended `now`. Gives back what is forgotten for that, to be dropped where nobody waits.
    pub(super) fn add(&mut self, one: T, now: Instant) -> Option<VecDeque<T>> {
        if self.watched.is_none_or(|until| now > until) {
            self.watched = None;
            return Some(std::mem::take(&mut self.kept));
        }
        self.last += 1;
        self.kept.push_back(one);
        let forgotten = self.kept.len().saturating_sub(self.most);
        (forgotten > 0).then(|| self.kept.drain(..forgotten).collect())
    }

    /// Somebody looks `now`, has seen all up to number `seen`, and may have `most` kept until he looks again: what has ended since.
    /// A number that was never given is another process's, and all is new then.
    pub(super) fn look(&mut self, seen: u64, most: usize, now: Instant) -> Vec<(u64, T)>
    where
        T: Clone,
    {
        self.watched = Some(now + ATTENTION);
        self.most = most;
        let seen = if seen > self.last { 0 } else { seen };
        let first = self.last - u64::try_from(self.kept.len()).unwrap_or_default();
        (first + 1..)
            .zip(&self.kept)
            .filter(|(number, _)| *number > seen)
            .map(|(number, one)| (number, one.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_watches_sees_each_once() {
        let now = Instant::now();
        let mut ended = Ended::default();
        assert!(!ended.is_watched(), "nothing is taken note of while nobody looks");
        assert_eq!(ended.look(0, 10, now), []);
        assert!(ended.is_watched());
        ended.add("a", now);
        ended.add("b", now);
        assert_eq!(ended.look(0, 10, now), [(1, "a"), (2, "b")]);
        ended.add("c", now);
        assert_eq!(ended.look(2, 10, now), [(3, "c")]);
        assert_eq!(ended.look(3, 10, now), []);
        assert_eq!(ended.look(70, 10, now).len(), 3, "the number is of the process before this one");
    }

    #[test]
    fn the_oldest_are_forgotten_and_numbers_tell() {
        let now = Instant::now();
        let mut ended = Ended::default();
        ended.look(0, 2, now);
        let forgotten: Vec<_> = (0..4).filter_map(|one| ended.add(one, now)).flatten().collect();
        assert_eq!(forgotten, [0, 1]);
        assert_eq!(ended.look(1, 2, now), [(3, 2), (4, 3)], "number 2 is missing");
        // None is kept where the limit says so.
        ended.look(4, 0, now);
        ended.add(4, now);
        assert_eq!(ended.look(4, 0, now), []);
    }

    #[test]
    fn nothing_is_kept_for_who_has_gone() {
        let (now, mut ended) = (Instant::now(), Ended::default());
        ended.look(0, 10, now);
        ended.add("a", now + ATTENTION);
        assert!(ended.is_watched());
        let gone = ended.add("b", now + ATTENTION + Duration::from_millis(1));
        assert_eq!((gone.map(Vec::from), ended.is_watched()), (Some(vec!["a"]), false));
        // Numbers go on for who comes back.
        ended.look(1, 10, now);
        ended.add("c", now);
        assert_eq!(ended.look(1, 10, now), [(2, "c")]);
    }
}
