//! Opens tunnel connections and streams on them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::gather::gather;
use super::headers;
use super::lifetime::Lifetime;
use super::probe::Probe;
use super::stream::TunnelStream;
use super::window::{Drained, ReceiveBudget, Window};
use crate::ident::Identity;
use crate::io::certs::{CertificateError, Certificates, WorkloadCertificate};
use crate::io::read_ahead::ReadAhead;
use crate::io::socket::{DialError, SocketFactory};
use crate::io::tls::trust::Role;
use crate::io::tls::verify::{PeerRefused, peer_identity};
use crate::limits::{self, Limits};
use crate::reason::Reason;

/// What a tunnel stream asks for.
#[derive(Clone, Debug)]
pub struct ConnectRequest {
    /// The destination, `address:port`.
    pub authority: String,
    /// Baggage, forwarded, traceparent.
    pub headers: HeaderMap,
}

/// Why a tunnel stream could not be opened. Each variant is one hop of the way.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// We have nothing to prove who the client is.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// TCP to the peer's proxy.
    #[error("tunnel to {peer}: {source}")]
    Dial {
        /// The peer's proxy.
        peer: SocketAddr,
        /// What happened.
        source: DialError,
    },
    /// TLS with the peer's proxy.
    #[error("TLS with {peer}: {source}")]
    Tls {
        /// The peer's proxy.
        peer: SocketAddr,
        /// What happened.
        source: io::Error,
    },
    /// The peer proved to be somebody else, or nobody.
    #[error("TLS with {peer}: {refused}")]
    PeerRefused {
        /// The peer's proxy.
        peer: SocketAddr,
        /// What was wrong with it.
        refused: PeerRefused,
    },
    /// TLS took too long.
    #[error("TLS with {peer}: no answer within {after:?}")]
    TlsTimeout {
        /// The peer's proxy.
        peer: SocketAddr,
        /// How long we waited.
        after: Duration,
    },
    /// HTTP/2 with the peer's proxy.
    #[error("HTTP/2 with {peer}: {source}")]
    Http2 {
        /// The peer's proxy.
        peer: SocketAddr,
        /// What happened.
        source: h2::Error,
    },
    /// The request cannot be put in HTTP/2.
    #[error("authority {authority:?} cannot be sent: {source}")]
    Request {
        /// What we wanted to send.
        authority: String,
        /// Why not.
        source: http::Error,
    },
    /// The peer's proxy answered, but not with 200.
    #[error("{peer} refused the tunnel with status {status}{}", .reason.map(|reason| format!(": {}", reason.message())).unwrap_or_default())]
    Refused {
        /// The peer's proxy.
        peer: SocketAddr,
        /// Whom its certificate named.
        identity: Option<Identity>,
        /// Its answer.
        status: StatusCode,
        /// Why, where the peer is one of ours and said it.
        reason: Option<Reason>,
    },
    /// The peer's proxy took the request and did not answer.
    #[error("{peer} did not answer the tunnel request within {after:?}")]
    AnswerTimeout {
        /// The peer's proxy.
        peer: SocketAddr,
        /// How long we waited.
        after: Duration,
    },
    /// The pod has as many tunnels as it may have.
    #[error("no tunnel to {peer}: the pod has {limit} open, which is the limit")]
    PoolFull {
        /// The peer's proxy.
        peer: SocketAddr,
        /// The limit.
        limit: usize,
    },
    /// The gateway carried the tunnel, and something behind it went wrong.
    #[error("behind the gateway at {gateway}: {source}")]
    Inner {
        /// The gateway's proxy.
        gateway: SocketAddr,
        /// What happened.
        source: Box<TunnelError>,
    },
    /// Another connection was waiting for the same tunnel, and this is what came of it.
    #[error(transparent)]
    Shared(Arc<TunnelError>),
    /// The peer's proxy was silent, asked by the request itself and by a PING.
    #[error("{peer} has been silent and answered nothing within {after:?}")]
    Silent {
        /// The peer's proxy.
        peer: SocketAddr,
        /// How long we waited.
        after: Duration,
    },
    /// Nothing was free in time.
    #[error("no tunnel to {peer} became free within {after:?}")]
    PoolTimeout {
        /// The peer's proxy.
        peer: SocketAddr,
        /// How long we waited.
        after: Duration,
    },
}

/// One connection to a peer's proxy; its streams share it.
pub struct Connection {
    peer: SocketAddr,
    peer_identity: Option<Identity>,
    sender: SendRequest<Bytes>,
    active: Arc<AtomicUsize>,
    state: Arc<State>,
    /// Serial number of the certificate it was opened with.
    serial: String,
}

impl TunnelError {
    /// The error itself, where it is shared with others.
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::Shared(error) => error.cause(),
            error => error,
        }
    }

    /// Whom the certificate of the peer named that refused the tunnel; it has seen ours, too.
    #[must_use]
    pub fn refused_by(&self) -> Option<&Identity> {
        match self.cause() {
            Self::Refused { identity, .. } => identity.as_ref(),
            Self::Inner { source, .. } => source.refused_by(),
            _ => None,
        }
    }
}

/// Who we are on a connection that is opened.
pub struct Ours {
    certificates: Certificates,
    certificate: Arc<WorkloadCertificate>,
    tls: Arc<ClientConfig>,
}

impl Ours {
    /// Shows `certificate` and insists on one of `accepted` at the other end.
    ///
    /// # Errors
    /// When TLS cannot be set up like that.
    pub fn new(
        certificates: &Certificates,
        certificate: Arc<WorkloadCertificate>,
        accepted: &[Identity],
        peer: SocketAddr,
    ) -> Result<Self, TunnelError> {
        let tls = certificate.credentials.client(accepted);
        let tls = tls.map_err(|error| TunnelError::Tls { peer, source: io::Error::other(error) })?;
        Ok(Self { certificates: certificates.clone(), certificate, tls })
    }
}

/// What decides whether a connection gets more streams.
struct State {
    /// The peer has said, or its silence or its age has, that no more streams are welcome; open ones go on.
    retired: AtomicBool,
    /// The peer refused a stream, or had no room for its first byte; until then it is not asked for another while there
    /// is a choice. Milliseconds after `began`.
    crowded_until: AtomicU64,
    began: Instant,
    probe: Probe,
    lifetime: Lifetime,
    drained: Drained,
    limits: Limits,
}

impl State {
    fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    fn age(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn crowded(&self) {
        let until = self.age().saturating_add(self.limits.value(&limits::POOL_CROWDED));
        self.crowded_until.store(until, Ordering::Relaxed);
    }

    /// Whether a stream that is opened now would stand in a queue.
    fn is_crowded(&self) -> bool {
        self.age() < self.crowded_until.load(Ordering::Relaxed)
            || self.probe.queueing_delay() > self.limits.duration(&limits::POOL_QUEUEING_DELAY)
    }
}

/// An open stream with the answer's headers.
pub struct Opened {
    /// The stream.
    pub stream: TunnelStream,
    /// Headers of the 200.
    pub headers: HeaderMap,
    /// Whom the certificate named.
    pub peer_identity: Option<Identity>,
    /// How long the connection under the stream may live, and why it was cut if it was.
    pub lifetime: Lifetime,
}

/// Counts one stream until dropped.
struct Lease(Arc<AtomicUsize>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A place on a connection, taken before the request is sent.
pub struct Place {
    sender: SendRequest<Bytes>,
    lease: Lease,
    state: Arc<State>,
    /// There is a choice: better another connection than one with a queue.
    choosy: bool,
    /// Nobody else uses the connection, and nothing has been heard on it lately.
    doubtful: bool,
    peer: SocketAddr,
    peer_identity: Option<Identity>,
}

impl Connection {
    /// Dials `peer`, proves both sides with TLS, and starts HTTP/2.
    ///
    /// # Errors
    /// See [`TunnelError`].
    pub async fn open(
        sockets: &SocketFactory,
        peer: SocketAddr,
        ours: &Ours,
        budget: &ReceiveBudget,
    ) -> Result<Self, TunnelError> {
        let tcp = sockets.connect(peer).await.map_err(|source| TunnelError::Dial { peer, source })?;
        Self::over(ReadAhead::new(tcp, sockets.limits()), peer, ours, (sockets.limits(), budget)).await
    }

    /// As [`Connection::open`], over something that leads to the peer already.
    ///
    /// # Errors
    /// See [`TunnelError`].
    pub async fn over<T>(
        io: T,
        peer: SocketAddr,
        ours: &Ours,
        (limits, budget): (&Limits, &ReceiveBudget),
    ) -> Result<Self, TunnelError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let after = limits.duration(&limits::TLS_HANDSHAKE_TIMEOUT);
        // No name is checked and none is sent: the peer is known by its identity (interop §1.7).
        let nobody = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let tls = match timeout(after, TlsConnector::from(Arc::clone(&ours.tls)).connect(nobody, io)).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(source)) => {
                return Err(match PeerRefused::find(&source) {
                    Some(refused) => TunnelError::PeerRefused { peer, refused: refused.clone() },
                    None => TunnelError::Tls { peer, source },
                });
            }
            Err(_elapsed) => return Err(TunnelError::TlsTimeout { peer, after }),
        };
        let chain = tls.get_ref().1.peer_certificates();
        let peer_identity = peer_identity(chain);
        let lifetime = Lifetime::new(&ours.certificates, &ours.certificate, Role::Server, chain);
        let (io, turns) = gather(tls);
        let drained = Drained::default();
        let mut window = Window::new(budget, limits, drained.clone());
        let first = window.sizes();
        let handshake = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(first.stream)
            .initial_connection_window_size(first.connection)
            .max_frame_size(limits.number(&limits::FRAME_SIZE))
            .max_header_list_size(limits.number(&limits::CLIENT_HEADER_LIST))
            .max_send_buffer_size(limits.size(&limits::CLIENT_SEND_BUFFER))
            .initial_max_send_streams(limits.size(&limits::POOL_MAX_STREAMS))
            .max_concurrent_reset_streams(limits.size(&limits::RESET_STREAMS))
            .reset_stream_duration(limits.duration(&limits::RESET_STREAM_MEMORY))
            .max_local_error_reset_streams(Some(limits.size(&limits::STREAM_ERRORS)))
            .data_frame_budget(limits.size(&limits::SMALL_FRAMES))
            .handshake(io);
        let after = limits.duration(&limits::HTTP2_HANDSHAKE_TIMEOUT);
        let (sender, mut connection) = match timeout(after, handshake).await {
            Ok(Ok(ready)) => ready,
            Ok(Err(source)) => return Err(TunnelError::Http2 { peer, source }),
            Err(_elapsed) => return Err(TunnelError::TlsTimeout { peer, after }),
        };
        let probe = Probe::new(limits);
        let lost = probe.clone().run(connection.ping_pong());
        let state = Arc::new(State {
            retired: AtomicBool::new(false),
            crowded_until: AtomicU64::new(0),
            began: Instant::now(),
            probe,
            lifetime,
            drained,
            limits: limits.clone(),
        });
        let end = Arc::clone(&state);
        tokio::spawn(async move {
            let turn = |context: &mut Context<'_>| {
                window.turn(&end.probe, |sizes| {
                    let announced = connection.set_initial_window_size(sizes.stream).is_ok();
                    if announced {
                        connection.set_target_window_size(sizes.connection);
                    }
                    announced
                });
                Pin::new(&mut connection).poll(context)
            };
            tokio::select! {
                finished = turns.drive(turn) => {
                    if let Err(error) = finished {
                        tracing::debug!(%peer, %error, "tunnel connection ended");
                    }
                }
                silence = lost => tracing::warn!(%peer, ?silence, "tunnel peer stopped answering, connection dropped"),
                reason = end.lifetime.follow(|| end.retire()) => tracing::warn!(%peer, %reason, "tunnel connection cut"),
            }
            end.retire();
        });
        let serial = ours.certificate.serial.clone();
        Ok(Self { peer, peer_identity, sender, active: Arc::default(), state, serial })
    }

    /// Streams open now.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Acquire)
    }

    /// Whether no more streams can be opened on it.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.state.retired.load(Ordering::Acquire) || self.state.lifetime.is_over()
    }

    /// Whether it was opened with this certificate. Streams on it go on when another one has taken its place.
    #[must_use]
    pub fn shows(&self, certificate: &WorkloadCertificate) -> bool {
        self.serial == certificate.serial
    }

    /// Takes a place for one more stream, if there is one; when `choosy`, only if it would not stand in a queue.
    #[must_use]
    pub fn take_place(&self, choosy: bool) -> Option<Place> {
        if self.is_retired() || (choosy && self.state.is_crowded()) {
            return None;
        }
        let allowed = self.state.limits.size(&limits::POOL_MAX_STREAMS).min(self.sender.current_max_send_streams());
        let more = |active: usize| (active < allowed).then_some(active + 1);
        let others = self.active.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        let lease = Lease(Arc::clone(&self.active));
        let (sender, state) = (self.sender.clone(), Arc::clone(&self.state));
        let doubtful = others == 0 && state.probe.is_silent();
        if others > 0 {
            state.probe.measure();
        }
        let (peer, peer_identity) = (self.peer, self.peer_identity.clone());
        Some(Place { sender, lease, state, choosy: choosy && others > 0, doubtful, peer, peer_identity })
    }
}

/// What came of a request on a connection.
pub enum Attempt {
    /// The peer answered 200.
    Opened(Opened),
    /// The peer did not take the request (GOAWAY, refused stream, dead or full connection). No byte of the application has been
    /// sent, so another connection may be tried.
    NotSent(TunnelError),
}

impl Place {
    /// Sends the request and waits for the answer.
    ///
    /// # Errors
    /// When the peer answered anything but 200, or may have seen the request. See [`TunnelError`].
    pub async fn connect(self, request: &ConnectRequest) -> Result<Attempt, TunnelError> {
        let Self { sender, lease, state, choosy, doubtful, peer, peer_identity } = self;
        let not_sent = |source: h2::Error| {
            // One stream too many for the peer says nothing about the others (RFC 9113 §8.7).
            if source.reason() == Some(h2::Reason::REFUSED_STREAM) && !source.is_go_away() {
                state.crowded();
            } else {
                state.retire();
            }
            Ok(Attempt::NotSent(TunnelError::Http2 { peer, source }))
        };
        let mut sender = match sender.ready().await {
            Ok(sender) => sender,
            Err(source) => return not_sent(source),
        };
        let (answer, mut send) = match sender.send_request(build(request)?, false) {
            Ok(sent) => sent,
            Err(source) => return not_sent(source),
        };
        let after = state.limits.duration(&limits::CONNECT_RESPONSE_TIMEOUT);
        let answer = timeout(after, answer);
        let answered = if doubtful {
            // The question goes with the request, so that a peer that lives costs no time.
            let bound = state.limits.duration(&limits::POOL_PROBE_TIMEOUT);
            tokio::pin!(answer);
            tokio::select! {
                biased;
                answered = &mut answer => answered,
                alive = timeout(bound, state.probe.answer()) => {
                    if alive.is_err() {
                        state.retire();
                        return Ok(Attempt::NotSent(TunnelError::Silent { peer, after: bound }));
                    }
                    answer.await
                }
            }
        } else {
            answer.await
        };
        let response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(source)) if not_taken(&source) => return not_sent(source),
            Ok(Err(source)) => return Err(TunnelError::Http2 { peer, source }),
            Err(_elapsed) => return Err(TunnelError::AnswerTimeout { peer, after }),
        };
        state.probe.heard();
        let (head, receive) = response.into_parts();
        if head.status != StatusCode::OK {
            let reason = headers::proxy_status_reason(&head.headers);
            return Err(TunnelError::Refused { peer, identity: peer_identity, status: head.status, reason });
        }
        if choosy && is_starved(&mut send) {
            // The application there sees a connection that ends without a byte; better than one that hangs.
            state.crowded();
            return Ok(Attempt::NotSent(TunnelError::Http2 { peer, source: h2::Reason::FLOW_CONTROL_ERROR.into() }));
        }
        let stream = TunnelStream::new(send, receive, state.drained.clone(), Some(Arc::new(lease)));
        let lifetime = state.lifetime.clone();
        Ok(Attempt::Opened(Opened { stream, headers: head.headers, peer_identity, lifetime }))
    }
}

/// Whether the tunnel's window is used up, by streams that nobody reads at the other end: a new stream, whose own window
/// is untouched, gets no room for even one byte.
fn is_starved(send: &mut h2::SendStream<Bytes>) -> bool {
    send.reserve_capacity(1);
    let starved = send.capacity() == 0;
    send.reserve_capacity(0);
    starved
}

/// RFC 9113 §8.7: REFUSED_STREAM, and a GOAWAY below our stream, promise that nothing was processed. A connection that
/// broke under the request promises nothing; but the worst that a second try can do is an application connection
/// that closes without a byte.
fn not_taken(error: &h2::Error) -> bool {
    error.is_io() || (error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM)))
}

fn build(request: &ConnectRequest) -> Result<Request<()>, TunnelError> {
    let failed = |source| TunnelError::Request { authority: request.authority.clone(), source };
    let uri = Uri::builder().authority(request.authority.as_str()).build().map_err(failed)?;
    let mut built = Request::builder().method(Method::CONNECT).uri(uri).body(()).map_err(failed)?;
    *built.headers_mut() = request.headers.clone();
    Ok(built)
}
