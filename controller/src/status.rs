//! Tells users on their policies and routes what became of them: conditions, decided here and written by whoever may.
//!
//! What is to be said is compared with what the object says already, so a restart repeats nothing, and what somebody else
//! removed is said again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fairway_core::io::drain::Drain;
use fairway_core::source::{Kind, ObjectKey};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::watch;

use crate::l7;
use crate::serve::clients::Clients;
use crate::state::Published;
use crate::translate::{Problem, Severity};
use condition::{Condition, is_said};
use programmed::{Memory, Programmed};
use survey::{Statement, Survey};

mod addressed;
mod answers;
pub mod cluster;
mod concerned;
pub mod condition;
pub mod directory;
pub mod findings;
pub mod judgement;
pub mod lease;
mod programmed;
mod routes;
mod survey;
mod unreadable;
mod unserved;

/// Condition of what node proxies enforce.
const ZTUNNEL_ACCEPTED: &str = "ZtunnelAccepted";
/// Condition of what waypoints enforce.
const WAYPOINT_ACCEPTED: &str = "WaypointAccepted";
/// Condition of what clients and waypoints follow.
const ACCEPTED: &str = "Accepted";
/// Reason of a policy that is not what is in force.
const INVALID: &str = "Invalid";
/// Field of what is wrong with the targets of a policy.
const TARGETS: &str = "spec.targetRefs";
/// After this time the same is written again where it does not show: somebody removed it, or the object is one that
/// cannot be read back.
const AGAIN: Duration = Duration::from_secs(600);
/// Time between attempts to write what could not be written.
const RETRY: Duration = Duration::from_secs(10);

/// Namespace and name of a service account.
pub type Account = (String, String);

/// What is to be said of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Type of the condition.
    pub condition: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// One word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Version of the object's spec that this is about, where it has one.
    pub generation: Option<i64>,
}

impl Verdict {
    fn condition(&self) -> Condition<'_> {
        Condition { kind: self.condition, holds: self.holds, reason: self.reason, message: &self.message }
    }

    /// The conditions beside what the object has now, and whether there is anything to write.
    fn compare(&self, programmed: Option<&Programmed>, present: &[Value], now: &str) -> (Vec<Value>, bool) {
        let conditions = [self.condition()].into_iter().chain(programmed.map(Programmed::condition));
        let wanted: Vec<Value> = conditions.map(|it| it.beside(present, self.generation, now)).collect();
        let differs = wanted.iter().any(|condition| !is_said(condition, present));
        (wanted, differs)
    }
}

/// What is to be said of every policy.
#[must_use]
pub fn verdicts(published: &Published) -> BTreeMap<ObjectKey, Verdict> {
    let loaded = &published.loaded;
    let objects = &loaded.objects;
    let authorization = objects.authorization_policies.iter().map(|(key, policy)| {
        let is_attached = policy.spec.target_ref.is_some() || !policy.spec.target_refs.is_empty();
        (key, is_attached && policy.spec.selector.is_none(), policy.metadata.generation)
    });
    let peer = objects.peer_authentications.iter().map(|(key, policy)| (key, false, policy.metadata.generation));
    let tokens = objects.request_authentications.iter().map(|(key, policy)| (key, true, policy.metadata.generation));
    let rates = objects.rate_limits.iter().map(|(key, policy)| (key, true, policy.metadata.generation));
    let processors = objects.external_processors.iter().map(|(key, policy)| (key, true, policy.metadata.generation));
    let rejected = loaded.rejected.iter().filter(|(key, _)| key.kind.is_policy()).map(|(key, written)| {
        let is_attached = matches!(key.kind, Kind::RequestAuthentication | Kind::RateLimit | Kind::ExternalProcessor);
        (key, is_attached, written.pointer("/metadata/generation").and_then(Value::as_i64))
    });
    let mut faults: BTreeMap<&ObjectKey, Vec<(Severity, String)>> = BTreeMap::new();
    let misses = |problem: &&Problem| problem.field.starts_with(TARGETS) && problem.severity == Severity::Warning;
    let missing: BTreeSet<&ObjectKey> =
        published.problems.iter().filter(misses).map(|problem| &problem.object).collect();
    for problem in published.problems.iter().filter(|problem| problem.object.kind.is_policy()) {
        let text = if problem.field.is_empty() {
            problem.message.clone()
        } else {
            format!("{}: {}", problem.field, problem.message)
        };
        faults.entry(&problem.object).or_default().push((problem.severity, text));
    }
    let l7 = published.world.l7();
    for policy in l7.waypoints().all_tokens() {
        for (index, issuer) in policy.issuers.iter().enumerate() {
            let Some(trouble) = l7.keys().trouble(&issuer.keys) else { continue };
            let text = format!("spec.jwtRules[{index}].jwksUri: {trouble}");
            let said = faults.entry(&policy.object).or_default();
            // It may be attached to several things.
            if !said.iter().any(|(_, known)| *known == text) {
                said.push((Severity::Warning, text));
            }
        }
    }
    for error in &loaded.errors {
        if let Some(object) = error.object.as_ref().filter(|object| object.kind.is_policy()) {
            let field = error.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
            let text = format!("{field}{}", error.message);
            faults.entry(object).or_default().insert(0, (Severity::Error, text));
        }
    }
    authorization
        .chain(peer)
        .chain(tokens)
        .chain(rates)
        .chain(processors)
        .chain(rejected)
        .map(|(key, is_attached, generation)| {
            let faults = faults.get(key).map(Vec::as_slice).unwrap_or_default();
            (key.clone(), verdict(faults, is_attached, missing.contains(key), generation))
        })
        .collect()
}

fn verdict(faults: &[(Severity, String)], is_attached: bool, misses: bool, generation: Option<i64>) -> Verdict {
    let condition = if is_attached { WAYPOINT_ACCEPTED } else { ZTUNNEL_ACCEPTED };
    let is_invalid = faults.iter().any(|(severity, _)| *severity == Severity::Error);
    let (holds, reason) = match (is_invalid, is_attached, faults.is_empty()) {
        (true, _, _) => (false, INVALID),
        (false, true, false) if misses => (false, "NeedsWaypoint"),
        (false, true, false) => (false, "PartiallyInvalid"),
        (false, false, false) => (false, "UnsupportedValue"),
        (false, _, true) => (true, "Accepted"),
    };
    let message = if faults.is_empty() {
        let place = if is_attached { "at waypoints" } else { "on every node" };
        format!("accepted as written, for enforcement {place}")
    } else {
        faults.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("; ")
    };
    Verdict { condition, holds, reason, message, generation }
}

/// What is to be said of every VirtualService and DestinationRule.
fn traffic(published: &Published) -> BTreeMap<ObjectKey, Verdict> {
    let ours = published.routes().verdicts.iter().filter(|(key, _)| key.kind == Kind::VirtualService);
    let ours = ours.chain(&published.destinations().verdicts);
    let verdict = |verdict: &l7::verdict::Verdict| {
        let texts = verdict.findings.iter().map(|finding| format!("{}: {}", finding.field, finding.message));
        let message = texts.collect::<Vec<_>>().join("; ");
        let holds = message.is_empty();
        let (reason, message) =
            if holds { ("Accepted", "accepted as written".to_owned()) } else { ("UnsupportedValue", message) };
        Verdict { condition: ACCEPTED, holds, reason, message, generation: verdict.generation }
    };
    ours.map(|(key, found)| (key.clone(), verdict(found))).chain(unreadable::traffic(published)).collect()
}

/// The conditions that an object has now.
fn present<'a>(published: &'a Published, key: &ObjectKey) -> &'a [Value] {
    let objects = &published.loaded.objects;
    let status = match key.kind {
        Kind::AuthorizationPolicy => objects.authorization_policies.get(key).and_then(|policy| policy.status.as_ref()),
        Kind::PeerAuthentication => objects.peer_authentications.get(key).and_then(|policy| policy.status.as_ref()),
        Kind::RequestAuthentication => {
            objects.request_authentications.get(key).and_then(|policy| policy.status.as_ref())
        }
        Kind::RateLimit => objects.rate_limits.get(key).and_then(|policy| policy.status.as_ref()),
        Kind::ExternalProcessor => objects.external_processors.get(key).and_then(|object| object.status.as_ref()),
        Kind::Telemetry => objects.telemetries.get(key).and_then(|object| object.status.as_ref()),
        Kind::DestinationRule => objects.destination_rules.get(key).and_then(|object| object.status.as_ref()),
        Kind::VirtualService => objects.virtual_services.get(key).and_then(|object| object.status.as_ref()),
        _ => None,
    };
    let status = status.or_else(|| unreadable::status(published, key));
    let conditions = status.and_then(|status| status.get("conditions")).and_then(Value::as_array);
    conditions.map(Vec::as_slice).unwrap_or_default()
}

/// Somebody who can write conditions.
pub trait Writer: Send {
    /// Says this status of the object; replaces what was said before.
    fn write(&mut self, key: &ObjectKey, status: Value) -> impl Future<Output = Result<(), String>> + Send;

    /// The object is gone.
    fn forget(&mut self, key: &ObjectKey) -> impl Future<Output = ()> + Send;

    /// Whether it is for this replica to write.
    fn may_write(&mut self) -> bool;

    /// Returns when it became so.
    fn turn(&mut self) -> impl Future<Output = ()> + Send;
}

/// Time changes are gathered before users are told: each look takes all policies and routes in.
const GATHER: Duration = Duration::from_millis(200);

/// Keeps the conditions of all policies and routes true until the drain starts. Node proxies run as one of `node_accounts`.
pub async fn keep<W: Writer>(
    mut published: watch::Receiver<Arc<Published>>,
    clients: Clients,
    node_accounts: BTreeSet<Account>,
    mut writer: W,
    mut drain: Drain,
) {
    let mut answers = clients.changes();
    let mut memory = Memory::default();
    let mut said = Spoken::default();
    let mut survey: Option<Survey> = None;
    let mut complained = false;
    loop {
        let state = Arc::clone(&published.borrow_and_update());
        let mut failed = None;
        // Before anything is served, nothing is in force.
        if writer.may_write() && state.world.generation > 0 {
            answers.borrow_and_update();
            // Proxies answer far more often than objects change.
            let same = survey.take().and_then(|survey| survey.of_next(&state));
            let is_same = same.is_some();
            let now = same.unwrap_or_else(|| Survey::of(&state));
            let statements = now.statements(&mut memory, &clients.list(), &node_accounts);
            survey = Some(now);
            failed = write_all((&state, is_same), statements, &mut writer, &mut said).await;
        }
        match &failed {
            Some(error) if !complained => tracing::warn!("conditions of policies cannot be written: {error}"),
            None if complained => tracing::info!("conditions of policies are written again"),
            _ => {}
        }
        complained = failed.is_some();
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            // The sender is here.
            _ = answers.changed() => {}
            () = writer.turn() => said.clear(),
            () = tokio::time::sleep(if complained { RETRY } else { AGAIN }) => {}
            _ = drain.started() => return,
        }
        tokio::time::sleep(GATHER).await;
    }
}

/// What was said last, or seen to be said, and when.
type Spoken = BTreeMap<ObjectKey, (Statement, Instant)>;

/// Writes what differs. Of a state that is the same as last time only what is said anew is looked at. Returns the first failure.
async fn write_all<W: Writer>(
    (state, is_same): (&Published, bool),
    statements: BTreeMap<ObjectKey, Statement>,
    writer: &mut W,
    said: &mut Spoken,
) -> Option<String> {
    let gone: Vec<ObjectKey> = said.keys().filter(|key| !statements.contains_key(*key)).cloned().collect();
    for key in gone {
        said.remove(&key);
        writer.forget(&key).await;
    }
    let now = condition::now();
    let mut failed = None;
    for (key, statement) in statements {
        let is_said = said.get(&key).is_some_and(|(known, at)| *known == statement && at.elapsed() < AGAIN);
        if is_same && is_said {
            continue;
        }
        let (status, differs) = statement.compare(state, &key, &now);
        if !differs || is_said {
            if !is_said {
                said.insert(key, (statement, Instant::now()));
            }
            continue;
        }
        // Another replica may be about to write.
        if !writer.may_write() {
            return failed;
        }
        match writer.write(&key, status).await {
            Ok(()) => drop(said.insert(key, (statement, Instant::now()))),
            Err(error) => failed = failed.or(Some(format!("{key}: {error}"))),
        }
    }
    failed
}

#[cfg(test)]
mod tests;
