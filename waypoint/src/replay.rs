//! The body of a request, kept while it is short, so that it can be sent again.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::framing;
use crate::taken::{self, Bounds};

/// Frames that are kept; with single bytes in each, more would cost more memory than the bytes.
const KEPT_FRAMES: usize = 256;

/// The body of a request.
#[derive(Clone)]
pub struct Replay(Arc<Mutex<Shared>>);

/// How much of a body has come, as long as there is one.
#[derive(Clone, Default)]
pub struct Passed(Weak<Mutex<Shared>>);

/// The body of a request as it comes, of which the beginning may have been looked at.
pub struct Received {
    source: Source,
    ahead: Ahead,
    length: Option<u64>,
    ended: bool,
}

/// What was looked at, in one piece: somebody who sends single bytes costs no more than the bytes.
#[derive(Default)]
struct Ahead {
    data: BytesMut,
    trailers: Option<HeaderMap>,
}

/// The beginning of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Its first bytes.
    pub bytes: Bytes,
    /// Whether that is all.
    pub is_whole: bool,
}

/// The body as one attempt sends it.
pub struct Attempt {
    shared: Arc<Mutex<Shared>>,
    number: u32,
    at: usize,
}

struct Shared {
    source: Source,
    kept: Vec<Piece>,
    kept_bytes: usize,
    /// Bytes that are kept; none where it is sent once.
    keeps: Option<usize>,
    ended: bool,
    begun: bool,
    is_stopped: bool,
    attempt: u32,
    length: Option<u64>,
    passed: u64,
    /// When some of it came last.
    moved: Instant,
    /// Who waits for more of it, if somebody does.
    waits: Option<Waker>,
    /// Who waits for room for it, if somebody does.
    sends: Option<Waker>,
}

enum Source {
    Client(Incoming),
    /// What a processor leaves of it.
    Flowing(UnsyncBoxBody<Bytes, BodyError>),
    /// What we say ourselves, as it comes.
    Fed(mpsc::Receiver<Bytes>),
    Nothing,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// The client broke off, or another attempt has taken over.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client broke off.
    #[error("the client's request ended early: {0}")]
    Client(#[source] hyper::Error),
    /// A processor has failed, or has answered the request itself.
    #[error("the request's body goes no further: {0}")]
    Processor(String),
    /// Another attempt sends the body now, or nobody wants it any more.
    #[error("another attempt sends the request's body, or nobody wants it any more")]
    Superseded,
}

/// Whether an error of an attempt is the client's doing.
#[must_use]
pub fn is_clients(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(BodyError::Client(_)) = error.downcast_ref::<BodyError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether a body could not be read for what it is, rather than for want of more: chunks that are none.
#[must_use]
pub fn is_malformed(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData);
        }
        cause = error.source();
    }
    false
}

impl Passed {
    /// Bytes until now.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.0.upgrade().map_or(0, |shared| lock(&shared).passed)
    }

    /// When some of it came last, as long as there is one.
    #[must_use]
    pub fn moved(&self) -> Option<Instant> {
        self.0.upgrade().map(|shared| lock(&shared).moved)
    }

    /// Ready once nobody wants it any more from the attempt of this number, which sends it.
    pub fn poll_superseded(&self, number: u32, context: &mut Context<'_>) -> Poll<()> {
        let Some(shared) = self.0.upgrade() else { return Poll::Pending };
        let mut shared = lock(&shared);
        if shared.attempt != number {
            return Poll::Ready(());
        }
        match &mut shared.sends {
            Some(sends) => sends.clone_from(context.waker()),
            None => shared.sends = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl fmt::Debug for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.now())
    }
}

impl Received {
    /// Of which nothing was looked at.
    #[must_use]
    pub fn new(source: Incoming) -> Self {
        let (length, ended) = (source.size_hint().exact(), source.is_end_stream());
        Self { source: Source::Client(source), ahead: Ahead::default(), length, ended }
    }

    /// This, all of which is there.
    #[must_use]
    pub fn whole(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        let length = u64::try_from(data.len()).ok().filter(|_| trailers.is_none());
        let ahead = Ahead { data: BytesMut::from(data), trailers };
        Self { source: Source::Nothing, ahead, length, ended: true }
    }

    /// What a processor leaves of it.
    #[must_use]
    pub fn flowing(flow: UnsyncBoxBody<Bytes, BodyError>) -> Self {
        Self { source: Source::Flowing(flow), ahead: Ahead::default(), length: None, ended: false }
    }

    /// The first bytes, `most` at most. What was read is sent on all the same.
    ///
    /// # Errors
    /// When the client breaks off.
    pub async fn begin(&mut self, most: usize) -> Result<Beginning, BodyError> {
        while !self.ended && self.ahead.data.len() <= most {
            match self.source.frame().await.transpose()? {
                Some(frame) => self.ahead.add(frame),
                None => self.ended = true,
            }
            self.ended |= self.source.is_end_stream();
        }
        let data = &self.ahead.data;
        let is_whole = self.ended && data.len() <= most;
        Ok(Beginning { bytes: Bytes::copy_from_slice(data.get(..most).unwrap_or(data)), is_whole })
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if !this.ahead.data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(this.ahead.data.split().freeze()))));
        }
        if let Some(trailers) = this.ahead.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut this.source).poll_frame(context));
        this.ended = frame.is_none() || this.source.is_end_stream();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.ahead.data.is_empty() && self.ahead.trailers.is_none()
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Client(source) => {
                Pin::new(source).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(BodyError::Client)))
            }
            Self::Flowing(flow) => Pin::new(flow).poll_frame(context),
            Self::Fed(messages) => messages.poll_recv(context).map(|message| message.map(|it| Ok(Frame::data(it)))),
            Self::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(source) => source.is_end_stream(),
            Self::Flowing(flow) => flow.is_end_stream(),
            Self::Fed(_) => false,
            Self::Nothing => true,
        }
    }
}

impl Ahead {
    fn add(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(bytes) => self.data.extend_from_slice(&bytes),
            Err(frame) => self.trailers = frame.into_trailers().ok().or(self.trailers.take()),
        }
    }

    fn into_pieces(self) -> Vec<Piece> {
        let data = Some(self.data.freeze()).filter(|bytes| !bytes.is_empty()).map(Piece::Data);
        data.into_iter().chain(self.trailers.map(Piece::trailers)).collect()
    }
}

impl Piece {
    /// What a frame is, if it is any of these.
    fn of(frame: Frame<Bytes>) -> Result<Self, Frame<Bytes>> {
        match frame.into_data() {
            Ok(bytes) => Ok(Self::Data(bytes)),
            Err(frame) => frame.into_trailers().map(Self::trailers),
        }
    }

    /// What of trailers an endpoint may get, whoever has looked at them before: the client's, or a processor's in their place.
    fn trailers(mut trailers: HeaderMap) -> Self {
        framing::remove_from_trailers(&mut trailers);
        Self::Trailers(trailers)
    }

    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(bytes) => Frame::data(bytes),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }

    fn length(&self) -> usize {
        if let Self::Data(bytes) = self { bytes.len() } else { 0 }
    }
}

impl Replay {
    /// The body; `keeps` so many bytes where it may have to be sent again.
    #[must_use]
    pub fn new(body: Received, keeps: Option<usize>) -> Self {
        let Received { source, ahead, length, ended } = body;
        // What is known to be too long need not be begun with.
        let fits = |most: &usize| length.is_none_or(|length| length <= u64::try_from(*most).unwrap_or(u64::MAX));
        let keeps = keeps.filter(fits);
        let replay = Self::of(source, keeps, ended, length);
        replay.begun_with(ahead.into_pieces());
        replay
    }

    /// These bytes.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        let replay = Self::of(Source::Nothing, Some(bytes.len()), true, u64::try_from(bytes.len()).ok());
        replay.begun_with(Some(bytes).filter(|bytes| !bytes.is_empty()).into_iter().map(Piece::Data).collect());
        replay
    }

    /// Whatever comes here, until nobody can send any more.
    #[must_use]
    pub fn fed(messages: mpsc::Receiver<Bytes>) -> Self {
        Self::of(Source::Fed(messages), None, false, None)
    }

    fn begun_with(&self, pieces: Vec<Piece>) {
        let mut shared = self.lock();
        shared.kept_bytes = pieces.iter().map(Piece::length).sum();
        shared.passed = u64::try_from(shared.kept_bytes).unwrap_or(u64::MAX);
        shared.kept = pieces;
    }

    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self::of(Source::Nothing, Some(0), true, Some(0))
    }

    fn of(source: Source, keeps: Option<usize>, ended: bool, length: Option<u64>) -> Self {
        let shared = Shared {
            source,
            kept: Vec::new(),
            kept_bytes: 0,
            keeps,
            ended,
            begun: false,
            is_stopped: false,
            attempt: 0,
            length,
            passed: 0,
            moved: Instant::now(),
            waits: None,
            sends: None,
        };
        Self(Arc::new(Mutex::new(shared)))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.0)
    }

    /// The body for a new attempt; those before get no more of it.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        let (number, before) = {
            let mut shared = self.lock();
            shared.attempt += 1;
            // Nobody waits for more of it, nor for room, until this attempt does.
            (shared.attempt, [shared.waits.take(), shared.sends.take()])
        };
        // Who has waited learns that another one has taken over.
        before.into_iter().flatten().for_each(Waker::wake);
        Attempt { shared: Arc::clone(&self.0), number, at: 0 }
    }

    /// Whether all that was sent so far can be sent again.
    #[must_use]
    pub fn can_repeat(&self) -> bool {
        let shared = self.lock();
        !shared.is_stopped && (shared.keeps.is_some() || !shared.begun || (shared.ended && shared.passed == 0))
    }

    /// Whether it broke off, which is nothing that an endpoint can be blamed for.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.lock().is_stopped
    }

    /// Whether all of it has come and is kept.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let shared = self.lock();
        shared.ended && (shared.keeps.is_some() || shared.passed == 0)
    }

    /// Whether the client has sent all of it.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Bytes that came.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.lock().passed
    }

    /// When some of it came last, or it was begun with.
    #[must_use]
    pub fn moved(&self) -> Instant {
        self.lock().moved
    }

    /// Whether an endpoint waits for more of it.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        let shared = self.lock();
        shared.waits.is_some() && !shared.ended
    }

    /// Nobody wants any more of it: who would send it is told, so that the connections that it comes from and goes to do not wait for
    /// its end.
    pub fn give_up(&self) {
        let (waits, sends, _source) = {
            let mut shared = self.lock();
            shared.attempt += 1;
            let source = std::mem::replace(&mut shared.source, Source::Nothing);
            (shared.waits.take(), shared.sends.take(), source)
        };
        for waker in [waits, sends].into_iter().flatten() {
            waker.wake();
        }
    }

    /// How much of it has come, for somebody else; it does not keep the body.
    #[must_use]
    pub fn watched(&self) -> Passed {
        Passed(Arc::downgrade(&self.0))
    }

    /// A copy of a body that is whole.
    #[must_use]
    pub fn copy(&self) -> Self {
        let shared = self.lock();
        let copy = Self::of(Source::Nothing, Some(shared.kept_bytes), true, shared.length);
        {
            let mut inner = copy.lock();
            inner.kept.clone_from(&shared.kept);
            inner.passed = shared.passed;
        }
        copy
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn keep(&mut self, piece: Piece) {
        let length = piece.length();
        self.begun = true;
        self.passed += u64::try_from(length).unwrap_or(u64::MAX);
        self.kept_bytes += length;
        if self.keeps.is_some_and(|most| self.kept_bytes <= most) && self.kept.len() < KEPT_FRAMES {
            self.kept.push(piece);
        } else {
            self.keeps = None;
            self.kept = Vec::new();
        }
    }
}

impl Body for Attempt {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        taken::asked();
        let (passed, number) = (|| Passed(Arc::downgrade(&this.shared)), this.number);
        let mut guard = lock(&this.shared);
        let shared = &mut *guard;
        if shared.attempt != this.number {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(piece) = shared.kept.get(this.at) {
            this.at += 1;
            taken::given(|| Bounds::Request(passed(), number));
            return Poll::Ready(Some(Ok(piece.clone().into_frame())));
        }
        if shared.ended {
            return Poll::Ready(None);
        }
        let source = &mut shared.source;
        let frame = match Pin::new(&mut *source).poll_frame(context) {
            Poll::Pending => {
                match &mut shared.waits {
                    Some(waits) => waits.clone_from(context.waker()),
                    None => shared.waits = Some(context.waker().clone()),
                }
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => {
                shared.is_stopped = true;
                return Poll::Ready(Some(Err(error)));
            }
            Poll::Ready(None) => {
                shared.ended = true;
                return Poll::Ready(None);
            }
        };
        // Nothing comes behind trailers, and nobody asks whether anything does.
        let ended = source.is_end_stream() || frame.is_trailers();
        shared.ended |= ended;
        (shared.moved, shared.waits) = (Instant::now(), None);
        let frame = match Piece::of(frame) {
            Ok(piece) => {
                shared.keep(piece.clone());
                piece.into_frame()
            }
            Err(other) => other,
        };
        if shared.keeps.is_some() {
            this.at += 1;
        } else {
            this.at = 0;
        }
        taken::given(|| Bounds::Request(passed(), number));
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        let shared = lock(&self.shared);
        shared.attempt == self.number && shared.ended && self.at >= shared.kept.len()
    }

    fn size_hint(&self) -> SizeHint {
        let shared = lock(&self.shared);
        // What is asked before anything is sent is the length of the whole.
        shared.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_bytes_that_were_looked_at_become_one_piece() {
        let mut ahead = Ahead::default();
        for _ in 0..1000 {
            ahead.add(Frame::data(Bytes::from_static(b"x")));
        }
        ahead.add(Frame::trailers(HeaderMap::new()));
        let pieces = ahead.into_pieces();
        assert_eq!(pieces.iter().map(Piece::length).collect::<Vec<_>>(), [1000, 0]);
        assert!(Ahead::default().into_pieces().is_empty(), "nothing is no piece");
    }

    #[test]
    fn trailers_that_were_looked_at_say_no_more_than_others() {
        let mut trailers = HeaderMap::new();
        for name in ["content-length", "authorization", "x-checksum"] {
            trailers.insert(name, http::HeaderValue::from_static("1"));
        }
        let replay = Replay::new(Received::whole(Bytes::from_static(b"x"), Some(trailers)), None);
        let shared = replay.lock();
        let names: Vec<_> = shared.kept.iter().filter_map(Piece::names).flatten().collect();
        assert_eq!(names, ["x-checksum"]);
    }

    impl Piece {
        fn names(&self) -> Option<Vec<String>> {
            let Self::Trailers(trailers) = self else { return None };
            Some(trailers.keys().map(ToString::to_string).collect())
        }
    }
}
