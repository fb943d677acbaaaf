//! The mesh's model and its decisions, without I/O; what proxies share with the outside world sits behind features.
//!
//! Without features this crate has no runtime, socket, clock, environment or randomness: time and random
//! numbers are arguments. `io` adds what the proxies share, `source` reads Kubernetes objects from manifests, `local` a
//! proxy's own configuration file.

pub mod access_log;
pub mod addr;
pub mod authz;
pub mod balance;
pub mod cel;
pub mod config;
pub mod dns;
pub mod facts;
pub mod ident;
pub mod invalid;
mod key;
pub mod limits;
pub mod ordered;
pub mod policy;
pub mod proxy_protocol;
pub mod reason;
pub mod route;
pub mod service;
pub mod snapshot;
#[cfg(test)]
mod testing;
pub mod upgrade;
pub mod view;
pub mod why;
pub mod workload;

#[cfg(feature = "io")]
pub mod io;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "source")]
pub mod source;
#[cfg(any(feature = "local", feature = "source"))]
mod yaml;
