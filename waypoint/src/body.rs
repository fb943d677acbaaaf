//! The body of an answer: an endpoint's, or our own. When it ends, however it does, the request is counted and logged.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use fairway_core::reason::Reason;
use http::HeaderMap;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::access_log;
use crate::grpc;
use crate::heads::Exchange;
use crate::idle::Silence;
use crate::load::{Busy, UnderWay};
use crate::replay::{Passed, Replay, is_malformed};
use crate::stream::Connection;
use crate::taken::{self, Bounds, Over};
use crate::telemetry::Done;
use crate::upstream::{Key, Upstream};

/// The body of an answer.
pub struct Body {
    source: Source,
    done: Option<Ending>,
    /// Over with this, where the client's connection waits for that.
    exchange: Option<Exchange>,
}

enum Source {
    Ours(Option<Bytes>),
    Endpoint(Box<Endpoint>),
}

/// What an answer of an endpoint holds until its end.
pub struct Endpoint {
    /// What comes of it.
    pub body: Coming,
    /// The connection it comes on, to be used again if it comes to its end.
    pub upstream: Option<(Key, Upstream)>,
    /// When it has to be there.
    pub deadline: Option<Pin<Box<Sleep>>>,
    /// How long nothing of it and of the request's body may move, where that is bounded.
    pub silence: Option<Silence>,
    /// When some of it came last.
    pub moved: Instant,
    /// The request, under way until then.
    pub under_way: UnderWay,
    /// The same for its endpoint, where that counts.
    pub busy: Option<Busy>,
    /// The request's body.
    pub request: Replay,
}

/// The body of an endpoint's answer, as it comes or as a processor leaves it.
pub struct Coming(From);

enum From {
    /// As it comes, and whether it has been read to its end, which hyper does not say of one in chunks.
    Endpoint(Incoming, bool),
    /// All of it, and whether the endpoint's was read to its end.
    Whole(Option<Bytes>, Option<HeaderMap>, bool),
    /// What a processor leaves of it, and whether it has ended.
    Flowing(UnsyncBoxBody<Bytes, AnswerError>, bool),
}

impl Coming {
    /// As it comes.
    #[must_use]
    pub fn endpoint(body: Incoming) -> Self {
        Self(From::Endpoint(body, false))
    }

    /// All of it; `is_read` where the endpoint's was read to its end.
    #[must_use]
    pub fn whole(data: Bytes, trailers: Option<HeaderMap>, is_read: bool) -> Self {
        Self(From::Whole(Some(data).filter(|data| !data.is_empty()), trailers, is_read))
    }

    /// What a processor leaves of it.
    #[must_use]
    pub fn flowing(flow: UnsyncBoxBody<Bytes, AnswerError>) -> Self {
        Self(From::Flowing(flow, false))
    }

    /// Whether nothing is left of the endpoint's.
    fn is_read(&self) -> bool {
        match &self.0 {
            From::Endpoint(body, has_ended) => *has_ended || body.is_end_stream(),
            From::Whole(.., is_read) => *is_read,
            From::Flowing(_, has_ended) => *has_ended,
        }
    }
}

impl hyper::body::Body for Coming {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        match &mut self.0 {
            From::Endpoint(body, has_ended) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                *has_ended = is_last(frame.as_ref());
                Poll::Ready(frame.map(|frame| frame.map_err(AnswerError::from)))
            }
            From::Whole(data, trailers, _) => {
                let frame = data.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(frame.map(Ok))
            }
            From::Flowing(flow, has_ended) => {
                let frame = ready!(Pin::new(flow).poll_frame(context));
                *has_ended = is_last(frame.as_ref());
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            From::Endpoint(body, has_ended) => *has_ended || body.is_end_stream(),
            From::Whole(data, trailers, _) => data.is_none() && trailers.is_none(),
            From::Flowing(_, has_ended) => *has_ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            From::Endpoint(body, _) => body.size_hint(),
            From::Whole(_, Some(_), _) | From::Flowing(..) => SizeHint::default(),
            From::Whole(data, None, _) => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX)))
            }
        }
    }
}

/// Whether nothing comes behind what was read; nobody asks again behind trailers.
fn is_last<E>(frame: Option<&Result<Frame<Bytes>, E>>) -> bool {
    frame.is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers))
}

/// What happened so far. When this is dropped it is over, and counted and logged.
pub struct Ending {
    /// Where it happened.
    pub connection: Arc<Connection>,
    /// What happened.
    pub done: Done,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.connection.waypoint.telemetry.request(&self.connection, &self.done);
        self.connection.waypoint.exports.request(&self.connection, &self.done);
        access_log::tell(&self.connection, &self.done);
    }
}

/// An answer that could not be brought to its end.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The endpoint broke off.
    #[error("the endpoint broke off: {0}")]
    Endpoint(#[from] hyper::Error),
    /// It took too long.
    #[error("the answer took longer than the route's timeout")]
    Late,
    /// Nothing has moved for too long.
    #[error("nothing of the answer has moved for {0:?}")]
    Silent(Duration),
    /// A processor has failed, or says something else now.
    #[error("the answer goes no further: {0}")]
    Processor(String),
}

impl Body {
    /// An answer of our own.
    #[must_use]
    pub fn ours(text: Bytes, ending: Option<Ending>) -> Self {
        let done = ending.map(|mut ending| {
            ending.done.sent = u64::try_from(text.len()).unwrap_or(u64::MAX);
            ending.done.note(|entry| entry.answering(ending.done.status));
            ending
        });
        Self { source: Source::Ours(Some(text).filter(|text| !text.is_empty())), done, exchange: None }
    }

    /// An answer of an endpoint.
    #[must_use]
    pub fn of(endpoint: Endpoint, ending: Ending) -> Self {
        Self { source: Source::Endpoint(Box::new(endpoint)), done: Some(ending), exchange: None }
    }

    /// The exchange ends with it.
    pub fn ends(&mut self, exchange: Exchange) {
        self.exchange = Some(exchange);
    }

    /// What bounds it while nothing of it is taken; for so long that may be, where it is our own.
    #[must_use]
    pub fn bounds(&self, longest: Option<Duration>) -> Bounds {
        match &self.source {
            Source::Ours(_) => Bounds::Answer { deadline: None, longest, request: Passed::default() },
            Source::Endpoint(endpoint) => Bounds::Answer {
                deadline: endpoint.deadline.as_ref().map(|deadline| deadline.deadline()),
                longest: endpoint.silence.as_ref().map(Silence::longest),
                request: endpoint.request.watched(),
            },
        }
    }

    /// What had to wait for its client has been taken.
    pub fn taken(&mut self) {
        if let Source::Endpoint(endpoint) = &mut self.source {
            endpoint.moved = Instant::now();
        }
    }

    /// The answer that it belongs to has these headers.
    pub fn answered(&mut self, headers: &HeaderMap) {
        self.note(|done| {
            if let Some(kept) = &mut done.kept {
                kept.answer(headers);
            }
        });
    }

    fn note(&mut self, change: impl FnOnce(&mut Done)) {
        if let Some(ending) = &mut self.done {
            change(&mut ending.done);
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = &mut *self;
        let endpoint = match &mut this.source {
            Source::Ours(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Source::Endpoint(endpoint) => endpoint,
        };
        if let Some(deadline) = &mut endpoint.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            this.note(|done| (done.reason, done.detail) = (Reason::TimedOut, Some(AnswerError::Late.to_string())));
            return Poll::Ready(Some(Err(AnswerError::Late)));
        }
        let frame = match Pin::new(&mut endpoint.body).poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let Some(silence) = &mut endpoint.silence else { return Poll::Pending };
                let (request, moved) = (&endpoint.request, endpoint.moved);
                ready!(silence.poll_over(context, || request.moved().max(moved)));
                let silent = AnswerError::Silent(silence.longest());
                this.note(|done| (done.reason, done.detail) = (Reason::IdleTimeout, Some(silent.to_string())));
                return Poll::Ready(Some(Err(silent)));
            }
        };
        endpoint.moved = Instant::now();
        match &frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                let status = frame.trailers_ref().and_then(grpc::status_in);
                this.note(|done| {
                    done.sent += length;
                    done.note(|entry| entry.answered(done.sent));
                    done.grpc_status = status.or(done.grpc_status);
                });
            }
            Some(Err(error)) => {
                let reason = match error {
                    AnswerError::Processor(_) => Reason::ProcessorFailed,
                    AnswerError::Endpoint(error) if is_malformed(error) => Reason::AnswerMalformed,
                    AnswerError::Endpoint(_) | AnswerError::Late | AnswerError::Silent(_) => Reason::ResetByPeer,
                };
                let detail = error.to_string();
                this.note(|done| (done.reason, done.detail) = (reason, Some(detail)));
            }
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Ours(text) => text.is_none(),
            Source::Endpoint(endpoint) => endpoint.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Ours(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| u64::try_from(text.len()).unwrap_or(u64::MAX)))
            }
            Source::Endpoint(endpoint) => endpoint.body.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let (mut whole, over) = (true, taken::over());
        if let Source::Endpoint(endpoint) = &mut self.source {
            whole = endpoint.body.is_end_stream() && over.is_none();
            let received = endpoint.request.passed();
            // The endpoint may not have taken what has come.
            if !whole || !endpoint.request.has_ended() {
                endpoint.request.give_up();
            }
            if let Some((key, upstream)) = endpoint.upstream.take()
                && whole
                && endpoint.body.is_read()
                && endpoint.request.has_ended()
                && let Some(ending) = &self.done
            {
                ending.connection.waypoint.upstreams.put(key, upstream);
            }
            self.note(|done| done.received = received);
        }
        self.note(|done| {
            if !whole && done.reason == Reason::Ok {
                done.reason = over.map_or(Reason::ClientLeft, Over::reason);
                done.detail = over.map(|over| over.to_string());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    /// Who sends an answer on does not ask again behind its trailers.
    #[tokio::test]
    async fn an_answer_with_trailers_has_ended_with_them() {
        let frames = [Frame::data(Bytes::from_static(b"a")), Frame::trailers(HeaderMap::new())];
        let flow = StreamBody::new(stream::iter(frames.map(Ok))).boxed_unsync();
        let mut coming = Coming::flowing(flow);
        for ended in [false, true] {
            assert!(coming.frame().await.unwrap().is_ok());
            assert_eq!((coming.is_end_stream(), coming.is_read()), (ended, ended));
        }
    }
}
