//! What is known of a connection when it is decided on: peer, source, destination, and the HTTP half if there is one.

use std::{net::SocketAddr, sync::Arc};

use crate::ident::Identity;

/// The facts a decision may rest on. A fact that is missing never widens access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionFacts {
    /// The peer's address.
    pub source: SocketAddr,
    /// Who the peer proved to be by its certificate; none for plaintext.
    pub source_identity: Option<Identity>,
    /// The client that the peer says it speaks for. Anybody can say that: [`original`](crate::authz::original) tells whether it counts.
    pub original: Option<Arc<Original>>,
    /// The workload's address and its real application port, never the tunnel's.
    pub destination: SocketAddr,
    /// The request, where the enforcing proxy reads HTTP.
    pub http: Option<HttpFacts>,
}

/// A client behind the peer, which has proved to the peer who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// Whom it has proved to be.
    pub identity: Identity,
    /// Where it is.
    pub address: SocketAddr,
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
