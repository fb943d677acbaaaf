//! Asks resolvers: several in turn, for a bounded time, over either transport, with the bytes as they were given.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::io::socket::{DialError, SocketFactory};
use crate::limits::{self, Limits};
use crate::reason::Reason;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::resolvers::Resolvers;
use super::wire::{self, MAX_MESSAGE, Transport};

/// The resolvers and the ways to them.
#[derive(Clone, Debug)]
pub struct Upstream {
    resolvers: Resolvers,
    sockets: SocketFactory,
    /// For resolvers on loopback, which means this machine's own and not a pod's.
    home: SocketFactory,
}

/// Why no resolver answered.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// There is nobody to ask.
    #[error("no resolver is known; set --dns-resolvers or see /etc/resolv.conf")]
    NoResolver,
    /// The pod has too many queries under way.
    #[error("the pod has {0} DNS queries under way; see MAX_DNS_QUERIES_PER_POD")]
    Busy(usize),
    /// Nobody answered in time.
    #[error("no resolver answered within {after:?}, asked first: {first}")]
    Timeout {
        /// The first of those that were asked.
        first: SocketAddr,
        /// How long we waited.
        after: Duration,
    },
    /// A resolver could not be asked, or hung up.
    #[error("resolver {resolver} over {}: {source}", transport.as_str())]
    Exchange {
        /// The last one that failed.
        resolver: SocketAddr,
        /// How it was asked.
        transport: Transport,
        /// What the kernel said.
        source: io::Error,
    },
}

impl UpstreamError {
    /// The reason of the closed list.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Busy(_) => Reason::ConnectionLimit,
            Self::Timeout { .. } => Reason::TimedOut,
            Self::NoResolver | Self::Exchange { .. } => Reason::DnsFailed,
        }
    }
}

impl Upstream {
    /// Asks `resolvers` through `sockets`; those on loopback through `home`.
    #[must_use]
    pub fn new(resolvers: Resolvers, sockets: SocketFactory, home: SocketFactory) -> Self {
        Self { resolvers, sockets, home }
    }

    /// The values of the limits it obeys: those of the sockets in the proxy's own namespace.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        self.home.limits()
    }

    /// The reply to `query`, both as they are on the wire, for a client that speaks `transport`.
    ///
    /// # Errors
    /// See [`UpstreamError`]. A resolver that answers with a failure is an answer if no other has a better one.
    pub async fn exchange(&self, query: &[u8], transport: Transport) -> Result<Vec<u8>, UpstreamError> {
        let (start, patience) = (Instant::now(), self.limits().duration(&limits::DNS_TIMEOUT));
        match transport {
            Transport::Udp => self.race(query, Transport::Udp, start, patience).await,
            Transport::Tcp => {
                let first = self.race(query, Transport::Tcp, start, patience / 2).await;
                let Err(error) = first else { return first };
                // Many networks let only datagrams through to their resolvers; most answers fit into one.
                let second = self.race(query, Transport::Udp, start, patience).await;
                second.ok().filter(|reply| !wire::is_truncated(reply)).ok_or(error)
            }
        }
    }

    /// The whole reply to a query of our own: what does not fit into a datagram is asked for again over TCP.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub async fn ask(&self, query: &[u8]) -> Result<Vec<u8>, UpstreamError> {
        let reply = self.exchange(query, Transport::Udp).await?;
        if !wire::is_truncated(&reply) {
            return Ok(reply);
        }
        // Part of the addresses is better than none.
        Ok(self.exchange(query, Transport::Tcp).await.unwrap_or(reply))
    }

    /// Asks one resolver after the other, without giving up on those that were asked before.
    async fn race(
        &self,
        query: &[u8],
        transport: Transport,
        start: Instant,
        patience: Duration,
    ) -> Result<Vec<u8>, UpstreamError> {
        let resolvers = self.resolvers.list();
        let Some(first) = resolvers.first().copied() else { return Err(UpstreamError::NoResolver) };
        let deadline = start + patience;
        let mut attempts = resolvers.iter().copied().cycle().take(self.limits().size(&limits::DNS_ATTEMPTS));
        let mut asked = FuturesUnordered::new();
        let mut failures = 0;
        let mut refusal = None;
        let mut error = UpstreamError::Timeout { first, after: patience };
        loop {
            // Once each has failed there is no hurry to be told again.
            let next = if failures < resolvers.len() { attempts.next() } else { None };
            let wait = match next {
                Some(resolver) => {
                    asked.push(self.once(resolver, query, transport));
                    deadline.min(Instant::now() + self.limits().duration(&limits::DNS_RETRY))
                }
                None => deadline,
            };
            match timeout_at(wait, asked.next()).await {
                Ok(Some(Ok(reply))) if !wire::is_refusal(&reply) => return Ok(reply),
                Ok(Some(Ok(reply))) => {
                    failures += 1;
                    refusal = Some(reply);
                }
                Ok(Some(Err(failed))) => {
                    failures += 1;
                    error = failed;
                }
                Ok(None) => break,
                Err(_elapsed) if Instant::now() >= deadline => break,
                Err(_elapsed) => {}
            }
        }
        refusal.ok_or(error)
    }

    async fn once(&self, resolver: SocketAddr, query: &[u8], transport: Transport) -> Result<Vec<u8>, UpstreamError> {
        let sockets = if resolver.ip().is_loopback() { &self.home } else { &self.sockets };
        let reply = match transport {
            Transport::Udp => by_datagram(sockets, resolver, query).await,
            Transport::Tcp => by_stream(sockets, resolver, query).await,
        };
        reply.map_err(|source| UpstreamError::Exchange { resolver, transport, source })
    }
}

/// A socket of its own for each query: the port the kernel draws is what makes a forged reply unlikely (RFC 5452 §9.2).
async fn by_datagram(sockets: &SocketFactory, resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket = sockets.datagrams_to(resolver)?;
    socket.send(query).await?;
    let mut reply = Vec::with_capacity(MAX_MESSAGE);
    loop {
        reply.clear();
        socket.recv_buf(&mut reply).await?;
        if wire::accepts(query, &reply) {
            return Ok(reply);
        }
    }
}

async fn by_stream(sockets: &SocketFactory, resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = sockets.connect(resolver).await.map_err(|error| match error {
        DialError::Prepare { source, .. } | DialError::Connect { source, .. } => source,
        DialError::Timeout { .. } => io::ErrorKind::TimedOut.into(),
    })?;
    write_message(&mut stream, query).await?;
    loop {
        let reply = read_message(&mut stream).await?;
        if wire::accepts(query, &reply) {
            return Ok(reply);
        }
    }
}

/// Reads one message with its length before it (RFC 1035 §4.2.2).
///
/// # Errors
/// When the stream ends or breaks.
pub async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    // Room is made as bytes arrive: a length is a promise.
    let mut message = Vec::new();
    let read = stream.take(length.into()).read_to_end(&mut message).await?;
    if read == usize::from(length) { Ok(message) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Writes one message with its length before it, in one piece.
///
/// # Errors
/// When the message is too long, or the stream breaks.
pub async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await
}

#[cfg(test)]
mod tests;
