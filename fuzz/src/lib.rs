//! What each fuzz target does with its bytes: one module a target, each with a `run` that panics when a promise is broken.
//!
//! A new target is a module here, a file in `fuzz_targets/`, an entry in `Cargo.toml`, and seeds from
//! `examples/seeds.rs`; `./dev fuzz` finds it by itself.

pub mod access_log;
pub mod admission;
pub mod client_hello;
pub mod connect;
pub mod dns;
pub mod input;
pub mod node_socket;
pub mod path;
pub mod policy;
pub mod processor;
pub mod proxy_protocol;
pub mod request;
pub mod resources;
pub mod routing;
pub mod session;
pub mod token;
pub mod trace;
pub mod tunnel;
pub mod world;
pub mod xds;
