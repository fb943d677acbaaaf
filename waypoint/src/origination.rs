//! TLS with servers outside of the mesh, begun on behalf of clients: who they are is what their certificates say, by roots that
//! the world believes.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fairway_core::reason::Reason;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::Origination;
use crate::failure::Failure;

/// How often files of roots are looked at, which machines replace a few times a year.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Settings that are kept at hand; more are made again when they are needed.
const KEPT: usize = 1024;
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Begins TLS.
#[derive(Debug)]
pub struct Originations {
    provider: Arc<CryptoProvider>,
    kept: Arc<Mutex<Kept>>,
    /// Held by who has a file looked at.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Kept {
    roots: HashMap<PathBuf, Roots>,
    /// By what they are for and whether HTTP/2 is spoken, with the roots that they were made of.
    configs: HashMap<(Origination, bool), (Arc<RootCertStore>, Arc<ClientConfig>)>,
}

/// What was read of a file.
#[derive(Clone, Debug)]
struct Roots {
    checked: Instant,
    modified: Option<SystemTime>,
    store: Arc<RootCertStore>,
}

impl Originations {
    /// With this cryptography.
    #[must_use]
    pub fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider, kept: Arc::default(), looking: tokio::sync::Mutex::default() }
    }

    /// Speaks TLS over `io` from here on.
    ///
    /// # Errors
    /// When the server is not who it has to be, or does not speak what it has to.
    pub async fn begin<T>(&self, to: &Origination, http2: bool, io: T) -> Result<TlsStream<T>, Failure>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |problem: &dyn fmt::Display| {
            Failure::new(Reason::TlsHandshakeFailed, format!("TLS with {}: {problem}", to.server_name))
        };
        let config = self.config(to, http2, Instant::now()).await.map_err(|problem| failed(&problem))?;
        let name = ServerName::try_from(to.server_name.clone()).map_err(|error| failed(&error))?;
        let stream = TlsConnector::from(config).connect(name, io).await.map_err(|error| failed(&error))?;
        // A server that says nothing of it speaks HTTP/1.1 (RFC 7301 §3.2, RFC 9113 §3.2).
        if http2 && stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(failed(&"the server does not speak HTTP/2"));
        }
        Ok(stream)
    }

    async fn config(&self, to: &Origination, http2: bool, now: Instant) -> Result<Arc<ClientConfig>, String> {
        let roots = self.roots(&to.roots, now).await?;
        let mut kept = lock(&self.kept);
        let key = (to.clone(), http2);
        if let Some((_, config)) = kept.configs.get(&key).filter(|(of, _)| Arc::ptr_eq(of, &roots)) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.make(to, http2, Arc::clone(&roots))?);
        if kept.configs.len() >= KEPT {
            kept.configs.clear();
        }
        kept.configs.insert(key, (roots, Arc::clone(&config)));
        Ok(config)
    }

    /// The roots in a file, which a thread looks at that may wait for a disk. Who comes meanwhile waits, too: what was believed long
    /// ago need not be any more.
    async fn roots(&self, path: &Path, now: Instant) -> Result<Arc<RootCertStore>, String> {
        if let Some(store) = self.fresh(path, now) {
            return Ok(store);
        }
        let _alone = self.looking.lock().await;
        if let Some(store) = self.fresh(path, now) {
            return Ok(store);
        }
        let known = lock(&self.kept).roots.get(path).cloned();
        let (kept, file) = (Arc::clone(&self.kept), path.to_owned());
        // Who asked may leave; what was found is kept all the same.
        let looking = tokio::task::spawn_blocking(move || {
            let roots = look(&file, known.as_ref(), now)?;
            let store = Arc::clone(&roots.store);
            lock(&kept).roots.insert(file, roots);
            Ok(store)
        });
        looking.await.unwrap_or_else(|error| Err(unreadable(path, &error)))
    }

    /// The roots in a file that was looked at a moment ago.
    fn fresh(&self, path: &Path, now: Instant) -> Option<Arc<RootCertStore>> {
        let kept = lock(&self.kept);
        let known = kept.roots.get(path);
        let known = known.filter(|known| now.saturating_duration_since(known.checked) < CHECK_INTERVAL);
        known.map(|known| Arc::clone(&known.store))
    }

    fn make(&self, to: &Origination, http2: bool, roots: Arc<RootCertStore>) -> Result<ClientConfig, String> {
        // What is no name of a host is on no certificate.
        let names = to.names.iter().filter_map(|name| ServerName::try_from(name.clone()).ok()).collect();
        let chain = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&self.provider)).build();
        let chain = chain.map_err(|error| error.to_string())?;
        let verifier = OneOf { chain, names };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![if http2 { HTTP2 } else { HTTP1 }.to_vec()];
        Ok(config)
    }
}

/// The roots in a file that was looked at, in place of those that are `known`: the same where it has not changed, or cannot be
/// read any more.
fn look(path: &Path, known: Option<&Roots>, now: Instant) -> Result<Roots, String> {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    if let Some(known) = known.filter(|known| modified.is_some() && known.modified == modified) {
        return Ok(Roots { checked: now, ..known.clone() });
    }
    match (read(path), known) {
        (Ok(store), _) => Ok(Roots { checked: now, modified, store: Arc::new(store) }),
        (Err(problem), Some(known)) => {
            tracing::warn!(problem, "roots cannot be read; those of before are believed");
            // The file is read again until it can be.
            Ok(Roots { checked: now, ..known.clone() })
        }
        (Err(problem), None) => Err(problem),
    }
}

fn unreadable(path: &Path, problem: &dyn fmt::Display) -> String {
    format!("roots in {}: {problem}", path.display())
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(path: &Path) -> Result<RootCertStore, String> {
    let pem = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
    let mut store = RootCertStore::empty();
    // Machines have old ones among them that nobody can read any more.
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    if store.is_empty() { Err(unreadable(path, &"there is no certificate in it")) } else { Ok(store) }
}

/// Believes a server that has one of these names.
#[derive(Debug)]
struct OneOf {
    chain: Arc<WebPkiServerVerifier>,
    names: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for OneOf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        asked: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |name| self.chain.verify_server_cert(end_entity, intermediates, name, ocsp_response, now);
        // None of the names is what was asked for, unless it is written, so an empty list lets nobody in.
        let mut error = rustls::Error::General(format!("no name is believed for {}", asked.to_str()));
        for name in &self.names {
            match verify(name) {
                Ok(verified) => return Ok(verified),
                Err(refused) => error = refused,
            }
        }
        Err(error)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
