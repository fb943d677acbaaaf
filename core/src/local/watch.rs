//! Keeps reading a configuration file and publishes each reading that differs.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

use super::{Defaults, LocalConfig, LocalError};
use crate::yaml::Place;

/// Silence that ends a burst of changes: an editor writes, renames and touches within a few milliseconds.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// Longest wait for that silence, so that a file written without end is read nevertheless.
const DEBOUNCE_LIMIT: Duration = Duration::from_millis(200);
/// How often the file is read without being told to: events get lost, and what a symbolic link leads to is not watched.
const RESCAN: Duration = Duration::from_secs(2);

/// What the file said when it was last read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The configuration, or why there is none to be had from the file as it is.
    pub config: Result<LocalConfig, LocalError>,
    pub(super) text: Result<String, String>,
}

impl Reading {
    fn of(path: &Path, defaults: &Defaults) -> Self {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
        let config = match &text {
            Ok(text) => LocalConfig::parse(text, defaults),
            Err(error) => Err(LocalError::at(Place::default(), None, format!("it cannot be read: {error}"))),
        };
        Self { config, text }
    }
}

/// Reads the file now and again after every change, until all receivers are gone.
///
/// The receiver holds the first reading when this returns. The work is done by a thread of its own, because it blocks
/// on the file.
#[must_use]
pub fn watch(path: &Path, defaults: Defaults) -> watch::Receiver<Reading> {
    let (wake, woken) = sync_channel(1);
    // Attached before the first reading, so that no change falls in between.
    let worker = Worker { path: path.to_owned(), defaults, _watcher: attach(path, wake) };
    let (sender, receiver) = watch::channel(Reading::of(&worker.path, &worker.defaults));
    let spawned = std::thread::Builder::new().name("local file".to_owned()).spawn(move || worker.run(&woken, &sender));
    if let Err(error) = spawned {
        tracing::error!(%error, "cannot start the thread that watches the configuration file; changes will not be seen, restart the process");
    }
    receiver
}

struct Worker {
    path: PathBuf,
    defaults: Defaults,
    _watcher: Option<RecommendedWatcher>,
}

impl Worker {
    fn run(self, woken: &Receiver<()>, sender: &watch::Sender<Reading>) {
        loop {
            match woken.recv_timeout(RESCAN) {
                Ok(()) => wait_for_silence(woken),
                Err(RecvTimeoutError::Timeout) => {}
                // Nothing could be watched.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(RESCAN),
            }
            if sender.is_closed() {
                return;
            }
            let reading = Reading::of(&self.path, &self.defaults);
            sender.send_if_modified(|present| {
                let changed = present.text != reading.text;
                if changed {
                    *present = reading;
                }
                changed
            });
        }
    }
}

/// Watches the directory, because editors and Kubernetes replace files instead of writing to them.
fn attach(path: &Path, wake: SyncSender<()>) -> Option<RecommendedWatcher> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let handler = move |event: notify::Result<notify::Event>| {
        // Reading the file ourselves makes access events; acting on them would never end.
        let relevant = event.map_or(true, |event| match event.kind {
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
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    match watcher {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(
                directory = %directory.display(), %error, every = ?RESCAN,
                "cannot watch the configuration file; reading it periodically instead"
            );
            None
        }
    }
}

fn wait_for_silence(woken: &Receiver<()>) {
    let limit = Instant::now() + DEBOUNCE_LIMIT;
    while Instant::now() < limit {
        if woken.recv_timeout(DEBOUNCE).is_err() {
            return;
        }
    }
}
