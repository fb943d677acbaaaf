//! Gathers the small frames that one turn of an HTTP/2 connection produces into one TLS record and one system call.
//!
//! h2 flushes after every frame. For a tunnel that carries many streams this would be a record and a system call for
//! each request of each stream. Here a flush is only noted; whoever drives the connection makes up for it when the
//! connection has nothing more to do, and the tasks that were ready with it have written what they have (see [`patience`]).

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::patience::Patience;
use crate::limits;

mod patience;

/// Slices that are handed on at once; more than h2 ever gives.
const SLICES: usize = 8;

/// The side that h2 reads from and writes to.
pub(super) struct Gathered<T> {
    shared: Arc<Mutex<Shared<T>>>,
}

/// The side of whoever drives the connection.
pub(super) struct Turns<T> {
    shared: Arc<Mutex<Shared<T>>>,
}

struct Shared<T> {
    io: T,
    /// Frames of this turn.
    held: BytesMut,
    /// Something was written since the last flush.
    unflushed: bool,
    /// Whether that waits for others.
    patience: Patience,
    /// What became of a flush between turns; h2 is told when it reads next.
    failed: Option<io::Error>,
}

/// Gathers what is written to `io`. The connection made of the first must be driven through the second.
pub(super) fn gather<T>(io: T) -> (Gathered<T>, Turns<T>) {
    let shared = Shared { io, held: BytesMut::new(), unflushed: false, patience: Patience::default(), failed: None };
    let shared = Arc::new(Mutex::new(shared));
    (Gathered { shared: Arc::clone(&shared) }, Turns { shared })
}

impl<T: AsyncRead + AsyncWrite + Unpin> Turns<T> {
    /// Runs `turn`, which polls the connection, until it is ready. What it wrote is sent whenever it has to wait; what is
    /// written in its last turn waits for the next call, or goes out when the connection is shut down.
    pub(super) async fn drive<R>(&self, mut turn: impl FnMut(&mut Context<'_>) -> Poll<R>) -> R {
        poll_fn(|context| {
            loop {
                if let Poll::Ready(result) = turn(context) {
                    return Poll::Ready(result);
                }
                let mut shared = lock(&self.shared);
                let held = shared.held.len();
                if held > 0 && shared.patience.waits(held, context) {
                    return Poll::Pending;
                }
                match shared.poll_flush(context) {
                    // Only h2 can end the connection; it meets the error when it reads.
                    Poll::Ready(Err(error)) if shared.failed.is_none() => shared.failed = Some(error),
                    Poll::Ready(_) | Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Both sides belong to one task: it is never waited for.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: AsyncWrite + Unpin> Shared<T> {
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(context, &self.held))?;
            self.sent(written)?;
        }
        ready!(Pin::new(&mut self.io).poll_flush(context))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total = slices.iter().map(|slice| slice.len()).sum::<usize>();
        self.unflushed = true;
        if self.held.len() + total <= limits::GATHERED_WRITES.size() {
            for slice in slices {
                self.held.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(total));
        }
        loop {
            if self.held.is_empty() {
                return Pin::new(&mut self.io).poll_write_vectored(context, slices);
            }
            // What is held goes out with what is new: bulk data is never copied.
            let mut all = [IoSlice::new(&[]); SLICES];
            let given = std::iter::once(IoSlice::new(&self.held)).chain(slices.iter().copied());
            for (place, slice) in all.iter_mut().zip(given) {
                *place = slice;
            }
            let before = self.held.len();
            let written = ready!(Pin::new(&mut self.io).poll_write_vectored(context, &all))?;
            self.sent(written.min(before))?;
            if written > before {
                return Poll::Ready(Ok(written - before));
            }
        }
    }

    /// Forgets what is sent. The buffer goes with its last byte, so that idle tunnels keep none.
    fn sent(&mut self, length: usize) -> io::Result<()> {
        if length == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.held.advance(length.min(self.held.len()));
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
        Ok(())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.shared);
        if let Some(error) = shared.failed.take() {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut shared.io).poll_read(context, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.shared).poll_write(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.shared).poll_write(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Left to the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.shared);
        ready!(shared.poll_flush(context))?;
        Pin::new(&mut shared.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
