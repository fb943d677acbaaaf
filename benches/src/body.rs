//! Long bodies: sent without being held anywhere, and read as slowly at first as somebody does who is busy with something else.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::sleep;

/// What is sent at a time.
static PIECE: [u8; 64 * 1024] = [b'x'; 64 * 1024];
/// How long a slow reader reads nothing at all: until every buffer on the way is full.
const STANDS_STILL: Duration = Duration::from_millis(500);
/// Bytes a second that it then reads: a tenth of what a path through a waypoint carries at least.
const SLOW_RATE: f64 = 16e6;

/// So many bytes.
pub(crate) struct Long {
    left: u64,
    is_announced: bool,
}

impl Long {
    /// Says at the start how long it is, if it is `announced`: with `Content-Length` rather than in chunks over HTTP/1.1.
    pub(crate) fn new(bytes: u64, announced: bool) -> Self {
        Self { left: bytes, is_announced: announced }
    }
}

impl Body for Long {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let piece = PIECE.get(..most).unwrap_or(&PIECE);
        if piece.is_empty() {
            return Poll::Ready(None);
        }
        self.left = self.left.saturating_sub(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_announced { SizeHint::with_exact(self.left) } else { SizeHint::default() }
    }
}

/// Reads a body to its end, the first `slow` bytes of it slowly, and says how many there were.
///
/// # Errors
/// When it breaks off.
pub(crate) async fn read(mut body: Incoming, slow: u64) -> hyper::Result<u64> {
    if slow > 0 {
        sleep(STANDS_STILL).await;
    }
    let mut total = 0;
    while let Some(frame) = body.frame().await.transpose()? {
        let length = frame.data_ref().map_or(0, Bytes::len);
        total += u64::try_from(length).unwrap_or(u64::MAX);
        if total <= slow {
            sleep(Duration::from_secs_f64(length as f64 / SLOW_RATE)).await;
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_body_is_as_long_as_was_asked_for() {
        for bytes in [0, 1, 65_536, 65_537, 200_000] {
            for announced in [false, true] {
                let body = Long::new(bytes, announced);
                assert_eq!((body.is_end_stream(), body.size_hint().exact()), (bytes == 0, announced.then_some(bytes)));
                let length = body.collect().await.unwrap().to_bytes().len();
                assert_eq!(u64::try_from(length).unwrap(), bytes);
            }
        }
    }
}
