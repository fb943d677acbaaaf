//! Gives memory back to the node after the mesh has grown: to make a large state takes more than the state itself, and the
//! allocator keeps what it took.

use std::time::Duration;

use fairway_core::io::drain::Drain;
use fairway_core::io::memory::return_free_pages;
use fairway_core::io::metrics::process::resident_memory;
use tokio::time::{MissedTickBehavior, interval};

/// How often it is looked at. A state is made within a few seconds, in which memory that is free is wanted again at once.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Growth since memory was last given back that is worth to walk through the whole heap, which takes milliseconds.
const WORTH_IT: f64 = 1.03;

/// Gives back what is free, whenever the process has grown, until the drain starts.
pub(crate) async fn give_back(mut drain: Drain) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks.tick().await;
    let mut before = 0.0;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            _ = drain.started() => return,
        }
        if resident_memory().is_some_and(|now| has_grown(before, now)) {
            // Allocations wait meanwhile; what streams have to be sent is allocated already.
            let _ = tokio::task::spawn_blocking(return_free_pages).await;
            before = resident_memory().unwrap_or_default();
        }
    }
}

fn has_grown(before: f64, now: f64) -> bool {
    now > before * WORTH_IT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_for_each_growth() {
        for (before, now, expected) in [(0.0, 1e7, true), (1e8, 1.02e8, false), (1e8, 1.04e8, true), (1e8, 5e7, false)]
        {
            assert_eq!(has_grown(before, now), expected, "{before} {now}");
        }
    }
}
