//! Clients that misbehave, as futures to be run inside a network namespace.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use fairway_core::io::tls::provider;
use fairway_lab::lab::PATIENCE;
use h2::client::SendRequest;
use http::{Method, Request};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::mesh::credentials::Shown;

/// Sends `bytes` and reads until the other side ends the connection; gives what it said.
pub(crate) async fn send(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = match timeout(PATIENCE, TcpStream::connect(to)).await.unwrap() {
        // Refused so soon that even connecting did not see the end of it.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Vec::new(),
        connected => connected.unwrap(),
    };
    // It may close before it has read everything: that is what is being looked for.
    let _ = stream.write_all(bytes).await;
    read_to_end(&mut stream).await
}

/// Reads until the other side ends the connection, however it does.
pub(crate) async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut read = Vec::new();
    // An error ends it as well as an orderly close does.
    let ended = timeout(PATIENCE, stream.read_to_end(&mut read)).await;
    assert!(ended.is_ok(), "the connection was not ended within {PATIENCE:?}");
    read
}

/// Bytes that mean nothing, the same in every run.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Whoever it is, it will do: here the other side decides.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS connection that shows `shown`, if anything. In TLS 1.3 a server's refusal comes only after the client is done.
pub(crate) async fn try_tls(to: SocketAddr, shown: Option<Shown>) -> io::Result<TlsStream<TcpStream>> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match shown {
        Some(shown) => config.with_client_auth_cert(shown.chain, shown.key).unwrap(),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = timeout(PATIENCE, TcpStream::connect(to)).await.unwrap()?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(to.ip().into()), tcp);
    timeout(PATIENCE, connecting).await.unwrap()
}

/// As [`try_tls`], where the handshake must succeed.
pub(crate) async fn tls(to: SocketAddr, shown: Option<Shown>) -> TlsStream<TcpStream> {
    try_tls(to, shown).await.unwrap()
}

/// HTTP/2 over such a connection.
pub(crate) async fn http2(stream: TlsStream<TcpStream>) -> SendRequest<bytes::Bytes> {
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move {
        // Ends with the test's runtime at the latest.
        let _ = connection.await;
    });
    sender.ready().await.unwrap()
}

/// Status of the answer to one request.
pub(crate) async fn ask(sender: &mut SendRequest<bytes::Bytes>, method: Method, uri: &str) -> u16 {
    let request = Request::builder().method(method).uri(uri).body(()).unwrap();
    let (response, _) = sender.send_request(request, false).unwrap();
    timeout(PATIENCE, response).await.unwrap().unwrap().status().as_u16()
}
