//! One open tunnel stream: bytes in, bytes out, half-close and reset.

mod io;

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

pub use self::io::TunnelIo;
use super::window::Drained;

/// A stream of bytes inside a tunnel, either end.
pub struct TunnelStream {
    /// The half we write to.
    pub sender: TunnelSender,
    /// The half we read from.
    pub receiver: TunnelReceiver,
}

/// The half of a tunnel stream that is written to.
pub struct TunnelSender {
    stream: SendStream<Bytes>,
    /// Counts the stream as active on its connection until both halves are gone.
    _lease: Option<Arc<dyn Send + Sync>>,
}

/// The half of a tunnel stream that is read from.
pub struct TunnelReceiver {
    stream: RecvStream,
    drained: Drained,
    _lease: Option<Arc<dyn Send + Sync>>,
}

/// How a tunnel stream broke.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The other end reset the stream.
    #[error("tunnel stream reset by the peer: {0}")]
    Reset(Reason),
    /// The connection under the stream failed.
    #[error("tunnel connection failed: {0}")]
    Connection(h2::Error),
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() && error.is_remote() => Self::Reset(reason),
            _ => Self::Connection(error),
        }
    }
}

impl TunnelStream {
    /// Joins two halves; `drained` hears of what is read, and `lease` is held until both are dropped.
    #[must_use]
    pub(super) fn new(
        sender: SendStream<Bytes>,
        receiver: RecvStream,
        drained: Drained,
        lease: Option<Arc<dyn Send + Sync>>,
    ) -> Self {
        Self {
            sender: TunnelSender { stream: sender, _lease: lease.clone() },
            receiver: TunnelReceiver { stream: receiver, drained, _lease: lease },
        }
    }

    /// Ends the stream as failed. RFC 9113 §8.5: a TCP error is a stream error of type `CONNECT_ERROR`.
    pub fn abort(&mut self) {
        self.sender.stream.send_reset(Reason::CONNECT_ERROR);
    }
}

impl TunnelSender {
    /// Waits until the peer will take bytes, at most `wanted`, and says how many.
    ///
    /// # Errors
    /// When the stream or its connection has ended.
    pub async fn capacity(&mut self, wanted: usize) -> Result<usize, StreamError> {
        self.stream.reserve_capacity(wanted);
        loop {
            let available = self.stream.capacity();
            if available > 0 {
                return Ok(available.min(wanted));
            }
            match poll_fn(|context| self.stream.poll_capacity(context)).await {
                Some(granted) => granted?,
                None => return Err(self.why_closed().await),
            };
        }
    }

    /// Sends bytes for which [`TunnelSender::capacity`] gave room.
    ///
    /// # Errors
    /// When the stream or its connection has ended.
    pub fn send(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        Ok(self.stream.send_data(bytes, false)?)
    }

    /// Sends all of `bytes`, as fast as the peer takes them.
    ///
    /// # Errors
    /// When the stream or its connection has ended.
    pub async fn send_all(&mut self, mut bytes: Bytes) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            let room = self.capacity(bytes.len()).await?;
            self.send(bytes.split_to(room))?;
        }
        Ok(())
    }

    /// Says that no more bytes follow: the tunnel's form of a TCP half-close.
    ///
    /// # Errors
    /// When the stream or its connection has ended.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        Ok(self.stream.send_data(Bytes::new(), true)?)
    }

    /// Waits until what was sent so far has left for the peer, for `patience` at most: a reset would overtake it, as it
    /// takes back what is still waiting for its turn or for the peer's window.
    pub async fn flushed(&mut self, patience: Duration) {
        let (mark, passed) = oneshot::channel();
        // An empty frame takes its turn behind the others. When it has been written nobody holds its contents any more.
        if self.stream.send_data(Bytes::from_owner(Mark(mark)), false).is_ok() {
            let _ = timeout(patience, passed).await;
        }
    }

    /// Why the stream takes no more bytes; never waits.
    async fn why_closed(&mut self) -> StreamError {
        let reset = poll_fn(|context| match self.stream.poll_reset(context) {
            Poll::Ready(reset) => Poll::Ready(Some(reset)),
            Poll::Pending => Poll::Ready(None),
        });
        match reset.await {
            Some(Ok(reason)) => StreamError::Reset(reason),
            Some(Err(error)) => error.into(),
            None => StreamError::Reset(Reason::STREAM_CLOSED),
        }
    }

    /// Resolves when the peer resets the stream; otherwise never.
    pub async fn reset(&mut self) -> StreamError {
        match poll_fn(|context| self.stream.poll_reset(context)).await {
            Ok(reason) => StreamError::Reset(reason),
            Err(error) => error.into(),
        }
    }
}

/// The contents of an empty frame; dropped when the frame is.
struct Mark(#[expect(dead_code, reason = "what counts is that it is dropped")] oneshot::Sender<Infallible>);

impl AsRef<[u8]> for Mark {
    fn as_ref(&self) -> &[u8] {
        &[]
    }
}

impl TunnelReceiver {
    /// The next bytes, or `None` when the peer sends no more.
    ///
    /// The peer gets no new credit for them until [`TunnelReceiver::consumed`].
    ///
    /// # Errors
    /// When the stream was reset or its connection failed. `NO_ERROR` and `CANCEL` count as the end (interop §1.8).
    pub async fn receive(&mut self) -> Result<Option<Bytes>, StreamError> {
        match self.stream.data().await {
            Some(Ok(bytes)) => Ok(Some(bytes)),
            None => Ok(None),
            Some(Err(error)) => match StreamError::from(error) {
                StreamError::Reset(Reason::NO_ERROR | Reason::CANCEL) => Ok(None),
                broken => Err(broken),
            },
        }
    }

    /// Gives the peer credit for `length` bytes that have reached the application.
    ///
    /// # Errors
    /// When the stream has ended meanwhile.
    pub fn consumed(&mut self, length: usize) -> Result<(), StreamError> {
        self.drained.add(length);
        Ok(self.stream.flow_control().release_capacity(length)?)
    }
}
