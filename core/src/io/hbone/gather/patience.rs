//! Whether what a turn has produced waits until the other tasks that are ready have had theirs.
//!
//! Each stream of a tunnel is a task of its own, and the runtime runs a connection right after the task that wrote to it. Of a
//! hundred requests that came in one read, each answer would be a record, a system call and a packet by itself. So the connection
//! goes to the end of the line, if that has paid lately: where a single stream talks, nobody else would write, and nothing is
//! gained by asking.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

/// So many times it is waited in vain before it is believed that nobody else writes.
const VAIN: u8 = 16;
/// Then it is tried again after so many turns.
const TURNS: u8 = 16;

/// What has been learned, and whether it is waited now.
#[derive(Default)]
pub(super) struct Patience {
    line: Arc<Line>,
    /// Bytes that were held when the wait began, if it is waited.
    since: Option<usize>,
    /// Vain waits that are left.
    left: u8,
    /// Turns without a wait.
    turns: u8,
}

/// The end of the line of tasks that are ready.
#[derive(Default)]
struct Line {
    is_over: AtomicBool,
    connection: Mutex<Option<Waker>>,
}

impl Line {
    fn connection(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Line {
    fn wake(self: Arc<Self>) {
        self.is_over.store(true, Ordering::Release);
        if let Some(connection) = self.connection().take() {
            connection.wake();
        }
    }
}

impl Patience {
    /// Whether `held` bytes are to wait; then the task is woken when the others have had their turn.
    pub(super) fn waits(&mut self, held: usize, context: &mut Context<'_>) -> bool {
        if let Some(then) = self.since {
            *self.line.connection() = Some(context.waker().clone());
            if !self.line.is_over.swap(false, Ordering::AcqRel) {
                return true;
            }
            self.since = None;
            self.left = if held > then { VAIN } else { self.left.saturating_sub(1) };
            return false;
        }
        if self.left == 0 {
            self.turns += 1;
            if self.turns < TURNS {
                return false;
            }
            self.turns = 0;
        }
        self.since = Some(held);
        *self.line.connection() = Some(context.waker().clone());
        let line = Waker::from(Arc::clone(&self.line));
        // Its first poll puts the waker at the end of the line, where it stays when this is dropped.
        let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&line));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer for so many bytes, and once more when the line has gone by.
    fn ask(patience: &mut Patience, held: usize, later: usize) -> (bool, bool) {
        let mut context = Context::from_waker(Waker::noop());
        let waits = patience.waits(held, &mut context);
        if waits {
            // Without a runtime there is no line: it is over at once.
            assert!(!patience.waits(later, &mut context), "nobody waits twice");
        }
        (waits, patience.since.is_none())
    }

    #[test]
    fn it_waits_for_as_long_as_that_pays() {
        let mut patience = Patience::default();
        let first: Vec<bool> = (0..TURNS).map(|_| ask(&mut patience, 1, 1).0).collect();
        assert!(first[..15].iter().all(|waits| !waits) && first[15], "it is tried now and then: {first:?}");
        (1..TURNS).for_each(|_| assert!(!ask(&mut patience, 1, 1).0));
        assert!(ask(&mut patience, 1, 2).0, "this time others write");
        (0..100).for_each(|_| assert_eq!(ask(&mut patience, 1, 2), (true, true)));
        (0..VAIN).for_each(|_| assert!(ask(&mut patience, 2, 2).0));
        assert!(!ask(&mut patience, 2, 2).0, "nobody else writes any more");
    }

    #[tokio::test]
    async fn what_comes_meanwhile_does_not_end_the_wait() {
        let mut patience = Patience { left: 1, ..Patience::default() };
        let mut polls = Vec::new();
        std::future::poll_fn(|context| {
            let waits = patience.waits(polls.len(), context);
            if polls.is_empty() {
                // Somebody wakes the connection before the line has gone by.
                context.waker().wake_by_ref();
                assert!(patience.waits(1, context));
            }
            polls.push(waits);
            if waits { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
        })
        .await;
        assert!(polls.len() >= 2 && polls[..polls.len() - 1].iter().all(|waits| *waits), "{polls:?}");
    }
}
