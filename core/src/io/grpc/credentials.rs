//! What we trust and what we show: roots, token and request metadata, read again on each use.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::{ConfigError, ConnectError};

/// Where the roots come from that the control plane's certificate must lead to.
#[derive(Clone, PartialEq, Eq)]
pub enum RootSource {
    /// A PEM file, read for each connection, so that a rotated one is picked up.
    File(PathBuf),
    /// PEM text.
    Literal(Arc<str>),
    /// Those that the machine trusts, read for each connection.
    System,
}

/// What stands for the machine's own roots, where a file or PEM text may stand, too.
const SYSTEM: &str = "SYSTEM";

impl RootSource {
    /// `SYSTEM`, or PEM text if it looks like it, else a path.
    pub fn parse(text: &str) -> Self {
        match text {
            SYSTEM => Self::System,
            pem if pem.contains("-----BEGIN") => Self::Literal(pem.into()),
            path => Self::File(path.into()),
        }
    }

    pub(super) fn read(&self) -> Result<RootCertStore, ConnectError> {
        let unreadable = |reason: String| ConnectError::Roots { roots: self.to_string(), reason };
        let pem = match self {
            Self::System => {
                let loaded = rustls_native_certs::load_native_certs();
                let mut store = RootCertStore::empty();
                // Machines have old ones among them that nobody can read any more.
                store.add_parsable_certificates(loaded.certs);
                let reason = loaded.errors.first().map_or("there are none".to_owned(), ToString::to_string);
                return if store.is_empty() { Err(unreadable(reason)) } else { Ok(store) };
            }
            Self::File(path) => std::fs::read(path).map_err(|error| unreadable(error.to_string()))?,
            Self::Literal(text) => text.as_bytes().to_vec(),
        };
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
            store.add(certificate).map_err(|error| unreadable(error.to_string()))?;
        }
        if store.is_empty() {
            return Err(unreadable("there is no certificate in it".to_owned()));
        }
        Ok(store)
    }
}

impl fmt::Display for RootSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "root file {}", path.display()),
            Self::Literal(_) => f.write_str("the roots given as PEM text"),
            Self::System => f.write_str("the machine's roots"),
        }
    }
}

impl fmt::Debug for RootSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the bearer token comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// Send none.
    None,
    /// A file, read for each request, since the kubelet replaces it.
    File(PathBuf),
    /// The token itself.
    Literal(Arc<str>),
}

impl TokenSource {
    /// Nothing if empty, a file if it has a slash (a token has none) or names one, else the token itself.
    pub fn parse(text: &str) -> Self {
        if text.is_empty() {
            Self::None
        } else if text.contains('/') || Path::new(text).is_file() {
            Self::File(text.into())
        } else {
            Self::Literal(text.into())
        }
    }

    fn read(&self) -> Result<Option<String>, Status> {
        let path = match self {
            Self::None => return Ok(None),
            Self::Literal(token) => return Ok(Some(token.to_string())),
            Self::File(path) => path,
        };
        let token = std::fs::read_to_string(path).map_err(|error| {
            Status::unauthenticated(format!(
                "token file {} cannot be read: {error}; mount the service account token there or set AUTH_TOKEN",
                path.display()
            ))
        })?;
        let token = token.trim();
        if token.is_empty() {
            return Err(Status::unauthenticated(format!(
                "token file {} is empty; it must hold the service account token",
                path.display()
            )));
        }
        Ok(Some(token.to_owned()))
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::File(path) => write!(f, "file {}", path.display()),
            // The token is a secret.
            Self::Literal(_) => f.write_str("literal"),
        }
    }
}

/// Adds token, cluster and headers to each request.
#[derive(Clone, Debug)]
pub struct Metadata {
    token: TokenSource,
    fixed: Arc<[(MetadataKey<Ascii>, MetadataValue<Ascii>)]>,
}

impl Metadata {
    pub(super) fn new(token: TokenSource, cluster_id: &str, headers: &[(String, String)]) -> Result<Self, ConfigError> {
        let cluster = [("clusterid".to_owned(), cluster_id.to_owned())];
        let given = headers.iter().chain(cluster.iter().filter(|(_, id)| !id.is_empty()));
        let fixed: Result<Vec<_>, ConfigError> = given
            .map(|(name, value)| {
                let invalid = || ConfigError::Header(name.clone());
                let key = MetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes()).map_err(|_| invalid())?;
                Ok((key, value.parse().map_err(|_| invalid())?))
            })
            .collect();
        Ok(Self { token, fixed: fixed?.into() })
    }
}

impl Interceptor for Metadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        for (key, value) in self.fixed.iter() {
            metadata.insert(key.clone(), value.clone());
        }
        if let Some(token) = self.token.read()? {
            let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
                .parse()
                .map_err(|_| Status::unauthenticated("the token holds characters that cannot be sent"))?;
            value.set_sensitive(true);
            metadata.insert("authorization", value);
        }
        Ok(request)
    }
}
