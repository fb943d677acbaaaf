//! Copies bytes both ways until both sides are done: half-close and resets pass through, idle streams hold no buffer.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio_util::io::poll_read_buf;

use crate::io::hbone::TunnelStream;
use crate::io::hbone::stream::{StreamError, TunnelReceiver, TunnelSender};
use crate::io::socket::reset_on_close;
use crate::limits::{self, Limits};

/// Told about bytes as they pass. The local side is the application's connection.
pub trait Meter {
    /// Bytes read from the application and taken by the other side.
    fn out_of_application(&self, bytes: u64);
    /// Bytes of the other side, taken by the application.
    fn towards_application(&self, bytes: u64);
}

/// How a copy broke off. A copy that ended on both sides is no error.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The application's connection failed.
    #[error("application connection: {0}")]
    Application(io::Error),
    /// The plain connection to the other side failed.
    #[error("connection to the peer: {0}")]
    Peer(io::Error),
    /// The tunnel stream failed.
    #[error(transparent)]
    Tunnel(#[from] StreamError),
}

/// Copies between the application and a tunnel stream.
///
/// Whatever side breaks, the other learns of it: a TCP reset becomes `CONNECT_ERROR` and the reverse (RFC 9113 §8.5).
/// Dropping the future mid-way cancels the stream; the caller decides what the application gets to see.
///
/// # Errors
/// See [`CopyError`].
pub async fn with_tunnel(
    application: &mut TcpStream,
    tunnel: &mut TunnelStream,
    limits: &Limits,
    meter: &impl Meter,
) -> Result<(), CopyError> {
    let TunnelStream { sender, receiver } = tunnel;
    let (read, write) = application.split();
    // Both directions; the first failure ends it. Made inside the macro, a future is not kept in memory twice.
    let result = tokio::try_join!(
        tcp_to_tunnel(read, sender, limits, meter),
        tunnel_to_tcp(receiver, write.as_ref(), limits, meter)
    )
    .map(|((), ())| ());
    if result.is_err() {
        tunnel.abort();
        reset_on_close(application);
    }
    result
}

/// Copies between the application and a plain connection.
///
/// # Errors
/// See [`CopyError`].
pub async fn plain(
    application: &mut TcpStream,
    peer: &mut TcpStream,
    limits: &Limits,
    meter: &impl Meter,
) -> Result<(), CopyError> {
    let (from_application, to_application) = application.split();
    let (from_peer, to_peer) = peer.split();
    let (application_failed, peer_failed): (Failed, Failed) = (CopyError::Application, CopyError::Peer);
    let result = tokio::try_join!(
        tcp_to_tcp((from_application, application_failed), (to_peer.as_ref(), peer_failed), limits, |bytes| {
            meter.out_of_application(bytes);
        }),
        tcp_to_tcp((from_peer, peer_failed), (to_application.as_ref(), application_failed), limits, |bytes| {
            meter.towards_application(bytes);
        }),
    )
    .map(|((), ())| ());
    if result.is_err() {
        reset_on_close(application);
        reset_on_close(peer);
    }
    result
}

async fn tcp_to_tunnel(
    from: ReadHalf<'_>,
    to: &mut TunnelSender,
    limits: &Limits,
    meter: &impl Meter,
) -> Result<(), CopyError> {
    let (mut pace, mut source) = (Pace::new(limits), Source::new(from));
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = source.piece(pace.buffer_size()) => chunk.map_err(CopyError::Application)?,
            reset = to.reset() => return stopped(reset),
        };
        let Some(chunk) = chunk else {
            to.finish()?;
            return Ok(());
        };
        let length = count(chunk.len());
        if let Err(error) = to.send_all(chunk).await {
            return stopped(error);
        }
        meter.out_of_application(length);
        pace.passed(length).await;
    }
}

/// A peer that merely wants no more data says NO_ERROR or CANCEL; what it still sends us is worth waiting for.
fn stopped(error: StreamError) -> Result<(), CopyError> {
    match error {
        StreamError::Reset(h2::Reason::NO_ERROR | h2::Reason::CANCEL) => Ok(()),
        broken => Err(broken.into()),
    }
}

async fn tunnel_to_tcp(
    from: &mut TunnelReceiver,
    to: &TcpStream,
    limits: &Limits,
    meter: &impl Meter,
) -> Result<(), CopyError> {
    let mut pace = Pace::new(limits);
    while let Some(chunk) = from.receive().await? {
        write_all(to, &chunk).await.map_err(CopyError::Application)?;
        from.consumed(chunk.len())?;
        let length = count(chunk.len());
        meter.towards_application(length);
        pace.passed(length).await;
    }
    half_close(to).map_err(CopyError::Application)
}

type Failed = fn(io::Error) -> CopyError;

async fn tcp_to_tcp(
    (from, from_failed): (ReadHalf<'_>, Failed),
    (to, to_failed): (&TcpStream, Failed),
    limits: &Limits,
    passed: impl Fn(u64),
) -> Result<(), CopyError> {
    let (mut pace, mut source) = (Pace::new(limits), Source::new(from));
    loop {
        let length = count(source.fill(pace.buffer_size()).await.map_err(from_failed)?);
        if length == 0 {
            return half_close(to).map_err(to_failed);
        }
        write_all(to, &source.buffer).await.map_err(to_failed)?;
        source.buffer.clear();
        passed(length);
        pace.passed(length).await;
    }
}

/// How much one direction has copied, and when it last gave way.
///
/// Sockets that are always ready never suspend their task: without giving way, one bulk transfer would hold a worker
/// thread, and a policy change could not reach it.
struct Pace<'a> {
    total: u64,
    since: u64,
    limits: &'a Limits,
}

impl<'a> Pace<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self { total: 0, since: 0, limits }
    }

    /// Buffers grow with what has passed: most connections stay small, bulk transfers save system calls.
    fn buffer_size(&self) -> usize {
        let size = if self.total >= self.limits.value(&limits::COPY_GROW_LARGE) {
            &limits::COPY_BUFFER_LARGE
        } else if self.total >= self.limits.value(&limits::COPY_GROW_MEDIUM) {
            &limits::COPY_BUFFER_MEDIUM
        } else {
            &limits::COPY_BUFFER_SMALL
        };
        self.limits.size(size)
    }

    async fn passed(&mut self, length: u64) {
        self.total += length;
        self.since += length;
        if self.since >= self.limits.value(&limits::COPY_YIELD) {
            self.since = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// What a socket sends. The buffer exists only while there is something to read.
struct Source<'a> {
    from: ReadHalf<'a>,
    buffer: BytesMut,
}

impl<'a> Source<'a> {
    fn new(from: ReadHalf<'a>) -> Self {
        Self { from, buffer: BytesMut::new() }
    }

    /// Reads into the buffer, which must be empty, and says how much; zero at the end. At most `size` bytes at once.
    async fn fill(&mut self, size: usize) -> io::Result<usize> {
        poll_fn(|context| {
            loop {
                if self.from.as_ref().poll_read_ready(context)?.is_pending() {
                    self.buffer = BytesMut::new();
                    return Poll::Pending;
                }
                // Memory that the other side is done with is used again.
                if self.buffer.capacity() < size / 2 {
                    self.buffer.reserve(size);
                }
                // A read that leaves room tells the runtime that there is no more, which spares the read that would.
                match poll_read_buf(Pin::new(&mut self.from), context, &mut self.buffer) {
                    Poll::Pending => {}
                    ready => return ready,
                }
            }
        })
        .await
    }

    /// The next piece, `None` at the end. Large ones share the buffer.
    async fn piece(&mut self, size: usize) -> io::Result<Option<Bytes>> {
        let read = self.fill(size).await?;
        if read == 0 {
            return Ok(None);
        }
        if read < size / 8 {
            // A few bytes must not keep a large buffer alive while they wait for a slow peer.
            let piece = Bytes::copy_from_slice(&self.buffer);
            self.buffer.clear();
            return Ok(Some(piece));
        }
        Ok(Some(self.buffer.split().freeze()))
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says "no more bytes from here". A connection that is gone already has heard it.
fn half_close(stream: &TcpStream) -> io::Result<()> {
    match SockRef::from(stream).shutdown(Shutdown::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
