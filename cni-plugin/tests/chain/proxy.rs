//! The least of a node proxy: says hello on the node socket and accepts whatever it is handed.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use socket2::{Domain, SockAddr, Socket, Type};

use super::node::Node;

/// Runs until dropped.
pub(crate) struct Proxy {
    socket: Arc<Socket>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(crate) fn start(node: &Node) -> Self {
        let socket = Arc::new(Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap());
        let address = SockAddr::unix(node.node_socket()).unwrap();
        node.wait("the node socket", || socket.connect(&address).is_ok());
        // ZdsHello{version: V1}
        socket.send(&[0x08, 0x01]).unwrap();
        let own = Arc::clone(&socket);
        let thread = std::thread::spawn(move || {
            while matches!(take(&own), Ok(true)) {
                // WorkloadResponse{ack: {}}
                if own.send(&[0x0a, 0x00]).is_err() {
                    return;
                }
            }
        });
        Self { socket, thread: Some(thread) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn take(socket: &Socket) -> io::Result<bool> {
    let mut buffer = [0; 1024];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut data = [IoSliceMut::new(&mut buffer)];
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut data, Some(&mut control), MsgFlags::empty())?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            for descriptor in descriptors {
                nix::unistd::close(descriptor)?;
            }
        }
    }
    Ok(message.bytes > 0)
}
