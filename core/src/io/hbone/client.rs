//! Opens tunnel connections and streams on them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::gather::gather;
use super::stream::TunnelStream;
use super::{headers, keepalive};
use crate::ident::Identity;
use crate::io::certs::CertificateError;
use crate::io::read_ahead::ReadAhead;
use crate::io::socket::{DialError, SocketFactory};
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
    /// The peer has said, or its silence has, that no more streams are welcome; open ones go on.
    retired: Arc<AtomicBool>,
    limits: Limits,
}

/// An open stream with the answer's headers.
pub struct Opened {
    /// The stream.
    pub stream: TunnelStream,
    /// Headers of the 200.
    pub headers: HeaderMap,
    /// Whom the certificate named.
    pub peer_identity: Option<Identity>,
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
    retired: Arc<AtomicBool>,
    peer: SocketAddr,
    peer_identity: Option<Identity>,
    /// How long the answer may take.
    patience: Duration,
}

impl Connection {
    /// Dials `peer`, proves both sides with TLS, and starts HTTP/2.
    ///
    /// # Errors
    /// See [`TunnelError`].
    pub async fn open(sockets: &SocketFactory, peer: SocketAddr, tls: Arc<ClientConfig>) -> Result<Self, TunnelError> {
        let limits = sockets.limits();
        let tcp = sockets.connect(peer).await.map_err(|source| TunnelError::Dial { peer, source })?;
        let after = limits.duration(&limits::TLS_HANDSHAKE_TIMEOUT);
        // No name is checked and none is sent: the peer is known by its identity (interop §1.7).
        let nobody = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let tls = match timeout(after, TlsConnector::from(tls).connect(nobody, ReadAhead::new(tcp, limits))).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(source)) => {
                return Err(match PeerRefused::find(&source) {
                    Some(refused) => TunnelError::PeerRefused { peer, refused: refused.clone() },
                    None => TunnelError::Tls { peer, source },
                });
            }
            Err(_elapsed) => return Err(TunnelError::TlsTimeout { peer, after }),
        };
        let peer_identity = peer_identity(tls.get_ref().1.peer_certificates());
        let (io, turns) = gather(tls);
        let handshake = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(limits.number(&limits::STREAM_WINDOW))
            .initial_connection_window_size(limits.number(&limits::CONNECTION_WINDOW))
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
        let lost = keepalive::peer_lost(connection.ping_pong(), limits);
        let retired = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&retired);
        tokio::spawn(async move {
            tokio::select! {
                finished = turns.drive(|context| Pin::new(&mut connection).poll(context)) => {
                    if let Err(error) = finished {
                        tracing::debug!(%peer, %error, "tunnel connection ended");
                    }
                }
                silence = lost => tracing::warn!(%peer, ?silence, "tunnel peer stopped answering, connection dropped"),
            }
            end.store(true, Ordering::Release);
        });
        let limits = limits.clone();
        Ok(Self { peer, peer_identity, sender, active: Arc::default(), retired, limits })
    }

    /// Streams open now.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Acquire)
    }

    /// Whether no more streams can be opened on it.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Takes a place for one more stream, if there is one.
    #[must_use]
    pub fn take_place(&self) -> Option<Place> {
        if self.is_retired() {
            return None;
        }
        let allowed = self.limits.size(&limits::POOL_MAX_STREAMS).min(self.sender.current_max_send_streams());
        let more = |active: usize| (active < allowed).then_some(active + 1);
        self.active.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        let lease = Lease(Arc::clone(&self.active));
        let (sender, retired) = (self.sender.clone(), Arc::clone(&self.retired));
        let patience = self.limits.duration(&limits::CONNECT_RESPONSE_TIMEOUT);
        Some(Place { sender, lease, retired, peer: self.peer, peer_identity: self.peer_identity.clone(), patience })
    }
}

/// What came of a request on a connection.
pub enum Attempt {
    /// The peer answered 200.
    Opened(Opened),
    /// The peer did not take the request (GOAWAY, refused stream, dead connection). No byte of the application has been
    /// sent, so another connection may be tried; this one is retired.
    NotSent(TunnelError),
}

impl Place {
    /// Sends the request and waits for the answer.
    ///
    /// # Errors
    /// When the peer answered anything but 200, or may have seen the request. See [`TunnelError`].
    pub async fn connect(self, request: &ConnectRequest) -> Result<Attempt, TunnelError> {
        let Self { sender, lease, retired, peer, peer_identity, patience } = self;
        let not_sent = |source| {
            retired.store(true, Ordering::Release);
            Ok(Attempt::NotSent(TunnelError::Http2 { peer, source }))
        };
        let mut sender = match sender.ready().await {
            Ok(sender) => sender,
            Err(source) => return not_sent(source),
        };
        let (answer, send) = match sender.send_request(build(request)?, false) {
            Ok(sent) => sent,
            Err(source) => return not_sent(source),
        };
        let after = patience;
        let response = match timeout(after, answer).await {
            Ok(Ok(response)) => response,
            Ok(Err(source)) if not_taken(&source) => return not_sent(source),
            Ok(Err(source)) => return Err(TunnelError::Http2 { peer, source }),
            Err(_elapsed) => return Err(TunnelError::AnswerTimeout { peer, after }),
        };
        let (head, receive) = response.into_parts();
        if head.status != StatusCode::OK {
            let reason = headers::proxy_status_reason(&head.headers);
            return Err(TunnelError::Refused { peer, status: head.status, reason });
        }
        let stream = TunnelStream::new(send, receive, Some(Arc::new(lease)));
        Ok(Attempt::Opened(Opened { stream, headers: head.headers, peer_identity }))
    }
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
