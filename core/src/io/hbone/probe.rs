//! Asks a tunnel's peer by PING whether it lives, and by how late the answer comes how long the tunnel's queue is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::limits::{self, Limits};

/// What is known of a peer's answers; clones share it.
#[derive(Clone)]
pub(super) struct Probe(Arc<Shared>);

struct Shared {
    limits: Limits,
    began: Instant,
    ask: Notify,
    /// Counts answers.
    answers: watch::Sender<u64>,
    /// All in microseconds since `began`. When we last heard from the peer.
    heard: AtomicU64,
    /// When the last PING was sent.
    asked: AtomicU64,
    /// Whether it has not been answered yet: when it was sent, and one more than that; 0 if it was.
    waiting: AtomicU64,
    /// How long the last answer took.
    latest: AtomicU64,
    /// How long the quickest answer took.
    quickest: AtomicU64,
}

impl Probe {
    pub(super) fn new(limits: &Limits) -> Self {
        Self(Arc::new(Shared {
            limits: limits.clone(),
            began: Instant::now(),
            ask: Notify::new(),
            answers: watch::Sender::new(0),
            heard: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            latest: AtomicU64::new(0),
            quickest: AtomicU64::new(u64::MAX),
        }))
    }

    /// Asks every so often, and when told to. Resolves when the peer has stopped answering, with the time it was given.
    ///
    /// Without a [`PingPong`], because somebody else took it, it never resolves.
    pub(super) async fn run(self, ping_pong: Option<PingPong>) -> Duration {
        let Some(mut ping_pong) = ping_pong else {
            return std::future::pending().await;
        };
        let shared = &*self.0;
        loop {
            tokio::select! {
                () = sleep(shared.limits.duration(&limits::PING_INTERVAL)) => {}
                () = shared.ask.notified() => {}
            }
            let sent = self.now();
            shared.asked.store(sent, Ordering::Relaxed);
            shared.waiting.store(sent.saturating_add(1), Ordering::Relaxed);
            match timeout(shared.limits.duration(&limits::PING_TIMEOUT), ping_pong.ping(Ping::opaque())).await {
                Ok(Ok(_pong)) => {
                    let took = self.now().saturating_sub(sent);
                    shared.waiting.store(0, Ordering::Relaxed);
                    shared.latest.store(took, Ordering::Relaxed);
                    shared.quickest.fetch_min(took, Ordering::Relaxed);
                    self.heard();
                    shared.answers.send_modify(|count| *count = count.wrapping_add(1));
                }
                Ok(Err(_connection_ended)) => return std::future::pending().await,
                Err(_elapsed) => return shared.limits.duration(&limits::PING_TIMEOUT),
            }
        }
    }

    /// The peer has shown that it lives.
    pub(super) fn heard(&self) {
        self.0.heard.store(self.now(), Ordering::Relaxed);
    }

    /// Whether nothing has been heard for so long that the peer may be gone.
    pub(super) fn is_silent(&self) -> bool {
        self.now().saturating_sub(self.0.heard.load(Ordering::Relaxed))
            > micros(self.0.limits.duration(&limits::POOL_TRUST))
    }

    /// Asks, and resolves when the peer answers; an answer to an earlier question will do.
    pub(super) async fn answer(&self) {
        let mut answers = self.0.answers.subscribe();
        self.ask();
        // The sender lives as long as we do.
        let _ = answers.changed().await;
    }

    /// Asks without waiting, unless that has just been done.
    pub(super) fn measure(&self) {
        let age = self.now().saturating_sub(self.0.asked.load(Ordering::Relaxed));
        if age > micros(self.0.limits.duration(&limits::POOL_QUEUEING_CHECK)) {
            self.ask();
        }
    }

    /// How many questions have been answered.
    pub(super) fn answers(&self) -> u64 {
        *self.0.answers.borrow()
    }

    /// Asks without waiting: [`Probe::answers`] tells of the answer.
    pub(super) fn ask(&self) {
        self.0.ask.notify_one();
    }

    /// How much longer than the quickest the last answer took, or the one that is due has been taking.
    pub(super) fn queueing_delay(&self) -> Duration {
        let shared = &*self.0;
        let waiting = shared.waiting.load(Ordering::Relaxed);
        let due = if waiting == 0 { 0 } else { self.now().saturating_sub(waiting) };
        let quickest = shared.quickest.load(Ordering::Relaxed);
        let quickest = if quickest == u64::MAX { 0 } else { quickest };
        Duration::from_micros(shared.latest.load(Ordering::Relaxed).max(due).saturating_sub(quickest))
    }

    fn now(&self) -> u64 {
        micros(self.0.began.elapsed())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
