//! Who is connected and how far each is: what `/debug/syncz` shows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::session::Progress;
use crate::world::ResourceType;

/// All connected clients. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    inner: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    clients: BTreeMap<u64, Client>,
}

/// One connected client.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    /// Id of its node message.
    pub id: String,
    /// Node it runs on.
    pub node: String,
    /// Version it says it has.
    pub version: String,
    /// Start of the stream, RFC 3339.
    pub connected_since: String,
    /// By type, without the prefix of the type's URL.
    pub types: BTreeMap<&'static str, TypeStatus>,
}

/// How far a client is with one type; `sent` and `acked` are generations of the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TypeStatus {
    /// Newest generation sent completely.
    pub sent: u64,
    /// Newest generation acknowledged completely.
    pub acked: u64,
    /// Why the last response was refused, if it was.
    pub nacked: Option<String>,
}

impl Clients {
    /// Adds a client, which leaves when the handle is dropped.
    #[must_use]
    pub fn join(&self, client: Client) -> Membership {
        let mut table = self.table();
        let key = table.next;
        table.next = key.wrapping_add(1);
        table.clients.insert(key, client);
        drop(table);
        Membership { clients: self.clone(), key }
    }

    /// Everybody connected now.
    #[must_use]
    pub fn list(&self) -> Vec<Client> {
        self.table().clients.values().cloned().collect()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one client among [`Clients`].
#[derive(Debug)]
pub struct Membership {
    clients: Clients,
    key: u64,
}

impl Membership {
    /// Says how far the client is.
    pub fn update<'a>(&self, progress: impl Iterator<Item = (ResourceType, &'a Progress)>) {
        let types = progress
            .map(|(kind, progress)| {
                let status = TypeStatus { sent: progress.sent, acked: progress.acked, nacked: progress.nacked.clone() };
                (kind.short_name(), status)
            })
            .collect();
        if let Some(client) = self.clients.table().clients.get_mut(&self.key) {
            client.types = types;
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.clients.table().clients.remove(&self.key);
    }
}
