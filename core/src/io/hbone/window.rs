//! How much a tunnel's peer may have on its way to us: little at first, more when that is what slows it down.
//!
//! A window is memory we have promised. Most tunnels never need more than the first one. Where much is read during a
//! round trip, be the path long or the transfer fast, a larger one saves waiting and wake-ups. All tunnels of the node
//! together get no more than a [`ReceiveBudget`], so that many slow readers cannot take the node proxy down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::probe::Probe;
use crate::io::metrics::Metrics;
use crate::limits::{self, Limits};

const PROMISED: &str = "fairway_tunnel_window_bytes";
const BUDGET: &str = "fairway_tunnel_window_budget_bytes";

/// How many bytes the peers of all tunnels may have on their way to us. Clones share it.
#[derive(Clone, Debug)]
pub struct ReceiveBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    bytes: u64,
    promised: AtomicU64,
}

impl ReceiveBudget {
    /// As large as these limits say.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self(Arc::new(Budget { bytes: limits.value(&limits::RECEIVE_BUDGET), promised: AtomicU64::new(0) }))
    }

    /// Bytes promised to peers now. More than the budget where even the least windows of all tunnels are.
    #[must_use]
    pub fn promised(&self) -> u64 {
        self.0.promised.load(Ordering::Relaxed)
    }

    /// Shows what is promised, next to the budget, in `metrics`.
    pub fn register(&self, metrics: &Metrics) {
        metrics.describe(PROMISED, "Bytes that peers may have on their way through tunnels before they are read.");
        metrics.describe(BUDGET, "Bytes that windows of tunnels may grow to, all together.");
        let (promised, budget) = (metrics.gauge(PROMISED, &[]), metrics.gauge(BUDGET, &[]));
        let this = self.clone();
        metrics.before_render(move || {
            promised.set(this.promised() as f64);
            budget.set(this.0.bytes as f64);
        });
    }

    /// Promises `more` bytes, if they are there.
    fn take(&self, more: u64) -> bool {
        let fits = |promised: u64| promised.checked_add(more).filter(|sum| *sum <= self.0.bytes);
        self.0.promised.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }
}

impl Default for ReceiveBudget {
    fn default() -> Self {
        Self::new(&Limits::default())
    }
}

/// Counts the bytes of a tunnel that have reached applications. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Drained(Arc<AtomicU64>);

impl Drained {
    pub(super) fn add(&self, bytes: usize) {
        self.0.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Window sizes of one tunnel, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Of each stream.
    pub(super) stream: u32,
    /// Of all of them together.
    pub(super) connection: u32,
}

impl Sizes {
    /// What a new tunnel gets.
    fn first(limits: &Limits) -> Self {
        let (stream, connection) = (&limits::STREAM_WINDOW_START, &limits::CONNECTION_WINDOW_START);
        Self { stream: limits.number(stream), connection: limits.number(connection) }
    }

    /// What a new tunnel gets when the budget is used up: the least that a connection has (RFC 9113 §6.9.2).
    const LEAST: Self = Self { stream: 65_535, connection: 65_535 };

    fn doubled(self, limits: &Limits) -> Self {
        Self {
            stream: self.stream.saturating_mul(2).min(limits.number(&limits::STREAM_WINDOW)),
            connection: self.connection.saturating_mul(2).min(limits.number(&limits::CONNECTION_WINDOW)),
        }
    }
}

/// The window of one tunnel. What it has promised is given back when it is dropped.
pub(super) struct Window {
    budget: ReceiveBudget,
    limits: Limits,
    drained: Drained,
    sizes: Sizes,
    /// What had been read when the last round trips were over.
    since: u64,
    asked: Option<Asked>,
}

/// Round trips that are looked at together: what comes in bursts, one in each, may fall between two of them.
const ROUND_TRIPS: u32 = 3;

/// Round trips under way.
struct Asked {
    drained: u64,
    answers: u64,
    left: u32,
}

impl Window {
    /// Of a new tunnel, which gets the least window even if everything has been promised to others.
    pub(super) fn new(budget: &ReceiveBudget, limits: &Limits, drained: Drained) -> Self {
        let mut sizes = Sizes::first(limits);
        if !budget.take(sizes.connection.into()) {
            let Sizes { stream, connection } = Sizes::LEAST;
            sizes = Sizes { stream: sizes.stream.min(stream), connection };
            budget.0.promised.fetch_add(connection.into(), Ordering::Relaxed);
        }
        Self { budget: budget.clone(), limits: limits.clone(), drained, sizes, since: 0, asked: None }
    }

    /// What the peer is told when the tunnel begins.
    pub(super) fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Whether the tunnel should get a larger window, and which. `set` announces it, and may fail: then it is tried again
    /// after further round trips.
    pub(super) fn turn(&mut self, probe: &Probe, set: impl FnOnce(Sizes) -> bool) {
        let drained = self.drained.total();
        let Some(asked) = &mut self.asked else {
            // Too little to be held up by the window is not worth a question.
            if drained - self.since >= u64::from(self.sizes.stream) / 2 && self.can_grow() {
                self.asked = Some(Asked { drained, answers: probe.answers(), left: ROUND_TRIPS });
                probe.ask();
            }
            return;
        };
        if probe.answers() == asked.answers {
            return;
        }
        (asked.answers, asked.left) = (probe.answers(), asked.left - 1);
        if asked.left > 0 {
            return probe.ask();
        }
        let read = drained - asked.drained;
        (self.asked, self.since) = (None, drained);
        if is_held_up(self.sizes, read / u64::from(ROUND_TRIPS)) {
            self.grow(set);
        }
    }

    fn can_grow(&self) -> bool {
        self.sizes.doubled(&self.limits) != self.sizes
    }

    fn grow(&mut self, set: impl FnOnce(Sizes) -> bool) {
        let sizes = self.sizes.doubled(&self.limits);
        let more = u64::from(sizes.connection - self.sizes.connection);
        if !self.budget.take(more) {
            return;
        }
        if set(sizes) {
            self.sizes = sizes;
        } else {
            self.budget.0.promised.fetch_sub(more, Ordering::Relaxed);
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.budget.0.promised.fetch_sub(self.sizes.connection.into(), Ordering::Relaxed);
    }
}

/// Whether a peer that had `read` bytes taken off it during one round trip may have been held up: at least half of what one
/// stream may send.
fn is_held_up(sizes: Sizes, read: u64) -> bool {
    read >= u64::from(sizes.stream) / 2
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn half_a_stream_in_a_round_trip_is_a_reason_for_a_larger_window() {
        let sizes = Sizes { stream: 256 << 10, connection: 1 << 20 };
        for (read, expected) in [(0, false), ((128 << 10) - 1, false), (128 << 10, true), (1 << 30, true)] {
            assert_eq!(is_held_up(sizes, read), expected, "{read}");
        }
    }

    #[test]
    fn windows_double_up_to_their_limits_and_take_no_more_than_the_budget() {
        let set = BTreeMap::from([
            (limits::STREAM_WINDOW_START.name, 128 << 10),
            (limits::CONNECTION_WINDOW_START.name, 512 << 10),
            (limits::STREAM_WINDOW.name, 1 << 20),
            (limits::CONNECTION_WINDOW.name, 4 << 20),
            (limits::RECEIVE_BUDGET.name, 5 << 20),
        ]);
        let limits = Limits::with(&set).unwrap();
        let budget = ReceiveBudget::new(&limits);
        let mut first = Window::new(&budget, &limits, Drained::default());
        first.grow(|_| false);
        assert_eq!(budget.promised(), 512 << 10, "what was not announced is not promised");
        for expected in [1 << 20, 2 << 20, 4 << 20] {
            first.grow(|sizes| sizes == Sizes { stream: expected / 4, connection: expected });
            assert_eq!(budget.promised(), u64::from(expected));
        }
        assert!(!first.can_grow());
        let mut second = Window::new(&budget, &limits, Drained::default());
        second.grow(|_| true);
        assert_eq!(budget.promised(), 5 << 20);
        second.grow(|_| unreachable!("the budget is used up"));
        let third = Window::new(&budget, &limits, Drained::default());
        assert_eq!(budget.promised(), (5 << 20) + 65_535, "the least window everybody gets");
        assert_eq!(third.sizes(), Sizes { stream: 65_535, connection: 65_535 });
        drop((first, second, third));
        assert_eq!(budget.promised(), 0);
    }
}
