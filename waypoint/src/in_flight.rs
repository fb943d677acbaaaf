//! Requests and streams under way, for the page that shows them. Each client's stream has slots of its own, which nobody else waits
//! for, and which keep their memory from one request to the next.

use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Instant, SystemTime};

use fairway_core::ident::Identity;
use fairway_core::route::Bound;
use fairway_core::service::Service;
use http::{Method, Version};

use crate::replay::{Passed, Replay};
use crate::trace;
use crate::waypoint::Waypoint;

pub mod page;
mod row;

#[cfg(test)]
mod tests;

pub use row::Row;

/// Streams of all clients. Cheap to clone; clones are one.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<Mutex<Streams>>);

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    all: BTreeMap<u64, Weak<Stream>>,
}

/// One client's stream, and what is under way in it.
#[derive(Debug)]
pub struct Stream {
    all: InFlight,
    number: u64,
    source: Identity,
    address: SocketAddr,
    dialled: SocketAddr,
    service: Option<Arc<Service>>,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<usize>,
    /// So many were begun.
    begun: u64,
}

/// One request, or all that a stream carries.
#[derive(Debug)]
struct Slot {
    number: u64,
    is_used: bool,
    begun: Instant,
    phase: Phase,
    protocol: &'static str,
    method: Option<Method>,
    authority: String,
    path: String,
    route: String,
    cluster: Option<Arc<str>>,
    endpoint: Option<SocketAddr>,
    attempts: u32,
    status: u16,
    trace: Option<u128>,
    server_name: Option<String>,
    bytes: Moved,
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Tokens, policies and authorizers decide.
    Authorizing,
    /// A rate limiter is asked.
    RateLimiting,
    /// A fault delays it.
    Delayed,
    /// An external processor sees it.
    Processing,
    /// It waits for an endpoint, or a connection to one.
    WaitingForEndpoint,
    /// It is sent, and the head of the answer has not come.
    WaitingForAnswer,
    /// It will be sent again.
    BackingOff,
    /// The answer goes to the client.
    Answering,
    /// It goes on as something else, such as WebSocket.
    Upgraded,
    /// Bytes are carried that nobody looks into.
    Carrying,
}

/// Bytes of bodies.
#[derive(Clone, Debug)]
enum Moved {
    /// Those of a request as far as they came, and so many of its answer.
    Body(Passed, u64),
    /// Both ways.
    Carried(Arc<Volume>),
}

/// Bytes that were carried on a connection that nobody looks into.
#[derive(Debug, Default)]
pub struct Volume {
    /// Of the client.
    pub to_endpoint: AtomicU64,
    /// Of the endpoint.
    pub to_client: AtomicU64,
}

impl Volume {
    /// How many, to the endpoint and to the client.
    #[must_use]
    pub fn now(&self) -> (u64, u64) {
        (self.to_endpoint.load(Ordering::Relaxed), self.to_client.load(Ordering::Relaxed))
    }
}

/// One that is under way, until this is dropped.
#[derive(Debug)]
pub struct Entry {
    stream: Arc<Stream>,
    place: usize,
}

impl InFlight {
    /// A stream in which nothing is under way yet.
    #[must_use]
    pub fn stream(&self, source: &Identity, address: SocketAddr, bound: &Bound) -> Arc<Stream> {
        let (all, source) = (self.clone(), source.clone());
        let service = bound.service().cloned();
        let mut streams = lock(&self.0);
        streams.next += 1;
        let number = streams.next;
        let dialled = bound.address();
        let stream = Stream { all, number, source, address, dialled, service, slots: Mutex::default() };
        let stream = Arc::new(stream);
        streams.all.insert(number, Arc::downgrade(&stream));
        stream
    }

    /// The oldest, so many at most, and how many there are.
    #[must_use]
    pub fn oldest(&self, most: usize, now: (Instant, SystemTime)) -> (Vec<Row>, usize) {
        let streams: Vec<Arc<Stream>> = lock(&self.0).all.values().filter_map(Weak::upgrade).collect();
        // The youngest of them is on top, and goes first.
        let (mut oldest, mut count) = (BinaryHeap::new(), 0);
        for (place, stream) in streams.iter().enumerate() {
            for slot in lock(&stream.slots).all.iter().filter(|slot| slot.is_used) {
                count += 1;
                oldest.push((slot.begun, place, slot.number));
                if oldest.len() > most {
                    oldest.pop();
                }
            }
        }
        let rows = oldest.into_sorted_vec().into_iter().filter_map(|(_, place, number)| {
            let stream = streams.get(place)?;
            let (mut row, moved) = {
                let slots = lock(&stream.slots);
                let slot = slots.all.iter().find(|slot| slot.is_used && slot.number == number)?;
                (slot.row(stream, now), slot.bytes.clone())
            };
            (row.received_bytes, row.sent_bytes) = moved.now();
            Some(row)
        });
        (rows.collect(), count)
    }
}

impl Moved {
    fn now(&self) -> (u64, u64) {
        match self {
            Self::Body(passed, sent) => (passed.now(), *sent),
            Self::Carried(volume) => volume.now(),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        lock(&self.all.0).all.remove(&self.number);
    }
}

impl Stream {
    /// A request that came at `begun`, for this host and path.
    #[must_use]
    pub fn request(
        self: &Arc<Self>,
        begun: Instant,
        (method, version, is_grpc): (&Method, Version, bool),
        (authority, path): (&str, &str),
        trace: Option<u128>,
    ) -> Entry {
        let protocol = match version {
            _ if is_grpc => "gRPC",
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        };
        self.begin(begun, Phase::Authorizing, protocol, |slot| {
            slot.method = Some(method.clone());
            replace(&mut slot.authority, authority);
            replace(&mut slot.path, path);
            slot.trace = trace;
        })
    }

    /// A connection that nobody looks into.
    #[must_use]
    pub fn opaque(self: &Arc<Self>, begun: Instant) -> Entry {
        self.begin(begun, Phase::WaitingForEndpoint, "TCP", |_| {})
    }

    fn begin(
        self: &Arc<Self>,
        begun: Instant,
        phase: Phase,
        protocol: &'static str,
        change: impl FnOnce(&mut Slot),
    ) -> Entry {
        let mut slots = lock(&self.slots);
        slots.begun += 1;
        let number = slots.begun;
        let place = slots.free.pop().unwrap_or(slots.all.len());
        if place == slots.all.len() {
            slots.all.push(Slot::new(begun));
        }
        if let Some(slot) = slots.all.get_mut(place) {
            slot.again(number, begun);
            (slot.phase, slot.protocol) = (phase, protocol);
            change(slot);
        }
        Entry { stream: Arc::clone(self), place }
    }
}

impl Entry {
    fn change(&self, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = lock(&self.stream.slots).all.get_mut(self.place) {
            change(slot);
        }
    }

    /// It is there now.
    pub fn enter(&self, phase: Phase) {
        self.change(|slot| slot.phase = phase);
    }

    /// It is there now, on this route.
    pub fn enter_on(&self, phase: Phase, route: &str) {
        self.change(|slot| {
            slot.phase = phase;
            replace(&mut slot.route, route);
        });
    }

    /// It goes to this cluster, with this body.
    pub fn sent(&self, route: &str, cluster: &Arc<str>, body: &Replay) {
        self.change(|slot| {
            slot.phase = Phase::WaitingForEndpoint;
            replace(&mut slot.route, route);
            slot.cluster = Some(Arc::clone(cluster));
            slot.bytes = Moved::Body(body.watched(), 0);
        });
    }

    /// It goes to this endpoint of a cluster.
    pub fn sent_to(&self, cluster: &str, endpoint: SocketAddr) {
        self.change(|slot| {
            (slot.cluster, slot.endpoint, slot.attempts) = (Some(cluster.into()), Some(endpoint), slot.attempts + 1);
        });
    }

    /// An endpoint was chosen; for the first time, or another one.
    pub fn attempt(&self, endpoint: SocketAddr) {
        self.change(|slot| {
            slot.phase = Phase::WaitingForEndpoint;
            slot.endpoint = Some(endpoint);
            slot.attempts += 1;
        });
    }

    /// The answer comes from this endpoint, which may not be the last that was asked.
    pub fn answered_by(&self, endpoint: SocketAddr) {
        self.change(|slot| slot.endpoint = Some(endpoint));
    }

    /// An answer goes to the client.
    pub fn answering(&self, status: u16) {
        self.change(|slot| (slot.phase, slot.status) = (Phase::Answering, status));
    }

    /// So many bytes of its body have.
    pub fn answered(&self, bytes: u64) {
        self.change(|slot| {
            if let Moved::Body(_, sent) = &mut slot.bytes {
                *sent = bytes;
            }
        });
    }

    /// It goes on as something that nobody looks into.
    pub fn carries(&self, phase: Phase, server_name: Option<&str>) -> Arc<Volume> {
        let volume = Arc::<Volume>::default();
        self.change(|slot| {
            slot.phase = phase;
            slot.server_name = server_name.map(|name| trace::beginning(name).to_owned());
            slot.bytes = Moved::Carried(Arc::clone(&volume));
        });
        volume
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut slots = lock(&self.stream.slots);
        if let Some(slot) = slots.all.get_mut(self.place) {
            // What it holds of others goes with it.
            (slot.is_used, slot.cluster, slot.bytes) = (false, None, Moved::Body(Passed::default(), 0));
        }
        slots.free.push(self.place);
        // One is as much as most clients need; many were an exception.
        if slots.free.len() == slots.all.len() && slots.all.len() > 1 {
            slots.all.truncate(1);
            slots.all.shrink_to_fit();
            slots.free = vec![0];
        }
    }
}

impl Slot {
    fn new(begun: Instant) -> Self {
        Self {
            number: 0,
            is_used: false,
            begun,
            phase: Phase::Authorizing,
            protocol: "",
            method: None,
            authority: String::new(),
            path: String::new(),
            route: String::new(),
            cluster: None,
            endpoint: None,
            attempts: 0,
            status: 0,
            trace: None,
            server_name: None,
            bytes: Moved::Body(Passed::default(), 0),
        }
    }

    /// For the next one; texts keep their memory.
    fn again(&mut self, number: u64, begun: Instant) {
        (self.number, self.is_used, self.begun) = (number, true, begun);
        (self.method, self.endpoint, self.attempts, self.status) = (None, None, 0, 0);
        (self.trace, self.server_name) = (None, None);
        self.authority.clear();
        self.path.clear();
        self.route.clear();
    }
}

/// The beginning of a text in place of what was there, without new memory where there is enough.
fn replace(text: &mut String, with: &str) {
    text.clear();
    text.push_str(trace::beginning(with));
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is shown of a waypoint's, oldest first.
#[must_use]
pub fn shown(waypoint: &Waypoint, now: (Instant, SystemTime)) -> page::Requests {
    let most = waypoint.limits.size(&fairway_core::limits::REQUESTS_SHOWN);
    let (requests, in_flight) = waypoint.in_flight.oldest(most, now);
    page::Requests { left_out: in_flight.saturating_sub(requests.len()), in_flight, requests }
}
