//! What there is to see of a cluster: how busy it is, and who of its endpoints is asked.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde::Serialize;

use super::{Load, Used, lock};
use crate::config::{Assignment, Cluster};

/// One cluster as it is now.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// Requests under way.
    pub requests: Bounded,
    /// Repetitions under way.
    pub retries: Bounded,
    /// Requests that wait for a connection.
    pub waiting: Bounded,
    /// Connections.
    pub connections: Bounded,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A number and the most it may be.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Bounded {
    /// The number.
    pub now: u32,
    /// The most.
    pub most: u32,
    /// How often there was no more.
    pub refused: u64,
}

/// One endpoint.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// Others are asked as long as a lower one has somebody.
    pub priority: usize,
    /// Whether it has failed too often and is not asked for a while.
    pub left_out: bool,
}

impl Load {
    /// The cluster as it is at `now`.
    #[must_use]
    pub fn seen(&self, cluster: &Cluster, assignment: &Assignment, now: Instant) -> Seen {
        let bounds = &cluster.bounds;
        let bounded = |used: &Used, most| Bounded {
            now: used.now.load(Ordering::Relaxed),
            most,
            refused: used.refused.load(Ordering::Relaxed),
        };
        let record = lock(&self.record);
        let is_out = |address: &SocketAddr| {
            record.by(cluster.outliers.as_ref()).is_some_and(|record| record.is_out(address, now))
        };
        let priorities = assignment.priorities.iter().enumerate();
        let endpoints = priorities.flat_map(|(priority, all)| all.iter().map(move |address| (priority, *address)));
        Seen {
            requests: bounded(&self.requests, bounds.requests),
            retries: bounded(&self.retries, bounds.retries),
            waiting: bounded(&self.waiting, bounds.waiting),
            connections: bounded(&self.connections, bounds.connections),
            endpoints: endpoints
                .map(|(priority, address)| Endpoint { address, priority, left_out: is_out(&address) })
                .collect(),
        }
    }
}
