//! How loudly the end of an authority is to be announced; pure.

use time::{Duration, OffsetDateTime};

/// The longest time before the end that it is worth a warning, and the share of the lifetime that it is at most: a
/// short-lived intermediate that is renewed in time gives none.
const SOON: (Duration, i32) = (Duration::days(30), 5);
/// The same for an error.
const VERY_SOON: (Duration, i32) = (Duration::days(7), 20);
/// What has been said is said again after this time.
const AGAIN: Duration = Duration::days(1);

/// How near the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    Soon,
    VerySoon,
    Over,
}

/// How near the end of something is that holds from `from` to `to`.
fn urgency(from: OffsetDateTime, to: OffsetDateTime, now: OffsetDateTime) -> Option<Urgency> {
    let is_within = |(longest, share): (Duration, i32)| to - now <= longest.min((to - from) / share);
    if now >= to {
        Some(Urgency::Over)
    } else if is_within(VERY_SOON) {
        Some(Urgency::VerySoon)
    } else if is_within(SOON) {
        Some(Urgency::Soon)
    } else {
        None
    }
}

/// What has been said of the end, so that it is neither missed nor said at every look.
#[derive(Debug, Default)]
pub(super) struct Announced {
    last: Option<(Urgency, OffsetDateTime)>,
}

impl Announced {
    /// What is to be said now of something that holds from `from` to `to`.
    pub(super) fn next(&mut self, from: OffsetDateTime, to: OffsetDateTime, now: OffsetDateTime) -> Option<Urgency> {
        let Some(urgency) = urgency(from, to, now) else {
            self.last = None;
            return None;
        };
        let is_said = self.last.is_some_and(|(said, at)| said == urgency && (now - at).abs() < AGAIN);
        if is_said {
            return None;
        }
        self.last = Some((urgency, now));
        Some(urgency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_the_end_the_louder() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000);
        for (lifetime, left, expected) in [
            (3650, 31, None),
            (3650, 30, Some(Urgency::Soon)),
            (3650, 7, Some(Urgency::VerySoon)),
            (3650, 0, Some(Urgency::Over)),
            (3650, -1, Some(Urgency::Over)),
            // An intermediate of 90 days that is renewed 30 days before its end.
            (90, 30, None),
            (90, 18, Some(Urgency::Soon)),
            (90, 4, Some(Urgency::VerySoon)),
        ] {
            let to = now + Duration::days(left);
            assert_eq!(urgency(to - Duration::days(lifetime), to, now), expected, "{left} of {lifetime} days");
        }
    }

    #[test]
    fn it_is_said_once_a_day_and_when_it_gets_worse() {
        let from = OffsetDateTime::UNIX_EPOCH;
        let to = from + Duration::days(3650);
        let mut announced = Announced::default();
        let mut at = |left: Duration| announced.next(from, to, to - left);
        assert_eq!(at(Duration::days(100)), None);
        assert_eq!(at(Duration::days(29)), Some(Urgency::Soon));
        assert_eq!(at(Duration::days(29) - Duration::hours(23)), None);
        assert_eq!(at(Duration::days(28)), Some(Urgency::Soon));
        assert_eq!(at(Duration::days(7)), Some(Urgency::VerySoon));
        assert_eq!(at(Duration::ZERO), Some(Urgency::Over));
        // The clock jumped, or it was renewed.
        assert_eq!(at(Duration::days(100)), None);
        assert_eq!(at(Duration::days(6)), Some(Urgency::VerySoon));
    }
}
