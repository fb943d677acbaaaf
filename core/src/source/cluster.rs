//! Kubernetes objects from the API server of a cluster.
//!
//! One [`reflector`] per kind lists and then watches; [`state`] puts together what they say; a task publishes it. While
//! the server is slow, gone or says what cannot be understood, the last state stays in force and [`Freshness`] tells
//! since when. Requests are our own on the client's connection, because an object that cannot be understood must not
//! hide the others of its page, and to know how fresh a watch is takes its bookmarks.

mod connect;
pub mod events;
mod reflector;
mod request;
mod state;
mod strip;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use kube::api::{ApiResource, GroupVersionKind};
use tokio::sync::{mpsc, watch};

pub use connect::{ConnectError, connect};
pub use request::{Resource, read_body};

use super::{Freshness, Kind, Loaded, Readings, Source, SourceError};
use reflector::{Pace, Reflector};
use state::State;

/// Changes read and not yet put together. A reflector that finds no room waits, and so does the server.
const CHANGES: usize = 256;
/// Time after a state was published in which further changes are gathered, and longest time of that: where changes do not stop,
/// every proxy is told of several at once. The first change after a silence goes at once.
const GATHER: Duration = Duration::from_millis(50);

/// How kube calls a kind, in the version that we write.
#[must_use]
pub fn api_resource(kind: Kind) -> ApiResource {
    let version = kind.versions().first().copied().unwrap_or("v1");
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(kind.group(), version, kind.as_str()), kind.plural())
}

/// Which objects of a kind are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The kind.
    pub kind: Kind,
    /// A field selector, such as `spec.nodeName=node-1`; empty for all.
    pub fields: String,
}

/// The API server of a cluster, as a source.
#[derive(Clone)]
pub struct Cluster {
    client: kube::Client,
    selections: Vec<Selection>,
    pace: Pace,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("selections", &self.selections).finish_non_exhaustive()
    }
}

impl Cluster {
    /// All objects of all kinds.
    #[must_use]
    pub fn new(client: kube::Client) -> Self {
        let all = Kind::ALL.map(|kind| Selection { kind, fields: String::new() });
        Self { client, selections: all.into(), pace: Pace::default() }
    }

    /// Only these kinds and objects.
    #[must_use]
    pub fn selecting(self, selections: Vec<Selection>) -> Self {
        Self { selections, ..self }
    }

    /// The pods of one node, and all namespaces: what an agent on the node needs.
    #[must_use]
    pub fn of_node(self, node: &str) -> Self {
        self.selecting(vec![
            Selection { kind: Kind::Namespace, fields: String::new() },
            Selection { kind: Kind::Pod, fields: format!("spec.nodeName={node}") },
        ])
    }

    /// Tries again this much sooner than in earnest, for tests: `divisor` divides all waiting.
    #[doc(hidden)]
    #[must_use]
    pub fn hurried(self, divisor: u32) -> Self {
        Self { pace: Pace::default().divided(divisor), ..self }
    }
}

/// What is remembered of the time before a restart says nothing new: the server has every object, and which version of
/// a policy was last good is for those to remember who understand it.
impl Source for Cluster {
    fn start(self: Box<Self>, _: &Loaded) -> Readings {
        let freshness = Freshness::default();
        let state = State::new(self.selections.iter().map(|selection| selection.kind));
        let (sender, loaded) = watch::channel(Arc::new(state.loaded()));
        let (changes, incoming) = mpsc::channel(CHANGES);
        for selection in self.selections {
            let reflector =
                Reflector::new(self.client.clone(), selection, self.pace.clone(), freshness.clone(), changes.clone());
            // Ends when nobody takes its changes any more.
            tokio::spawn(reflector.run());
        }
        tokio::spawn(publish(state, incoming, sender));
        Readings { loaded, freshness }
    }
}

/// Puts changes together and publishes the outcome, until nobody listens.
async fn publish(mut state: State, mut changes: mpsc::Receiver<state::Change>, sender: watch::Sender<Arc<Loaded>>) {
    let mut errors: Vec<SourceError> = Vec::new();
    loop {
        let first = tokio::select! {
            first = changes.recv() => first,
            () = sender.closed() => return,
        };
        let Some(first) = first else { return };
        let mut differs = state.apply(first);
        let gathered = tokio::time::sleep(GATHER);
        tokio::pin!(gathered);
        // The first change after a silence goes at once; more of them only while they are there already.
        while let Ok(next) = changes.try_recv() {
            differs |= state.apply(next);
            if gathered.is_elapsed() {
                break;
            }
        }
        if !differs {
            continue;
        }
        let loaded = state.loaded();
        // Of kinds that cannot be read the reflectors tell.
        for error in loaded.errors.iter().filter(|error| error.object.is_some() && !errors.contains(error)) {
            tracing::warn!(field = error.field, "object in error, its previous state is kept: {error}");
        }
        errors.clone_from(&loaded.errors);
        sender.send_replace(Arc::new(loaded));
        gathered.await;
    }
}
