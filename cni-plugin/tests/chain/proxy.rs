//! The least of a node proxy: says hello on the node socket and accepts whatever it is handed.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use socket2::{Domain, SockAddr, Socket, Type};

use super::node::Node;

/// First byte of a WorkloadRequest that deletes: field 2, of a length (interoperability notes §5.2).
const DELETION: u8 = 0x12;

/// Runs until dropped.
pub(crate) struct Proxy {
    socket: Arc<Socket>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(crate) fn start(node: &Node) -> Self {
        Self::connect(node, false)
    }

    /// One that ends as soon as it has heard of a deletion, without an answer.
    pub(crate) fn dying_at_deletion(node: &Node) -> Self {
        Self::connect(node, true)
    }

    fn connect(node: &Node, dies: bool) -> Self {
        let socket = Arc::new(Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap());
        let address = SockAddr::unix(node.node_socket()).unwrap();
        node.wait("the node socket", || socket.connect(&address).is_ok());
        // ZdsHello{version: V1}
        socket.send(&[0x08, 0x01]).unwrap();
        let (own, heard, ended) = (Arc::clone(&socket), Arc::default(), Arc::new(AtomicBool::new(false)));
        let mut proxy = Self { socket, heard: Arc::clone(&heard), ended: Arc::clone(&ended), thread: None };
        let serve = move || {
            while let Ok(message) = take(&own)
                && !message.is_empty()
                && !(dies && message.first() == Some(&DELETION))
            {
                heard.lock().unwrap().push(message);
                // WorkloadResponse{ack: {}}
                if own.send(&[0x0a, 0x00]).is_err() {
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
        let heard = self.heard.lock().unwrap();
        heard.iter().any(|message| message.windows(uid.len()).any(|part| part == uid.as_bytes()))
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
