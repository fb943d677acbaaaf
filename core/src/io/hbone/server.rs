//! Accepts tunnel connections and hands out their CONNECT requests.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval_at, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::gather::gather;
use super::headers;
use super::probe::Probe;
use super::stream::{StreamError, TunnelStream};
use super::window::{Drained, ReceiveBudget, Window};
use crate::ident::Identity;
use crate::io::read_ahead::ReadAhead;
use crate::io::tls::verify::{PeerRefused, peer_identity};
use crate::limits::{self, Limits};
use crate::reason::Reason;

/// A connection whose client has proved itself.
pub type TunnelTls = TlsStream<ReadAhead<TcpStream>>;

/// Why a peer got no tunnel connection.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// TLS failed: not TLS at all, no client certificate, or one that does not chain to our roots.
    #[error("TLS handshake: {0}")]
    Tls(io::Error),
    /// The client proved to be somebody we do not serve.
    #[error("TLS handshake: {0}")]
    PeerRefused(PeerRefused),
    /// The client took too long.
    #[error("TLS handshake not finished within {0:?}")]
    Timeout(Duration),
    /// The client's certificate names nobody.
    #[error("client certificate carries no SPIFFE identity")]
    NoIdentity,
    /// HTTP/2 did not start, or broke.
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
    /// The client stopped answering.
    #[error("client did not answer a PING within {0:?}")]
    Silent(Duration),
}

/// Does the TLS side of accepting: the client is proven to be of our trust domain.
///
/// # Errors
/// See [`AcceptError`].
pub async fn accept_tls(
    tcp: TcpStream,
    tls: Arc<ServerConfig>,
    limits: &Limits,
) -> Result<(TunnelTls, Identity), AcceptError> {
    let after = limits.duration(&limits::TLS_HANDSHAKE_TIMEOUT);
    let stream = match timeout(after, TlsAcceptor::from(tls).accept(ReadAhead::new(tcp, limits))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Err(match PeerRefused::find(&error) {
                Some(refused) => AcceptError::PeerRefused(refused.clone()),
                None => AcceptError::Tls(error),
            });
        }
        Err(_elapsed) => return Err(AcceptError::Timeout(after)),
    };
    let peer = peer_identity(stream.get_ref().1.peer_certificates()).ok_or(AcceptError::NoIdentity)?;
    Ok((stream, peer))
}

/// One request for a tunnel stream, not answered yet.
pub struct Incoming {
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    drained: Drained,
}

impl Incoming {
    /// Whether it is a CONNECT; anything else is a client that does not speak HBONE.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        self.request.method() == Method::CONNECT
    }

    /// The destination asked for.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        self.request.uri().authority().map(http::uri::Authority::as_str)
    }

    /// The request's headers: all optional, and anybody may write what they like. For whom the client says that it speaks
    /// (`headers::original`) counts only where [`original`](crate::authz::original) believes it.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// Resolves when the client gives up before it is answered; otherwise never.
    pub async fn given_up(&mut self) {
        // An error, too, means that nobody waits any more.
        let _ = poll_fn(|context| self.respond.poll_reset(context)).await;
    }

    /// Answers 200: bytes may flow.
    ///
    /// # Errors
    /// When the client has gone.
    pub fn accept(mut self, headers: HeaderMap) -> Result<TunnelStream, StreamError> {
        let mut response = Response::new(());
        *response.headers_mut() = headers;
        let sender = self.respond.send_response(response, false)?;
        Ok(TunnelStream::new(sender, self.request.into_body(), self.drained, None))
    }

    /// Answers with the reason's status, says the reason in the headers, and ends the stream.
    pub fn refuse(mut self, reason: Reason) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(reason.http_status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        response.headers_mut().extend(headers::proxy_status(reason).map(|line| (headers::PROXY_STATUS, line)));
        // The client may be gone already; then nobody needs the answer.
        let _ = self.respond.send_response(response, true);
    }
}

/// Serves one connection until it ends: `handle` is called for each request and must not wait.
///
/// When `drain` resolves, the client is told to open no more streams here; those open go on. What the client may send before
/// it is read is within `budget`.
///
/// # Errors
/// See [`AcceptError`].
pub async fn serve<T>(
    io: T,
    peer: SocketAddr,
    (limits, budget): (&Limits, &ReceiveBudget),
    drain: impl Future<Output = ()>,
    mut handle: impl FnMut(Incoming),
) -> Result<(), AcceptError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (io, turns) = gather(io);
    let drained = Drained::default();
    let mut window = Window::new(budget, limits, drained.clone());
    let first = window.sizes();
    let mut handshake = h2::server::Builder::new()
        .initial_window_size(first.stream)
        .initial_connection_window_size(first.connection)
        .max_frame_size(limits.number(&limits::FRAME_SIZE))
        .max_header_list_size(limits.number(&limits::SERVER_HEADER_LIST))
        .max_concurrent_streams(limits.number(&limits::MAX_CONCURRENT_STREAMS))
        .max_send_buffer_size(limits.size(&limits::SERVER_SEND_BUFFER))
        .max_concurrent_reset_streams(limits.size(&limits::RESET_STREAMS))
        .reset_stream_duration(limits.duration(&limits::RESET_STREAM_MEMORY))
        .max_local_error_reset_streams(Some(limits.size(&limits::STREAM_ERRORS)))
        .data_frame_budget(limits.size(&limits::SMALL_FRAMES))
        .max_pending_accept_reset_streams(limits.size(&limits::ABANDONED_REQUESTS))
        .handshake(io);
    let after = limits.duration(&limits::HTTP2_HANDSHAKE_TIMEOUT);
    let shaking = turns.drive(|context| Pin::new(&mut handshake).poll(context));
    let mut connection = timeout(after, shaking).await.map_err(|_elapsed| AcceptError::Timeout(after))??;
    let probe = Probe::new(limits);
    let lost = probe.clone().run(connection.ping_pong());
    tokio::pin!(lost, drain);
    let mut draining = false;
    // A client that keeps a tunnel and uses it for nothing gets twice the time our own pool would keep it.
    let idle_check = limits.duration(&limits::POOL_IDLE_TIMEOUT);
    let mut idle_checks = interval_at(Instant::now() + idle_check, idle_check);
    let mut quiet_checks = 0;
    loop {
        let turn = |context: &mut Context<'_>| {
            window.turn(&probe, |sizes| {
                let announced = connection.set_initial_window_size(sizes.stream).is_ok();
                if announced {
                    connection.set_target_window_size(sizes.connection);
                }
                announced
            });
            connection.poll_accept(context)
        };
        tokio::select! {
            request = turns.drive(turn) => match request {
                Some(Ok((request, respond))) => {
                    quiet_checks = 0;
                    handle(Incoming { request, respond, drained: drained.clone() });
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
            silence = &mut lost => {
                tracing::debug!(%peer, "tunnel client stopped answering");
                connection.abrupt_shutdown(h2::Reason::NO_ERROR);
                return Err(AcceptError::Silent(silence));
            }
            _now = idle_checks.tick(), if !draining => {
                quiet_checks = if connection.has_streams() { 0 } else { quiet_checks + 1 };
                if quiet_checks == 2 {
                    draining = true;
                    connection.graceful_shutdown();
                }
            }
            () = &mut drain, if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
        }
    }
}
