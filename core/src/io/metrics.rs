//! Metrics registry: capped, expiring series over the Prometheus recorder, never installed globally.
//!
//! ```text
//! # HELP istio_xds_message_total Messages received from the control plane.
//! # TYPE istio_xds_message_total counter
//! istio_xds_message_total{url="type.googleapis.com/istio.workload.Address"} 3
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use metrics_util::MetricKindMask;

use crate::limits::{self, Limits};

pub use metrics::{Counter, Gauge, Histogram};

pub mod page;
pub mod process;
pub mod runtime;

/// Value of every label of the one series that stands for those above the cap.
pub const OVERFLOW: &str = "overflow";

const DROPPED: &str = "fairway_metric_series_dropped_total";
const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// A label's name and value.
pub type LabelPair<'a> = (&'static str, &'a str);
/// The same of a label that somebody has asked for by name.
pub type AskedPair<'a> = (Arc<str>, &'a str);

/// The process's metrics. Cheap to clone; all clones share one registry.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    /// Series that live as long as the process.
    permanent: PrometheusRecorder,
    /// Series that go some time after their last holder: those labelled with workloads.
    expiring: PrometheusRecorder,
    series: Mutex<Series>,
    hooks: Mutex<Vec<Hook>>,
    max_series: usize,
}

type Hook = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Series {
    permanent: HashMap<&'static str, HashMap<u64, ()>>,
    expiring: HashMap<&'static str, HashMap<Key, Held>>,
}

struct Held {
    handle: Handle,
    holders: Arc<()>,
}

#[derive(Clone)]
enum Handle {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

/// A counter whose series stays for as long as somebody holds it, and [`limits::METRIC_SERIES_IDLE`] longer.
#[derive(Clone, Debug)]
pub struct HeldCounter {
    counter: Counter,
    _holder: Arc<()>,
}

impl HeldCounter {
    /// Adds to the counter.
    pub fn increment(&self, value: u64) {
        self.counter.increment(value);
    }

    /// The bare handle, for code that counts on a hot path. It does not keep the series: keep `self` beside it.
    pub fn handle(&self) -> Counter {
        self.counter.clone()
    }
}

/// Metrics, for as long as somebody else holds them.
#[derive(Clone)]
pub struct WeakMetrics(Weak<Inner>);

impl WeakMetrics {
    /// They, if they are still there.
    pub fn upgrade(&self) -> Option<Metrics> {
        Some(Metrics { inner: self.0.upgrade()? })
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl Metrics {
    /// An empty registry; `buckets` lists the histograms with their upper bounds (other histograms become summaries).
    pub fn new(buckets: &[(&str, &[f64])]) -> Self {
        Self::within(&Limits::default(), buckets)
    }

    /// Like [`Metrics::new`] with these limits.
    pub fn within(limits: &Limits, buckets: &[(&str, &[f64])]) -> Self {
        let (max_series, idle) = (limits.size(&limits::METRIC_SERIES), limits.duration(&limits::METRIC_SERIES_IDLE));
        let builder = || {
            let mut builder = PrometheusBuilder::new();
            for (name, bounds) in buckets.iter().filter(|(_, bounds)| !bounds.is_empty()) {
                // Refuses only an empty list, which then stays a summary.
                builder = match builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), bounds) {
                    Ok(builder) => builder,
                    Err(_) => PrometheusBuilder::new(),
                };
            }
            builder
        };
        let metrics = Self {
            inner: Arc::new(Inner {
                permanent: builder().build_recorder(),
                expiring: builder().idle_timeout(MetricKindMask::ALL, Some(idle)).build_recorder(),
                series: Mutex::default(),
                hooks: Mutex::default(),
                max_series,
            }),
        };
        metrics.describe(DROPPED, "Label sets not given a series of their own because their metric was at its cap.");
        process::register(&metrics);
        metrics
    }

    /// Sets the help text of a metric of any kind.
    pub fn describe(&self, name: &'static str, help: &'static str) {
        for recorder in [&self.inner.permanent, &self.inner.expiring] {
            // The recorder keeps one table of descriptions for all kinds.
            recorder.describe_counter(KeyName::from(name), None, help.into());
        }
    }

    /// A counter that lives as long as the process. Register once, keep the handle.
    pub fn counter(&self, name: &'static str, labels: &[LabelPair<'_>]) -> Counter {
        let key = self.admit(name, labels);
        self.inner.permanent.register_counter(&key, &METADATA)
    }

    /// A gauge that lives as long as the process. Register once, keep the handle.
    pub fn gauge(&self, name: &'static str, labels: &[LabelPair<'_>]) -> Gauge {
        let key = self.admit(name, labels);
        self.inner.permanent.register_gauge(&key, &METADATA)
    }

    /// A histogram that lives as long as the process. Register once, keep the handle.
    pub fn histogram(&self, name: &'static str, labels: &[LabelPair<'_>]) -> Histogram {
        let key = self.admit(name, labels);
        self.inner.permanent.register_histogram(&key, &METADATA)
    }

    /// A counter labelled with something that comes and goes, such as a workload.
    pub fn held_counter(&self, name: &'static str, labels: &[LabelPair<'_>]) -> HeldCounter {
        self.held_counter_with(name, labels, &[])
    }

    /// The same, with labels that somebody has asked for.
    pub fn held_counter_with(
        &self,
        name: &'static str,
        labels: &[LabelPair<'_>],
        asked: &[AskedPair<'_>],
    ) -> HeldCounter {
        let register = |key: &Key| Handle::Counter(self.inner.expiring.register_counter(key, &METADATA));
        let (handle, holder) = self.hold(name, key_with(name, labels, asked), register);
        let counter = match handle {
            Handle::Counter(counter) => counter,
            // Only if another kind has this name, which is a mistake that must not stop the proxy.
            Handle::Gauge(_) | Handle::Histogram(_) => Counter::noop(),
        };
        // Renews the series in case it was about to expire.
        counter.increment(0);
        HeldCounter { counter, _holder: holder }
    }

    /// A histogram labelled with something that comes and goes. Ask for it with each value: it is gone
    /// [`limits::METRIC_SERIES_IDLE`] after the last one.
    pub fn held_histogram(&self, name: &'static str, labels: &[LabelPair<'_>]) -> Histogram {
        self.held_histogram_with(name, labels, &[])
    }

    /// The same, with labels that somebody has asked for.
    pub fn held_histogram_with(
        &self,
        name: &'static str,
        labels: &[LabelPair<'_>],
        asked: &[AskedPair<'_>],
    ) -> Histogram {
        let register = |key: &Key| Handle::Histogram(self.inner.expiring.register_histogram(key, &METADATA));
        match self.hold(name, key_with(name, labels, asked), register).0 {
            Handle::Histogram(histogram) => histogram,
            Handle::Counter(_) | Handle::Gauge(_) => Histogram::noop(),
        }
    }

    /// A gauge labelled with something that comes and goes. Ask for it with each value: it is gone
    /// [`limits::METRIC_SERIES_IDLE`] after the last one.
    pub fn passing_gauge(&self, name: &'static str, labels: &[LabelPair<'_>]) -> Gauge {
        let register = |key: &Key| Handle::Gauge(self.inner.expiring.register_gauge(key, &METADATA));
        match self.hold(name, key(name, labels), register).0 {
            Handle::Gauge(gauge) => gauge,
            Handle::Counter(_) | Handle::Histogram(_) => Gauge::noop(),
        }
    }

    fn hold(&self, name: &'static str, mut key: Key, register: impl FnOnce(&Key) -> Handle) -> (Handle, Arc<()>) {
        let mut series = self.series();
        let by_key = series.expiring.entry(name).or_default();
        let overflows = by_key.len() >= self.inner.max_series && !by_key.contains_key(&key);
        if overflows {
            key = overflow_key(&key);
        }
        let held = by_key.entry(key.clone()).or_insert_with(|| Held { handle: register(&key), holders: Arc::new(()) });
        let taken = (held.handle.clone(), Arc::clone(&held.holders));
        drop(series);
        if overflows {
            self.count_dropped(name);
        }
        taken
    }

    /// For hooks: they would keep themselves alive with what they hold.
    pub fn downgrade(&self) -> WeakMetrics {
        WeakMetrics(Arc::downgrade(&self.inner))
    }

    /// Runs `hook` before each rendering, to set gauges that are read rather than counted.
    pub fn before_render(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.inner.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    /// All series in Prometheus text format.
    pub fn render(&self) -> String {
        for hook in self.inner.hooks.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            hook();
        }
        self.renew_held();
        let mut text = self.inner.permanent.handle().render();
        text.push_str(&self.inner.expiring.handle().render());
        text
    }

    /// Renews series that somebody holds; forgets the others, which the recorder drops once they have idled.
    fn renew_held(&self) {
        let mut series = self.series();
        for by_key in series.expiring.values_mut() {
            by_key.retain(|_, held| {
                let is_held = Arc::strong_count(&held.holders) > 1;
                if is_held && let Handle::Counter(counter) = &held.handle {
                    counter.increment(0);
                }
                is_held
            });
        }
        series.expiring.retain(|_, by_key| !by_key.is_empty());
    }

    fn admit(&self, name: &'static str, labels: &[LabelPair<'_>]) -> Key {
        let key = key(name, labels);
        let mut series = self.series();
        let hashes = series.permanent.entry(name).or_default();
        if hashes.len() < self.inner.max_series || hashes.contains_key(&key.get_hash()) {
            hashes.insert(key.get_hash(), ());
            return key;
        }
        drop(series);
        self.count_dropped(name);
        overflow_key(&key)
    }

    fn count_dropped(&self, name: &'static str) {
        let key = key(DROPPED, &[("metric", name)]);
        self.inner.permanent.register_counter(&key, &METADATA).increment(1);
    }

    fn series(&self) -> std::sync::MutexGuard<'_, Series> {
        self.inner.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(name: &'static str, labels: &[LabelPair<'_>]) -> Key {
    key_with(name, labels, &[])
}

fn key_with(name: &'static str, labels: &[LabelPair<'_>], asked: &[AskedPair<'_>]) -> Key {
    let labels = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned()));
    let asked = asked.iter().map(|(name, value)| Label::new(Arc::clone(name), (*value).to_owned()));
    Key::from_parts(name, labels.chain(asked).collect::<Vec<_>>())
}

fn overflow_key(key: &Key) -> Key {
    let labels = key.labels().map(|label| Label::new(label.clone().into_parts().0, OVERFLOW));
    Key::from_parts(key.name().to_owned(), labels.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests;
