//! Makes the proxies' sockets: where they live, how they are marked, which options they carry.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use rand::RngExt;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::addr::canonical;
use crate::io::netns::NamespaceEntry;
use crate::limits::{self, Limits};

mod borrowed;

/// The mark on every packet of our own sockets: capture rules let it through (interop: packet mark 0x539).
pub const PACKET_MARK: u32 = 0x539;

/// Pending connections a listener may hold before the kernel refuses more; the kernel caps it at `somaxconn`.
const LISTEN_BACKLOG: i32 = 4096;

/// Leaves the choice of a port to the kernel.
const ANY_PORT: u16 = 0;

/// Sockets made at one visit to a pod's namespace: entering and leaving costs more than making one.
const SOCKETS_PER_VISIT: usize = 8;

/// What the kernel can count, in milliseconds.
const LONGEST_USER_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

/// Makes sockets in one namespace with one set of options. Cheap to clone; clones share the namespace.
#[derive(Clone, Debug)]
pub struct SocketFactory {
    namespace: Option<Arc<Namespace>>,
    mark: Option<u32>,
    limits: Limits,
    probing: Probing,
}

/// A pod's namespace, with sockets made there ahead of need.
#[derive(Debug)]
struct Namespace {
    entry: NamespaceEntry,
    spare_v4: Mutex<Vec<Socket>>,
    spare_v6: Mutex<Vec<Socket>>,
}

/// How the kernel finds out that the other end of a connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probing {
    /// Send TCP keepalive probes, as the limits say.
    pub keepalive: bool,
    /// Give up data that is not acknowledged for as long as all probes take.
    pub user_timeout: bool,
}

impl Default for Probing {
    fn default() -> Self {
        Self { keepalive: true, user_timeout: false }
    }
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The socket could not be made or bound.
    #[error("cannot prepare a socket to {destination}: {source}")]
    Prepare {
        /// Where it was to go.
        destination: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The peer or the network refused.
    #[error("connect to {destination}: {source}")]
    Connect {
        /// Where it was to go.
        destination: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nothing answered in time.
    #[error("connect to {destination}: no answer within {after:?}")]
    Timeout {
        /// Where it was to go.
        destination: SocketAddr,
        /// How long we waited.
        after: Duration,
    },
}

impl DialError {
    /// Whether it is this machine that has no more to give: descriptors, local ports, memory for sockets.
    #[must_use]
    pub fn is_exhaustion(&self) -> bool {
        let (Self::Prepare { source, .. } | Self::Connect { source, .. }) = self else { return false };
        let error = source.raw_os_error().map(Errno::from_raw);
        matches!(error, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS | Errno::EADDRNOTAVAIL))
    }

    /// Whether somebody has the port that it was to come from.
    fn is_taken(&self) -> bool {
        let (Self::Prepare { source, .. } | Self::Connect { source, .. }) = self else { return false };
        let error = source.raw_os_error().map(Errno::from_raw);
        matches!(error, Some(Errno::EADDRINUSE | Errno::EADDRNOTAVAIL))
    }
}

impl SocketFactory {
    /// Sockets in this process's own namespace, marked so that capture rules let them through if `mark` is set.
    #[must_use]
    pub fn host(mark: Option<u32>) -> Self {
        Self { namespace: None, mark, limits: Limits::default(), probing: Probing::default() }
    }

    /// Sockets inside a pod's namespace, marked as ours.
    #[must_use]
    pub fn in_namespace(entry: NamespaceEntry, mark: u32) -> Self {
        let namespace = Namespace { entry, spare_v4: Mutex::default(), spare_v6: Mutex::default() };
        Self { namespace: Some(Arc::new(namespace)), mark: Some(mark), ..Self::host(None) }
    }

    /// The same, with these values of the limits instead of the defaults, for its sockets and all that is built on them.
    #[must_use]
    pub fn within(self, limits: &Limits, probing: Probing) -> Self {
        Self { limits: limits.clone(), probing, ..self }
    }

    /// The values of the limits for its sockets, and for what is built on them.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn open(&self, address: IpAddr) -> io::Result<Socket> {
        let socket = match &self.namespace {
            Some(namespace) => namespace.socket(address)?,
            None => make(address)?,
        };
        self.mark(socket)
    }

    fn open_datagrams(&self, address: IpAddr) -> io::Result<Socket> {
        let make = || make_as(address, Type::DGRAM, Protocol::UDP);
        self.mark(match &self.namespace {
            Some(namespace) => namespace.entry.run(make)??,
            None => make()?,
        })
    }

    fn mark(&self, socket: Socket) -> io::Result<Socket> {
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        Ok(socket)
    }

    /// Listens on `port` of every address; with IPv6 on, one dual-stack socket.
    ///
    /// The socket shares its port, so that a new proxy can start while the old one drains (interop §5.5).
    ///
    /// # Errors
    /// When the port is taken by another user's process, or the namespace cannot be entered.
    pub fn listen_all(&self, port: u16, ipv6: bool) -> io::Result<TcpListener> {
        let any: IpAddr = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = self.open(any)?;
        if ipv6 {
            socket.set_only_v6(false)?;
        }
        self.listen(&socket, SocketAddr::new(any, port))?;
        TcpListener::from_std(socket.into())
    }

    fn listen(&self, socket: &Socket, address: SocketAddr) -> io::Result<()> {
        // Linux hands these on to every connection it accepts.
        socket.set_tcp_nodelay(true)?;
        self.probe(&SockRef::from(socket))?;
        bind_shared(socket, address)?;
        socket.listen(LISTEN_BACKLOG)
    }

    /// Listens for connections to one address. Shares its port like [`SocketFactory::listen_all`].
    ///
    /// # Errors
    /// When the address is not the namespace's own or the port is taken, or the namespace cannot be entered.
    pub fn listen_at(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let socket = self.open(address.ip())?;
        self.listen(&socket, address)?;
        TcpListener::from_std(socket.into())
    }

    /// Receives datagrams to one address. Shares its port like [`SocketFactory::listen_all`].
    ///
    /// # Errors
    /// When the address is not the namespace's own or the port is taken, or the namespace cannot be entered.
    pub fn datagrams_at(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.open_datagrams(address.ip())?;
        bind_shared(&socket, address)?;
        UdpSocket::from_std(socket.into())
    }

    /// A socket for datagrams to `destination` and from there alone, on a port the kernel draws.
    ///
    /// # Errors
    /// When there is no route, or the namespace cannot be entered.
    pub fn datagrams_to(&self, destination: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.open_datagrams(destination.ip())?;
        socket.connect(&destination.into())?;
        UdpSocket::from_std(socket.into())
    }

    /// Connects to `destination`.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn connect(&self, destination: SocketAddr) -> Result<TcpStream, DialError> {
        self.dial(destination, self.prepare(destination)).await
    }

    /// Connects to the application at `destination` from the address of `client` when one is given, which need not be ours, and
    /// from another port than the client's ([`borrowed`]).
    ///
    /// Without keepalive: application and proxy have the same kernel, which knows when either is gone.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn connect_from(
        &self,
        destination: SocketAddr,
        client: Option<SocketAddr>,
    ) -> Result<TcpStream, DialError> {
        if let Some(client) = client {
            let chance = rand::rng().random();
            for port in borrowed::ports(client.port(), chance) {
                match self.dial_from(Some(SocketAddr::new(client.ip(), port)), destination).await {
                    Err(error) if error.is_taken() => {}
                    dialled => return dialled,
                }
            }
        }
        self.dial_from(client.map(|client| SocketAddr::new(client.ip(), ANY_PORT)), destination).await
    }

    async fn dial_from(&self, source: Option<SocketAddr>, destination: SocketAddr) -> Result<TcpStream, DialError> {
        let prepared = self.open(destination.ip()).and_then(|socket| {
            socket.set_tcp_nodelay(true)?;
            source.map_or(Ok(()), |source| bind_foreign(&socket, source))?;
            Ok(socket)
        });
        self.dial(destination, prepared).await
    }

    /// Whether its sockets are in a namespace of their own, a pod's.
    #[must_use]
    pub fn is_in_namespace(&self) -> bool {
        self.namespace.is_some()
    }

    /// Whether `address` is one of the namespace's own: only then can a socket be bound to it just so.
    #[must_use]
    pub fn owns(&self, address: IpAddr) -> bool {
        self.open(address).and_then(|socket| socket.bind(&SocketAddr::new(address, 0).into())).is_ok()
    }

    fn prepare(&self, destination: SocketAddr) -> io::Result<Socket> {
        let socket = self.open(destination.ip())?;
        socket.set_tcp_nodelay(true)?;
        self.probe(&SockRef::from(&socket))?;
        Ok(socket)
    }

    async fn dial(&self, destination: SocketAddr, prepared: io::Result<Socket>) -> Result<TcpStream, DialError> {
        let socket = prepared.map_err(|source| DialError::Prepare { destination, source })?;
        let after = self.limits.duration(&limits::CONNECT_TIMEOUT);
        match timeout(after, TcpSocket::from_std_stream(socket.into()).connect(destination)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(DialError::Connect { destination, source }),
            Err(_elapsed) => Err(DialError::Timeout { destination, after }),
        }
    }

    fn probe(&self, socket: &SockRef<'_>) -> io::Result<()> {
        let limits = &self.limits;
        let (time, interval) = (limits.duration(&limits::KEEPALIVE_TIME), limits.duration(&limits::KEEPALIVE_INTERVAL));
        let retries = limits.number(&limits::KEEPALIVE_RETRIES);
        if self.probing.keepalive {
            let settings = TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries);
            socket.set_tcp_keepalive(&settings)?;
        }
        if self.probing.user_timeout {
            let patience = time.saturating_add(interval.saturating_mul(retries));
            socket.set_tcp_user_timeout(Some(patience.min(LONGEST_USER_TIMEOUT)))?;
        }
        Ok(())
    }
}

impl Namespace {
    /// A socket of the family of `address`; one made ahead of need if there is one.
    fn socket(&self, address: IpAddr) -> io::Result<Socket> {
        let spare = if address.is_ipv4() { &self.spare_v4 } else { &self.spare_v6 };
        let mut spare = spare.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = spare.pop() {
            return Ok(socket);
        }
        let socket = self.entry.run(|| {
            let wanted = make(address)?;
            // One is what was asked for; that there can be no more just now is no failure.
            spare.extend((1..SOCKETS_PER_VISIT).map_while(|_| make(address).ok()));
            io::Result::Ok(wanted)
        });
        socket?
    }
}

fn make(address: IpAddr) -> io::Result<Socket> {
    make_as(address, Type::STREAM, Protocol::TCP)
}

fn make_as(address: IpAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol))
}

fn bind_shared(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())
}

/// Binds to an address that is not ours, so that the application sees its real client (interop §1.5 point 6).
/// A transparent socket may do so without being told to (IP_FREEBIND) as well.
fn bind_foreign(socket: &Socket, source: SocketAddr) -> io::Result<()> {
    if source.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
    } else {
        socket.set_ip_transparent_v6(true)?;
    }
    // The same port can go to several destinations: one that is named may be used again, and any one is chosen when the destination
    // is known, too.
    if source.port() == ANY_PORT {
        setsockopt(socket, IpBindAddressNoPort, &true)?;
    } else {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&source.into())
}

/// Whether this process may bind to addresses that are not its own, which takes `CAP_NET_ADMIN` or `CAP_NET_RAW`.
#[must_use]
pub fn may_borrow_addresses() -> bool {
    Socket::new(Domain::IPV4, Type::STREAM, None).and_then(|socket| socket.set_ip_transparent_v4(true)).is_ok()
}

/// Where a redirected connection was going before capture (`SO_ORIGINAL_DST`); its local address when it was not redirected.
///
/// # Errors
/// When the connection has already gone.
pub fn original_destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let local = canonical(stream.local_addr()?);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    Ok(original.ok().and_then(|address| address.as_socket()).map_or(local, canonical))
}

/// Makes the next close of `stream` a reset, so that the peer learns the transfer did not end well.
pub fn reset_on_close(stream: &TcpStream) {
    // Failure means the connection is gone already, which is what was wanted.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
