//! Counters of one label set, registered once and shared by its connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use fairway_core::io::metrics::{HeldCounter, Metrics};
use fairway_core::reason::{Reason, ResponseFlag};

use super::{ConnectionInfo, LeftOut, labels};

const OPENED: &str = "istio_tcp_connections_opened_total";
const CLOSED: &str = "istio_tcp_connections_closed_total";
const FAILED: &str = "istio_tcp_connections_failed_total";
const RECEIVED: &str = "istio_tcp_received_bytes_total";
const SENT: &str = "istio_tcp_sent_bytes_total";
const REASONS: &str = "fairway_connections_ended_total";

/// Label sets kept although no connection uses them just now, so that the next one need not register again.
/// At about 2 KiB each this bounds the cache to some 8 MiB; the registry has a cap of its own.
const MAX_UNUSED: usize = 4_096;

/// Bytes follow Istio's convention at both reporters: received is what the client sent, sent what the server did.
#[derive(Debug)]
pub(super) struct Series {
    opened: HeldCounter,
    closed: HeldCounter,
    received: HeldCounter,
    sent: HeldCounter,
}

impl Series {
    pub(super) fn opened(&self) {
        self.opened.increment(1);
    }

    pub(super) fn closed(&self) {
        self.closed.increment(1);
    }

    pub(super) fn to_destination(&self, bytes: u64) {
        self.received.increment(bytes);
    }

    pub(super) fn to_source(&self, bytes: u64) {
        self.sent.increment(bytes);
    }
}

#[derive(Debug)]
pub(super) struct SeriesCache {
    metrics: Metrics,
    left_out: LeftOut,
    by_labels: Arc<Mutex<HashMap<String, Arc<Series>>>>,
}

impl SeriesCache {
    pub(super) fn new(metrics: &Metrics, left_out: LeftOut) -> Self {
        metrics.describe(OPENED, "Connections opened.");
        metrics.describe(CLOSED, "Connections closed.");
        metrics.describe(FAILED, "Connections refused, failed or cut.");
        metrics.describe(RECEIVED, "Bytes sent by clients, at either reporter.");
        metrics.describe(SENT, "Bytes sent by servers, at either reporter.");
        metrics.describe(REASONS, "Connections that ended otherwise than their two ends wanted, by reason.");
        let by_labels: Arc<Mutex<HashMap<String, Arc<Series>>>> = Arc::default();
        // What nobody used between two scrapes is let go, so that its series can expire.
        let cache = Arc::downgrade(&by_labels);
        metrics.before_render(move || {
            if let Some(cache) = cache.upgrade() {
                drop_unused(&mut cache.lock().unwrap_or_else(PoisonError::into_inner));
            }
        });
        Self { metrics: metrics.clone(), left_out, by_labels }
    }

    pub(super) fn get(&self, info: &ConnectionInfo) -> Arc<Series> {
        labels::with(info, ResponseFlag::None, &self.left_out, |labels| {
            let key = labels::key(labels);
            let mut by_labels = self.by_labels.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(series) = by_labels.get(&key) {
                return Arc::clone(series);
            }
            if by_labels.len() >= MAX_UNUSED {
                drop_unused(&mut by_labels);
            }
            let counter = |name| self.metrics.held_counter(name, labels);
            let series = Arc::new(Series {
                opened: counter(OPENED),
                closed: counter(CLOSED),
                received: counter(RECEIVED),
                sent: counter(SENT),
            });
            by_labels.insert(key, Arc::clone(&series));
            series
        })
    }

    pub(super) fn failed(&self, info: &ConnectionInfo, reason: Reason) {
        labels::with(info, reason.response_flag(), &self.left_out, |labels| {
            self.metrics.held_counter(FAILED, labels).increment(1);
        });
        let labels = [("reporter", info.reporter.as_str()), ("reason", reason.label())];
        self.metrics.counter(REASONS, &labels).increment(1);
    }
}

fn drop_unused(by_labels: &mut HashMap<String, Arc<Series>>) {
    by_labels.retain(|_, series| Arc::strong_count(series) > 1);
}
