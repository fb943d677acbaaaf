//! Serves the captured DNS queries of one pod, inside its namespace, over UDP and TCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fairway_core::io::dns::upstream::{Upstream, UpstreamError, read_message, write_message};
use fairway_core::io::dns::wire::{self, Action, MAX_MESSAGE, Transport};
use fairway_core::io::drain::Drain;
use fairway_core::io::socket::SocketFactory;
use fairway_core::limits;
use fairway_core::workload::Workload;
use hickory_proto::op::ResponseCode;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::Dns;
use super::metrics::Asked;
use crate::listen::{self, Arrival};
use crate::pod::Pod;

/// Datagrams answered in a row before other work of the thread gets its turn: some 200 µs.
const DATAGRAMS_IN_A_ROW: usize = 64;

/// Looks at a socket before it is closed, in rounds of the above; a pod that floods it must not keep it open.
const LAST_ROUNDS: usize = 16;
/// How long such a look waits for what has arrived to be noticed.
const LAST_WAIT: Duration = Duration::from_millis(1);

/// The sockets of one pod, made before the pod is said to be served.
#[derive(Debug)]
pub struct Sockets {
    datagrams: Vec<UdpSocket>,
    listeners: Vec<TcpListener>,
}

impl Sockets {
    /// Opens them on loopback, where the capture rules send queries and nobody outside the pod can.
    ///
    /// # Errors
    /// When the port is taken, or the namespace cannot be entered.
    pub fn open(sockets: &SocketFactory, port: u16, ipv6: bool) -> io::Result<Self> {
        let mut opened = Self { datagrams: Vec::new(), listeners: Vec::new() };
        let families: &[IpAddr] = &[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        for ip in families.get(..if ipv6 { 2 } else { 1 }).unwrap_or(families) {
            let address = SocketAddr::new(*ip, port);
            match (sockets.datagrams_at(address), sockets.listen_at(address)) {
                (Ok(datagrams), Ok(listener)) => {
                    opened.datagrams.push(datagrams);
                    opened.listeners.push(listener);
                }
                // IPv6 is off in this pod, so nothing can be asked over it either.
                (Err(error), _) | (_, Err(error)) if ip.is_ipv6() && is_no_address(&error) => {}
                (Err(error), _) | (_, Err(error)) => return Err(error),
            }
        }
        Ok(opened)
    }
}

fn is_no_address(error: &io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, EAFNOSUPPORT};
    matches!(error.raw_os_error(), Some(EADDRNOTAVAIL | EAFNOSUPPORT))
}

/// The DNS server of one pod.
pub struct Server {
    pod: Arc<Pod>,
    dns: Arc<Dns>,
    upstream: Upstream,
    queries: Arc<Semaphore>,
    /// Whether the last query that was passed on failed, so that the log has one line for an outage and not thousands.
    failing: AtomicBool,
}

impl Server {
    /// Starts serving; ends when the pod's drain starts.
    pub fn start(pod: Arc<Pod>, dns: Arc<Dns>, sockets: Sockets, drain: &Drain) {
        let upstream = dns.upstream(pod.sockets.clone());
        let queries = Arc::new(Semaphore::new(pod.mesh.limits.size(&limits::DNS_QUERIES_PER_POD)));
        let connections = pod.mesh.limits.size(&limits::DNS_CONNECTIONS_PER_POD);
        let server = Arc::new(Self { pod, dns, upstream, queries, failing: AtomicBool::new(false) });
        for socket in sockets.datagrams {
            tokio::spawn(Arc::clone(&server).datagrams(Arc::new(socket), drain.clone()));
        }
        for listener in sockets.listeners {
            let permits = Arc::new(Semaphore::new(connections));
            let (server, draining) = (Arc::clone(&server), drain.clone());
            let serve = move |accepted| {
                drop(tokio::spawn(Arc::clone(&server).connection(accepted, draining.clone())));
            };
            tokio::spawn(listen::accept("dns", listener, permits, drain.clone(), serve));
        }
    }

    /// Answers what is ours at once; for the rest a task each waits for a resolver.
    async fn datagrams(self: Arc<Self>, socket: Arc<UdpSocket>, mut drain: Drain) {
        loop {
            let ready = tokio::select! {
                _mode = drain.started() => break,
                ready = socket.readable() => ready,
            };
            if let Err(error) = ready {
                tracing::warn!(pod = &*self.pod.reference.name, %error, "the DNS socket of the pod is broken");
                break;
            }
            self.receive(&socket);
            tokio::task::yield_now().await;
        }
        // What was asked before the end: another proxy that shares the port does not get it.
        for _ in 0..LAST_ROUNDS {
            if timeout(LAST_WAIT, socket.readable()).await.is_err() {
                break;
            }
            self.receive(&socket);
        }
    }

    /// Takes the datagrams that are waiting, or some of them.
    fn receive(self: &Arc<Self>, socket: &Arc<UdpSocket>) {
        // Given back when nothing is asked: a pod that asks nothing costs nothing.
        let mut buffer = Vec::with_capacity(MAX_MESSAGE);
        for _ in 0..DATAGRAMS_IN_A_ROW {
            buffer.clear();
            match socket.try_recv_buf_from(&mut buffer) {
                Ok((_, peer)) => self.datagram(&buffer, peer, socket),
                // Empty, or an earlier answer's receiver has gone (ICMP).
                Err(_) => return,
            }
        }
    }

    fn datagram(self: &Arc<Self>, query: &[u8], peer: SocketAddr, socket: &Arc<UdpSocket>) {
        let client = self.client(peer);
        let mut kind = wire::UNKNOWN_KIND;
        if let Some(client) = &client {
            let verdict = self.consider(query, Transport::Udp, Some(client));
            match verdict.action {
                Action::Drop => return,
                // A full send buffer loses it, like any datagram.
                Action::Reply(reply) => return drop(socket.try_send_to(&reply, peer)),
                Action::Forward => kind = verdict.kind,
            }
        }
        let permit = Arc::clone(&self.queries).try_acquire_owned();
        let (server, socket, query) = (Arc::clone(self), Arc::clone(socket), query.to_vec());
        let Ok(permit) = permit else {
            let asked = Asked { kind, transport: Transport::Udp, client: client.as_deref() };
            if let Some(reply) = self.refuse(asked, &query) {
                let _ = socket.try_send_to(&reply, peer);
            }
            return;
        };
        tokio::spawn(async move {
            let reply = match client {
                Some(client) => {
                    let asked = Asked { kind, transport: Transport::Udp, client: Some(&client) };
                    server.pass_on(asked, &query, permit).await
                }
                None => server.answer(&query, peer, Transport::Udp, permit).await,
            };
            if let Some(reply) = reply {
                let _ = socket.send_to(&reply, peer).await;
            }
        });
    }

    /// One connection: queries one after the other, in order (RFC 7766 §6.2.1 allows it).
    async fn connection(self: Arc<Self>, accepted: Arrival, mut drain: Drain) {
        let Arrival { mut stream, peer, permit: _permit } = accepted;
        let idle = self.pod.mesh.limits.duration(&limits::DNS_IDLE_TIMEOUT);
        let conversation = async {
            while let Ok(Ok(query)) = timeout(idle, read_message(&mut stream)).await {
                let reply = match Arc::clone(&self.queries).try_acquire_owned() {
                    Ok(permit) => self.answer(&query, peer, Transport::Tcp, permit).await,
                    Err(_) => self.answer_ours(&query, peer),
                };
                let Some(reply) = reply else { break };
                if !matches!(timeout(idle, write_message(&mut stream, &reply)).await, Ok(Ok(()))) {
                    break;
                }
            }
        };
        tokio::select! {
            () = conversation => {}
            () = drain.immediate() => {}
        }
    }

    /// Who asks, as far as it is known now; what a new pod's node knows of it is enough to find names for it.
    fn client(&self, peer: SocketAddr) -> Option<Arc<Workload>> {
        let announced = self.pod.view().borrow().workload.clone();
        announced.or_else(|| self.pod.newcomer(peer.ip()).map(Arc::new))
    }

    /// The reply to a query: our own, or a resolver's. None if it is no query.
    async fn answer(
        &self,
        query: &[u8],
        peer: SocketAddr,
        transport: Transport,
        permit: OwnedSemaphorePermit,
    ) -> Option<Vec<u8>> {
        let client = match self.client(peer) {
            Some(client) => Some(client),
            // The first question may be faster than the first answer of the controller. It is not held up for long:
            // resolvers know most names, too.
            None => {
                let wait = self.pod.mesh.limits.duration(&limits::DNS_WORKLOAD_WAIT);
                timeout(wait, self.pod.workload()).await.ok().flatten()
            }
        };
        let verdict = self.consider(query, transport, client.as_deref());
        match verdict.action {
            Action::Drop => None,
            Action::Reply(reply) => Some(reply),
            Action::Forward => {
                let asked = Asked { kind: verdict.kind, transport, client: client.as_deref() };
                self.pass_on(asked, query, permit).await
            }
        }
    }

    /// As [`Server::answer`] when no more may be passed on.
    fn answer_ours(&self, query: &[u8], peer: SocketAddr) -> Option<Vec<u8>> {
        let client = self.client(peer);
        let verdict = self.consider(query, Transport::Tcp, client.as_deref());
        match verdict.action {
            Action::Drop => None,
            Action::Reply(reply) => Some(reply),
            Action::Forward => {
                self.refuse(Asked { kind: verdict.kind, transport: Transport::Tcp, client: client.as_deref() }, query)
            }
        }
    }

    fn consider(&self, query: &[u8], transport: Transport, client: Option<&Workload>) -> wire::Verdict {
        let snapshot = self.pod.mesh.live.snapshot();
        let verdict = wire::consider(&snapshot, &self.dns.zone, client, transport, query, &mut rand::rng());
        if verdict.action != Action::Drop {
            self.dns.metrics.request(Asked { kind: verdict.kind, transport, client });
        }
        verdict
    }

    fn refuse(&self, asked: Asked<'_>, query: &[u8]) -> Option<Vec<u8>> {
        self.failed(asked, &UpstreamError::Busy(self.pod.mesh.limits.size(&limits::DNS_QUERIES_PER_POD)));
        wire::failure(query, ResponseCode::ServFail)
    }

    /// The reply of a resolver, as it is; a failure if none answers.
    async fn pass_on(&self, asked: Asked<'_>, query: &[u8], _permit: OwnedSemaphorePermit) -> Option<Vec<u8>> {
        let started = Instant::now();
        self.dns.metrics.forwarded(asked);
        let mut drain = self.pod.drain.clone();
        let exchanged = tokio::select! {
            exchanged = self.upstream.exchange(query, asked.transport) => exchanged,
            () = drain.immediate() => return None,
        };
        match exchanged {
            Ok(reply) => {
                self.dns.metrics.answered(asked, started.elapsed());
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!(pod = &*self.pod.reference.name, "resolvers answer the pod's DNS queries again");
                }
                Some(reply)
            }
            Err(error) => {
                self.failed(asked, &error);
                wire::failure(query, ResponseCode::ServFail)
            }
        }
    }

    fn failed(&self, asked: Asked<'_>, error: &UpstreamError) {
        let reason = error.reason();
        self.dns.metrics.failed(asked, reason);
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                pod = &*self.pod.reference.name,
                namespace = &*self.pod.reference.namespace,
                %error,
                %reason,
                hint = "A NetworkPolicy may keep the pod from the resolvers, or they are down; names of the mesh are \
                        answered all the same.",
                "DNS queries of the pod fail"
            );
        }
    }
}

#[cfg(test)]
mod tests;
