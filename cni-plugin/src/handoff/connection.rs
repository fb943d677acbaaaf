//! One proxy's connection: hello, snapshot, then one request and one answer at a time.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use fairway_proto::zds::{self, workload_request, workload_response};
use prost::Message;
use tokio::sync::mpsc;

use super::socket::{MAX_PACKET, Packets};
use super::{Command, DEADLINE, HandedPod, Handoff, Joined, Snapshot};

/// Why the node socket or one connection on it failed.
#[derive(Debug, thiserror::Error)]
pub enum HandoffError {
    /// The socket cannot be made.
    #[error(
        "cannot listen at {path}: {error}; check that the directory is writable and the path shorter than 108 bytes"
    )]
    Listen {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The proxy went away.
    #[error("the node proxy closed the connection")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The proxy took too long.
    #[error("the node proxy did not {0} within {seconds} s", seconds = DEADLINE.as_secs())]
    Late(&'static str),
    /// The proxy did not speak the protocol.
    #[error("the node proxy broke the protocol: {0}")]
    Protocol(String),
    /// A message would not fit.
    #[error("the request is {0} bytes long; {MAX_PACKET} is the most a node proxy reads")]
    TooLong(usize),
    /// More happened than the proxy could be told.
    #[error("the node proxy fell too far behind")]
    Behind,
}

impl super::Proxy {
    /// Queues a request. One that does not fit closes the queue, and with it the connection: the proxy then comes
    /// back and gets everything as a snapshot, while others are not held up.
    pub(super) fn send(&self, command: Command) {
        if self.queue.try_send(command).is_err() {
            tracing::warn!(proxy = self.id, "the node proxy fell too far behind and is disconnected");
            self.overflow.cancel();
        }
    }
}

/// Serves one connection to its end.
pub(super) async fn run(handoff: &Handoff, socket: Packets) {
    if let Err(error) = hello(&socket).await {
        tracing::warn!(%error, "a node proxy did not say hello");
        return;
    }
    let Joined { id, snapshot, requests, overflow } = handoff.join();
    tracing::info!(proxy = id, pods = snapshot.pods.len(), kept = snapshot.kept.len(), "a node proxy connected");
    let connection = Connection { handoff, id, socket };
    let result = tokio::select! {
        result = connection.serve(snapshot, requests) => result,
        () = overflow.cancelled() => Err(HandoffError::Behind),
    };
    handoff.leave(id);
    match result {
        Ok(()) | Err(HandoffError::Closed) => tracing::info!(proxy = id, "a node proxy disconnected"),
        Err(error) => tracing::warn!(proxy = id, %error, "a node proxy is disconnected"),
    }
}

async fn hello(socket: &Packets) -> Result<(), HandoffError> {
    let packet = receive(socket, "say hello").await?;
    let hello = zds::ZdsHello::decode(packet.as_slice()).map_err(|error| HandoffError::Protocol(error.to_string()))?;
    if hello.version() == zds::Version::V1 {
        return Ok(());
    }
    Err(HandoffError::Protocol(format!("version {} is not supported, only 1", hello.version)))
}

struct Connection<'a> {
    handoff: &'a Handoff,
    id: u64,
    socket: Packets,
}

impl Connection<'_> {
    async fn serve(&self, snapshot: Snapshot, mut requests: mpsc::Receiver<Command>) -> Result<(), HandoffError> {
        for pod in snapshot.pods {
            self.add(&pod).await?;
        }
        for uid in snapshot.kept {
            self.keep(uid).await?;
        }
        let sent = workload_request::Payload::SnapshotSent(zds::SnapshotSent {});
        self.exchange(sent, None)
            .await?
            .map_err(|error| HandoffError::Protocol(format!("snapshot refused: {error}")))?;
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.carry_out(request).await?,
                    None => return Ok(()),
                },
                // Between requests a proxy has nothing to say; its end of the connection tells whether it lives.
                packet = self.socket.receive() => return match packet? {
                    packet if packet.is_empty() => Err(HandoffError::Closed),
                    _ => Err(HandoffError::Protocol("it spoke without being asked".to_owned())),
                },
            }
        }
    }

    async fn carry_out(&self, request: Command) -> Result<(), HandoffError> {
        match request {
            Command::Add(pod) => self.add(&pod).await,
            Command::Delete(uid) => {
                let delete = workload_request::Payload::Del(zds::DelWorkload { uid: uid.clone() });
                if let Err(error) = self.exchange(delete, None).await? {
                    tracing::warn!(proxy = self.id, uid, error, "the node proxy could not let go of a pod");
                }
                Ok(())
            }
            Command::Flush(done) => {
                // Nobody waits any more: fine.
                let _ = done.send(());
                Ok(())
            }
        }
    }

    async fn keep(&self, uid: String) -> Result<(), HandoffError> {
        let keep = workload_request::Payload::Keep(zds::KeepWorkload { uid: uid.clone() });
        if let Err(error) = self.exchange(keep, None).await? {
            tracing::warn!(proxy = self.id, uid, error, "the node proxy does not keep a pod");
        }
        Ok(())
    }

    async fn add(&self, pod: &Arc<HandedPod>) -> Result<(), HandoffError> {
        let answer = self.exchange(pod.payload(), Some(pod.network.as_fd())).await?;
        if let Err(error) = &answer {
            tracing::warn!(
                proxy = self.id,
                pod = pod.name,
                namespace = pod.namespace,
                error,
                "the node proxy refused a pod"
            );
        }
        self.handoff.record(self.id, pod, answer);
        Ok(())
    }

    /// One request and its answer: the inner error is what the proxy complains about, or that the request would not fit. Such
    /// a one is not sent: a pod whose names are too long is refused alone, and takes no other with it.
    async fn exchange(
        &self,
        payload: workload_request::Payload,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Result<(), String>, HandoffError> {
        let bytes = zds::WorkloadRequest { payload: Some(payload) }.encode_to_vec();
        if bytes.len() > MAX_PACKET {
            return Ok(Err(HandoffError::TooLong(bytes.len()).to_string()));
        }
        within("take a request", self.socket.send(&bytes, descriptor)).await?;
        let packet = receive(&self.socket, "answer").await?;
        let response = zds::WorkloadResponse::decode(packet.as_slice())
            .map_err(|error| HandoffError::Protocol(error.to_string()))?;
        match response.payload {
            Some(workload_response::Payload::Ack(ack)) if ack.error.is_empty() => Ok(Ok(())),
            Some(workload_response::Payload::Ack(ack)) => Ok(Err(ack.error)),
            None => Err(HandoffError::Protocol("an answer without content".to_owned())),
        }
    }
}

async fn receive(socket: &Packets, what: &'static str) -> Result<Vec<u8>, HandoffError> {
    let packet = within(what, socket.receive()).await?;
    if packet.is_empty() { Err(HandoffError::Closed) } else { Ok(packet) }
}

async fn within<T>(what: &'static str, work: impl Future<Output = io::Result<T>>) -> Result<T, HandoffError> {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(HandoffError::Late(what)),
    }
}
