//! Connections that carry requests to endpoints. One is never shared by two clients, so that the tunnel under it can say
//! for whom it is.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fairway_core::ident::Identity;
use fairway_core::io::hbone::TunnelIo;
use fairway_core::limits::{self, Limits};
use fairway_core::reason::Reason;
use fairway_core::route::Plan;
use fairway_core::workload::WorkloadUid;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::config::{Cluster, Origination, Reuse};
use crate::dial::{self, Opened};
use crate::failure::Failure;
use crate::http_server::USUAL_HEADERS;
use crate::load::{Load, UnderWay};
use crate::origination::Inside;
use crate::replay::Attempt;
use crate::stream::Connection;
use crate::taken::{self, Streams};

/// How often connections are looked at that wait for requests.
const SWEEP: Duration = Duration::from_secs(1);

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Of which cluster.
    pub cluster: Arc<str>,
    /// Which endpoint.
    pub endpoint: SocketAddr,
    /// Whose it is, where that is known: an address may be another's by now.
    pub workload: Option<WorkloadUid>,
    /// Whether HTTP/2 is spoken.
    pub http2: bool,
    /// Whom the client has proved to be.
    pub client: Identity,
    /// Where it is.
    pub address: IpAddr,
    /// What the server has proved, in TLS: what was proved for other settings does not count.
    pub tls: Option<Arc<Origination>>,
}

/// A connection that takes requests.
pub struct Upstream {
    sender: Sender,
    begun: Instant,
    reuse: Reuse,
    /// How many it has carried; held by everybody who uses it now.
    requests: Arc<AtomicU32>,
    /// Its place among the cluster's connections; held by the connection, too, and by whatever it goes on as.
    room: Arc<UnderWay>,
    /// After those, so that who is woken finds the connection unused and its place free.
    load: Wakes,
}

/// Wakes who waits for a connection of the cluster when this one is let go of.
#[derive(Clone)]
struct Wakes(Arc<Load>);

impl Drop for Wakes {
    fn drop(&mut self) {
        self.0.free();
    }
}

enum Sender {
    /// One request at a time.
    Http1(http1::SendRequest<Attempt>),
    /// Many.
    Http2(http2::SendRequest<Attempt>),
}

/// Connections that wait for requests, and since when.
pub struct Upstreams {
    waiting: Mutex<Waiting>,
    /// Of one client to one endpoint.
    most: usize,
}

type Waiting = HashMap<Key, Vec<(Upstream, Instant)>>;

/// A request that was not answered.
pub struct Unsent {
    /// Why.
    pub error: hyper::Error,
    /// Whether nothing of it was sent.
    pub untouched: bool,
}

/// Whether a connection has carried enough requests, lasted long enough, or waited too long for the next request.
fn is_spent(reuse: &Reuse, requests: u32, age: Duration, idle: Duration) -> bool {
    reuse.requests.is_some_and(|most| requests >= most)
        || reuse.life.is_some_and(|longest| age >= longest)
        || reuse.idle.is_some_and(|longest| idle >= longest)
}

impl Upstream {
    async fn ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Whether it takes no more requests at `now`; it has waited since `since`, if nobody uses it.
    fn is_over(&self, now: Instant, since: Instant) -> bool {
        let is_closed = match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        };
        let idle = if self.is_unused() { now.saturating_duration_since(since) } else { Duration::ZERO };
        let age = now.saturating_duration_since(self.begun);
        is_closed || is_spent(&self.reuse, self.requests.load(Ordering::Relaxed), age, idle)
    }

    /// Whether nobody else has it.
    fn is_unused(&self) -> bool {
        Arc::strong_count(&self.requests) == 1
    }

    /// The same connection once more, where it carries many requests.
    fn shared(&self) -> Option<Self> {
        let Sender::Http2(sender) = &self.sender else { return None };
        Some(Self {
            sender: Sender::Http2(sender.clone()),
            begun: self.begun,
            reuse: self.reuse,
            requests: Arc::clone(&self.requests),
            room: Arc::clone(&self.room),
            load: self.load.clone(),
        })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// See [`Unsent`].
    pub async fn send(&mut self, request: Request<Attempt>) -> Result<Response<Incoming>, Unsent> {
        let unsent = |mut error: TrySendError<Request<Attempt>>| {
            let untouched = error.take_message().is_some();
            Unsent { error: error.into_error(), untouched }
        };
        self.requests.fetch_add(1, Ordering::Relaxed);
        match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await.map_err(unsent),
            Sender::Http2(sender) => sender.try_send_request(request).await.map_err(unsent),
        }
    }
}

impl Upstreams {
    /// None, and as many as the limits say.
    #[must_use]
    pub fn within(limits: &Limits) -> Self {
        Self { waiting: Mutex::default(), most: limits.size(&limits::IDLE_UPSTREAMS) }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that is there already and can take a request.
    pub async fn take(&self, key: &Key) -> Option<Upstream> {
        loop {
            let mut upstream = {
                let now = Instant::now();
                let mut all = self.lock();
                let waiting = all.get_mut(key)?;
                // Only those that would be next are looked at: clients have tens of them, and what else is over is swept.
                while waiting.pop_if(|(upstream, since)| upstream.is_over(now, *since)).is_some() {}
                let (last, since) = waiting.last_mut()?;
                match last.shared() {
                    // It stays for others.
                    Some(shared) => {
                        *since = now;
                        shared
                    }
                    None => waiting.pop()?.0,
                }
            };
            if upstream.ready().await {
                return Some(upstream);
            }
        }
    }

    /// Keeps a connection for the next request, if it takes one at a time; those that take many are here already.
    pub fn put(&self, key: Key, upstream: Upstream) {
        // Wakes once the connection is where it can be found.
        let _wakes = upstream.load.clone();
        if matches!(upstream.sender, Sender::Http1(_)) {
            let mut all = self.lock();
            let (waiting, now) = (all.entry(key).or_default(), Instant::now());
            if !upstream.is_over(now, now) && waiting.len() < self.most {
                waiting.push((upstream, now));
            }
        }
    }

    /// Lets further requests use a new connection, if it takes many.
    pub fn share(&self, key: &Key, upstream: &Upstream) {
        let now = Instant::now();
        if let Some(shared) = upstream.shared().filter(|shared| !shared.is_over(now, now)) {
            self.lock().entry(key.clone()).or_default().push((shared, now));
        }
    }

    /// Lets go of a connection of this cluster that nobody uses, so that there is room for another one.
    pub fn give_up(&self, cluster: &Arc<str>) {
        let mut all = self.lock();
        for (_, waiting) in all.iter_mut().filter(|(key, _)| key.cluster == *cluster) {
            if let Some(unused) = waiting.iter().position(|(upstream, _)| upstream.is_unused()) {
                return drop(waiting.remove(unused));
            }
        }
    }

    /// Lets go of what has waited too long.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.lock().retain(|_, waiting| {
            waiting.retain(|(upstream, since)| !upstream.is_over(now, *since));
            !waiting.is_empty()
        });
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    /// Sweeps for as long as the process runs.
    pub async fn keep_tidy(waypoint: Arc<crate::waypoint::Waypoint>) {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            ticks.tick().await;
            Self::tidy(&waypoint);
        }
    }

    /// Sweeps, and forgets how busy what is gone was.
    pub(crate) fn tidy(waypoint: &crate::waypoint::Waypoint) {
        waypoint.upstreams.sweep();
        waypoint.telemetry.buckets(waypoint.rates.count());
        let (config, nobody) = (waypoint.config.load(), Arc::default());
        waypoint.loads.keep(
            |cluster| {
                let cluster = config.clusters.get(cluster)?;
                let endpoints = config.endpoints.get(&cluster.endpoints);
                Some((&**cluster, endpoints.or(cluster.is_dialled.then_some(&nobody))?))
            },
            Instant::now().into_std(),
        );
    }
}

/// Opens a connection to the endpoint of `plan`, in the place that was kept for it in its cluster, and says whom it has proved
/// to be.
///
/// # Errors
/// Why there is none.
pub async fn open(
    connection: &Connection,
    plan: &Plan,
    http2: bool,
    (cluster, load, room): (&Cluster, &Arc<Load>, UnderWay),
) -> Result<(Upstream, Option<Identity>), Failure> {
    let room = Arc::new(room);
    let how = (Some(cluster), Inside::http(http2));
    let opened = dial::open(&connection.waypoint, &connection.local, plan, &connection.client, how).await?;
    let held = Arc::clone(&room);
    let limits = &connection.waypoint.limits;
    let (sender, identity) = match opened {
        Opened::Tunnel { stream, identity, .. } => {
            (shake(TunnelIo::new(stream, bytes::Bytes::new()), http2, limits, held).await?, identity)
        }
        Opened::Plain(socket) => (shake(socket, http2, limits, held).await?, None),
        Opened::Secured { stream, identity } => (shake(stream, http2, limits, held).await?, identity),
    };
    let (begun, requests, load) = (Instant::now(), Arc::default(), Wakes(Arc::clone(load)));
    Ok((Upstream { sender, begun, reuse: cluster.reuse, requests, room, load }, identity))
}

/// `room` is held for as long as the connection lasts.
async fn shake<T>(io: T, http2: bool, limits: &Limits, room: Arc<UnderWay>) -> Result<Sender, Failure>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |error: hyper::Error| Failure::new(Reason::UpstreamConnectFailed, error);
    let io = TokioIo::new(io);
    if http2 {
        let mut builder = http2::Builder::new(Streams);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits.number(&limits::HTTP_STREAM_WINDOW))
            .initial_connection_window_size(limits.number(&limits::HTTP_CONNECTION_WINDOW))
            .max_header_list_size(limits.number(&limits::ANSWER_HEAD));
        let (sender, connection) = builder.handshake(io).await.map_err(failed)?;
        tokio::spawn(taken::client(hold(room, connection)));
        return Ok(Sender::Http2(sender));
    }
    let mut builder = http1::Builder::new();
    let head = limits.size(&limits::ANSWER_HEAD);
    builder.max_buf_size(head).max_header_size(head);
    let headers = limits.size(&limits::ANSWER_HEADERS);
    if headers != USUAL_HEADERS {
        builder.max_headers(headers);
    }
    let (sender, connection) = builder.handshake(io).await.map_err(failed)?;
    tokio::spawn(hold(room, connection.with_upgrades()));
    Ok(Sender::Http1(sender))
}

async fn hold(room: Arc<UnderWay>, connection: impl Future<Output = Result<(), hyper::Error>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection to an endpoint ended");
    }
    drop(room);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_used_for_as_long_and_as_often_as_the_cluster_says() {
        let seconds = |seconds: u64| Some(Duration::from_secs(seconds));
        let reuse = |idle, life, requests| Reuse { idle, life, requests };
        // Requests carried, age and time without one, in seconds.
        let rows = [
            (reuse(seconds(30), None, None), (1_000_000, 1_000_000, 29), false),
            (reuse(seconds(30), None, None), (0, 30, 30), true),
            (reuse(None, None, None), (0, 1_000_000, 1_000_000), false),
            (reuse(None, seconds(60), None), (0, 59, 0), false),
            (reuse(None, seconds(60), None), (0, 60, 0), true),
            (reuse(None, None, Some(2)), (1, 0, 0), false),
            (reuse(None, None, Some(2)), (2, 0, 0), true),
        ];
        for (reuse, (requests, age, idle), expected) in rows {
            let time = Duration::from_secs;
            assert_eq!(is_spent(&reuse, requests, time(age), time(idle)), expected, "{reuse:?}");
        }
    }
}
