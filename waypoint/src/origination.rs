//! TLS with servers outside of the mesh, begun on behalf of clients: who they are is what their certificates say, by roots that
//! the world believes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fairway_core::limits::{self, Limits};
use fairway_core::reason::Reason;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use self::files::{CHECK_INTERVAL, Files};
use crate::config::Origination;
use crate::failure::Failure;

mod files;

/// Settings that are kept at hand; more are made again when they are needed.
const KEPT: usize = 1024;
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// What is going to be spoken inside of TLS, which both sides agree on in the handshake (ALPN, RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inside {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Whatever the client speaks, of which nothing is said.
    Anything,
}

impl Inside {
    /// HTTP/2, or HTTP/1.1.
    #[must_use]
    pub fn http(is_http2: bool) -> Self {
        if is_http2 { Self::Http2 } else { Self::Http1 }
    }

    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http1 => vec![HTTP1.to_vec()],
            Self::Http2 => vec![HTTP2.to_vec()],
            Self::Anything => Vec::new(),
        }
    }
}

/// What settings are for, and what is spoken inside.
type Key = (Origination, Inside);

/// Begins TLS.
#[derive(Debug)]
pub struct Originations {
    shared: Arc<Shared>,
    /// Held by who reads files, until they are read: who needs the same ones finds them read.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Shared {
    provider: Arc<CryptoProvider>,
    /// Most bytes of a file.
    largest: u64,
    /// Locked where nobody waits for it but others that read files.
    files: Mutex<Files>,
    configs: Mutex<HashMap<Key, Made>>,
    /// Why there were none, and since when that is known: files that are broken are not read for each request.
    failures: Mutex<HashMap<Key, (Instant, String)>>,
}

/// Settings, and what they were made of.
#[derive(Debug)]
struct Made {
    checked: Instant,
    roots: Arc<RootCertStore>,
    own: Option<Arc<CertifiedKey>>,
    config: Arc<ClientConfig>,
}

impl Made {
    fn is_of(&self, roots: &Arc<RootCertStore>, own: Option<&Arc<CertifiedKey>>) -> bool {
        let is_same_own = match (&self.own, own) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (before, now) => before.is_none() && now.is_none(),
        };
        Arc::ptr_eq(&self.roots, roots) && is_same_own
    }
}

impl Originations {
    /// With this cryptography.
    #[must_use]
    pub fn new(provider: Arc<CryptoProvider>, limits: &Limits) -> Self {
        let largest = limits.value(&limits::TLS_FILE);
        let (files, configs, failures) = (Mutex::default(), Mutex::default(), Mutex::default());
        let shared = Shared { provider, largest, files, configs, failures };
        Self { shared: Arc::new(shared), turn: Arc::default() }
    }

    /// Speaks TLS over `io` from here on.
    ///
    /// # Errors
    /// When the server is not who it has to be, or does not speak what it has to, or files are missing that say so.
    pub async fn begin<T>(&self, to: &Origination, inside: Inside, io: T) -> Result<TlsStream<T>, Failure>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let detail = |problem: &dyn std::fmt::Display| format!("TLS with {}: {problem}", to.server_name);
        let failed = |problem: &dyn std::fmt::Display| Failure::new(Reason::TlsHandshakeFailed, detail(problem));
        let config = self.config(to, inside, Instant::now()).await;
        // Of what we lack ourselves no endpoint is to blame.
        let config = config.map_err(|problem| Failure::new(Reason::TlsFilesUnusable, detail(&problem)))?;
        let name = ServerName::try_from(to.server_name.clone()).map_err(|error| failed(&error))?;
        let stream = TlsConnector::from(config).connect(name, io).await.map_err(|error| failed(&error))?;
        // A server that says nothing of it speaks HTTP/1.1 (RFC 7301 §3.2, RFC 9113 §3.2).
        if inside == Inside::Http2 && stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(failed(&"the server does not speak HTTP/2"));
        }
        Ok(stream)
    }

    /// Settings that hold now. Files are read on a thread of their own.
    async fn config(&self, to: &Origination, inside: Inside, now: Instant) -> Result<Arc<ClientConfig>, String> {
        let key = (to.clone(), inside);
        if let Some(known) = self.shared.fresh(&key, now) {
            return known;
        }
        let turn = match Arc::clone(&self.turn).try_lock_owned() {
            Ok(turn) => turn,
            Err(_taken) => {
                // Files of others may take long to read: what held until now goes on to hold meanwhile.
                if let Some(config) = self.shared.made(&key) {
                    return Ok(config);
                }
                Arc::clone(&self.turn).lock_owned().await
            }
        };
        if let Some(known) = self.shared.fresh(&key, now) {
            return known;
        }
        let shared = Arc::clone(&self.shared);
        let renewed = spawn_blocking(move || {
            // Held until the files are read, even if nobody waits for them any more: threads would pile up otherwise.
            let _turn = turn;
            shared.known(key, now)
        });
        renewed.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Settings whose files were looked at not long ago, or why there were none then.
    fn fresh(&self, key: &Key, now: Instant) -> Option<Result<Arc<ClientConfig>, String>> {
        let is_fresh = |checked: Instant| now.saturating_duration_since(checked) < CHECK_INTERVAL;
        if let Some(made) = lock(&self.configs).get(key).filter(|made| is_fresh(made.checked)) {
            return Some(Ok(Arc::clone(&made.config)));
        }
        let failures = lock(&self.failures);
        let (_, problem) = failures.get(key).filter(|(checked, _)| is_fresh(*checked))?;
        Some(Err(problem.clone()))
    }

    /// Settings that were made before, however long ago their files were looked at.
    fn made(&self, key: &Key) -> Option<Arc<ClientConfig>> {
        lock(&self.configs).get(key).map(|made| Arc::clone(&made.config))
    }

    /// Settings by what is in the files now; that there are none is remembered for a while.
    fn known(&self, key: Key, now: Instant) -> Result<Arc<ClientConfig>, String> {
        let renewed = self.renewed(key.clone(), now);
        let mut failures = lock(&self.failures);
        match &renewed {
            Ok(_) => drop(failures.remove(&key)),
            Err(problem) => {
                if failures.len() >= KEPT {
                    failures.clear();
                }
                failures.insert(key, (now, problem.clone()));
            }
        }
        renewed
    }

    /// Settings by what is in the files now.
    fn renewed(&self, key: Key, now: Instant) -> Result<Arc<ClientConfig>, String> {
        let (to, inside) = &key;
        let (roots, own) = {
            let mut files = lock(&self.files);
            let own = to.own.as_ref().map(|own| files.own(own, &self.provider, self.largest, now)).transpose()?;
            (files.roots(&to.roots, self.largest, now)?, own)
        };
        let same = {
            let configs = lock(&self.configs);
            configs.get(&key).filter(|made| made.is_of(&roots, own.as_ref())).map(|made| Arc::clone(&made.config))
        };
        let config = match same {
            Some(config) => config,
            None => Arc::new(self.make(to, *inside, Arc::clone(&roots), own.as_ref())?),
        };
        let mut configs = lock(&self.configs);
        if configs.len() >= KEPT {
            configs.clear();
        }
        configs.insert(key, Made { checked: now, roots, own, config: Arc::clone(&config) });
        Ok(config)
    }

    fn make(
        &self,
        to: &Origination,
        inside: Inside,
        roots: Arc<RootCertStore>,
        own: Option<&Arc<CertifiedKey>>,
    ) -> Result<ClientConfig, String> {
        // What is no name of a host is on no certificate.
        let names = to.names.iter().filter_map(|name| ServerName::try_from(name.clone()).ok()).collect();
        let chain = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&self.provider)).build();
        let chain = chain.map_err(|error| error.to_string())?;
        let verifier = OneOf { chain, names };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match own {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(own)))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = inside.protocols();
        Ok(config)
    }
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
