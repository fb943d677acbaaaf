//! The states of an inbound connection, and the one place that waits on "bytes or policy change".
//!
//! `Identified` knows who is there; only `authorize` turns it into `Authorized`, and only `Authorized` may carry
//! bytes. The subscription to the pod's view is taken before the first decision, so that no update can fall between
//! the two; each later view is decided on again by the connection itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use fairway_core::authz::{self, Decision, Denial};
use fairway_core::facts::ConnectionFacts;
use fairway_core::io::drain::Drain;
use fairway_core::limits;
use fairway_core::policy::PolicyKey;
use fairway_core::reason::Reason;
use fairway_core::view::PodView;
use tokio::pin;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::telemetry::DryRunMatches;

/// A connection whose two ends are known and that nobody has decided on.
pub struct Identified {
    facts: ConnectionFacts,
    view: watch::Receiver<Arc<PodView>>,
    dry_run: DryRunMatches,
}

/// A connection that policy allows, for now.
pub struct Authorized {
    facts: ConnectionFacts,
    view: watch::Receiver<Arc<PodView>>,
    allowed_by: Option<PolicyKey>,
    dry_run: DryRunMatches,
}

/// Why an authorized connection was ended by us.
#[derive(Debug)]
pub enum Cut {
    /// Policy changed and denies it now.
    Denied(Denial),
    /// The pod left the mesh, or the proxy must stop.
    Drained,
}

impl Identified {
    /// A connection with `facts`, arriving for the pod that `view` follows. `dry_run` hears of policies that are only tried.
    #[must_use]
    pub fn new(facts: ConnectionFacts, view: watch::Receiver<Arc<PodView>>, dry_run: DryRunMatches) -> Self {
        Self { facts, view, dry_run }
    }

    /// Asks policy.
    ///
    /// # Errors
    /// The denial, with the policy's name where one decided.
    pub fn authorize(mut self) -> Result<Authorized, Denial> {
        let allowed_by = decide(&self.view.borrow_and_update(), &self.facts, &mut self.dry_run)?;
        Ok(Authorized { facts: self.facts, view: self.view, allowed_by, dry_run: self.dry_run })
    }
}

impl Authorized {
    /// The ALLOW policy that let it in, if one had to.
    #[must_use]
    pub fn allowed_by(&self) -> Option<&PolicyKey> {
        self.allowed_by.as_ref()
    }

    /// Runs `work` to its end, unless policy or a drain ends the connection before. Tells `allowed_by` when another ALLOW
    /// policy than before lets it go on.
    ///
    /// # Errors
    /// Why the connection must be cut; `work` has been dropped by then.
    pub async fn while_allowed<T>(
        &mut self,
        mut drain: Drain,
        work: impl Future<Output = T>,
        allowed_by: impl Fn(Option<PolicyKey>),
    ) -> Result<T, Cut> {
        pin!(work);
        let mut patience = None;
        loop {
            tokio::select! {
                biased;
                changed = self.view.changed() => match changed.map(|()| self.decide_again(&allowed_by)) {
                    Ok(Ok(())) => patience = None,
                    // Some controllers announce a workload before the policy it names. Nobody new gets in meanwhile.
                    Ok(Err(denial)) if denial.reason == Reason::PolicyUnknown => {
                        patience.get_or_insert_with(|| Instant::now() + limits::POLICY_ENFORCEMENT.duration());
                    }
                    Ok(Err(denial)) => return Err(Cut::Denied(denial)),
                    // Nobody publishes views any more: the proxy is going down, and the drain says when.
                    Err(_closed) => {
                        return tokio::select! {
                            done = &mut work => Ok(done),
                            () = drain.immediate() => Err(Cut::Drained),
                        };
                    }
                },
                () = drain.immediate() => return Err(Cut::Drained),
                () = until(patience), if patience.is_some() => {
                    self.decide_again(&allowed_by).map_err(Cut::Denied)?;
                    patience = None;
                }
                done = &mut work => return Ok(done),
            }
        }
    }

    /// A pod that vanished from the configuration has no policy to ask. The last answer stands: the pod's removal
    /// cuts its connections, an outage of the controller must not.
    fn decide_again(&mut self, allowed_by: &impl Fn(Option<PolicyKey>)) -> Result<(), Denial> {
        let view = Arc::clone(&self.view.borrow_and_update());
        if view.workload.is_some() {
            let now = decide(&view, &self.facts, &mut self.dry_run)?;
            if now != self.allowed_by {
                self.allowed_by = now;
                allowed_by(self.allowed_by.clone());
            }
        }
        Ok(())
    }
}

/// Boxed, because next to no connection ever waits for it.
fn until(time: Option<Instant>) -> Pin<Box<Sleep>> {
    Box::pin(sleep_until(time.unwrap_or_else(Instant::now)))
}

fn decide(view: &PodView, facts: &ConnectionFacts, dry_run: &mut DryRunMatches) -> Result<Option<PolicyKey>, Denial> {
    let decision = authz::decide(view, facts);
    dry_run.note(decision.dry_run(), facts, authz::original(view, facts));
    match decision {
        Decision::Allow { rule, .. } => Ok(rule),
        Decision::Deny(denial) => Err(denial),
    }
}

#[cfg(test)]
mod tests;
