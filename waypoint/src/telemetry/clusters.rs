//! What is shown of clusters: how much of each of their bounds is used, how often there was no more, and who is left out.

use std::sync::{Arc, Weak};
use std::time::Instant;

use fairway_core::io::metrics::Metrics;

use crate::load::{Bounded, Seen};
use crate::waypoint::Waypoint;

const IN_USE: &str = "fairway_waypoint_cluster_in_use";
const BOUND: &str = "fairway_waypoint_cluster_bound";
const REFUSED: &str = "fairway_waypoint_cluster_refused_total";
const ENDPOINTS: &str = "fairway_waypoint_cluster_endpoints";

/// Has the clusters that anybody has asked for shown with the other metrics.
pub(crate) fn register(waypoint: &Arc<Waypoint>, metrics: &Metrics) {
    metrics.describe(IN_USE, "What a cluster has under way of what its DestinationRule bounds.");
    metrics.describe(BOUND, "The most that a cluster may have under way.");
    metrics.describe(REFUSED, "Times that a cluster had as much under way as it may, and there was no more.");
    metrics.describe(ENDPOINTS, "Endpoints of a cluster: asked, or left out as they keep failing.");
    // The metrics are held by what they would keep alive.
    let (waypoint, into) = (Arc::downgrade(waypoint), metrics.downgrade());
    metrics.before_render(move || {
        if let (Some(waypoint), Some(metrics)) = (Weak::upgrade(&waypoint), into.upgrade()) {
            for (name, seen) in waypoint.clusters(None, Instant::now()) {
                show(&metrics, &name, &seen);
            }
        }
    });
}

fn show(metrics: &Metrics, cluster: &str, seen: &Seen) {
    let Seen { requests, retries, waiting, connections, endpoints } = seen;
    let bounds = [("requests", requests), ("retries", retries), ("waiting", waiting), ("connections", connections)];
    for (of, Bounded { now, most, refused }) in bounds {
        let labels = [("cluster", cluster), ("of", of)];
        metrics.passing_gauge(IN_USE, &labels).set(f64::from(*now));
        metrics.passing_gauge(BOUND, &labels).set(f64::from(*most));
        metrics.held_counter(REFUSED, &labels).handle().absolute(*refused);
    }
    for (state, left_out) in [("asked", false), ("left_out", true)] {
        let count = endpoints.iter().filter(|endpoint| endpoint.left_out == left_out).count();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        metrics.passing_gauge(ENDPOINTS, &[("cluster", cluster), ("state", state)]).set(f64::from(count));
    }
}
