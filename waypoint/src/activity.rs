//! When the last byte was carried on a connection, and the end of one on which none is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fairway_core::reason::Reason;
use tokio::time::{Instant, sleep_until};

use crate::failure::Failure;

/// When the last byte was carried.
#[derive(Debug)]
pub struct Activity {
    started: Instant,
    /// Milliseconds after the start.
    last: AtomicU64,
}

impl Activity {
    /// None was yet.
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now(), last: AtomicU64::new(0) }
    }

    /// One was now.
    pub fn note(&self) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    /// Resolves once no byte has been carried for so long; never where it may last.
    pub async fn over(&self, longest: Option<Duration>) -> Failure {
        let Some(longest) = longest else { return std::future::pending().await };
        loop {
            let end = self.started + Duration::from_millis(self.last.load(Ordering::Relaxed)) + longest;
            if end <= Instant::now() {
                return Failure::new(Reason::IdleTimeout, format!("no byte for {longest:?}"));
            }
            sleep_until(end).await;
        }
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_byte_on() {
        let activity = Activity::new();
        let mut over = pin!(activity.over(Some(Duration::from_secs(10))));
        assert!(poll!(&mut over).is_pending());
        advance(Duration::from_secs(9)).await;
        activity.note();
        assert!(poll!(&mut over).is_pending());
        advance(Duration::from_millis(9_900)).await;
        assert!(poll!(&mut over).is_pending());
        advance(Duration::from_millis(100)).await;
        assert_eq!(over.await.reason, Reason::IdleTimeout);
        let mut never = pin!(activity.over(None));
        advance(Duration::from_secs(1 << 20)).await;
        assert!(poll!(&mut never).is_pending());
    }
}
