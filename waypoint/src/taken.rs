//! Ends streams of HTTP/2 whose other side takes nothing of a body. The body cannot do so itself: hyper asks it for a piece, and for the
//! next only once the stream has had room for that one (RFC 9113 §5.2).

use std::cell::RefCell;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use fairway_core::reason::Reason;
use hyper::body::{Frame, SizeHint};
use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::body::{AnswerError, Body};
use crate::replay::Passed;

/// What of an answer is given at once, at most: the frame that every peer takes (RFC 9113 §6.5.2). hyper hands on all that it is given as
/// soon as there is room for a byte, and nobody sees how much of that is taken.
const PIECE: usize = 16 * 1024;

tokio::task_local! {
    /// What the body says that a task sends. Between both is hyper, which passes nothing on.
    static WAIT: RefCell<Wait>;
}

/// What bounds a body of which nothing is taken.
pub enum Bounds {
    /// An answer.
    Answer {
        /// When it has to be there.
        deadline: Option<Instant>,
        /// How long nothing of it and of its request may move.
        longest: Option<Duration>,
        /// Its request.
        request: Passed,
    },
    /// A request, until nobody wants it any more from the attempt of this number.
    Request(Passed, u32),
}

/// Why a body of which nothing is taken goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// The route's timeout has passed.
    #[error("the client has not taken all of the answer within the route's timeout")]
    Late,
    /// Nothing has moved for too long.
    #[error("the client has taken nothing of the answer for {0:?}")]
    Untaken(Duration),
    /// What it is sent for has ended.
    #[error("nobody wants the rest of the request any more")]
    Unwanted,
}

impl Over {
    /// As metrics and logs have it.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Late => Reason::TimedOut,
            Self::Untaken(_) => Reason::IdleTimeout,
            Self::Unwanted => Reason::ClientLeft,
        }
    }
}

/// What is known of a body that a task sends.
#[derive(Default)]
struct Wait {
    /// Whether something was given that nobody has asked beyond.
    is_given: bool,
    bounds: Option<Bounds>,
    /// Since when there has been no room for that.
    since: Option<Instant>,
    /// Taken when something waits for the first time; most streams never wait.
    timer: Option<Pin<Box<Sleep>>>,
    over: Option<Over>,
}

/// A body is asked for more. Says whether what it gave before had to wait for room.
pub fn asked() -> bool {
    let waited = WAIT.try_with(|wait| {
        let mut wait = wait.borrow_mut();
        wait.is_given = false;
        wait.since.take().is_some()
    });
    waited.unwrap_or(false)
}

/// A body has given something; `bounds` are asked for once.
pub fn given(bounds: impl FnOnce() -> Bounds) {
    // Over HTTP/1.1 nobody wants to know.
    let _outside = WAIT.try_with(|wait| {
        let mut wait = wait.borrow_mut();
        wait.is_given = true;
        wait.bounds.get_or_insert_with(bounds);
    });
}

/// Why the body that is dropped now goes no further, if that is why it is dropped.
#[must_use]
pub fn over() -> Option<Over> {
    WAIT.try_with(|wait| wait.borrow().over).ok().flatten()
}

/// When an answer is over of which nothing has moved since then, and why.
fn end(deadline: Option<Instant>, longest: Option<Duration>, since: Instant) -> Option<(Instant, Over)> {
    let late = deadline.map(|at| (at, Over::Late));
    let untaken = longest.and_then(|longest| Some((since.checked_add(longest)?, Over::Untaken(longest))));
    late.into_iter().chain(untaken).min_by_key(|(at, _)| *at)
}

impl Wait {
    /// Ready once what was given has waited for too long.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<Over> {
        let Some(bounds) = self.bounds.as_ref().filter(|_| self.is_given) else { return Poll::Pending };
        let (deadline, longest, request) = match bounds {
            Bounds::Answer { deadline, longest, request } => (*deadline, *longest, request),
            Bounds::Request(request, number) => {
                return request.poll_superseded(*number, context).map(|()| Over::Unwanted);
            }
        };
        let since = *self.since.get_or_insert_with(Instant::now);
        let Some((first, _)) = end(deadline, longest, since) else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(first)));
        loop {
            ready!(timer.as_mut().poll(context));
            // It seldom comes so far: only now is it looked for when something moved.
            let since = request.moved().map_or(since, |moved| moved.max(since));
            match end(deadline, longest, since) {
                Some((at, over)) if at <= Instant::now() => return Poll::Ready(over),
                Some((at, _)) => timer.as_mut().reset(at),
                None => return Poll::Pending,
            }
        }
    }
}

pin_project! {
    /// What hyper does for a stream, until it ends or is ended.
    struct Stream<F> {
        #[pin]
        future: Option<F>,
        wait: Wait,
    }
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        let wait = RefCell::new(mem::take(this.wait));
        let (polled, wait) = WAIT.sync_scope(wait, || (future.poll(context), WAIT.with(RefCell::take)));
        *this.wait = wait;
        if polled.is_ready() {
            return Poll::Ready(());
        }
        this.wait.over = Some(ready!(this.wait.poll_over(context)));
        // Both halves of the stream go with it, and so it is reset (CANCEL).
        WAIT.sync_scope(RefCell::new(mem::take(this.wait)), || this.future.set(None));
        Poll::Ready(())
    }
}

/// Runs what hyper does for streams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        // hyper's client asks a body once before it has it sent by a task of its own, which goes on with what the body has said. Where the
        // body was sent at once, what is said is left for a task that only waits for the answer: nothing but the end of its request ends that.
        let wait = WAIT.try_with(RefCell::take).unwrap_or_default();
        tokio::spawn(Stream { future: Some(future), wait });
    }
}

/// A client's connection over HTTP/2, for what its bodies say before tasks of their own send them.
pub fn client<F: Future>(connection: F) -> impl Future<Output = F::Output> {
    WAIT.scope(RefCell::default(), connection)
}

/// An answer as it is sent over HTTP/2.
pub struct Pieces {
    body: Body,
    /// What of it was not given yet.
    rest: Bytes,
    /// How long nothing of it may be taken, where it is our own.
    longest: Option<Duration>,
}

impl Pieces {
    /// This answer. For so long may nothing of it be taken, where it is our own; zero is for ever.
    #[must_use]
    pub fn of(body: Body, longest: Duration) -> Self {
        Self { body, rest: Bytes::new(), longest: Some(longest).filter(|longest| !longest.is_zero()) }
    }
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = &mut *self;
        if asked() {
            this.body.taken();
        }
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => this.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        given(|| this.body.bounds(this.longest));
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), u64::try_from(self.rest.len()).unwrap_or(u64::MAX));
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower().saturating_add(rest));
        if let Some(upper) = hint.upper().and_then(|upper| upper.checked_add(rest)) {
            whole.set_upper(upper);
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use h2::RecvStream;
    use h2::client::SendRequest;
    use http::{Request, Response};
    use hyper::body::Incoming;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::duplex;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(10);
    const LENGTH: usize = 16 * PIECE;

    /// A client of a server whose answers have so many bytes, with room for one piece of each.
    async fn client() -> SendRequest<Bytes> {
        let (client, ours) = duplex(1 << 20);
        let service = service_fn(|_request: Request<Incoming>| async {
            let body = Body::ours(Bytes::from(vec![b'x'; LENGTH]), None);
            Ok::<_, Infallible>(Response::new(Pieces::of(body, LONGEST)))
        });
        tokio::spawn(http2::Builder::new(Streams).serve_connection(TokioIo::new(ours), service));
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(u32::try_from(PIECE).unwrap()).initial_connection_window_size(1 << 24);
        let (sender, connection) = builder.handshake(client).await.unwrap();
        tokio::spawn(connection);
        sender.ready().await.unwrap()
    }

    async fn ask(sender: &mut SendRequest<Bytes>) -> RecvStream {
        let (answer, _) = sender.send_request(Request::get("http://a/").body(()).unwrap(), true).unwrap();
        answer.await.unwrap().into_body()
    }

    /// Takes all of an answer, each piece after such a pause.
    async fn take(mut body: RecvStream, pause: Duration) -> Result<usize, h2::Error> {
        let mut taken = 0;
        while let Some(piece) = body.data().await {
            let length = piece?.len();
            taken += length;
            // The clock is paused.
            tokio::time::sleep(pause).await;
            body.flow_control().release_capacity(length)?;
        }
        Ok(taken)
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_loses_the_stream_and_nobody_else_does() {
        let mut sender = client().await;
        let begun = Instant::now();
        let mut untaken = ask(&mut sender).await;
        let other = ask(&mut sender).await;
        let other = tokio::spawn(take(other, LONGEST / 5));
        // Somebody who is slow, and keeps on taking.
        let slow = ask(&mut sender).await;
        let slow = tokio::spawn(take(slow, LONGEST - Duration::from_secs(1)));
        assert_eq!(untaken.data().await.unwrap().unwrap().len(), PIECE);
        let reset = untaken.data().await.unwrap().unwrap_err();
        assert_eq!((reset.reason(), reset.is_remote()), (Some(h2::Reason::CANCEL), true));
        assert_eq!(begun.elapsed().as_secs(), LONGEST.as_secs());
        for taken in [other, slow, tokio::spawn(take(ask(&mut sender).await, Duration::ZERO))] {
            assert_eq!(taken.await.unwrap().unwrap(), LENGTH);
        }
        assert!(begun.elapsed() > LONGEST * 10, "somebody was slow");
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_comes_first_ends_it() {
        let since = Instant::now();
        let after = |seconds| Some(since + Duration::from_secs(seconds));
        let untaken = Over::Untaken(LONGEST);
        let rows = [
            (None, None, None),
            (after(5), None, Some((5, Over::Late))),
            (None, Some(LONGEST), Some((10, untaken))),
            (after(5), Some(LONGEST), Some((5, Over::Late))),
            (after(15), Some(LONGEST), Some((10, untaken))),
            (None, Some(Duration::MAX), None),
        ];
        for (deadline, longest, expected) in rows {
            let found = end(deadline, longest, since).map(|(at, over)| ((at - since).as_secs(), over));
            assert_eq!(found, expected, "{deadline:?} {longest:?}");
        }
    }
}
