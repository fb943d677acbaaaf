//! The plugin's calls: taken note of at once, answered after a pass.

use std::path::Path;
use std::time::Instant;

use fairway_core::source::{Loaded, ObjectKey};

use super::arrivals::{Arrival, Standing};
use super::{Decision, Reconciler};
use crate::enroll::Reason;
use crate::event::{Answer, Attached, Attachment};
use crate::kernel::NamespaceId;
use crate::report::{Actual, Desired};
use crate::serve::{Call, Verdict, Want};

fn pod_of(attachment: &Attachment) -> ObjectKey {
    ObjectKey::pod(attachment.pod_namespace.clone(), attachment.pod_name.clone())
}

impl Reconciler {
    /// Takes note of a call; an ADD is answered once it can be.
    pub(super) fn heard(&mut self, call: Call, now: Instant) {
        let Call { want, answer } = call;
        let verdict = match want {
            Want::Add(attachment) => return self.arrivals.begin(pod_of(&attachment), attachment, now, answer),
            Want::Delete(attachment) => {
                self.end(&pod_of(&attachment), &attachment);
                Verdict::Agreed(Answer::default())
            }
            Want::Check(attachment) => self.check(&pod_of(&attachment)),
            Want::Collect(attached) => {
                self.collect(&attached);
                Verdict::Agreed(Answer::default())
            }
        };
        // Nobody waits any more: fine.
        let _ = answer.send(verdict);
    }

    /// A sandbox ends: the proxy leaves it before it is gone. One that has been replaced, or has ended before, is not
    /// the pod's any more.
    fn end(&mut self, key: &ObjectKey, attachment: &Attachment) {
        let announced = self.identify(&attachment.netns);
        let tracked = self.tracked.iter().find(|(_, tracked)| tracked.key == *key);
        let ending = tracked.filter(|(uid, tracked)| {
            // By the name of the sandbox where it is known: the file of its namespace may have been used again for the next
            // one, and a DEL whose caller has given up can come after that one's ADD.
            let begun = self.arrivals.of(key, uid).map(|begun| begun.container_id.as_str());
            match begun.filter(|begun| !begun.is_empty() && !attachment.container_id.is_empty()) {
                Some(begun) => begun == attachment.container_id,
                None => announced.is_some_and(|id| id == tracked.network.id()),
            }
        });
        let ending = ending.map(|(uid, tracked)| (uid.clone(), tracked.network.id()));
        self.arrivals.end(key, &attachment.container_id);
        if let Some((uid, id)) = ending {
            tracing::info!(pod = %key, uid, "the pod's sandbox is taken down");
            self.arrivals.bury(key.clone(), &uid, id);
            self.let_go(&uid);
        } else if !attachment.netns.is_empty() && !self.tracked.values().any(|tracked| tracked.key == *key) {
            // Without a namespace it is one that is long gone: runtimes repeat DEL for sandboxes they find when they start.
            self.end_unseen(key);
        }
    }

    /// A sandbox that its runtime does not list any more has ended without a DEL (CNI 1.1.0, "GC"). What a plugin of a chain
    /// has made in a namespace ends with that; what is left is what this agent was told and its proxies were handed.
    ///
    /// A list can be wrong, while a process of the pod in that very namespace cannot: such a pod stays as it is.
    fn collect(&mut self, attached: &Attached) {
        let unlisted = self.arrivals.unlisted(attached);
        if unlisted.is_empty() {
            return;
        }
        let census = self.kernel.census();
        for (key, uid, attachment) in unlisted {
            let id = self.identify(&attachment.netns);
            let lives = id.is_some_and(|id| uid.is_some_and(|uid| census.is_home(id, &uid)));
            if lives {
                tracing::warn!(pod = %key, container = attachment.container_id, "the runtime does not list a sandbox whose pod runs; it stays");
            } else {
                tracing::info!(pod = %key, container = attachment.container_id, "the runtime does not list the pod's sandbox any more");
                self.end(&key, &attachment);
            }
        }
    }

    fn identify(&self, netns: &str) -> Option<NamespaceId> {
        if netns.is_empty() {
            return None;
        }
        let path = Path::new(netns);
        let mounted = self.settings.host_mounts.join(path.strip_prefix("/").unwrap_or(path));
        self.kernel.identify(&mounted).or_else(|_| self.kernel.identify(path)).ok()
    }

    fn check(&self, key: &ObjectKey) -> Verdict {
        let pods = self.reports.latest().pods;
        let report = pods.iter().find(|pod| pod.namespace == key.namespace && pod.name == key.name);
        match report {
            Some(pod) if pod.desired == Desired::Captured && pod.actual != Actual::Captured => {
                Verdict::Refused(pod.error.clone().unwrap_or_else(|| "it is not captured yet".to_owned()))
            }
            _ => Verdict::Agreed(Answer::default()),
        }
    }

    /// Answers the calls that can be answered after a pass.
    pub(super) fn answer_arrivals(&mut self, loaded: &Loaded, now: Instant, full: bool) {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        arrivals.answer(now, |key, arrival| self.standing(loaded, key, arrival));
        if full {
            let (pods, known) = (&loaded.objects.pods, self.known(loaded));
            let tracked: Vec<&ObjectKey> = self.tracked.values().map(|tracked| &tracked.key).collect();
            let has_pod = |uid: &str| pods.values().any(|pod| pod.uid() == Some(uid));
            let may_live = |key: &ObjectKey| pods.contains_key(key) || tracked.contains(&key) || !known.is_gone(key);
            arrivals.forget(may_live, has_pod);
        }
        self.arrivals = arrivals;
    }

    fn standing(&self, loaded: &Loaded, key: &ObjectKey, arrival: &Arrival) -> Standing {
        let known = self.known(loaded);
        let unseen = || Standing::Unseen { enrolled: known.is_enrolled(&key.namespace) };
        let Some(pod) = loaded.objects.pods.get(key) else { return unseen() };
        let uid = pod.uid().unwrap_or_default();
        if !arrival.is_of(uid) {
            return unseen();
        }
        match known.decide(key, pod, &arrival.attachment.addresses()) {
            Decision::Exclude(reason) => return Standing::Excluded(reason.label()),
            Decision::Wait(Reason::UnreadNamespace) => return unseen(),
            Decision::Capture { .. } | Decision::Wait(_) => {}
        }
        let pods = self.reports.latest().pods;
        match pods.iter().find(|report| !uid.is_empty() && report.uid == uid) {
            Some(report) if report.actual == Actual::Captured => Standing::Captured,
            Some(report) => Standing::Pending(report.error.clone()),
            // Not one of this node, as far as is known.
            None => unseen(),
        }
    }
}
