//! Annotations of pods in an API server: what is wanted is compared with what the server shows, and patched until it is so.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fairway_core::source::{Loaded, MeshPod, ObjectKey};
use futures_util::stream::{self, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, watch};

use super::NoticeError;
use crate::enroll::{NOT_CAPTURED, REDIRECTION};

/// Annotations that are ours.
const OURS: [&str; 2] = [REDIRECTION, NOT_CAPTURED];
/// What an agent says in the first of them; anything else there is a user's.
const REDIRECTIONS: [&str; 2] = ["enabled", "pending"];
/// Patches under way at once: a node that restarts has hundreds of pods, and its neighbours do so, too.
const PATCHES: usize = 4;
/// For the answer to one.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How long the server may take to show what was patched before it is patched again; somebody may have changed it back.
const ECHO: Duration = Duration::from_secs(10);
/// For all to be shown when the agent waits for it.
const SETTLING: Duration = Duration::from_secs(30);

/// The annotations of the node's pods.
#[derive(Clone)]
pub struct Marks {
    source: watch::Receiver<Arc<Loaded>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    wanted: BTreeMap<ObjectKey, Mark>,
    /// Why the last attempt failed.
    failed: BTreeMap<ObjectKey, String>,
}

/// What is to be said of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    /// Which of all pods that ever had this name.
    uid: String,
    annotations: BTreeMap<&'static str, String>,
}

/// A patch to send.
struct Due {
    key: ObjectKey,
    mark: Mark,
    patch: Value,
}

impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marks").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Marks {
    /// Starts to write annotations of the pods in `source`, until nobody reads that any more. Must be called within a
    /// runtime.
    #[must_use]
    pub fn start(client: kube::Client, source: watch::Receiver<Arc<Loaded>>) -> Self {
        let marks = Self { source: source.clone(), shared: Arc::default() };
        tokio::spawn(keep(client, source, Arc::clone(&marks.shared)));
        marks
    }

    /// Marks that nobody sends.
    #[cfg(test)]
    pub(crate) fn unsent(source: watch::Receiver<Arc<Loaded>>) -> Self {
        Self { source, shared: Arc::default() }
    }

    pub(super) fn write(&self, key: &ObjectKey, uid: &str, partial: &Value) -> Result<(), NoticeError> {
        let said = |name: &'static str| {
            let value = partial.get("metadata")?.get("annotations")?.get(name)?.as_str()?;
            Some((name, value.to_owned()))
        };
        let is_new = self.want(key, Some(uid), OURS.into_iter().filter_map(said).collect());
        match self.shared.state().failed.get(key).filter(|_| !is_new) {
            Some(error) => Err(NoticeError::Server { pod: key.clone(), error: error.clone() }),
            None => Ok(()),
        }
    }

    pub(super) fn remove(&self, key: &ObjectKey, uid: Option<&str>) {
        self.want(key, uid, BTreeMap::new());
    }

    /// Whether that was not wanted before.
    fn want(&self, key: &ObjectKey, uid: Option<&str>, annotations: BTreeMap<&'static str, String>) -> bool {
        let loaded = self.source.borrow();
        let present = loaded.objects.pods.get(key).and_then(|pod| pod.uid());
        let mut state = self.shared.state();
        // Of a pod that is gone there is nothing to say, and nothing left of what was said.
        let Some(present) = present else { return state.wanted.remove(key).is_some() };
        // Another pod has its name by now: whoever decided on the first has not heard of it yet.
        if uid.is_some_and(|uid| uid != present) {
            return false;
        }
        let mark = Mark { uid: present.to_owned(), annotations };
        if state.wanted.get(key) == Some(&mark) {
            return false;
        }
        state.wanted.insert(key.clone(), mark);
        drop(state);
        self.shared.changed.notify_one();
        true
    }

    pub(super) fn has(&self, key: &ObjectKey) -> bool {
        if let Some(mark) = self.shared.state().wanted.get(key) {
            return !mark.annotations.is_empty();
        }
        self.source.borrow().objects.pods.get(key).is_some_and(|pod| OURS.iter().any(|name| shown(pod, name).is_some()))
    }

    pub(super) fn owned(&self) -> Vec<ObjectKey> {
        let keys: Vec<ObjectKey> = self.source.borrow().objects.pods.keys().cloned().collect();
        keys.into_iter().filter(|key| self.has(key)).collect()
    }

    pub(super) async fn settle(&self) -> Result<(), NoticeError> {
        let mut source = self.source.clone();
        let is_shown = |loaded: &Arc<Loaded>| self.shared.state().due(loaded).is_empty();
        let waited = tokio::time::timeout(SETTLING, source.wait_for(is_shown)).await;
        // Without a source nothing can be shown either.
        if matches!(waited, Ok(Ok(_))) {
            return Ok(());
        }
        // The source before the state, as everywhere: whoever waits for one while it holds the other would hold up all.
        let loaded = self.source.borrow();
        let due = self.shared.state().due(&loaded);
        let left: Vec<String> = due.iter().map(|due| due.key.to_string()).collect();
        Err(NoticeError::Unsettled(left.join(", ")))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets pods that are gone.
    fn prune(&mut self, loaded: &Loaded) {
        let uid = |key: &ObjectKey| loaded.objects.pods.get(key).and_then(|pod| pod.uid());
        self.wanted.retain(|key, mark| uid(key) == Some(mark.uid.as_str()));
        self.failed.retain(|key, _| self.wanted.contains_key(key));
    }

    /// What the server does not show yet.
    fn due(&self, loaded: &Loaded) -> Vec<Due> {
        let due = |(key, mark): (&ObjectKey, &Mark)| {
            let patch = patch(loaded.objects.pods.get(key)?, mark)?;
            Some(Due { key: key.clone(), mark: mark.clone(), patch })
        };
        self.wanted.iter().filter_map(due).collect()
    }
}

/// One of our annotations as the server shows it.
fn shown<'a>(pod: &'a MeshPod, name: &str) -> Option<&'a str> {
    pod.annotation(name).filter(|value| name != REDIRECTION || REDIRECTIONS.contains(value))
}

/// What makes the pod say what is wanted; nothing when it does, or is another pod.
fn patch(pod: &MeshPod, mark: &Mark) -> Option<Value> {
    if pod.uid() != Some(mark.uid.as_str()) {
        return None;
    }
    let mut annotations = Map::new();
    for name in OURS {
        let wanted = mark.annotations.get(name).map(String::as_str);
        if wanted != shown(pod, name) {
            annotations.insert(name.to_owned(), json!(wanted));
        }
    }
    // The server refuses a patch with the uid of another pod.
    (!annotations.is_empty()).then(|| json!({"metadata": {"uid": mark.uid, "annotations": annotations}}))
}

/// Patches what differs, for ever.
async fn keep(client: kube::Client, mut source: watch::Receiver<Arc<Loaded>>, shared: Arc<Shared>) {
    let mut sent: BTreeMap<ObjectKey, (Mark, Instant)> = BTreeMap::new();
    loop {
        let loaded = Arc::clone(&source.borrow_and_update());
        let mut due = {
            let mut state = shared.state();
            if !loaded.is_never_read() {
                state.prune(&loaded);
            }
            state.due(&loaded)
        };
        sent.retain(|_, (_, at)| at.elapsed() < ECHO);
        due.retain(|due| sent.get(&due.key).is_none_or(|(mark, _)| *mark != due.mark));
        let client = &client;
        let patched = stream::iter(due).map(|due| async move {
            let result = send(client, &due).await;
            (due, result)
        });
        let results: Vec<_> = patched.buffer_unordered(PATCHES).collect().await;
        let mut is_behind = false;
        for (due, result) in results {
            let mut state = shared.state();
            match result {
                Ok(()) => {
                    state.failed.remove(&due.key);
                    sent.insert(due.key, (due.mark, Instant::now()));
                }
                Err(error) => {
                    is_behind = true;
                    if state.failed.get(&due.key) != Some(&error) {
                        tracing::warn!(pod = %due.key, error, "a pod's annotations cannot be written; trying again");
                    }
                    state.failed.insert(due.key, error);
                }
            }
        }
        tokio::select! {
            () = shared.changed.notified() => {}
            changed = source.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(if is_behind { RETRY } else { ECHO }) => {}
        }
    }
}

async fn send(client: &kube::Client, due: &Due) -> Result<(), String> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &due.key.namespace);
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(&due.patch));
    // By way of the status, which takes the least rights: nothing of the pod's specification can be changed there.
    let patched = api.patch_status(&due.key.name, &parameters, &patch);
    match tokio::time::timeout(PATIENCE, patched).await {
        Ok(Ok(_)) => Ok(()),
        // The pod is gone, or another one has its name.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the API server did not answer within {PATIENCE:?}")),
    }
}

#[cfg(test)]
mod tests;
