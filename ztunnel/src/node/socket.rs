//! The node agent's socket: one message a packet, descriptors beside it (interop §5.1).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use fairway_core::limits;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Descriptors there is room for. One belongs to a message; room for a few more tells a wrong number from truncation.
const MAX_DESCRIPTORS: usize = 4;

/// What goes wrong on the socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    #[error("cannot connect: {error}; is the node agent running, and is {} mounted from the host?", path.display())]
    Connect { path: PathBuf, error: io::Error },
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
    #[error("a packet is longer than {} bytes", limits::ZDS_MESSAGE.size())]
    TooLong,
    #[error("more than {MAX_DESCRIPTORS} file descriptors in one packet")]
    TooManyDescriptors,
    #[error("a file descriptor is not a namespace")]
    NotANamespace,
}

#[derive(Debug)]
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// A SOCK_SEQPACKET socket. The stream type only waits for readiness; packets are read and written by system calls.
#[derive(Debug)]
pub(super) struct AgentSocket {
    socket: UnixStream,
}

impl AgentSocket {
    pub(super) fn connect(path: &Path) -> Result<Self, SocketError> {
        let open = || -> io::Result<OwnedFd> {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            // Connecting a Unix socket never waits; a full queue is an error and we come again.
            connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(socket)
        };
        let socket = open().map_err(|error| SocketError::Connect { path: path.to_owned(), error })?;
        Ok(Self::new(socket)?)
    }

    /// Takes over a non-blocking socket.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: UnixStream::from_std(socket.into())? })
    }

    /// The next packet; none once the agent has closed. Safe to cancel.
    pub(super) async fn receive(&self) -> Result<Option<Packet>, SocketError> {
        loop {
            self.socket.readable().await?;
            // `WouldBlock` must reach `try_io` as such: that is how it learns to wait again.
            let received = self.socket.try_io(Interest::READABLE, || match receive(&self.socket) {
                Err(SocketError::Io(error)) => Err(error),
                other => Ok(other),
            });
            match received {
                Ok(received) => return received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) async fn send(&self, bytes: &[u8]) -> Result<(), SocketError> {
        loop {
            self.socket.writable().await?;
            let sent = self.socket.try_io(Interest::WRITABLE, || {
                let mut none = SendAncillaryBuffer::default();
                Ok(sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut none, SendFlags::NOSIGNAL)?)
            });
            match sent {
                // A packet is sent whole or not at all.
                Ok(_whole) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn receive(socket: &UnixStream) -> Result<Option<Packet>, SocketError> {
    let mut bytes = vec![0; limits::ZDS_MESSAGE.size()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .map_err(io::Error::from)?;
    // Taken first, so that whatever is wrong with the packet they are closed.
    let descriptors: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(SocketError::TooLong);
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(SocketError::TooManyDescriptors);
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if !descriptors.iter().all(is_namespace) {
        return Err(SocketError::NotANamespace);
    }
    bytes.truncate(received.bytes);
    Ok(Some(Packet { bytes, descriptors }))
}

fn is_namespace(descriptor: &OwnedFd) -> bool {
    fstatfs(descriptor.as_fd()).is_ok_and(|filesystem| filesystem.filesystem_type() == NSFS_MAGIC)
}
