//! A control plane for tests: any gRPC service on loopback, with or without TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::connector::Stream;
use super::{ControlPlane, ControlPlaneConfig, RootSource, TokenSource};
use crate::io::tls::provider;
use crate::limits::Limits;

/// A root and a server certificate it signed.
pub(crate) struct Pki {
    pub(crate) root_pem: String,
    server: Arc<ServerConfig>,
}

impl Pki {
    pub(crate) fn new(names: &[&str]) -> Self {
        let root_key = KeyPair::generate().unwrap();
        let mut root = CertificateParams::new(Vec::<String>::new()).unwrap();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_pem = root.self_signed(&root_key).unwrap().pem();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())
            .unwrap()
            .signed_by(&key, &Issuer::new(root, root_key))
            .unwrap();
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec()];
        Self { root_pem, server: Arc::new(server) }
    }
}

/// A server on a runtime of its own: dropping it cuts its connections, as a crash would.
pub(crate) struct FakeServer {
    pub(crate) address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) async fn serve(routes: Routes, pki: Option<&Pki>) -> FakeServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    serve_on(listener, routes, pki)
}

pub(crate) fn serve_on(listener: TcpListener, routes: Routes, pki: Option<&Pki>) -> FakeServer {
    let address = listener.local_addr().unwrap();
    let listener = listener.into_std().unwrap();
    let acceptor = pki.map(|pki| TlsAcceptor::from(Arc::clone(&pki.server)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let incoming = futures_util::stream::unfold(listener, move |listener| {
            let acceptor = acceptor.clone();
            async move {
                loop {
                    let (tcp, _) = listener.accept().await.ok()?;
                    let stream: Box<dyn Stream> = match &acceptor {
                        None => Box::new(tcp),
                        Some(acceptor) => match acceptor.accept(tcp).await {
                            Ok(stream) => Box::new(stream),
                            Err(_) => continue,
                        },
                    };
                    return Some((Ok::<_, io::Error>(Accepted(stream)), listener));
                }
            }
        });
        let _ = Server::builder().add_routes(routes).serve_with_incoming(incoming).await;
    });
    FakeServer { address, runtime: Some(runtime) }
}

/// A channel maker towards `address` (host:port or URL), trusting `root_pem`.
pub(crate) fn control_plane(address: &str, root_pem: &str) -> ControlPlane {
    ControlPlane::new(config(address, root_pem), provider()).unwrap()
}

pub(crate) fn config(address: &str, root_pem: &str) -> ControlPlaneConfig {
    ControlPlaneConfig {
        address: address.parse().unwrap(),
        roots: RootSource::Literal(root_pem.into()),
        alternative_name: None,
        token: TokenSource::Literal("secret".into()),
        cluster_id: "Kubernetes".to_owned(),
        headers: vec![("X-Test".to_owned(), "yes".to_owned())],
        packet_mark: None,
        limits: Limits::default(),
    }
}

struct Accepted(Box<dyn Stream>);

impl Connected for Accepted {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
