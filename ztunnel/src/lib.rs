//! The node tunnel: carries the connections of a node's enrolled pods in mutual TLS, and enforces L4 policy.

pub mod admin;
pub mod app;
pub mod baggage;
pub mod config;
pub mod conn;
pub mod deliver;
pub mod demand;
pub mod dialled;
pub mod dns;
#[cfg(test)]
mod exhaustion;
#[cfg(test)]
mod footprint;
pub mod inbound;
pub mod listen;
pub mod local;
pub mod memory;
pub mod neighbours;
pub mod node;
pub mod outbound;
pub mod outcome;
pub mod passthrough;
pub mod pod;
pub mod pods;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod workers;
