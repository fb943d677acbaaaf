//! What is counted by route: how many requests, how they ended, and how long they took.

use std::sync::Arc;
use std::time::Duration;

use fairway_core::io::metrics::{HeldCounter, Histogram, Metrics};
use fairway_core::service::Service;

use super::{Done, UNKNOWN};

const REQUESTS: &str = "fairway_waypoint_route_requests_total";
pub(super) const DURATION: &str = "fairway_waypoint_route_duration_seconds";

/// Upper bounds in seconds.
pub(super) const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0];

/// Route of requests that were over before there was one.
const NONE: &str = "none";

/// What tells series of routes apart within a connection.
#[derive(Debug)]
pub(super) struct RouteKey {
    route: String,
    status: u16,
    grpc: Option<u32>,
}

/// Series of one route with one kind of answer.
pub(super) struct RouteHandles {
    requests: HeldCounter,
    duration: Histogram,
}

/// Says what they are.
pub(super) fn describe(metrics: &Metrics) {
    metrics.describe(REQUESTS, "Requests by route: namespace, name and rule, as access logs have it.");
    metrics.describe(DURATION, "Time from the head of a request to the end of its answer by route, in seconds.");
}

fn name(done: &Done) -> &str {
    if done.route.is_empty() { NONE } else { &done.route }
}

impl RouteKey {
    pub(super) fn of(done: &Done) -> Self {
        Self { route: name(done).to_owned(), status: done.status, grpc: done.grpc_status }
    }

    /// Whether it is the one of this request, which need not have one made for that.
    pub(super) fn is_of(&self, done: &Done) -> bool {
        (self.status, self.grpc) == (done.status, done.grpc_status) && self.route == name(done)
    }
}

impl RouteHandles {
    pub(super) fn of(metrics: &Metrics, service: Option<&Arc<Service>>, key: &RouteKey) -> Self {
        let service = service.map_or(UNKNOWN, |service| service.hostname());
        let (status, grpc) = (key.status.to_string(), key.grpc.map(|status| status.to_string()).unwrap_or_default());
        let route = [("destination_service", service), ("route", key.route.as_str())];
        let [service, name] = route;
        let answer = [service, name, ("response_code", status.as_str()), ("grpc_response_status", grpc.as_str())];
        Self { requests: metrics.held_counter(REQUESTS, &answer), duration: metrics.held_histogram(DURATION, &route) }
    }

    pub(super) fn count(&self, took: Duration) {
        self.requests.increment(1);
        self.duration.record(took.as_secs_f64());
    }
}
