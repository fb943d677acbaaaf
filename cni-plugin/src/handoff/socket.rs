//! A sequenced-packet Unix socket: one message is one packet, optionally with one descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, recvmsg, sendmsg};
use socket2::{Domain, SockAddr, Type};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use super::HandoffError;

/// Largest packet in either direction, in bytes; Istio's node proxy reads no more.
pub(super) const MAX_PACKET: usize = 1024;
/// Proxies that may wait to be accepted.
const BACKLOG: i32 = 16;
/// Only root may connect: whoever does can take over every pod's traffic.
const MODE: u32 = 0o600;

/// The runtime only watches the socket; its kind is ours.
pub(super) struct Listener {
    socket: UnixListener,
}

impl Listener {
    /// Listens at `path`, in place of whatever socket had the name before.
    pub(super) fn bind(path: &Path) -> Result<Self, HandoffError> {
        let failed = |error| HandoffError::Listen { path: path.to_owned(), error };
        let socket = socket2::Socket::new(Domain::UNIX, Type::SEQPACKET, None).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        // Bound beside its place and moved there, so that nobody connects before the permissions are right.
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        socket.bind(&SockAddr::unix(&beside).map_err(failed)?).map_err(failed)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(MODE)).map_err(failed)?;
        socket.listen(BACKLOG).map_err(failed)?;
        std::fs::rename(&beside, path).map_err(failed)?;
        let socket = UnixListener::from_std(OwnedFd::from(socket).into()).map_err(failed)?;
        Ok(Self { socket })
    }

    /// The next connection. Safe to cancel.
    pub(super) async fn accept(&self) -> io::Result<Packets> {
        let (socket, _) = self.socket.accept().await?;
        Ok(Packets { socket })
    }
}

/// One connection.
pub(super) struct Packets {
    socket: UnixStream,
}

impl Packets {
    /// Sends one packet, with a descriptor when given.
    pub(super) async fn send(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let descriptors = descriptor.map(|descriptor| [descriptor.as_raw_fd()]);
        loop {
            self.socket.writable().await?;
            let sent = self.socket.try_io(Interest::WRITABLE, || {
                let control: Vec<_> = descriptors.iter().map(|fds| ControlMessage::ScmRights(fds)).collect();
                let data = [IoSlice::new(bytes)];
                // Without NOSIGNAL a peer that went away would kill the agent.
                let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                Ok(sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &data, &control, flags, None)?)
            });
            match sent {
                Ok(count) if count == bytes.len() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next packet; empty when the peer is gone. Safe to cancel.
    pub(super) async fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            self.socket.readable().await?;
            match self.socket.try_io(Interest::READABLE, || receive_now(&self.socket)) {
                Err(error) if is_passing(&error) => {}
                received => return received,
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn receive_now(socket: &UnixStream) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; MAX_PACKET];
    let mut data = [IoSliceMut::new(&mut buffer)];
    // No room for descriptors: the kernel closes any that come and says so by MSG_CTRUNC.
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut data, None, MsgFlags::MSG_DONTWAIT)?;
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet is too long or carries descriptors"));
    }
    let length = message.bytes;
    buffer.truncate(length);
    Ok(buffer)
}
