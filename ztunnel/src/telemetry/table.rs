//! The connections open now, and those that have ended while somebody watched, for operators.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use fairway_core::ident::Identity;
use fairway_core::policy::PolicyKey;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ended::Ended;
use super::{Bytes, ConnectionInfo};

/// All open connections. Cheap to clone; clones share the table. Bounded by the limits on connections per pod.
#[derive(Clone, Debug, Default)]
pub struct ConnectionTable {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: HashMap<u64, Arc<Entry>>,
    ended: Ended<Gone>,
}

/// One that has ended.
#[derive(Clone, Debug)]
struct Gone {
    id: u64,
    entry: Arc<Entry>,
    at: Instant,
}

#[derive(Debug)]
pub(super) struct Entry {
    info: Arc<ConnectionInfo>,
    policy: Mutex<Option<PolicyKey>>,
    pub(super) opened: Instant,
    opened_at: SystemTime,
    pub(super) bytes: Bytes,
}

impl Entry {
    pub(super) fn new(info: Arc<ConnectionInfo>, policy: Option<PolicyKey>) -> Self {
        Self {
            info,
            policy: Mutex::new(policy),
            opened: Instant::now(),
            opened_at: SystemTime::now(),
            bytes: Bytes::default(),
        }
    }

    /// The ALLOW policy that lets it go on.
    pub(super) fn policy(&self) -> MutexGuard<'_, Option<PolicyKey>> {
        self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As it is at `now`, which is when it ended under the number `ended`.
    fn show(&self, id: u64, now: Instant, ended: Option<u64>) -> OpenConnection {
        let info = &self.info;
        let (bytes_to_destination, bytes_to_source) = self.bytes.read();
        OpenConnection {
            id,
            direction: info.reporter.direction(),
            source: info.source.to_string(),
            source_workload: info.source_workload.as_ref().map(|workload| workload.uid.to_string()),
            source_identity: info.source_identity.as_ref().map(Identity::to_string),
            destination: info.destination.to_string(),
            hbone_destination: info.hbone_destination.clone(),
            destination_workload: info.destination_workload.as_ref().map(|workload| workload.uid.to_string()),
            destination_identity: info.destination_identity.as_ref().map(Identity::to_string),
            destination_service: info.destination_service.as_ref().map(|service| service.key.to_string()),
            mutual_tls: info.is_mutual_tls(),
            policy: self.policy().as_ref().map(PolicyKey::to_string),
            opened_at: OffsetDateTime::from(self.opened_at).format(&Rfc3339).unwrap_or_default(),
            age_seconds: now.saturating_duration_since(self.opened).as_secs(),
            bytes_to_destination,
            bytes_to_source,
            ended,
        }
    }
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub struct OpenConnection {
    pub id: u64,
    pub direction: &'static str,
    pub source: String,
    pub source_workload: Option<String>,
    pub source_identity: Option<String>,
    pub destination: String,
    pub hbone_destination: Option<String>,
    pub destination_workload: Option<String>,
    pub destination_identity: Option<String>,
    pub destination_service: Option<String>,
    pub mutual_tls: bool,
    pub policy: Option<String>,
    pub opened_at: String,
    pub age_seconds: u64,
    pub bytes_to_destination: u64,
    pub bytes_to_source: u64,
    /// Of one that is not open any more: its number among those that have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
}

impl State {
    fn open(&self) -> Vec<(u64, Arc<Entry>)> {
        self.open.iter().map(|(id, entry)| (*id, Arc::clone(entry))).collect()
    }
}

fn shown(
    mut open: Vec<(u64, Arc<Entry>)>,
    ended: Vec<(u64, Gone)>,
) -> impl Iterator<Item = OpenConnection> + Send + use<> {
    open.sort_unstable_by_key(|(id, _)| *id);
    let open = open.into_iter().map(|(id, entry)| entry.show(id, Instant::now(), None));
    open.chain(ended.into_iter().map(|(number, Gone { id, entry, at })| entry.show(id, at, Some(number))))
}

impl ConnectionTable {
    pub(super) fn insert(&self, entry: Arc<Entry>) -> TableGuard {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.open.insert(id, entry);
        TableGuard { id, table: self.clone() }
    }

    /// All open connections, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<OpenConnection> {
        self.rows().collect()
    }

    /// The connections open now, oldest first, each described when it is taken.
    pub fn rows(&self) -> impl Iterator<Item = OpenConnection> + Send + use<> {
        // Rows are written after the lock is released: opening connections must not wait for a dump.
        let open = self.lock().open();
        shown(open, Vec::new())
    }

    /// As [`ConnectionTable::rows`], and after them those that have ended since number `seen`, for who watches: from now on `most`
    /// that end are kept until he looks again.
    pub fn rows_since(
        &self,
        seen: u64,
        most: usize,
        now: Instant,
    ) -> impl Iterator<Item = OpenConnection> + Send + use<> {
        // At once, so that each is among one of them.
        let mut state = self.lock();
        let (open, ended) = (state.open(), state.ended.look(seen, most, now));
        drop(state);
        shown(open, ended)
    }

    /// How many connections are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().open.len()
    }

    /// Whether no connection is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a connection in the table.
#[derive(Debug)]
pub(super) struct TableGuard {
    id: u64,
    table: ConnectionTable,
}

impl Drop for TableGuard {
    fn drop(&mut self) {
        let mut state = self.table.lock();
        let gone = state.open.remove(&self.id);
        let is_watched = state.ended.is_watched();
        let forgotten = gone.filter(|_| is_watched).and_then(|entry| {
            let at = Instant::now();
            state.ended.add(Gone { id: self.id, entry, at }, at)
        });
        // What goes is given back after the lock.
        drop(state);
        drop(forgotten);
    }
}
