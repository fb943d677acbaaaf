//! The agent's HTTP endpoints: probes, metrics and the table of pods.

use std::future::ready;
use std::sync::Arc;

use fairway_core::io::admin::{Router, StatusCode, json, text};
use fairway_core::io::metrics::Metrics;
use fairway_core::io::metrics::page::page;
use serde_json::json as value;

use crate::events::{PodEvent, Recorder};
use crate::report::Reports;

/// The agent's pages.
#[must_use]
pub fn router(metrics: Metrics, reports: Reports, events: Arc<Recorder>) -> Router {
    let readiness = reports.clone();
    Router::new()
        .get("/healthz", |_| ready(text(StatusCode::OK, "ok\n")))
        .get("/readyz", move |_| {
            // Ready means every pod was looked at, not that a proxy is there: it may be waiting for us.
            let is_ready = readiness.latest().passes > 0;
            ready(if is_ready {
                text(StatusCode::OK, "ok\n")
            } else {
                text(StatusCode::SERVICE_UNAVAILABLE, "the pods of this node have not been looked at yet\n")
            })
        })
        .get("/metrics", move |request| page(metrics.clone(), request))
        .get("/debug/events", move |_| {
            let events: Vec<_> = events.latest().iter().map(shown).collect();
            ready(json(&value!({ "events": events })))
        })
        .get("/debug/pods", move |_| ready(json(&value!({"pods": reports.latest().pods.as_ref()}))))
}

fn shown(event: &PodEvent) -> serde_json::Value {
    value!({
        "namespace": event.pod.namespace, "pod": event.pod.name, "uid": event.uid,
        "reason": event.reason.label(), "message": event.message,
    })
}
