//! Hands captured pods' namespaces to the node proxies over the node socket (interoperability notes §5).
//!
//! The agent listens, proxies connect: during an upgrade two of them at once. Each gets all pods as a snapshot first;
//! afterwards additions go to the newest one, removals to all. Nothing here waits for a proxy: what a proxy answered
//! is looked up with [`Handoff::answer`], and [`Handoff::changes`] says when to look again.

mod connection;
mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fairway_proto::zds;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::kernel::Namespace;
pub use connection::HandoffError;
use socket::Listener;

/// Longest time one message may take to be taken or answered; both sides of the protocol use it.
pub const DEADLINE: Duration = fairway_core::limits::ZDS_ACKNOWLEDGE_TIMEOUT.duration();
/// Requests that may wait for one proxy: every pod of a large node starting at once, twice over. A proxy that is further
/// behind is disconnected: it comes back for a snapshot.
pub const MAX_QUEUED: usize = 1_024;
/// Proxies that may be connected at once: an upgrade needs two.
pub const MAX_PROXIES: usize = 16;
/// Pause between two accepted connections, so that a proxy that fails at once does not keep the agent busy.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A captured pod as a proxy needs to know it.
#[derive(Clone, Debug)]
pub struct HandedPod {
    /// Kubernetes uid.
    pub uid: String,
    /// Pod name.
    pub name: String,
    /// Pod namespace.
    pub namespace: String,
    /// Service account it runs as.
    pub service_account: String,
    /// Its network namespace.
    pub network: Namespace,
}

impl HandedPod {
    fn payload(&self) -> zds::workload_request::Payload {
        let workload_info = Some(zds::WorkloadInfo {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
        });
        zds::workload_request::Payload::Add(zds::AddWorkload { uid: self.uid.clone(), workload_info })
    }
}

/// What the newest proxy said of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No proxy is connected.
    NoProxy,
    /// It has not answered yet.
    Waiting,
    /// It serves the pod.
    Accepted,
    /// It could not start serving the pod, and why.
    Refused(String),
}

enum Command {
    Add(Arc<HandedPod>),
    Delete(String),
    Flush(oneshot::Sender<()>),
}

/// The agent's side of the node socket. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub struct Handoff {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    pods: BTreeMap<String, Arc<HandedPod>>,
    /// Pods that cannot be handed over, and are not to be taken from a proxy that has them.
    kept: BTreeSet<String>,
    /// In the order they said hello; the last one is the newest.
    proxies: Vec<Proxy>,
    next: u64,
}

struct Proxy {
    id: u64,
    queue: mpsc::Sender<Command>,
    /// Cancelled when the queue overflowed.
    overflow: CancellationToken,
    answers: BTreeMap<String, Result<(), String>>,
}

/// What a connection needs once its proxy is known.
struct Joined {
    id: u64,
    /// What there was at that moment; what came later is among the requests.
    snapshot: Snapshot,
    requests: mpsc::Receiver<Command>,
    overflow: CancellationToken,
}

/// What a proxy is to have once it is in step; it lets go of everything else.
struct Snapshot {
    pods: Vec<Arc<HandedPod>>,
    kept: Vec<String>,
}

impl Default for Handoff {
    fn default() -> Self {
        Self::new()
    }
}

impl Handoff {
    /// No pods, no proxies.
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::default(), changes: watch::Sender::new(0) }) }
    }

    /// Serves proxies that connect to `path` until dropped.
    ///
    /// # Errors
    /// When the socket cannot be made; afterwards failures only end single connections.
    pub async fn serve(&self, path: &Path) -> Result<(), HandoffError> {
        let listener = Listener::bind(path)?;
        tracing::info!(path = %path.display(), "waiting for node proxies");
        self.accept(&listener).await
    }

    async fn accept(&self, listener: &Listener) -> Result<(), HandoffError> {
        // Dropping the set ends every connection.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(socket) if connections.len() < MAX_PROXIES => {
                        let handoff = self.clone();
                        connections.spawn(async move { connection::run(&handoff, socket).await });
                    }
                    Ok(_) => tracing::warn!(limit = MAX_PROXIES, "too many node proxies are connected; this one is turned away"),
                    Err(error) => tracing::warn!(%error, "cannot accept a node proxy; check the file descriptor limit"),
                },
                Some(_) = connections.join_next() => continue,
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    /// Hands `pod` to the newest proxy now and to every later one. The same pod again is handed again.
    pub fn add(&self, pod: HandedPod) {
        let pod = Arc::new(pod);
        self.change(|state| {
            state.kept.remove(&pod.uid);
            state.pods.insert(pod.uid.clone(), Arc::clone(&pod));
            for proxy in &mut state.proxies {
                proxy.answers.remove(&pod.uid);
            }
            if let Some(newest) = state.proxies.last_mut() {
                newest.send(Command::Add(pod));
            }
        });
    }

    /// Hands a pod that was refused to the newest proxy again.
    pub fn retry(&self, uid: &str) {
        let pod = self.state().pods.get(uid).cloned();
        if let Some(pod) = pod {
            self.add(HandedPod::clone(&pod));
        }
    }

    /// Leaves a pod whose namespace is not known with the proxy that has it: an agent before this one has handed it over.
    /// Every snapshot from now on says so (`KeepWorkload`, §5.3); between snapshots there is nothing to say, as proxies hold
    /// on to what they have.
    pub fn keep(&self, uid: &str) {
        let mut state = self.state();
        if !state.pods.contains_key(uid) && !state.kept.contains(uid) {
            state.kept.insert(uid.to_owned());
        }
    }

    /// Takes a pod back from all proxies; an unknown one is fine.
    pub fn remove(&self, uid: &str) {
        let is_known = |state: &State| state.pods.contains_key(uid) || state.kept.contains(uid);
        if !is_known(&self.state()) {
            return;
        }
        self.change(|state| {
            state.pods.remove(uid);
            state.kept.remove(uid);
            for proxy in &mut state.proxies {
                proxy.answers.remove(uid);
                proxy.send(Command::Delete(uid.to_owned()));
            }
        });
    }

    /// What the newest proxy said of a pod.
    #[must_use]
    pub fn answer(&self, uid: &str) -> Answer {
        let state = self.state();
        let Some(newest) = state.proxies.last() else { return Answer::NoProxy };
        match newest.answers.get(uid) {
            None => Answer::Waiting,
            Some(Ok(())) => Answer::Accepted,
            Some(Err(error)) => Answer::Refused(error.clone()),
        }
    }

    /// How many proxies have said hello and are connected.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.state().proxies.len()
    }

    /// Ticks whenever an answer or the set of proxies changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Waits until every proxy has answered what was sent so far, or is gone; at most [`DEADLINE`].
    pub async fn flush(&self) {
        let waits: Vec<_> = self
            .state()
            .proxies
            .iter()
            .filter_map(|proxy| {
                let (done, wait) = oneshot::channel();
                proxy.queue.try_send(Command::Flush(done)).is_ok().then_some(wait)
            })
            .collect();
        let all = async {
            for wait in waits {
                let _ = wait.await;
            }
        };
        let _ = tokio::time::timeout(DEADLINE, all).await;
    }

    /// A proxy said hello: from now on it is the newest.
    fn join(&self) -> Joined {
        let (queue, requests) = mpsc::channel(MAX_QUEUED);
        let overflow = CancellationToken::new();
        self.change(|state| {
            state.next += 1;
            let id = state.next;
            state.proxies.push(Proxy { id, queue, overflow: overflow.clone(), answers: BTreeMap::new() });
            let snapshot =
                Snapshot { pods: state.pods.values().cloned().collect(), kept: state.kept.iter().cloned().collect() };
            Joined { id, snapshot, requests, overflow }
        })
    }

    /// A proxy is gone. What only it was told goes to the one that is the newest now.
    fn leave(&self, id: u64) {
        self.change(|state| {
            let State { pods, proxies, .. } = state;
            let was_newest = proxies.last().is_some_and(|proxy| proxy.id == id);
            proxies.retain(|proxy| proxy.id != id);
            let Some(newest) = proxies.last().filter(|_| was_newest) else { return };
            for pod in pods.values().filter(|pod| !newest.answers.contains_key(&pod.uid)) {
                newest.send(Command::Add(Arc::clone(pod)));
            }
        });
    }

    /// What a proxy said of `pod`. One that was taken back meanwhile has a removal in the queue, and one that was handed
    /// anew, perhaps in another sandbox, has not been answered for yet.
    fn record(&self, id: u64, pod: &Arc<HandedPod>, answer: Result<(), String>) {
        self.change(|state| {
            if state.pods.get(&pod.uid).is_some_and(|present| Arc::ptr_eq(present, pod))
                && let Some(proxy) = state.proxies.iter_mut().find(|proxy| proxy.id == id)
            {
                proxy.answers.insert(pod.uid.clone(), answer);
            }
        });
    }

    fn change<T>(&self, action: impl FnOnce(&mut State) -> T) -> T {
        let result = action(&mut self.state());
        self.shared.changes.send_modify(|count| *count = count.wrapping_add(1));
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod client;
#[cfg(test)]
mod tests;
