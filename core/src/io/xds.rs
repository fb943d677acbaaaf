//! Delta discovery client: subscribes, converts, accepts or rejects each resource, reconnects; keeps what it has.
//!
//! The protocol is decided in [`session`] and the pauses in [`backoff`]; this file moves messages between them, the
//! control plane, [`Live`] and, if it is kept, the last good configuration on disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fairway_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use fairway_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message;
use rand::RngExt;
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::drain::Drain;
use super::grpc::ControlPlane;
use super::live::Live;
use super::metrics::{Counter, Gauge, Metrics};
use super::ready::{Readiness, ReadyToken};
use crate::limits;
use crate::snapshot::Update;

mod backoff;
mod convert;
mod demand;
pub mod digest;
mod extent;
mod last_good;
mod node;
mod session;
mod status;

pub use backoff::{Backoff, Ending};
pub use demand::{Demand, Unanswered};
pub use digest::Digest;
pub use extent::Extent;
pub use last_good::{Keeper, Owner};
pub use node::NodeInfo;
pub use session::{Outcome, Rejection, Session};
pub use status::{Report, Source, Status as ClientStatus};

use last_good::Received;
use session::TYPES;

/// Requests waiting to be sent: two subscriptions and an answer for each response, which come one at a time.
const REQUEST_QUEUE: usize = 8;

/// How long a process that ends waits for the last good configuration to be on disk.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// Everything the client needs.
#[derive(Debug)]
pub struct Client {
    control_plane: ControlPlane,
    live: Live,
    session: Arc<Mutex<Session>>,
    keeper: Option<Keeper>,
    status: ClientStatus,
    backoff: Backoff,
    metrics: StreamMetrics,
    pending: BTreeMap<&'static str, ReadyToken>,
    /// When something was published, last.
    published: Instant,
    /// Whether something of an answer waits for the rest.
    staged: bool,
}

impl Client {
    /// A client that will fill `live`, asking for addresses by name if `live` has a demand. `readiness` is held back until
    /// the answer to the subscription of each type is applied.
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
        let session = if live.demand().is_some() { Session::on_demand(node) } else { Session::new(node) };
        let status = ClientStatus::default();
        status.register(metrics);
        Self {
            backoff: Backoff::new(control_plane.limits()),
            control_plane,
            live,
            session: Arc::new(Mutex::new(session)),
            keeper: None,
            status,
            metrics: StreamMetrics::new(metrics),
            pending,
            published: Instant::now(),
            staged: false,
        }
    }

    /// Starts from what `keeper` has, and gives it what is received.
    #[must_use]
    pub fn kept_by(self, keeper: Keeper) -> Self {
        Self { keeper: Some(keeper), ..self }
    }

    /// Follows how new the configuration is.
    #[must_use]
    pub fn status(&self) -> ClientStatus {
        self.status.clone()
    }

    /// Runs until the drain starts. What was received stays published.
    pub async fn run(mut self, mut drain: Drain) {
        let writer = self.keeper.clone().map(|keeper| tokio::spawn(keeper.run(drain.clone())));
        self.load().await;
        self.follow(&mut drain).await;
        if let Some(writer) = writer {
            // It writes a last time. A disk that hangs must not keep the process from ending.
            let _ = tokio::time::timeout(LAST_WRITE, writer).await;
        }
    }

    /// Puts what is kept on disk in force, until the control plane answers.
    async fn load(&mut self) {
        let Some(keeper) = self.keeper.clone() else { return };
        let (session, live) = (Arc::clone(&self.session), self.live.clone());
        let loaded = self.off_the_workers(move || {
            let mut session = lock(&session);
            let loaded = keeper.load(|page| {
                for rejection in session.receive(page, |update| live.stage(update)).rejections {
                    tracing::warn!(resource = rejection.name, reason = rejection.reason, "kept configuration rejected");
                }
            });
            match loaded {
                Some((written, digests)) => {
                    session.set_digests(digests);
                    live.apply(vec![Update::Complete]);
                    Some(written)
                }
                None => {
                    live.discard();
                    *session = session.resuming(&live.snapshot());
                    None
                }
            }
        });
        if let Ok(Some(written)) = loaded.await {
            let counts = self.live.snapshot().counts();
            tracing::warn!(
                ?counts, age = ?written.elapsed().unwrap_or_default(),
                "serving the configuration kept on disk until the control plane answers"
            );
            self.status.loaded(written);
            self.pending.clear();
        }
    }

    async fn follow(&mut self, drain: &mut Drain) {
        loop {
            let ending = tokio::select! {
                _ = drain.started() => return,
                ending = self.stream() => ending,
            };
            self.metrics.connected.set(0.0);
            self.metrics.terminated(&ending);
            self.status.ended();
            if let Some(demand) = self.live.demand() {
                demand.set_connected(false);
            }
            // Half of an answer is newer than nothing of it; the rest comes with the next stream.
            let live = self.live.clone();
            let _ = self.off_the_workers(move || live.publish()).await;
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
        let session = Arc::clone(&self.session);
        let (mut subscriptions, demand) = match self.off_the_workers(move || lock(&session).connected()).await {
            Ok(subscriptions) => (subscriptions, self.live.demand().cloned()),
            Err(unusable) => return unusable,
        };
        if let Some(demand) = &demand {
            subscriptions.extend(Session::ask(demand.all(), Vec::new()));
        }
        let (requests, receiver) = mpsc::channel(REQUEST_QUEUE + subscriptions.len());
        for request in subscriptions {
            // The queue is empty and has room for all of them.
            let _ = requests.try_send(request);
        }
        let largest = self.control_plane.limits().size(&limits::XDS_MESSAGE);
        let mut client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(largest)
            .max_encoding_message_size(largest);
        let mut responses = match client.delta_aggregated_resources(ReceiverStream::new(receiver)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ending::of_status(status),
        };
        self.metrics.connected.set(1.0);
        if let Some(demand) = &demand {
            demand.set_connected(true);
        }
        tracing::info!("configuration stream is up");
        loop {
            let response = tokio::select! {
                response = responses.message() => match response {
                    Ok(Some(response)) => response,
                    Ok(None) => return Ending::Complete,
                    Err(status) => return Ending::of_status(status),
                },
                // The rest of the answer is late: what there is of it is not held up any longer.
                () = sleep_until((self.published + limits::XDS_PUBLISH_DELAY.duration()).into()), if self.staged => {
                    let live = self.live.clone();
                    match self.off_the_workers(move || live.snapshot().is_complete().then(|| live.publish())).await {
                        Ok(_) => (self.published, self.staged) = (Instant::now(), false),
                        Err(unusable) => return unusable,
                    }
                    continue;
                }
                () = wanted(demand.as_ref()) => {
                    let changes = demand.as_ref().map(Demand::changes).unwrap_or_default();
                    // Apart, since one request cannot say both of one name.
                    let mut told = Session::ask(Vec::new(), changes.unsubscribe);
                    told.extend(Session::ask(changes.subscribe, Vec::new()));
                    for request in told {
                        if requests.send(request).await.is_err() {
                            return Ending::Complete;
                        }
                    }
                    continue;
                }
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
    async fn respond(&mut self, mut response: DeltaDiscoveryResponse) -> Result<Option<DeltaDiscoveryRequest>, Ending> {
        self.metrics.received(&response);
        let (session, live, keeper) = (Arc::clone(&self.session), self.live.clone(), self.keeper.clone());
        let is_late = self.published.elapsed() >= limits::XDS_PUBLISH_DELAY.duration();
        let (outcome, everything, published) = self
            .off_the_workers(move || {
                let mut session = lock(&session);
                let received = keeper.as_ref().and_then(|_| Received::of(&mut response));
                let outcome = session.receive(response, |update| live.stage(update));
                // The pages of an answer together, unless that takes too long; and nobody waits for a whole who asked
                // for one.
                let is_part = outcome.extent == Extent::Part;
                let published = !is_part || live.demand().is_some() || (is_late && live.snapshot().is_complete());
                if published {
                    live.publish();
                }
                if let (Some(keeper), Some(received)) = (keeper, received) {
                    keeper.record(received, &outcome.rejections, &outcome.removed);
                    if !is_part && session.is_answered() {
                        keeper.settle(session.digests());
                    }
                }
                if let Some(demand) = live.demand() {
                    demand.found(outcome.found.iter().map(String::as_str));
                    // Ours does; it is the one that understands digests.
                    demand.missing(outcome.removed.iter().map(String::as_str), session.digests());
                }
                (outcome, session.is_answered(), published)
            })
            .await?;
        if published {
            self.published = Instant::now();
        }
        self.staged = !published;
        self.status.answered(everything);
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
                self.live.discard();
                let mut session = lock(&self.session);
                *session = session.resuming(&self.live.snapshot());
                drop(session);
                self.backoff.unusable();
                Err(Ending::Error(Box::new(Status::internal("applying configuration failed"))))
            }
        }
    }
}

/// Waits until there are names to ask for; for ever where names are not asked for.
async fn wanted(demand: Option<&Demand>) {
    match demand {
        Some(demand) => demand.wanted().await,
        None => std::future::pending().await,
    }
}

fn lock(session: &Mutex<Session>) -> std::sync::MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
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
