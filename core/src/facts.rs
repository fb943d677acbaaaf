//! What is known of a connection when it is decided on: peer, source, destination, and the HTTP half if there is one.

use std::net::SocketAddr;

use crate::ident::Identity;

/// The facts a decision may rest on. A fact that is missing never widens access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionFacts {
    /// The peer's address.
    pub source: SocketAddr,
    /// Who the peer proved to be by its certificate; none for plaintext.
    pub source_identity: Option<Identity>,
    /// The workload's address and its real application port, never the tunnel's.
    pub destination: SocketAddr,
    /// The request, where the enforcing proxy reads HTTP.
    pub http: Option<HttpFacts>,
}

/// What is known of one HTTP request. No policy on the wire names these yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpFacts {
    /// The method, for example `GET`.
    pub method: String,
    /// The path after normalisation, without the query.
    pub path: String,
    /// `Host` or `:authority`, lower case.
    pub host: String,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
}
