//! Events in an API server, as `kubectl get events` shows them. They wait here, and a task of its own writes them, no faster
//! than a server that has many to hear bears.

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

use super::super::ObjectKey;

/// Events that wait: one for every pod of a large node, or for every tenth service of a large mesh. The oldest makes room.
const MOST_WAITING: usize = 512;
/// Events of which it is known how often they were written, at some 60 bytes each; then it is counted anew.
const MOST_COUNTED: usize = 1_024;
/// Pause between two, so that who has much of the same trouble leaves the server its time for others.
const PAUSE: Duration = Duration::from_millis(200);
/// For the answer to one.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Longest note, name and instance that the server takes, in bytes.
const MAX_NOTE: usize = 1_024;
const MAX_NAME: usize = 253;
const MAX_INSTANCE: usize = 128;

/// What is to be told of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The object, which is in a namespace.
    pub about: ObjectKey,
    /// Its uid; empty when it is not known.
    pub uid: String,
    /// One word.
    pub reason: &'static str,
    /// What was tried, one word.
    pub action: &'static str,
    /// Whether its owner has to do something.
    pub is_warning: bool,
    /// Why, and what to do.
    pub message: String,
}

/// Who says it: the name among all that write Events, and the instance.
#[derive(Clone, Debug)]
struct Speaker {
    controller: &'static str,
    instance: String,
}

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
    event: Event,
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
    /// Starts to write events in the name of this instance of `controller`, until the process ends. Must be called within a
    /// runtime.
    #[must_use]
    pub fn start(client: kube::Client, controller: &'static str, instance: &str) -> Self {
        let shared = Arc::<Shared>::default();
        let speaker = Speaker { controller, instance: shorten(instance, MAX_INSTANCE).to_owned() };
        tokio::spawn(write(client, speaker, Arc::clone(&shared)));
        Self { shared }
    }

    /// Takes an event, which is written in a while. The same words about the same object are one Event, counted.
    pub fn say(&self, event: Event) {
        self.shared.queue().put(Said { event, at: SystemTime::now() });
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Said {
    /// Whether it is the same but for its words.
    fn is_about(&self, other: &Self) -> bool {
        let (this, other) = (&self.event, &other.event);
        (&this.uid, &this.about, this.reason) == (&other.uid, &other.about, other.reason)
    }
}

impl Queue {
    /// Takes what was said. Of what still waits and is the same but for its words, the newer stays.
    fn put(&mut self, said: Said) {
        self.waiting.retain(|other| !other.is_about(&said));
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.waiting.push_back(said);
    }

    /// Takes back what could not be written, unless something newer has taken its place.
    fn put_back(&mut self, said: Said) {
        if self.waiting.len() < MOST_WAITING && !self.waiting.iter().any(|other| other.is_about(&said)) {
            self.waiting.push_front(said);
        }
    }
}

/// Writes what waits, for ever.
async fn write(client: kube::Client, speaker: Speaker, shared: Arc<Shared>) {
    let mut counts = BTreeMap::new();
    let mut complaint = String::new();
    loop {
        let (next, lost) = {
            let mut queue = shared.queue();
            (queue.waiting.pop_front(), std::mem::take(&mut queue.lost))
        };
        if lost > 0 {
            tracing::warn!(lost, "more happens than the API server can be told in Events");
        }
        let Some(said) = next else {
            shared.changed.notified().await;
            continue;
        };
        let (pause, said_of_it) = match send(&client, &speaker, &said, &mut counts).await {
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

/// Makes the Event, or counts it once more where it is already: its name is made of what it says, so that who starts again,
/// and says everything again, adds none.
async fn send(
    client: &kube::Client,
    speaker: &Speaker,
    said: &Said,
    counts: &mut BTreeMap<String, i32>,
) -> Result<(), Failure> {
    let name = name(&said.event);
    let collection = format!("/apis/events.k8s.io/v1/namespaces/{}/events", said.event.about.namespace);
    let requests = Request::new(collection);
    if !counts.contains_key(&name) {
        let body = first(said, &name, speaker).to_string().into_bytes();
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
    request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
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

/// The same for the same words about the same object.
fn name(event: &Event) -> String {
    let mut hasher = DefaultHasher::new();
    (&event.uid, event.about.kind.as_str(), event.reason, &event.message).hash(&mut hasher);
    let end = format!(".{:016x}", hasher.finish());
    let start = shorten(&event.about.name, MAX_NAME - end.len()).trim_end_matches(['.', '-']);
    format!("{start}{end}")
}

/// The Event as it is made.
fn first(said: &Said, name: &str, speaker: &Speaker) -> Value {
    let Said { event, at } = said;
    let (namespace, about) = (&event.about.namespace, &event.about);
    let kind = if event.is_warning { "Warning" } else { "Normal" };
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "eventTime": time(*at),
        "type": kind, "reason": event.reason, "action": event.action,
        "note": shorten(&event.message, MAX_NOTE),
        "regarding": {
            "apiVersion": about.kind.api_version(), "kind": about.kind.as_str(), "namespace": namespace, "name": about.name,
            "uid": event.uid,
        },
        "reportingController": speaker.controller, "reportingInstance": speaker.instance,
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
