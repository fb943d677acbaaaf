//! A small HTTP client for admin endpoints and probes inside the lab.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::error::{Doing, Error, Result};
use crate::layout::Layout;
use crate::sandbox::Sandbox;

/// Largest answer read: a `config_dump` of a few thousand workloads.
const MAX_BODY: usize = 64 << 20;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// What the server's clock said (`Date`, RFC 9110 §6.6.1).
    pub date: Option<String>,
    /// Body.
    pub body: String,
}

/// Connects from inside `sandbox`, from `source` when given.
pub(crate) async fn connect(sandbox: &Sandbox, source: Option<std::net::IpAddr>, to: SocketAddr) -> Result<TcpStream> {
    // The socket belongs to the namespace it is made in; where it is used afterwards does not matter.
    let socket = sandbox.run(move || socket(source, to)).await?.doing(|| format!("making a socket for {to}"))?;
    socket.connect(to).await.doing(|| format!("connecting to {to}"))
}

fn socket(source: Option<std::net::IpAddr>, to: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// GETs `path` over `stream`.
///
/// # Errors
/// When there is no answer, or it is too long.
pub async fn get(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
    path: &str,
) -> Result<Answer> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.doing(|| "speaking HTTP")?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let request = http::Request::get(path)
            .header("host", host)
            .body(Empty::<Bytes>::new())
            .doing(|| format!("asking for {path}"))?;
        let response = sender.send_request(request).await.doing(|| format!("asking for {path}"))?;
        let status = response.status().as_u16();
        let date = response.headers().get("date").and_then(|date| date.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.doing(|| format!("reading {path}"))?;
        Ok(Answer { status, date, body: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
    };
    let result = answer.await;
    driver.abort();
    result
}

/// Does the handshake with a server of the lab's Kubernetes, which must have a certificate of its authority.
async fn secure(stream: TcpStream, to: SocketAddr) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
    let authority = Layout::inside().kubernetes_authority();
    let certificate = CertificateDer::from_pem_file(&authority).doing(|| format!("reading {}", authority.display()))?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).doing(|| format!("trusting {}", authority.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .doing(|| "preparing TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::IpAddress(to.ip().into());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.doing(|| format!("TLS with {to}"))
}

/// GETs `url` (`http://IP:PORT/PATH`) from inside `sandbox`, within `patience`; with `https`, from a server of the lab's
/// Kubernetes.
pub(crate) async fn fetch(sandbox: &Sandbox, url: &str, patience: Duration) -> Result<Answer> {
    let parsed: http::Uri = url.parse().doing(|| format!("reading the address {url}"))?;
    let authority = parsed.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let to: SocketAddr = authority.parse().map_err(|error| {
        Error::new(format!("`{authority}` is not an address and port"))
            .because(format!("{error}"))
            .hint("write http://127.0.0.1:15000/path")
    })?;
    let path = parsed.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let work = async {
        let stream = connect(sandbox, None, to).await?;
        match parsed.scheme_str() {
            Some("https") => get(secure(stream, to).await?, authority, path).await,
            _ => get(stream, authority, path).await,
        }
    };
    tokio::time::timeout(patience, work)
        .await
        .map_err(|_| Error::new(format!("{url} did not answer within {patience:?}")))?
}
