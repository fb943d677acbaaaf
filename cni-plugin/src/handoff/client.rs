//! A scripted node proxy on the real socket, for tests.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use fairway_proto::zds::{self, workload_request::Payload};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use prost::Message;
use socket2::{Domain, SockAddr, Socket, Type};

use super::{HandedPod, Handoff};
use crate::kernel::Namespace;

/// Ends a test that has failed already.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Client {
    pub(crate) socket: Socket,
}

impl Client {
    pub(crate) fn connect(path: &Path) -> Self {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        socket.connect(&SockAddr::unix(path).unwrap()).unwrap();
        Self { socket }
    }

    /// Connects, says hello, accepts the whole snapshot, and returns the uids in it.
    pub(crate) fn ready(path: &Path) -> (Self, Vec<String>) {
        let client = Self::connect(path);
        client.hello();
        let mut uids = Vec::new();
        loop {
            match client.next().0 {
                Payload::Add(add) => uids.push(add.uid),
                Payload::SnapshotSent(_) => break,
                other => panic!("{other:?} in a snapshot"),
            }
            client.accept();
        }
        client.accept();
        (client, uids)
    }

    pub(crate) fn hello(&self) {
        let hello = zds::ZdsHello { version: zds::Version::V1.into() };
        self.socket.send(&hello.encode_to_vec()).unwrap();
    }

    /// The next request and the inodes of the descriptors that came with it.
    pub(crate) fn next(&self) -> (Payload, Vec<u64>) {
        self.try_next().expect("the agent closed the connection")
    }

    /// Nothing when the agent closed the connection.
    pub(crate) fn try_next(&self) -> Option<(Payload, Vec<u64>)> {
        self.wait();
        let mut buffer = [0; 1024];
        let mut control = nix::cmsg_space!([RawFd; 4]);
        let mut data = [IoSliceMut::new(&mut buffer)];
        let message =
            recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut data, Some(&mut control), MsgFlags::MSG_DONTWAIT)
                .unwrap();
        assert!(!message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC));
        let mut inodes = Vec::new();
        for control in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                for descriptor in descriptors {
                    inodes.push(std::fs::metadata(format!("/proc/self/fd/{descriptor}")).unwrap().ino());
                    nix::unistd::close(descriptor).unwrap();
                }
            }
        }
        let length = message.bytes;
        if length == 0 {
            return None;
        }
        let request = zds::WorkloadRequest::decode(&buffer[..length]).unwrap();
        Some((request.payload.unwrap(), inodes))
    }

    /// Waits until there is something to receive; other tests' threads and processes may interrupt that.
    fn wait(&self) {
        let limit = PollTimeout::try_from(PATIENCE).unwrap();
        let mut interest = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut interest, limit) {
                Err(Errno::EINTR) => {}
                ready => {
                    assert_eq!(ready, Ok(1), "the agent said nothing");
                    return;
                }
            }
        }
    }

    pub(crate) fn accept(&self) {
        self.acknowledge("");
    }

    pub(crate) fn acknowledge(&self, error: &str) {
        let ack = zds::Ack { error: error.to_owned() };
        let response = zds::WorkloadResponse { payload: Some(zds::workload_response::Payload::Ack(ack)) };
        self.socket.send(&response.encode_to_vec()).unwrap();
    }

    /// Expects an addition of `uid` and accepts it.
    pub(crate) fn take(&self, uid: &str) {
        match self.next().0 {
            Payload::Add(add) => assert_eq!(add.uid, uid),
            other => panic!("{other:?} instead of adding {uid}"),
        }
        self.accept();
    }

    /// Expects a removal of `uid` and accepts it.
    pub(crate) fn let_go(&self, uid: &str) {
        match self.next().0 {
            Payload::Del(delete) => assert_eq!(delete.uid, uid),
            other => panic!("{other:?} instead of removing {uid}"),
        }
        self.accept();
    }
}

/// A pod whose namespace is a file of its own; also the file's inode.
pub(crate) fn pod(uid: &str) -> (HandedPod, u64) {
    let file: File = tempfile::tempfile().unwrap();
    let metadata = file.metadata().unwrap();
    let network = Namespace::new(file.into(), (metadata.dev(), metadata.ino()));
    let handed = HandedPod {
        uid: uid.to_owned(),
        name: format!("name-{uid}"),
        namespace: "shop".to_owned(),
        service_account: "web".to_owned(),
        network,
    };
    (handed, metadata.ino())
}

/// Waits until something holds of the hand-off.
pub(crate) async fn until(handoff: &Handoff, condition: impl Fn(&Handoff) -> bool) {
    let mut changes = handoff.changes();
    let waiting = changes.wait_for(|_| condition(handoff));
    tokio::time::timeout(PATIENCE, waiting).await.expect("never happened").unwrap();
}
