//! Events of pods in an API server, as `kubectl get events` shows them. They wait here, and a task of its own writes them,
//! no faster than a server that has many nodes to hear bears.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Events, PodEvent};

/// Events that wait: one for every pod of a large node. The oldest makes room.
const MOST_WAITING: usize = 512;
/// Events of which it is known how often they were written, at some 60 bytes each; then it is counted anew.
const MOST_COUNTED: usize = 1_024;
/// Pause between two, so that a node whose pods all have the same trouble leaves the server its time for others.
const PAUSE: Duration = Duration::from_millis(200);
/// For the answer to one.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Longest note, name and instance that the server takes, in bytes.
const MAX_NOTE: usize = 1_024;
const MAX_NAME: usize = 253;
const MAX_INSTANCE: usize = 128;
/// Who says it, among all that write Events.
const CONTROLLER: &str = "fairway.dev/cni-agent";

/// Writes Events in the API server.
#[derive(Debug)]
pub struct Announcer {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Said>,
    /// Events that had to make room since it was told last.
    lost: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    event: PodEvent,
    at: SystemTime,
}

/// Why an event could not be written.
#[derive(Debug)]
enum Failure {
    /// It may be possible later.
    Passing(String),
    /// It never will be.
    Final(String),
}

impl Announcer {
    /// Starts to write events of the pods of `node`, until the process ends. Must be called within a runtime.
    #[must_use]
    pub fn start(client: kube::Client, node: &str) -> Self {
        let shared = Arc::<Shared>::default();
        tokio::spawn(write(client, shorten(node, MAX_INSTANCE).to_owned(), Arc::clone(&shared)));
        Self { shared }
    }
}

impl Events for Announcer {
    fn say(&self, event: &PodEvent) {
        self.shared.queue().put(Said { event: event.clone(), at: SystemTime::now() });
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Takes what was said. Of what still waits and is the same but for its words, the newer stays.
    fn put(&mut self, said: Said) {
        let PodEvent { uid, reason, .. } = &said.event;
        self.waiting.retain(|other| other.event.uid != *uid || other.event.reason != *reason);
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.waiting.push_back(said);
    }

    /// Takes back what could not be written, unless something newer has taken its place.
    fn put_back(&mut self, said: Said) {
        let is_newer = |other: &Said| other.event.uid == said.event.uid && other.event.reason == said.event.reason;
        if self.waiting.len() < MOST_WAITING && !self.waiting.iter().any(is_newer) {
            self.waiting.push_front(said);
        }
    }
}

/// Writes what waits, for ever.
async fn write(client: kube::Client, node: String, shared: Arc<Shared>) {
    let mut counts = BTreeMap::new();
    let mut complaint = String::new();
    loop {
        let (next, lost) = {
            let mut queue = shared.queue();
            (queue.waiting.pop_front(), std::mem::take(&mut queue.lost))
        };
        if lost > 0 {
            tracing::warn!(lost, "more happens to pods than the API server can be told; /debug/events has the latest");
        }
        let Some(said) = next else {
            shared.changed.notified().await;
            continue;
        };
        let (pause, said_of_it) = match send(&client, &node, &said, &mut counts).await {
            Ok(()) => (PAUSE, String::new()),
            Err(Failure::Final(why)) => (PAUSE, why),
            Err(Failure::Passing(why)) => {
                shared.queue().put_back(said);
                (RETRY, why)
            }
        };
        if !said_of_it.is_empty() && said_of_it != complaint {
            tracing::warn!(error = said_of_it, "an Event cannot be written to the API server");
        }
        complaint = said_of_it;
        tokio::time::sleep(pause).await;
    }
}

/// Makes the Event, or counts it once more where it is already: its name is made of what it says, so that an agent that
/// starts again, and says everything again, adds none.
async fn send(
    client: &kube::Client,
    node: &str,
    said: &Said,
    counts: &mut BTreeMap<String, i32>,
) -> Result<(), Failure> {
    let name = name(&said.event);
    let collection = format!("/apis/events.k8s.io/v1/namespaces/{}/events", said.event.pod.namespace);
    let requests = Request::new(collection);
    if !counts.contains_key(&name) {
        let body = first(said, &name, node).to_string().into_bytes();
        match ask(client, requests.create(&PostParams::default(), body)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            made => {
                made.map_err(judge)?;
                remember(counts, name, 1);
                return Ok(());
            }
        }
    }
    let count = counts.get(&name).copied().unwrap_or(1).saturating_add(1);
    let patch = Patch::Merge(again(count, said.at));
    match ask(client, requests.patch(&name, &PatchParams::default(), &patch)).await {
        // The server keeps Events for an hour or so: this one is to be made anew.
        Err(kube::Error::Api(status)) if status.code == 404 => {
            counts.remove(&name);
            Err(Failure::Passing("it has just been forgotten there".to_owned()))
        }
        patched => {
            patched.map_err(judge)?;
            remember(counts, name, count);
            Ok(())
        }
    }
}

fn remember(counts: &mut BTreeMap<String, i32>, name: String, count: i32) {
    if counts.len() >= MOST_COUNTED {
        counts.clear();
    }
    counts.insert(name, count);
}

async fn ask(
    client: &kube::Client,
    request: Result<hyper::Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<(), kube::Error> {
    let asked = client.request_text(request.map_err(kube::Error::BuildRequest)?);
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map(drop),
        Err(late) => Err(kube::Error::Service(late.into())),
    }
}

fn judge(error: kube::Error) -> Failure {
    match &error {
        kube::Error::Api(status) if status.code == 429 || status.code >= 500 => Failure::Passing(error.to_string()),
        // No right to it, a namespace that ends or is gone, or something the server does not take.
        kube::Error::Api(_) | kube::Error::BuildRequest(_) => Failure::Final(error.to_string()),
        _ => Failure::Passing(error.to_string()),
    }
}

/// The same for the same words about the same pod.
fn name(event: &PodEvent) -> String {
    let mut hasher = DefaultHasher::new();
    (&event.uid, event.reason.label(), &event.message).hash(&mut hasher);
    let end = format!(".{:016x}", hasher.finish());
    let start = shorten(&event.pod.name, MAX_NAME - end.len()).trim_end_matches(['.', '-']);
    format!("{start}{end}")
}

/// The Event as it is made.
fn first(said: &Said, name: &str, node: &str) -> Value {
    let Said { event, at } = said;
    let (namespace, kind) = (&event.pod.namespace, if event.reason.is_warning() { "Warning" } else { "Normal" });
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "eventTime": time(*at),
        "type": kind, "reason": event.reason.label(), "action": "Capture",
        "note": shorten(&event.message, MAX_NOTE),
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": event.pod.name, "uid": event.uid},
        "reportingController": CONTROLLER, "reportingInstance": node,
    })
}

/// What changes about an Event when it is said again.
fn again(count: i32, at: SystemTime) -> Value {
    json!({"series": {"count": count, "lastObservedTime": time(at)}})
}

fn time(at: SystemTime) -> MicroTime {
    // A clock before year -9999 or after 9999 has no time to tell.
    MicroTime(Timestamp::try_from(at).unwrap_or_default())
}

/// The beginning of `text`, at most `most` bytes long.
fn shorten(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or(text)
}

#[cfg(test)]
mod tests;
