//! Follows the configuration of the services that are bound to us: what to ask for comes from the world, what comes back is
//! checked and put in force.

use std::sync::Arc;
use std::time::Instant;

use fairway_core::io::drain::Drain;
use fairway_core::io::grpc::ControlPlane;
use fairway_core::io::metrics::{Counter, Gauge, Metrics};
use fairway_core::io::ready::{Readiness, ReadyToken};
use fairway_core::io::xds::{Backoff, Ending, NodeInfo};
use fairway_core::limits;
use fairway_core::route;
use fairway_core::snapshot::Snapshot;
use fairway_core::workload::Workload;
use fairway_proto::discovery::DeltaDiscoveryRequest;
use fairway_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use rand::RngExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::stream::WORKLOADS;
use crate::waypoint::Waypoint;

pub mod dump;
pub mod held;
mod session;
mod warming;

pub use held::Held;
pub use session::Session;
pub use warming::Bounds;

/// Requests waiting to be sent: for each of the four types a subscription and an answer.
const REQUEST_QUEUE: usize = 64;

/// What we are to the control plane.
pub const KIND: &str = "waypoint";

const CONNECTED: &str = "fairway_waypoint_xds_connected";
const REJECTED: &str = "fairway_waypoint_xds_rejected_resources_total";
const APPLIED: &str = "fairway_waypoint_xds_responses_total";
const WARMING: &str = "fairway_waypoint_xds_warming_resources";
const EXPIRED: &str = "fairway_waypoint_xds_warming_expired_total";

/// The client of the configuration server.
pub struct Client {
    control_plane: ControlPlane,
    waypoint: Arc<Waypoint>,
    session: Session,
    backoff: Backoff,
    pending: Option<ReadyToken>,
    connected: Gauge,
    rejected: Counter,
    applied: Counter,
    warming: Gauge,
    expired: Counter,
}

impl Client {
    /// A client that fills the configuration of `waypoint`. `readiness` is held back until everything that was asked for is
    /// answered, once.
    #[must_use]
    pub fn new(
        control_plane: ControlPlane,
        node: &NodeInfo,
        waypoint: Arc<Waypoint>,
        readiness: &Readiness,
        metrics: &Metrics,
    ) -> Self {
        metrics.describe(CONNECTED, "1 while the stream of routes is up; at 0 the last good ones are served.");
        metrics.describe(REJECTED, "Routes, listeners, clusters and endpoints that could not be used.");
        metrics.describe(APPLIED, "Answers of the control plane about routes.");
        metrics.describe(
            WARMING,
            "What has been received and waits for what it leads to; what was before it is in force.",
        );
        metrics.describe(EXPIRED, "What has waited for too long, and is in force without what it leads to.");
        Self {
            backoff: Backoff::new(control_plane.limits()),
            session: Session::new(node.message_of(KIND), waypoint.held.clone(), Bounds::of(control_plane.limits())),
            control_plane,
            waypoint,
            pending: Some(readiness.block("routes")),
            connected: metrics.gauge(CONNECTED, &[]),
            rejected: metrics.counter(REJECTED, &[]),
            applied: metrics.counter(APPLIED, &[]),
            warming: metrics.gauge(WARMING, &[]),
            expired: metrics.counter(EXPIRED, &[]),
        }
    }

    /// Runs until the drain starts. What was received stays in force.
    pub async fn run(mut self, mut drain: Drain) {
        loop {
            let ending = tokio::select! {
                _ = drain.started() => return,
                ending = self.stream() => ending,
            };
            self.connected.set(0.0);
            self.session.disconnected(Instant::now());
            self.publish();
            let pause = self.backoff.after(&ending, rand::rng().random());
            match &ending {
                Ending::Complete | Ending::Reconnect(_) => {
                    tracing::debug!(reason = ending.label(), detail = %ending, ?pause, "stream of routes ended");
                }
                Ending::Connect(_) | Ending::Error(_) => tracing::warn!(
                    reason = ending.label(), error = %ending, ?pause,
                    "stream of routes is down; serving the last good ones"
                ),
            }
            tokio::select! {
                _ = drain.started() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn stream(&mut self) -> Ending {
        let channel = match self.control_plane.connect().await {
            Ok(channel) => channel,
            Err(error) => return Ending::Connect(error),
        };
        let (requests, receiver) = mpsc::channel(REQUEST_QUEUE);
        let largest = self.control_plane.limits().size(&limits::XDS_MESSAGE);
        let mut client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(largest)
            .max_encoding_message_size(largest);
        // Before anything is known to ask for there has to be a first request.
        let mut versions = self.waypoint.live.versions();
        self.want();
        let mut waiting = self.session.connected(Instant::now());
        for request in waiting.drain(..) {
            if requests.send(request).await.is_err() {
                return Ending::Complete;
            }
        }
        let mut responses = match client.delta_aggregated_resources(ReceiverStream::new(receiver)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ending::of_status(status),
        };
        self.connected.set(1.0);
        tracing::info!("stream of routes is up");
        loop {
            let due = self.session.due();
            let over = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            let answers: Vec<DeltaDiscoveryRequest> = tokio::select! {
                response = responses.message() => match response {
                    Ok(Some(response)) => {
                        let before = Instant::now();
                        let received = self.session.receive(response, before);
                        for (name, fault) in &received.rejections {
                            tracing::warn!(resource = name, reason = fault, "configuration rejected; the last good one stays");
                        }
                        self.rejected.increment(u64::try_from(received.rejections.len()).unwrap_or(u64::MAX));
                        self.applied.increment(1);
                        self.publish();
                        tracing::debug!(took = ?before.elapsed(), "configuration applied");
                        self.backoff.succeeded();
                        received.requests
                    }
                    Ok(None) => return Ending::Complete,
                    Err(status) => return Ending::of_status(status),
                },
                changed = versions.changed() => {
                    if changed.is_err() {
                        return Ending::Complete;
                    }
                    let requests = self.want();
                    self.publish();
                    requests
                }
                () = over => {
                    let requests = self.session.wake(Instant::now());
                    self.publish();
                    requests
                }
            };
            for request in answers {
                if requests.send(request).await.is_err() {
                    return Ending::Complete;
                }
            }
            if self.pending.is_some() && self.session.is_answered() && self.waypoint.known().is_some() {
                self.pending = None;
            }
        }
    }

    /// What is bound to us now.
    fn want(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let Some(local) = self.waypoint.known() else { return Vec::new() };
        self.session.want(bound(&self.waypoint.live.snapshot(), &local), Instant::now())
    }

    /// Puts in force what the session says is.
    fn publish(&mut self) {
        let config = self.session.config().clone();
        self.warming.set(u32::try_from(config.warming.len()).unwrap_or(u32::MAX));
        let expired = self.session.expired();
        if expired > 0 {
            self.expired.increment(expired);
            tracing::warn!(
                resources = expired,
                still = config.warming.len(),
                "what configuration leads to has not come in time; it is in force without"
            );
        }
        self.waypoint.config.publish(config);
    }
}

/// Listeners of everything that is bound to `local`.
fn bound(snapshot: &Snapshot, local: &Workload) -> Vec<String> {
    let names = route::bound_services(snapshot, local).flat_map(|service| {
        service.ports.iter().map(move |port| format!("{}:{}", service.hostname(), port.service_port))
    });
    names.chain([WORKLOADS.to_owned()]).collect()
}
