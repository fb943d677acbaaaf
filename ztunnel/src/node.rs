//! Receives pods and their network namespaces from the node agent and acknowledges them.
//!
//! What a message means is decided in [`protocol`], packets and descriptors are [`socket`]'s business. Losing the
//! agent makes the proxy unready, and nothing else: pods stay served.

use std::collections::HashMap;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fairway_core::io::drain::Drain;
use fairway_core::io::metrics::{Gauge, Metrics};
use fairway_core::io::ready::ReadyToken;
use fairway_proto::zds::{
    Ack, Version, WorkloadRequest, WorkloadResponse, ZdsHello, workload_response::Payload as ResponsePayload,
};
use prost::Message;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

pub mod pending;
mod protocol;
mod socket;

pub use protocol::{PodInfo, PodUid, ProtocolError};

use pending::{PendingPod, PendingPods};
use protocol::{Protocol, Step};
use socket::{AgentSocket, SocketError};

/// Time between attempts to start pods that failed to start.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// First pause before the agent is dialled again.
const BACKOFF_MINIMUM: Duration = Duration::from_millis(10);
/// Longest pause before the agent is dialled again.
const BACKOFF_MAXIMUM: Duration = Duration::from_secs(15);

const PENDING: &str = "workload_manager_pending_proxy_count";
const CONNECTED: &str = "fairway_node_agent_connected";

/// The pods this proxy serves.
pub trait PodSet: Send + Sync + 'static {
    /// Starts to serve a pod; returns once its listeners exist. A pod already served from the same namespace is fine as
    /// it is; from another namespace it is replaced.
    fn add(&self, uid: PodUid, info: PodInfo, netns: OwnedFd) -> impl Future<Output = Result<(), AddError>> + Send;

    /// Stops serving a pod, known or not. `immediate` when its namespace is about to disappear.
    fn remove(&self, uid: &PodUid, immediate: bool) -> impl Future<Output = ()> + Send;

    /// Stops serving every pod that is not listed, letting its connections drain.
    fn retain(&self, uids: &std::collections::HashSet<PodUid>) -> impl Future<Output = ()> + Send;
}

/// Why a pod could not be started; tried again later.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AddError(pub String);

impl AddError {
    /// With the text the agent will see.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl From<std::io::Error> for AddError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Client of the node agent.
#[derive(Debug)]
pub struct NodeClient<P> {
    path: PathBuf,
    pods: Arc<P>,
    ready: ReadyToken,
    pending: HashMap<PodUid, Waiting>,
    shown: PendingPods,
    pending_count: Gauge,
    connected: Gauge,
}

/// A pod that could not be started yet, and what it takes to try again.
#[derive(Debug)]
struct Waiting {
    info: PodInfo,
    netns: OwnedFd,
    error: String,
}

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("the agent broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
    #[error("the agent closed the connection")]
    Closed,
}

impl<P: PodSet> NodeClient<P> {
    /// A client that will dial `path`. `ready` is marked while the agent is connected, has sent its snapshot, and no
    /// pod waits to be started.
    #[must_use]
    pub fn new(path: PathBuf, pods: Arc<P>, ready: ReadyToken, metrics: &Metrics) -> Self {
        metrics.describe(PENDING, "Pods that could not be started yet.");
        metrics.describe(CONNECTED, "1 while the node agent is connected; at 0 no pod can join or leave.");
        let (pending_count, connected) = (metrics.gauge(PENDING, &[]), metrics.gauge(CONNECTED, &[]));
        pending_count.set(0.0);
        connected.set(0.0);
        Self { path, pods, ready, pending: HashMap::new(), shown: PendingPods::default(), pending_count, connected }
    }

    /// The pods that wait to be started, to be looked at while the client runs.
    #[must_use]
    pub fn pending(&self) -> PendingPods {
        self.shown.clone()
    }

    /// Runs until the drain starts. Returns the readiness token, unready: dropping it would mean ready.
    pub async fn run(mut self, mut drain: Drain) -> ReadyToken {
        let mut backoff = BACKOFF_MINIMUM;
        loop {
            let mut protocol = Protocol::default();
            let ended = tokio::select! {
                _ = drain.started() => break,
                ended = self.session(&mut protocol) => ended,
            };
            self.ready.unready();
            self.connected.set(0.0);
            if protocol.is_live() {
                backoff = BACKOFF_MINIMUM;
            }
            tracing::warn!(
                error = %ended, socket = %self.path.display(), retry_in = ?backoff,
                "no connection to the node agent; enrolled pods stay served"
            );
            tokio::select! {
                _ = drain.started() => break,
                () = tokio::time::sleep(backoff) => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAXIMUM);
        }
        self.ready.unready();
        self.ready
    }

    async fn session(&mut self, protocol: &mut Protocol) -> Ended {
        match AgentSocket::connect(&self.path) {
            Ok(socket) => self.serve(&socket, protocol).await,
            Err(error) => error.into(),
        }
    }

    async fn serve(&mut self, socket: &AgentSocket, protocol: &mut Protocol) -> Ended {
        let hello = ZdsHello { version: Version::V1.into() };
        if let Err(error) = socket.send(&hello.encode_to_vec()).await {
            return error.into();
        }
        self.connected.set(1.0);
        tracing::info!(socket = %self.path.display(), "connected to the node agent");
        let mut retries = interval_at(Instant::now() + RETRY_INTERVAL, RETRY_INTERVAL);
        retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.publish_state(protocol);
            let packet = tokio::select! {
                packet = socket.receive() => packet,
                _ = retries.tick(), if !self.pending.is_empty() => {
                    self.retry_pending().await;
                    continue;
                }
            };
            let ended = match packet {
                Ok(Some(packet)) => match self.answer(socket, protocol, packet).await {
                    Ok(()) => continue,
                    Err(ended) => ended,
                },
                Ok(None) => return Ended::Closed,
                Err(error) => error.into(),
            };
            // The agent learns why, if it still listens; there is no way back into step.
            let _ = socket.send(&acknowledgement(ended.to_string())).await;
            return ended;
        }
    }

    async fn answer(
        &mut self,
        socket: &AgentSocket,
        protocol: &mut Protocol,
        packet: socket::Packet,
    ) -> Result<(), Ended> {
        let request = WorkloadRequest::decode(packet.bytes.as_slice()).map_err(ProtocolError::from)?;
        let step = protocol.receive(request, packet.descriptors)?;
        let error = self.take(step).await.err().map(|error| error.to_string()).unwrap_or_default();
        socket.send(&acknowledgement(error)).await?;
        Ok(())
    }

    async fn take(&mut self, step: Step) -> Result<(), AddError> {
        match step {
            Step::Nothing => Ok(()),
            Step::Start { uid, info, netns } => self.start(uid, info, netns).await,
            Step::Forget(uid) => {
                self.pending.remove(&uid);
                Ok(())
            }
            Step::Stop(uid) => {
                self.pending.remove(&uid);
                self.pods.remove(&uid, true).await;
                Ok(())
            }
            Step::Retain(uids) => {
                tracing::info!(pods = uids.len(), "the node agent has named all pods");
                self.pending.retain(|uid, _| uids.contains(uid));
                self.pods.retain(&uids).await;
                Ok(())
            }
        }
    }

    async fn start(&mut self, uid: PodUid, info: PodInfo, netns: OwnedFd) -> Result<(), AddError> {
        let copy = netns.try_clone()?;
        match self.pods.add(uid.clone(), info.clone(), copy).await {
            Ok(()) => {
                self.pending.remove(&uid);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(pod = %info, pod_uid = uid.as_str(), %error, "pod cannot be served yet; will try again");
                self.pending.insert(uid, Waiting { info, netns, error: error.to_string() });
                Err(error)
            }
        }
    }

    async fn retry_pending(&mut self) {
        for (uid, Waiting { info, netns, .. }) in std::mem::take(&mut self.pending) {
            // The outcome is logged and, if it failed again, back in the list.
            let _ = self.start(uid, info, netns).await;
        }
    }

    fn publish_state(&self, protocol: &Protocol) {
        self.pending_count.set(f64::from(u32::try_from(self.pending.len()).unwrap_or(u32::MAX)));
        let show = |(uid, waiting): (&PodUid, &Waiting)| PendingPod {
            uid: uid.clone(),
            info: waiting.info.clone(),
            error: waiting.error.clone(),
        };
        self.shown.set(self.pending.iter().map(show).collect());
        // Last, so that whoever waits for readiness finds nobody waiting.
        self.ready.set(protocol.is_live() && self.pending.is_empty());
    }
}

fn acknowledgement(error: String) -> Vec<u8> {
    WorkloadResponse { payload: Some(ResponsePayload::Ack(Ack { error })) }.encode_to_vec()
}

#[cfg(test)]
mod tests;
