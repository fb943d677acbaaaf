//! The node agent's socket: packets and descriptors, sound and broken, on a real `SOCK_SEQPACKET` socket.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use fairway_core::io::drain::{self, Mode};
use fairway_core::io::metrics::Metrics;
use fairway_core::io::ready::Readiness;
use fairway_proto::zds::{WorkloadResponse, ZdsHello, workload_response::Payload};
use fairway_ztunnel::node::{AddError, NodeClient, PodInfo, PodSet, PodUid};
use prost::Message;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, bind, listen, recvmsg, send, sendmsg, socket_with,
};
use tokio::runtime::Builder;

use crate::input::Input;

/// Turns of the scheduler the client gets for one answer; it needs a handful.
const TURNS: usize = 10_000;

/// Packets of one run.
const PACKETS: usize = 64;

/// The agent's end and what it hands out.
struct Agent {
    _directory: tempfile::TempDir,
    path: PathBuf,
    listener: OwnedFd,
    namespace: File,
    other: File,
}

impl Agent {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a socket");
        bind(&listener, &SocketAddrUnix::new(&path).expect("a path")).expect("bind");
        listen(&listener, 8).expect("listen");
        let namespace = File::open("/proc/self/ns/net").expect("our namespace");
        let other = File::open("/dev/null").expect("a file");
        Self { _directory: directory, path, listener, namespace, other }
    }
}

/// Serves pods on paper; one named `fail` cannot be served.
#[derive(Default)]
struct Pods(Mutex<BTreeSet<String>>);

impl PodSet for Pods {
    async fn add(&self, uid: PodUid, info: PodInfo, _netns: OwnedFd) -> Result<(), AddError> {
        if info.name == "fail" {
            return Err(AddError::new("told to"));
        }
        self.0.lock().expect("not poisoned").insert(uid.as_str().to_owned());
        Ok(())
    }

    async fn remove(&self, uid: &PodUid, _immediate: bool) {
        self.0.lock().expect("not poisoned").remove(uid.as_str());
    }

    async fn retain(&self, uids: &HashSet<PodUid>) {
        self.0.lock().expect("not poisoned").retain(|uid| uids.contains(&PodUid::new(uid.as_str())));
    }
}

/// Sends packets one by one; each has a byte for its descriptors before it.
pub fn run(data: &[u8]) {
    thread_local!(static AGENT: Agent = Agent::new());
    AGENT.with(|agent| {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(session(agent, data));
    });
}

async fn session(agent: &Agent, data: &[u8]) {
    let pods = Arc::new(Pods::default());
    let readiness = Readiness::new();
    let (trigger, drain) = drain::new();
    let client = NodeClient::new(agent.path.clone(), Arc::clone(&pods), readiness.block("agent"), &Metrics::new(&[]));
    let client = tokio::spawn(client.run(drain));
    let connection = eventually(|| acceptfrom_with(&agent.listener, SocketFlags::NONBLOCK).ok()).await;
    let (connection, _) = connection.expect("the proxy connects");
    let hello = eventually(|| receive(connection.as_fd())).await.expect("the proxy says hello");
    assert!(ZdsHello::decode(hello.as_slice()).is_ok());
    let mut input = Input::new(data);
    for _ in 0..PACKETS {
        if input.is_empty() {
            break;
        }
        let (shape, packet) = (input.byte(), input.piece());
        let foreign = shape & 0x80 > 0;
        let descriptors =
            vec![if foreign { agent.other.as_fd() } else { agent.namespace.as_fd() }; usize::from(shape & 7)];
        if !hand_over(connection.as_fd(), packet, &descriptors) {
            break;
        }
        if packet.is_empty() {
            // Length zero is how a closed socket reads.
            break;
        }
        let answer = eventually(|| receive(connection.as_fd())).await.expect("every packet is answered");
        let answer = WorkloadResponse::decode(answer.as_slice()).expect("an answer");
        let Some(Payload::Ack(ack)) = answer.payload else { panic!("an answer is an acknowledgement") };
        if !ack.error.is_empty() && !ack.error.contains("told to") {
            // Out of step: the proxy hangs up and comes again.
            let end = eventually(|| receive(connection.as_fd())).await.expect("the proxy hangs up");
            assert!(end.is_empty(), "nothing may follow but the end");
            break;
        }
        assert!(receive(connection.as_fd()).is_none(), "nothing is said unasked");
    }
    drop(connection);
    trigger.start(Mode::Immediate);
    client.abort();
    let _ = client.await;
    // A client that was between two connections may have queued one.
    while acceptfrom_with(&agent.listener, SocketFlags::NONBLOCK).is_ok() {}
}

async fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
        if let Some(done) = attempt() {
            return Some(done);
        }
    }
    None
}

fn receive(socket: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 4096];
    let mut none = RecvAncillaryBuffer::default();
    match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut none, RecvFlags::empty()) {
        Ok(received) => {
            bytes.truncate(received.bytes);
            Some(bytes)
        }
        Err(Errno::AGAIN) => None,
        Err(_gone) => Some(Vec::new()),
    }
}

fn hand_over(socket: BorrowedFd<'_>, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> bool {
    if descriptors.is_empty() {
        return send(socket, packet, SendFlags::NOSIGNAL).is_ok();
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(7))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    sendmsg(socket, &[IoSlice::new(packet)], &mut ancillary, SendFlags::NOSIGNAL).is_ok()
}
