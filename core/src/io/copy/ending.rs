//! How the two directions of a copy end together: what one has taken in is delivered although the other has failed.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use super::CopyError;

/// Where a direction broke off.
#[derive(Debug)]
pub(super) enum Broken {
    /// Whom it reads from has gone. Nobody is there for what the other direction carries.
    Source(CopyError),
    /// Who it writes to takes no more, but may have said something before that the other direction has not carried yet.
    Sink(CopyError),
}

impl From<Broken> for CopyError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Source(error) | Broken::Sink(error) => error,
        }
    }
}

/// Runs both directions to their end. When one cannot write any more, the other has `patience` to come to its own.
///
/// # Errors
/// The first failure.
pub(super) async fn both<F, G>(
    mut one: Pin<&mut F>,
    mut other: Pin<&mut G>,
    patience: Duration,
) -> Result<(), CopyError>
where
    F: Future<Output = Result<(), Broken>>,
    G: Future<Output = Result<(), Broken>>,
{
    let mut done = (false, false);
    let ended = poll_fn(|context| {
        if !done.0
            && let Poll::Ready(result) = one.as_mut().poll(context)
        {
            done.0 = true;
            if result.is_err() {
                return Poll::Ready(result);
            }
        }
        if !done.1
            && let Poll::Ready(result) = other.as_mut().poll(context)
        {
            done.1 = true;
            if result.is_err() {
                return Poll::Ready(result);
            }
        }
        if done.0 && done.1 { Poll::Ready(Ok(())) } else { Poll::Pending }
    });
    match ended.await {
        // Boxed, because next to no connection ever waits here.
        Err(Broken::Sink(error)) if done != (true, true) => {
            Box::pin(async move {
                let _ = if done.0 { timeout(patience, other).await } else { timeout(patience, one).await };
                Err(error)
            })
            .await
        }
        result => Ok(result?),
    }
}
