//! Copies bytes both ways until both sides are done: half-close and resets pass through, idle streams hold no buffer.

use std::io;
use std::net::Shutdown;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::io::hbone::TunnelStream;
use crate::io::hbone::stream::{StreamError, TunnelReceiver, TunnelSender};
use crate::io::socket::reset_on_close;
use crate::limits;

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
    application: &TcpStream,
    tunnel: &mut TunnelStream,
    meter: &impl Meter,
) -> Result<(), CopyError> {
    let TunnelStream { sender, receiver } = tunnel;
    // Both directions; the first failure ends it. Made inside the macro, a future is not kept in memory twice.
    let result =
        tokio::try_join!(tcp_to_tunnel(application, sender, meter), tunnel_to_tcp(receiver, application, meter))
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
pub async fn plain(application: &TcpStream, peer: &TcpStream, meter: &impl Meter) -> Result<(), CopyError> {
    let application_side: Side<'_> = (application, CopyError::Application);
    let peer_side: Side<'_> = (peer, CopyError::Peer);
    let result = tokio::try_join!(
        tcp_to_tcp(application_side, peer_side, |bytes| meter.out_of_application(bytes)),
        tcp_to_tcp(peer_side, application_side, |bytes| meter.towards_application(bytes)),
    )
    .map(|((), ())| ());
    if result.is_err() {
        reset_on_close(application);
        reset_on_close(peer);
    }
    result
}

async fn tcp_to_tunnel(from: &TcpStream, to: &mut TunnelSender, meter: &impl Meter) -> Result<(), CopyError> {
    let (mut pace, mut pieces) = (Pace::default(), Pieces::default());
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = pieces.next(from, pace.total) => chunk.map_err(CopyError::Application)?,
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

async fn tunnel_to_tcp(from: &mut TunnelReceiver, to: &TcpStream, meter: &impl Meter) -> Result<(), CopyError> {
    let mut pace = Pace::default();
    while let Some(chunk) = from.receive().await? {
        write_all(to, &chunk).await.map_err(CopyError::Application)?;
        from.consumed(chunk.len())?;
        let length = count(chunk.len());
        meter.towards_application(length);
        pace.passed(length).await;
    }
    half_close(to).map_err(CopyError::Application)
}

type Side<'a> = (&'a TcpStream, fn(io::Error) -> CopyError);

async fn tcp_to_tcp(from: Side<'_>, to: Side<'_>, passed: impl Fn(u64)) -> Result<(), CopyError> {
    let mut pace = Pace::default();
    loop {
        from.0.readable().await.map_err(from.1)?;
        // One buffer for as long as there is something to read, none while there is nothing.
        let mut buffer = BytesMut::with_capacity(buffer_size(pace.total));
        while let Some(read) = read_now(from.0, &mut buffer).map_err(from.1)? {
            if read == 0 {
                return half_close(to.0).map_err(to.1);
            }
            write_all(to.0, &buffer).await.map_err(to.1)?;
            buffer.clear();
            let length = count(read);
            passed(length);
            pace.passed(length).await;
            if buffer.capacity() < buffer_size(pace.total) {
                break;
            }
        }
    }
}

/// How much one direction has copied, and when it last gave way.
///
/// Sockets that are always ready never suspend their task: without giving way, one bulk transfer would hold a worker
/// thread, and a policy change could not reach it.
#[derive(Default)]
struct Pace {
    total: u64,
    since: u64,
}

impl Pace {
    async fn passed(&mut self, length: u64) {
        self.total += length;
        self.since += length;
        if self.since >= limits::COPY_YIELD.default {
            self.since = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Pieces of what an application sends. Several share a buffer, which exists only while there is something to read.
#[derive(Default)]
struct Pieces {
    buffer: BytesMut,
}

impl Pieces {
    /// The next piece, `None` at the end; `total` bytes have passed before.
    async fn next(&mut self, from: &TcpStream, total: u64) -> io::Result<Option<Bytes>> {
        let size = buffer_size(total);
        loop {
            // Memory that the other side is done with is used again.
            if self.buffer.capacity() < size / 2 {
                self.buffer.reserve(size);
            }
            match read_now(from, &mut self.buffer)? {
                Some(0) => return Ok(None),
                // A few bytes must not keep a large buffer alive while they wait for a slow peer.
                Some(read) if read < size / 8 => {
                    let piece = Bytes::copy_from_slice(&self.buffer);
                    self.buffer.clear();
                    return Ok(Some(piece));
                }
                Some(_) => return Ok(Some(self.buffer.split().freeze())),
                None => {
                    self.buffer = BytesMut::new();
                    from.readable().await?;
                }
            }
        }
    }
}

/// Reads without waiting: `None` when there is nothing now, zero at the end.
fn read_now(from: &TcpStream, buffer: &mut BytesMut) -> io::Result<Option<usize>> {
    match from.try_read_buf(buffer) {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
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

/// Buffers grow with what has passed: most connections stay small, bulk transfers save system calls.
fn buffer_size(total: u64) -> usize {
    if total >= limits::COPY_GROW_LARGE.default {
        limits::COPY_BUFFER_LARGE.size()
    } else if total >= limits::COPY_GROW_MEDIUM.default {
        limits::COPY_BUFFER_MEDIUM.size()
    } else {
        limits::COPY_BUFFER_SMALL.size()
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
