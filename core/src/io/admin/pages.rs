//! Pages that every component has: metrics and readiness.

use super::StatusCode;
use super::router::{Router, text};
use crate::io::metrics::Metrics;
use crate::io::metrics::page::page;
use crate::io::ready::Readiness;

/// Pages of the metrics port.
#[must_use]
pub fn stats_router(metrics: &Metrics) -> Router {
    let pages = |metrics: Metrics| move |request| page(metrics.clone(), request);
    Router::new().get("/metrics", pages(metrics.clone())).get("/stats/prometheus", pages(metrics.clone()))
}

/// Pages of the readiness port.
#[must_use]
pub fn readiness_router(readiness: &Readiness) -> Router {
    let readiness = readiness.clone();
    Router::new().any("/healthz/ready", move |_| {
        let pending = readiness.pending();
        async move {
            if pending.is_empty() {
                text(StatusCode::OK, "ready\n")
            } else {
                let pending = format!("not ready, pending: {}\n", pending.join(", "));
                text(StatusCode::INTERNAL_SERVER_ERROR, pending)
            }
        }
    })
}
