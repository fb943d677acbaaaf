//! Attempts that are not given up when they are late: another one is sent beside them, and the first good answer counts
//! (Envoy's `hedge_on_per_try_timeout`).

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rand::RngExt;
use tokio::time::{sleep, timeout};

use super::{Attempt, Attempts, Chosen, Common, Missed, Reached, result_of};
use crate::config::Retry;
use crate::failure::Failure;
use crate::in_flight::{Entry, Phase};
use crate::load::UnderWay;
use crate::replay::Replay;
use crate::retry;
use crate::telemetry::Done;

/// An attempt under way.
type Asking<'a> = Pin<Box<dyn Future<Output = Attempt> + Send + 'a>>;

/// What became of the attempt that was sent last.
enum Latest<'a> {
    Over(Attempt),
    /// It goes on.
    Late(Asking<'a>),
}

/// Attempts that are late and go on. Those that are left when this is dropped are given up.
struct Others<'a> {
    policy: &'a Retry,
    all: FuturesUnordered<Asking<'a>>,
}

/// As many attempts as `policy` wants and there may be, each of them `longest` after the one before that does not answer.
pub(super) async fn run(
    attempts: &mut Attempts<'_>,
    (policy, longest): (&Retry, Duration),
    done: &mut Done,
) -> Result<Box<Reached>, Failure> {
    let Attempts { common, asked } = attempts;
    let common = &*common;
    let Done { endpoint, workload, retries, entry, .. } = done;
    let entry = entry.as_ref();
    let mut others = Others { policy, all: FuturesUnordered::new() };
    let (mut pause, mut permit, mut body) = (Duration::ZERO, None, common.body.clone());
    let attempt = loop {
        let send = async {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let chosen = match common.choose(asked).await {
                Ok(chosen) => chosen,
                Err(missed) => return Latest::Over(Err(missed)),
            };
            (*endpoint, *workload) = chosen.who();
            let mut asking: Asking<'_> = Box::pin(ask(common, chosen, body, entry, permit));
            match timeout(longest, &mut asking).await {
                Ok(attempt) => {
                    common.judge(asked, &attempt);
                    Latest::Over(attempt)
                }
                Err(_elapsed) => {
                    // That is what is noted of it, whatever comes of it later.
                    common.was_late(asked);
                    Latest::Late(asking)
                }
            }
        };
        let latest = tokio::select! {
            biased;
            reached = others.good() => break Ok(reached),
            latest = send => latest,
        };
        let is_wanted = match &latest {
            Latest::Over(attempt) => retry::wanted(policy, result_of(attempt)),
            // Whatever the policy says of attempts that are given up when they are late, as with Envoy.
            Latest::Late(_) => true,
        };
        let may = is_wanted && *retries < policy.attempts && common.body.can_repeat();
        permit = if may { common.target.load.retry(&common.target.cluster) } else { None };
        if permit.is_none() {
            let attempt = match latest {
                Latest::Over(attempt) => attempt,
                Latest::Late(asking) => {
                    others.all.push(asking);
                    Err(Missed::late(longest))
                }
            };
            break others.settle(attempt).await;
        }
        // Of a body that is all there each attempt has its own; another one is sent by one attempt at a time.
        let is_whole = common.body.is_whole();
        body = if is_whole { common.body.copy() } else { common.body.clone() };
        match latest {
            Latest::Late(asking) if is_whole => others.all.push(asking),
            Latest::Late(_) | Latest::Over(_) => {}
        }
        *retries += 1;
        pause = retry::pause(policy, *retries, rand::rng().random());
        if let Some(entry) = entry.filter(|_| others.all.is_empty()) {
            entry.enter(Phase::BackingOff);
        }
    };
    if let (Ok(reached), Some(entry)) = (&attempt, entry) {
        entry.answered_by(reached.endpoint);
    }
    attempt.map_err(|missed| missed.failure)
}

/// One attempt. Where it is a repetition, it counts as one that is under way until its end.
async fn ask(
    common: &Common<'_>,
    mut chosen: Chosen,
    body: Replay,
    entry: Option<&Entry>,
    _permit: Option<UnderWay>,
) -> Attempt {
    common.reach(&mut chosen, &body, entry).await
}

impl Others<'_> {
    fn is_good(&self, attempt: &Attempt) -> bool {
        attempt.is_ok() && !retry::wanted(self.policy, result_of(attempt))
    }

    /// The first good answer; never where there is none. Nobody waits for the others: another attempt is on its way.
    async fn good(&mut self) -> Box<Reached> {
        while let Some(attempt) = self.all.next().await {
            let is_good = self.is_good(&attempt);
            if let Some(reached) = attempt.ok().filter(|_| is_good) {
                return reached;
            }
        }
        pending().await
    }

    /// The first good one of this attempt and those that are left, or else the last one.
    async fn settle(mut self, mut attempt: Attempt) -> Attempt {
        while !self.is_good(&attempt) {
            match self.all.next().await {
                Some(next) => attempt = next,
                None => break,
            }
        }
        attempt
    }
}
