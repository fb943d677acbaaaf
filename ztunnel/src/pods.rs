//! The node's enrolled pods: started, kept, replaced, drained.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fairway_core::io::certs::CertificateHandle;
use fairway_core::io::drain::{self, Drain, Mode, Trigger};
use fairway_core::io::hbone::Pool;
use fairway_core::io::metrics::{Counter, Gauge, Metrics};
use fairway_core::io::netns::{NamespaceEntry, NetworkNamespace};
use fairway_core::io::socket::{PACKET_MARK, Probing, SocketFactory, original_destination, reset_on_close};
use fairway_core::limits;
use fairway_core::reason::Reason;
use fairway_core::route::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};
use fairway_core::snapshot::PodRef;
use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::interval;

use crate::dns::serve::{Server, Sockets};
use crate::listen::{self, Accepted, Arrival};
use crate::node::{AddError, PodInfo, PodSet, PodUid};
use crate::pod::{Mesh, Pod};
use crate::telemetry::{ConnectionInfo, Outcome, Reporter};
use crate::{inbound, outbound, passthrough};

/// How often idle tunnels are looked for; a fraction of the time they may idle.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// The listener for what leaves a pod.
const OUTBOUND: &str = "outbound";

/// What is said of who is refused for want of memory.
pub(crate) const NO_MEMORY: &str = "the proxy has used up nearly all memory it may have (memory_shed_percent)";

const ACTIVE: &str = "workload_manager_active_proxy_count";
const STARTED: &str = "workload_manager_proxies_started_total";
const STOPPED: &str = "workload_manager_proxies_stopped_total";

/// All enrolled pods of the node. One owner starts and stops them: the node socket.
pub struct Pods {
    mesh: Arc<Mesh>,
    home: NetworkNamespace,
    settings: Settings,
    running: Mutex<HashMap<PodUid, Running>>,
    /// What is served in our own namespace: a dedicated proxy's one workload, or the proxy itself. No agent knows of it.
    own: Mutex<Option<Running>>,
    counts: Counts,
}

/// How many pods, under Istio's names (interop §9.1).
struct Counts {
    active: Gauge,
    started: Counter,
    stopped: Counter,
}

impl Counts {
    fn new(metrics: &Metrics) -> Self {
        metrics.describe(ACTIVE, "Pods served now.");
        metrics.describe(STARTED, "Pods that were started to be served.");
        metrics.describe(STOPPED, "Pods that are no longer served.");
        let (active, started) = (metrics.gauge(ACTIVE, &[]), metrics.counter(STARTED, &[]));
        active.set(0.0);
        Self { active, started, stopped: metrics.counter(STOPPED, &[]) }
    }

    fn started(&self) {
        self.started.increment(1);
        self.active.increment(1.0);
    }

    fn stopped(&self) {
        self.stopped.increment(1);
        self.active.decrement(1.0);
    }
}

/// What holds for all pods of one proxy.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name; a dedicated proxy may go without.
    pub node: Option<Arc<str>>,
    /// The mark on our packets.
    pub packet_mark: Option<u32>,
    /// Whether applications see their clients' addresses instead of ours.
    pub preserve_source: bool,
    /// How the kernel finds out that a peer is gone.
    pub probing: Probing,
}

/// Where a workload is served, and what of its traffic.
enum Place {
    /// In a pod's namespace, all of it.
    Pod(NetworkNamespace),
    /// In our own, all of it.
    Here,
    /// In our own, and only tunnels to it.
    OurselvesOnly,
}

struct Running {
    namespace: NetworkNamespace,
    info: PodInfo,
    trigger: Trigger,
}

impl Pods {
    /// No pods yet. `home` is the namespace this process lives in.
    #[must_use]
    pub fn new(mesh: Arc<Mesh>, home: NetworkNamespace, settings: Settings, metrics: &Metrics) -> Self {
        Self { mesh, home, settings, running: Mutex::default(), own: Mutex::default(), counts: Counts::new(metrics) }
    }

    /// Serves one workload in our own namespace, as a dedicated proxy does.
    ///
    /// # Errors
    /// When a port is taken, or a socket may not be made as it has to be.
    pub fn serve_here(&self, info: PodInfo) -> io::Result<()> {
        self.serve_own(info, Place::Here)
    }

    /// Takes tunnels to the proxy's own pod, so that its ports can be reached through the mesh (interop §1.1).
    ///
    /// # Errors
    /// As [`Pods::serve_here`].
    pub fn serve_ourselves(&self, info: PodInfo) -> io::Result<()> {
        self.serve_own(info, Place::OurselvesOnly)
    }

    fn serve_own(&self, info: PodInfo, place: Place) -> io::Result<()> {
        let running = self.start(info, place)?;
        tracing::info!(workload = %running.info, "workload of our own namespace is served");
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        Ok(())
    }

    /// The pods served now, for dumps.
    #[must_use]
    pub fn list(&self) -> Vec<(PodUid, PodInfo)> {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let own = own.iter().map(|running| (PodUid::new(running.info.to_string()), running.info.clone()));
        self.lock().iter().map(|(uid, running)| (uid.clone(), running.info.clone())).chain(own).collect()
    }

    /// Stops accepting for all pods and gives open connections until `deadline` to end.
    pub async fn drain(&self, deadline: Duration) {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner).take();
        let pods: Vec<_> = self.lock().drain().map(|(_, running)| running).collect();
        pods.iter().for_each(|_| self.counts.stopped());
        let triggers: Vec<_> = pods.into_iter().chain(own).map(|running| running.trigger).collect();
        for trigger in &triggers {
            trigger.start(Mode::Graceful);
        }
        join_all(triggers.iter().map(|trigger| trigger.drain(Mode::Graceful, deadline))).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PodUid, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, info: PodInfo, place: Place) -> io::Result<Running> {
        let Settings { node, packet_mark, preserve_source, probing } = self.settings.clone();
        let (namespace, sockets) = match &place {
            Place::Pod(namespace) => {
                let entry = NamespaceEntry::new(self.home.clone(), namespace.clone());
                (namespace.clone(), SocketFactory::in_namespace(entry, packet_mark.unwrap_or(PACKET_MARK)))
            }
            Place::Here | Place::OurselvesOnly => (self.home.clone(), SocketFactory::host(packet_mark)),
        };
        let sockets = sockets.within(&self.mesh.limits, probing);
        let ourselves_only = matches!(place, Place::OurselvesOnly);
        let worker = self.mesh.workers.home();
        let on_worker = self.mesh.workers.enter(worker);
        // All or none: the agent is told that the pod is served only when it is (interop §13 trap 11).
        let listen = |port| sockets.listen_all(port, self.mesh.ipv6);
        let captured = if ourselves_only { None } else { Some((listen(OUTBOUND_PORT)?, listen(PLAINTEXT_PORT)?)) };
        let tunnel_listener = listen(HBONE_PORT)?;
        let dns = self.mesh.dns.as_ref().filter(|_| !ourselves_only);
        let dns = dns
            .map(|dns| Sockets::open(&sockets, dns.port, self.mesh.ipv6).map(|sockets| (dns, sockets)))
            .transpose()?;
        let (trigger, drain) = drain::new();
        let reference = PodRef {
            node,
            namespace: info.namespace.as_str().into(),
            name: info.name.as_str().into(),
            service_account: info.service_account.as_str().into(),
        };
        // Nothing in our own namespace sends answers to a borrowed address back to us (interop §1.1).
        let preserve_source = preserve_source && !ourselves_only;
        let pod = Arc::new(Pod::new(reference, Arc::clone(&self.mesh), sockets, preserve_source, drain.clone()));
        if let Some((outbound, plaintext)) = captured {
            accept(OUTBOUND, &pod, worker, outbound, outbound::serve);
            accept("plaintext", &pod, worker, plaintext, passthrough::serve);
            self.mesh.neighbours.add(&pod);
        }
        accept("tunnel", &pod, worker, tunnel_listener, inbound::serve);
        if let Some((dns, sockets)) = dns {
            Server::start(Arc::clone(&pod), Arc::clone(dns), sockets, &drain);
        }
        drop(on_worker);
        tokio::spawn(keep(pod, drain));
        Ok(Running { namespace, info, trigger })
    }

    fn stop(&self, running: Running, mode: Mode) {
        self.counts.stopped();
        tracing::info!(pod = %running.info, ?mode, "pod is no longer served");
        let (trigger, deadline) = (running.trigger, self.mesh.limits.duration(&limits::DRAIN_DEADLINE));
        tokio::spawn(async move { trigger.drain(mode, deadline).await });
    }
}

impl PodSet for Pods {
    async fn add(&self, uid: PodUid, info: PodInfo, netns: OwnedFd) -> Result<(), AddError> {
        let failed = |error: io::Error| AddError::new(format!("cannot serve pod {info}: {error}"));
        let namespace = NetworkNamespace::from_descriptor(netns).map_err(failed)?;
        let mut pods = self.lock();
        if let Some(running) = pods.get(&uid) {
            if running.namespace == namespace {
                return Ok(());
            }
            // The sandbox was recreated: the old namespace is dying, nothing in it is worth waiting for.
            if let Some(old) = pods.remove(&uid) {
                self.stop(old, Mode::Immediate);
            }
        }
        let running = self.start(info.clone(), Place::Pod(namespace)).map_err(failed)?;
        tracing::info!(pod = %info, namespace = ?running.namespace, "pod is served");
        self.counts.started();
        pods.insert(uid, running);
        Ok(())
    }

    async fn remove(&self, uid: &PodUid, immediate: bool) {
        let running = self.lock().remove(uid);
        if let Some(running) = running {
            self.stop(running, if immediate { Mode::Immediate } else { Mode::Graceful });
        }
    }

    async fn retain(&self, uids: &HashSet<PodUid>) {
        let gone: Vec<_> = self.lock().extract_if(|uid, _| !uids.contains(uid)).collect();
        for (_, running) in gone {
            self.stop(running, Mode::Graceful);
        }
    }
}

/// Accepts for `pod` on `worker`, and has each connection served by the worker that has time for it.
fn accept<T>(
    name: &'static str,
    pod: &Arc<Pod>,
    worker: usize,
    listener: TcpListener,
    serve: fn(Arc<Pod>, Accepted) -> T,
) where
    T: Future<Output = ()> + Send + 'static,
{
    // Each listener has its own: strangers at one must not keep the pod from using another.
    let permits = Arc::new(Semaphore::new(pod.mesh.limits.size(&limits::CONNECTIONS_PER_POD)));
    let (workers, drain) = (&pod.mesh.workers, pod.drain.clone());
    let pod = Arc::clone(pod);
    let handle = move |arrival: Arrival| {
        if pod.mesh.pressure.is_high() {
            return refuse_for_memory(name, &pod, &arrival);
        }
        let served = Arc::clone(&pod);
        pod.mesh.workers.serve(worker, arrival, move |accepted| serve(served, accepted));
    };
    workers.spawn(worker, listen::accept(name, listener, permits, drain, handle));
}

/// Refuses a connection while it costs next to nothing: before a task, a handshake or a buffer is made for it.
fn refuse_for_memory(name: &str, pod: &Pod, arrival: &Arrival) {
    let reporter = if name == OUTBOUND { Reporter::Source } else { Reporter::Destination };
    let destination = original_destination(&arrival.stream).or_else(|_| arrival.stream.local_addr());
    reset_on_close(&arrival.stream);
    if let Ok(destination) = destination {
        let mut info = ConnectionInfo::new(reporter, arrival.peer, destination);
        let ours = pod.view().borrow().workload.clone();
        match reporter {
            Reporter::Source => info.source_workload = ours,
            Reporter::Destination => info.destination_workload = ours,
        }
        pod.mesh.telemetry.shed(&info, &Outcome::because(Reason::ResourceLimit, NO_MEMORY));
    }
}

/// While the pod is served: holds the certificate of whoever it is now, or will be as far as its node knows, so that the
/// first connection need not wait for one; and lets idle tunnels go.
async fn keep(pod: Arc<Pod>, mut drain: Drain) {
    let mut view = pod.view();
    let mut certificate: Option<CertificateHandle> = None;
    let idle = pod.mesh.limits.duration(&limits::POOL_IDLE_TIMEOUT);
    let mut sweeps = interval(SWEEP_INTERVAL.min(idle));
    loop {
        let announced = view.borrow_and_update().workload.as_ref().map(|workload| workload.identity());
        let is_news = announced.is_some() && pod.announce();
        // One that is withdrawn keeps what it has: it may be back in a moment.
        let guess =
            || pod.mesh.site.identity(&pod.reference, &pod.mesh.live.snapshot()).filter(|_| !pod.is_announced());
        if let Some(identity) = announced.or_else(guess)
            && certificate.as_ref().is_none_or(|held| *held.identity() != identity)
        {
            // The old one is let go with its tunnels, which hold it, too.
            certificate = Some(pod.mesh.certificates.claim(&identity));
        } else if is_news {
            // The authority may have refused what it had not heard of.
            certificate.iter().for_each(CertificateHandle::hurry);
        }
        tokio::select! {
            Ok(()) = view.changed() => {}
            now = sweeps.tick() => {
                for pool in pod.pools() {
                    pool.sweep(idle, now);
                }
            }
            _mode = drain.started() => break,
        }
    }
    pod.pools().iter().for_each(Pool::clear);
}
