//! Connections that nobody looks into: bytes both ways until both ends are done, or policy says no.

use std::net::SocketAddr;
use std::pin::pin;

use bytes::Bytes;
use fairway_core::addr::Authority;
use fairway_core::io::copy::{self, CopyError, Meter};
use fairway_core::io::hbone::TunnelStream;
use fairway_core::io::hbone::stream::{StreamError, TunnelReceiver, TunnelSender};
use fairway_core::limits;
use fairway_core::reason::Reason;
use fairway_core::route::{Hop, Plan};
use h2::Reason as Code;
use rand::RngExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::activity::Activity;
use crate::carried::Carried;
use crate::config::{Cluster, Config, Weighted};
use crate::dial::{self, Opened};
use crate::facts::{Facts, RequestedServerName};
use crate::failure::Failure;
use crate::in_flight::{Entry, Phase, Volume};
use crate::load::{self, UnderWay, Wanted};
use crate::names;
use crate::origination::Inside;
use crate::rbac;
use crate::secured;
use crate::stream::{self, Connection};
use fairway_core::workload::Workload;

/// Room for the first bytes of a server in clear text; more stays in its socket.
const FIRST_BYTES: usize = 4096;

/// Where a connection goes.
pub enum Route {
    /// To what was dialled.
    Dialled,
    /// To one of these clusters.
    Clusters(Weighted<String>),
}

/// A way to an endpoint.
pub struct Way {
    opened: Opened,
    workload: Option<Arc<Workload>>,
    cluster: Option<String>,
    endpoint: Option<SocketAddr>,
    /// Held in the endpoint's cluster for as long as the connection lasts.
    room: Option<UnderWay>,
    /// Where it is seen.
    entry: Entry,
}

/// What holds for one connection until its end.
#[derive(Debug, Default)]
pub struct Terms {
    /// The name that a TLS client has asked for, which decides whose policies hold.
    pub server_name: Option<String>,
    /// Whether it was looked for one, and what was seen could be read.
    pub is_name_read: bool,
    /// Longest time without a byte in either direction.
    pub idle: Option<Duration>,
}

impl Terms {
    /// The name as policies compare it.
    #[must_use]
    pub fn requested(&self) -> RequestedServerName<'_> {
        RequestedServerName::read(self.is_name_read, self.server_name.as_deref())
    }
}

/// Opens a way to an endpoint. What is known of it on the way is in `told`, for who has to tell that there is none.
///
/// # Errors
/// Why there is none.
pub async fn open(connection: &Connection, route: &Route, told: &mut Carried) -> Result<Way, Failure> {
    let waypoint = &connection.waypoint;
    let entry = connection.in_flight.opaque(std::time::Instant::now());
    let (mut room, mut cluster_name) = (None, None);
    let (plan, cluster) = match route {
        Route::Dialled => {
            let cluster = of_dialled(&waypoint.config.load(), &connection.listener)?;
            let planned = stream::plan(&waypoint.live.snapshot(), &connection.local, &connection.bound)?;
            (names::resolved(waypoint, &connection.local, planned).await?, cluster)
        }
        Route::Clusters(clusters) => {
            let config = waypoint.config.load();
            let nobody = || Failure::new(Reason::NoHealthyUpstream, &connection.listener);
            let name = clusters.at(rand::rng().random_range(0..clusters.total())).ok_or_else(nobody)?;
            told.cluster = Some(name.clone());
            let cluster = config.clusters.get(name).ok_or_else(nobody)?;
            let endpoints = config.endpoints.get(&cluster.endpoints).ok_or_else(nobody)?;
            cluster_name = Some(name.clone());
            let endpoints = names::endpoints(waypoint, cluster, endpoints).await?;
            let load = waypoint.loads.of(&name.as_str().into());
            let too_many = || {
                let most = cluster.bounds.connections;
                Failure::new(Reason::ConnectionLimit, format!("{most} connections to {name}"))
            };
            room = Some(load.connect(cluster).ok_or_else(too_many)?);
            let hash = connection.client.address.ip().to_canonical().to_string();
            let (hash, now) = (Some(load::hash(hash.as_bytes())), Instant::now().into_std());
            let wanted = Wanted { hash, session: None, tried: &[], now };
            let snapshot = waypoint.live.snapshot();
            let mut draw = |count: usize| rand::rng().random_range(0..count);
            let endpoint = load.pick(cluster, &endpoints, &wanted, &mut draw).ok_or_else(nobody)?;
            entry.sent_to(name, endpoint);
            told.endpoint = Some(endpoint);
            let planned = dial::plan_in(cluster, &snapshot, &connection.local, connection.bound.service(), endpoint)?;
            (planned, Some(Arc::clone(cluster)))
        }
    };
    let (workload, endpoint) = (plan.workload().cloned(), endpoint_of(&plan));
    told.workload.clone_from(&workload);
    told.endpoint = endpoint.or(told.endpoint);
    let how = (cluster.as_deref(), Inside::Anything);
    let opening = dial::open(waypoint, &connection.local, &plan, &connection.client, how);
    let opened = match &cluster {
        // A server that takes the connection may still never answer in TLS.
        Some(cluster) => timeout(cluster.connect_timeout, opening).await.unwrap_or_else(|_elapsed| {
            let endpoint = told.endpoint.map_or_else(|| connection.listener.clone(), |endpoint| endpoint.to_string());
            let detail = format!("{endpoint}: no connection within {:?}", cluster.connect_timeout);
            Err(Failure::new(Reason::UpstreamConnectTimeout, detail))
        }),
        None => opening.await,
    }?;
    Ok(Way { opened, workload, cluster: cluster_name, endpoint, room, entry })
}

/// The cluster of what was dialled, which says whether TLS is spoken to it; none where nothing is said of it. One that is not here yet, or
/// cannot be used, might say so.
fn of_dialled(config: &Config, name: &str) -> Result<Option<Arc<Cluster>>, Failure> {
    match config.clusters.get(name) {
        Some(cluster) => Ok(Some(Arc::clone(cluster))),
        None if name == stream::WORKLOADS || !config.listeners.contains_key(name) => Ok(None),
        None => Err(match config.faults.get(name) {
            Some(fault) => Failure::new(Reason::ResourceInvalid, format!("cluster {name}: {fault}")),
            None => Failure::new(Reason::NoHealthyUpstream, format!("no configuration of the cluster {name} yet")),
        }),
    }
}

/// Where a plan ends, as far as that is known here.
fn endpoint_of(plan: &Plan) -> Option<SocketAddr> {
    match plan {
        Plan::Passthrough { address, .. } | Plan::Direct { address, .. } => Some(*address),
        Plan::Tunnel { hop: Hop { authority: Authority::Address(address), .. }, .. } => Some(*address),
        _ => None,
    }
}

impl Way {
    /// What the server says before the client does; safe to cancel. None where it has ended or broken off.
    pub async fn first_bytes(&mut self) -> Option<Bytes> {
        match &mut self.opened {
            Opened::Tunnel { stream, .. } => stream.receiver.receive().await.ok().flatten(),
            Opened::Plain(socket) => {
                let mut first = bytes::BytesMut::with_capacity(FIRST_BYTES);
                socket.read_buf(&mut first).await.ok()?;
                Some(first.freeze())
            }
            Opened::Secured { stream, .. } => secured::piece(stream).await.ok().flatten(),
        }
    }
}

/// Bytes that were carried, and when the last of them were.
struct Counted {
    volume: Arc<Volume>,
    activity: Activity,
}

impl Counted {
    fn add(&self, counter: &AtomicU64, bytes: u64) {
        counter.fetch_add(bytes, Ordering::Relaxed);
        self.activity.note();
    }
}

impl Meter for Counted {
    fn out_of_application(&self, bytes: u64) {
        self.add(&self.volume.to_client, bytes);
    }

    fn towards_application(&self, bytes: u64) {
        self.add(&self.volume.to_endpoint, bytes);
    }
}

/// Carries bytes, those first that were read `ahead` of the client and of the endpoint.
pub async fn carry(connection: &Connection, mut client: TunnelStream, ahead: (Bytes, Bytes), way: Way, terms: &Terms) {
    let waypoint = &connection.waypoint;
    let Way { mut opened, workload, cluster, endpoint, room: _room, entry } = way;
    let server_name = terms.server_name.as_deref();
    let counted = Counted { volume: entry.carries(Phase::Carrying, server_name), activity: Activity::default() };
    let mut drain = connection.drain.clone();
    let result = {
        let copied = pin!(async {
            match &mut opened {
                Opened::Tunnel { stream, .. } => between_tunnels(&mut client, stream, ahead, &counted).await,
                Opened::Plain(socket) => {
                    let (from_client, from_endpoint) = ahead;
                    let length = from_client.len();
                    client.sender.send_all(from_endpoint).await?;
                    socket.write_all(&from_client).await.map_err(CopyError::Peer)?;
                    if length > 0 {
                        client.receiver.consumed(length)?;
                    }
                    copy::with_tunnel(socket, &mut client, &waypoint.limits, &counted).await
                }
                Opened::Secured { stream, .. } => {
                    let patience = waypoint.limits.duration(&limits::COPY_FLUSH);
                    secured::copy(&mut client, &mut **stream, ahead, patience, &counted).await
                }
            }
        });
        tokio::select! {
            copied = copied => copied.map_err(|error| Failure::new(error.reason(), error)),
            failure = stream::denied_later(connection, |config| still(connection, config, terms)) => Err(failure),
            failure = counted.activity.over(terms.idle) => Err(failure),
            () = drain.immediate() => Err(Failure::new(Reason::Draining, "the waypoint stops")),
        }
    };
    if result.is_err() {
        client.abort();
        match opened {
            Opened::Tunnel { mut stream, .. } => stream.abort(),
            Opened::Plain(socket) => fairway_core::io::socket::reset_on_close(&socket),
            Opened::Secured { stream, .. } => stream.abort(),
        }
    }
    let (received, sent) = counted.volume.now();
    let (server_name, is_name_read) = (terms.server_name.clone(), terms.is_name_read);
    let failure = result.err();
    Carried { server_name, is_name_read, cluster, endpoint, workload, received, sent, failure }.end(connection);
}

/// Whether the connection might still be made.
fn still(connection: &Connection, config: &Config, terms: &Terms) -> Result<(), Failure> {
    // What is gone from the configuration cannot be asked; its last answer stands.
    let Some(listener) = config.listeners.get(&connection.listener) else { return Ok(()) };
    let facts = Facts { server_name: terms.requested(), ..connection.facts() };
    let judged = rbac::judge_connection(listener, &facts);
    judged.unwrap_or(Ok(())).map_err(|denial| stream::denied(&denial))
}

async fn between_tunnels(
    client: &mut TunnelStream,
    endpoint: &mut TunnelStream,
    (from_client, from_endpoint): (Bytes, Bytes),
    counted: &Counted,
) -> Result<(), CopyError> {
    let count = |bytes| counted.towards_application(bytes);
    let outward = one_way(&mut client.receiver, &mut endpoint.sender, from_client, count);
    let count = |bytes| counted.out_of_application(bytes);
    let inward = one_way(&mut endpoint.receiver, &mut client.sender, from_endpoint, count);
    tokio::try_join!(outward, inward)?;
    Ok(())
}

async fn one_way(
    from: &mut TunnelReceiver,
    to: &mut TunnelSender,
    first: Bytes,
    count: impl Fn(u64),
) -> Result<(), StreamError> {
    let mut next = Some(first).filter(|first| !first.is_empty());
    loop {
        let bytes = match next.take() {
            Some(bytes) => bytes,
            None => tokio::select! {
                biased;
                received = from.receive() => match received? {
                    Some(bytes) => bytes,
                    None => return to.finish(),
                },
                reset = to.reset() => return match reset {
                    // Whoever takes no more may still have something to say.
                    StreamError::Reset(Code::NO_ERROR | Code::CANCEL) => Ok(()),
                    broken => Err(broken),
                },
            },
        };
        let length = bytes.len();
        to.send_all(bytes).await?;
        count(u64::try_from(length).unwrap_or(u64::MAX));
        // The last bytes of a stream that has ended need no credit.
        let _ = from.consumed(length);
    }
}
