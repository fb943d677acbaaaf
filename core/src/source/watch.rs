//! Keeps reading a directory of manifests and publishes each reading that differs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

use super::directory::{Reader, STATUS_DIRECTORY, load_as};
use super::loaded::{Loaded, Origin};
use super::{Freshness, Strip};

/// Silence that ends a burst of changes: an editor writes, renames and touches within a few milliseconds.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Longest wait for that silence, so that a file written without end does not hide the others.
const DEBOUNCE_LIMIT: Duration = Duration::from_millis(200);
/// How often the directory is read without being told to: events get lost when the kernel's queue overflows, and a
/// root that does not exist yet cannot be watched.
const RESCAN: Duration = Duration::from_secs(2);

/// What [`Freshness`] calls the directory.
const PART: &str = "manifests";

/// Reads `root` now and again after every change, until all receivers are gone.
///
/// The receiver holds the first reading when this returns. The work is done by a thread of its own, because it blocks
/// on files.
#[must_use]
pub fn watch(root: &Path) -> watch::Receiver<Arc<Loaded>> {
    start(root, Reader::default(), None, Freshness::default())
}

/// As [`watch`], for an agent on a node that owns the status `owner`: what it says itself is left out. That would be much of all there is to read, and again after each of its words.
#[must_use]
pub fn watch_for_node(root: &Path, owner: &str) -> watch::Receiver<Arc<Loaded>> {
    start(root, Reader { without: Some(owner.to_owned()), strip: Strip::Unneeded }, None, Freshness::default())
}

/// As [`watch`], for who runs pods: they are [`super::Objects::whole_pods`].
#[must_use]
pub fn watch_whole(root: &Path) -> watch::Receiver<Arc<Loaded>> {
    start(root, Reader { without: None, strip: Strip::Nothing }, None, Freshness::default())
}

/// As [`watch`], going on from what is [`Loaded::remembered`] of the time before a restart.
#[must_use]
pub fn watch_from(root: &Path, remembered: &Loaded) -> watch::Receiver<Arc<Loaded>> {
    start(root, Reader::default(), Some(remembered), Freshness::default())
}

pub(super) fn start(
    root: &Path,
    reader: Reader,
    previous: Option<&Loaded>,
    freshness: Freshness,
) -> watch::Receiver<Arc<Loaded>> {
    let (wake, woken) = sync_channel(1);
    let mut worker = Worker { root: root.to_owned(), reader, wake, watcher: None, watched: None, freshness };
    worker.attach();
    let first = Arc::new(load_as(root, &worker.reader, previous));
    worker.note(&first);
    log_errors(&first, None);
    let (sender, receiver) = watch::channel(first);
    let spawned = std::thread::Builder::new().name("manifests".to_owned()).spawn(move || worker.run(&woken, &sender));
    if let Err(error) = spawned {
        tracing::error!(%error, "cannot start the thread that watches the manifests; changes will not be seen, restart the process");
    }
    receiver
}

struct Worker {
    root: PathBuf,
    reader: Reader,
    wake: SyncSender<()>,
    watcher: Option<RecommendedWatcher>,
    /// Device and inode of the directory that is watched; another one may take its name.
    watched: Option<(u64, u64)>,
    freshness: Freshness,
}

impl Worker {
    fn run(mut self, woken: &Receiver<()>, sender: &watch::Sender<Arc<Loaded>>) {
        loop {
            match woken.recv_timeout(RESCAN) {
                Ok(()) => wait_for_silence(woken),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if sender.is_closed() {
                return;
            }
            self.attach();
            let previous = sender.borrow().clone();
            let loaded = load_as(&self.root, &self.reader, Some(&previous));
            self.note(&loaded);
            if !loaded.is_same_as(&previous) {
                log_errors(&loaded, Some(&previous));
                sender.send_replace(Arc::new(loaded));
            }
        }
    }

    /// Says whether the directory could be read.
    fn note(&self, loaded: &Loaded) {
        let read = match &loaded.origin {
            Origin::Directory(read) => read,
            #[cfg(feature = "cluster")]
            Origin::Cluster { .. } => return,
        };
        match read.failure() {
            Some(error) => drop(self.freshness.failed(PART, &error.message, Instant::now())),
            None => drop(self.freshness.succeeded(PART, Instant::now())),
        }
    }

    /// Watches the directory that has the root's name now.
    fn attach(&mut self) {
        let present = identity(&self.root);
        if present == self.watched {
            return;
        }
        (self.watcher, self.watched) = (None, None);
        if present.is_none() {
            return;
        }
        let wake = self.wake.clone();
        let left_out = self.reader.without.as_ref().map(|owner| self.root.join(STATUS_DIRECTORY).join(owner));
        let is_left_out = move |event: &notify::Event| {
            let is_below = |left_out: &PathBuf| event.paths.iter().all(|path| path.starts_with(left_out));
            !event.paths.is_empty() && left_out.as_ref().is_some_and(is_below)
        };
        let handler = move |event: notify::Result<notify::Event>| {
            // Reading the files ourselves makes access events; acting on them would never end.
            let relevant = event.map_or(true, |event| match event.kind {
                _ if is_left_out(&event) => false,
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
                EventKind::Access(_) => false,
                _ => true,
            });
            if relevant {
                // Full means that a wake is pending already.
                let _ = wake.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(handler).and_then(|mut watcher| {
            watcher.watch(&self.root, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => (self.watcher, self.watched) = (Some(watcher), present),
            Err(error) => tracing::warn!(
                root = %self.root.display(), %error, every = ?RESCAN,
                "cannot watch the manifests; reading them periodically instead (raise fs.inotify.max_user_watches)"
            ),
        }
    }
}

#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    metadata.is_dir().then(|| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> Option<(u64, u64)> {
    path.is_dir().then_some((0, 0))
}

fn wait_for_silence(woken: &Receiver<()>) {
    let limit = Instant::now() + DEBOUNCE_LIMIT;
    while Instant::now() < limit {
        if woken.recv_timeout(DEBOUNCE).is_err() {
            return;
        }
    }
}

fn log_errors(loaded: &Loaded, previous: Option<&Loaded>) {
    for error in &loaded.errors {
        if previous.is_none_or(|previous| !previous.errors.contains(error)) {
            tracing::warn!(
                file = error.file,
                line = error.line,
                column = error.column,
                field = error.field,
                "manifest in error, its previous state is kept: {error}"
            );
        }
    }
}
