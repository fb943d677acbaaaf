//! The end of requests of which nothing moves any more: the time without a byte, either way, of one of them.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{self, Either};
use tokio::time::{Instant, Sleep, sleep};

/// One timer for a request and its answer. It is not touched when something moves, as it seldom comes to its end: only then is it
/// looked for when that was.
#[derive(Debug)]
pub struct Silence {
    longest: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    /// The longest that there may be; none where it may last. Zero is for ever, as in Envoy's configuration.
    #[must_use]
    pub fn bounded(longest: Duration) -> Option<Self> {
        (!longest.is_zero()).then(|| Self { longest, timer: Box::pin(sleep(longest)) })
    }

    /// The longest that there may be.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// Ready once nothing has moved for too long; `moved` says when something did last.
    pub fn poll_over(&mut self, context: &mut Context<'_>, moved: impl Fn() -> Instant) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(context));
            let end = moved() + self.longest;
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(end);
        }
    }
}

/// What comes of `work`, unless nothing moves for too long meanwhile: then how long that is.
pub async fn unless_silent<T>(
    silence: Option<&mut Silence>,
    moved: impl Fn() -> Instant,
    work: impl Future<Output = T> + Unpin,
) -> Result<T, Duration> {
    let Some(silence) = silence else { return Ok(work.await) };
    let longest = silence.longest;
    let over = future::poll_fn(|context| silence.poll_over(context, &moved));
    match future::select(work, over).await {
        Either::Left((done, _)) => Ok(done),
        Either::Right(((), _)) => Err(longest),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;

    use futures_util::poll;
    use tokio::time::advance;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn whatever_moves_begins_it_anew() {
        let moved = Cell::new(Instant::now());
        let mut silence = Silence::bounded(LONGEST).unwrap();
        let mut over = pin!(future::poll_fn(|context| silence.poll_over(context, || moved.get())));
        for _ in 0..3 {
            assert!(poll!(&mut over).is_pending());
            advance(Duration::from_millis(9_900)).await;
            assert!(poll!(&mut over).is_pending(), "a little before its end");
            moved.set(Instant::now());
        }
        advance(Duration::from_millis(9_900)).await;
        assert!(poll!(&mut over).is_pending());
        advance(Duration::from_millis(200)).await;
        assert!(poll!(&mut over).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn zero_is_for_ever_and_what_is_done_in_time_is_done() {
        assert!(Silence::bounded(Duration::ZERO).is_none());
        let begun = Instant::now();
        // The clock is paused.
        let work = |seconds| Box::pin(tokio::time::sleep(Duration::from_secs(seconds)));
        assert_eq!(unless_silent(None, || begun, work(1 << 20)).await, Ok(()));
        let begun = Instant::now();
        let mut silence = Silence::bounded(LONGEST).unwrap();
        assert_eq!(unless_silent(Some(&mut silence), || begun, work(9)).await, Ok(()));
        assert_eq!(unless_silent(Some(&mut silence), || begun, work(9)).await, Err(LONGEST));
    }
}
