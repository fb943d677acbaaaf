//! What the manifests said last, translated: published to everyone who serves it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fairway_core::io::drain::Drain;
use fairway_core::source::directory::Loaded;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::translate::{Problem, Settings, Severity, Translation, translate};
use crate::world::World;

/// One state of everything.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// The objects, and what is wrong with the files.
    pub loaded: Arc<Loaded>,
    /// What proxies should hold.
    pub world: World,
    /// What is wrong with the objects.
    pub problems: Vec<Problem>,
    translation: Arc<Translation>,
}

impl Published {
    /// The state after a reading of the manifests.
    #[must_use]
    pub fn next(&self, loaded: Arc<Loaded>, settings: &Settings) -> Self {
        let translation = translate(&loaded.objects, &loaded.rejected, settings, &self.translation.accepted);
        let world = self.world.next(&translation.desired);
        Self { loaded, world, problems: translation.problems.clone(), translation: Arc::new(translation) }
    }

    /// The resources in readable form.
    #[must_use]
    pub fn desired(&self) -> &crate::translate::Desired {
        &self.translation.desired
    }
}

/// Translates every reading of the manifests in `root` until the drain starts. The receiver holds the first state when this
/// returns; its world has generation 0 for as long as there has never been a directory to read, and is not to be served.
pub fn publish(
    mut source: watch::Receiver<Arc<Loaded>>,
    root: PathBuf,
    settings: Settings,
    metrics: Metrics,
    mut drain: Drain,
) -> watch::Receiver<Arc<Published>> {
    let loaded = Arc::clone(&source.borrow_and_update());
    let before = Published::default();
    let first = Arc::new(step(&before, loaded, &root, &settings));
    report(&before, &first, &metrics);
    let (sender, receiver) = watch::channel(first);
    let settings = Arc::new(settings);
    tokio::spawn(async move {
        loop {
            let changed = tokio::select! {
                changed = source.changed() => changed,
                _ = drain.started() => return,
            };
            if changed.is_err() {
                tracing::error!("the manifests are not watched any more; restart the controller to see changes");
                // What is known stays published.
                drain.started().await;
                return;
            }
            let loaded = Arc::clone(&source.borrow_and_update());
            let previous = Arc::clone(&sender.borrow());
            let (root, settings, before) = (root.clone(), Arc::clone(&settings), Arc::clone(&previous));
            // Tens of thousands of pods take a while, which streams must not wait for.
            let next = tokio::task::spawn_blocking(move || step(&before, loaded, &root, &settings)).await;
            match next {
                Ok(next) => {
                    report(&previous, &next, &metrics);
                    sender.send_replace(Arc::new(next));
                }
                Err(error) => tracing::error!(%error, "translation failed; the state before it stays in force"),
            }
        }
    });
    receiver
}

/// The next state. A directory that was never there is not an empty one: serving it would withdraw what proxies kept over
/// a restart of the controller.
fn step(previous: &Published, loaded: Arc<Loaded>, root: &Path, settings: &Settings) -> Published {
    if previous.world.generation == 0 && !root.is_dir() {
        return Published { loaded, ..Published::default() };
    }
    previous.next(loaded, settings)
}

fn report(previous: &Published, next: &Published, metrics: &Metrics) {
    for problem in next.problems.iter().filter(|problem| !previous.problems.contains(problem)) {
        let Problem { object, field, message, severity } = problem;
        match severity {
            Severity::Error => tracing::warn!(%object, field, "policy in error: {message}"),
            Severity::Warning => tracing::info!(%object, field, "policy in force with a difference: {message}"),
        }
    }
    let errors = next.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    metrics.set_world(next.world.generation, next.loaded.errors.len().saturating_add(errors));
    if previous.world.generation != next.world.generation {
        tracing::info!(generation = next.world.generation, "new configuration for proxies");
    }
}
