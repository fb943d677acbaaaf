//! The real kernel, through netlink, `nft` and `iptables` on a thread that entered the pod's namespace.
//!
//! A child process inherits the namespaces of the thread that starts it. The thread ends with the call, so no other
//! work can ever run in the wrong namespace.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use netlink_packet_route::AddressFamily;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use super::backend::{Backend, Listing};
use super::census::Register;
use super::learned::Learned;
use super::routing::{self, Present, Routing};
use super::{Census, Inspection, Kernel, KernelError, Namespace, NamespaceId, sockets};
use crate::rules::{Capture, Phase};

/// Works in pods' namespaces.
#[derive(Debug)]
pub struct RealKernel {
    /// Where the node's processes are listed.
    proc: PathBuf,
    /// How rules are written here.
    backend: Backend,
    /// What each capture is once written.
    learned: Learned,
    /// Whose the node's processes are.
    register: Register,
}

impl Default for RealKernel {
    fn default() -> Self {
        Self::new(Path::new("/proc"), Backend::Nftables)
    }
}

impl RealKernel {
    /// A kernel that has not been asked anything; `proc` lists the node's processes.
    #[must_use]
    pub fn new(proc: &Path, backend: Backend) -> Self {
        Self { proc: proc.to_owned(), backend, learned: Learned::default(), register: Register::default() }
    }

    /// A kernel that writes rules the first way of these that works on this node: each is tried, in a namespace made for
    /// that. Also says what is wrong with those that do not; when none does, the first is taken and every pod will say so.
    #[must_use]
    pub fn that_works(proc: &Path, backends: &[Backend]) -> (Self, Vec<(Backend, KernelError)>) {
        let mut refused = Vec::new();
        for &backend in backends {
            let tried = on_thread(|| {
                unshare(CloneFlags::CLONE_NEWNET).map_err(|error| KernelError::Enter(error.into()))?;
                let capture = Capture { dns: true, phase: Phase::Settled, ..Capture::default() };
                backend.write(&possible(&capture))?;
                backend.list()
            });
            match tried {
                Ok(_) => return (Self::new(proc, backend), refused),
                Err(error) => refused.push((backend, error)),
            }
        }
        (Self::new(proc, backends.first().copied().unwrap_or(Backend::Nftables)), refused)
    }

    /// How it writes rules.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// What a namespace that holds exactly `capture` looks like, learned in a namespace made for that and thrown away.
    fn ask(&self, capture: &Capture) -> Result<Listing, KernelError> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|error| KernelError::Enter(error.into()))?;
            Routing::open().and_then(|mut routing| routing.raise_loopback()).map_err(KernelError::Routing)?;
            write_routing(capture)?;
            self.backend.write(capture)?;
            list(self.backend)
        })
    }
}

/// What is done on a thread that is in the pod's namespace.
impl RealKernel {
    fn inspect_here(&self, capture: &Capture) -> Result<Inspection, KernelError> {
        let listing = list(self.backend)?;
        if listing.is_empty() {
            return Ok(Inspection::Absent);
        }
        let same = self.learned.is(&listing, capture, || self.ask(capture))?;
        Ok(if same { Inspection::Same } else { Inspection::Different })
    }

    fn apply_here(&self, capture: &Capture) -> Result<(), KernelError> {
        let written = self.learned.listing(capture, || self.ask(capture))?;
        write_routing(capture)?;
        self.backend.copy(capture, &written)
    }

    /// Opens a namespace and does something in it.
    fn open_and<T: Send>(
        &self,
        path: &Path,
        work: impl FnOnce() -> Result<T, KernelError> + Send,
    ) -> Result<(Namespace, T), KernelError> {
        let file = File::open(path).map_err(|error| open_error(path, error))?;
        let metadata = file.metadata().map_err(|error| open_error(path, error))?;
        let id = (metadata.dev(), metadata.ino());
        let is_namespace = fstatfs(&file).is_ok_and(|status| status.filesystem_type() == NSFS_MAGIC);
        if !is_namespace {
            return Err(KernelError::NotANamespace(path.to_owned()));
        }
        if self.identify(Path::new("/proc/self/ns/net"))? == id {
            return Err(KernelError::HostNamespace(path.to_owned()));
        }
        let namespace = Namespace::new(file.into(), id);
        // A file of another kind of namespace is refused by setns(2).
        match within(&namespace, work) {
            Err(KernelError::Enter(error)) if error.raw_os_error() == Some(nix::libc::EINVAL) => {
                Err(KernelError::NotANamespace(path.to_owned()))
            }
            Err(error) => Err(error),
            Ok(result) => Ok((namespace, result)),
        }
    }
}

impl Kernel for RealKernel {
    fn identify(&self, path: &Path) -> Result<NamespaceId, KernelError> {
        let metadata = fs::metadata(path).map_err(|error| open_error(path, error))?;
        Ok((metadata.dev(), metadata.ino()))
    }

    fn open(&self, path: &Path) -> Result<Namespace, KernelError> {
        self.open_and(path, || Ok(())).map(|(namespace, ())| namespace)
    }

    fn look(&self, path: &Path) -> Result<(Namespace, Vec<IpAddr>), KernelError> {
        self.open_and(path, own_addresses)
    }

    fn inspect(&self, namespace: &Namespace, capture: &Capture) -> Result<Inspection, KernelError> {
        within(namespace, || self.inspect_here(&possible(capture)))
    }

    fn apply(&self, namespace: &Namespace, capture: &Capture) -> Result<(), KernelError> {
        within(namespace, || self.apply_here(&possible(capture)))
    }

    fn ensure(&self, namespace: &Namespace, capture: &Capture, fresh: bool) -> Result<bool, KernelError> {
        within(namespace, || {
            let capture = possible(capture);
            super::ensure(fresh, || self.inspect_here(&capture), || self.apply_here(&capture))
        })
    }

    fn addresses(&self, namespace: &Namespace) -> Result<Vec<IpAddr>, KernelError> {
        within(namespace, own_addresses)
    }

    fn census(&self) -> Census {
        match self.identify(Path::new("/proc/self/ns/net")) {
            Ok(host) => self.register.take(&self.proc, host, Instant::now()),
            Err(_) => Census::default(),
        }
    }

    fn source_towards(&self, address: IpAddr) -> Option<IpAddr> {
        // Connecting a UDP socket sends nothing; it only asks the routing tables (udp(7)).
        let any: SocketAddr = match address {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect((address, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|source| *source != address)
    }

    fn captured_connections(&self, namespace: &Namespace) -> Result<usize, KernelError> {
        within(namespace, || {
            let own = own_addresses()?;
            // Files below /proc/thread-self/net show the namespace of the thread that opens them.
            let table = |name| fs::read_to_string(Path::new("/proc/thread-self/net").join(name)).unwrap_or_default();
            Ok(["tcp", "tcp6"].map(|name| sockets::captured(&table(name), &own)).into_iter().sum())
        })
    }

    fn remove(&self, namespace: &Namespace) -> Result<(), KernelError> {
        within(namespace, || {
            self.backend.remove()?;
            let mut routing = Routing::open().map_err(KernelError::Routing)?;
            routing::FAMILIES.into_iter().try_for_each(|family| routing.remove(family)).map_err(KernelError::Routing)
        })
    }
}

fn open_error(path: &Path, error: io::Error) -> KernelError {
    let path = PathBuf::from(path);
    if error.kind() == io::ErrorKind::NotFound {
        KernelError::NoNamespace(path)
    } else {
        KernelError::Open { path, error }
    }
}

/// Runs `work` on a thread of its own, which may change its namespaces at will.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T, KernelError> + Send) -> Result<T, KernelError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work);
        let thread = thread.map_err(KernelError::Thread)?;
        thread.join().unwrap_or_else(|_| Err(KernelError::Thread(io::Error::other("the thread died"))))
    })
}

fn within<T: Send>(
    namespace: &Namespace,
    work: impl FnOnce() -> Result<T, KernelError> + Send,
) -> Result<T, KernelError> {
    on_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| KernelError::Enter(error.into()))?;
        work()
    })
}

/// The addresses of the namespace of this thread.
fn own_addresses() -> Result<Vec<IpAddr>, KernelError> {
    let interfaces = getifaddrs().map_err(|error| KernelError::Addresses(error.into()))?;
    let address =
        |storage: nix::sys::socket::SockaddrStorage| match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
            (Some(address), _) => Some(IpAddr::V4(address.ip())),
            (_, Some(address)) => Some(IpAddr::V6(address.ip())),
            _ => None,
        };
    Ok(interfaces.filter_map(|interface| address(interface.address?)).collect())
}

/// `capture` without IPv6 where this namespace has none: its routes would be refused.
fn possible(capture: &Capture) -> Capture {
    // Files below /proc/sys/net show the namespace of the thread that reads them.
    let disabled = fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    let has_ipv6 = disabled.is_ok_and(|text| text.trim() == "0");
    Capture { ipv6: capture.ipv6 && has_ipv6, ..capture.clone() }
}

fn write_routing(capture: &Capture) -> Result<(), KernelError> {
    let mut routing = Routing::open().map_err(KernelError::Routing)?;
    // Routes first: without rules they do nothing, while rules without routes would lose replies.
    for family in routing::FAMILIES {
        let is_wanted = capture.ipv6 || family == AddressFamily::Inet;
        let done = if is_wanted { routing.write(family) } else { routing.remove(family) };
        done.map_err(KernelError::Routing)?;
    }
    Ok(())
}

/// Everything of ours in the namespace of this thread, without counters.
fn list(backend: Backend) -> Result<Listing, KernelError> {
    let mut listing = backend.list()?;
    let mut routing = Routing::open().map_err(KernelError::Routing)?;
    for family in routing::FAMILIES {
        match routing.inspect(family).map_err(KernelError::Routing)? {
            Present::Nothing => {}
            present => listing.text.push_str(&format!("routing {family:?}: {present:?}\n")),
        }
    }
    Ok(listing)
}

#[cfg(test)]
mod tests;
