//! Gives memory back to the node after the start, and after many connections have gone; refuses before there is none.
//!
//! The allocator keeps what is freed for the next allocation, and can return by itself only what is free at the end of
//! a heap. After thousands of connections that is next to nothing: their last survivor holds it all. A node's memory
//! belongs to its applications, so the proxy asks the allocator to return every free page once a crowd has left.

pub mod pressure;

use std::time::Duration;

use fairway_core::io::memory::{let_go, return_free_pages};
use fairway_core::io::metrics::Metrics;
use fairway_core::limits::{self, Limits};
use tokio::time::{MissedTickBehavior, interval};

use self::pressure::{Group, Pressure};
use crate::telemetry::ConnectionTable;

/// How often the number of connections is looked at. Coarse: memory that is wanted again at once is better kept.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Looks from a crowd's leaving until the tunnels it needed have gone, too: a twentieth of the pool's idle time.
const TUNNELS_TAKE: u32 = 3;

/// Follows how much memory this process has and may have; what is free in it is given back before anybody is refused.
pub async fn watch(pressure: Pressure, limits: Limits, metrics: Metrics) {
    pressure.follow(Group::ours(), limits, metrics, return_free_pages).await;
}

/// Watches the open connections; a part of memory is returned whenever a crowd of them has left.
pub async fn give_back(connections: ConnectionTable, limits: Limits) {
    let mut crowd = Crowd::of(limits.size(&limits::MEMORY_RETURN_CROWD));
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut again = None;
    // The first is at once.
    looks.tick().await;
    looks.tick().await;
    let_go();
    loop {
        looks.tick().await;
        if crowd.has_left(connections.len()) {
            return_free_pages();
            again = Some(TUNNELS_TAKE);
        }
        again = match again {
            Some(0) => {
                return_free_pages();
                let_go();
                None
            }
            looks => looks.map(|looks| looks - 1),
        };
    }
}

/// The most connections since memory was last given back.
#[derive(Debug)]
struct Crowd {
    /// How many it takes.
    least: usize,
    peak: usize,
}

impl Crowd {
    const fn of(least: usize) -> Self {
        Self { least, peak: 0 }
    }

    /// Whether enough have left to be worth the walk through the heap, now that so many are open.
    fn has_left(&mut self, open: usize) -> bool {
        self.peak = self.peak.max(open);
        let left = self.peak - open >= self.least && open <= self.peak / 2;
        if left {
            self.peak = open;
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_that_leaves_is_noticed_once() {
        let many = 1_000;
        let mut crowd = Crowd::of(many);
        let looks = [0, many / 2, 0, many * 4, many * 3, many * 2, many * 2, 10, 10, many - 1, 0, many + 10, 10];
        let left: Vec<usize> =
            looks.iter().enumerate().filter(|(_, open)| crowd.has_left(**open)).map(|(look, _)| look).collect();
        assert_eq!(left, [5, 7, 12]);
    }

    /// Blocks that are freed while the last one is held stay resident until the allocator is asked.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn free_pages_go_back_to_the_node() {
        crate::testing::alone("memory::tests::free_pages_go_back_to_the_node", || {
            let mut blocks: Vec<Vec<u8>> = (0..20_000).map(|_| vec![1; 1_000]).collect();
            let last = blocks.pop();
            drop(blocks);
            let before = crate::testing::resident();
            return_free_pages();
            let after = crate::testing::resident();
            assert!(after + 15_000_000 < before, "{before} bytes became {after}");
            drop(last);
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn code_that_is_let_go_still_runs() {
        crate::testing::alone("memory::tests::code_that_is_let_go_still_runs", || {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let text = format!("{:?}", maps.lines().collect::<Vec<_>>());
            let before = crate::testing::resident();
            let_go();
            let after = crate::testing::resident();
            assert!(after + (1 << 20) < before, "{before} bytes became {after}");
            assert_eq!(format!("{:?}", maps.lines().collect::<Vec<_>>()), text);
        });
    }
}
