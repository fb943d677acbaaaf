//! The node's enrolled pods: started, kept, replaced, drained.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fairway_core::io::drain::{self, Drain, Mode, Trigger};
use fairway_core::io::hbone::Pool;
use fairway_core::io::metrics::{Counter, Gauge, Metrics};
use fairway_core::io::netns::{NamespaceEntry, NetworkNamespace};
use fairway_core::io::socket::{PACKET_MARK, SocketFactory};
use fairway_core::limits;
use fairway_core::route::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};
use fairway_core::snapshot::PodRef;
use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::interval;

use crate::dns::serve::{Server, Sockets};
use crate::listen::{self, Accepted};
use crate::node::{AddError, PodInfo, PodSet, PodUid};
use crate::pod::{Mesh, Pod};
use crate::{inbound, outbound, passthrough};

/// How often idle tunnels are looked for; a fraction of the time they may idle.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

const ACTIVE: &str = "workload_manager_active_proxy_count";
const STARTED: &str = "workload_manager_proxies_started_total";
const STOPPED: &str = "workload_manager_proxies_stopped_total";

/// All enrolled pods of the node. One owner starts and stops them: the node socket.
pub struct Pods {
    mesh: Arc<Mesh>,
    home: NetworkNamespace,
    node: Arc<str>,
    running: Mutex<HashMap<PodUid, Running>>,
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

struct Running {
    namespace: NetworkNamespace,
    info: PodInfo,
    trigger: Trigger,
}

impl Pods {
    /// No pods yet. `home` is the namespace this process lives in, `node` the node's name.
    #[must_use]
    pub fn new(mesh: Arc<Mesh>, home: NetworkNamespace, node: Arc<str>, metrics: &Metrics) -> Self {
        Self { mesh, home, node, running: Mutex::default(), counts: Counts::new(metrics) }
    }

    /// The pods served now, for dumps.
    #[must_use]
    pub fn list(&self) -> Vec<(PodUid, PodInfo)> {
        self.lock().iter().map(|(uid, running)| (uid.clone(), running.info.clone())).collect()
    }

    /// Stops accepting for all pods and gives open connections until `deadline` to end.
    pub async fn drain(&self, deadline: Duration) {
        let triggers: Vec<_> = self.lock().drain().map(|(_, running)| running.trigger).collect();
        triggers.iter().for_each(|_| self.counts.stopped());
        for trigger in &triggers {
            trigger.start(Mode::Graceful);
        }
        join_all(triggers.iter().map(|trigger| trigger.drain(Mode::Graceful, deadline))).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PodUid, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, info: PodInfo, namespace: NetworkNamespace) -> io::Result<Running> {
        let entry = NamespaceEntry::new(self.home.clone(), namespace.clone());
        let sockets = SocketFactory::in_namespace(entry, PACKET_MARK);
        let worker = self.mesh.workers.home();
        let on_worker = self.mesh.workers.enter(worker);
        // All or none: the agent is told that the pod is served only when it is (interop §13 trap 11).
        let outbound_listener = sockets.listen_all(OUTBOUND_PORT, self.mesh.ipv6)?;
        let plaintext_listener = sockets.listen_all(PLAINTEXT_PORT, self.mesh.ipv6)?;
        let tunnel_listener = sockets.listen_all(HBONE_PORT, self.mesh.ipv6)?;
        let dns = self.mesh.dns.as_ref().map(|dns| Sockets::open(&sockets, dns.port, self.mesh.ipv6)).transpose()?;
        let (trigger, drain) = drain::new();
        let reference = PodRef {
            node: Some(Arc::clone(&self.node)),
            namespace: info.namespace.as_str().into(),
            name: info.name.as_str().into(),
            service_account: info.service_account.as_str().into(),
        };
        let pod = Arc::new(Pod::new(reference, Arc::clone(&self.mesh), sockets, drain.clone()));
        accept("outbound", &pod, worker, outbound_listener, outbound::serve);
        accept("plaintext", &pod, worker, plaintext_listener, passthrough::serve);
        accept("tunnel", &pod, worker, tunnel_listener, inbound::serve);
        if let (Some(dns), Some(sockets)) = (&self.mesh.dns, dns) {
            Server::start(Arc::clone(&pod), Arc::clone(dns), sockets, &drain);
        }
        drop(on_worker);
        self.mesh.neighbours.add(&pod);
        tokio::spawn(keep(pod, drain));
        Ok(Running { namespace, info, trigger })
    }

    fn stop(&self, running: Running, mode: Mode) {
        self.counts.stopped();
        tracing::info!(pod = %running.info, ?mode, "pod is no longer served");
        let (trigger, deadline) = (running.trigger, limits::DRAIN_DEADLINE.duration());
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
        let running = self.start(info.clone(), namespace).map_err(failed)?;
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
    let permits = Arc::new(Semaphore::new(limits::CONNECTIONS_PER_POD.size()));
    let (workers, drain) = (&pod.mesh.workers, pod.drain.clone());
    let pod = Arc::clone(pod);
    let handle = move |arrival| {
        let served = Arc::clone(&pod);
        pod.mesh.workers.serve(worker, arrival, move |accepted| serve(served, accepted));
    };
    workers.spawn(worker, listen::accept(name, listener, permits, drain, handle));
}

/// While the pod is served: holds its certificate, so that the first connection need not wait for one, and lets idle
/// tunnels go.
async fn keep(pod: Arc<Pod>, mut drain: Drain) {
    let claim = async {
        let mut view = pod.view();
        let known = view.wait_for(|view| view.workload.is_some()).await.ok()?;
        let identity = known.workload.as_ref()?.identity();
        Some(pod.mesh.certificates.claim(&identity))
    };
    let _certificate = tokio::select! {
        certificate = claim => certificate,
        _mode = drain.started() => None,
    };
    let mut sweeps = interval(SWEEP_INTERVAL);
    loop {
        tokio::select! {
            now = sweeps.tick() => {
                let idle = limits::POOL_IDLE_TIMEOUT.duration();
                for pool in pod.pools() {
                    pool.sweep(idle, now);
                }
            }
            _mode = drain.started() => break,
        }
    }
    pod.pools().iter().for_each(Pool::clear);
}
