//! DNS: answers the captured queries of pods about names of the mesh, passes on the others, and resolves the endpoints
//! that have only a name.
//!
//! ```text
//! program ─ query to any resolver, port 53 ─▶ capture rules ─▶ 15053 in the pod: `serve`
//!                                                               │ `core::io::dns` reads, `core::dns` decides
//!                     answer from the snapshot ◀── ours ────────┤
//!                     resolver's reply, untouched ◀── `upstream` ┘ not ours, not understood, not yet known
//! ```

pub mod lookup;
pub mod metrics;
pub mod serve;

use fairway_core::dns::Zone;
use fairway_core::io::dns::resolvers::Resolvers;
use fairway_core::io::dns::upstream::Upstream;
use fairway_core::io::socket::SocketFactory;

use self::metrics::DnsMetrics;

/// What the DNS servers of all pods share.
#[derive(Debug)]
pub struct Dns {
    /// What gives short names their meaning.
    pub zone: Zone,
    /// The port in each pod.
    pub port: u16,
    metrics: DnsMetrics,
    resolvers: Resolvers,
    home: SocketFactory,
}

impl Dns {
    /// Serves on `port` of each pod's loopback. Queries that are passed on go to `resolvers`, out of the pod that asks;
    /// to those on loopback through `home`.
    #[must_use]
    pub fn new(zone: Zone, port: u16, resolvers: Resolvers, home: SocketFactory, metrics: DnsMetrics) -> Self {
        Self { zone, port, metrics, resolvers, home }
    }

    fn upstream(&self, sockets: SocketFactory) -> Upstream {
        Upstream::new(self.resolvers.clone(), sockets, self.home.clone())
    }
}
