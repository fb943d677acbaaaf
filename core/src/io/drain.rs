//! Drain: tell tasks to finish, wait until they have, cut what is left at the deadline.

use std::time::Duration;

use tokio::sync::watch;

/// Above this grace period (seconds) a larger margin is kept before the kubelet kills the process.
const LONG_GRACE_SECONDS: u64 = 10;
/// Margin (seconds) left of a long grace period.
const LONG_GRACE_MARGIN_SECONDS: u64 = 5;
/// Margin (seconds) left of a short grace period.
const SHORT_GRACE_MARGIN_SECONDS: u64 = 1;
/// How long holders get to notice that they are cut; they only have to drop their sockets.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// How urgent a drain is. Later variants are more urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Take nothing new, let what is open finish.
    Graceful,
    /// Stop now: the network underneath is going away, or the deadline has passed.
    Immediate,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every holder finished by itself.
    Drained,
    /// The deadline passed and the rest was cut.
    Cut,
    /// Some holders did not even react to being cut.
    Stuck,
}

/// A new drain: the trigger for the owner, the handle for those who have to finish.
pub fn new() -> (Trigger, Drain) {
    let (mode, receiver) = watch::channel(None);
    (Trigger { mode }, Drain { mode: receiver })
}

/// Starts a drain and waits for it. Dropping it ends the holders immediately.
#[derive(Debug)]
pub struct Trigger {
    mode: watch::Sender<Option<Mode>>,
}

impl Trigger {
    /// Tells all holders to finish. A drain may become more urgent, never less.
    pub fn start(&self, mode: Mode) {
        self.mode.send_if_modified(|current| {
            let escalates = current.is_none_or(|current| current < mode);
            if escalates {
                *current = Some(mode);
            }
            escalates
        });
    }

    /// Waits until every [`Drain`] is dropped, however long that takes.
    pub async fn drained(&self) {
        self.mode.closed().await;
    }

    /// Tells all holders to finish, waits until they have or the deadline passes, then cuts the rest.
    pub async fn drain(&self, mode: Mode, deadline: Duration) -> Outcome {
        self.start(mode);
        if mode == Mode::Graceful {
            if tokio::time::timeout(deadline, self.drained()).await.is_ok() {
                return Outcome::Drained;
            }
            self.start(Mode::Immediate);
        }
        match (tokio::time::timeout(CUT_GRACE, self.drained()).await, mode) {
            (Err(_), _) => Outcome::Stuck,
            (Ok(()), Mode::Graceful) => Outcome::Cut,
            (Ok(()), Mode::Immediate) => Outcome::Drained,
        }
    }

    /// How many handles are still held.
    pub fn holders(&self) -> usize {
        self.mode.receiver_count()
    }

    /// Another handle for someone who has to finish.
    pub fn handle(&self) -> Drain {
        Drain { mode: self.mode.subscribe() }
    }
}

/// Held by a task that takes part in a drain: the drain ends when all are dropped.
#[derive(Clone, Debug)]
pub struct Drain {
    mode: watch::Receiver<Option<Mode>>,
}

impl Drain {
    /// Waits until a drain has started, and says how urgent it is. Safe to cancel and call again.
    pub async fn started(&mut self) -> Mode {
        self.at_least(Mode::Graceful).await
    }

    /// Waits until there is no time left. Safe to cancel and call again.
    pub async fn immediate(&mut self) {
        self.at_least(Mode::Immediate).await;
    }

    /// The drain in progress, if any.
    pub fn mode(&self) -> Option<Mode> {
        if self.mode.has_changed().is_err() {
            return Some(Mode::Immediate);
        }
        *self.mode.borrow()
    }

    async fn at_least(&mut self, wanted: Mode) -> Mode {
        match self.mode.wait_for(|mode| mode.is_some_and(|mode| mode >= wanted)).await {
            Ok(mode) => mode.unwrap_or(Mode::Immediate),
            // The trigger is gone, so nobody can grant more time.
            Err(_) => Mode::Immediate,
        }
    }
}

/// How long open connections may last after a drain has started: an explicit deadline, else what fits into the pod's
/// termination grace period with a margin, else `otherwise`.
pub fn deadline(explicit: Option<Duration>, grace_period_seconds: Option<u64>, otherwise: Duration) -> Duration {
    if let Some(explicit) = explicit {
        return explicit;
    }
    let Some(grace) = grace_period_seconds else {
        return otherwise;
    };
    let margin = if grace > LONG_GRACE_SECONDS { LONG_GRACE_MARGIN_SECONDS } else { SHORT_GRACE_MARGIN_SECONDS };
    Duration::from_secs(grace.saturating_sub(margin).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines() {
        let rows: [(Option<u64>, Option<u64>, u64); 8] = [
            (None, None, 5),
            (Some(3), Some(60), 3),
            (None, Some(60), 55),
            (None, Some(11), 6),
            (None, Some(10), 9),
            (None, Some(2), 1),
            (None, Some(1), 1),
            (None, Some(0), 1),
        ];
        for (explicit, grace, expected) in rows {
            let got = deadline(explicit.map(Duration::from_secs), grace, Duration::from_secs(5));
            assert_eq!(got, Duration::from_secs(expected), "{explicit:?} {grace:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn graceful_waits_for_holders() {
        let (trigger, mut drain) = new();
        let holder = tokio::spawn(async move { drain.started().await });
        assert_eq!(trigger.drain(Mode::Graceful, Duration::from_secs(60)).await, Outcome::Drained);
        assert_eq!(holder.await.unwrap(), Mode::Graceful);
        assert_eq!(trigger.holders(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_cuts_those_who_linger() {
        let (trigger, drain) = new();
        let mut lingering = drain.clone();
        drop(drain);
        let holder = tokio::spawn(async move { lingering.immediate().await });
        assert_eq!(trigger.drain(Mode::Graceful, Duration::from_secs(60)).await, Outcome::Cut);
        holder.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_never_reacts_is_reported() {
        let (trigger, drain) = new();
        assert_eq!(trigger.drain(Mode::Immediate, Duration::from_secs(60)).await, Outcome::Stuck);
        assert_eq!(drain.mode(), Some(Mode::Immediate));
    }

    #[tokio::test]
    async fn urgency_never_decreases_and_a_lost_trigger_is_urgent() {
        let (trigger, mut drain) = new();
        assert_eq!(drain.mode(), None);
        trigger.start(Mode::Immediate);
        trigger.start(Mode::Graceful);
        assert_eq!(drain.started().await, Mode::Immediate);

        let (trigger, mut drain) = new();
        drop(trigger);
        assert_eq!(drain.mode(), Some(Mode::Immediate));
        drain.immediate().await;
    }
}
