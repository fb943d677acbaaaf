//! TLS settings of the tunnel: who we are, whom we accept, which algorithms.
//!
//! TLS 1.3 only, ALPN `h2`, no resumption, no server name (interop §1.7). Names do not matter between proxies:
//! a peer is its SPIFFE identity, and [`verify`] is the one place that accepts or refuses one.

pub mod profile;
pub mod records;
pub mod revocation;
pub mod trust;
pub mod verify;

use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};

use crate::ident::Identity;
use profile::Profile;
use trust::Trust;
use verify::{ExpectedPeer, MeshClients};

/// The protocol spoken inside the tunnel's TLS.
pub const ALPN_HTTP2: &[u8] = b"h2";

/// The cryptography this build uses, as an argument to everything that needs one: nothing is installed process-wide.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    // A build whose profile its provider cannot serve offers nothing rather than something else.
    Profile::DEFAULT
        .provider()
        .unwrap_or_else(|_| Arc::new(CryptoProvider { kx_groups: Vec::new(), ..default_provider() }))
}

/// All of the provider that the mesh knows how to use.
fn default_provider() -> CryptoProvider {
    #[cfg(feature = "tls-aws-lc")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(all(feature = "tls-ring", not(feature = "tls-aws-lc")))]
    let provider = rustls::crypto::ring::default_provider();
    #[cfg(not(any(feature = "tls-aws-lc", feature = "tls-ring")))]
    compile_error!("feature `io` needs a TLS provider: switch on `tls-aws-lc` or `tls-ring`");
    without_chacha(provider)
}

/// The provider's name, for `--version` and metrics.
pub const PROVIDER_NAME: &str = if cfg!(feature = "tls-aws-lc") { "aws-lc" } else { "ring" };

/// ChaCha20 is not among the suites the mesh offers (interop §1.7): every machine that runs it has AES instructions.
fn without_chacha(mut provider: CryptoProvider) -> CryptoProvider {
    provider.cipher_suites.retain(|suite| suite.suite() != rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    provider
}

/// What one workload shows its peers, ready to use.
#[derive(Debug)]
pub struct Credentials {
    certified: Arc<CertifiedKey>,
    trust: Trust,
    provider: Arc<CryptoProvider>,
    server: Arc<ServerConfig>,
}

impl Credentials {
    /// Prepares both directions once, so that a connection costs no parsing of keys. What peers are checked against is
    /// looked up in `trust` at each handshake.
    ///
    /// # Errors
    /// When the provider supports no TLS 1.3.
    pub fn new(
        identity: &Identity,
        certified: CertifiedKey,
        trust: Trust,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::Error> {
        let certified = Arc::new(certified);
        let clients = Arc::new(MeshClients::new(trust.clone(), &provider, identity));
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(OneCertificate(Arc::clone(&certified))));
        server.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { certified, trust, provider, server: Arc::new(server) })
    }

    /// Our own certificates as peers see them, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Settings for accepting tunnels as this workload.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// Settings for opening a tunnel to a peer that must be one of `accepted`.
    ///
    /// # Errors
    /// When the provider supports no TLS 1.3.
    pub fn client(&self, accepted: &[Identity]) -> Result<Arc<ClientConfig>, rustls::Error> {
        let peer = ExpectedPeer::new(self.trust.clone(), &self.provider, accepted.to_vec());
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(peer))
            .with_client_cert_resolver(Arc::new(OneCertificate(Arc::clone(&self.certified))));
        client.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        client.enable_sni = false;
        client.resumption = Resumption::disabled();
        Ok(Arc::new(client))
    }
}

/// Always the same certificate, whatever the peer asks for.
#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesServerCert for OneCertificate {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for OneCertificate {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
