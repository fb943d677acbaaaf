//! Reads from a socket in large pieces on behalf of a reader that asks for small ones.
//!
//! rustls asks for 4 KiB at a time, which makes four system calls of one TLS record. The buffer exists only while it
//! holds something, so that idle tunnels keep none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::limits::{self, Limits};

/// A connection whose reads are gathered; writes pass through.
#[derive(Debug)]
pub struct ReadAhead<T> {
    inner: T,
    ahead: BytesMut,
    /// Bytes to gather next: grows while reads fill it. None when the last read left room, as the reader's own buffer will
    /// do then.
    wanted: usize,
    limits: Limits,
}

impl<T> ReadAhead<T> {
    /// Gathers the reads of `inner`.
    #[must_use]
    pub fn new(inner: T, limits: &Limits) -> Self {
        Self { inner, ahead: BytesMut::new(), wanted: 0, limits: limits.clone() }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadAhead<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            let (small, large) =
                (this.limits.size(&limits::READ_AHEAD_SMALL), this.limits.size(&limits::READ_AHEAD_LARGE));
            if into.remaining() >= this.wanted {
                ready!(Pin::new(&mut this.inner).poll_read(context, into))?;
                this.wanted = if into.remaining() == 0 { small.max(this.wanted) } else { 0 };
                return Poll::Ready(Ok(()));
            }
            let mut ahead = BytesMut::with_capacity(this.wanted);
            // `poll_read_buf` never reads more than the spare capacity.
            let read = ready!(poll_read_buf(Pin::new(&mut this.inner), context, &mut ahead))?;
            this.wanted = if read < this.wanted { 0 } else { (this.wanted * 2).min(large) };
            this.ahead = ahead;
        }
        let length = this.ahead.len().min(into.remaining());
        into.put_slice(this.ahead.get(..length).unwrap_or_default());
        this.ahead.advance(length);
        if this.ahead.is_empty() {
            this.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadAhead<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn every_byte_arrives_in_order_whatever_the_sizes() {
        let (mut far, near) = duplex(100_000);
        let sent: Vec<u8> = (0..300_000_u32).map(|index| index.to_le_bytes()[index as usize % 3]).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move { far.write_all(&sent).await.unwrap() });
        let mut reader = ReadAhead::new(near, &Limits::default());
        let mut received = Vec::new();
        for size in [1, 7, 4096, 3, 70_000, 16].into_iter().cycle() {
            let mut piece = vec![0; size];
            let read = reader.read(&mut piece).await.unwrap();
            if read == 0 {
                break;
            }
            received.extend_from_slice(&piece[..read]);
        }
        writer.await.unwrap();
        assert!(received == expected, "bytes changed on the way");
        assert_eq!(reader.ahead.capacity(), 0, "nothing is kept when there is nothing to keep");
    }

    #[tokio::test]
    async fn small_reads_of_the_consumer_become_large_ones_of_the_socket() {
        let (mut far, near) = duplex(1 << 20);
        far.write_all(&vec![1; 1 << 20]).await.unwrap();
        let mut reader = ReadAhead::new(near, &Limits::default());
        for _ in 0..64 {
            reader.read_exact(&mut [0; 4096]).await.unwrap();
        }
        assert_eq!(reader.wanted, limits::READ_AHEAD_LARGE.size());
    }

    #[tokio::test]
    async fn little_is_read_without_a_buffer() {
        let (mut far, near) = duplex(1 << 20);
        let mut reader = ReadAhead::new(near, &Limits::default());
        for _ in 0..3 {
            far.write_all(&[1; 100]).await.unwrap();
            assert_eq!(reader.read(&mut [0; 4096]).await.unwrap(), 100);
            assert_eq!((reader.wanted, reader.ahead.capacity()), (0, 0));
        }
    }
}
