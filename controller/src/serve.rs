//! Discovery over gRPC: one task per client brings it to the newest world, by delta here (interop §3), and as the state of
//! the world in [`whole`].

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fairway_core::io::drain::Drain;
use fairway_proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryService;
use fairway_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use fairway_proto::envoy_core::Node;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub mod clients;
pub mod session;
mod status;
mod whole;

use clients::{Client, Clients, Membership};
use session::{Event, Session};

use crate::l7;
use crate::l7::client::metadata;
use crate::metrics::Metrics;
use crate::state::Published;
use crate::token::{Caller, Verifier};

/// Responses handed to the transport and not yet written; the rest is made when there is room.
const OUTGOING: usize = 1;
/// How long a new client may take to subscribe to every type; proxies do so at once.
const SUBSCRIPTIONS_PATIENCE: Duration = Duration::from_millis(100);
/// Largest request: 500,000 names with versions, which a client sends when it reconnects.
pub const MAXIMUM_REQUEST_BYTES: usize = 64 * 1024 * 1024;

/// The discovery service.
#[derive(Clone, Debug)]
pub struct Discovery {
    published: watch::Receiver<Arc<Published>>,
    verifier: Arc<Verifier>,
    clients: Clients,
    metrics: Metrics,
    drain: Drain,
    maximum_age: Option<Duration>,
    root_namespace: String,
}

impl Discovery {
    /// A service that sends what is published to callers with a token.
    #[must_use]
    pub fn new(
        published: watch::Receiver<Arc<Published>>,
        verifier: Arc<Verifier>,
        clients: Clients,
        metrics: Metrics,
        drain: Drain,
    ) -> Self {
        Self { published, verifier, clients, metrics, drain, maximum_age: None, root_namespace: String::new() }
    }

    /// Ends streams after about this long, at a moment when nothing is under way: clients spread over the controllers
    /// again, and show a token that is valid still. Theirs is spread by a tenth, so that they do not all come at once.
    #[must_use]
    pub fn with_maximum_age(self, maximum_age: Option<Duration>) -> Self {
        Self { maximum_age, ..self }
    }

    /// Callers from this namespace may see how far every proxy is, others only those of their own.
    #[must_use]
    pub fn with_root_namespace(self, root_namespace: String) -> Self {
        Self { root_namespace, ..self }
    }
}

type Answers<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let caller = self.verifier.authenticate(request.metadata(), SystemTime::now()).await?;
        let (answers, outgoing) = mpsc::channel(OUTGOING);
        let stream = whole::Stream {
            requests: request.into_inner(),
            answers,
            published: self.published.clone(),
            metrics: self.metrics.clone(),
            clients: self.clients.clone(),
            root_namespace: self.root_namespace.clone(),
        };
        tokio::spawn(stream.serve(caller, self.drain.clone()));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let caller = self.verifier.authenticate(request.metadata(), SystemTime::now()).await?;
        let (answers, outgoing) = mpsc::channel(OUTGOING);
        let stream = Stream {
            requests: request.into_inner(),
            answers,
            published: self.published.clone(),
            metrics: self.metrics.clone(),
            session: Session::default(),
            ends: self.maximum_age.map(|age| Instant::now() + spread(age, rand::random())),
        };
        let (clients, drain) = (self.clients.clone(), self.drain.clone());
        tokio::spawn(stream.serve(caller, clients, drain));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

struct Stream {
    requests: Streaming<DeltaDiscoveryRequest>,
    answers: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    published: watch::Receiver<Arc<Published>>,
    metrics: Metrics,
    session: Session,
    /// When it has lived long enough.
    ends: Option<Instant>,
}

impl Stream {
    async fn serve(mut self, caller: Caller, clients: Clients, mut drain: Drain) {
        let answers = self.answers.clone();
        let ended = tokio::select! {
            ended = self.run(&caller, &clients) => ended,
            _ = drain.started() => Err(Status::unavailable("the controller is shutting down; connect again")),
            () = answers.closed() => Ok(()),
        };
        if let Err(status) = ended {
            // Nobody listens when the client has gone.
            let _ = answers.send(Err(status)).await;
        }
    }

    async fn run(&mut self, caller: &Caller, clients: &Clients) -> Result<(), Status> {
        let Some(first) = self.requests.message().await? else { return Ok(()) };
        let node = first.node.clone().unwrap_or_default();
        check_node(&node, caller)?;
        let client = describe(&node, caller);
        let id = client.id.clone();
        let membership = clients.join(client);
        let connected = self.metrics.clients.clone();
        connected.increment(1.0);
        let _leave = Leave(connected);
        tracing::info!(client = id, caller = %caller, "discovery client connected");
        self.session = Session::of(l7::Client::new(&node, &caller.namespace, &caller.service_account));
        self.take(first, &id)?;
        self.await_subscriptions(&id).await?;
        let result = self.exchange(&id, &membership).await;
        tracing::info!(client = id, reason = result.as_ref().err().map(Status::message), "discovery client left");
        result
    }

    /// A plan for some types only would send workloads that name policies the client does not hold yet, and whoever names an
    /// unknown policy refuses: after a restart of ours that would cut open connections.
    async fn await_subscriptions(&mut self, id: &str) -> Result<(), Status> {
        let patience = tokio::time::sleep(SUBSCRIPTIONS_PATIENCE);
        tokio::pin!(patience);
        while !self.session.has_every_type() {
            tokio::select! {
                request = self.requests.message() => match request? {
                    Some(request) => self.take(request, id)?,
                    None => return Ok(()),
                },
                () = &mut patience => return Ok(()),
            }
        }
        Ok(())
    }

    async fn exchange(&mut self, id: &str, membership: &Membership) -> Result<(), Status> {
        let answers = self.answers.clone();
        loop {
            if self.session.is_idle() {
                let published = Arc::clone(&self.published.borrow_and_update());
                // Before the first reading an empty world would withdraw what clients hold.
                if published.world.generation > 0 {
                    self.session.plan(&published.world);
                }
            }
            membership.update(self.session.progress());
            let (can_send, is_idle) = (self.session.can_send(), self.session.is_idle());
            tokio::select! {
                permit = answers.reserve(), if can_send => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(response) = self.session.next_response() {
                        self.metrics.responses.increment(1);
                        permit.send(Ok(response));
                    }
                }
                request = self.requests.message() => match request? {
                    Some(request) => self.take(request, id)?,
                    None => return Ok(()),
                },
                () = until(self.ends), if is_idle => return Ok(()),
                changed = self.published.changed(), if is_idle => {
                    changed.map_err(|_| Status::unavailable("the controller is shutting down; connect again"))?;
                }
            }
        }
    }

    fn take(&mut self, request: DeltaDiscoveryRequest, id: &str) -> Result<(), Status> {
        match self.session.receive(request) {
            Event::Refused(kind, message) => {
                self.metrics.nacks.increment(1);
                tracing::warn!(client = id, r#type = kind.short_name(), message, "discovery client refused a response");
            }
            Event::UnknownType(type_url) => {
                tracing::debug!(client = id, type_url, "discovery client asked for a type that is not served");
            }
            Event::Flood => {
                return Err(Status::resource_exhausted(
                    "more names are asked for than answers are taken; connect again",
                ));
            }
            event => tracing::trace!(client = id, ?event, "discovery request"),
        }
        Ok(())
    }
}

/// The age by chance, from 0 to 1, between nine and eleven tenths of its nominal length.
fn spread(age: Duration, chance: f64) -> Duration {
    age.mul_f64(0.9 + chance.clamp(0.0, 1.0) / 5.0)
}

async fn until(ends: Option<Instant>) {
    match ends {
        Some(ends) => tokio::time::sleep_until(ends).await,
        None => std::future::pending().await,
    }
}

/// Keeps the gauge of clients true however a stream ends.
struct Leave(::metrics::Gauge);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// A client must not call itself by another namespace than its token's.
fn check_node(node: &Node, caller: &Caller) -> Result<(), Status> {
    match metadata(node, "NAMESPACE") {
        Some(claimed) if claimed != caller.namespace => Err(Status::permission_denied(format!(
            "the node says namespace {claimed:?} and its token says {:?}; check POD_NAMESPACE of the proxy",
            caller.namespace
        ))),
        _ => Ok(()),
    }
}

fn describe(node: &Node, caller: &Caller) -> Client {
    let since = time::OffsetDateTime::now_utc();
    Client {
        id: node.id.clone(),
        node: metadata(node, "NODE_NAME").unwrap_or_default().to_owned(),
        namespace: caller.namespace.clone(),
        cluster: metadata(node, "CLUSTER_ID").unwrap_or_default().to_owned(),
        version: ["FAIRWAY_VERSION", "ISTIO_VERSION"]
            .iter()
            .find_map(|key| metadata(node, key))
            .unwrap_or_default()
            .to_owned(),
        connected_since: since.format(&time::format_description::well_known::Rfc3339).unwrap_or_default(),
        types: std::collections::BTreeMap::new(),
    }
}
