//! What the proxies share with the outside world: sockets, namespaces, certificates, tunnels, configuration streams.

pub mod admin;
pub mod certs;
pub mod copy;
pub mod dns;
pub mod drain;
pub mod grpc;
pub mod hbone;
pub mod listen;
pub mod live;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod netns;
pub mod open_files;
pub mod read_ahead;
pub mod ready;
pub mod socket;
pub mod stop;
pub mod tls;
pub(crate) mod wall_clock;
pub mod xds;
