//! One fetch: a plain GET over HTTP/1.1, with bounds on time and size. Redirections are not followed: they would lead around
//! [`Reach`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Reach;
use crate::l7::tokens::read::check_url;
use crate::l7::tokens::{Origin, keys};

/// Longest answer, in bytes; sets of keys have some thousand.
const MAXIMUM_BYTES: usize = 256 * 1024;

/// Fetches keys.
#[derive(Clone)]
pub struct Fetcher {
    reach: Reach,
    tls: TlsConnector,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("reach", &self.reach).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// One that asks whom `reach` lets it, and believes whom this machine believes.
    ///
    /// # Errors
    /// When the provider of TLS has no usable version.
    pub fn new(reach: Reach, provider: Arc<rustls::crypto::CryptoProvider>) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (_, ignored) = roots.add_parsable_certificates(found.certs);
        if roots.is_empty() || ignored > 0 {
            tracing::info!(roots = roots.len(), ignored, "certificate authorities that keys may be fetched under");
        }
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { reach, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// The keys there.
    ///
    /// # Errors
    /// What to tell whoever wants them.
    pub async fn keys(&self, origin: &Origin, timeout: Duration) -> Result<String, String> {
        let fetch = async {
            let url = match origin {
                Origin::Keys(url) => url.clone(),
                Origin::Issuer(issuer) => self.discover(issuer).await?,
            };
            let text = self.get(&url).await?;
            keys::usable(&text).map_err(|wrong| format!("what {url} answers {wrong}"))
        };
        let late = |_| Err(format!("{origin} did not answer within {timeout:?}"));
        tokio::time::timeout(timeout, fetch).await.unwrap_or_else(late)
    }

    /// Where an issuer has its keys.
    async fn discover(&self, issuer: &str) -> Result<String, String> {
        let url = Origin::discovery(issuer);
        let text = self.get(&url).await?;
        let said: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| format!("what {url} answers is no JSON: {error}"))?;
        let text = |name: &str| said.get(name).and_then(serde_json::Value::as_str);
        // OpenID Connect Discovery 1.0 §4.3.
        if text("issuer") != Some(issuer) {
            return Err(format!("{url} speaks for another issuer"));
        }
        let keys = text("jwks_uri").ok_or_else(|| format!("{url} names no jwks_uri"))?;
        check_url(keys).map_err(|wrong| format!("the jwks_uri that {url} names {wrong}"))?;
        Ok(keys.to_owned())
    }

    async fn get(&self, url: &str) -> Result<String, String> {
        let uri: Uri = url.parse().map_err(|_| format!("{url:?} is no URL"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = self.connect(&host, port).await?;
        if !is_tls {
            return ask(stream, &uri).await;
        }
        let name = ServerName::try_from(host.clone()).map_err(|_| format!("{host:?} is no name of a server"))?;
        let stream = self.tls.connect(name, stream).await.map_err(|error| format!("{host}: TLS failed: {error}"))?;
        ask(stream, &uri).await
    }

    /// To the first of the host's addresses that may be asked and answers. Names are looked up once: what was checked is dialled.
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        self.reach.check(host)?;
        let found = tokio::net::lookup_host((host, port)).await;
        let found = found.map_err(|error| format!("{host} cannot be looked up: {error}"))?;
        let mut last = String::new();
        for address in self.reach.allowed(host, found.map(|address| address.ip()))? {
            match TcpStream::connect(SocketAddr::new(address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = format!("{host} ({address}) port {port} cannot be connected: {error}"),
            }
        }
        Err(last)
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, uri: &Uri) -> Result<String, String> {
    let failed = |error: hyper::Error| format!("{uri}: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // Ends with the sender.
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "fairway")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("{uri} cannot be asked for: {error}"))?;
    let response = sender.send_request(request).await.map_err(failed)?;
    if response.status() != StatusCode::OK {
        return Err(format!("{uri} answers {}", response.status()));
    }
    let body = Limited::new(response.into_body(), MAXIMUM_BYTES).collect().await;
    let body = body.map_err(|error| format!("{uri}: {error}"))?.to_bytes();
    String::from_utf8(body.into()).map_err(|_| format!("what {uri} answers is no text"))
}
