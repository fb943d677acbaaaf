//! Gives memory back to the node after the mesh has grown: to make a large state takes more than the state itself, and the
//! allocator keeps what it took.

use std::time::Duration;

use fairway_core::io::drain::Drain;
use fairway_core::io::memory::Growth;
use tokio::time::{MissedTickBehavior, interval};

/// How often it is looked at. A state is made within a few seconds, in which memory that is free is wanted again at once.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Gives back what is free, whenever the process has grown, until the drain starts.
pub(crate) async fn give_back(mut drain: Drain) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks.tick().await;
    let mut growth = Growth::default();
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            _ = drain.started() => return,
        }
        // It walks through the whole heap, which takes milliseconds.
        let looked = tokio::task::spawn_blocking(move || {
            growth.give_back();
            growth
        });
        growth = looked.await.unwrap_or_default();
    }
}
