//! Publishes snapshots and per-pod views; only those whose view changed are woken.
//!
//! Order matters twice. A batch is visible in [`Live::snapshot`] before any view of it wakes somebody, so whoever is
//! woken plans with a snapshot at least as new. And subscribing takes the writer's lock, so a subscriber either reads
//! a batch as its first view or is woken by it: none falls in between.
//!
//! What arrives in pages is staged and published once ([`Live::stage`], [`Live::publish`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::xds::Demand;
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
    demand: Option<Demand>,
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
    /// An empty world that will hold all there is.
    #[must_use]
    pub fn new() -> Self {
        Self::with(None)
    }

    /// An empty world that will hold what is asked for, and what the control plane volunteers.
    #[must_use]
    pub fn on_demand() -> Self {
        Self::with(Some(Demand::default()))
    }

    fn with(demand: Option<Demand>) -> Self {
        let world = World::new();
        let snapshot = world.snapshot();
        Self {
            shared: Arc::new(Shared {
                version: watch::Sender::new(snapshot.version()),
                current: ArcSwap::new(snapshot),
                writer: Mutex::new(Writer { world, views: HashMap::new(), layers: None }),
                demand,
            }),
        }
    }

    /// The world as of the last batch. Take it once for a whole decision.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.current.load_full()
    }

    /// Where to ask for what is missing; none when the world holds all there is.
    #[must_use]
    pub fn demand(&self) -> Option<&Demand> {
        self.shared.demand.as_ref()
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

    /// Takes in one update of the control plane, which nobody sees until the next publication.
    pub fn stage(&self, update: Update) {
        stage(&mut self.writer(), update);
    }

    /// Forgets what was staged since the last publication.
    pub fn discard(&self) {
        let mut writer = self.writer();
        writer.world.discard();
        if let Some(layers) = &mut writer.layers {
            layers.discard();
        }
    }

    /// Applies a batch of the control plane after what was staged, and publishes the result. Blocks for as long as that
    /// takes: call it off the data path.
    pub fn apply(&self, batch: Vec<Update>) -> Arc<Snapshot> {
        let mut writer = self.writer();
        for update in batch {
            stage(&mut writer, update);
        }
        self.publish_from(&mut writer)
    }

    /// Publishes what was staged. Blocks as [`Live::apply`] does.
    pub fn publish(&self) -> Arc<Snapshot> {
        self.publish_from(&mut self.writer())
    }

    /// Replaces all that the local file has given by what it says now, and publishes the result. What the control plane
    /// has given under the same name stays. Blocks like [`Live::apply`].
    pub fn apply_file(&self, file: Vec<Update>) -> Arc<Snapshot> {
        let mut writer = self.writer();
        // What is staged is the control plane's, too.
        self.publish_from(&mut writer);
        let mut layers = writer.layers.take().unwrap_or_else(|| Layers::over(&writer.world.snapshot()));
        for update in layers.local(file) {
            writer.world.stage(update);
        }
        writer.layers = Some(layers);
        self.publish_from(&mut writer)
    }

    fn publish_from(&self, writer: &mut Writer) -> Arc<Snapshot> {
        if let Some(layers) = &mut writer.layers {
            layers.keep();
        }
        let before = writer.world.snapshot();
        let snapshot = writer.world.publish();
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

fn stage(writer: &mut Writer, update: Update) {
    let update = match &mut writer.layers {
        Some(layers) => layers.remote(update),
        None => update,
    };
    writer.world.stage(update);
}

#[cfg(test)]
mod tests;
