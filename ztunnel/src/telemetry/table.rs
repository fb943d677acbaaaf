//! The connections open now, for operators.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use fairway_core::ident::Identity;
use fairway_core::policy::PolicyKey;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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

    fn show(&self, id: u64) -> OpenConnection {
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
            age_seconds: self.opened.elapsed().as_secs(),
            bytes_to_destination,
            bytes_to_source,
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
        let mut open: Vec<_> = self.lock().open.iter().map(|(id, entry)| (*id, Arc::clone(entry))).collect();
        open.sort_unstable_by_key(|(id, _)| *id);
        open.into_iter().map(|(id, entry)| entry.show(id))
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
        self.table.lock().open.remove(&self.id);
    }
}
