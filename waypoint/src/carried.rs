//! A connection that nobody looked into, as it turned out.

use std::net::SocketAddr;
use std::sync::Arc;

use fairway_core::reason::Reason;
use fairway_core::workload::Workload;

use crate::access_log;
use crate::config::Listener;
use crate::facts::{Facts, RequestedServerName};
use crate::failure::Failure;
use crate::stream::Connection;

/// How one turned out.
#[derive(Debug, Default)]
pub struct Carried {
    /// The name that a TLS client asked for.
    pub server_name: Option<String>,
    /// Whether it was looked for one.
    pub is_name_read: bool,
    /// The cluster of the endpoint.
    pub cluster: Option<String>,
    /// The endpoint, where its address is known.
    pub endpoint: Option<SocketAddr>,
    /// The endpoint's workload.
    pub workload: Option<Arc<Workload>>,
    /// Bytes towards the endpoint.
    pub received: u64,
    /// Bytes towards the client.
    pub sent: u64,
    /// Why it did not end well.
    pub failure: Option<Failure>,
}

impl Carried {
    /// One that did not come to anything.
    #[must_use]
    pub fn refused(failure: Failure) -> Self {
        Self { failure: Some(failure), ..Self::default() }
    }

    /// The same, come to nothing for this reason.
    #[must_use]
    pub fn failed(self, failure: Failure) -> Self {
        Self { failure: Some(failure), ..self }
    }

    /// Why it ended.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.failure.as_ref().map_or(Reason::Ok, |failure| failure.reason)
    }

    /// It is over: it is counted and logged as the configuration says by now, and what policies say of it that decide nothing, too.
    pub fn end(&self, connection: &Connection) {
        let config = connection.waypoint.config.load();
        let listener = config.listeners.get(&connection.listener).map(|listener| &**listener);
        connection.waypoint.telemetry.connection(connection, self, listener.and_then(Listener::metrics));
        let name = self.server_name.as_deref();
        let noted = listener.and_then(|listener| {
            let (silent, enforced) = listener.silent(name);
            let server_name = RequestedServerName::read(self.is_name_read, name);
            connection.noted(silent, enforced, &Facts { server_name, ..connection.facts() })
        });
        let logs = listener.and_then(|listener| listener.logs(name));
        access_log::carried::tell(connection, self, noted.as_deref(), logs);
    }
}
