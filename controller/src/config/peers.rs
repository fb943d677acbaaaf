//! Settings of how much peers may take at the port for proxies.

use clap::value_parser;

use crate::tls::Bounds;

/// Flags about peers. They are as large as a mesh of ten thousand nodes needs.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct PeerArgs {
    /// Connections to the port for proxies, of all peers together: a node proxy has one or two. Each takes some 50 KB.
    #[arg(long, value_name = "COUNT", default_value_t = 20_000, value_parser = value_parser!(u32).range(1..=1_000_000), env = "FAIRWAY_MAX_CONNECTIONS")]
    pub max_connections: u32,
    /// Connections of one address: more where many proxies are behind one, such as that of a NAT. A machine that opens connections
    /// and says nothing must not take the places of all others.
    #[arg(long, value_name = "COUNT", default_value_t = 512, value_parser = value_parser!(u32).range(1..=1_000_000), env = "FAIRWAY_MAX_CONNECTIONS_PER_PEER")]
    pub max_connections_per_peer: u32,
    /// TLS handshakes at a time, of all peers together: they cost processor time, and a mesh that restarts sends all its nodes at
    /// once. Others wait.
    #[arg(long, value_name = "COUNT", default_value_t = 256, value_parser = value_parser!(u32).range(1..=100_000), env = "FAIRWAY_MAX_HANDSHAKES")]
    pub max_handshakes: u32,
    /// TLS handshakes at a time with one address. What is more is closed.
    #[arg(long, value_name = "COUNT", default_value_t = 32, value_parser = value_parser!(u32).range(1..=100_000), env = "FAIRWAY_MAX_HANDSHAKES_PER_PEER")]
    pub max_handshakes_per_peer: u32,
}

impl From<PeerArgs> for Bounds {
    fn from(args: PeerArgs) -> Self {
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            connections: count(args.max_connections),
            connections_of_one_peer: count(args.max_connections_per_peer),
            handshakes: count(args.max_handshakes),
            handshakes_of_one_peer: count(args.max_handshakes_per_peer),
        }
    }
}
