//! Tests of `node`.

use std::collections::{BTreeMap, HashSet};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::Mutex;

use fairway_core::io::drain;
use fairway_core::io::ready::Readiness;
use fairway_proto::zds::{
    AddWorkload, DelWorkload, KeepWorkload, SnapshotSent, WorkloadInfo, workload_request::Payload,
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, acceptfrom, bind, listen, recvmsg, sendmsg, socket_with,
};

use super::*;

/// Generous: only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves pods on paper.
#[derive(Default)]
struct Pods {
    served: Mutex<BTreeMap<PodUid, PodInfo>>,
    failures_left: Mutex<u32>,
}

impl PodSet for Pods {
    async fn add(&self, uid: PodUid, info: PodInfo, netns: OwnedFd) -> Result<(), AddError> {
        drop(netns);
        let mut failures = self.failures_left.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err(AddError("port 15008 is taken".to_owned()));
        }
        self.served.lock().unwrap().insert(uid, info);
        Ok(())
    }

    async fn remove(&self, uid: &PodUid, immediate: bool) {
        assert!(immediate);
        self.served.lock().unwrap().remove(uid);
    }

    async fn retain(&self, uids: &HashSet<PodUid>) {
        self.served.lock().unwrap().retain(|uid, _| uids.contains(uid));
    }
}

/// The agent's end; blocking, so it runs on threads of its own.
struct Agent {
    _directory: tempfile::TempDir,
    listener: Arc<OwnedFd>,
}

struct Connection(Arc<OwnedFd>);

impl Agent {
    fn listen() -> (Self, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ztunnel.sock");
        let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&listener, 8).unwrap();
        (Self { _directory: directory, listener: Arc::new(listener) }, path)
    }

    async fn accept_silently(&self) -> Connection {
        let listener = Arc::clone(&self.listener);
        blocking(move || Connection(Arc::new(acceptfrom(&*listener).unwrap().0))).await
    }

    /// Accepts and reads hello.
    async fn accept(&self) -> Connection {
        let connection = self.accept_silently().await;
        let hello = ZdsHello::decode(connection.read().await.as_slice()).unwrap();
        assert_eq!(hello.version, i32::from(Version::V1));
        connection
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(work)).await.unwrap().unwrap()
}

impl Connection {
    async fn read(&self) -> Vec<u8> {
        let socket = Arc::clone(&self.0);
        blocking(move || {
            let mut bytes = vec![0; 4096];
            let mut space = [MaybeUninit::uninit(); 64];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received =
                recvmsg(&*socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::empty()).unwrap();
            bytes.truncate(received.bytes);
            bytes
        })
        .await
    }

    fn send_raw(&self, bytes: &[u8], files: &[&str]) {
        let files: Vec<_> = files.iter().map(|path| std::fs::File::open(path).unwrap()).collect();
        let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        }
        sendmsg(&*self.0, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty()).unwrap();
    }

    /// Sends a request and returns the error of its acknowledgement.
    async fn ask(&self, payload: Payload) -> String {
        let files: &[&str] = if matches!(payload, Payload::Add(_)) { &["/proc/self/ns/net"] } else { &[] };
        self.send_raw(&WorkloadRequest { payload: Some(payload) }.encode_to_vec(), files);
        self.acknowledgement().await
    }

    async fn acknowledgement(&self) -> String {
        let bytes = self.read().await;
        let Some(ResponsePayload::Ack(ack)) = WorkloadResponse::decode(bytes.as_slice()).unwrap().payload else {
            panic!("{bytes:?}");
        };
        ack.error
    }
}

fn add(uid: &str) -> Payload {
    let info = WorkloadInfo { name: uid.into(), namespace: "shop".into(), service_account: "web".into() };
    Payload::Add(AddWorkload { uid: uid.into(), workload_info: Some(info) })
}

fn sent() -> Payload {
    Payload::SnapshotSent(SnapshotSent {})
}

struct Fixture {
    agent: Agent,
    pods: Arc<Pods>,
    readiness: Readiness,
    pending: PendingPods,
    trigger: drain::Trigger,
    client: tokio::task::JoinHandle<ReadyToken>,
}

fn start(pods: Pods) -> Fixture {
    let (agent, path) = Agent::listen();
    let (pods, readiness) = (Arc::new(pods), Readiness::new());
    let (trigger, handle) = drain::new();
    let client = NodeClient::new(path, Arc::clone(&pods), readiness.block("node agent"), &Metrics::default());
    let pending = client.pending();
    Fixture { agent, pods, readiness, pending, trigger, client: tokio::spawn(client.run(handle)) }
}

impl Fixture {
    fn served(&self) -> Vec<String> {
        self.pods.served.lock().unwrap().keys().map(ToString::to_string).collect()
    }
}

#[tokio::test]
async fn a_connection_from_hello_to_loss_and_back() {
    let fixture = start(Pods::default());
    let agent = fixture.agent.accept().await;
    assert_eq!(agent.ask(add("u1")).await, "");
    assert_eq!(agent.ask(add("u2")).await, "");
    assert!(!fixture.readiness.is_ready(), "not before the snapshot is complete");
    assert_eq!(agent.ask(sent()).await, "");
    fixture.readiness.wait().await;
    assert_eq!(agent.ask(add("u3")).await, "");
    assert_eq!(agent.ask(Payload::Del(DelWorkload { uid: "u2".into() })).await, "");
    assert_eq!(agent.ask(Payload::Del(DelWorkload { uid: "unknown".into() })).await, "");
    assert_eq!(fixture.served(), ["u1", "u3"]);

    // The agent restarts: pods stay, readiness goes, and the new snapshot decides who stays.
    drop(agent);
    let agent = fixture.agent.accept().await;
    assert!(!fixture.readiness.is_ready());
    assert_eq!(fixture.served(), ["u1", "u3"]);
    assert_eq!(agent.ask(Payload::Keep(KeepWorkload { uid: "u3".into() })).await, "");
    assert_eq!(agent.ask(sent()).await, "");
    assert_eq!(fixture.served(), ["u3"]);
    fixture.readiness.wait().await;

    fixture.trigger.start(drain::Mode::Graceful);
    let token = fixture.client.await.unwrap();
    assert!(!fixture.readiness.is_ready());
    drop(token);
}

#[tokio::test]
async fn a_pod_that_cannot_start_is_reported_and_tried_again() {
    let fixture = start(Pods { failures_left: Mutex::new(1), ..Pods::default() });
    let agent = fixture.agent.accept().await;
    assert_eq!(agent.ask(add("u1")).await, "port 15008 is taken");
    assert_eq!(agent.ask(sent()).await, "");
    assert!(!fixture.readiness.is_ready(), "a pod is pending");
    let waiting = fixture.pending.list();
    let [pod] = waiting.as_slice() else { panic!("{waiting:?}") };
    assert_eq!((&pod.uid, pod.error.as_str()), (&PodUid::new("u1"), "port 15008 is taken"));
    tokio::time::timeout(PATIENCE, fixture.readiness.wait()).await.unwrap();
    assert_eq!(fixture.pending.list(), []);
    assert_eq!(fixture.served(), ["u1"]);
}

#[tokio::test]
async fn breaches_are_answered_with_their_reason_and_a_new_connection() {
    let fixture = start(Pods::default());
    let request = |payload| WorkloadRequest { payload: Some(payload) }.encode_to_vec();
    let mut long = vec![0; 2000];
    long[0] = 0xff;
    let many = ["/proc/self/ns/net"; 10];
    let rows: [(Vec<u8>, &[&str], &str); 6] = [
        (request(add("u1")), &[], "must carry 1 file descriptors, 0 came"),
        (request(add("u1")), &["/dev/null"], "not a namespace"),
        (request(add("u1")), &many, "more than 4 file descriptors"),
        (request(sent()), &["/proc/self/ns/net"], "must carry 0 file descriptors, 1 came"),
        (vec![0xff, 0xff, 0xff], &[], "no request"),
        (long, &[], "longer than 1024 bytes"),
    ];
    for (bytes, files, expected) in rows {
        let agent = fixture.agent.accept().await;
        agent.send_raw(&bytes, files);
        let error = agent.acknowledgement().await;
        assert!(error.contains(expected), "{error} / {expected}");
        assert_eq!(agent.read().await, [0; 0], "closed");
    }
    let agent = fixture.agent.accept().await;
    assert_eq!(agent.ask(add("u1")).await, "");
}

/// As Istio's istio-cni writes and reads it (interoperability notes §5.2), without our own description of the messages: one
/// that is wrong at both ends would not be noticed otherwise.
#[tokio::test]
async fn istios_agent_is_understood_byte_by_byte() {
    const NETNS: &[&str] = &["/proc/self/ns/net"];
    const DONE: &[u8] = b"\x0a\x00";
    let fixture = start(Pods { failures_left: Mutex::new(1), ..Pods::default() });
    let agent = fixture.agent.accept_silently().await;
    assert_eq!(agent.read().await, b"\x08\x01", "hello, version 1");
    let add_u1 = b"\x0a\x16\x0a\x02u1\x12\x10\x0a\x03web\x12\x04shop\x1a\x03api";
    let add_u2 = b"\x0a\x16\x0a\x02u2\x12\x10\x0a\x03web\x12\x04shop\x1a\x03api";
    // what is sent, the answer, who is served then
    let rows: [(&str, &[u8], &[u8], &str); 5] = [
        ("one that fails", add_u1, b"\x0a\x15\x0a\x13port 15008 is taken", ""),
        ("again", add_u1, DONE, "u1"),
        ("the snapshot is sent", b"\x1a\x00", DONE, "u1"),
        ("another", add_u2, DONE, "u1 u2"),
        ("the end of one", b"\x12\x04\x12\x02u1", DONE, "u2"),
    ];
    for (what, request, answer, served) in rows {
        agent.send_raw(request, if request.starts_with(b"\x0a") { NETNS } else { &[] });
        assert_eq!(agent.read().await, answer, "{what}");
        assert_eq!(fixture.served().join(" "), served, "{what}");
    }
    let info = fixture.pods.served.lock().unwrap().values().next().cloned().unwrap();
    assert_eq!((&*info.name, &*info.namespace, &*info.service_account), ("web", "shop", "api"));

    // It restarts, and does not know yet where the namespace of the one is.
    drop(agent);
    let agent = fixture.agent.accept_silently().await;
    assert_eq!(agent.read().await, b"\x08\x01");
    for request in [&b"\x2a\x04\x0a\x02u2"[..], b"\x1a\x00"] {
        agent.send_raw(request, &[]);
        assert_eq!(agent.read().await, DONE);
    }
    assert_eq!(fixture.served(), ["u2"]);
    fixture.readiness.wait().await;
}
