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
    let mut total = 0;
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = read_some(from, total) => chunk.map_err(CopyError::Application)?,
            // Only a broken peer stops us here: one that merely wants no more data says NO_ERROR or CANCEL.
            reset = to.reset() => match reset {
                StreamError::Reset(h2::Reason::NO_ERROR | h2::Reason::CANCEL) => return Ok(()),
                broken => return Err(broken.into()),
            },
        };
        let Some(chunk) = chunk else {
            to.finish()?;
            return Ok(());
        };
        let length = count(chunk.len());
        to.send_all(chunk).await?;
        total += length;
        meter.out_of_application(length);
    }
}

async fn tunnel_to_tcp(from: &mut TunnelReceiver, to: &TcpStream, meter: &impl Meter) -> Result<(), CopyError> {
    while let Some(chunk) = from.receive().await? {
        write_all(to, &chunk).await.map_err(CopyError::Application)?;
        from.consumed(chunk.len())?;
        meter.towards_application(count(chunk.len()));
    }
    half_close(to).map_err(CopyError::Application)
}

type Side<'a> = (&'a TcpStream, fn(io::Error) -> CopyError);

async fn tcp_to_tcp(from: Side<'_>, to: Side<'_>, passed: impl Fn(u64)) -> Result<(), CopyError> {
    let mut total = 0;
    while let Some(chunk) = read_some(from.0, total).await.map_err(from.1)? {
        write_all(to.0, &chunk).await.map_err(to.1)?;
        let length = count(chunk.len());
        total += length;
        passed(length);
    }
    half_close(to.0).map_err(to.1)
}

/// Reads what is there, `None` at the end. The buffer is made only when there is something to read.
async fn read_some(from: &TcpStream, total: u64) -> io::Result<Option<Bytes>> {
    loop {
        from.readable().await?;
        let mut buffer = BytesMut::with_capacity(buffer_size(total));
        match from.try_read_buf(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(buffer.freeze())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
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
