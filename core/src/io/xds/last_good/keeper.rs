//! Gathers what is received and brings it to the disk, not too often and never half of an answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fairway_proto::discovery::DeltaDiscoveryResponse;
use tokio::sync::Notify;

use super::*;
use crate::io::drain::Drain;
use crate::io::metrics::{Gauge, Metrics};
use crate::io::xds::session::Rejection;
use crate::limits;

const FAILED: &str = "fairway_xds_store_failed";
/// Resources read from the file at a time.
const PAGE: usize = 1_000;
/// Writing takes no more than this part of the time, however large the file and slow the disk.
const SHARE: u32 = 20;

/// Keeps the configuration in a directory. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    owner: Owner,
    interval: Duration,
    state: Mutex<State>,
    /// Something may be written.
    ready: Notify,
    failed: Gauge,
}

#[derive(Debug, Default)]
struct State {
    /// The file that the changes continue; none while nothing, or nothing usable, is there.
    has_base: bool,
    /// The file was damaged after it had been used: what is in memory cannot be told from it any more.
    is_lost: bool,
    /// The last attempt to write failed, and that was said.
    is_failing: bool,
    digests: bool,
    /// Received since the last point at which all fits together.
    open: Changes,
    /// May be written.
    ready: Changes,
}

/// A response as it is kept, made before it is converted.
#[derive(Debug)]
pub(in crate::io::xds) struct Received {
    resource_type: ResourceType,
    resources: Vec<(String, Vec<u8>)>,
}

impl Received {
    /// The response is as before when this returns.
    pub(in crate::io::xds) fn of(response: &mut DeltaDiscoveryResponse) -> Option<Self> {
        let resource_type = ResourceType::find(&response.type_url)?;
        let encoded = |resource: &mut Resource| {
            // Aliases answer who asked; that is over by then.
            let aliases = std::mem::take(&mut resource.aliases);
            let encoded = resource.encode_to_vec();
            resource.aliases = aliases;
            (resource.name.clone(), encoded)
        };
        Some(Self { resource_type, resources: response.resources.iter_mut().map(encoded).collect() })
    }
}

impl Keeper {
    /// Keeps `owner`'s configuration in `directory`, writing no more often than every `interval`.
    #[must_use]
    pub fn new(directory: PathBuf, owner: Owner, interval: Duration, metrics: &Metrics) -> Self {
        metrics.describe(FAILED, "1 while the last good configuration cannot be kept on disk.");
        let failed = metrics.gauge(FAILED, &[]);
        failed.set(0.0);
        let (state, ready) = (Mutex::default(), Notify::new());
        Self { shared: Arc::new(Shared { directory, owner, interval, state, ready, failed }) }
    }

    /// Gives what is kept, as responses that are parts of one answer: what was accepted, then what was refused. Gives
    /// when it was written, and whether the server understood digests; nothing if there is nothing usable, with a line in
    /// the log saying why.
    pub(in crate::io::xds) fn load(&self, mut give: impl FnMut(DeltaDiscoveryResponse)) -> Option<(SystemTime, bool)> {
        let path = self.shared.directory.join(FILE.0);
        let mut stored = match Stored::open(&path, &self.shared.owner) {
            Ok(stored) => stored,
            Err(Unusable::Disk(error)) if error.kind() == io::ErrorKind::NotFound => {
                tracing::info!(file = %path.display(), "no configuration is kept yet; waiting for the control plane");
                return None;
            }
            Err(error) => {
                tracing::error!(
                    file = %path.display(),
                    "the last good configuration {error}; starting without it, and waiting for the control plane"
                );
                return None;
            }
        };
        let mut pages = Pages { page: Vec::new(), of: ResourceType::Address, give: &mut give };
        let mut refused = Vec::new();
        let read = stored.each(|slot, bytes| {
            let resource = Resource::decode(&*bytes).map_err(|_| Unusable::Damaged)?;
            if slot.is_refused {
                refused.push((slot.resource_type, resource));
            } else {
                pages.add(slot.resource_type, resource);
            }
            Ok(())
        });
        if let Err(error) = read {
            tracing::error!(file = %path.display(), "the last good configuration {error}; waiting for the control plane");
            return None;
        }
        for (resource_type, resource) in refused {
            pages.add(resource_type, resource);
        }
        pages.flush();
        let mut state = self.state();
        state.has_base = true;
        state.digests = stored.header.digests;
        Some((stored.written(), stored.header.digests))
    }

    /// A response has been received, and these of its resources rejected; these names are gone.
    pub(in crate::io::xds) fn record(&self, received: Received, rejections: &[Rejection], removed: &[String]) {
        let rejected: HashSet<&str> = rejections.iter().map(|rejection| rejection.name.as_str()).collect();
        let resource_type = received.resource_type;
        let slot = |is_refused| Slot { resource_type, is_refused };
        let mut state = self.state();
        if state.is_lost {
            return;
        }
        for (name, bytes) in received.resources {
            if rejected.contains(name.as_str()) {
                state.open.set(slot(true), &name, Some(bytes));
            } else {
                state.open.set(slot(true), &name, None);
                state.open.set(slot(false), &name, Some(bytes));
            }
        }
        for name in removed {
            state.open.set(slot(true), name, None);
            state.open.set(slot(false), name, None);
        }
    }

    /// All that was recorded fits together and is all there is.
    pub(in crate::io::xds) fn settle(&self, digests: bool) {
        let mut state = self.state();
        let open = std::mem::take(&mut state.open);
        state.digests = digests;
        if !open.0.is_empty() || !state.has_base {
            state.ready.then(open);
            self.shared.ready.notify_one();
        }
        if state.ready.0.len() > limits::XDS_STORE_BACKLOG.size() {
            self.lose(&mut state, "cannot be brought up to date, as the disk refused for too long");
        }
    }

    /// What is in memory does not continue what is on disk any more, so neither is of use.
    fn lose(&self, state: &mut State, why: &str) {
        state.is_lost = true;
        (state.open, state.ready) = (Changes::default(), Changes::default());
        self.shared.failed.set(1.0);
        let _ = fs::remove_file(self.shared.directory.join(FILE.0));
        tracing::error!(
            "the last good configuration in {} {why}; it is removed, and none is kept until the next start",
            self.shared.directory.display()
        );
    }

    /// Writes until the drain starts, and then a last time.
    pub async fn run(self, mut drain: Drain) {
        loop {
            tokio::select! {
                () = self.shared.ready.notified() => {}
                _ = drain.started() => break,
            }
            let started = Instant::now();
            self.clone().write_off_the_workers().await;
            let pause = self.shared.interval.max(started.elapsed() * SHARE);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = drain.started() => break,
            }
        }
        self.write_off_the_workers().await;
    }

    async fn write_off_the_workers(self) {
        if let Err(error) = tokio::task::spawn_blocking(move || self.write(SystemTime::now())).await {
            tracing::error!(%error, "keeping the configuration failed; please report this");
        }
    }

    /// Writes what is ready; what cannot be written is tried again with what comes next.
    pub(super) fn write(&self, now: SystemTime) {
        let (changes, header, has_base) = {
            let mut state = self.state();
            if state.is_lost || (state.ready.0.is_empty() && state.has_base) {
                return;
            }
            let written = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let header = Header { owner: self.shared.owner.clone(), digests: state.digests, written };
            (std::mem::take(&mut state.ready), header, state.has_base)
        };
        let Err(error) = self.replace(&changes, &header, has_base) else {
            let mut state = self.state();
            if state.is_lost {
                let _ = fs::remove_file(self.shared.directory.join(FILE.0));
                return;
            }
            (state.has_base, state.is_failing) = (true, false);
            self.shared.failed.set(0.0);
            return;
        };
        let directory = self.shared.directory.display();
        self.shared.failed.set(1.0);
        let mut state = self.state();
        if has_base && !matches!(error, Unusable::Disk(_)) {
            // Changes to a file that is not what it was give nothing to start from.
            self.lose(&mut state, &error.to_string());
            return;
        }
        if !std::mem::replace(&mut state.is_failing, true) {
            tracing::error!(
                "the last good configuration {error}, so it is not kept in {directory}; free some space or correct its rights"
            );
        }
        if state.is_lost {
            return;
        }
        let later = std::mem::replace(&mut state.ready, changes);
        state.ready.then(later);
        self.shared.ready.notify_one();
    }

    fn replace(&self, changes: &Changes, header: &Header, has_base: bool) -> Result<(), Unusable> {
        let directory = &self.shared.directory;
        fs::create_dir_all(directory)?;
        let mut base = match has_base {
            true => Some(Stored::open(&directory.join(FILE.0), &self.shared.owner).map_err(|error| match error {
                // Nothing to start from, as if it were damaged.
                Unusable::Disk(error) if error.kind() == io::ErrorKind::NotFound => Unusable::Damaged,
                other => other,
            })?),
            false => None,
        };
        write(directory, base.as_mut(), changes, header)
    }

    /// Changes that wait to be written.
    #[cfg(test)]
    pub(super) fn backlog(&self) -> usize {
        self.state().ready.0.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts a file into responses.
struct Pages<'a, G: FnMut(DeltaDiscoveryResponse)> {
    page: Vec<Resource>,
    of: ResourceType,
    give: &'a mut G,
}

impl<G: FnMut(DeltaDiscoveryResponse)> Pages<'_, G> {
    fn add(&mut self, resource_type: ResourceType, resource: Resource) {
        if self.of != resource_type || self.page.len() >= PAGE {
            self.flush();
            self.of = resource_type;
        }
        self.page.push(resource);
    }

    fn flush(&mut self) {
        if !self.page.is_empty() {
            (self.give)(DeltaDiscoveryResponse {
                type_url: self.of.url().to_owned(),
                system_version_info: crate::io::xds::Extent::Part.in_generation(0),
                resources: std::mem::take(&mut self.page),
                ..DeltaDiscoveryResponse::default()
            });
        }
    }
}
