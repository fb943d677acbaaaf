//! Who is connected and how far each is: what `/debug/syncz` shows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use tokio::sync::watch;

use super::session::{Progress, Refusals};
use crate::l7::waypoints::GatewayName;
use crate::world::ResourceType;

/// All connected clients. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    inner: Arc<Mutex<Table>>,
    /// Told when anybody has come, answered or gone.
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    clients: BTreeMap<u64, Client>,
}

/// One connected client.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    /// Id of its node message.
    pub id: String,
    /// Node it runs on.
    pub node: String,
    /// Namespace of its token.
    #[serde(skip)]
    pub namespace: String,
    /// Cluster it says it is in.
    #[serde(skip)]
    pub cluster: String,
    /// Its account is that of node proxies.
    #[serde(skip)]
    pub is_node: bool,
    /// The gateway whose waypoint it is.
    #[serde(skip)]
    pub gateway: Option<GatewayName>,
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
    /// What was refused by name, with the refusal.
    #[serde(skip)]
    pub refused: Refusals,
    /// When something was last sent completely.
    #[serde(skip)]
    pub updated: Option<SystemTime>,
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
        self.changes.send_replace(());
        Membership { clients: self.clone(), key }
    }

    /// Everybody connected now.
    #[must_use]
    pub fn list(&self) -> Vec<Client> {
        self.table().clients.values().cloned().collect()
    }

    /// Changes when anybody has come, answered or gone.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
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
        let mut table = self.clients.table();
        let Some(client) = table.clients.get_mut(&self.key) else { return };
        let status = |(kind, progress): (ResourceType, &Progress)| {
            let before = client.types.get(kind.short_name());
            let updated = match before {
                Some(before) if before.sent == progress.sent => before.updated,
                _ => (progress.sent > 0).then(SystemTime::now),
            };
            let Progress { sent, acked, nacked, refused } = progress.clone();
            (kind.short_name(), TypeStatus { sent, acked, nacked, refused, updated })
        };
        let types = progress.map(status).collect();
        if client.types != types {
            client.types = types;
            drop(table);
            self.clients.changes.send_replace(());
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.clients.table().clients.remove(&self.key);
        self.clients.changes.send_replace(());
    }
}
