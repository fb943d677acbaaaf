//! What the agent says of pods to others: in their status, and in a note for the plugin.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use fairway_core::source::{Kind, Loaded, MeshPod, ObjectKey};
use serde_json::{Map, json};

use super::record::{Record, Word};
use super::settle::{self, StatusChange, settle};
use super::{REMIND_EVERY, Reconciler};
use crate::enroll::{Decision, NOT_CAPTURED, REDIRECTION};
use crate::events::{PodEvent, Reason};
use crate::install::InstallError;
use crate::plugin::remembered::Remembered;
use crate::report::{Actual, Desired, PodReport};

/// What a pod lacks of which nothing is wrong.
const UNANSWERED: &str = "the node proxy has not answered for it yet";

impl Reconciler {
    /// Leaves a note for the plugin, which decides by it while no agent runs.
    pub(super) fn remember(&mut self, loaded: &Loaded) {
        let Some(install) = &self.settings.memory else { return };
        let Some(enrolled) = self.known(loaded).enrolled() else { return };
        if matches!(&self.memory, Remembered::Enrolled(before) if *before == enrolled) {
            return;
        }
        match install.remember(&enrolled) {
            Ok(()) => (self.memory, self.forgetful) = (Remembered::Enrolled(enrolled), None),
            // Without a runtime there is no plugin either; the installation says so.
            Err(InstallError::NoDirectory(_)) => {}
            Err(error) => {
                let error = error.to_string();
                if self.forgetful.as_ref() != Some(&error) {
                    tracing::warn!(error, "the CNI plugin cannot be told which namespaces are enrolled; trying again");
                }
                self.forgetful = Some(error);
            }
        }
    }

    /// Tells the owner of a pod that opts in why it is not in; when it was told last.
    pub(super) fn refuse(&self, key: &ObjectKey, pod: &MeshPod, why: &str, now: Instant) -> Instant {
        let uid = pod.uid().unwrap_or_default();
        let recently = self.refused.get(key).filter(|(told, at)| told == uid && is_recent(*at, now)).map(|(_, at)| *at);
        if recently.is_none() {
            self.say(key, uid, Reason::CannotBeCaptured, why);
        }
        let partial = json!({"metadata": {"annotations": {NOT_CAPTURED: why}}});
        if let Err(error) = self.status.write(key, uid, &partial) {
            tracing::warn!(pod = %key, %error, "the pod's status could not be written; trying again");
        }
        recently.unwrap_or(now)
    }

    fn say(&self, pod: &ObjectKey, uid: &str, reason: Reason, message: &str) {
        let (pod, uid, message) = (pod.clone(), uid.to_owned(), message.to_owned());
        self.settings.events.say(&PodEvent { pod, uid, reason, message });
    }

    /// Writes the pod's status and completes its report.
    pub(super) fn conclude(&mut self, report: &mut PodReport, now: Instant, full: bool) {
        let mut annotations = Map::new();
        let mut change = StatusChange::Keep;
        if let Some(tracked) = self.tracked.get(&report.uid) {
            let outcome = settle(&settle::Facts {
                leaving: tracked.leaving.is_some(),
                answer: self.handoff.answer(&report.uid),
                rules_hold: tracked.rules_hold,
                rules_error: tracked.rules_error.as_deref(),
            });
            report.actual = outcome.actual;
            report.error = outcome.error.or_else(|| report.error.take());
            change = outcome.status;
            match change {
                StatusChange::Enabled => drop(annotations.insert(REDIRECTION.to_owned(), json!("enabled"))),
                StatusChange::Pending => drop(annotations.insert(REDIRECTION.to_owned(), json!("pending"))),
                StatusChange::Keep => {}
            }
        }
        let key = ObjectKey::pod(report.namespace.clone(), report.name.clone());
        let says_more = self.has_lacked_capture(&key, report, now);
        // What was said of a captured pod stays while the proxy is away: peers go by it.
        let is_tracked = self.tracked.contains_key(&report.uid);
        if annotations.is_empty() && (!says_more || is_tracked && self.status.has(&key)) {
            return;
        }
        // A file that says it already is looked at in turn with everything else, not each time something happens elsewhere.
        let tracked = self.tracked.get_mut(&report.uid);
        if !full && !says_more && self.status.is_kept() && tracked.is_some_and(|tracked| tracked.said == Some(change)) {
            return;
        }
        if says_more {
            let why = report.error.as_deref().unwrap_or(UNANSWERED);
            annotations.insert(NOT_CAPTURED.to_owned(), json!(why));
        }
        let partial = json!({"metadata": {"annotations": annotations}});
        if let Err(error) = self.status.write(&key, &report.uid, &partial) {
            tracing::warn!(pod = %key, %error, "the pod's status could not be written; trying again");
            report.actual = Actual::Pending;
            report.error = Some(error.to_string());
            change = StatusChange::Keep;
        }
        if let Some(tracked) = self.tracked.get_mut(&report.uid) {
            tracked.said = (change != StatusChange::Keep && !says_more).then_some(change);
        }
    }

    /// Whether the pod opts in and is not captured, and its owner was told so.
    fn has_lacked_capture(&mut self, key: &ObjectKey, report: &PodReport, now: Instant) -> bool {
        let is_captured = report.actual == Actual::Captured;
        let tracked = self.tracked.get_mut(&report.uid);
        // A pod that has nothing yet, and of which nothing is wrong, waits for its sandbox.
        let lacks = !is_captured && (report.error.is_some() || tracked.is_some());
        let was_captured = tracked.is_some_and(|tracked| std::mem::replace(&mut tracked.was_captured, is_captured));
        if report.desired != Desired::Captured || !is_captured && !lacks {
            self.records.remove(key);
            return false;
        }
        if was_captured && lacks {
            self.metrics.counter("fairway_agent_captures_lost_total", &[]).increment(1);
        }
        if self.records.get(key).is_some_and(|record| record.uid != report.uid) {
            self.records.remove(key);
        }
        let record = match self.records.get_mut(key) {
            Some(record) => record,
            None if is_captured => return false,
            None => self.records.entry(key.clone()).or_insert_with(|| Record::begin(&report.uid, now)),
        };
        let (word, is_told, often) = (record.note(is_captured, now), record.is_told(), record.often());
        if record.is_over() {
            self.records.remove(key);
        }
        let uid = &report.uid;
        match word {
            Some(Word::Lacks) => {
                let why = report.error.as_deref().unwrap_or(UNANSWERED);
                self.say(key, uid, Reason::NotCaptured, &format!("{why}{often}"));
            }
            Some(Word::Has) => {
                self.say(key, uid, Reason::Captured, "its rules were read back and the node proxy listens");
            }
            None => {}
        }
        is_told
    }

    /// Takes the status of a pod back, unless another pod has its name by now; without a uid, whatever pod it was.
    pub(super) fn withdraw(&self, uid: Option<&str>, key: &ObjectKey) {
        if self.tracked.iter().any(|(other, tracked)| Some(other.as_str()) != uid && tracked.key == *key) {
            return;
        }
        if let Err(error) = self.status.remove(key, uid) {
            tracing::warn!(pod = %key, %error, "the pod's status could not be taken back; trying again");
        }
    }

    /// Status an earlier agent wrote of pods that are known not to be ours any more.
    pub(super) fn withdraw_stale_status(&self, loaded: &Loaded) {
        let owned = match self.status.owned() {
            Ok(owned) => owned,
            Err(error) => {
                tracing::warn!(%error, "cannot list the status written before");
                return;
            }
        };
        let told = self.records.iter().filter(|(_, record)| record.is_told()).map(|(key, _)| key);
        let in_use = self.tracked.values().map(|tracked| &tracked.key).chain(self.refused.keys());
        let in_use: BTreeSet<_> = in_use.chain(self.kept.values()).chain(told).collect();
        for key in owned.iter().filter(|key| key.kind == Kind::Pod && !in_use.contains(key)) {
            let pod = loaded.objects.pods.get(key).map(Arc::as_ref);
            let is_over = match pod.filter(|pod| pod.node() == Some(&self.settings.node)) {
                Some(pod) => !matches!(self.decide(key, pod, loaded), Decision::Wait(_)),
                None => self.known(loaded).is_gone(key),
            };
            if is_over {
                self.withdraw(pod.and_then(MeshPod::uid), key);
            }
        }
    }
}

/// Whether what was told then need not be told again now.
fn is_recent(told: Instant, now: Instant) -> bool {
    now.saturating_duration_since(told) < REMIND_EVERY
}
