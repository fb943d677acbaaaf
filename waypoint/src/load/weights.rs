//! Who gets how much: weights of endpoints, which new ones grow into. The time is an argument.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Assignment, UNIT, WarmUp};

/// Endpoints with their weights, none of which is 0.
pub(super) type Weighed = Vec<(SocketAddr, u64)>;

/// Since when endpoints are there.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    known: HashMap<SocketAddr, Instant>,
    /// Of these.
    assignment: Option<Arc<Assignment>>,
    /// When the last of them came.
    last: Option<Instant>,
}

impl Arrivals {
    /// Takes down who is new, and forgets who is gone.
    pub(super) fn meet(&mut self, assignment: &Arc<Assignment>, now: Instant) {
        if self.assignment.as_ref().is_some_and(|known| Arc::ptr_eq(known, assignment)) {
            return;
        }
        let before = std::mem::take(&mut self.known);
        for endpoint in assignment.priorities.iter().flatten() {
            let since = before.get(endpoint).copied().unwrap_or(now);
            self.known.insert(*endpoint, since);
            self.last = self.last.max(Some(since));
        }
        self.assignment = Some(Arc::clone(assignment));
    }

    /// Whether anybody asks.
    pub(super) fn is_kept(&self) -> bool {
        self.assignment.is_some()
    }

    /// Whether anybody is new.
    pub(super) fn is_anybody_new(&self, policy: &WarmUp, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) < policy.window)
    }

    /// What of its weight an endpoint gets, at least something.
    pub(super) fn warmed(&self, policy: &WarmUp, endpoint: &SocketAddr, weight: u64, now: Instant) -> u64 {
        let age = self.known.get(endpoint).map(|since| now.saturating_duration_since(*since));
        part(policy, age.unwrap_or(policy.window), weight)
    }
}

/// What of its weight an endpoint of this age gets, as Envoy reckons it: time counts from its first second.
fn part(policy: &WarmUp, age: Duration, weight: u64) -> u64 {
    if age >= policy.window {
        return weight;
    }
    let gone = age.as_secs_f64().max(1.0) / policy.window.as_secs_f64();
    let share = gone.powf(1.0 / policy.aggression).max(policy.least_percent / 100.0).min(1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a number is within its type, and need not be exact"
    )]
    let part = (weight as f64 * share) as u64;
    part.max(1)
}

/// The weight of an endpoint, of which nothing else is known.
pub(super) fn given(assignment: &Assignment, priority: usize, index: usize) -> u64 {
    assignment.weights(priority).and_then(|weights| weights.get(index)).copied().unwrap_or(UNIT)
}

/// The sum of all weights, in a form that can be drawn from.
pub(super) fn total(weighed: &Weighed) -> usize {
    let total = weighed.iter().fold(0_u64, |sum, (_, weight)| sum.saturating_add(*weight));
    usize::try_from(total).unwrap_or(usize::MAX)
}

/// The one that a place below the sum of all weights falls on.
pub(super) fn at(weighed: &Weighed, place: usize) -> Option<(SocketAddr, u64)> {
    let mut place = u64::try_from(place).unwrap_or(u64::MAX);
    let found = weighed.iter().find(|(_, weight)| match place.checked_sub(*weight) {
        Some(rest) => {
            place = rest;
            false
        }
        None => true,
    });
    found.or(weighed.last()).copied()
}

/// The place of turn number `turn` below `total`: by the golden ratio, so that any turns one after the other are spread over all
/// of it, however weights change in between.
pub(super) fn spread(turn: usize, total: usize) -> usize {
    const RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
    let turn = u64::try_from(turn).unwrap_or(u64::MAX).wrapping_mul(RATIO);
    let place = (u128::from(turn) * u128::try_from(total).unwrap_or(u128::MAX >> 64)) >> 64;
    usize::try_from(place).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[test]
    fn new_endpoints_grow_into_their_weight() {
        let policy = |aggression, least_percent| WarmUp { window: Duration::from_secs(100), aggression, least_percent };
        // Of 1000, after so many seconds.
        let rows = [
            (policy(1.0, 10.0), 0, 100),
            (policy(1.0, 10.0), 10, 100),
            (policy(1.0, 10.0), 50, 500),
            (policy(1.0, 10.0), 99, 990),
            (policy(1.0, 10.0), 100, 1000),
            (policy(1.0, 10.0), 100_000, 1000),
            (policy(1.0, 0.0), 0, 10),
            (policy(2.0, 10.0), 25, 500),
            (policy(0.5, 10.0), 50, 250),
            (policy(1.0, 100.0), 0, 1000),
        ];
        for (policy, seconds, expected) in rows {
            assert_eq!(part(&policy, Duration::from_secs(seconds), 1000), expected, "{policy:?} after {seconds} s");
        }
        assert_eq!(part(&policy(1.0, 0.0), Duration::ZERO, 1), 1, "never nothing");
    }

    #[test]
    fn who_stays_is_not_new_again() {
        let all = |ports: &[u16]| {
            let priorities = vec![ports.iter().map(|port| endpoint(*port)).collect()];
            Arc::new(Assignment { priorities, weights: Vec::new() })
        };
        let policy = WarmUp { window: Duration::from_secs(100), aggression: 1.0, least_percent: 0.0 };
        let (mut arrivals, start) = (Arrivals::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(!arrivals.is_kept());
        arrivals.meet(&all(&[1, 2]), start);
        assert!(arrivals.is_kept() && arrivals.is_anybody_new(&policy, after(99)));
        assert!(!arrivals.is_anybody_new(&policy, after(100)));
        arrivals.meet(&all(&[1, 3]), after(200));
        let weights =
            |arrivals: &Arrivals| [1, 2, 3].map(|port| arrivals.warmed(&policy, &endpoint(port), 100, after(250)));
        assert_eq!(weights(&arrivals), [100, 100, 50], "who is not known is not new");
        arrivals.meet(&all(&[1, 2, 3]), after(250));
        assert_eq!(weights(&arrivals), [100, 1, 50], "who comes again is");
    }

    #[test]
    fn turns_are_spread_by_weight() {
        let weighed: Weighed = vec![(endpoint(1), 7), (endpoint(2), 2), (endpoint(3), 1)];
        assert_eq!(total(&weighed), 10);
        let at = |place| at(&weighed, place).unwrap().0.port();
        assert_eq!((0..10).map(at).collect::<Vec<_>>(), [1, 1, 1, 1, 1, 1, 1, 2, 2, 3]);
        for start in [0, 1, 1_000_000, usize::MAX - 50] {
            let mut counts = [0; 4];
            for turn in 0..100 {
                counts[usize::from(at(spread(usize::wrapping_add(start, turn), 10)))] += 1;
            }
            for (count, expected) in counts.iter().zip([0_i32, 70, 20, 10]) {
                assert!((count - expected).abs() <= 3, "{start}: {counts:?}");
            }
        }
    }
}
