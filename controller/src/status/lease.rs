//! Which of several replicas writes: the one that holds a lease of coordination.k8s.io.

use std::time::{Duration, Instant};

use fairway_core::io::drain::Drain;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::watch;

use crate::api_server;

/// Name of the lease, in the mesh's own namespace.
const NAME: &str = "fairway-controller-status";
/// How long a lease holds that is not renewed.
const DURATION: Duration = Duration::from_secs(20);
/// How long after the last renewal something may be written: a write that is begun then ends before another replica may take
/// the lease.
const WRITES: Duration = DURATION.saturating_sub(api_server::PATIENCE);
/// Time between renewals.
const RENEW: Duration = Duration::from_secs(3);
/// For an answer of the API server; with [`RENEW`] below [`WRITES`], so that one slow answer costs nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a replica knows of the lease.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    holder: String,
    renewed: Option<MicroTime>,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Renew,
    TakeOver,
    Wait,
}

/// Clocks of machines differ, so a lease has run out when this replica has seen it unchanged for that long.
fn step(seen: &Seen, unchanged: Duration, own: &str) -> Step {
    if seen.holder == own {
        Step::Renew
    } else if seen.holder.is_empty() || unchanged >= DURATION {
        Step::TakeOver
    } else {
        Step::Wait
    }
}

/// Whether this replica writes.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// That of who may write until the time that is told, and not without one.
    #[must_use]
    pub fn told(until: watch::Receiver<Option<Instant>>) -> Self {
        Self(until)
    }

    /// Whether it may write now. To be asked before each write: the answer holds until that one is over.
    pub fn may_write(&mut self) -> bool {
        self.0.borrow_and_update().is_some_and(|until| Instant::now() < until)
    }

    /// Returns when the lease was won or lost.
    ///
    /// # Errors
    /// When nobody strives for it any more.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.0.changed().await
    }
}

/// Strives for the lease in `namespace` as `own` until the drain starts.
#[must_use]
pub fn strive(client: kube::Client, namespace: &str, own: String, mut drain: Drain) -> Leadership {
    let api: Api<Lease> = Api::namespaced(client, namespace);
    let (sender, leads) = watch::channel(None);
    tokio::spawn(async move {
        let mut candidate = Candidate { api, own, seen: Seen::default(), since: Instant::now(), renewed: None };
        let mut complained = false;
        loop {
            let round = tokio::time::timeout(PATIENCE, candidate.round()).await;
            let failure = match round {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {PATIENCE:?}")),
            };
            if let Some(failure) = failure.as_ref().filter(|_| !complained) {
                tracing::warn!("the lease that says who writes status cannot be had or renewed: {failure}");
            }
            complained = failure.is_some();
            let until = candidate.until();
            let holds = until.is_some();
            // A renewal is nothing to wake anybody for.
            if sender.send_if_modified(|leads| std::mem::replace(leads, until).is_some() != holds) {
                tracing::info!(holds, "the lease that says who writes status");
            }
            tokio::select! {
                () = tokio::time::sleep(RENEW) => {}
                () = sender.closed() => return,
                _ = drain.started() => {
                    sender.send_replace(None);
                    candidate.release().await;
                    return;
                }
            }
        }
    });
    Leadership(leads)
}

struct Candidate {
    api: Api<Lease>,
    own: String,
    seen: Seen,
    /// When the lease was first seen as it is.
    since: Instant,
    /// When it was last made its own.
    renewed: Option<Instant>,
}

impl Candidate {
    /// Until when something may be written; nothing for who could not renew in time.
    fn until(&self) -> Option<Instant> {
        self.renewed?.checked_add(WRITES).filter(|until| Instant::now() < *until)
    }

    async fn round(&mut self) -> Result<(), kube::Error> {
        let asked = Instant::now();
        let Some(lease) = self.api.get_opt(NAME).await? else {
            let created = self.api.create(&PostParams::default(), &self.lease(None)).await;
            return self.written(created, asked);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let seen = Seen { holder: spec.holder_identity.unwrap_or_default(), renewed: spec.renew_time };
        if seen != self.seen {
            (self.seen, self.since) = (seen, Instant::now());
        }
        match step(&self.seen, self.since.elapsed(), &self.own) {
            Step::Wait => {
                self.renewed = None;
                Ok(())
            }
            Step::Renew | Step::TakeOver => {
                let replaced = self.api.replace(NAME, &PostParams::default(), &self.lease(Some(&lease))).await;
                self.written(replaced, asked)
            }
        }
    }

    /// Somebody else was faster, or it is ours from the moment of asking.
    fn written(&mut self, outcome: Result<Lease, kube::Error>, asked: Instant) -> Result<(), kube::Error> {
        match outcome {
            Ok(_) => {
                self.renewed = Some(asked);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn lease(&self, before: Option<&Lease>) -> Lease {
        let spec = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let is_own = spec.holder_identity.as_deref() == Some(self.own.as_str());
        let now = Some(MicroTime(k8s_openapi::jiff::Timestamp::now()));
        let metadata = before.map_or_else(
            || ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
            |lease| lease.metadata.clone(),
        );
        let transitions = spec.lease_transitions.unwrap_or_default();
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.own.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: if is_own { spec.acquire_time } else { now.clone() },
                renew_time: now,
                lease_transitions: Some(if is_own { transitions } else { transitions.saturating_add(1) }),
                ..spec
            }),
        }
    }

    /// The next replica need not wait for it to run out.
    async fn release(&mut self) {
        if self.until().is_none() {
            return;
        }
        let released = async {
            let mut lease = self.api.get(NAME).await?;
            if let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.own)) {
                spec.holder_identity = None;
                spec.renew_time = None;
                self.api.replace(NAME, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, released).await {
            tracing::debug!(%error, "the lease runs out by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_has_stopped_before_another_may_begin() {
        assert!(WRITES + api_server::PATIENCE <= DURATION);
        assert!(RENEW + PATIENCE < WRITES, "a slow answer does not cost the lease");
    }

    #[test]
    fn a_lease_is_taken_over_when_it_was_seen_unchanged_for_its_duration() {
        let held = |holder: &str| Seen { holder: holder.to_owned(), renewed: None };
        for (holder, unchanged, expected) in [
            ("a", 0, Step::Renew),
            ("a", 100, Step::Renew),
            ("b", 0, Step::Wait),
            ("b", 19, Step::Wait),
            ("b", 20, Step::TakeOver),
            ("", 0, Step::TakeOver),
        ] {
            assert_eq!(step(&held(holder), Duration::from_secs(unchanged), "a"), expected, "{holder:?} {unchanged}");
        }
    }
}
