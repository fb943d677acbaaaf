//! Waits for a time of day, which certificates count in.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};

use crate::limits::{self, Limits};

/// Waits for `wait`, by whichever clock is faster. The monotonic one stands still while the machine is suspended, and
/// certificates do not; the wall clock may be set back.
pub(crate) async fn pass(wait: Duration, now: fn() -> SystemTime, limits: &Limits) {
    let (started, end) = (now(), Instant::now() + wait);
    let slice = limits.duration(&limits::CERTIFICATE_CLOCK_CHECK);
    while Instant::now() < end && now().duration_since(started).unwrap_or_default() < wait {
        sleep_until(end.min(Instant::now() + slice)).await;
    }
}

/// Waits until `time`; returns at once when it is past.
pub(crate) async fn reach(time: SystemTime, now: fn() -> SystemTime, limits: &Limits) {
    pass(time.duration_since(now()).unwrap_or_default(), now, limits).await;
}
