//! Reuses tunnel connections: one dial at a time per peer, a bounded number of streams each, idle ones let go.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::{Instant, timeout};

use super::client::{Attempt, Connection, Opened, Ours, Place};
use super::window::ReceiveBudget;
use super::{ConnectRequest, TunnelError};
use crate::ident::Identity;
use crate::io::certs::{CertificateHandle, Certificates};
use crate::io::socket::SocketFactory;
use crate::limits::{self, Limits};
use crate::workload::WorkloadUid;

/// Connections that turned out dead or full when the request was sent, tolerated for one stream.
const ATTEMPTS: usize = 3;

/// Unused connections to the same peer beyond the first are let go so many times sooner: what a crowd needed holds some
/// 100 KB each, and the next crowd opens them as quickly.
const SURPLUS: u32 = 20;

/// New connections one stream waits for before it gives up: others may be quicker to take their places.
const DIALS: usize = 16;

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
    dialer: Arc<Dialer>,
    slots: Mutex<HashMap<TunnelKey, Arc<Slot>>>,
}

/// What it takes to open a connection.
struct Dialer {
    sockets: SocketFactory,
    certificates: Certificates,
    budget: ReceiveBudget,
}

/// A dial under way: everybody who waits for it gets the same answer.
type Dial = Shared<BoxFuture<'static, Result<(), Arc<TunnelError>>>>;

/// The connections of one key.
struct Slot {
    /// Kept fresh for as long as there are connections that show it.
    certificate: CertificateHandle,
    connections: Mutex<Vec<(Arc<Connection>, Instant)>>,
    dialing: Mutex<Option<Dial>>,
    /// Connections to open because of queueing.
    spread: usize,
}

impl Pool {
    /// A pool that dials with `sockets`, proves who it speaks for with `certificates`, and lets peers send within `budget`.
    #[must_use]
    pub fn new(sockets: SocketFactory, certificates: Certificates, budget: ReceiveBudget) -> Self {
        Self { dialer: Arc::new(Dialer { sockets, certificates, budget }), slots: Mutex::default() }
    }

    pub(super) fn limits(&self) -> &Limits {
        self.dialer.sockets.limits()
    }

    pub(super) fn budget(&self) -> &ReceiveBudget {
        &self.dialer.budget
    }

    pub(super) fn certificates(&self) -> &Certificates {
        &self.dialer.certificates
    }

    /// Opens a stream, on a connection that exists or on a new one.
    ///
    /// # Errors
    /// See [`TunnelError`]. Whoever waited for one dial gets the one error that it ended with.
    pub async fn open(&self, key: &TunnelKey, request: &ConnectRequest) -> Result<Opened, TunnelError> {
        let slot = self.slot(key);
        let mut failed = None;
        for _ in 0..ATTEMPTS {
            let place = match slot.take_place() {
                Some(place) => place,
                // Boxed: the wait is long over when the connection idles.
                None => Box::pin(self.new_place(key, &slot)).await?,
            };
            match Box::pin(place.connect(request)).await? {
                Attempt::Opened(opened) => return Ok(opened),
                Attempt::NotSent(error) => failed = Some(error),
            }
        }
        let after = self.limits().duration(&limits::CONNECT_RESPONSE_TIMEOUT);
        Err(failed.unwrap_or(TunnelError::PoolTimeout { peer: key.peer, after }))
    }

    fn slot(&self, key: &TunnelKey) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(key) {
            return Arc::clone(slot);
        }
        let certificate = self.dialer.certificates.claim(&key.source);
        let spread = self.limits().size(&limits::POOL_SPREAD);
        let slot = Arc::new(Slot { certificate, connections: Mutex::default(), dialing: Mutex::default(), spread });
        slots.insert(key.clone(), Arc::clone(&slot));
        slot
    }

    /// A place on a connection that has yet to be opened, by whoever comes first.
    async fn new_place(&self, key: &TunnelKey, slot: &Arc<Slot>) -> Result<Place, TunnelError> {
        let (peer, after) = (key.peer, self.limits().duration(&limits::CONNECT_RESPONSE_TIMEOUT));
        let dialed = timeout(after, async {
            for _ in 0..DIALS {
                let dialed = self.dial(key, slot).await;
                if let Some(place) = slot.take_place() {
                    return Ok(Some(place));
                }
                if let Err(error) = dialed {
                    // Better a connection with a queue than none.
                    return slot.take_any_place().map(Some).ok_or(TunnelError::Shared(error));
                }
            }
            Ok(slot.take_any_place())
        });
        dialed.await.unwrap_or(Ok(None))?.ok_or(TunnelError::PoolTimeout { peer, after })
    }

    /// Joins the dial that is under way, or begins one. It is a task of its own: who began it may leave, while others
    /// wait for it.
    fn dial(&self, key: &TunnelKey, slot: &Arc<Slot>) -> Dial {
        let mut dialing = slot.dialing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dial) = &*dialing {
            return dial.clone();
        }
        let limit = self.limits().size(&limits::POOL_MAX_CONNECTIONS);
        if self.connections() >= limit {
            let full = TunnelError::PoolFull { peer: key.peer, limit };
            return std::future::ready(Err(Arc::new(full))).boxed().shared();
        }
        let (dialer, slot, key) = (Arc::clone(&self.dialer), Arc::clone(slot), key.clone());
        let task = tokio::spawn(async move {
            // Dropped last: first the connection, then the end of the dial. Nobody may find neither.
            let over = DialOver(slot);
            let slot = &over.0;
            let opened = dialer.open(&key, &slot.certificate).await;
            let opened = opened.map(|connection| slot.lock().push((Arc::new(connection), Instant::now())));
            opened.map_err(Arc::new)
        });
        // A task that could not end is a task that opened nothing; whoever waits will see.
        let dial = task.map(|joined| joined.unwrap_or(Ok(()))).boxed().shared();
        *dialing = Some(dial.clone());
        dial
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
                slot.is_current(connection) && now.duration_since(*used) < patience
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

/// Ends the slot's dial when dropped, however it went.
struct DialOver(Arc<Slot>);

impl Drop for DialOver {
    fn drop(&mut self) {
        *self.0.dialing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Dialer {
    async fn open(&self, key: &TunnelKey, certificate: &CertificateHandle) -> Result<Connection, TunnelError> {
        let certificate = certificate.get().await?;
        let ours = Ours::new(&self.certificates, certificate, &key.accepted, key.peer)?;
        Connection::open(&self.sockets, key.peer, &ours, &self.budget).await
    }
}

impl Slot {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Arc<Connection>, Instant)>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether new streams may use the connection: it lives, and shows the certificate we would show now.
    fn is_current(&self, connection: &Connection) -> bool {
        !connection.is_retired() && self.certificate.newest().is_none_or(|newest| connection.shows(&newest))
    }

    /// A place where nothing stands in a queue; once there are many connections, any.
    fn take_place(&self) -> Option<Place> {
        let mut connections = self.lock();
        connections.retain(|(connection, _)| self.is_current(connection));
        let choosy = connections.len() < self.spread;
        take(&mut connections, true).or_else(|| if choosy { None } else { take(&mut connections, false) })
    }

    fn take_any_place(&self) -> Option<Place> {
        take(&mut self.lock(), false)
    }
}

fn take(connections: &mut [(Arc<Connection>, Instant)], choosy: bool) -> Option<Place> {
    let mut places = connections.iter_mut();
    let (place, used) = places.find_map(|(connection, used)| Some((connection.take_place(choosy)?, used)))?;
    *used = Instant::now();
    Some(place)
}
