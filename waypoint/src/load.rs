//! How busy each cluster is: who is next, and whether one more request, repetition or connection is too many.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

pub use outliers::Outcome;
use outliers::Record;
use places::Places;
pub use places::{hash, hash_of_all};
pub use seen::{Bounded, Seen};
use weights::{Arrivals, Weighed};

use crate::config::{Assignment, Balancer, Bounds, Cluster};

mod outliers;
mod places;
mod seen;
mod weights;

#[cfg(test)]
mod tests;

/// One cluster.
#[derive(Debug, Default)]
pub struct Load {
    requests: Used,
    retries: Used,
    waiting: Used,
    connections: Used,
    turn: AtomicUsize,
    /// Wakes who waits for a connection when one has ended or may be used again.
    freed: Notify,
    /// Requests under way to each endpoint, where that decides who is next.
    busy: Mutex<HashMap<SocketAddr, Arc<AtomicU32>>>,
    record: Mutex<Record>,
    /// Since when endpoints are there, where that decides how much they get.
    arrivals: Mutex<Arrivals>,
    built: Mutex<Option<Arc<Built>>>,
}

/// How much of a bound is used.
#[derive(Debug, Default)]
struct Used {
    now: AtomicU32,
    /// How often there was no more.
    refused: AtomicU64,
}

/// Places of the endpoints of an assignment, for each priority.
#[derive(Debug)]
struct Built {
    assignment: Arc<Assignment>,
    balancer: Balancer,
    places: Vec<Option<Places>>,
}

/// All clusters that were ever asked for.
#[derive(Debug, Default)]
pub struct Loads(Mutex<HashMap<Arc<str>, Arc<Load>>>);

/// Something under way; over when this is dropped.
#[derive(Debug)]
pub struct UnderWay {
    load: Arc<Load>,
    used: fn(&Load) -> &Used,
    /// Whether somebody may be waiting for its end.
    wakes: bool,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        (self.used)(&self.load).now.fetch_sub(1, Ordering::Relaxed);
        if self.wakes {
            self.load.free();
        }
    }
}

/// A request under way to one endpoint; over when this is dropped.
#[derive(Debug)]
pub struct Busy(Arc<AtomicU32>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What an endpoint is wanted for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What the request is told apart by.
    pub hash: Option<u64>,
    /// The endpoint that its client wants back.
    pub session: Option<SocketAddr>,
    /// Endpoints that have failed it.
    pub tried: &'a [SocketAddr],
    /// The time.
    pub now: Instant,
}

impl Loads {
    /// The cluster of this name.
    #[must_use]
    pub fn of(&self, cluster: &Arc<str>) -> Arc<Load> {
        let mut loads = lock(&self.0);
        if let Some(load) = loads.get(cluster) {
            return Arc::clone(load);
        }
        Arc::clone(loads.entry(Arc::clone(cluster)).or_default())
    }

    /// The cluster of this name, if anybody has asked for it.
    #[must_use]
    pub fn known(&self, cluster: &str) -> Option<Arc<Load>> {
        lock(&self.0).get(cluster).cloned()
    }

    /// Forgets clusters that have no `endpoints` any more, and endpoints that are not among them.
    pub fn keep<'a>(&self, known: impl Fn(&str) -> Option<(&'a Cluster, &'a Arc<Assignment>)>, now: Instant) {
        lock(&self.0).retain(|name, load| match known(name) {
            Some((cluster, assignment)) => {
                let is_there = |endpoint: &SocketAddr| assignment.priorities.iter().any(|all| all.contains(endpoint));
                lock(&load.busy).retain(|endpoint, count| Arc::strong_count(count) > 1 || is_there(endpoint));
                let mut record = lock(&load.record);
                record.follow(cluster.outliers.as_ref());
                record.keep(is_there);
                drop(record);
                let mut arrivals = lock(&load.arrivals);
                if arrivals.is_kept() {
                    arrivals.meet(assignment, now);
                }
                true
            }
            None => false,
        });
    }
}

impl Load {
    /// Begins a request, unless there are enough.
    #[must_use]
    pub fn request(self: &Arc<Self>, cluster: &Cluster) -> Option<UnderWay> {
        self.begin(|load| &load.requests, cluster.bounds.requests, false)
    }

    /// Begins a repetition, unless there are enough for the requests under way.
    #[must_use]
    pub fn retry(self: &Arc<Self>, cluster: &Cluster) -> Option<UnderWay> {
        let Bounds { retries, budget, .. } = &cluster.bounds;
        let most = budget.of(self.requests.now.load(Ordering::Relaxed)).min(*retries);
        self.begin(|load| &load.retries, most, false)
    }

    /// Requests and repetitions under way, and requests to endpoints where they are counted.
    #[cfg(test)]
    pub(crate) fn under_way(&self) -> [u32; 3] {
        let busy = lock(&self.busy).values().map(|count| count.load(Ordering::Relaxed)).sum();
        [self.requests.now.load(Ordering::Relaxed), self.retries.now.load(Ordering::Relaxed), busy]
    }

    /// Begins to wait for a connection, unless enough do.
    #[must_use]
    pub fn wait(self: &Arc<Self>, cluster: &Cluster) -> Option<UnderWay> {
        self.begin(|load| &load.waiting, cluster.bounds.waiting, false)
    }

    /// Begins a connection, unless there are enough.
    #[must_use]
    pub fn connect(self: &Arc<Self>, cluster: &Cluster) -> Option<UnderWay> {
        self.begin(|load| &load.connections, cluster.bounds.connections, true)
    }

    fn begin(self: &Arc<Self>, used: fn(&Self) -> &Used, most: u32, wakes: bool) -> Option<UnderWay> {
        let more = |now: u32| (now < most).then(|| now + 1);
        if used(self).now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            used(self).refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(UnderWay { load: Arc::clone(self), used, wakes })
    }

    /// Resolves when a connection has ended or may be used again.
    pub fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Somebody who waits for a connection may look again.
    pub fn free(&self) {
        self.freed.notify_waiters();
    }

    /// Begins a request to `endpoint`, where it matters how many it has.
    #[must_use]
    pub fn busy(&self, cluster: &Cluster, endpoint: SocketAddr) -> Option<Busy> {
        (cluster.balancer == Balancer::LeastRequest).then(|| {
            let count = Arc::clone(lock(&self.busy).entry(endpoint).or_default());
            count.fetch_add(1, Ordering::Relaxed);
            Busy(count)
        })
    }

    /// Notes what came of asking `endpoint`; who is left out from now on.
    pub fn note(
        &self,
        cluster: &Cluster,
        assignment: &Assignment,
        endpoint: SocketAddr,
        outcome: Outcome,
        now: Instant,
    ) -> Vec<SocketAddr> {
        let Some(policy) = &cluster.outliers else { return Vec::new() };
        let count = assignment.priorities.iter().map(Vec::len).sum();
        lock(&self.record).note(policy, count, endpoint, outcome, now)
    }

    /// Whether a client that was at this endpoint may come back to it: it is there, and not left out.
    #[must_use]
    pub fn keeps(&self, cluster: &Cluster, assignment: &Assignment, endpoint: SocketAddr, now: Instant) -> bool {
        assignment.priorities.iter().any(|all| all.contains(&endpoint))
            && (cluster.outliers.is_none() || !self.is_out(cluster, endpoint, now))
    }

    fn is_out(&self, cluster: &Cluster, endpoint: SocketAddr, now: Instant) -> bool {
        lock(&self.record).by(cluster.outliers.as_ref()).is_some_and(|record| record.is_out(&endpoint, now))
    }

    /// The endpoint that is next: the one that the client wants back, or of the first priority that has one that was not tried, or
    /// else any. `draw` is any number below the one it is given.
    #[must_use]
    pub fn pick(
        &self,
        cluster: &Cluster,
        assignment: &Arc<Assignment>,
        wanted: &Wanted<'_>,
        draw: &mut dyn FnMut(usize) -> usize,
    ) -> Option<SocketAddr> {
        let back = wanted.session.filter(|endpoint| !wanted.tried.contains(endpoint));
        if let Some(endpoint) = back.filter(|endpoint| self.keeps(cluster, assignment, *endpoint, wanted.now)) {
            return Some(endpoint);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let untried = |endpoint: &SocketAddr| !wanted.tried.contains(endpoint);
        let find = |is_good: &dyn Fn(&[SocketAddr]) -> bool| {
            let mut priorities = assignment.priorities.iter().enumerate();
            priorities.find_map(|(priority, all)| {
                let used = self.used(cluster, all, wanted.now);
                is_good(&used).then_some((priority, used))
            })
        };
        let fresh = find(&|used| used.iter().any(untried));
        let has_fresh = fresh.is_some();
        let (priority, used) = fresh.or_else(|| find(&|used| !used.is_empty()))?;
        let may = |endpoint: &SocketAddr| !has_fresh || untried(endpoint);
        if !matches!((cluster.balancer, wanted.hash), (Balancer::Ring(_) | Balancer::Table(_), Some(_)))
            && let Some(weighed) = self.weighed(cluster, assignment, (priority, &used), wanted.now)
        {
            let weighed = weighed.into_iter().filter(|(endpoint, _)| may(endpoint)).collect();
            return self.pick_by_weight(cluster, &weighed, turn, draw);
        }
        let count = used.len();
        let from = |start: usize| {
            let order = (0..count).filter_map(|step| used.get(start.wrapping_add(step) % count));
            order.copied().find(may)
        };
        match (cluster.balancer, wanted.hash) {
            (Balancer::RoundRobin, _) => from(turn),
            (Balancer::LeastRequest, _) => {
                let (one, other) = (from(draw(count))?, from(draw(count))?);
                let busy = lock(&self.busy);
                let under_way = |it: &SocketAddr| busy.get(it).map_or(0, |count| count.load(Ordering::Relaxed));
                Some(if under_way(&other) < under_way(&one) { other } else { one })
            }
            (Balancer::Ring(_) | Balancer::Table(_), Some(hash)) => {
                let built = self.built(cluster.balancer, assignment);
                let all = assignment.priorities.get(priority)?;
                let mut order = built.places.get(priority)?.as_ref()?.from(hash).filter_map(|index| all.get(index));
                order.find(|endpoint| may(endpoint) && used.contains(endpoint)).copied()
            }
            (Balancer::Random | Balancer::Ring(_) | Balancer::Table(_), _) => from(draw(count)),
        }
    }

    /// Those of a priority that are used with their weights, unless these are all the same.
    fn weighed(
        &self,
        cluster: &Cluster,
        assignment: &Arc<Assignment>,
        (priority, used): (usize, &[SocketAddr]),
        now: Instant,
    ) -> Option<Weighed> {
        let mut arrivals = cluster.warm_up.as_ref().map(|policy| (policy, lock(&self.arrivals)));
        if let Some((_, arrivals)) = &mut arrivals {
            arrivals.meet(assignment, now);
        }
        let warming = arrivals.as_ref().filter(|(policy, arrivals)| arrivals.is_anybody_new(policy, now));
        if warming.is_none() && assignment.weights(priority).is_none() {
            return None;
        }
        let all = assignment.priorities.get(priority)?;
        // Those that are used stand in the order of all.
        let mut left = used.iter().peekable();
        let weigh = |(index, endpoint): (usize, &SocketAddr)| {
            let weight = weights::given(assignment, priority, index);
            let weight = warming.map_or(weight, |(policy, known)| known.warmed(policy, endpoint, weight, now));
            (*endpoint, weight)
        };
        let weighed = all.iter().enumerate().filter(|(_, endpoint)| left.next_if_eq(endpoint).is_some()).map(weigh);
        let weighed: Weighed = weighed.collect();
        let is_even = weighed.iter().all(|(_, weight)| weighed.first().is_some_and(|(_, first)| first == weight));
        (!is_even).then_some(weighed)
    }

    fn pick_by_weight(
        &self,
        cluster: &Cluster,
        weighed: &Weighed,
        turn: usize,
        draw: &mut dyn FnMut(usize) -> usize,
    ) -> Option<SocketAddr> {
        let total = weights::total(weighed);
        if total == 0 {
            return None;
        }
        if cluster.balancer == Balancer::RoundRobin {
            return weights::at(weighed, weights::spread(turn, total)).map(|(endpoint, _)| endpoint);
        }
        let (one, weight) = weights::at(weighed, draw(total))?;
        if cluster.balancer != Balancer::LeastRequest {
            return Some(one);
        }
        // Of two the one with fewer requests for its weight, this one included.
        let (other, others) = weights::at(weighed, draw(total))?;
        let busy = lock(&self.busy);
        let with_this = |it: &SocketAddr| u128::from(busy.get(it).map_or(0, |count| count.load(Ordering::Relaxed))) + 1;
        let is_less = with_this(&other) * u128::from(weight) < with_this(&one) * u128::from(others);
        Some(if is_less { other } else { one })
    }

    /// Those of `all` that are not left out; all if that would be too few.
    fn used<'a>(&self, cluster: &Cluster, all: &'a [SocketAddr], now: Instant) -> Cow<'a, [SocketAddr]> {
        let Some(policy) = &cluster.outliers else { return all.into() };
        let record = lock(&self.record);
        let Some(record) = record.by(Some(policy)) else { return all.into() };
        let left: Vec<_> = all.iter().filter(|endpoint| !record.is_out(endpoint, now)).copied().collect();
        #[expect(clippy::cast_precision_loss, reason = "numbers of endpoints")]
        let is_panic = (left.len() as f64) * 100.0 < policy.panic_percent * (all.len() as f64);
        if left.len() == all.len() || is_panic { all.into() } else { left.into() }
    }

    /// The places of these endpoints, made once.
    fn built(&self, balancer: Balancer, assignment: &Arc<Assignment>) -> Arc<Built> {
        let mut place = lock(&self.built);
        match &*place {
            Some(built) if built.balancer == balancer && Arc::ptr_eq(&built.assignment, assignment) => {
                Arc::clone(built)
            }
            _ => {
                let all = assignment.priorities.iter().enumerate();
                let places =
                    all.map(|(priority, all)| Places::of(balancer, all, assignment.weights(priority))).collect();
                let built = Arc::new(Built { assignment: Arc::clone(assignment), balancer, places });
                *place = Some(Arc::clone(&built));
                built
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
