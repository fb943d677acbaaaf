//! When to renew a certificate and when to ask again after a refusal: pure arithmetic.

use std::time::{Duration, SystemTime};

use crate::limits::{CERTIFICATE_BACKOFF_MAXIMUM, CERTIFICATE_BACKOFF_MINIMUM, CERTIFICATE_SPREAD, Limits};

/// Share of the wait that is random, so that a fleet does not ask in step.
const JITTER: f64 = 0.2;

/// Shortest time between two renewals, whatever lifetime the authority grants.
const RENEW_MIN: Duration = Duration::from_secs(1);

/// How long to wait before renewing: half of what remains, less up to a fifth of that.
///
/// `chance` is uniform in `0.0..1.0`.
#[must_use]
pub fn renew_after(not_after: SystemTime, now: SystemTime, chance: f64) -> Duration {
    let remaining = not_after.duration_since(now).unwrap_or_default();
    shortened(remaining / 2, chance).max(RENEW_MIN)
}

/// How long to wait after the `failures`-th failed request in a row, counted from one.
///
/// `chance` is uniform in `0.0..1.0`.
#[must_use]
pub fn retry_after(failures: u32, chance: f64, limits: &Limits) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let wait = limits.duration(&CERTIFICATE_BACKOFF_MINIMUM).saturating_mul(1 << doublings);
    shortened(wait.min(limits.duration(&CERTIFICATE_BACKOFF_MAXIMUM)), chance)
}

/// How long to wait before a renewal that all workloads of the node want at once.
///
/// `chance` is uniform in `0.0..1.0`.
#[must_use]
pub fn spread(chance: f64, limits: &Limits) -> Duration {
    limits.duration(&CERTIFICATE_SPREAD).mul_f64(chance.clamp(0.0, 1.0))
}

fn shortened(wait: Duration, chance: f64) -> Duration {
    wait.mul_f64(1.0 - JITTER * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_at_half_life_less_jitter() {
        let now = SystemTime::UNIX_EPOCH;
        let day = Duration::from_secs(86_400);
        assert_eq!(renew_after(now + day, now, 0.0), day / 2);
        assert_eq!(renew_after(now + day, now, 1.0), (day / 2).mul_f64(0.8));
        assert_eq!(
            renew_after(now, now + day, 0.0),
            RENEW_MIN,
            "an expired certificate is renewed at once, not in a spin"
        );
    }

    #[test]
    fn retries_double_up_to_a_ceiling() {
        let first = CERTIFICATE_BACKOFF_MINIMUM.duration();
        assert_eq!(retry_after(1, 0.0, &Limits::default()), first);
        assert_eq!(retry_after(2, 0.0, &Limits::default()), first * 2);
        assert_eq!(retry_after(3, 0.0, &Limits::default()), first * 4);
        assert_eq!(retry_after(u32::MAX, 0.0, &Limits::default()), CERTIFICATE_BACKOFF_MAXIMUM.duration());
        assert!(retry_after(5, 0.9, &Limits::default()) < retry_after(5, 0.0, &Limits::default()));
    }
}
