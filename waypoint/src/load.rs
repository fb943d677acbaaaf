//! How busy each cluster is: whose turn it is, and whether one more request or repetition is too many.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::{Assignment, Cluster};

/// Repetitions that may be under way at once in any case, so that a quiet service has some.
const RETRIES_AT_LEAST: u32 = 3;
/// Requests under way for which there may be one repetition: with a fifth more load a service in trouble is not pushed over.
const REQUESTS_FOR_A_RETRY: u32 = 5;

/// One cluster.
#[derive(Debug, Default)]
pub struct Load {
    requests: AtomicU32,
    retries: AtomicU32,
    turn: AtomicUsize,
}

/// All clusters that were ever asked for.
#[derive(Debug, Default)]
pub struct Loads(Mutex<HashMap<Arc<str>, Arc<Load>>>);

/// Something under way; over when this is dropped.
#[derive(Debug)]
pub struct UnderWay {
    load: Arc<Load>,
    counter: fn(&Load) -> &AtomicU32,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        (self.counter)(&self.load).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Loads {
    /// The cluster of this name.
    #[must_use]
    pub fn of(&self, cluster: &Arc<str>) -> Arc<Load> {
        let mut loads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(load) = loads.get(cluster) {
            return Arc::clone(load);
        }
        Arc::clone(loads.entry(Arc::clone(cluster)).or_default())
    }

    /// Forgets clusters that are not `wanted` any more.
    pub fn keep(&self, wanted: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|cluster, _| wanted(cluster));
    }
}

impl Load {
    /// Begins a request, unless there are enough.
    #[must_use]
    pub fn request(self: &Arc<Self>, cluster: &Cluster) -> Option<UnderWay> {
        self.begin(|load| &load.requests, cluster.requests)
    }

    /// Begins a repetition, unless there are enough for the requests under way.
    #[must_use]
    pub fn retry(self: &Arc<Self>, cluster: &Cluster) -> Option<UnderWay> {
        let budget = (self.requests.load(Ordering::Relaxed) / REQUESTS_FOR_A_RETRY).max(RETRIES_AT_LEAST);
        self.begin(|load| &load.retries, budget.min(cluster.retries))
    }

    fn begin(self: &Arc<Self>, counter: fn(&Self) -> &AtomicU32, most: u32) -> Option<UnderWay> {
        let more = |now: u32| (now < most).then(|| now + 1);
        counter(self).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(UnderWay { load: Arc::clone(self), counter })
    }

    /// The endpoint whose turn it is: of the first priority that has one that was not `tried`, or else any.
    #[must_use]
    pub fn pick(&self, assignment: &Assignment, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let untried = |endpoints: &&Vec<SocketAddr>| endpoints.iter().any(|endpoint| !tried.contains(endpoint));
        let all = &assignment.priorities;
        let endpoints = all.iter().find(untried).or_else(|| all.iter().find(|endpoints| !endpoints.is_empty()))?;
        let count = endpoints.len();
        let order = (0..count).filter_map(|step| endpoints.get((turn.wrapping_add(step)) % count));
        let mut order = order.copied().peekable();
        let first = order.peek().copied();
        order.find(|endpoint| !tried.contains(endpoint)).or(first)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Protocol;

    fn endpoints(ports: &[&[u16]]) -> Assignment {
        let one = |port: &u16| SocketAddr::from(([10, 0, 0, 1], *port));
        Assignment { priorities: ports.iter().map(|ports| ports.iter().map(one).collect()).collect() }
    }

    #[test]
    fn turns_go_round_and_leave_out_what_was_tried() {
        let load = Load::default();
        let ports = |assignment: &Assignment, tried: &[u16]| -> Vec<u16> {
            let tried: Vec<_> = tried.iter().map(|port| SocketAddr::from(([10, 0, 0, 1], *port))).collect();
            (0..4).filter_map(|_| load.pick(assignment, &tried)).map(|endpoint| endpoint.port()).collect()
        };
        let two = endpoints(&[&[1, 2], &[3]]);
        assert_eq!(ports(&two, &[]), [1, 2, 1, 2]);
        assert_eq!(ports(&two, &[1]), [2, 2, 2, 2]);
        assert_eq!(ports(&two, &[1, 2]), [3, 3, 3, 3]);
        assert_eq!(ports(&two, &[1, 2, 3]), [1, 2, 1, 2], "rather one that failed than none");
        assert_eq!(ports(&endpoints(&[&[], &[3]]), &[]), [3, 3, 3, 3]);
        assert_eq!(ports(&endpoints(&[&[]]), &[]), Vec::<u16>::new());
    }

    #[test]
    fn requests_and_repetitions_are_bounded() {
        let cluster = |requests, retries| Cluster {
            endpoints: String::new(),
            protocol: Protocol::Http1,
            connect_timeout: Duration::ZERO,
            requests,
            retries,
        };
        let load = Arc::new(Load::default());
        let under_way: Vec<_> = (0..30).map(|_| load.request(&cluster(30, 100)).unwrap()).collect();
        assert!(load.request(&cluster(30, 100)).is_none());
        let retries: Vec<_> = (0..9).map_while(|_| load.retry(&cluster(30, 100))).collect();
        assert_eq!(retries.len(), 6, "a fifth of the requests");
        drop(retries);
        assert_eq!((0..9).map_while(|_| load.retry(&cluster(30, 2))).collect::<Vec<_>>().len(), 2);
        drop(under_way);
        assert_eq!((0..9).map_while(|_| load.retry(&cluster(30, 100))).collect::<Vec<_>>().len(), 3);
    }
}
