//! The measured part of a load: which operations count, and what the watched processes used meanwhile.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Outcome;
use crate::histogram::Histogram;
use crate::procfs;

/// Before: warming up, 0.
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// Shared by the workers of a load.
#[derive(Debug, Default)]
pub(super) struct Window {
    phase: AtomicU8,
    tally: Mutex<Tally>,
}

/// What the workers counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) operations: u64,
    pub(super) failures: u64,
    pub(super) first_failure: Option<String>,
    pub(super) latencies: Histogram,
}

impl Tally {
    pub(super) fn failed(&mut self, error: impl std::fmt::Display) {
        self.failures += 1;
        self.first_failure.get_or_insert_with(|| error.to_string());
    }

    /// Counts an operation when it is inside the window.
    pub(super) fn done(&mut self, window: &Window, started: Instant) {
        if window.is_measuring() {
            self.operations += 1;
            self.latencies.record(started.elapsed());
        }
    }
}

/// Both ends of the measured part.
#[derive(Debug)]
pub(super) struct Span {
    started: Instant,
    cpu: Vec<Duration>,
}

impl Window {
    pub(super) fn is_measuring(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == MEASURING
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == OVER
    }

    pub(super) fn open(&self, watched: &[i32]) -> Result<Span> {
        let span = Span { cpu: cpu_times(watched)?, started: Instant::now() };
        self.phase.store(MEASURING, Ordering::Relaxed);
        Ok(span)
    }

    /// Ends the measured part; bytes, operations and latencies are added when the workers have ended.
    pub(super) fn close(&self, span: Span, watched: &[i32]) -> Result<Outcome> {
        self.phase.store(OVER, Ordering::Relaxed);
        let seconds = span.started.elapsed().as_secs_f64();
        let used = cpu_times(watched)?;
        let cpu_seconds = used.iter().zip(&span.cpu).map(|(end, start)| (*end - *start).as_secs_f64()).collect();
        Ok(Outcome { seconds, cpu_seconds, ..Outcome::default() })
    }

    /// Ends the load early, so that workers do not outlive an error.
    pub(super) fn abandon(&self) {
        self.phase.store(OVER, Ordering::Relaxed);
    }

    /// Adds what one worker counted.
    pub(super) fn add(&self, own: &Tally) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.operations += own.operations;
        tally.failures += own.failures;
        if tally.first_failure.is_none() {
            tally.first_failure.clone_from(&own.first_failure);
        }
        tally.latencies.merge(&own.latencies);
    }

    pub(super) fn report(&self, outcome: &mut Outcome) {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone();
        outcome.operations = tally.operations;
        outcome.failures = tally.failures;
        outcome.first_failure = tally.first_failure;
        outcome.latency = tally.latencies.percentiles();
    }
}

fn cpu_times(watched: &[i32]) -> Result<Vec<Duration>> {
    watched.iter().map(|pid| procfs::cpu_time(*pid)).collect()
}
