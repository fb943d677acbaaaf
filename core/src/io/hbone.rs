//! HBONE: TCP streams carried by HTTP/2 CONNECT over mutual TLS (interop §1).

pub mod client;
mod gather;
pub mod handshakes;
pub mod headers;
pub mod lifetime;
mod nested;
pub mod pool;
mod probe;
mod reasons;
pub mod server;
pub mod stream;
mod window;

pub use client::{ConnectRequest, TunnelError};
pub use pool::{Pool, TunnelKey};
pub use stream::{TunnelIo, TunnelStream};
pub use window::ReceiveBudget;

#[cfg(test)]
mod tests;
