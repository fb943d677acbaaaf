//! Channel to the control plane: TLS with re-read roots, a re-read token, and errors that say what to do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use tokio::sync::Mutex;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

mod connector;
mod credentials;
mod error;
mod verify;

pub use credentials::{Metadata, RootSource, TokenSource};
pub use error::{ConfigError, ConnectError};

use connector::Connector;

use crate::config::ControlPlaneAddress;
use crate::limits::{self, Limits};

/// Time for TCP and TLS together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle time before TCP keepalive probes, for middleboxes that forget connections.
const TCP_KEEPALIVE_TIME: Duration = Duration::from_secs(300);
/// Time between TCP keepalive probes.
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(75);
/// TCP keepalive probes lost before the connection is given up.
const TCP_KEEPALIVE_RETRIES: u32 = 9;
/// Time for the answer to a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection with our metadata added to each request; give it to a generated client.
pub type ControlChannel = InterceptedService<Channel, Metadata>;

/// Where the control plane is and how to prove each other's identity.
#[derive(Clone, Debug)]
pub struct ControlPlaneConfig {
    /// Where it listens and whether TLS is spoken there.
    pub address: ControlPlaneAddress,
    /// Roots the server's certificate must lead to.
    pub roots: RootSource,
    /// A name accepted in the server's certificate besides the address's host.
    pub alternative_name: Option<String>,
    /// The bearer token.
    pub token: TokenSource,
    /// Sent as metadata `clusterid`: whose token this is.
    pub cluster_id: String,
    /// Further metadata for each request.
    pub headers: Vec<(String, String)>,
    /// Packet mark of the socket, so that capture rules let it through.
    pub packet_mark: Option<u32>,
    /// The values of the limits for connections to it, and for what they carry.
    pub limits: Limits,
}

/// Makes channels to one control plane. Cheap to clone; clones share the channel of [`ControlPlane::channel`].
#[derive(Clone)]
pub struct ControlPlane {
    endpoint: Endpoint,
    connector: Connector,
    metadata: Metadata,
    shared: Arc<Mutex<Option<Channel>>>,
    limits: Limits,
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPlane").field("endpoint", &self.endpoint.uri()).finish_non_exhaustive()
    }
}

impl ControlPlane {
    /// Prepares channels; opens nothing yet.
    ///
    /// # Errors
    /// If a header cannot be sent or the address is no URL.
    pub fn new(config: ControlPlaneConfig, provider: Arc<CryptoProvider>) -> Result<Self, ConfigError> {
        let metadata = Metadata::new(config.token, &config.cluster_id, &config.headers)?;
        // The scheme is always `http` towards tonic: TLS is the connector's business, not the channel's.
        let invalid = || ConfigError::Address(config.address.to_string());
        let endpoint = Endpoint::from_shared(format!("http://{}", config.address.authority()))
            .map_err(|_| invalid())?
            .origin(config.address.to_string().parse().map_err(|_| invalid())?)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(config.limits.duration(&limits::CONTROL_KEEPALIVE))
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true);
        let connector =
            Connector::new(config.address, config.roots, config.alternative_name, config.packet_mark, provider);
        Ok(Self { endpoint, connector, metadata, shared: Arc::default(), limits: config.limits })
    }

    /// The values of the limits for what its connections carry.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A connection of its own, for a long stream.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self) -> Result<ControlChannel, ConnectError> {
        let channel = self.open().await?;
        Ok(InterceptedService::new(channel, self.metadata.clone()))
    }

    /// The shared connection, for single calls. It reconnects by itself, reading the roots again.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn channel(&self) -> Result<ControlChannel, ConnectError> {
        let mut shared = self.shared.lock().await;
        let channel = match &*shared {
            Some(channel) => channel.clone(),
            None => shared.insert(self.open().await?).clone(),
        };
        Ok(InterceptedService::new(channel, self.metadata.clone()))
    }

    async fn open(&self) -> Result<Channel, ConnectError> {
        self.endpoint
            .connect_with_connector(self.connector.clone())
            .await
            .map_err(|error| ConnectError::from_transport(&error, self.connector.address()))
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
