//! How a pod that opts in fares with its capture, and when its owner should hear of that: of one that lacks it for long, and
//! of one that has it again and again, never for long. Time lacked adds up, and is forgiven slowly.

use std::time::{Duration, Instant};

use super::REMIND_EVERY;

/// How long a pod that opts in may lack its capture before it is said, all in all; starting one takes less.
pub(super) const COMPLAIN_AFTER: Duration = Duration::from_secs(10);
/// More is not remembered against it.
const MOST_DEBT: Duration = Duration::from_secs(2 * COMPLAIN_AFTER.as_secs());
/// Time with capture that makes up for time without: who lacks it a thirtieth of the time is told of in the end.
const FORGIVENESS: u32 = 30;
/// The longest time that a pod must have had its capture before that is said; it doubles each time that was said too soon.
const LONGEST_DOUBT: Duration = Duration::from_secs(10 * 60);

/// What there is to say now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It lacks its capture: for the first time, or still when others may have forgotten it.
    Lacks,
    /// It was said to lack its capture, and has it to stay.
    Has,
}

/// One pod's.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) uid: String,
    begun: Instant,
    /// When it was looked at last.
    seen: Instant,
    is_captured: bool,
    /// Since when it is so.
    since: Instant,
    /// Time lacked that is not forgiven.
    debt: Duration,
    /// How often it has come to lack its capture.
    times: u32,
    /// When it was said last that it lacks its capture, unless that was taken back.
    told: Option<Instant>,
    /// How often it was taken back.
    relieved: u32,
}

impl Record {
    /// The record of a pod that lacks its capture.
    pub(super) fn begin(uid: &str, now: Instant) -> Self {
        Self {
            uid: uid.to_owned(),
            begun: now,
            seen: now,
            is_captured: false,
            since: now,
            debt: Duration::ZERO,
            times: 1,
            told: None,
            relieved: 0,
        }
    }

    /// Takes note of how it is now.
    pub(super) fn note(&mut self, is_captured: bool, now: Instant) -> Option<Word> {
        let passed = now.saturating_duration_since(self.seen);
        self.seen = now;
        self.debt = match self.is_captured {
            true => self.debt.saturating_sub(passed / FORGIVENESS),
            false => (self.debt + passed).min(MOST_DEBT),
        };
        if is_captured != self.is_captured {
            (self.is_captured, self.since) = (is_captured, now);
            self.times = self.times.saturating_add(u32::from(!is_captured));
        }
        if is_captured {
            let doubt = COMPLAIN_AFTER.saturating_mul(1 << self.relieved.min(16)).min(LONGEST_DOUBT);
            if self.told.is_none() || now.saturating_duration_since(self.since) < doubt {
                return None;
            }
            (self.told, self.debt) = (None, Duration::ZERO);
            self.relieved = self.relieved.saturating_add(1);
            return Some(Word::Has);
        }
        let is_forgotten = self.told.is_none_or(|told| now.saturating_duration_since(told) >= REMIND_EVERY);
        if self.debt < COMPLAIN_AFTER || !is_forgotten {
            return None;
        }
        self.told = Some(now);
        Some(Word::Lacks)
    }

    /// It lacks its capture, and that was said.
    pub(super) fn is_told(&self) -> bool {
        !self.is_captured && self.told.is_some()
    }

    /// It has its capture, but nobody can rely on that yet.
    pub(super) fn is_unsteady(&self) -> bool {
        self.is_captured && self.told.is_some()
    }

    /// There is nothing to remember.
    pub(super) fn is_over(&self) -> bool {
        let is_trusted = self.relieved == 0 || self.seen.saturating_duration_since(self.since) >= REMIND_EVERY;
        self.is_captured && self.told.is_none() && self.debt.is_zero() && is_trusted
    }

    /// How often it came to lack its capture, where that is not just once.
    pub(super) fn often(&self) -> String {
        if self.times < 2 {
            return String::new();
        }
        let seconds = self.seen.saturating_duration_since(self.begun).as_secs();
        format!(" (it was captured in between, and not captured {} times in {seconds} s)", self.times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What is said when a pod lacks its capture for `lacking` and then has it for `having`, in turns, and when.
    fn said(lacking: Duration, having: Duration, during: Duration) -> Vec<(Duration, Word)> {
        let start = Instant::now();
        let mut record = Record::begin("u1", start);
        let (mut words, mut now) = (Vec::new(), start);
        while now < start + during {
            for (is_captured, lasts) in [(false, lacking), (true, having)] {
                // Looked at each second, as well as when it changes.
                let end = now + lasts;
                while now < end {
                    words.extend(record.note(is_captured, now).map(|word| (now - start, word)));
                    now = (now + SECOND).min(end);
                }
            }
        }
        words
    }

    #[test]
    fn what_lasts_is_said_once_and_again_when_it_may_be_forgotten() {
        let words = said(2 * REMIND_EVERY + 20 * SECOND, 20 * SECOND, SECOND);
        let lacks = |after| (COMPLAIN_AFTER + after, Word::Lacks);
        let has = (2 * REMIND_EVERY + 30 * SECOND, Word::Has);
        assert_eq!(words, [lacks(Duration::ZERO), lacks(REMIND_EVERY), lacks(2 * REMIND_EVERY), has]);
        assert_eq!(said(9 * SECOND, SECOND, SECOND), [], "it may just be starting");
    }

    #[test]
    fn a_capture_that_comes_and_goes_is_said_to_lack_and_not_each_time() {
        let minutes = |minutes: u32| 60 * SECOND * minutes;
        for (lacking, having) in [(1, 1), (5, 9), (1, 9), (9, 5), (1, 20)] {
            let words = said(SECOND * lacking, SECOND * having, minutes(25));
            assert_eq!(words[0].1, Word::Lacks, "{lacking} {having}");
            assert!(words[0].0 < minutes(12), "{lacking} {having}: {words:?}");
            if having < 10 {
                assert_eq!(words.len(), 1, "{lacking} {having}: {words:?}");
            }
        }
        // The worst there is: each time long enough to be told, and to be taken back.
        let words = said(10 * SECOND, 11 * SECOND, minutes(120));
        assert!(words.len() <= 6, "{words:?}");
        // What is hardly ever missing is not worth a word.
        assert_eq!(said(SECOND, minutes(1), minutes(120)), []);
    }

    #[test]
    fn a_record_ends_when_there_is_nothing_to_remember() {
        let start = Instant::now();
        let mut record = Record::begin("u1", start);
        record.note(true, start + SECOND);
        assert!(!record.is_over() && record.often().is_empty());
        record.note(true, start + SECOND * (1 + FORGIVENESS));
        assert!(record.is_over());
        record.note(false, start + SECOND * 40);
        record.note(false, start + SECOND * 50);
        assert!(record.is_told() && record.often().contains("2 times in 50 s"), "{}", record.often());
        record.note(true, start + SECOND * 51);
        assert!(record.is_unsteady());
        record.note(true, start + SECOND * 61);
        assert!(!record.is_unsteady() && !record.is_over(), "whether that was too soon, time will tell");
        record.note(true, start + SECOND * 51 + REMIND_EVERY);
        assert!(record.is_over());
    }
}
