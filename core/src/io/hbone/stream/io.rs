//! A tunnel stream as something that other protocols can be spoken over.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{StreamError, TunnelStream};

/// A tunnel stream that is read and written like a socket. Dropped before its end, it is reset.
///
/// The peer gets credit for what has been read, so back-pressure passes through.
pub struct TunnelIo {
    tunnel: TunnelStream,
    unread: Bytes,
    finished: bool,
}

impl TunnelIo {
    /// The stream, of which `ahead` has been received already but not been consumed.
    #[must_use]
    pub fn new(tunnel: TunnelStream, ahead: Bytes) -> Self {
        Self { tunnel, unread: ahead, finished: false }
    }

    /// The stream again, and what was received of it and not read.
    #[must_use]
    pub fn into_parts(self) -> (TunnelStream, Bytes) {
        (self.tunnel, self.unread)
    }
}

fn broken(error: StreamError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for TunnelIo {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() {
            match ready!(this.tunnel.receiver.stream.poll_data(context)) {
                Some(Ok(bytes)) => this.unread = bytes,
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => {
                    return Poll::Ready(match StreamError::from(error) {
                        StreamError::Reset(Reason::NO_ERROR) => Ok(()),
                        // Unlike for a copy, this is no end: a message that lasts until the end would look complete.
                        error => Err(broken(error)),
                    });
                }
            }
        }
        let length = this.unread.len().min(into.remaining());
        into.put_slice(&this.unread.split_to(length));
        if this.unread.is_empty() {
            this.unread = Bytes::new();
        }
        Poll::Ready(this.tunnel.receiver.consumed(length).or_else(|error| match error {
            // The last bytes of a stream that has ended need no credit.
            _ if this.tunnel.receiver.stream.is_end_stream() => Ok(()),
            error => Err(broken(error)),
        }))
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        let stream = &mut self.tunnel.sender.stream;
        stream.reserve_capacity(wanted);
        while stream.capacity() == 0 {
            match ready!(stream.poll_capacity(context)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error.into()))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let length = stream.capacity().min(wanted);
        let mut frame = BytesMut::with_capacity(length);
        for slice in slices {
            let room = length - frame.len();
            frame.extend_from_slice(slice.get(..room.min(slice.len())).unwrap_or_default());
        }
        Poll::Ready(match stream.send_data(frame.freeze(), false) {
            Ok(()) => Ok(length),
            Err(error) => Err(broken(error.into())),
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was sent is the connection's to send.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            self.finished = true;
            // Whoever reset the stream wants no end either.
            let _ = self.tunnel.sender.finish();
        }
        Poll::Ready(Ok(()))
    }
}
