//! Bodies on their way past a processor: gathered and shown at once, or shown piece by piece. One piece is with the processor at
//! a time, so that nobody holds more than that, and whoever is slow slows down the rest.

use bytes::{Bytes, BytesMut};
use fairway_proto::external_processor::processing_request::Request;
use fairway_proto::external_processor::{HttpBody, HttpTrailers};
use futures_util::stream::{self, Stream};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use tokio::time::{Duration, Instant};

use super::heard::{Heard, Part, Side};
use super::lines;
use super::session::Session;
use crate::config::{BodyMode, Parts};
use crate::edits;
use crate::failure::Failure;
use crate::idle::{self, Silence};

/// A body that was gathered: all of it, and its trailers.
pub(super) type Gathered = (Bytes, Option<HeaderMap>);

/// Why a body cannot be gathered.
pub(super) enum Ungathered<E> {
    /// It has more bytes than may be held.
    TooLong,
    /// It did not come to its end.
    Broken(E),
    /// Nothing of it came for so long.
    Silent(Duration),
}

/// Why a body goes no further.
#[derive(Debug)]
pub(super) enum Stopped<E> {
    /// It came no further.
    Source(E),
    /// The processor has failed, or has answered itself.
    Processor(String),
}

/// All of a body, `most` bytes at most, unless nothing moves for too long meanwhile: neither of it, nor of what has moved last when
/// `elsewhere` says.
pub(super) async fn gather<B>(
    mut body: B,
    most: usize,
    mut silence: Option<Silence>,
    elsewhere: impl Fn() -> Option<Instant>,
) -> Result<Gathered, Ungathered<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (mut data, mut trailers, mut came) = (BytesMut::new(), None, Instant::now());
    loop {
        let moved = || elsewhere().map_or(came, |moved| moved.max(came));
        let frame = idle::unless_silent(silence.as_mut(), moved, body.frame()).await;
        came = Instant::now();
        let Some(frame) = frame.map_err(Ungathered::Silent)? else { return Ok((data.freeze(), trailers)) };
        match frame.map_err(Ungathered::Broken)?.into_data() {
            Ok(bytes) if data.len().saturating_add(bytes.len()) > most => return Err(Ungathered::TooLong),
            Ok(bytes) => data.extend_from_slice(&bytes),
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
    }
}

/// What is asked about a body, or a piece of it.
pub(super) fn body(side: Side, body: Bytes, end_of_stream: bool) -> Request {
    let body = HttpBody { body: body.into(), end_of_stream };
    match side {
        Side::Request => Request::RequestBody(body),
        Side::Response => Request::ResponseBody(body),
    }
}

/// Shows trailers, and changes them.
pub(super) async fn trailers(session: &Session, side: Side, trailers: &mut HeaderMap) -> Result<(), Failure> {
    let shown = HttpTrailers { trailers: Some(lines(trailers)) };
    let request = match side {
        Side::Request => Request::RequestTrailers(shown),
        Side::Response => Request::ResponseTrailers(shown),
    };
    if let Some(heard) = session.ask((side, Part::Trailers), request).await? {
        edits::apply(&heard.edits, trailers);
    }
    Ok(())
}

/// What of a body goes on, piece by piece.
pub(super) fn flow<B>(
    source: B,
    session: Session,
    side: Side,
    parts: Parts,
) -> impl Stream<Item = Result<Frame<Bytes>, Stopped<B::Error>>> + Send
where
    B: Body<Data = Bytes> + Unpin + Send,
    B::Error: Send,
{
    let flow = Flow { source, session, side, parts, has_told_end: false, has_ended: false, is_broken: false };
    stream::unfold(flow, |mut flow| async move { flow.next().await.map(|next| (next, flow)) })
}

struct Flow<B> {
    source: B,
    session: Session,
    side: Side,
    /// What of it is shown.
    parts: Parts,
    /// The processor knows which piece is the last one.
    has_told_end: bool,
    has_ended: bool,
    /// Who asks again must not take it for the end.
    is_broken: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Flow<B> {
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, Stopped<B::Error>>> {
        if self.is_broken {
            return Some(Err(Stopped::Processor("it was broken off before".to_owned())));
        }
        let next = self.piece().await;
        self.is_broken = matches!(next, Some(Err(_)));
        next
    }

    /// The next piece that is left of the body.
    async fn piece(&mut self) -> Option<Result<Frame<Bytes>, Stopped<B::Error>>> {
        let is_shown = self.parts.body == BodyMode::Streamed;
        while !self.has_ended {
            match self.source.frame().await {
                None => {
                    self.has_ended = true;
                    if is_shown && !self.has_told_end {
                        // That there was no more is known only now.
                        return self.show(Bytes::new(), true).await.transpose();
                    }
                }
                Some(Err(error)) => return Some(Err(Stopped::Source(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if is_shown => {
                        let is_end = self.source.is_end_stream();
                        if let Some(next) = self.show(bytes, is_end).await.transpose() {
                            return Some(next);
                        }
                    }
                    Ok(bytes) => return Some(Ok(Frame::data(bytes))),
                    Err(frame) => {
                        let Ok(mut trailers) = frame.into_trailers() else { continue };
                        self.has_told_end = true;
                        if self.parts.trailers
                            && let Err(failure) = self::trailers(&self.session, self.side, &mut trailers).await
                        {
                            return Some(Err(stopped(&failure)));
                        }
                        return Some(Ok(Frame::trailers(trailers)));
                    }
                },
            }
        }
        None
    }

    /// Shows a piece; comes back with what is left of it.
    async fn show(&mut self, bytes: Bytes, is_end: bool) -> Result<Option<Frame<Bytes>>, Stopped<B::Error>> {
        self.has_told_end |= is_end;
        let question = body(self.side, bytes.clone(), is_end);
        let heard = self.session.ask((self.side, Part::Body), question).await.map_err(|failure| stopped(&failure))?;
        let left = match heard {
            None => {
                // Nobody is there to be shown the rest.
                self.parts = Parts { headers: false, body: BodyMode::Unseen, trailers: false };
                bytes
            }
            Some(Heard { is_last: true, .. }) => {
                let problem = "the processor wants to replace a body that is shown piece by piece";
                self.session.break_off(problem);
                return Err(Stopped::Processor(problem.to_owned()));
            }
            Some(Heard { body, .. }) => body.unwrap_or(bytes),
        };
        Ok(Some(left).filter(|left| !left.is_empty()).map(Frame::data))
    }
}

fn stopped<E>(failure: &Failure) -> Stopped<E> {
    Stopped::Processor(format!("{} ({})", failure.detail, failure.reason))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::StreamBody;
    use tokio::time::sleep;

    use super::*;

    /// A body that comes after so many seconds.
    fn late(seconds: u64) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let frame = async move {
            // The clock is paused.
            sleep(Duration::from_secs(seconds)).await;
            Ok(Frame::data(Bytes::from_static(b"all")))
        };
        StreamBody::new(Box::pin(stream::once(frame)))
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_elsewhere_is_no_silence() {
        const LONGEST: Duration = Duration::from_secs(10);
        // When the body comes, until when something else moves, and whether the body is waited for.
        for (comes, moves, waits) in [(9, None, true), (11, None, false), (25, Some(16), true), (25, Some(14), false)] {
            let begun = Instant::now();
            let elsewhere = || moves.map(|moves| Instant::now().min(begun + Duration::from_secs(moves)));
            let gathered = gather(late(comes), 8, Silence::bounded(LONGEST), elsewhere).await;
            match gathered {
                Ok((data, _)) => assert_eq!((&*data, waits), (&b"all"[..], true), "{comes} {moves:?}"),
                Err(Ungathered::Silent(longest)) => assert_eq!((longest, waits), (LONGEST, false), "{comes} {moves:?}"),
                Err(_) => panic!("{comes} {moves:?}"),
            }
        }
    }
}
