//! TLS with an endpoint that carries what nobody looks into: bytes between it and a client's tunnel.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fairway_core::io::copy::{CopyError, Meter};
use fairway_core::io::hbone::stream::{StreamError, TunnelReceiver, TunnelSender};
use fairway_core::io::hbone::{TunnelIo, TunnelStream};
use fairway_core::io::socket::reset_on_close;
use futures_util::future::{Either, select};
use h2::Reason as Code;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_util::io::poll_read_buf;

/// Room for what is read at once: what one record of TLS carries at most (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;

/// TLS over whatever leads to an endpoint.
pub trait Secured: AsyncRead + AsyncWrite + Send + Unpin {
    /// Breaks it off, so that the endpoint cannot take what it has for all that there was to be.
    fn abort(self: Box<Self>);
}

impl Secured for TlsStream<TcpStream> {
    fn abort(self: Box<Self>) {
        reset_on_close(self.get_ref().0);
    }
}

impl Secured for TlsStream<TunnelIo> {
    fn abort(self: Box<Self>) {
        let (mut tunnel, _unread) = self.into_inner().0.into_parts();
        tunnel.abort();
    }
}

/// The next bytes, as many as are there; none at the end. An end that was not announced in TLS is an error: somebody on the way
/// could have cut off the rest (RFC 8446 §6.1). Safe to cancel.
///
/// # Errors
/// When the connection broke.
pub async fn piece<T: AsyncRead + Unpin + ?Sized>(from: &mut T) -> io::Result<Option<Bytes>> {
    let mut from = Pin::new(from);
    let read = poll_fn(|context| {
        // Connections that wait hold no buffer.
        let mut buffer = BytesMut::with_capacity(RECORD);
        poll_read_buf(from.as_mut(), context, &mut buffer).map_ok(|_length| buffer)
    });
    let buffer = read.await?;
    Ok(match buffer.len() {
        0 => None,
        // A few bytes must not keep a large buffer alive while they wait for a slow client.
        few if few < RECORD / 8 => Some(Bytes::copy_from_slice(&buffer)),
        _ => Some(buffer.freeze()),
    })
}

/// Copies between a client and an endpoint until both are done, those bytes first that were read `ahead` of either. What an endpoint has
/// said before it took no more is given `patience` to reach the client.
///
/// # Errors
/// How it broke off.
pub async fn copy(
    client: &mut TunnelStream,
    endpoint: &mut dyn Secured,
    (from_client, from_endpoint): (Bytes, Bytes),
    patience: Duration,
    meter: &impl Meter,
) -> Result<(), CopyError> {
    let ended = {
        let (mut reader, mut writer) = split(endpoint);
        let outward = pin!(outward(&mut client.receiver, &mut writer, from_client, meter));
        let inward = pin!(inward(&mut reader, &mut client.sender, from_endpoint, meter));
        match select(outward, inward).await {
            Either::Left((Ok(()), inward)) => inward.await,
            Either::Left((Err(error @ CopyError::Peer(_)), inward)) => {
                let _ = timeout(patience, inward).await;
                Err(error)
            }
            Either::Right((Ok(()), outward)) => outward.await,
            Either::Left((Err(error), _)) | Either::Right((Err(error), _)) => Err(error),
        }
    };
    if matches!(ended, Err(CopyError::Peer(_))) {
        // The reset that follows would overtake what the client has not got yet.
        client.sender.flushed(patience).await;
    }
    ended
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

async fn outward(
    from: &mut TunnelReceiver,
    to: &mut WriteHalf<&mut dyn Secured>,
    first: Bytes,
    meter: &impl Meter,
) -> Result<(), CopyError> {
    let mut next = Some(first).filter(|first| !first.is_empty());
    loop {
        let bytes = match next.take() {
            Some(bytes) => bytes,
            None => match from.receive().await? {
                Some(bytes) => bytes,
                None => break,
            },
        };
        to.write_all(&bytes).await.map_err(CopyError::Peer)?;
        // What is encrypted and does not fit into the socket stays behind otherwise.
        to.flush().await.map_err(CopyError::Peer)?;
        meter.towards_application(count(bytes.len()));
        // The last bytes of a stream that has ended need no credit.
        let _ = from.consumed(bytes.len());
    }
    // An endpoint that is gone already has heard it; if it went too early, the other direction says so.
    let _ = to.shutdown().await;
    Ok(())
}

async fn inward(
    from: &mut ReadHalf<&mut dyn Secured>,
    to: &mut TunnelSender,
    first: Bytes,
    meter: &impl Meter,
) -> Result<(), CopyError> {
    let mut next = Some(first).filter(|first| !first.is_empty());
    loop {
        let bytes = match next.take() {
            Some(bytes) => bytes,
            None => tokio::select! {
                biased;
                piece = piece(from) => match piece.map_err(broken_off)? {
                    Some(bytes) => bytes,
                    None => return Ok(to.finish()?),
                },
                reset = to.reset() => return match reset {
                    // Whoever takes no more may still have something to say.
                    StreamError::Reset(Code::NO_ERROR | Code::CANCEL) => Ok(()),
                    broken => Err(broken.into()),
                },
            },
        };
        let length = count(bytes.len());
        to.send_all(bytes).await?;
        meter.out_of_application(length);
    }
}

fn broken_off(error: io::Error) -> CopyError {
    CopyError::Peer(match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(
            error.kind(),
            "it ended without saying so in TLS (close_notify), so something may be missing",
        ),
        _ => error,
    })
}
