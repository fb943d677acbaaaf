//! Growing pauses between restarts.

use std::time::Duration;

/// First pause: a single crash is repaired at once.
const FIRST: Duration = Duration::from_millis(100);
/// Longest pause: a lab is watched by somebody who wants to see the repair.
const LONGEST: Duration = Duration::from_secs(5);
/// A run this long counts as healthy, and the pauses start anew.
const HEALTHY: Duration = Duration::from_secs(10);

/// The pause before the next restart.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The pause after a run that lasted `run`.
    pub(crate) fn after_run(&mut self, run: Duration) -> Duration {
        if run >= HEALTHY {
            self.next = FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_anew_after_a_healthy_run() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..8).map(|_| backoff.after_run(Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.after_run(HEALTHY), FIRST);
    }
}
