//! What the agent says of pods to others: in their status, and in a note for the plugin.

use std::collections::BTreeSet;

use fairway_core::source::directory::Loaded;
use fairway_core::source::objects::node_name;
use fairway_core::source::{Kind, ObjectKey, Objects};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::settle::{self, StatusChange, settle};
use super::{Reconciler, pod_key};
use crate::enroll::{self, Decision, NOT_CAPTURED, REDIRECTION};
use crate::install::InstallError;
use crate::report::{Actual, PodReport};

impl Reconciler {
    /// Leaves a note for the plugin, which decides by it while no agent runs.
    pub(super) fn remember(&mut self, loaded: &Loaded) {
        let Some(memory) = &self.settings.memory else { return };
        // A source that has not been read says nothing of who is enrolled.
        if loaded.is_never_read() {
            return;
        }
        let namespaces = loaded.objects.namespaces.values();
        let enrolled = namespaces.filter(|namespace| enroll::is_enrolled(namespace, &self.settings.rules));
        let enrolled: BTreeSet<String> = enrolled.filter_map(|namespace| namespace.metadata.name.clone()).collect();
        if self.remembered.as_ref() == Some(&enrolled) {
            return;
        }
        match memory.remember(&enrolled) {
            Ok(()) => (self.remembered, self.forgetful) = (Some(enrolled), None),
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

    /// Tells the owner of a pod that opts in why it is not in.
    pub(super) fn refuse(&self, pod: &Pod, why: &str) {
        let key = pod_key(pod);
        if !self.refused.contains(&key) {
            tracing::warn!(pod = %key, why, "a pod opts in and cannot be captured");
        }
        let partial = json!({"metadata": {"annotations": {NOT_CAPTURED: why}}});
        if let Err(error) = self.status.write(&key, partial) {
            tracing::warn!(pod = %key, %error, "the pod's status could not be written; trying again");
        }
    }

    /// Writes the pod's status and completes its report.
    pub(super) fn conclude(&self, report: &mut PodReport) {
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

    /// Takes the status of a pod back, unless another pod has its name by now.
    pub(super) fn withdraw(&self, uid: &str, key: &ObjectKey) {
        if self.tracked.iter().any(|(other, tracked)| other != uid && tracked.key == *key) {
            return;
        }
        if let Err(error) = self.status.remove(key) {
            tracing::warn!(pod = %key, %error, "the pod's status could not be taken back; trying again");
        }
    }

    /// Status an earlier agent wrote of pods that are not ours any more.
    pub(super) fn withdraw_stale_status(&self, objects: &Objects) {
        let owned = match self.status.owned() {
            Ok(owned) => owned,
            Err(error) => {
                tracing::warn!(%error, "cannot list the status written before");
                return;
            }
        };
        let in_use: BTreeSet<_> = self.tracked.values().map(|tracked| &tracked.key).chain(&self.refused).collect();
        for key in owned.iter().filter(|key| key.kind == Kind::Pod && !in_use.contains(key)) {
            let waits = objects.pods.get(key).is_some_and(|pod| {
                node_name(pod) == Some(&self.settings.node) && matches!(self.decide(pod, objects), Decision::Wait(_))
            });
            if !waits {
                self.withdraw("", key);
            }
        }
    }
}
