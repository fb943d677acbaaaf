//! Delta discovery client: subscribes, converts, accepts or rejects each resource, reconnects; keeps what it has.
//!
//! The protocol is decided in [`session`] and the pauses in [`backoff`]; this file moves messages between them, the
//! control plane and [`Live`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fairway_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use fairway_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message;
use rand::RngExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::drain::Drain;
use super::grpc::{ConnectError, ControlPlane};
use super::live::Live;
use super::metrics::{Counter, Gauge, Metrics};
use super::ready::{Readiness, ReadyToken};
use crate::limits;

mod backoff;
mod convert;
mod extent;
mod node;
mod session;

pub use backoff::{Backoff, Ending};
pub use extent::Extent;
pub use node::NodeInfo;
pub use session::{Outcome, Rejection, Session};

use session::TYPES;

/// Requests waiting to be sent: two subscriptions and an answer for each response, which come one at a time.
const REQUEST_QUEUE: usize = 8;

/// Everything the client needs.
#[derive(Debug)]
pub struct Client {
    control_plane: ControlPlane,
    live: Live,
    node: NodeInfo,
    session: Arc<Mutex<Session>>,
    backoff: Backoff,
    metrics: StreamMetrics,
    pending: BTreeMap<&'static str, ReadyToken>,
}

impl Client {
    /// A client that will fill `live`. `readiness` is held back until the answer to the subscription of each type is applied.
    #[must_use]
    pub fn new(
        control_plane: ControlPlane,
        node: NodeInfo,
        live: Live,
        readiness: &Readiness,
        metrics: &Metrics,
    ) -> Self {
        let pending = TYPES
            .iter()
            .map(|resource_type| (resource_type.url(), readiness.block(&format!("xds {}", resource_type.short_name()))))
            .collect();
        Self {
            control_plane,
            live,
            session: Arc::new(Mutex::new(Session::new(node.clone()))),
            node,
            backoff: Backoff::default(),
            metrics: StreamMetrics::new(metrics),
            pending,
        }
    }

    /// Runs until the drain starts. What was received stays published.
    pub async fn run(mut self, mut drain: Drain) {
        loop {
            let ending = tokio::select! {
                _ = drain.started() => return,
                ending = self.stream() => ending,
            };
            self.metrics.connected.set(0.0);
            self.metrics.terminated(&ending);
            let pause = self.backoff.after(&ending, rand::rng().random());
            match &ending {
                Ending::Complete | Ending::Reconnect(_) => {
                    tracing::debug!(reason = ending.label(), detail = %ending, ?pause, "configuration stream ended");
                }
                Ending::Connect(_) | Ending::Error(_) => {
                    tracing::warn!(
                        reason = ending.label(), error = %ending, ?pause,
                        "configuration stream is down; serving the last known state"
                    );
                }
            }
            tokio::select! {
                _ = drain.started() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One stream from connect to end.
    async fn stream(&mut self) -> Ending {
        let channel = match self.control_plane.connect().await {
            Ok(channel) => channel,
            Err(error) => return Ending::Connect(error),
        };
        let (requests, receiver) = mpsc::channel(REQUEST_QUEUE);
        for request in lock(&self.session).connected() {
            // The queue is empty and larger than the number of types.
            let _ = requests.try_send(request);
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(limits::XDS_MESSAGE.size())
            .max_encoding_message_size(limits::XDS_MESSAGE.size());
        let mut responses = match client.delta_aggregated_resources(ReceiverStream::new(receiver)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return ended(status),
        };
        self.metrics.connected.set(1.0);
        tracing::info!("configuration stream is up");
        loop {
            let response = match responses.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Ending::Complete,
                Err(status) => return ended(status),
            };
            match self.respond(response).await {
                Ok(Some(answer)) => {
                    if requests.send(answer).await.is_err() {
                        return Ending::Complete;
                    }
                    self.backoff.succeeded();
                }
                Ok(None) => {}
                Err(unusable) => return unusable,
            }
        }
    }

    /// Converts and applies one response, and says what to answer.
    async fn respond(&mut self, response: DeltaDiscoveryResponse) -> Result<Option<DeltaDiscoveryRequest>, Ending> {
        self.metrics.received(&response);
        let (session, live) = (Arc::clone(&self.session), self.live.clone());
        let outcome = self
            .off_the_workers(move || {
                let mut outcome = lock(&session).received(response);
                live.apply(std::mem::take(&mut outcome.updates));
                outcome
            })
            .await?;
        for rejection in &outcome.rejections {
            tracing::warn!(resource = rejection.name, reason = rejection.reason, "configuration rejected");
        }
        self.metrics.rejected.increment(u64::try_from(outcome.rejections.len()).unwrap_or(u64::MAX));
        if let Some(resource_type) = outcome.first_of {
            self.pending.remove(resource_type);
        }
        Ok(outcome.answer)
    }

    /// Runs `work` where it may take long: thousands of resources do, and the runtime's workers have connections to carry
    /// meanwhile. If it fails, the session may have counted as held what was never applied, so everything is asked for
    /// again.
    async fn off_the_workers<T: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Ending> {
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => Ok(done),
            Err(error) => {
                tracing::error!(%error, "applying configuration failed; please report this");
                *lock(&self.session) = Session::resuming(self.node.clone(), &self.live.snapshot());
                self.backoff.unusable();
                Err(Ending::Error(Box::new(Status::internal("applying configuration failed"))))
            }
        }
    }
}

fn lock(session: &Mutex<Session>) -> std::sync::MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ended(status: Status) -> Ending {
    match ConnectError::find(&status) {
        Some(error) => Ending::Connect(error.clone()),
        None => Ending::of_status(status),
    }
}

#[derive(Debug)]
struct StreamMetrics {
    metrics: Metrics,
    connected: Gauge,
    rejected: Counter,
}

const MESSAGES: &str = "istio_xds_message_total";
const MESSAGE_BYTES: &str = "istio_xds_message_bytes_total";
const TERMINATIONS: &str = "istio_xds_connection_terminations_total";
const CONNECTED: &str = "fairway_xds_connected";
const REJECTED: &str = "fairway_xds_rejected_resources_total";

impl StreamMetrics {
    fn new(metrics: &Metrics) -> Self {
        metrics.describe(MESSAGES, "Messages received from the control plane.");
        metrics.describe(MESSAGE_BYTES, "Bytes of the resources received from the control plane.");
        metrics.describe(TERMINATIONS, "Configuration streams that ended, by reason.");
        metrics.describe(CONNECTED, "1 while the configuration stream is up; at 0 the last known state is served.");
        metrics.describe(REJECTED, "Resources that could not be used and were rejected by name.");
        let connected = metrics.gauge(CONNECTED, &[]);
        connected.set(0.0);
        Self { connected, rejected: metrics.counter(REJECTED, &[]), metrics: metrics.clone() }
    }

    fn received(&self, response: &DeltaDiscoveryResponse) {
        // Known types only: the label must not be the peer's to choose.
        let url = TYPES.iter().map(|known| known.url()).find(|url| *url == response.type_url).unwrap_or("unknown");
        let bytes = u64::try_from(response.encoded_len()).unwrap_or(u64::MAX);
        self.metrics.counter(MESSAGES, &[("url", url)]).increment(1);
        self.metrics.counter(MESSAGE_BYTES, &[("url", url)]).increment(bytes);
    }

    fn terminated(&self, ending: &Ending) {
        self.metrics.counter(TERMINATIONS, &[("reason", ending.label())]).increment(1);
    }
}

#[cfg(test)]
mod tests;
