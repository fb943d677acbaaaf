//! For tests: a world outside of the mesh, with a root of its own and servers on loopback that speak TLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use fairway_core::io::tls;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::own_address;
use crate::config::{Origination, OwnCertificate};

/// A world: whom it believes is in a file.
pub(crate) struct Outside {
    issuer: Issuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

impl Outside {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let world = Self { issuer: Issuer::new(params, key), directory: tempfile::tempdir().unwrap() };
        std::fs::write(world.roots(), root.pem()).unwrap();
        world
    }

    /// A file of the world.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The file of whom it believes.
    pub(crate) fn roots(&self) -> PathBuf {
        self.file("roots.pem")
    }

    /// A certificate for `name` and its key, as PEM.
    pub(crate) fn certificate(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// Files of a certificate for `name` and its key, put in the place of those of before.
    pub(crate) fn own(&self, name: &str) -> OwnCertificate {
        let (certificate, key) = self.certificate(name);
        let own = OwnCertificate { chain: self.file("tls.crt"), key: self.file("tls.key") };
        for (path, pem) in [(&own.chain, certificate.pem()), (&own.key, key.serialize_pem())] {
            let other = path.with_extension("other");
            std::fs::write(&other, pem).unwrap();
            std::fs::rename(other, path).unwrap();
        }
        own
    }

    /// A server with a certificate for `name`, that speaks one of `spoken`.
    pub(crate) fn acceptor(&self, name: &str, spoken: &[&[u8]]) -> TlsAcceptor {
        self.acceptor_of(None, name, spoken)
    }

    /// The same, that takes only clients with a certificate of that world.
    pub(crate) fn acceptor_of(&self, clients: Option<&Self>, name: &str, spoken: &[&[u8]]) -> TlsAcceptor {
        let (certificate, key) = self.certificate(name);
        let builder =
            ServerConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_file(clients.roots()).unwrap()).unwrap();
                let believed = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider());
                builder.with_client_cert_verifier(believed.build().unwrap())
            }
        };
        let mut config = builder
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        config.alpn_protocols = spoken.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// What is said of TLS with a server that is asked for as `asked` and has one of `names`.
    pub(crate) fn to(&self, asked: &str, names: &[&str]) -> Origination {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Origination { server_name: asked.to_owned(), names, roots: self.roots(), own: None }
    }
}

/// Serves each connection that gets through the handshake with `serve`.
pub(crate) async fn serve<F>(
    acceptor: TlsAcceptor,
    serve: impl Fn(TlsStream<TcpStream>) -> F + Clone + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, serve) = (acceptor.clone(), serve.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(socket).await {
                    serve(stream).await;
                }
            });
        }
    });
    address
}

/// Says what it was asked as, repeats what it hears until that ends, says `bye`, and ends as one should.
pub(crate) async fn repeat<T: AsyncRead + AsyncWrite + Unpin>(mut stream: TlsStream<T>) {
    let asked = stream.get_ref().1.server_name().unwrap_or("nobody").to_owned();
    stream.write_all(format!("220 {asked}\n").as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut heard = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut heard).await {
            Ok(0) => break,
            Ok(length) => {
                stream.write_all(&heard[..length]).await.unwrap();
                stream.flush().await.unwrap();
            }
            Err(_broken) => return,
        }
    }
    stream.write_all(b"bye").await.unwrap();
    stream.shutdown().await.unwrap();
}
