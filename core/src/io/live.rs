//! Publishes snapshots and per-pod views; only those whose view changed are woken.
//!
//! Order matters twice. A batch is visible in [`Live::snapshot`] before any view of it wakes somebody, so whoever is
//! woken plans with a snapshot at least as new. And subscribing takes the writer's lock, so a subscriber either reads
//! a batch as its first view or is woken by it: none falls in between.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::snapshot::{Layers, PodRef, Snapshot, Update, World};
use crate::view::PodView;

/// The current world. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Live {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    current: ArcSwap<Snapshot>,
    version: watch::Sender<u64>,
    writer: Mutex<Writer>,
}

#[derive(Debug)]
struct Writer {
    world: World,
    views: HashMap<PodRef, watch::Sender<Arc<PodView>>>,
    /// Only where a local file is a second source.
    layers: Option<Layers>,
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}

impl Live {
    /// An empty world.
    #[must_use]
    pub fn new() -> Self {
        let world = World::new();
        let snapshot = world.snapshot();
        Self {
            shared: Arc::new(Shared {
                version: watch::Sender::new(snapshot.version()),
                current: ArcSwap::new(snapshot),
                writer: Mutex::new(Writer { world, views: HashMap::new(), layers: None }),
            }),
        }
    }

    /// The world as of the last batch. Take it once for a whole decision.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.current.load_full()
    }

    /// Follows the snapshot's version.
    #[must_use]
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// Follows what decides for one pod. The receiver's first value is current and counts as seen.
    #[must_use]
    pub fn subscribe(&self, pod: &PodRef) -> watch::Receiver<Arc<PodView>> {
        let mut writer = self.writer();
        if let Some(view) = writer.views.get(pod) {
            return view.subscribe();
        }
        let view = watch::Sender::new(Arc::new(writer.world.snapshot().view(pod)));
        let receiver = view.subscribe();
        writer.views.insert(pod.clone(), view);
        receiver
    }

    /// Applies a batch of the control plane and publishes the result. Blocks for as long as that takes: call it off the
    /// data path.
    pub fn apply(&self, batch: Vec<Update>) -> Arc<Snapshot> {
        let mut writer = self.writer();
        let batch = match &mut writer.layers {
            Some(layers) => layers.remote(batch),
            None => batch,
        };
        self.publish(&mut writer, batch)
    }

    /// Replaces all that the local file has given by what it says now, and publishes the result. What the control plane
    /// has given under the same name stays. Blocks like [`Live::apply`].
    pub fn apply_file(&self, file: Vec<Update>) -> Arc<Snapshot> {
        let mut writer = self.writer();
        let mut layers = writer.layers.take().unwrap_or_else(|| Layers::over(&writer.world.snapshot()));
        let batch = layers.local(file);
        writer.layers = Some(layers);
        self.publish(&mut writer, batch)
    }

    fn publish(&self, writer: &mut Writer, batch: Vec<Update>) -> Arc<Snapshot> {
        let before = writer.world.snapshot();
        let snapshot = writer.world.apply(batch);
        // Views nobody follows are dropped even when nothing changed, so that deleted pods do not pile up.
        writer.views.retain(|_, view| view.receiver_count() > 0);
        if Arc::ptr_eq(&before, &snapshot) {
            return snapshot;
        }
        self.shared.current.store(Arc::clone(&snapshot));
        for (pod, view) in &writer.views {
            let next = snapshot.view(pod);
            view.send_if_modified(|current| {
                let changed = **current != next;
                if changed {
                    *current = Arc::new(next);
                }
                changed
            });
        }
        self.shared.version.send_replace(snapshot.version());
        snapshot
    }

    /// How many pods' views are kept.
    #[must_use]
    pub fn views(&self) -> usize {
        self.writer().views.len()
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
