//! What the manifests said last, translated: published to everyone who serves it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fairway_core::io::drain::Drain;
use fairway_core::source::{Loaded, ObjectKey};
use tokio::sync::watch;

use crate::files::Replaced;
use crate::kept::Store;
use crate::l7::mesh::Mesh;
use crate::l7::tokens::KeySets;
use crate::mesh_config::State;
use crate::metrics::Metrics;
use crate::translate::policies::Accepted;
use crate::translate::{Problem, Settings, Severity, Translation, translate};
use crate::world::World;

/// Time between attempts to keep versions of policies that could not be kept: space comes back without telling.
const KEEP_AGAIN: Duration = Duration::from_secs(10);

/// One state of everything.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// The objects, and what is wrong with the files.
    pub loaded: Arc<Loaded>,
    /// What proxies should hold; of generation 0 when nothing may be served yet.
    pub world: World,
    /// What is wrong with the objects.
    pub problems: Vec<Problem>,
    /// What is wrong with the state directory.
    pub trouble: Option<String>,
    /// The mesh configuration that all this was made with.
    pub mesh: Mesh,
    /// Why the file of it, as it is now, does not count.
    pub mesh_trouble: Option<String>,
    translation: Arc<Translation>,
}

impl Published {
    /// The state before the first reading, in which these policies were accepted before.
    #[must_use]
    pub fn before(accepted: Accepted) -> Self {
        Self { translation: Arc::new(Translation::before(accepted)), ..Self::default() }
    }

    /// The state after a reading of the manifests.
    #[must_use]
    pub fn next(&self, loaded: Arc<Loaded>, settings: &Settings) -> Self {
        // What was made with another mesh configuration is made again; what was accepted stays accepted.
        let afresh = || Arc::new(Translation::before(self.translation.accepted().clone()));
        let before = if self.mesh == settings.mesh { Arc::clone(&self.translation) } else { afresh() };
        let translation = translate(&loaded.objects, &loaded.rejected, settings, &before);
        let mut world = self.world.next(&translation.desired);
        world.is_open = loaded.has_unseen();
        let mut problems = translation.problems.clone();
        for problem in &mut problems {
            problem.location = loaded.locate(&problem.object, &problem.field);
        }
        let translation = Arc::new(translation);
        let l7 = self.world.l7().next(Arc::clone(&translation), Arc::clone(world.addresses()), &settings.network);
        let world = world.with_l7(&self.world, l7);
        let (mesh, mesh_trouble) = (settings.mesh.clone(), self.mesh_trouble.clone());
        Self { loaded, world, problems, trouble: None, mesh, mesh_trouble, translation }
    }

    /// The same state with these keys of tokens. Where nothing may be served yet, they wait.
    #[must_use]
    pub fn with_keys(&self, keys: Arc<KeySets>) -> Self {
        if self.world.generation == 0 {
            return self.clone();
        }
        let world = self.world.clone().with_l7(&self.world, self.world.l7().with_keys(keys));
        Self { world, ..self.clone() }
    }

    /// Whether there are the same policies, in the same files, as in the state before.
    fn has_policies_of(&self, previous: &Self) -> bool {
        let (objects, before) = (&self.loaded.objects, &previous.loaded.objects);
        previous.world.generation > 0
            && objects.authorization_policies.is_same(&before.authorization_policies)
            && objects.peer_authentications.is_same(&before.peer_authentications)
            && objects.request_authentications.is_same(&before.request_authentications)
            && objects.rate_limits.is_same(&before.rate_limits)
            && objects.external_processors.is_same(&before.external_processors)
            && self.loaded.rejected == previous.loaded.rejected
            && self.mesh == previous.mesh
    }

    /// The resources in readable form.
    #[must_use]
    pub fn desired(&self) -> &crate::translate::Desired {
        &self.translation.desired
    }

    /// How endpoints are used.
    #[must_use]
    pub fn destinations(&self) -> &crate::l7::destinations::Destinations {
        &self.translation.destinations
    }

    /// Namespaces in which a waypoint is to be made, because something needs it and they ask for it.
    #[must_use]
    pub fn automatic(&self) -> std::collections::BTreeSet<&str> {
        self.translation.automatic()
    }

    /// Addresses that hosts of a ServiceEntry were given, where none are written.
    #[must_use]
    pub fn given(&self, entry: &ObjectKey) -> &[(String, IpAddr)] {
        self.translation.given().and_then(|given| given.get(entry)).map(Vec::as_slice).unwrap_or_default()
    }

    /// All entries with such hosts.
    pub fn with_given(&self) -> impl Iterator<Item = &ObjectKey> {
        self.translation.given().into_iter().flat_map(|given| given.keys())
    }

    /// What became of the routes.
    #[must_use]
    pub fn routes(&self) -> &crate::l7::model::Routes {
        &self.translation.routes
    }
}

/// Makes each state out of the one before it and keeps what must survive a restart.
#[derive(Debug)]
pub struct Publisher {
    first: Published,
    store: Store,
    settings: Settings,
    metrics: Metrics,
    /// Keys of tokens, as they are fetched.
    keys: watch::Receiver<Arc<KeySets>>,
    /// The mesh configuration, where it is followed.
    mesh: Option<watch::Receiver<State>>,
}

impl Publisher {
    /// One that goes on from what was kept in `store`.
    #[must_use]
    pub fn new(
        remembered: &Loaded,
        store: Store,
        settings: Settings,
        metrics: Metrics,
        keys: watch::Receiver<Arc<KeySets>>,
    ) -> Self {
        let first = Published::before(Accepted::remembered(remembered, &settings));
        Self { first, store, settings, metrics, keys, mesh: None }
    }

    /// The same, with a mesh configuration that may change.
    #[must_use]
    pub fn following(self, mesh: watch::Receiver<State>) -> Self {
        Self { mesh: Some(mesh), ..self }
    }

    /// The next state, and what is left to synchronise with the disk.
    fn next(&mut self, previous: &Published, loaded: Arc<Loaded>) -> (Published, Option<Replaced>) {
        if previous.world.generation == 0
            && let Some(trouble) = self.cannot_serve(&loaded)
        {
            let next = Published { loaded, trouble, ..previous.clone() };
            self.report(previous, &next);
            return (next, None);
        }
        let found = self.store.trouble().map(str::to_owned);
        let followed = self.mesh.as_mut().map(|mesh| mesh.borrow_and_update().clone());
        let mesh_trouble = followed.as_ref().and_then(|state| state.trouble.clone());
        if let Some(State { mesh, .. }) = followed {
            self.settings.mesh = mesh;
        }
        let mut next = previous.next(loaded, &self.settings);
        next.mesh_trouble = mesh_trouble;
        // Before it is published: what proxies were told must not be forgotten.
        let replaced = if self.store.trouble().is_none() && next.has_policies_of(previous) {
            None
        } else {
            self.store.save(&next.translation.accepted().to_remember(&next.loaded))
        };
        next.trouble = self.store.trouble().map(str::to_owned);
        if let (None, None, Some(found)) = (&next.trouble, &previous.trouble, found) {
            tracing::error!("{found}; all manifests can be read, so nothing is missing");
        }
        self.report(previous, &next);
        (next, replaced)
    }

    /// Why nothing may be served yet, if so. A directory that was never there is not an empty one: serving it would
    /// withdraw what proxies kept over a restart of the controller. And without the kept versions nobody can tell which
    /// policies a file in error had: proxies that start now would enforce none of them.
    fn cannot_serve(&self, loaded: &Loaded) -> Option<Option<String>> {
        let trouble = self.store.trouble().map(str::to_owned);
        if loaded.is_never_read() {
            return Some(trouble);
        }
        let hidden = self.store.is_lost() && loaded.has_unseen();
        hidden
            .then(|| trouble.map(|trouble| format!("{trouble}; nothing is served until those are repaired or removed")))
    }

    fn report(&self, previous: &Published, next: &Published) {
        let known: HashSet<_> = previous.problems.iter().map(Problem::what).collect();
        for problem in next.problems.iter().filter(|problem| !known.contains(&problem.what())) {
            let Problem { object, field, message, severity, location } = problem;
            let (file, line, column) =
                location.as_ref().map_or((None, None, None), |it| (Some(it.file.as_str()), it.line, it.column));
            match severity {
                Severity::Error => tracing::warn!(file, line, column, %object, field, "policy in error: {message}"),
                Severity::Warning if !object.kind.is_policy() => {
                    tracing::warn!(file, line, column, %object, field, "object in force with a difference: {message}");
                }
                Severity::Warning => {
                    tracing::info!(file, line, column, %object, field, "policy in force with a difference: {message}");
                }
            }
        }
        match &next.trouble {
            Some(trouble) if previous.trouble.as_ref() != Some(trouble) => tracing::error!("{trouble}"),
            None if previous.trouble.is_some() => tracing::info!("the last good versions of policies are kept again"),
            _ => {}
        }
        let errors = next.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
        let errors = next.loaded.errors.len().saturating_add(errors);
        self.metrics.set_world(next.world.generation, errors, next.trouble.is_some());
        if previous.world.generation != next.world.generation {
            tracing::info!(generation = next.world.generation, "new configuration for proxies");
        }
        if next.world.is_open && !previous.world.is_open {
            tracing::warn!(
                "objects cannot be read since the start: proxies keep what they hold and is not known here until they can be"
            );
        }
    }
}

/// Translates every reading of the manifests until the drain starts. The receiver holds the first state when this returns;
/// a world of generation 0 is not to be served.
pub fn publish(
    mut source: watch::Receiver<Arc<Loaded>>,
    mut publisher: Publisher,
    mut drain: Drain,
) -> watch::Receiver<Arc<Published>> {
    let loaded = Arc::clone(&source.borrow_and_update());
    let before = std::mem::take(&mut publisher.first);
    let (first, replaced) = publisher.next(&before, loaded);
    let (sender, receiver) = watch::channel(Arc::new(first));
    let (synchronise, replacements) = watch::channel(replaced.map(Arc::new));
    tokio::spawn(synchronise_all(replacements));
    let mut keys = publisher.keys.clone();
    let mut mesh = publisher.mesh.clone();
    let publisher = Arc::new(Mutex::new(publisher));
    tokio::spawn(async move {
        loop {
            let is_troubled = sender.borrow().trouble.is_some();
            let changed = tokio::select! {
                changed = source.changed() => changed,
                Ok(()) = keys.changed() => {
                    let known = Arc::clone(&keys.borrow_and_update());
                    let next = sender.borrow().with_keys(known);
                    sender.send_replace(Arc::new(next));
                    continue;
                }
                Some(()) = changed(&mut mesh) => Ok(()),
                () = tokio::time::sleep(KEEP_AGAIN), if is_troubled => Ok(()),
                _ = drain.started() => return,
            };
            if changed.is_err() {
                tracing::error!("the manifests are not watched any more; restart the controller to see changes");
                // What is known stays published.
                drain.started().await;
                return;
            }
            let loaded = Arc::clone(&source.borrow_and_update());
            let (previous, publisher) = (Arc::clone(&sender.borrow()), Arc::clone(&publisher));
            // Tens of thousands of pods take a while, which streams must not wait for.
            let next = tokio::task::spawn_blocking(move || {
                publisher.lock().unwrap_or_else(PoisonError::into_inner).next(&previous, loaded)
            });
            match next.await {
                Ok((next, replaced)) => {
                    sender.send_replace(Arc::new(next));
                    if let Some(replaced) = replaced {
                        synchronise.send_replace(Some(Arc::new(replaced)));
                    }
                }
                Err(error) => tracing::error!(%error, "translation failed; the state before it stays in force"),
            }
        }
    });
    receiver
}

/// Waits for another mesh configuration; none where there will not be one.
async fn changed(mesh: &mut Option<watch::Receiver<State>>) -> Option<()> {
    let changed = mesh.as_mut()?.changed().await;
    if changed.is_err() {
        *mesh = None;
    }
    changed.ok()
}

/// Brings the newest of the kept versions to the disk, behind what is published: proxies must not wait for a slow disk.
async fn synchronise_all(mut replacements: watch::Receiver<Option<Arc<Replaced>>>) {
    loop {
        let replaced = replacements.borrow_and_update().clone();
        if let Some(replaced) = replaced {
            let done = tokio::task::spawn_blocking(move || replaced.sync()).await;
            if let Ok(Err(error)) = done {
                tracing::error!(%error, "the kept versions of policies may not survive a loss of power; check the disk");
            }
        }
        if replacements.changed().await.is_err() {
            return;
        }
    }
}
