//! Discovery over gRPC: one task per client brings it to the newest world, by delta here (interop §3), and as the state of
//! the world in [`whole`].

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fairway_core::io::drain::Drain;
use fairway_core::source::{Kind, ObjectKey};
use fairway_proto::discovery::aggregated_discovery_service_server::AggregatedDiscoveryService;
use fairway_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use fairway_proto::envoy_core::Node;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

mod age;
pub mod clients;
pub mod session;
mod status;
mod whole;

use age::Age;
use clients::{Client, Clients, Membership};
use session::{Event, Role, Session};

use crate::l7;
use crate::l7::client::metadata;
use crate::l7::waypoints::GatewayName;
use crate::metrics::Metrics;
use crate::state::Published;
use crate::token::{Caller, Verifier};
use crate::translate::waypoint;

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
    /// Namespaces and service accounts of node proxies.
    node_accounts: Arc<BTreeSet<(String, String)>>,
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
        let (root_namespace, node_accounts) = (String::new(), Arc::default());
        Self { published, verifier, clients, metrics, drain, maximum_age: None, root_namespace, node_accounts }
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

    /// Callers with these namespaces and service accounts are node proxies. They and waypoints may know all workloads and
    /// policies, others only those that they name.
    #[must_use]
    pub fn with_node_accounts(self, accounts: BTreeSet<(String, String)>) -> Self {
        Self { node_accounts: Arc::new(accounts), ..self }
    }

    /// What the caller with this namespace and service account is. Waypoints run as an account that has the name of their
    /// gateway (`l7/client.rs`).
    fn role(&self, account: &(String, String)) -> Role {
        if self.node_accounts.contains(account) {
            return Role::Node;
        }
        let gateway = ObjectKey::new(Kind::Gateway, &account.0, &account.1);
        let published = self.published.borrow();
        let found = published.loaded.objects.gateways.get(&gateway);
        let is_waypoint = found.is_some_and(|gateway| waypoint::is_class(&gateway.spec.gateway_class_name));
        if is_waypoint { Role::Waypoint } else { Role::Other }
    }

    async fn authenticate<T>(&self, request: &Request<T>) -> Result<(Caller, Age), Status> {
        let metadata = request.metadata();
        let caller = self.verifier.authenticate(metadata, address(request), SystemTime::now()).await?;
        Ok((caller, Age::new(self.maximum_age, &self.verifier, metadata)))
    }
}

/// Where a request comes from.
pub(crate) fn address<T>(request: &Request<T>) -> Option<IpAddr> {
    request.extensions().get::<SocketAddr>().map(SocketAddr::ip)
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
        let (caller, age) = self.authenticate(&request).await?;
        let (answers, outgoing) = mpsc::channel(OUTGOING);
        let stream = whole::Stream {
            requests: request.into_inner(),
            answers,
            published: self.published.clone(),
            metrics: self.metrics.clone(),
            clients: self.clients.clone(),
            root_namespace: self.root_namespace.clone(),
            age,
        };
        tokio::spawn(stream.serve(caller, self.drain.clone()));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (caller, age) = self.authenticate(&request).await?;
        let (answers, outgoing) = mpsc::channel(OUTGOING);
        let account = (caller.namespace.clone(), caller.service_account.clone());
        let stream = Stream {
            requests: request.into_inner(),
            answers,
            published: self.published.clone(),
            metrics: self.metrics.clone(),
            session: Session::default(),
            role: self.role(&account),
            age,
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
    role: Role,
    age: Age,
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
        let client = l7::Client::new(&node, &caller.namespace, &caller.service_account);
        let described = describe(&node, caller, self.role == Role::Node, client.gateway.as_ref());
        let id = described.id.clone();
        let membership = clients.join(described);
        let connected = self.metrics.clients.clone();
        connected.increment(1.0);
        let _leave = Leave(connected);
        tracing::info!(client = id, caller = %caller, "discovery client connected");
        self.session = Session::of(client, self.role);
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
                () = self.age.over(), if is_idle => return Ok(()),
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
            Event::Denied(kind) => {
                return Err(Status::permission_denied(format!(
                    "only node proxies and waypoints may subscribe to all of {}; name what is wanted, or add the service account to \
                     --trusted-node-accounts",
                    kind.short_name()
                )));
            }
            event => tracing::trace!(client = id, ?event, "discovery request"),
        }
        Ok(())
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

fn describe(node: &Node, caller: &Caller, is_node: bool, gateway: Option<&GatewayName>) -> Client {
    let since = time::OffsetDateTime::now_utc();
    Client {
        id: node.id.clone(),
        node: metadata(node, "NODE_NAME").unwrap_or_default().to_owned(),
        namespace: caller.namespace.clone(),
        cluster: metadata(node, "CLUSTER_ID").unwrap_or_default().to_owned(),
        is_node,
        gateway: gateway.cloned(),
        version: ["FAIRWAY_VERSION", "ISTIO_VERSION"]
            .iter()
            .find_map(|key| metadata(node, key))
            .unwrap_or_default()
            .to_owned(),
        connected_since: since.format(&time::format_description::well_known::Rfc3339).unwrap_or_default(),
        types: std::collections::BTreeMap::new(),
    }
}
