//! What all connections through the waypoint share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use fairway_core::io::certs::Certificates;
use fairway_core::io::hbone::handshakes::Handshakes;
use fairway_core::io::hbone::{Pool, ReceiveBudget};
use fairway_core::io::live::Live;
use fairway_core::io::socket::SocketFactory;
use fairway_core::limits::{self, Limits};
use fairway_core::view::PodView;
use fairway_core::workload::Workload;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::{Assignment, Cluster, Current};
use crate::export::Exports;
use crate::in_flight::InFlight;
use crate::lines::Lines;
use crate::load::{Load, Loads, Seen};
use crate::names::Names;
use crate::origination::Originations;
use crate::rates::Buckets;
use crate::telemetry::Telemetry;
use crate::upstream::Upstreams;
use crate::xds::Held;

/// What all connections share.
pub struct Waypoint {
    /// The world as it is now.
    pub live: Live,
    /// What is done with requests.
    pub config: Arc<Current>,
    /// That, as the control plane has sent it.
    pub held: Held,
    /// Requests and streams under way.
    pub in_flight: InFlight,
    /// What the world says of ourselves.
    pub view: watch::Receiver<Arc<PodView>>,
    /// What it said last: a pod that is to end is not announced any more, and still has clients who have not heard.
    pub last: ArcSwapOption<Workload>,
    /// Our certificate.
    pub certificates: Certificates,
    /// Makes sockets.
    pub sockets: SocketFactory,
    /// Tunnels to the nodes of endpoints.
    pub tunnels: Pool,
    /// Connections inside those that carry requests.
    pub upstreams: Upstreams,
    /// TLS with servers outside of the mesh.
    pub originations: Originations,
    /// Addresses of endpoints that are known by name.
    pub names: Names,
    /// How busy clusters are.
    pub loads: Loads,
    /// How many requests may pass.
    pub rates: Buckets,
    /// Metrics and access log.
    pub telemetry: Telemetry,
    /// What collectors are told.
    pub exports: Exports,
    /// Lines of access logs.
    pub lines: Lines,
    /// Tunnels to us whose clients are not proven yet.
    pub handshakes: Handshakes,
    /// Every bound.
    pub limits: Limits,
    /// How long clients have to hear that we stop: what the limits say, and no more than half of the time that stopping may take.
    pub drain_notice: Duration,
    /// What clients may have on its way to us.
    pub budget: ReceiveBudget,
}

impl Waypoint {
    /// Our own workload, if the controller has announced it, as it was last.
    #[must_use]
    pub fn known(&self) -> Option<Arc<Workload>> {
        let Some(now) = self.view.borrow().workload.clone() else { return self.last.load_full() };
        if !self.last.load().as_ref().is_some_and(|last| Arc::ptr_eq(last, &now)) {
            self.last.store(Some(Arc::clone(&now)));
        }
        Some(now)
    }

    /// Each cluster by name: what is under way, of how much there may be, and which endpoints are asked. One that nobody has asked for
    /// is as `unused`, or left out without.
    pub fn clusters(&self, unused: Option<&Load>, now: Instant) -> BTreeMap<String, Seen> {
        let (config, nobody) = (self.config.load(), Assignment::default());
        let seen = |(name, cluster): (&String, &Arc<Cluster>)| {
            let load = self.loads.known(name);
            let assignment = config.endpoints.get(&cluster.endpoints).map_or(&nobody, |assignment| &**assignment);
            Some((name.clone(), load.as_deref().or(unused)?.seen(cluster, assignment, now)))
        };
        config.clusters.iter().filter_map(seen).collect()
    }

    /// Our own workload, waited for.
    pub async fn workload(&self) -> Option<Arc<Workload>> {
        if let Some(known) = self.known() {
            return Some(known);
        }
        let mut view = self.view.clone();
        let known = view.wait_for(|view| view.workload.is_some());
        let view = timeout(self.limits.duration(&limits::WORKLOAD_WAIT), known).await.ok()?.ok()?;
        view.workload.clone()
    }
}
