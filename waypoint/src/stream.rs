//! One stream of a tunnel, top to bottom: what it asks for, who may, what it carries, and on it goes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use fairway_core::addr::canonical;
use fairway_core::ident::Identity;
use fairway_core::io::drain::Drain;
use fairway_core::io::hbone::headers::{BAGGAGE, Baggage};
use fairway_core::io::hbone::lifetime::Lifetime;
use fairway_core::io::hbone::server::Incoming;
use fairway_core::io::hbone::{TunnelIo, TunnelStream};
use fairway_core::limits;
use fairway_core::reason::Reason;
use fairway_core::route::{self, Bound};
use fairway_core::service::AppProtocol;
use fairway_core::snapshot::Snapshot;
use fairway_core::workload::Workload;
use http::HeaderMap;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Duration, sleep, timeout};

use crate::carried::Carried;
use crate::client_hello::{self, Hello};
use crate::config::{Chain, Config, Listener, Proxies, Rules, Silent};
use crate::dial::{self, Client};
use crate::facts::{Facts, Head};
use crate::failure::Failure;
use crate::http_server;
use crate::in_flight;
use crate::named::Named;
use crate::noted::Noted;
use crate::opaque::{self, Route, Terms};
use crate::rbac;
use crate::remote;
use crate::sniff::{self, Speech};
use crate::telemetry::AtHand;
use crate::waypoint::Waypoint;

/// How long a client that says nothing is taken for one that waits for the server to begin. Only then is a server connected
/// that may turn out not to be needed; whoever speaks first still decides.
const SERVER_FIRST: Duration = Duration::from_millis(100);
/// Name of the listener for what is addressed to workloads.
pub(crate) const WORKLOADS: &str = "workloads";

/// A stream that asks to be let through, and what is known of it from the connection it came on.
pub struct Stream {
    /// What all connections share.
    pub waypoint: Arc<Waypoint>,
    /// Where the tunnel comes from.
    pub peer: SocketAddr,
    /// Whom the client has proved to be.
    pub identity: Identity,
    /// How long the tunnel holds.
    pub lifetime: Lifetime,
    /// Starts when we stop, which waits for those who hold it.
    pub drain: Drain,
    /// The request.
    pub incoming: Incoming,
    /// Held for as long as the stream lives.
    pub permit: OwnedSemaphorePermit,
}

/// A stream of which it is known what it asks for.
pub struct Connection {
    /// What all connections share.
    pub waypoint: Arc<Waypoint>,
    /// Ourselves.
    pub local: Arc<Workload>,
    /// The client.
    pub client: Client,
    /// What endpoints are told of it.
    pub named: Named,
    /// What it dialled.
    pub bound: Bound,
    /// Name of the listener.
    pub listener: String,
    /// How long the tunnel holds.
    pub lifetime: Lifetime,
    /// Starts when we stop, which waits for those who hold it.
    pub drain: Drain,
    /// When it began.
    pub started: Instant,
    /// Counters at hand.
    pub series: AtHand,
    /// What is under way, for who asks.
    pub in_flight: Arc<in_flight::Stream>,
    /// Held for as long as anything of the stream goes on.
    pub permit: OwnedSemaphorePermit,
}

/// What is done with a stream.
pub(crate) enum Way {
    /// It carries requests.
    Http,
    /// Its first bytes tell whether it carries requests.
    Sniff,
    /// It is passed on as it is, by the name that a TLS client asks for.
    Named,
    /// It is passed on as it is.
    Opaque(Vec<Rules>, Route, Terms),
}

impl Stream {
    /// Serves the stream until it ends.
    pub async fn serve(self) {
        let Self { waypoint, peer, identity, lifetime, drain, incoming, permit } = self;
        let Some(local) = waypoint.known() else { return incoming.refuse(Reason::WorkloadUnknown) };
        let refuse = |incoming: Incoming, failure: &Failure| {
            incoming.refuse(failure.reason);
            waypoint.telemetry.stream_refused(peer, &identity, failure);
        };
        let authority = incoming.authority().filter(|_| incoming.is_connect());
        let Some(authority) = authority else {
            return refuse(incoming, &Failure::new(Reason::BadRequest, "not a CONNECT with an authority"));
        };
        let snapshot = waypoint.live.snapshot();
        let bound = match route::bound(&snapshot, &local, authority) {
            Ok(bound) => bound,
            Err(refusal) => return refuse(incoming, &Failure::from(&*refusal)),
        };
        let source = snapshot.workload_at(&local.network, canonical(peer).ip());
        let workload = source.filter(|source| source.identity() == identity).cloned();
        let baggage = Baggage::parse(incoming.headers());
        let client = Client { identity: identity.clone(), address: peer, workload, baggage };
        let (listener, way) = match way(&waypoint.config.load(), &snapshot, &bound) {
            Ok(way) => way,
            Err(failure) => return refuse(incoming, &failure),
        };
        let (waypoint, series) = (Arc::clone(&waypoint), AtHand::default());
        let named = Named::by(&local.identity(), &client.identity, client.address.ip());
        let in_flight = waypoint.in_flight.stream(&client.identity, client.address, &bound);
        let connection = Arc::new(Connection {
            waypoint,
            local,
            client,
            named,
            bound,
            listener,
            lifetime,
            drain,
            started: Instant::now(),
            series,
            in_flight,
            permit,
        });
        match way {
            Way::Opaque(policies, route, terms) => connection.opaque(incoming, &policies, &route, &terms).await,
            Way::Named => connection.named(incoming).await,
            Way::Http => {
                if let Some((tunnel, ahead, speech)) = connection.listen(incoming).await {
                    connection.http(tunnel, ahead, speech).await;
                }
            }
            Way::Sniff => connection.sniff(incoming).await,
        }
    }
}

/// What the configuration says of what was dialled. What is not configured yet is refused: a policy could be missing.
pub(crate) fn way(config: &Config, snapshot: &Snapshot, bound: &Bound) -> Result<(String, Way), Failure> {
    let missing = |name: &str| match config.faults.get(name) {
        Some(fault) => Failure::new(Reason::ResourceInvalid, format!("listener {name}: {fault}")),
        None => Failure::new(Reason::DestinationUnknown, format!("no configuration for {name} yet")),
    };
    let (name, is_dialled) = match bound {
        Bound::Service { service, address } => (format!("{}:{}", service.hostname(), address.port()), false),
        Bound::Workload { .. } => (WORKLOADS.to_owned(), true),
    };
    let protocol = bound.declared(snapshot);
    let is_opaque = matches!(protocol, AppProtocol::Tcp | AppProtocol::Tls);
    let as_it_is = |chain: &Chain| {
        let route = if is_dialled { Route::Dialled } else { Route::Clusters(chain.clusters.clone()) };
        Way::Opaque(chain.policies.clone(), route, Terms { idle: chain.idle, ..Terms::default() })
    };
    let way = match config.listeners.get(&name).map(|listener| &**listener) {
        Some(Listener::Http(http)) => match &http.otherwise {
            Some(chain) if is_opaque => as_it_is(chain),
            _ if protocol == AppProtocol::Unknown => Way::Sniff,
            _ => Way::Http,
        },
        Some(Listener::Opaque(opaque)) if opaque.reads_names => Way::Named,
        Some(Listener::Opaque(opaque)) => as_it_is(opaque.chain(None).ok_or_else(|| missing(&name))?),
        // The controller says that there is nothing to be said of it.
        None if (is_opaque || is_dialled) && config.absent.contains(&name) => {
            Way::Opaque(Vec::new(), Route::Dialled, Terms::default())
        }
        None => return Err(missing(&name)),
    };
    Ok((name, way))
}

impl Connection {
    /// What is known of the connection, without a request and before anybody has looked into it.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        Facts::of(&self.client.identity, self.client.address.ip(), self.bound.address())
    }

    /// What is known of a request on it, which comes from `remote`.
    #[must_use]
    pub fn facts_of<'a>(&'a self, head: Head<'a>, remote: Option<IpAddr>) -> Facts<'a> {
        self.facts().of_request(head, remote)
    }

    /// Where a request with these headers comes from; none where nobody who is believed says so.
    #[must_use]
    pub fn remote(&self, proxies: &Proxies, headers: &HeaderMap) -> Option<IpAddr> {
        remote::address(proxies, &self.client.identity, self.client.address.ip(), headers)
    }

    /// What policies say that decide nothing, counted; none where they say nothing.
    pub(crate) fn noted(&self, silent: &[Silent], enforced: &[Rules], facts: &Facts<'_>) -> Option<Box<Noted>> {
        if silent.is_empty() {
            return None;
        }
        let noted = Noted::of(silent, enforced, facts);
        self.waypoint.telemetry.noted(&self.series, &noted);
        (noted != Noted::default()).then(|| Box::new(noted))
    }

    /// Policy, then the endpoint, then 200.
    async fn opaque(&self, incoming: Incoming, policies: &[Rules], route: &Route, terms: &Terms) {
        if let Err(denial) = rbac::judge(policies, &self.facts()) {
            let failure = denied(&denial);
            incoming.refuse(failure.reason);
            return Carried::refused(failure).end(self);
        }
        let mut told = Carried::default();
        let way = match opaque::open(self, route, &mut told).await {
            Ok(way) => way,
            Err(failure) => {
                incoming.refuse(failure.reason);
                return told.failed(failure).end(self);
            }
        };
        if let Ok(tunnel) = incoming.accept(describe(&self.local)) {
            opaque::carry(self, tunnel, (Bytes::new(), Bytes::new()), way, terms).await;
        }
    }

    /// 200, then the name that the client asks for, policy, and the endpoint.
    async fn named(&self, incoming: Incoming) {
        let Ok(mut tunnel) = incoming.accept(describe(&self.local)) else { return };
        let mut ahead = BytesMut::new();
        let mut told = Carried::default();
        let begun = |bytes: &[u8]| Some(client_hello::read(bytes)).filter(|hello| *hello != Hello::Incomplete);
        let patience = self.waypoint.limits.duration(&limits::CLIENT_HELLO_TIMEOUT);
        // Of who says no more than a part of it, the name is not known.
        let opened = match timeout(patience, hear(&mut tunnel, &mut ahead, begun, Hello::Garbled)).await {
            Ok(None) => return,
            Ok(Some(hello)) => self.opened_by_name(hello, &mut told).await,
            Err(_elapsed) => Err(Failure::new(Reason::TimedOut, format!("no name of TLS within {patience:?}"))),
        };
        match opened {
            Ok((way, terms)) => opaque::carry(self, tunnel, (ahead.freeze(), Bytes::new()), way, &terms).await,
            Err(failure) => {
                told.failed(failure).end(self);
                tunnel.abort();
            }
        }
    }

    async fn opened_by_name(&self, hello: Hello, told: &mut Carried) -> Result<(opaque::Way, Terms), Failure> {
        // What could not be read may ask for any name: no policy takes it for one that asks for none.
        let is_name_read = hello != Hello::Garbled;
        let server_name = if let Hello::Name(name) = hello { Some(name) } else { None };
        (told.server_name, told.is_name_read) = (server_name.clone(), is_name_read);
        let terms = Terms { server_name, is_name_read, idle: None };
        let config = self.waypoint.config.load();
        let chain = match config.listeners.get(&self.listener).map(|listener| &**listener) {
            Some(Listener::Opaque(opaque)) => opaque.chain(terms.server_name.as_deref()),
            _ => return Err(Failure::new(Reason::DestinationUnknown, &self.listener)),
        };
        let unnamed = if is_name_read { "no name" } else { "what cannot be read" };
        let asked = || format!("TLS for {}", terms.server_name.as_deref().unwrap_or(unnamed));
        let chain = chain.ok_or_else(|| Failure::new(Reason::RouteNotFound, asked()))?;
        let facts = Facts { server_name: terms.requested(), ..self.facts() };
        rbac::judge(&chain.policies, &facts).map_err(|denial| denied(&denial))?;
        let way = opaque::open(self, &Route::Clusters(chain.clusters.clone()), told).await?;
        Ok((way, Terms { idle: chain.idle, ..terms }))
    }

    /// The first bytes of a client that has to speak first.
    async fn listen(&self, incoming: Incoming) -> Option<(TunnelStream, Bytes, Speech)> {
        let mut tunnel = incoming.accept(describe(&self.local)).ok()?;
        let mut ahead = BytesMut::new();
        let patience = self.waypoint.limits.duration(&limits::CLIENT_IDLE);
        let speech = timeout(patience, hear(&mut tunnel, &mut ahead, spoken, Speech::Unclear)).await.ok()??;
        Some((tunnel, ahead.freeze(), speech))
    }

    async fn http(self: Arc<Self>, mut tunnel: TunnelStream, ahead: Bytes, speech: Speech) {
        match speech {
            Speech::Http1 => http_server::serve_http1(self, TunnelIo::new(tunnel, ahead)).await,
            Speech::Http2 => http_server::serve_http2(self, TunnelIo::new(tunnel, ahead)).await,
            Speech::Opaque | Speech::Unclear => {
                let failure =
                    Failure::new(Reason::BadRequest, "the port is declared as HTTP and carries something else");
                Carried::refused(failure).end(&self);
                tunnel.abort();
            }
        }
    }

    /// Nobody has said what the port speaks: whoever speaks first tells.
    async fn sniff(self: Arc<Self>, incoming: Incoming) {
        let Ok(mut tunnel) = incoming.accept(describe(&self.local)) else { return };
        let mut ahead = BytesMut::new();
        let heard = timeout(SERVER_FIRST, hear(&mut tunnel, &mut ahead, spoken, Speech::Unclear)).await;
        match heard {
            Ok(None) => return,
            Ok(Some(speech @ (Speech::Http1 | Speech::Http2))) => {
                return self.http(tunnel, ahead.freeze(), speech).await;
            }
            Ok(Some(Speech::Opaque | Speech::Unclear)) | Err(_) => {}
        }
        let mut told = Carried::default();
        let refused = |mut tunnel: TunnelStream, told: Carried, failure: Failure| {
            told.failed(failure).end(&self);
            tunnel.abort();
        };
        // What needs a request to be known is missing here, and does not widen access.
        let config = self.waypoint.config.load();
        let listener = config.listeners.get(&self.listener);
        let otherwise = match listener.map(|listener| &**listener) {
            Some(Listener::Http(http)) => http.otherwise.as_ref(),
            _ => None,
        };
        let terms = Terms { idle: otherwise.and_then(|chain| chain.idle), ..Terms::default() };
        let facts = self.facts();
        let Some(judged) = listener.and_then(|listener| rbac::judge_connection(listener, &facts)) else {
            return refused(tunnel, told, Failure::new(Reason::DestinationUnknown, &self.listener));
        };
        let way = match judged {
            Ok(()) => opaque::open(&self, &Route::Dialled, &mut told).await,
            Err(denial) => Err(denied(&denial)),
        };
        let mut way = match way {
            Ok(way) => way,
            Err(failure) if heard.is_ok() => return refused(tunnel, told, failure),
            // The client may still turn out to speak HTTP, about which more can be known.
            Err(failure) => {
                let heard = tokio::select! {
                    heard = hear(&mut tunnel, &mut ahead, spoken, Speech::Unclear) => heard,
                    () = self.silent_for_too_long() => None,
                };
                return match heard {
                    Some(speech @ (Speech::Http1 | Speech::Http2)) => self.http(tunnel, ahead.freeze(), speech).await,
                    _ => refused(tunnel, told, failure),
                };
            }
        };
        if heard.is_ok() {
            return opaque::carry(&self, tunnel, (ahead.freeze(), Bytes::new()), way, &terms).await;
        }
        tokio::select! {
            spoken = way.first_bytes() => {
                let spoken = spoken.unwrap_or_default();
                opaque::carry(&self, tunnel, (ahead.freeze(), spoken), way, &terms).await;
            }
            heard = hear(&mut tunnel, &mut ahead, spoken, Speech::Unclear) => match heard {
                Some(speech @ (Speech::Http1 | Speech::Http2)) => self.http(tunnel, ahead.freeze(), speech).await,
                Some(_) => {
                    opaque::carry(&self, tunnel, (ahead.freeze(), Bytes::new()), way, &terms).await;
                }
                None => {}
            },
            () = self.silent_for_too_long() => {}
        }
    }

    /// Resolves when a connection on which nobody has said anything has waited for long enough, or we stop and have given notice of it.
    async fn silent_for_too_long(&self) {
        let patience = self.waypoint.limits.duration(&limits::CLIENT_IDLE);
        let mut drain = self.drain.clone();
        let stopped = async {
            let _mode = drain.started().await;
            sleep(self.waypoint.drain_notice).await;
        };
        let _elapsed = timeout(patience, stopped).await;
    }
}

/// Reads until `begun` knows what the first bytes are; `unclear` where the client says no more. None when it has broken off.
/// Safe to cancel and call again.
async fn hear<T>(
    tunnel: &mut TunnelStream,
    ahead: &mut BytesMut,
    begun: impl Fn(&[u8]) -> Option<T>,
    unclear: T,
) -> Option<T> {
    loop {
        if let Some(known) = begun(ahead) {
            return Some(known);
        }
        match tunnel.receiver.receive().await {
            Ok(Some(bytes)) => ahead.extend_from_slice(&bytes),
            Ok(None) => return Some(unclear),
            Err(_broken) => return None,
        }
    }
}

fn spoken(first: &[u8]) -> Option<Speech> {
    Some(sniff::classify(first)).filter(|speech| *speech != Speech::Unclear)
}

/// The failure of a denial.
#[must_use]
pub fn denied(denial: &rbac::Denial<'_>) -> Failure {
    let detail = match denial.policy {
        Some(policy) => format!("{} (policy {policy})", denial.reason.message().trim_end_matches('.')),
        None => denial.reason.message().to_owned(),
    };
    Failure::new(denial.reason, detail)
}

/// Resolves when policy changes its mind about what is under way: `judge` says whether it might still begin.
pub(crate) async fn denied_later(connection: &Connection, judge: impl Fn(&Config) -> Result<(), Failure>) -> Failure {
    // Subscribed first and decided second, so that no change falls in between.
    let mut changes = connection.waypoint.config.changes();
    loop {
        if let Err(failure) = judge(&connection.waypoint.config.load()) {
            return failure;
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// The 200's baggage (interop §1.3).
fn describe(local: &Workload) -> HeaderMap {
    Baggage::of(local).to_value().map(|value| (BAGGAGE, value)).into_iter().collect()
}

/// The plan for what was dialled.
///
/// # Errors
/// When it cannot be reached.
pub fn plan(snapshot: &Snapshot, local: &Workload, bound: &Bound) -> Result<route::Plan, Failure> {
    match bound {
        Bound::Service { address, .. } => {
            let planned = route::plan(snapshot, local, *address, &mut rand::rng());
            planned.map_err(|refusal| Failure::from(&*refusal))
        }
        // Connections that carry requests last, and addresses are used again: whoever has this one now may have another waypoint, and
        // so may the workload itself by now.
        Bound::Workload { workload, address } => match route::bound(snapshot, local, &address.to_string()) {
            Ok(Bound::Workload { workload: now, .. }) if now.uid == workload.uid => {
                dial::plan(snapshot, local, None, *address)
            }
            _ => {
                let detail = format!("{} at {address} is not bound to this waypoint any more", workload.name);
                Err(Failure::new(Reason::WorkloadRemoved, detail))
            }
        },
    }
}
