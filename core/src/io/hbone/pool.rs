//! Reuses tunnel connections: one dial at a time per peer, a bounded number of streams each, idle ones let go.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::client::{Attempt, Connection, Opened};
use super::{ConnectRequest, TunnelError};
use crate::ident::Identity;
use crate::io::certs::Certificates;
use crate::io::socket::SocketFactory;
use crate::limits;
use crate::workload::WorkloadUid;

/// Connections that turned out dead before the request was sent, tolerated for one stream.
const ATTEMPTS: usize = 3;

/// Unused connections to the same peer beyond the first are let go so many times sooner: what a crowd needed holds some
/// 100 KB each, and the next crowd opens them as quickly.
const SURPLUS: u32 = 20;

/// Which connections may carry a stream. Everything that changes who is on either end is in the key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    /// Who we speak as.
    pub source: Identity,
    /// Whom we accept.
    pub accepted: Arc<[Identity]>,
    /// The peer's proxy.
    pub peer: SocketAddr,
    /// The workload behind it: a pod that inherits a dead pod's address gets connections of its own.
    pub workload: Option<WorkloadUid>,
    /// The client's address, which the peer sees as ours.
    pub client: IpAddr,
}

/// The tunnel connections of one pod.
pub struct Pool {
    sockets: SocketFactory,
    certificates: Certificates,
    slots: Mutex<HashMap<TunnelKey, Arc<Slot>>>,
}

/// The connections of one key.
struct Slot {
    connections: Mutex<Vec<(Arc<Connection>, Instant)>>,
    /// One permit: whoever holds it may dial, the others wait for the result.
    dialing: Semaphore,
}

impl Pool {
    /// A pool that dials with `sockets` and proves who it speaks for with `certificates`.
    #[must_use]
    pub fn new(sockets: SocketFactory, certificates: Certificates) -> Self {
        Self { sockets, certificates, slots: Mutex::default() }
    }

    /// Opens a stream, on a connection that exists or on a new one.
    ///
    /// # Errors
    /// See [`TunnelError`].
    pub async fn open(&self, key: &TunnelKey, request: &ConnectRequest) -> Result<Opened, TunnelError> {
        let slot = self.slot(key);
        let mut failed = None;
        for _ in 0..ATTEMPTS {
            let place = match slot.take_place() {
                Some(place) => place,
                // Boxed: a handshake's state is large, and would stay part of every idle connection's task.
                None => Box::pin(self.dial(key, &slot)).await?,
            };
            match Box::pin(place.connect(request)).await? {
                Attempt::Opened(opened) => return Ok(opened),
                Attempt::NotSent(error) => failed = Some(error),
            }
        }
        let after = self.sockets.limits().duration(&limits::CONNECT_RESPONSE_TIMEOUT);
        Err(failed.unwrap_or(TunnelError::PoolTimeout { peer: key.peer, after }))
    }

    fn slot(&self, key: &TunnelKey) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(key) {
            return Arc::clone(slot);
        }
        let slot = Arc::new(Slot { connections: Mutex::default(), dialing: Semaphore::new(1) });
        slots.insert(key.clone(), Arc::clone(&slot));
        slot
    }

    async fn dial(&self, key: &TunnelKey, slot: &Slot) -> Result<super::client::Place, TunnelError> {
        let peer = key.peer;
        let after = self.sockets.limits().duration(&limits::CONNECT_RESPONSE_TIMEOUT);
        let waited = timeout(after, slot.dialing.acquire()).await;
        let Ok(Ok(_permit)) = waited else {
            return Err(TunnelError::PoolTimeout { peer, after });
        };
        if let Some(place) = slot.take_place() {
            return Ok(place);
        }
        let limit = self.sockets.limits().size(&limits::POOL_MAX_CONNECTIONS);
        if self.connections() >= limit {
            return Err(TunnelError::PoolFull { peer, limit });
        }
        let certificate = self.certificates.claim(&key.source).get().await?;
        let tls = certificate
            .credentials
            .client(&key.accepted)
            .map_err(|error| TunnelError::Tls { peer, source: std::io::Error::other(error) })?;
        let connection = Arc::new(Connection::open(&self.sockets, peer, tls).await?);
        let place = connection.take_place().ok_or(TunnelError::PoolTimeout { peer, after })?;
        slot.lock().push((connection, Instant::now()));
        Ok(place)
    }

    /// Connections that may carry new streams.
    fn connections(&self) -> usize {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.values().map(|slot| slot.lock().len()).sum()
    }

    /// Lets go of connections that are dead, have carried nothing for `idle`, or are one of several that have carried
    /// nothing for a twentieth of that; returns how many remain.
    ///
    /// A connection still carrying streams outlives its place in the pool until they end.
    pub fn sweep(&self, idle: Duration, now: Instant) -> usize {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| {
            let mut connections = slot.lock();
            let mut is_surplus = false;
            connections.retain_mut(|(connection, used)| {
                if connection.active() > 0 {
                    *used = now;
                }
                let patience = if is_surplus { idle / SURPLUS } else { idle };
                // One that is unused is kept for whoever comes next.
                is_surplus |= connection.active() == 0;
                !connection.is_retired() && now.duration_since(*used) < patience
            });
            // A slot somebody is dialling for is held by that task, too.
            !connections.is_empty() || Arc::strong_count(slot) > 1
        });
        drop(slots);
        self.connections()
    }

    /// Lets go of all connections; open streams keep theirs until they end.
    pub fn clear(&self) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Slot {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Arc<Connection>, Instant)>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_place(&self) -> Option<super::client::Place> {
        let mut connections = self.lock();
        connections.retain(|(connection, _)| !connection.is_retired());
        let (place, used) =
            connections.iter_mut().find_map(|(connection, used)| Some((connection.take_place()?, used)))?;
        *used = Instant::now();
        Some(place)
    }
}
