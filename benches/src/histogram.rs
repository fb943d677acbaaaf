//! Latencies in logarithmic buckets: fixed memory, and an error far below what rounds differ by.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Buckets per power of two, as a power of two: the error is at most 1/512, a fifth of a percent.
const PRECISION_BITS: u32 = 9;
const SUB_BUCKETS: u64 = 1 << PRECISION_BITS;
/// Powers of two above the first; 2^36 ns are 68 s, longer than any run.
const OCTAVES: usize = 27;

/// Counts of latencies.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

/// What is reported of a histogram, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = usize::try_from(SUB_BUCKETS).unwrap_or(0) * (OCTAVES + 1);
        Self { counts: vec![0; buckets], total: 0 }
    }
}

impl Histogram {
    /// Counts one latency; what is longer than the longest bucket counts there.
    pub(crate) fn record(&mut self, latency: Duration) {
        let index = bucket(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX)).min(self.counts.len() - 1);
        if let Some(count) = self.counts.get_mut(index) {
            *count += 1;
            self.total += 1;
        }
    }

    /// Adds what another worker counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, other)| *own += other);
        self.total += other.total;
    }

    /// The percentiles that are reported; none when nothing was counted.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        Some(Percentiles { p50: self.at(500)?, p99: self.at(990)?, p999: self.at(999)? })
    }

    /// Nanoseconds that `per_mille` of the latencies do not exceed, to the bucket's precision.
    fn at(&self, per_mille: u64) -> Option<u64> {
        let rank = self.total.checked_mul(per_mille)?.div_ceil(1000).max(1);
        let mut seen = 0;
        let index = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(middle(index))
    }
}

fn bucket(nanoseconds: u64) -> usize {
    let octave = (u64::BITS - nanoseconds.leading_zeros()).saturating_sub(PRECISION_BITS + 1);
    // Below 2 * SUB_BUCKETS the value is its own bucket; above, each octave has SUB_BUCKETS more.
    let index = u64::from(octave) * SUB_BUCKETS + (nanoseconds >> octave);
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// The middle of a bucket.
fn middle(index: usize) -> u64 {
    let index = u64::try_from(index).unwrap_or(u64::MAX);
    let octave = (index / SUB_BUCKETS).saturating_sub(1);
    let lowest = (index - octave * SUB_BUCKETS) << octave;
    lowest + ((1 << octave) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_precise_over_the_whole_range() {
        for nanoseconds in [0, 1, 511, 512, 1023, 1024, 1025, 40_000, 123_456, 987_654_321, 60_000_000_000] {
            let back = middle(bucket(nanoseconds));
            assert!(back.abs_diff(nanoseconds) * 512 <= nanoseconds, "{nanoseconds} became {back}");
        }
    }

    #[test]
    fn percentiles_of_a_known_distribution() {
        let mut histogram = Histogram::default();
        let mut other = Histogram::default();
        for value in 1..=500 {
            histogram.record(Duration::from_nanos(value));
            other.record(Duration::from_nanos(500 + value));
        }
        histogram.merge(&other);
        assert_eq!(histogram.percentiles(), Some(Percentiles { p50: 500, p99: 990, p999: 999 }));
    }

    #[test]
    fn nothing_recorded_is_nothing_reported() {
        assert_eq!(Histogram::default().percentiles(), None);
    }

    #[test]
    fn a_latency_beyond_the_range_is_not_lost() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::from_secs(10_000));
        assert!(histogram.percentiles().unwrap().p50 > 60_000_000_000);
    }
}
