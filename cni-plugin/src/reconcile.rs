//! Keeps what is in the pods' namespaces, at the node proxy and in the pods' status equal to what the manifests ask
//! for.
//!
//! Nothing is remembered that could be wrong after a restart: each pass compares what is wanted with what is read
//! back from the kernel and with what the proxy answered, and takes the next step.
//!
//! Enrolment goes proxy, rules, status. Rules before listeners (Istio's order) would refuse every connection of a
//! running pod until the proxy has bound its ports, and for as long as it cannot; only a pod that does not run before both
//! are done has them at once. The status comes last because it makes peers send tunnels. Un-enrolment goes the other way
//! round, and waits between status and rules until peers have heard of it.

mod arrivals;
mod calls;
mod handed;
mod job;
mod keep;
mod leave;
mod locate;
mod probes;
mod record;
mod settle;
mod shared;
mod status;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_core::io::metrics::Metrics;
use fairway_core::source::directory::Loaded;
use fairway_core::source::{MeshPod, ObjectKey};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::enroll::{self, Decision, Known};
use crate::events::Events;
use crate::handoff::{Answer, Handoff};
use crate::install;
use crate::kernel::{Census, Inspection, Kernel, Namespace};
use crate::notices::Notices;
use crate::plugin::remembered::Remembered;
use crate::report::{Actual, Desired, PodReport, Reports};
use crate::rules::{Capture, Phase};
use crate::serve::Call;
use arrivals::Arrivals;
use job::Job;
use probes::Sources;
use record::Record;
use settle::StatusChange;
use shared::Shared;
use wanted::Wanted;

/// How often everything is looked at although nothing happened; also when refused pods are tried again.
pub const EVERY: Duration = Duration::from_secs(5);
/// How soon to look again for the namespace of a pod that should have one: it may be a moment behind its status.
const NAMESPACE_RETRY: Duration = Duration::from_millis(500);
/// Captured pods whose rules are read back in one such round; each costs some system calls, or with iptables a few short
/// processes, so the pods take turns.
pub const VERIFIED_PER_ROUND: usize = 64;
/// How long a pod that leaves stays captured after its status says that it does not: its peers hear of it well within
/// this.
pub const LEAVE_GRACE: Duration = Duration::from_secs(1);
/// How often events are said again while their reason lasts: an API server forgets them after an hour, unless it is told
/// otherwise.
const REMIND_EVERY: Duration = Duration::from_secs(30 * 60);

/// Longest uid, in bytes: the longest name of a file (`NAME_MAX`). Those of Kubernetes have 36.
const MAX_UID: usize = 255;

/// What one agent works with.
pub struct Settings {
    /// The node whose pods are ours.
    pub node: String,
    /// A pod's namespace file is here, named by its uid.
    pub netns_dir: PathBuf,
    /// Who is captured, and how.
    pub rules: enroll::Rules,
    /// See [`Known::namespaces_exist`].
    pub namespaces_exist: bool,
    /// Usually [`LEAVE_GRACE`].
    pub leave_grace: Duration,
    /// Whether a pod of an enrolled namespace does not run before it is captured, whatever happens to this agent.
    pub pods_wait: bool,
    /// How long connections may go on that were open when their pod came in or left; zero cuts them at once.
    pub established_grace: Duration,
    /// Where this agent sees the node's file system.
    pub host_mounts: PathBuf,
    /// Where to write down which namespaces are enrolled, for the plugin.
    pub memory: Option<Arc<install::Settings>>,
    /// Where to tell what happens to pods.
    pub events: Arc<dyn Events>,
}

/// The agent's loop and what it knows of the node's pods.
pub struct Reconciler {
    settings: Settings,
    kernel: Arc<dyn Kernel>,
    handoff: Handoff,
    status: Notices,
    reports: Reports,
    metrics: Metrics,
    tracked: BTreeMap<String, Tracked>,
    /// How they are captured: alike, most of them.
    captures: Shared<Capture>,
    /// Pods that stay with the proxy that has them, by uid: see [`Reconciler::keep`].
    kept: BTreeMap<String, ObjectKey>,
    /// What the agent before this one had handed to proxies, or kept there, until it was looked at; then what this one has.
    noted: BTreeMap<String, ObjectKey>,
    /// Pods of whose end this agent was told before it saw them.
    ended: BTreeSet<ObjectKey>,
    /// Namespaces of excluded pods that were found to hold nothing of ours.
    clean: BTreeSet<String>,
    /// The last pod whose rules were verified in turn.
    cursor: String,
    /// What runtimes announced.
    arrivals: Arrivals,
    /// The node's processes, once a pass has asked for them.
    census: Option<Census>,
    /// The enrolled namespaces as they are written down for the plugin, at first by the agent before this one.
    memory: Remembered,
    /// Why they could not be written down, as it was said last.
    forgetful: Option<String>,
    /// Work was left over from the last pass.
    is_behind: bool,
    /// Pods that opt in and cannot be captured: uid, and when it was told last.
    refused: BTreeMap<ObjectKey, (String, Instant)>,
    /// Pods that opt in and are not captured, or were not all the time.
    records: BTreeMap<ObjectKey, Record>,
}

/// A pod that is in, on its way in, or on its way out.
struct Tracked {
    key: ObjectKey,
    service_account: String,
    network: Namespace,
    /// A file that stood for the namespace when it was found.
    path: PathBuf,
    capture: Arc<Capture>,
    sources: Sources,
    settling: Settling,
    /// It was never written to: a runtime waits to start it.
    is_fresh: bool,
    /// Rules were read back as wanted, in this namespace and for this capture.
    rules_hold: bool,
    /// Why the rules could not be made to hold.
    rules_error: Option<String>,
    /// What its annotation was last made to be.
    said: Option<StatusChange>,
    /// It was captured when it was looked at last.
    was_captured: bool,
    /// When it started to leave.
    leaving: Option<Instant>,
}

/// How far a pod is with the connections it had before it was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settling {
    /// Its rules are not there yet.
    Before,
    /// They may go on until then.
    Until(Instant),
    /// There are none any more, or never were.
    Done,
}

impl Reconciler {
    /// An agent that has not looked at anything yet.
    #[must_use]
    pub fn new(
        settings: Settings,
        kernel: Arc<dyn Kernel>,
        handoff: Handoff,
        status: impl Into<Notices>,
        reports: Reports,
        metrics: Metrics,
    ) -> Self {
        let memory = settings.memory.as_ref().map_or(Remembered::NotInstalled, |install| install.remembered());
        let noted = settings.memory.as_ref().map(|install| install.handed()).unwrap_or_default();
        Self {
            settings,
            kernel,
            handoff,
            status: status.into(),
            reports,
            metrics,
            tracked: BTreeMap::new(),
            captures: Shared::default(),
            kept: BTreeMap::new(),
            noted,
            ended: BTreeSet::new(),
            clean: BTreeSet::new(),
            cursor: String::new(),
            arrivals: Arrivals::default(),
            census: None,
            memory,
            forgetful: None,
            is_behind: false,
            refused: BTreeMap::new(),
            records: BTreeMap::new(),
        }
    }

    /// Reconciles on every change and every call of the plugin, and every [`EVERY`] without one, until stopped. What
    /// was set up stays.
    pub async fn run(
        &mut self,
        mut source: watch::Receiver<Arc<Loaded>>,
        mut calls: mpsc::Receiver<Call>,
        stop: &CancellationToken,
    ) {
        let mut answers = self.handoff.changes();
        let mut round = Instant::now();
        loop {
            let loaded = source.borrow_and_update().clone();
            answers.mark_unchanged();
            let now = Instant::now();
            let full = now >= round;
            if full {
                round = now + EVERY;
            }
            self.pass(&loaded, now, full).await;
            let others = [self.next_departure(now), self.next_settling(now), self.arrivals.next(now)];
            let mut wake = others.into_iter().flatten().fold(round, Instant::min);
            if self.is_behind {
                wake = now;
            }
            if self.lacks_namespace() || self.drains() {
                wake = wake.min(now + NAMESPACE_RETRY);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = source.changed() => if changed.is_err() {
                    tracing::error!("the manifests are not watched any more; restart the agent");
                    stop.cancelled().await;
                    return;
                },
                _ = answers.changed() => {}
                Some(call) = calls.recv() => {
                    let now = Instant::now();
                    self.heard(call, now);
                    // Many pods may be starting at once; one pass serves them all.
                    while let Ok(call) = calls.try_recv() {
                        self.heard(call, now);
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Looks at every pod of the node once and takes the next step for each; `full` also retries and verifies. Before
    /// the source was read no pod is looked at: none is known, so all would seem to be gone.
    pub async fn pass(&mut self, loaded: &Loaded, now: Instant, full: bool) {
        if loaded.is_never_read() {
            self.answer_arrivals(loaded, now, full);
            return;
        }
        let pods = loaded.objects.pods.iter().filter(|(_, pod)| pod.node() == Some(&self.settings.node));
        let pods: Vec<(&ObjectKey, &MeshPod)> = pods.map(|(key, pod)| (key, pod.as_ref())).collect();
        let mut reports = Vec::with_capacity(pods.len());
        let mut jobs = Vec::new();
        let present: BTreeSet<&str> = pods.iter().filter_map(|(_, pod)| pod.uid()).collect();
        let due = if full { self.take_turns() } else { BTreeSet::new() };
        self.census = None;
        self.arrivals.assign(&loaded.objects);
        self.remember(loaded);
        self.keep_noted(loaded, &present);
        self.forget_deleted(loaded, &present, &mut jobs);
        let mut refused = BTreeMap::new();
        for (key, pod) in pods {
            let decision = self.decide(key, pod, loaded);
            let mut report = report(key, pod, &decision);
            match decision {
                Decision::Capture { capture, warnings, .. } => {
                    report.error = (!warnings.is_empty()).then(|| warnings.join("; "));
                    let wanted = self.wanted(key, pod, capture);
                    match self.join(&wanted, now, full) {
                        Ok(Some(probe)) => jobs.push(probe),
                        Ok(None) => jobs.extend(self.rules_job(&wanted.uid, &due)),
                        Err(error) => report.error = Some(error),
                    }
                }
                Decision::Wait(reason) => {
                    self.keep(key, &report.uid);
                    if reason == enroll::Reason::UnreadNamespace {
                        let error = "its namespace cannot be read, so it stays as it is; see the log";
                        report.error = Some(error.to_owned());
                    }
                }
                Decision::Exclude(reason) => {
                    jobs.extend(self.leave(key, pod, now, full));
                    if let Some(why) = reason.refusal() {
                        report.error = Some(why.to_owned());
                        let told = self.refuse(key, pod, why, now);
                        refused.insert(key.clone(), (report.uid.clone(), told));
                    }
                }
            }
            reports.push(report);
        }
        self.refused = refused;
        self.records.retain(|key, _| loaded.objects.pods.contains_key(key));
        if full {
            self.withdraw_stale_status(loaded);
            self.note_handed();
            self.captures.forget_unused();
        }
        let count = jobs.len();
        let results = job::run_all(&self.kernel, jobs).await;
        self.is_behind = results.len() < count;
        for (uid, result) in results {
            self.finish(&uid, result, now);
        }
        for report in &mut reports {
            self.conclude(report, now, full);
        }
        self.publish(reports);
        self.ended.clear();
        self.answer_arrivals(loaded, now, full);
    }

    /// The namespaces this agent holds, by uid: some may have no file and no process by which they could be found.
    #[must_use]
    pub fn held(&self) -> Vec<(String, Namespace)> {
        self.tracked.iter().map(|(uid, tracked)| (uid.clone(), tracked.network.clone())).collect()
    }

    /// Takes all pods from the proxies: for an agent that leaves for good, after their rules.
    pub async fn dismiss(&mut self) {
        for uid in std::mem::take(&mut self.tracked).into_keys().chain(std::mem::take(&mut self.kept).into_keys()) {
            self.handoff.remove(&uid);
        }
        self.handoff.flush().await;
    }

    fn known<'a>(&'a self, loaded: &'a Loaded) -> Known<'a> {
        let Settings { rules, namespaces_exist, .. } = &self.settings;
        Known { loaded, rules, memory: &self.memory, namespaces_exist: *namespaces_exist }
    }

    fn decide(&self, key: &ObjectKey, pod: &MeshPod, loaded: &Loaded) -> Decision {
        self.known(loaded).decide(key, pod, &self.arrivals.addresses(key, pod.uid().unwrap_or_default()))
    }

    /// Makes sure that the proxies were handed the pod's present namespace.
    fn join(&mut self, wanted: &Wanted, now: Instant, full: bool) -> Result<Option<Job>, String> {
        if !is_plain(&wanted.uid) {
            return Err(format!(
                "\"{}\" is not a uid: it must consist of at most {MAX_UID} letters, digits and '-'",
                wanted.uid
            ));
        }
        let (path, id) = match self.locate(&wanted.key, &wanted.uid) {
            Ok(found) => found,
            Err(error) => {
                if self.tracked.contains_key(&wanted.uid) {
                    self.let_go(&wanted.uid);
                } else {
                    self.keep_if_said(&wanted.key, &wanted.uid);
                }
                return Err(error.to_string());
            }
        };
        if self.arrivals.is_buried(&wanted.uid, id) {
            return Err("its sandbox is being taken down".to_owned());
        }
        if self.tracked.get(&wanted.uid).is_some_and(|tracked| tracked.network.id() != id) {
            tracing::info!(pod = %wanted.key, "the pod has a new network namespace");
            self.let_go(&wanted.uid);
        }
        if let Some(tracked) = self.tracked.get_mut(&wanted.uid) {
            if full || !tracked.sources.hold(&wanted.probed) {
                tracked.sources = Sources::ask(self.kernel.as_ref(), &wanted.probed);
            }
            tracked.leaving = None;
            if matches!(tracked.settling, Settling::Until(end) if now >= end) {
                tracked.settling = Settling::Done;
            }
            let capture = wanted.capture(&tracked.sources, tracked.settling);
            if *tracked.capture != capture {
                tracked.capture = self.captures.share(capture);
                tracked.rules_hold = false;
            }
            if tracked.service_account != wanted.service_account {
                tracing::info!(pod = %wanted.key, "the pod has a new service account");
                tracked.service_account.clone_from(&wanted.service_account);
                // Proxies keep a pod as whom it came.
                self.handoff.remove(&wanted.uid);
                self.handoff.add(wanted.handed(tracked.network.clone()));
            } else if full && matches!(self.handoff.answer(&wanted.uid), Answer::Refused(_)) {
                self.handoff.retry(&wanted.uid);
            }
            return Ok(None);
        }
        let (network, addresses) = match self.kernel.look(&path) {
            Ok(seen) => seen,
            Err(error) => {
                self.keep_if_said(&wanted.key, &wanted.uid);
                return Err(error.to_string());
            }
        };
        if let Err(error) = self.verify(wanted, &network, &addresses) {
            self.no_longer_keep(&wanted.uid);
            return Err(error);
        }
        Ok(self.hand_over(wanted, network, path))
    }

    /// Hands a pod over; status from an earlier agent is to be held against what the namespace really has.
    fn hand_over(&mut self, wanted: &Wanted, network: Namespace, path: PathBuf) -> Option<Job> {
        tracing::info!(pod = %wanted.key, uid = wanted.uid, "handing the pod to the node proxy");
        self.clean.remove(&wanted.uid);
        self.kept.remove(&wanted.uid);
        self.handoff.add(wanted.handed(network.clone()));
        let probe = Job::Probe { uid: wanted.uid.clone(), network: network.clone() };
        // A pod whose runtime waits for us has not run yet, so it has no connections to spare.
        let is_new = self.arrivals.is_awaited(&wanted.key, &wanted.uid);
        let settling =
            if is_new || self.settings.established_grace.is_zero() { Settling::Done } else { Settling::Before };
        let sources = Sources::ask(self.kernel.as_ref(), &wanted.probed);
        let tracked = Tracked {
            key: wanted.key.clone(),
            service_account: wanted.service_account.clone(),
            network,
            path,
            capture: self.captures.share(wanted.capture(&sources, settling)),
            sources,
            settling,
            is_fresh: is_new,
            rules_hold: false,
            rules_error: None,
            said: None,
            was_captured: false,
            leaving: None,
        };
        self.tracked.insert(wanted.uid.clone(), tracked);
        self.status.has(&wanted.key).then_some(probe)
    }

    /// Rules are written once the proxy listens, and read back in turn ever after. A pod that starts has no connections to
    /// lose, and neither starts nor stays unless its proxy listens as well.
    fn rules_job(&self, uid: &str, due: &BTreeSet<String>) -> Option<Job> {
        let tracked = self.tracked.get(uid)?;
        let listens = self.handoff.answer(uid) == Answer::Accepted;
        let is_noted = || self.memory.enrols(&tracked.key.namespace) == Some(true);
        let waits = tracked.is_fresh && self.settings.pods_wait && is_noted();
        let wanted = if tracked.rules_hold { due.contains(uid) } else { listens || waits };
        wanted.then(|| Job::Ensure {
            uid: uid.to_owned(),
            network: tracked.network.clone(),
            capture: tracked.capture.clone(),
            fresh: tracked.is_fresh,
        })
    }

    fn finish(&mut self, uid: &str, result: Result<job::Done, String>, now: Instant) {
        let outcome = match &result {
            Ok(job::Done::Held | job::Done::Clean | job::Done::Missing | job::Done::Present | job::Done::Draining) => {
                "rules_verified"
            }
            Ok(job::Done::Written) => "rules_written",
            Ok(job::Done::Removed) => "rules_removed",
            Err(_) => "rules_failed",
        };
        self.metrics.counter("nodeagent_reconcile_events_total", &[("type", outcome)]).increment(1);
        if let Some(tracked) = self.tracked.get_mut(uid) {
            tracked.is_fresh = false;
        }
        match result {
            Ok(job::Done::Removed | job::Done::Clean) => {
                self.clean.insert(uid.to_owned());
                if self.tracked.remove(uid).is_some() {
                    tracing::info!(uid, "the pod has left the mesh");
                }
                self.kept.remove(uid);
                self.handoff.remove(uid);
            }
            Ok(job::Done::Present) => {}
            Ok(job::Done::Draining) => {
                if let Some(tracked) = self.tracked.get_mut(uid) {
                    let capture = Capture { phase: Phase::Leaving, ..Capture::clone(&tracked.capture) };
                    tracked.capture = self.captures.share(capture);
                    (tracked.rules_hold, tracked.rules_error) = (false, None);
                }
            }
            Ok(job::Done::Missing) => {
                // Written of a pod of the same name that ended while no agent ran.
                if let Some(tracked) = self.tracked.get(uid) {
                    self.withdraw(Some(uid), &tracked.key);
                }
            }
            Ok(done @ (job::Done::Held | job::Done::Written)) => {
                if let Some(tracked) = self.tracked.get_mut(uid) {
                    (tracked.rules_hold, tracked.rules_error) = (true, None);
                    if tracked.settling == Settling::Before {
                        tracked.settling = Settling::Until(now + self.settings.established_grace);
                    }
                    if done == job::Done::Written {
                        tracing::info!(pod = %tracked.key, uid, "capture rules written");
                    }
                }
            }
            Err(error) => {
                let is_said = |tracked: &Tracked| tracked.rules_error.as_ref() == Some(&error);
                if !self.tracked.get(uid).is_some_and(is_said) {
                    tracing::warn!(uid, error, "the pod's rules are not as they should be; trying again");
                }
                if let Some(tracked) = self.tracked.get_mut(uid) {
                    (tracked.rules_hold, tracked.rules_error) = (false, Some(error));
                }
            }
        }
    }

    fn publish(&self, reports: Vec<PodReport>) {
        let count = |state: &str, counts: &dyn Fn(&PodReport) -> bool| {
            let count = u32::try_from(reports.iter().filter(|report| counts(report)).count()).unwrap_or(u32::MAX);
            self.metrics.gauge("fairway_agent_pods", &[("state", state)]).set(f64::from(count));
        };
        count("captured", &|report| report.actual == Actual::Captured);
        count("pending", &|report| report.actual == Actual::Pending);
        count("not_captured", &|report| report.desired == Desired::Captured && report.actual != Actual::Captured);
        let unsteady = self.records.values().filter(|record| record.is_unsteady()).count();
        let unsteady = u32::try_from(unsteady).unwrap_or(u32::MAX);
        self.metrics.gauge("fairway_agent_pods", &[("state", "unsteady")]).set(f64::from(unsteady));
        count("unknown", &|report| report.desired == Desired::Unknown);
        count("refused", &|report| report.desired == Desired::Excluded && report.error.is_some());
        self.reports.publish(reports);
    }

    /// The captured pods whose turn it is to be verified.
    fn take_turns(&mut self) -> BTreeSet<String> {
        let after = self.tracked.keys().filter(|uid| **uid > self.cursor);
        let before = self.tracked.keys().filter(|uid| **uid <= self.cursor);
        let due: Vec<_> = after.chain(before).take(VERIFIED_PER_ROUND).cloned().collect();
        self.cursor = due.last().cloned().unwrap_or_default();
        due.into_iter().collect()
    }

    fn lacks_namespace(&self) -> bool {
        let pods = self.reports.latest().pods;
        pods.iter().any(|pod| pod.desired == Desired::Captured && pod.actual == Actual::Absent && pod.error.is_some())
    }

    /// When the next pod may leave; one that could have left already failed to and waits for the next round.
    fn next_departure(&self, now: Instant) -> Option<Instant> {
        let since = self.tracked.values().filter_map(|tracked| tracked.leaving);
        since.map(|since| since + self.settings.leave_grace).filter(|departure| *departure > now).min()
    }

    /// When the next pod's older connections have had their time.
    fn next_settling(&self, now: Instant) -> Option<Instant> {
        let ends = self.tracked.values().filter_map(|tracked| match tracked.settling {
            Settling::Until(end) if end > now => Some(end),
            _ => None,
        });
        ends.min()
    }

    /// Whether a pod only waits for its connections to end.
    fn drains(&self) -> bool {
        self.tracked.values().any(|tracked| tracked.leaving.is_some() && tracked.capture.phase == Phase::Leaving)
    }
}

impl Settling {
    fn phase(self) -> Phase {
        match self {
            Self::Before | Self::Until(_) => Phase::Joining,
            Self::Done => Phase::Settled,
        }
    }
}

/// A uid becomes the name of a file, so it must not lead elsewhere.
fn is_plain(uid: &str) -> bool {
    (1..=MAX_UID).contains(&uid.len()) && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn report(key: &ObjectKey, pod: &MeshPod, decision: &Decision) -> PodReport {
    PodReport {
        uid: pod.uid().unwrap_or_default().to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        desired: decision.desired(),
        reason: decision.reason().label(),
        actual: Actual::Absent,
        error: None,
    }
}

#[cfg(test)]
mod tests;
