//! Opens one connection to the control plane: resolve, TCP, TLS.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::verify::{AlternativeName, is_wrong_name};
use super::{
    CONNECT_TIMEOUT, ConnectError, RootSource, TCP_KEEPALIVE_INTERVAL, TCP_KEEPALIVE_RETRIES, TCP_KEEPALIVE_TIME,
};
use crate::config::ControlPlaneAddress;

/// A byte stream, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

#[derive(Clone)]
pub(super) struct Connector {
    settings: Arc<Settings>,
}

struct Settings {
    address: ControlPlaneAddress,
    display: String,
    roots: RootSource,
    alternative_name: Option<String>,
    packet_mark: Option<u32>,
    provider: Arc<CryptoProvider>,
}

impl Connector {
    pub(super) fn new(
        address: ControlPlaneAddress,
        roots: RootSource,
        alternative_name: Option<String>,
        packet_mark: Option<u32>,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        let display = address.authority();
        Self { settings: Arc::new(Settings { address, display, roots, alternative_name, packet_mark, provider }) }
    }

    pub(super) fn address(&self) -> &str {
        &self.settings.display
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    /// The URI is the endpoint's and says no more than our settings.
    fn call(&mut self, _: Uri) -> Self::Future {
        let settings = Arc::clone(&self.settings);
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_TIMEOUT, settings.open()).await {
                Ok(stream) => stream.map(TokioIo::new),
                Err(_elapsed) => Err(ConnectError::Timeout { address: settings.display.clone() }),
            }
        })
    }
}

impl Settings {
    async fn open(&self) -> Result<Box<dyn Stream>, ConnectError> {
        let tcp = self.tcp().await?;
        if self.address.tls { self.tls(tcp).await } else { Ok(Box::new(tcp)) }
    }

    async fn tcp(&self) -> Result<TcpStream, ConnectError> {
        let host = &self.address.host;
        let unresolved = |reason: String| ConnectError::Resolve { host: host.clone(), reason };
        let addresses = tokio::net::lookup_host((host.as_str(), self.address.port))
            .await
            .map_err(|error| unresolved(error.to_string()))?;
        let mut last = unresolved("no address".to_owned());
        for address in addresses {
            match self.dial(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = ConnectError::Tcp { address: address.to_string(), reason: error.to_string() },
            }
        }
        Err(last)
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_nodelay(true)?;
        let options = SockRef::from(&socket);
        options.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(TCP_KEEPALIVE_TIME)
                .with_interval(TCP_KEEPALIVE_INTERVAL)
                .with_retries(TCP_KEEPALIVE_RETRIES),
        )?;
        if let Some(mark) = self.packet_mark {
            options.set_mark(mark)?;
        }
        socket.connect(address).await
    }

    async fn tls(&self, tcp: TcpStream) -> Result<Box<dyn Stream>, ConnectError> {
        let name = server_name(&self.address.host)?;
        let connector = TlsConnector::from(Arc::new(self.client_config()?));
        match connector.connect(name, tcp).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(self.explain(&error)),
        }
    }

    fn client_config(&self) -> Result<ClientConfig, ConnectError> {
        let tls = |error: &dyn std::fmt::Display| ConnectError::Tls {
            address: self.display.clone(),
            reason: error.to_string(),
        };
        let roots = Arc::new(self.roots.read()?);
        let alternative = self.alternative_name.as_deref().map(server_name).transpose()?;
        let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&self.provider))
            .build()
            .map_err(|error| tls(&error))?;
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| tls(&error))?
            // Not a weaker check: the same one with a second accepted name.
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AlternativeName::new(inner, alternative)))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    fn explain(&self, error: &io::Error) -> ConnectError {
        let address = self.display.clone();
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(wrong_name) if is_wrong_name(wrong_name) => {
                ConnectError::WrongName { address, reason: wrong_name.to_string() }
            }
            Some(untrusted @ rustls::Error::InvalidCertificate(_)) => {
                ConnectError::Untrusted { address, roots: self.roots.to_string(), reason: untrusted.to_string() }
            }
            _ => ConnectError::Tls { address, reason: error.to_string() },
        }
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, ConnectError> {
    ServerName::try_from(host.to_owned())
        .map_err(|error| ConnectError::Resolve { host: host.to_owned(), reason: error.to_string() })
}
