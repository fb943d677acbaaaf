//! What the connections of one enrolled pod share.

use std::iter;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use fairway_core::io::certs::Certificates;
use fairway_core::io::drain::Drain;
use fairway_core::io::hbone::{Pool, ReceiveBudget};
use fairway_core::io::live::Live;
use fairway_core::io::socket::SocketFactory;
use fairway_core::limits::{self, Limits};
use fairway_core::snapshot::PodRef;
use fairway_core::view::PodView;
use fairway_core::workload::Workload;
use fairway_core::workload::newcomer::Site;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::dns::Dns;
use crate::dns::lookup::Lookup;
use crate::memory::pressure::Pressure;
use crate::neighbours::Neighbours;
use crate::telemetry::Telemetry;
use crate::workers::{Place, Workers};
use fairway_core::io::hbone::handshakes::Handshakes;

/// What all pods of the node share.
pub struct Mesh {
    /// Where this is.
    pub site: Site,
    /// The world as it is now.
    pub live: Live,
    /// Certificates of the node's workloads.
    pub certificates: Certificates,
    /// Metrics, access log, open connections.
    pub telemetry: Telemetry,
    /// Every bound.
    pub limits: Limits,
    /// What peers may have on its way to all of them.
    pub budget: ReceiveBudget,
    /// Whether there is memory for more.
    pub pressure: Pressure,
    /// Whether pods are served on IPv6 as well.
    pub ipv6: bool,
    /// Whether answers describe the pod, and the word of peers gives labels where no address does.
    pub exchange_baggage: bool,
    /// Whether tunnels may come around waypoints that they should have come through.
    pub waypoint_bypass: bool,
    /// Whether policies look at the clients for whom waypoints speak.
    pub clients_behind_waypoints: bool,
    /// Whether an application that takes the PROXY protocol is spoken to over loopback, and not at its pod's address.
    pub tunnel_over_loopback: bool,
    /// The node's enrolled pods, for connections between two of them.
    pub neighbours: Neighbours,
    /// The threads that carry connections.
    pub workers: Workers,
    /// Resolves the endpoints that have only a name.
    pub lookup: Lookup,
    /// Answers the pods' DNS queries, if that is on.
    pub dns: Option<Arc<Dns>>,
}

/// One enrolled pod.
pub struct Pod {
    /// Who it is to the controller.
    pub reference: PodRef,
    /// What the node's pods share.
    pub mesh: Arc<Mesh>,
    /// What decides about its connections.
    view: watch::Receiver<Arc<PodView>>,
    /// Makes sockets in the pod's namespace.
    pub sockets: SocketFactory,
    /// Tunnels that carry the pod's connections to others; each worker has its own.
    pools: Box<[Pool]>,
    /// Tunnels to the pod whose clients are not proven yet.
    pub handshakes: Handshakes,
    /// Whether its application sees its clients' addresses instead of ours.
    pub preserve_source: bool,
    /// Starts when the pod leaves or the proxy stops.
    pub drain: Drain,
    /// Whether the controller has announced it, ever.
    announced: AtomicBool,
    /// The last announcement that was found to be of this pod.
    recognised: ArcSwapOption<Workload>,
}

impl Pod {
    /// A pod whose sockets are made by `sockets` and that is served until `drain` starts.
    #[must_use]
    pub fn new(
        reference: PodRef,
        mesh: Arc<Mesh>,
        sockets: SocketFactory,
        preserve_source: bool,
        drain: Drain,
    ) -> Self {
        let view = mesh.live.subscribe(&reference);
        let pool = || Pool::new(sockets.clone(), mesh.certificates.clone(), mesh.budget.clone());
        let pools = iter::repeat_with(pool).take(mesh.workers.count()).collect();
        let handshakes = Handshakes::within(&mesh.limits);
        let (announced, recognised) = (AtomicBool::new(false), ArcSwapOption::empty());
        Self { reference, mesh, view, sockets, pools, handshakes, preserve_source, drain, announced, recognised }
    }

    /// The tunnels of the worker that `place` is on; all connections of a worker share them.
    #[must_use]
    pub fn pool(&self, place: &Place) -> &Pool {
        // Places are given by the workers the pools were made for.
        &self.pools[place.worker()]
    }

    /// The tunnels of every worker.
    #[must_use]
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// Follows what decides about this pod's connections. Costs no look at the world: the writer may be busy with it.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<PodView>> {
        self.view.clone()
    }

    /// The pod as far as its node knows it, while the controller has not announced it; see [`Site::newcomer`]. One that was
    /// announced and is not any more is no newcomer.
    #[must_use]
    pub fn newcomer(&self, address: IpAddr) -> Option<Workload> {
        if self.is_announced() || self.view.borrow().workload.is_some() {
            return None;
        }
        self.mesh.site.newcomer(&self.reference, address, &self.mesh.live.snapshot())
    }

    /// The pod's own workload, waited for: a new pod's traffic may be faster than its announcement.
    pub async fn workload(&self) -> Option<Arc<Workload>> {
        let ours = |view: &PodView| view.workload.as_ref().is_some_and(|workload| self.is_ours(workload));
        let mut view = self.view();
        if ours(&view.borrow()) {
            return view.borrow().workload.clone();
        }
        let known = view.wait_for(|view| ours(view));
        let view = timeout(self.mesh.limits.duration(&limits::WORKLOAD_WAIT), known).await.ok()?.ok()?;
        view.workload.clone()
    }

    /// The controller has announced the pod; says whether that is news.
    pub fn announce(&self) -> bool {
        !self.announced.swap(true, Ordering::Relaxed)
    }

    /// Whether the controller has announced the pod, ever.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed)
    }

    /// Whether the announcement is of this pod, and not of one that had its name before: then none of its addresses is in
    /// this namespace. What is in force for the other one, labels and policies, says nothing of this one.
    fn is_ours(&self, workload: &Arc<Workload>) -> bool {
        if !self.sockets.is_in_namespace() || workload.addresses.is_empty() {
            return true;
        }
        if self.recognised.load().as_ref().is_some_and(|known| Arc::ptr_eq(known, workload)) {
            return true;
        }
        let ours = workload.addresses.iter().any(|address| self.sockets.owns(*address));
        if ours {
            self.recognised.store(Some(Arc::clone(workload)));
        }
        ours
    }
}
