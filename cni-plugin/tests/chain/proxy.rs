//! The least of a node proxy: says hello on the node socket and accepts whatever it is handed.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use socket2::{Domain, SockAddr, Socket, Type};

use super::node::Node;

/// First byte of a WorkloadRequest: the field that says what is wanted, of a length (interoperability notes §5.2).
pub(crate) const ADDITION: u8 = 0x0a;
pub(crate) const DELETION: u8 = 0x12;
pub(crate) const SNAPSHOT_SENT: u8 = 0x1a;
pub(crate) const KEEPING: u8 = 0x2a;

/// What a proxy does with the first request of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Temper {
    /// Accepts it, as all others.
    Willing,
    /// Dies without an answer.
    DiesAt(u8),
    /// Dies as soon as it has accepted it.
    DiesAfter(u8),
    /// Never answers.
    HangsAt(u8),
}

/// Runs until dropped.
pub(crate) struct Proxy {
    socket: Arc<Socket>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(crate) fn start(node: &Node) -> Self {
        Self::with(node, Temper::Willing)
    }

    pub(crate) fn with(node: &Node, temper: Temper) -> Self {
        let socket = Arc::new(Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap());
        let address = SockAddr::unix(node.node_socket()).unwrap();
        node.wait("the node socket", || socket.connect(&address).is_ok());
        // ZdsHello{version: V1}
        socket.send(&[0x08, 0x01]).unwrap();
        let (own, heard, ended) = (Arc::clone(&socket), Arc::default(), Arc::new(AtomicBool::new(false)));
        let mut proxy = Self { socket, heard: Arc::clone(&heard), ended: Arc::clone(&ended), thread: None };
        let serve = move || {
            while let Ok(message) = take(&own)
                && let Some(&kind) = message.first()
            {
                heard.lock().unwrap().push(message);
                if temper == Temper::HangsAt(kind) {
                    // Until one of both ends closes the connection.
                    let _ = take(&own);
                    break;
                }
                // WorkloadResponse{ack: {}}
                if temper == Temper::DiesAt(kind)
                    || own.send(&[0x0a, 0x00]).is_err()
                    || temper == Temper::DiesAfter(kind)
                {
                    break;
                }
            }
            let _ = own.shutdown(std::net::Shutdown::Both);
            ended.store(true, Ordering::Relaxed);
        };
        proxy.thread = Some(std::thread::spawn(serve));
        proxy
    }

    /// Whether it was told of `uid`.
    pub(crate) fn has_heard(&self, uid: &str) -> bool {
        self.heard(uid).next().is_some()
    }

    /// Whether it was told that `uid` ends.
    pub(crate) fn has_heard_the_end_of(&self, uid: &str) -> bool {
        self.heard(uid).any(|message| message.first() == Some(&DELETION))
    }

    /// Whether it was told to keep `uid`, and nothing before.
    pub(crate) fn has_been_told_to_keep(&self, uid: &str) -> bool {
        self.heard(uid).next().is_some_and(|message| message.first() == Some(&KEEPING))
    }

    /// Whether it was told all that there was when it connected.
    pub(crate) fn has_heard_the_snapshot(&self) -> bool {
        self.heard.lock().unwrap().iter().any(|message| message.first() == Some(&SNAPSHOT_SENT))
    }

    /// Whether it was handed `uid`.
    pub(crate) fn was_handed(&self, uid: &str) -> bool {
        self.heard(uid).any(|message| message.first() == Some(&ADDITION))
    }

    fn heard(&self, uid: &str) -> impl Iterator<Item = Vec<u8>> + use<> {
        let uid = uid.as_bytes().to_vec();
        let heard = self.heard.lock().unwrap().clone();
        heard.into_iter().filter(move |message| message.windows(uid.len()).any(|part| part == uid))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn take(socket: &Socket) -> io::Result<Vec<u8>> {
    let mut buffer = [0; 1024];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut data = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut data, Some(&mut control), MsgFlags::empty())?;
    let length = message.bytes;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            for descriptor in descriptors {
                nix::unistd::close(descriptor)?;
            }
        }
    }
    Ok(buffer[..length].to_vec())
}
