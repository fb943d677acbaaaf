//! Connections that carry requests to endpoints. One is never shared by two clients, so that the tunnel under it can say
//! for whom it is.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fairway_core::ident::Identity;
use fairway_core::io::hbone::TunnelIo;
use fairway_core::reason::Reason;
use fairway_core::route::Plan;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::dial::{self, Opened};
use crate::failure::Failure;
use crate::replay::Attempt;
use crate::stream::Connection;

/// A connection that carries nothing is closed after this; less than most servers wait for the next request.
const IDLE: Duration = Duration::from_secs(30);
/// Connections of one client to one endpoint that wait for requests: more than programs commonly have open.
const IDLE_EACH: usize = 64;
/// Header bytes of an answer over HTTP/1.1, and of one over HTTP/2: what Envoy allows.
const HEADER_BYTES: usize = 60 * 1024;
/// Headers of an answer.
const HEADERS: usize = 100;
/// Bytes that a stream and a connection over HTTP/2 may have in flight to us.
const WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Which endpoint.
    pub endpoint: SocketAddr,
    /// Whether HTTP/2 is spoken.
    pub http2: bool,
    /// Whom the client has proved to be.
    pub client: Identity,
    /// Where it is.
    pub address: IpAddr,
}

/// A connection that takes a request.
pub enum Sender {
    /// One request at a time.
    Http1(http1::SendRequest<Attempt>),
    /// Many.
    Http2(http2::SendRequest<Attempt>),
}

/// Connections that wait for requests.
#[derive(Default)]
pub struct Upstreams(Mutex<HashMap<Key, Vec<(Sender, Instant)>>>);

/// A request that was not answered.
pub struct Unsent {
    /// Why.
    pub error: hyper::Error,
    /// Whether nothing of it was sent.
    pub untouched: bool,
}

impl Sender {
    async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
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
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await.map_err(unsent),
            Self::Http2(sender) => sender.try_send_request(request).await.map_err(unsent),
        }
    }
}

impl Upstreams {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<(Sender, Instant)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that is there already and can take a request.
    pub async fn take(&self, key: &Key) -> Option<Sender> {
        loop {
            let mut sender = {
                let mut all = self.lock();
                let waiting = all.get_mut(key)?;
                match waiting.last_mut() {
                    // Shared: it stays for others.
                    Some((Sender::Http2(sender), since)) if !sender.is_closed() => {
                        *since = Instant::now();
                        Sender::Http2(sender.clone())
                    }
                    Some(_) => waiting.pop()?.0,
                    None => return None,
                }
            };
            if sender.ready().await {
                return Some(sender);
            }
            self.lock().get_mut(key)?.retain(|(sender, _)| !sender.is_closed());
        }
    }

    /// Keeps a connection for the next request.
    pub fn put(&self, key: Key, sender: Sender) {
        let mut all = self.lock();
        let waiting = all.entry(key).or_default();
        if !sender.is_closed() && waiting.len() < IDLE_EACH {
            waiting.push((sender, Instant::now()));
        }
    }

    /// Lets go of what has waited too long.
    pub fn sweep(&self) {
        self.lock().retain(|_, waiting| {
            waiting.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < IDLE);
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
        let mut ticks = tokio::time::interval(IDLE / 3);
        loop {
            ticks.tick().await;
            waypoint.upstreams.sweep();
            let config = waypoint.config.load();
            waypoint.loads.keep(|cluster| config.clusters.contains_key(cluster));
        }
    }
}

/// Opens a connection to the endpoint of `plan`, and says whom it has proved to be.
///
/// # Errors
/// Why there is none.
pub async fn open(connection: &Connection, plan: &Plan, http2: bool) -> Result<(Sender, Option<Identity>), Failure> {
    match dial::open(&connection.waypoint, &connection.local, plan, &connection.client).await? {
        Opened::Tunnel { stream, identity, .. } => {
            Ok((shake(TunnelIo::new(stream, bytes::Bytes::new()), http2).await?, identity))
        }
        Opened::Plain(socket) => Ok((shake(socket, http2).await?, None)),
    }
}

async fn shake<T>(io: T, http2: bool) -> Result<Sender, Failure>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |error: hyper::Error| Failure::new(Reason::UpstreamConnectFailed, error);
    let io = TokioIo::new(io);
    if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_header_list_size(u32::try_from(HEADER_BYTES).unwrap_or(u32::MAX));
        let (sender, connection) = builder.handshake(io).await.map_err(failed)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to an endpoint ended");
            }
        });
        return Ok(Sender::Http2(sender));
    }
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEADER_BYTES).max_headers(HEADERS);
    let (sender, connection) = builder.handshake(io).await.map_err(failed)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to an endpoint ended");
        }
    });
    Ok(Sender::Http1(sender))
}
