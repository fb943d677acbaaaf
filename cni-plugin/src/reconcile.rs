//! Keeps what is in the pods' namespaces, at the node proxy and in the pods' status equal to what the manifests ask
//! for.
//!
//! Nothing is remembered that could be wrong after a restart: each pass compares what is wanted with what is read
//! back from the kernel and with what the proxy answered, and takes the next step.
//!
//! Enrolment goes proxy, rules, status. Rules before listeners (Istio's order) would refuse every connection of a
//! running pod until the proxy has bound its ports, and for as long as it cannot; the status comes last because it
//! makes peers send tunnels. Un-enrolment goes the other way round, and waits between status and rules until peers
//! have heard of it.

mod job;
mod settle;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_core::io::metrics::Metrics;
use fairway_core::source::directory::Loaded;
use fairway_core::source::objects::{is_host_network, node_name, pod_uid, service_account_name};
use fairway_core::source::status::Writer;
use fairway_core::source::{Kind, ObjectKey, Objects};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::enroll::{self, Decision, REDIRECTION};
use crate::handoff::{Answer, HandedPod, Handoff};
use crate::kernel::{Inspection, Kernel, Namespace};
use crate::report::{Actual, Desired, PodReport, Reports};
use crate::rules::Capture;
use job::Job;
use settle::{StatusChange, settle};

/// How often everything is looked at although nothing happened; also when refused pods are tried again.
pub const EVERY: Duration = Duration::from_secs(5);
/// How soon to look again for the namespace of a pod that should have one: it may be a moment behind its status.
const NAMESPACE_RETRY: Duration = Duration::from_millis(500);
/// Captured pods whose rules are read back in one such round; each costs a few short processes, so the pods take turns.
pub const VERIFIED_PER_ROUND: usize = 16;
/// How long a pod that leaves stays captured after its status says that it does not: its peers hear of it well within
/// this.
pub const LEAVE_GRACE: Duration = Duration::from_secs(1);

/// What one agent works with.
pub struct Settings {
    /// The node whose pods are ours.
    pub node: String,
    /// A pod's namespace file is here, named by its uid.
    pub netns_dir: PathBuf,
    /// Who is captured, and how.
    pub rules: enroll::Rules,
    /// Usually [`LEAVE_GRACE`].
    pub leave_grace: Duration,
}

/// The agent's loop and what it knows of the node's pods.
pub struct Reconciler {
    settings: Settings,
    kernel: Arc<dyn Kernel>,
    handoff: Handoff,
    status: Writer,
    reports: Reports,
    metrics: Metrics,
    tracked: BTreeMap<String, Tracked>,
    /// Namespaces of excluded pods that were found to hold nothing of ours.
    clean: BTreeSet<String>,
    /// The last pod whose rules were verified in turn.
    cursor: String,
}

/// A pod that is in, on its way in, or on its way out.
struct Tracked {
    key: ObjectKey,
    network: Namespace,
    capture: Capture,
    /// Rules were read back as wanted, in this namespace and for this capture.
    rules_hold: bool,
    /// Why the rules could not be made to hold.
    rules_error: Option<String>,
    /// When it started to leave.
    leaving: Option<Instant>,
}

/// A pod that is wanted and has all that capturing it takes.
struct Wanted {
    key: ObjectKey,
    uid: String,
    service_account: String,
    capture: Capture,
}

impl Reconciler {
    /// An agent that has not looked at anything yet.
    #[must_use]
    pub fn new(
        settings: Settings,
        kernel: Arc<dyn Kernel>,
        handoff: Handoff,
        status: Writer,
        reports: Reports,
        metrics: Metrics,
    ) -> Self {
        let (tracked, clean) = (BTreeMap::new(), BTreeSet::new());
        Self { settings, kernel, handoff, status, reports, metrics, tracked, clean, cursor: String::new() }
    }

    /// Reconciles on every change, and every [`EVERY`] without one, until stopped. What was set up stays.
    pub async fn run(&mut self, mut source: watch::Receiver<Arc<Loaded>>, stop: &CancellationToken) {
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
            let mut wake = self.next_departure(now).map_or(round, |departure| departure.min(round));
            if self.lacks_namespace() {
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
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Looks at every pod of the node once and takes the next step for each; `full` also retries and verifies.
    pub async fn pass(&mut self, loaded: &Loaded, now: Instant, full: bool) {
        let pods: Vec<&Arc<Pod>> =
            loaded.objects.pods.values().filter(|pod| node_name(pod) == Some(&self.settings.node)).collect();
        let mut reports = Vec::with_capacity(pods.len());
        let mut jobs = Vec::new();
        let present: BTreeSet<&str> = pods.iter().filter_map(|pod| pod_uid(pod)).collect();
        let due = if full { self.take_turns() } else { BTreeSet::new() };
        self.forget_deleted(&present, &mut jobs);
        for pod in &pods {
            let decision = self.decide(pod, &loaded.objects);
            let mut report = report(pod, &decision);
            match decision {
                Decision::Capture { capture, warnings, .. } => {
                    report.error = (!warnings.is_empty()).then(|| warnings.join("; "));
                    let wanted = wanted(pod, capture);
                    match self.join(&wanted, full) {
                        Ok(Some(probe)) => jobs.push(probe),
                        Ok(None) => jobs.extend(self.rules_job(&wanted.uid, &due)),
                        Err(error) => report.error = Some(error),
                    }
                }
                Decision::Wait(_) => {}
                Decision::Exclude(_) => jobs.extend(self.leave(pod, now, full)),
            }
            reports.push(report);
        }
        if full && loaded.errors.is_empty() {
            self.withdraw_stale_status(&loaded.objects);
        }
        for (uid, result) in job::run_all(&self.kernel, jobs).await {
            self.finish(&uid, result);
        }
        for report in &mut reports {
            self.conclude(report);
        }
        self.publish(reports);
    }

    /// Takes everything back, at once: for an agent that leaves for good.
    pub async fn release_all(&mut self) {
        let mut jobs = Vec::new();
        for (uid, pod) in &self.tracked {
            self.withdraw(uid, &pod.key);
            jobs.push(Job::Remove { uid: uid.clone(), network: pod.network.clone() });
        }
        for (uid, result) in job::run_all(&self.kernel, jobs).await {
            if let Err(error) = result {
                tracing::error!(uid, error, "rules could not be removed; they end with the pod");
            }
            self.handoff.remove(&uid);
        }
        self.tracked.clear();
        self.handoff.flush().await;
    }

    fn decide(&self, pod: &Pod, objects: &Objects) -> Decision {
        let namespace = pod.metadata.namespace.as_deref().and_then(|namespace| objects.namespace(namespace));
        enroll::decide(pod, namespace.map(Arc::as_ref), &self.settings.rules)
    }

    /// Makes sure that the proxies were handed the pod's present namespace.
    fn join(&mut self, wanted: &Wanted, full: bool) -> Result<Option<Job>, String> {
        if !is_plain(&wanted.uid) {
            return Err(format!("\"{}\" is not a uid: it must consist of letters, digits and '-'", wanted.uid));
        }
        let path = self.settings.netns_dir.join(&wanted.uid);
        let id = match self.kernel.identify(&path) {
            Ok(id) => id,
            Err(error) => {
                self.let_go(&wanted.uid);
                return Err(error.to_string());
            }
        };
        if self.tracked.get(&wanted.uid).is_some_and(|tracked| tracked.network.id() != id) {
            tracing::info!(pod = %wanted.key, "the pod has a new network namespace");
            self.let_go(&wanted.uid);
        }
        if let Some(tracked) = self.tracked.get_mut(&wanted.uid) {
            tracked.leaving = None;
            if tracked.capture != wanted.capture {
                tracked.capture = wanted.capture.clone();
                tracked.rules_hold = false;
            }
            if full && matches!(self.handoff.answer(&wanted.uid), Answer::Refused(_)) {
                self.handoff.retry(&wanted.uid);
            }
            return Ok(None);
        }
        let network = self.kernel.open(&path).map_err(|error| error.to_string())?;
        Ok(self.hand_over(wanted, network))
    }

    /// Hands a pod over; status from an earlier agent is to be held against what the namespace really has.
    fn hand_over(&mut self, wanted: &Wanted, network: Namespace) -> Option<Job> {
        tracing::info!(pod = %wanted.key, uid = wanted.uid, "handing the pod to the node proxy");
        self.clean.remove(&wanted.uid);
        self.handoff.add(HandedPod {
            uid: wanted.uid.clone(),
            name: wanted.key.name.clone(),
            namespace: wanted.key.namespace.clone(),
            service_account: wanted.service_account.clone(),
            network: network.clone(),
        });
        let probe = Job::Probe { uid: wanted.uid.clone(), network: network.clone() };
        let tracked = Tracked {
            key: wanted.key.clone(),
            network,
            capture: wanted.capture.clone(),
            rules_hold: false,
            rules_error: None,
            leaving: None,
        };
        self.tracked.insert(wanted.uid.clone(), tracked);
        self.status.has(&wanted.key).then_some(probe)
    }

    /// Rules are written once the proxy listens, and read back in turn ever after.
    fn rules_job(&self, uid: &str, due: &BTreeSet<String>) -> Option<Job> {
        let tracked = self.tracked.get(uid)?;
        let listens = self.handoff.answer(uid) == Answer::Accepted;
        let wanted = if tracked.rules_hold { due.contains(uid) } else { listens };
        wanted.then(|| Job::Ensure {
            uid: uid.to_owned(),
            network: tracked.network.clone(),
            capture: tracked.capture.clone(),
        })
    }

    /// The next step out for a pod that does not belong in.
    fn leave(&mut self, pod: &Pod, now: Instant, full: bool) -> Option<Job> {
        let uid = pod_uid(pod)?.to_owned();
        if !self.tracked.contains_key(&uid) {
            return self.look_for_leftovers(pod, &uid, full);
        }
        let path = self.settings.netns_dir.join(&uid);
        let id = self.kernel.identify(&path).ok();
        let tracked = self.tracked.get_mut(&uid)?;
        if id != Some(tracked.network.id()) {
            // The namespace is gone, and its rules with it.
            self.let_go(&uid);
            return None;
        }
        let since = *tracked.leaving.get_or_insert(now);
        let (key, network) = (tracked.key.clone(), tracked.network.clone());
        self.withdraw(&uid, &key);
        (now.duration_since(since) >= self.settings.leave_grace).then_some(Job::Remove { uid, network })
    }

    /// Rules that an earlier agent left in a pod that was un-enrolled while no agent ran.
    fn look_for_leftovers(&mut self, pod: &Pod, uid: &str, full: bool) -> Option<Job> {
        // The namespace of a host network pod is the node's own: never touched.
        if !full || !is_plain(uid) || is_host_network(pod) || self.clean.contains(uid) {
            return None;
        }
        let network = self.kernel.open(&self.settings.netns_dir.join(uid)).ok()?;
        Some(Job::Clean { uid: uid.to_owned(), network })
    }

    /// Pods whose object is gone: nobody needs to be told in order any more.
    fn forget_deleted(&mut self, present: &BTreeSet<&str>, jobs: &mut Vec<Job>) {
        self.clean.retain(|uid| present.contains(uid.as_str()));
        let gone: Vec<_> = self.tracked.keys().filter(|uid| !present.contains(uid.as_str())).cloned().collect();
        for uid in gone {
            let Some(tracked) = self.tracked.get(&uid) else { continue };
            let (key, network) = (tracked.key.clone(), tracked.network.clone());
            tracing::info!(pod = %key, uid, "the pod was deleted");
            let lives = self.kernel.identify(&self.settings.netns_dir.join(&uid)).ok() == Some(network.id());
            self.withdraw(&uid, &key);
            if lives {
                // Its processes may run on for a while; they should not meet a proxy that has left.
                jobs.push(Job::Remove { uid, network });
            } else {
                self.let_go(&uid);
            }
        }
    }

    fn finish(&mut self, uid: &str, result: Result<job::Done, String>) {
        let outcome = match &result {
            Ok(job::Done::Held | job::Done::Clean | job::Done::Missing | job::Done::Present) => "rules_verified",
            Ok(job::Done::Written) => "rules_written",
            Ok(job::Done::Removed) => "rules_removed",
            Err(_) => "rules_failed",
        };
        self.metrics.counter("nodeagent_reconcile_events_total", &[("type", outcome)]).increment(1);
        match result {
            Ok(job::Done::Removed | job::Done::Clean) => {
                self.clean.insert(uid.to_owned());
                if self.tracked.remove(uid).is_some() {
                    tracing::info!(uid, "the pod has left the mesh");
                }
                self.handoff.remove(uid);
            }
            Ok(job::Done::Present) => {}
            Ok(job::Done::Missing) => {
                // Written of a pod of the same name that ended while no agent ran.
                if let Some(tracked) = self.tracked.get(uid) {
                    self.withdraw(uid, &tracked.key);
                }
            }
            Ok(done @ (job::Done::Held | job::Done::Written)) => {
                if let Some(tracked) = self.tracked.get_mut(uid) {
                    (tracked.rules_hold, tracked.rules_error) = (true, None);
                    if done == job::Done::Written {
                        tracing::info!(pod = %tracked.key, uid, "capture rules written");
                    }
                }
            }
            Err(error) => {
                tracing::warn!(uid, error, "the pod's rules are not as they should be; trying again");
                if let Some(tracked) = self.tracked.get_mut(uid) {
                    (tracked.rules_hold, tracked.rules_error) = (false, Some(error));
                }
            }
        }
    }

    /// Writes the pod's status and completes its report.
    fn conclude(&self, report: &mut PodReport) {
        let Some(tracked) = self.tracked.get(&report.uid) else { return };
        let outcome = settle(&settle::Facts {
            leaving: tracked.leaving.is_some(),
            answer: self.handoff.answer(&report.uid),
            rules_hold: tracked.rules_hold,
            rules_error: tracked.rules_error.as_deref(),
        });
        report.actual = outcome.actual;
        report.error = outcome.error.or_else(|| report.error.take());
        let value = match outcome.status {
            StatusChange::Enabled => "enabled",
            StatusChange::Pending => "pending",
            StatusChange::Keep => return,
        };
        let partial = json!({"metadata": {"annotations": {REDIRECTION: value}}});
        if let Err(error) = self.status.write(&tracked.key, partial) {
            tracing::warn!(pod = %tracked.key, %error, "the pod's status could not be written; trying again");
            report.actual = Actual::Pending;
            report.error = Some(error.to_string());
        }
    }

    fn publish(&self, reports: Vec<PodReport>) {
        for (name, actual) in [("captured", Actual::Captured), ("pending", Actual::Pending)] {
            let count = reports.iter().filter(|report| report.actual == actual).count();
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            self.metrics.gauge("fairway_agent_pods", &[("state", name)]).set(f64::from(count));
        }
        self.reports.publish(reports);
    }

    /// Forgets a pod whose namespace is gone.
    fn let_go(&mut self, uid: &str) {
        if let Some(tracked) = self.tracked.remove(uid) {
            self.withdraw(uid, &tracked.key);
        }
        self.handoff.remove(uid);
    }

    /// Takes the status of a pod back, unless another pod has its name by now.
    fn withdraw(&self, uid: &str, key: &ObjectKey) {
        if self.tracked.iter().any(|(other, tracked)| other != uid && tracked.key == *key) {
            return;
        }
        if let Err(error) = self.status.remove(key) {
            tracing::warn!(pod = %key, %error, "the pod's status could not be taken back; trying again");
        }
    }

    /// Status an earlier agent wrote of pods that are not ours any more.
    fn withdraw_stale_status(&self, objects: &Objects) {
        let owned = match self.status.owned() {
            Ok(owned) => owned,
            Err(error) => {
                tracing::warn!(%error, "cannot list the status written before");
                return;
            }
        };
        let in_use: BTreeSet<_> = self.tracked.values().map(|tracked| &tracked.key).collect();
        for key in owned.iter().filter(|key| key.kind == Kind::Pod && !in_use.contains(key)) {
            let waits = objects.pods.get(key).is_some_and(|pod| {
                node_name(pod) == Some(&self.settings.node) && matches!(self.decide(pod, objects), Decision::Wait(_))
            });
            if !waits {
                self.withdraw("", key);
            }
        }
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
}

/// A uid becomes the name of a file, so it must not lead elsewhere.
fn is_plain(uid: &str) -> bool {
    !uid.is_empty() && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn wanted(pod: &Pod, capture: Capture) -> Wanted {
    let (namespace, name) = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
    Wanted {
        key: ObjectKey::pod(namespace.unwrap_or_default(), name.unwrap_or_default()),
        uid: pod_uid(pod).unwrap_or_default().to_owned(),
        service_account: service_account_name(pod).to_owned(),
        capture,
    }
}

fn report(pod: &Pod, decision: &Decision) -> PodReport {
    PodReport {
        uid: pod_uid(pod).unwrap_or_default().to_owned(),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        desired: if decision.is_wanted() { Desired::Captured } else { Desired::Excluded },
        reason: decision.reason().label(),
        actual: Actual::Absent,
        error: None,
    }
}

#[cfg(test)]
mod tests;
