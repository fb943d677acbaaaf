//! Pods that the runtime is starting: its calls wait here until the pod may run, or has kept it waiting too long.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fairway_core::limits;
use fairway_core::source::{ObjectKey, Objects};
use tokio::sync::oneshot;

use crate::event::{Answer, Attached, Attachment};
use crate::kernel::NamespaceId;
use crate::serve::Verdict;

/// What is known of an arriving pod besides the call itself.
pub(super) enum Standing {
    /// Our source does not have the pod, or still has an earlier one of its name.
    Unseen {
        /// Whether its namespace opts in.
        enrolled: bool,
    },
    /// It is not to be captured.
    Excluded(&'static str),
    /// It is captured.
    Captured,
    /// It is to be captured and is not, because of this.
    Pending(Option<String>),
}

/// What to answer now; nothing while it is worth waiting.
pub(super) fn verdict(standing: &Standing, waited: Duration) -> Option<Verdict> {
    let agreed = |captured, reason: &str| Some(Verdict::Agreed(Answer { captured, reason: reason.to_owned() }));
    let late = waited >= limits::CAPTURE_WAIT.duration();
    match standing {
        Standing::Captured => agreed(true, "captured"),
        Standing::Excluded(reason) => agreed(false, reason),
        // It may opt in by its own label; then it is captured as soon as it is seen.
        Standing::Unseen { enrolled: false } if waited >= limits::UNSEEN_POD_WAIT.duration() => agreed(false, "unseen"),
        Standing::Unseen { enrolled: true } if late => Some(Verdict::Refused(
            "its namespace is enrolled, and the agent does not see the pod yet; check the agent's connection to its source"
                .to_owned(),
        )),
        Standing::Pending(error) if late => {
            Some(Verdict::Refused(error.clone().unwrap_or_else(|| "it is not captured yet".to_owned())))
        }
        Standing::Unseen { .. } | Standing::Pending(_) => None,
    }
}

/// One sandbox as the runtime announced it.
pub(super) struct Arrival {
    pub(super) attachment: Attachment,
    /// The uid of its pod, as far as it is known.
    owner: Option<String>,
    since: Instant,
    waiting: Vec<oneshot::Sender<Verdict>>,
}

impl Arrival {
    /// Whether it is a sandbox of the pod `uid`.
    pub(super) fn is_of(&self, uid: &str) -> bool {
        self.owner.as_deref() == Some(uid)
    }
}

/// All of them, by pod. What is known of a sandbox stays until it ends.
#[derive(Default)]
pub(super) struct Arrivals {
    pods: BTreeMap<ObjectKey, Arrival>,
    /// Namespaces whose end was announced, by uid of the pod: the pod's object may say otherwise for a while.
    ended: BTreeMap<String, (ObjectKey, NamespaceId)>,
}

impl Arrivals {
    /// A sandbox is being started, perhaps again.
    pub(super) fn begin(
        &mut self,
        key: ObjectKey,
        attachment: Attachment,
        now: Instant,
        answer: oneshot::Sender<Verdict>,
    ) {
        // Not by the uid, which not every runtime tells; and the kernel uses the number of a namespace again at once.
        self.ended.retain(|_, (ended, _)| *ended != key);
        let mut waiting = vec![answer];
        if let Some(before) = self.pods.remove(&key)
            && before.attachment.netns == attachment.netns
        {
            // A retry: whoever still waits gets the same answer.
            waiting.extend(before.waiting.into_iter().filter(|answer| !answer.is_closed()));
        }
        let owner = Some(attachment.pod_uid.clone()).filter(|uid| !uid.is_empty());
        self.pods.insert(key, Arrival { attachment, owner, since: now, waiting });
    }

    /// Finds out whose the sandboxes are of which the runtime told no uid. No sandbox is made for a pod that was told to
    /// end: its name is another's by now, whose object has not come yet.
    pub(super) fn assign(&mut self, objects: &Objects) {
        for (key, arrival) in self.pods.iter_mut().filter(|(_, arrival)| arrival.attachment.pod_uid.is_empty()) {
            let pod = objects.pods.get(key);
            let pod = pod.filter(|pod| !pod.is_ending || arrival.owner.as_deref() == pod.uid());
            arrival.owner = pod.and_then(|pod| pod.uid()).map(ToOwned::to_owned);
        }
    }

    /// A sandbox ends; one that was replaced meanwhile changes nothing.
    pub(super) fn end(&mut self, key: &ObjectKey, container: &str) {
        if self.pods.get(key).is_some_and(|arrival| arrival.attachment.container_id == container) {
            self.pods.remove(key);
        }
    }

    /// Sandboxes of a network that its runtime does not list, with the uids of their pods as far as they are known. One that
    /// is being started is not among them: the list is older.
    pub(super) fn unlisted(&self, attached: &Attached) -> Vec<(ObjectKey, Option<String>, Attachment)> {
        let unlisted = self.pods.iter().filter(|(_, arrival)| {
            let Attachment { network, container_id, .. } = &arrival.attachment;
            let is_starting = arrival.waiting.iter().any(|answer| !answer.is_closed());
            !network.is_empty()
                && *network == attached.network
                && !attached.containers.contains(container_id)
                && !is_starting
        });
        unlisted.map(|(key, arrival)| (key.clone(), arrival.owner.clone(), arrival.attachment.clone())).collect()
    }

    /// The namespace of the pod `uid` is about to go, whatever the pod's object says.
    pub(super) fn bury(&mut self, key: ObjectKey, uid: &str, namespace: NamespaceId) {
        self.ended.insert(uid.to_owned(), (key, namespace));
    }

    /// Whether `namespace` is the one whose end was announced.
    pub(super) fn is_buried(&self, uid: &str, namespace: NamespaceId) -> bool {
        self.ended.get(uid).is_some_and(|(_, ended)| *ended == namespace)
    }

    /// What was announced of the pod `uid`.
    pub(super) fn of(&self, key: &ObjectKey, uid: &str) -> Option<&Attachment> {
        self.pods.get(key).filter(|arrival| arrival.is_of(uid)).map(|arrival| &arrival.attachment)
    }

    /// Whether a runtime waits to start the pod `uid`, which then has not run yet.
    pub(super) fn is_awaited(&self, key: &ObjectKey, uid: &str) -> bool {
        self.of(key, uid).is_some() && self.pods.get(key).is_some_and(|arrival| !arrival.waiting.is_empty())
    }

    /// The addresses it was given.
    pub(super) fn addresses(&self, key: &ObjectKey, uid: &str) -> Vec<IpAddr> {
        self.of(key, uid).map(Attachment::addresses).unwrap_or_default()
    }

    /// Files that may stand for its namespace: as this agent sees the node's, and as the node itself does.
    pub(super) fn paths(&self, key: &ObjectKey, uid: &str, host_mounts: &Path) -> Vec<PathBuf> {
        let Some(attachment) = self.of(key, uid).filter(|attachment| !attachment.netns.is_empty()) else {
            return Vec::new();
        };
        let path = Path::new(&attachment.netns);
        vec![host_mounts.join(path.strip_prefix("/").unwrap_or(path)), path.to_owned()]
    }

    /// Answers whoever has waited long enough or has no need to.
    pub(super) fn answer(&mut self, now: Instant, standing: impl Fn(&ObjectKey, &Arrival) -> Standing) {
        for (key, arrival) in &mut self.pods {
            arrival.waiting.retain(|answer| !answer.is_closed());
            if arrival.waiting.is_empty() {
                continue;
            }
            let standing = standing(key, arrival);
            let Some(verdict) = verdict(&standing, now.saturating_duration_since(arrival.since)) else { continue };
            if let Verdict::Refused(reason) = &verdict {
                tracing::warn!(pod = %key, reason, "the pod may not start yet");
            }
            for answer in arrival.waiting.drain(..) {
                // Nobody waits any more: fine.
                let _ = answer.send(verdict.clone());
            }
        }
    }

    /// When the next one has waited long enough for another answer.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let waits = [limits::UNSEEN_POD_WAIT.duration(), limits::CAPTURE_WAIT.duration()];
        let waiting = self.pods.values().filter(|arrival| !arrival.waiting.is_empty());
        waiting.flat_map(|arrival| waits.map(|wait| arrival.since + wait)).filter(|time| *time > now).min()
    }

    /// Forgets what `lives` says no to and nobody waits for, and the ends of pods that are not there any more.
    pub(super) fn forget(&mut self, lives: impl Fn(&ObjectKey) -> bool, has_pod: impl Fn(&str) -> bool) {
        self.pods.retain(|key, arrival| !arrival.waiting.is_empty() || lives(key));
        self.ended.retain(|uid, _| has_pod(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let (unseen, late) = (limits::UNSEEN_POD_WAIT.duration(), limits::CAPTURE_WAIT.duration());
        let moment = Duration::from_millis(1);
        // standing, waited, answer: nothing, yes or no
        let rows = [
            (Standing::Captured, Duration::ZERO, Some(true)),
            (Standing::Excluded("not_labelled"), Duration::ZERO, Some(true)),
            (Standing::Pending(None), late - moment, None),
            (Standing::Pending(None), late, Some(false)),
            (Standing::Unseen { enrolled: false }, unseen - moment, None),
            (Standing::Unseen { enrolled: false }, unseen, Some(true)),
            (Standing::Unseen { enrolled: true }, unseen, None),
            (Standing::Unseen { enrolled: true }, late, Some(false)),
        ];
        for (number, (standing, waited, wanted)) in rows.into_iter().enumerate() {
            let agreed = verdict(&standing, waited).map(|verdict| matches!(verdict, Verdict::Agreed(_)));
            assert_eq!(agreed, wanted, "row {number}");
        }
    }

    #[test]
    fn the_end_of_a_sandbox_that_was_replaced_changes_nothing() {
        let key = ObjectKey::pod("shop", "web");
        let attachment = |container: &str| Attachment {
            container_id: container.to_owned(),
            pod_uid: "u".to_owned(),
            netns: format!("/n/{container}"),
            ..Attachment::default()
        };
        let mut arrivals = Arrivals::default();
        let now = Instant::now();
        let (first, _) = oneshot::channel();
        let (second, mut waiting) = oneshot::channel();
        arrivals.begin(key.clone(), attachment("one"), now, first);
        arrivals.begin(key.clone(), attachment("two"), now, second);
        arrivals.end(&key, "one");
        assert_eq!(arrivals.paths(&key, "u", Path::new("/host")), [Path::new("/host/n/two"), Path::new("/n/two")]);
        arrivals.answer(now, |_, _| Standing::Captured);
        assert!(waiting.try_recv().is_ok());
        arrivals.end(&key, "two");
        arrivals.end(&key, "two");
        assert_eq!(arrivals.of(&key, "u"), None);
    }

    #[test]
    fn a_sandbox_that_begins_in_the_number_of_an_ended_one_is_not_buried() {
        let (key, other) = (ObjectKey::pod("shop", "web"), ObjectKey::pod("shop", "other"));
        let mut arrivals = Arrivals::default();
        arrivals.bury(key.clone(), "u", (1, 7));
        assert!(arrivals.is_buried("u", (1, 7)) && !arrivals.is_buried("u", (1, 8)));
        let begin = |arrivals: &mut Arrivals, key| {
            let (answer, _) = oneshot::channel();
            arrivals.begin(key, Attachment::default(), Instant::now(), answer);
        };
        begin(&mut arrivals, other);
        assert!(arrivals.is_buried("u", (1, 7)), "it was another pod that began");
        begin(&mut arrivals, key);
        assert!(!arrivals.is_buried("u", (1, 7)));
    }
}
