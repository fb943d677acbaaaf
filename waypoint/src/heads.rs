//! Watches over a client's connection while no request of it is being served: how long it may wait for one, how long the head of one
//! may take, and what is said to one that cannot be read. Over both versions of HTTP: how long it may not take what it is sent.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use fairway_core::io::hbone::headers::{PROXY_STATUS, proxy_status};
use fairway_core::limits::{self, Limits};
use fairway_core::reason::Reason;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::failure::Failure;

/// Whether a request is being served, known to the connection and to who serves. Cheap to clone; clones are one.
#[derive(Clone, Debug, Default)]
pub struct Serving(Arc<State>);

#[derive(Debug, Default)]
struct State {
    phase: AtomicU8,
    /// Requests until now.
    count: AtomicU32,
    /// Whether the last bytes of the latest one are those of a head, or of a body in chunks: an empty line.
    ends_empty: AtomicBool,
    /// The status that a head which cannot be read was answered with; 0 where there was none.
    refused: AtomicU16,
}

/// All that was to be said has been written: what is written now is the parser's own answer, to a head that it cannot read.
const CLEAR: u8 = 0;
/// A request is being served.
const SERVING: u8 = 1;
/// Its answer is complete, and may wait to be written.
const ENDED: u8 = 2;
/// The connection carries something else now.
const GONE: u8 = 3;

/// A request that is being served, until this is dropped.
#[derive(Debug)]
pub struct Exchange(Serving);

/// Bounds of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of a head that was begun.
    pub head: Duration,
    /// Until one is begun.
    pub idle: Duration,
    /// Of what the client does not take; zero is for ever.
    pub stalled: Duration,
}

/// A client's connection under watch.
pub struct Watched<T> {
    io: T,
    serving: Serving,
    bounds: Bounds,
    /// One for all bounds; it is seldom touched, as what it waits for mostly moves on.
    timer: Pin<Box<Sleep>>,
    /// Since when the client may begin a head, or has begun one.
    since: Instant,
    has_begun: bool,
    /// Requests when that was.
    count: u32,
    /// The last bytes that were read.
    last: [u8; 3],
    /// Since when it does not take what it is sent.
    stalled: Option<Instant>,
    /// What remains to be said to it, in the place of the parser's answer.
    refusal: Option<Refusal>,
}

/// What is said to a client whose head is refused.
struct Refusal {
    answer: Vec<u8>,
    /// Bytes of it that are written.
    said: usize,
    since: Instant,
}

impl Bounds {
    /// As the limits say.
    #[must_use]
    pub fn within(limits: &Limits) -> Self {
        Self {
            head: limits.duration(&limits::REQUEST_HEAD_TIMEOUT),
            idle: limits.duration(&limits::CLIENT_IDLE),
            stalled: limits.duration(&limits::STREAM_IDLE),
        }
    }
}

impl Serving {
    /// For a connection of which only what is written is watched.
    #[must_use]
    pub fn always() -> Self {
        let serving = Self::default();
        serving.0.phase.store(SERVING, Ordering::Relaxed);
        serving
    }

    /// A request has come; `length` of its body, where that is known before it has come to its end.
    #[must_use]
    pub fn begin(&self, length: Option<u64>) -> Exchange {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.ends_empty.store(length.is_none_or(|length| length == 0), Ordering::Relaxed);
        self.0.phase.store(SERVING, Ordering::Relaxed);
        Exchange(self.clone())
    }

    fn phase(&self) -> u8 {
        self.0.phase.load(Ordering::Relaxed)
    }

    /// Why a head was refused, if one was; `problem` is what the parser says.
    #[must_use]
    pub fn refusal(&self, problem: &dyn std::fmt::Display) -> Option<Failure> {
        let status = StatusCode::from_u16(self.0.refused.load(Ordering::Relaxed)).ok()?;
        let reason = reason_for(status);
        let detail = if status == StatusCode::REQUEST_TIMEOUT {
            format!("no whole head of a request within {}", limits::REQUEST_HEAD_TIMEOUT.name)
        } else {
            format!("the head of the request cannot be read: {problem}")
        };
        Some(Failure { status: Some(status), ..Failure::new(reason, detail) })
    }
}

impl Exchange {
    /// The connection goes on as something else, under other bounds.
    pub fn goes_on(self) {
        self.0.0.phase.store(GONE, Ordering::Relaxed);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let _ = self.0.0.phase.compare_exchange(SERVING, ENDED, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// What a head is refused for with this status.
fn reason_for(status: StatusCode) -> Reason {
    match status {
        StatusCode::REQUEST_TIMEOUT => Reason::TimedOut,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE | StatusCode::URI_TOO_LONG => Reason::HeadersTooLarge,
        _ => Reason::BadRequest,
    }
}

/// Keeps the last of these bytes, or of those before them.
fn keep_last(last: &mut [u8; 3], read: &[u8]) {
    if let Some(read) = read.last_chunk() {
        *last = *read;
        return;
    }
    for byte in read {
        last.rotate_left(1);
        last[2] = *byte;
    }
}

/// Whether a head ends so (RFC 9112 §2.1); a line may end without a carriage return (§2.2).
fn is_empty_line(last: [u8; 3]) -> bool {
    matches!(last, [b'\n', b'\r', b'\n'] | [_, b'\n', b'\n'])
}

/// The status that the parser answers with.
fn status_of(answer: &[u8]) -> Option<StatusCode> {
    StatusCode::from_bytes(answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?).ok()
}

/// What a client is told whose head is refused.
fn answer(status: StatusCode) -> Vec<u8> {
    let reason = reason_for(status);
    let text = format!("{} ({reason})\n", reason.message());
    let line = proxy_status(reason);
    let line = line.as_ref().and_then(|line| line.to_str().ok()).unwrap_or_default();
    let (length, date) = (text.len(), httpdate::fmt_http_date(SystemTime::now()));
    format!(
        "HTTP/1.1 {status}\r\ndate: {date}\r\n{PROXY_STATUS}: {line}\r\ncontent-type: text/plain\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{text}"
    )
    .into_bytes()
}

impl<T: AsyncRead + AsyncWrite + Unpin> Watched<T> {
    /// The connection from now on.
    #[must_use]
    pub fn new(io: T, serving: Serving, bounds: Bounds) -> Self {
        Self {
            io,
            serving,
            bounds,
            timer: Box::pin(sleep(bounds.idle)),
            since: Instant::now(),
            has_begun: false,
            count: 0,
            last: *b"\n\r\n",
            stalled: None,
            refusal: None,
        }
    }

    /// Ready at `end`, or after it.
    fn poll_end(&mut self, context: &mut Context<'_>, end: Instant) -> Poll<()> {
        loop {
            if self.timer.deadline() > end {
                self.timer.as_mut().reset(end);
            }
            ready!(self.timer.as_mut().poll(context));
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(end);
        }
    }

    /// Notes what has been read, if anything, while no request is being served.
    fn heard(&mut self, has_more: bool) {
        let count = self.serving.0.count.load(Ordering::Relaxed);
        if self.count != count {
            // The parser asks for more only when it has no whole head: what it has read behind a request is the beginning of one. That
            // shows in all but requests with a body of known length, whose last bytes may be any.
            let has_begun = self.serving.0.ends_empty.load(Ordering::Relaxed) && !is_empty_line(self.last);
            (self.count, self.has_begun, self.since) = (count, has_begun, Instant::now());
        }
        if has_more && !self.has_begun {
            (self.has_begun, self.since) = (true, Instant::now());
        }
    }

    /// Says why a head is refused, and ends the connection. The first reason stays; who does not take it has as long for it as for
    /// a head.
    fn poll_refuse(&mut self, context: &mut Context<'_>, status: StatusCode) -> Poll<io::Result<()>> {
        let since = match &self.refusal {
            Some(refusal) => refusal.since,
            None => {
                let since = Instant::now();
                self.serving.0.refused.store(status.as_u16(), Ordering::Relaxed);
                self.refusal = Some(Refusal { answer: answer(status), said: 0, since });
                since
            }
        };
        if let Poll::Ready(refused) = self.poll_refusal(context) {
            return Poll::Ready(refused);
        }
        ready!(self.poll_end(context, since + self.bounds.head));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Says what remains to be said, and ends the connection.
    fn poll_refusal(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(Refusal { answer, said, .. }) = &mut self.refusal {
            while let Some(rest) = answer.get(*said..).filter(|rest| !rest.is_empty()) {
                *said += ready!(Pin::new(&mut self.io).poll_write(context, rest))?;
            }
        }
        ready!(Pin::new(&mut self.io).poll_flush(context))?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    /// What is written is what is said to a client, unless it is the parser's own answer; then it is ours.
    fn poll_say(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.serving.phase() == CLEAR && slices.iter().any(|slice| !slice.is_empty()) {
            let status = slices.first().and_then(|slice| status_of(slice)).unwrap_or(StatusCode::BAD_REQUEST);
            ready!(self.poll_refuse(context, status))?;
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        match Pin::new(&mut self.io).poll_write_vectored(context, slices) {
            Poll::Ready(written) => {
                self.stalled = None;
                Poll::Ready(written)
            }
            Poll::Pending if self.bounds.stalled.is_zero() || self.serving.phase() == GONE => Poll::Pending,
            Poll::Pending => {
                let since = *self.stalled.get_or_insert_with(Instant::now);
                ready!(self.poll_end(context, since + self.bounds.stalled));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let is_between = matches!(this.serving.phase(), CLEAR | ENDED);
        if is_between && this.refusal.is_some() {
            ready!(this.poll_refuse(context, StatusCode::REQUEST_TIMEOUT))?;
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = into.filled().len();
        let read = Pin::new(&mut this.io).poll_read(context, into);
        keep_last(&mut this.last, into.filled().get(before..).unwrap_or_default());
        if !is_between {
            return read;
        }
        this.heard(into.filled().len() > before);
        if read.is_ready() {
            return read;
        }
        let longest = if this.has_begun { this.bounds.head } else { this.bounds.idle };
        ready!(this.poll_end(context, this.since + longest));
        if !this.has_begun || this.serving.phase() == ENDED {
            // As if it had ended the connection itself: nothing of a request has come.
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_refuse(context, StatusCode::REQUEST_TIMEOUT))?;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_say(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_say(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(context));
        let phase = &self.serving.0.phase;
        // Whoever flushes has written all that there was to be written.
        if phase.load(Ordering::Relaxed) == ENDED {
            phase.store(CLEAR, Ordering::Relaxed);
        }
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const BOUNDS: Bounds =
        Bounds { head: Duration::from_secs(10), idle: Duration::from_secs(60), stalled: Duration::from_secs(30) };

    fn watched() -> (DuplexStream, Watched<DuplexStream>, Serving) {
        let (client, ours) = duplex(4096);
        let serving = Serving::default();
        (client, Watched::new(ours, serving.clone(), BOUNDS), serving)
    }

    /// Time is paused: whatever waits takes exactly as long as its bound.
    #[tokio::test(start_paused = true)]
    async fn heads_and_waits_for_them_have_bounds_of_their_own() {
        let (mut client, mut ours, serving) = watched();
        let begun = Instant::now();
        client.write_all(b"GET / HT").await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(ours.read(&mut buffer).await.unwrap(), 8);
        assert_eq!(ours.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), BOUNDS.head.as_secs());
        let mut told = String::new();
        client.read_to_string(&mut told).await.unwrap();
        assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("details=\"timed_out\""), "{told}");
        assert_eq!(serving.refusal(&"").map(|failure| failure.reason), Some(Reason::TimedOut));

        let (mut client, mut ours, serving) = watched();
        for _ in 0..2 {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            assert!(ours.read(&mut buffer).await.unwrap() > 0);
            let exchange = serving.begin(None);
            // Neither counts while a request is being served.
            assert!(tokio::time::timeout(BOUNDS.idle * 2, ours.read(&mut buffer)).await.is_err());
            drop(exchange);
            ours.flush().await.unwrap();
        }
        let begun = Instant::now();
        assert_eq!(ours.read(&mut buffer).await.unwrap(), 0, "as if the client had ended it");
        assert_eq!(begun.elapsed().as_secs(), BOUNDS.idle.as_secs());
        assert!(serving.refusal(&"").is_none());
    }

    /// What comes behind a request, with it or later, is the beginning of the next one.
    #[tokio::test(start_paused = true)]
    async fn half_a_head_behind_a_request_is_one_that_was_begun() {
        const REQUEST: &str = "GET / HTTP/1.1\r\n\r\n";
        let rows = [
            ("", "", None, BOUNDS.idle),
            ("GET /sec", "", None, BOUNDS.head),
            ("", "G", None, BOUNDS.head),
            ("GET /second HTTP/1.1\r\nhost: a\r\n", "", None, BOUNDS.head),
            // Empty lines behind a request mean nothing (RFC 9112 §2.2).
            ("", "\r\n", None, BOUNDS.idle),
            ("", "\n", Some(0), BOUNDS.idle),
            // Nobody knows of these bytes where the body ends.
            ("body", "", Some(4), BOUNDS.idle),
        ];
        for (with, later, length, expected) in rows {
            let (mut client, mut ours, serving) = watched();
            client.write_all(format!("{REQUEST}{with}").as_bytes()).await.unwrap();
            let mut buffer = [0; 64];
            assert!(ours.read(&mut buffer).await.unwrap() > 0);
            let exchange = serving.begin(length);
            client.write_all(later.as_bytes()).await.unwrap();
            if !later.is_empty() {
                assert_eq!(ours.read(&mut buffer).await.unwrap(), later.len());
            }
            drop(exchange);
            ours.flush().await.unwrap();
            let begun = Instant::now();
            let ended = ours.read(&mut buffer).await.ok();
            assert_eq!(begun.elapsed(), expected, "{with:?} {later:?}");
            assert_eq!(ended, (expected == BOUNDS.idle).then_some(0), "{with:?} {later:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn drops_of_a_head_do_not_make_it_longer() {
        let (mut client, mut ours, _serving) = watched();
        let begun = Instant::now();
        let dripping = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                // The clock is paused.
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        });
        let mut buffer = [0; 64];
        let ended = loop {
            if let Err(error) = ours.read(&mut buffer).await {
                break error;
            }
        };
        assert_eq!((ended.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, BOUNDS.head.as_secs()));
        drop(ours);
        dripping.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_parsers_own_answer_is_replaced() {
        const PARSERS: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";
        let (mut client, mut ours, serving) = watched();
        let exchange = serving.begin(None);
        ours.write_all(PARSERS).await.unwrap();
        drop(exchange);
        // The rest of an answer looks as it likes.
        ours.write_all(PARSERS).await.unwrap();
        ours.flush().await.unwrap();
        let mut served = vec![0; PARSERS.len() * 2];
        client.read_exact(&mut served).await.unwrap();
        assert_eq!(served, PARSERS.repeat(2));
        assert!(serving.refusal(&"").is_none());
        ours.write_all(PARSERS).await.unwrap();
        let mut told = String::new();
        client.read_to_string(&mut told).await.unwrap();
        assert!(told.starts_with("HTTP/1.1 431 ") && told.contains("details=\"headers_too_large\""), "{told}");
        assert_eq!(serving.refusal(&"").map(|failure| failure.reason), Some(Reason::HeadersTooLarge));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_an_answer_is_left() {
        let (mut client, mut ours, serving) = watched();
        let _exchange = serving.begin(None);
        let begun = Instant::now();
        let answer = [0; 4096];
        ours.write_all(&answer).await.unwrap();
        let reads = async {
            // The clock is paused.
            tokio::time::sleep(Duration::from_secs(29)).await;
            client.read_exact(&mut [0; 1]).await.unwrap();
        };
        let (written, _) = tokio::join!(ours.write_all(&answer), reads);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 59, "what it takes begins it anew");
    }
}
