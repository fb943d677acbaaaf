//! TLS of the ports for proxies and for the API server: the server's own certificate, and an accept loop that no connection can stop.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use fairway_core::io::drain::Drain;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::ca::sign;
use crate::ca::signer::{Current, Signer};
use crate::metrics::Metrics;
use crate::per_peer::PerPeer;

/// Lifetime of the server's certificate; a new one is made after half of it.
const SERVER_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Time between looks at the clock of the wall: it jumps, and stands still for no machine that sleeps.
const RENEWAL_CHECK: Duration = Duration::from_secs(60);
/// Time for a handshake: a client that is silent must not keep a place.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What gRPC speaks, as TLS calls it (RFC 7301 §6).
pub const HTTP2: &[u8] = b"h2";
/// Connections through the handshake that nobody has taken over yet.
const HANDED_OVER: usize = 16;
/// First and longest pause after a failed accept, doubled in between.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Why the port cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate cannot be made.
    #[error("cannot make the server's certificate: {0}; check the names given as --tls-san")]
    Certificate(#[from] rcgen::Error),
    /// The library refuses.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
    /// Whom to believe cannot be read.
    #[error("--webhook-client-ca {path}: {problem}; give a PEM file with the authority's certificates")]
    ClientAuthority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The server's certificate, replaced before it ends and when another authority signs.
#[derive(Debug)]
pub struct ServerCertificate {
    authority: Current,
    names: Vec<String>,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Made>,
}

/// A certificate and when it holds.
#[derive(Debug)]
struct Made {
    certified: Arc<CertifiedKey>,
    from: OffsetDateTime,
    to: OffsetDateTime,
}

impl ServerCertificate {
    /// A certificate for `names`, signed by the mesh's authority.
    ///
    /// # Errors
    /// When a name is not one, or a library refuses.
    pub fn new(authority: Current, names: Vec<String>, provider: Arc<CryptoProvider>) -> Result<Arc<Self>, TlsError> {
        let signer = Arc::clone(&authority.borrow());
        let current = ArcSwap::from_pointee(make(&signer, &names, &provider, OffsetDateTime::now_utc())?);
        Ok(Arc::new(Self { authority, names, provider, current }))
    }

    /// Settings of a port on which this is spoken (ALPN, RFC 7301), by everybody or by those who show a certificate of the authority
    /// in this file.
    ///
    /// # Errors
    /// When the provider has no TLS 1.3, or the file cannot be used.
    pub fn config(
        self: &Arc<Self>,
        protocol: &'static [u8],
        client_authority: Option<&Path>,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        let clients = match client_authority {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(path) => only_of(path, &self.provider)
                .map_err(|problem| TlsError::ClientAuthority { path: path.to_owned(), problem })?,
        };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config))
    }

    /// Renews until the drain starts.
    pub async fn renew(self: Arc<Self>, mut drain: Drain) {
        let mut authority = self.authority.clone();
        loop {
            let is_other = tokio::select! {
                () = tokio::time::sleep(RENEWAL_CHECK) => false,
                changed = authority.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                _ = drain.started() => return,
            };
            let now = OffsetDateTime::now_utc();
            if !is_other && !self.current.load().is_due(now) {
                continue;
            }
            let signer = Arc::clone(&authority.borrow_and_update());
            match make(&signer, &self.names, &self.provider, now) {
                Ok(made) => self.current.store(Arc::new(made)),
                Err(error) => {
                    tracing::error!(%error, "cannot renew the server's certificate; the old one stays in use");
                }
            }
        }
    }
}

/// Who believes certificates of the authority in a file, and nothing else.
fn only_of(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    // A file without certificates is refused here.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    verifier.map_err(|error| error.to_string())
}

impl Made {
    /// Whether half of its time is over, or it was made by a clock that has been set back since.
    fn is_due(&self, now: OffsetDateTime) -> bool {
        now < self.from || now >= self.from + (self.to - self.from) / 2
    }
}

fn make(signer: &Signer, names: &[String], provider: &CryptoProvider, now: OffsetDateTime) -> Result<Made, TlsError> {
    let (certificate, key) = sign::server(signer, names, SERVER_LIFETIME, now)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let chain = std::iter::once(certificate).chain(signer.intermediates().iter().cloned()).collect();
    let certified = Arc::new(CertifiedKey::new(chain, provider.key_provider.load_private_key(key)?));
    Ok(Made { certified, from: now, to: (now + SERVER_LIFETIME).min(signer.not_after()) })
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().certified))
    }
}

/// How much peers may take at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Connections together.
    pub connections: usize,
    /// Connections of one address.
    pub connections_of_one_peer: usize,
    /// Handshakes together.
    pub handshakes: usize,
    /// Handshakes with one address.
    pub handshakes_of_one_peer: usize,
}

/// A connection through the handshake.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    _places: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// Accepts until the drain starts, within these bounds; connections through the handshake come out of the receiver.
#[must_use]
pub fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    bounds: Bounds,
    metrics: Metrics,
    drain: Drain,
) -> mpsc::Receiver<Connection> {
    let (sender, receiver) = mpsc::channel(HANDED_OVER);
    tokio::spawn(accept_loop(listener, TlsAcceptor::from(config), bounds, metrics, drain, sender));
    receiver
}

async fn accept_loop(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    bounds: Bounds,
    metrics: Metrics,
    mut drain: Drain,
    sender: mpsc::Sender<Connection>,
) {
    let handshakes = Arc::new(Semaphore::new(bounds.handshakes));
    let connections = Arc::new(Semaphore::new(bounds.connections));
    let handshakes_of = PerPeer::new(bounds.handshakes_of_one_peer);
    let connections_of = PerPeer::new(bounds.connections_of_one_peer);
    let mut pause = ACCEPT_PAUSE.0;
    loop {
        // Permits before the accept: what cannot be served waits in the kernel's queue.
        let next = async {
            let place = Arc::clone(&connections).acquire_owned().await.ok()?;
            let handshake = Arc::clone(&handshakes).acquire_owned().await.ok()?;
            Some((place, handshake, listener.accept().await))
        };
        let next = tokio::select! {
            next = next => next,
            _ = drain.started() => return,
        };
        let Some((place, handshake, accepted)) = next else { return };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept; check the file descriptor limit");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE.1);
                continue;
            }
        };
        pause = ACCEPT_PAUSE.0;
        let own = |places: &PerPeer| places.of(peer.ip()).try_acquire_owned();
        let (Ok(own_place), Ok(own_handshake)) = (own(&connections_of), own(&handshakes_of)) else {
            metrics.handshakes_failed.increment(1);
            tracing::debug!(%peer, "one address has more connections or handshakes than it may have; closed");
            continue;
        };
        let (acceptor, sender, metrics) = (acceptor.clone(), sender.clone(), metrics.clone());
        tokio::spawn(async move {
            let outcome = shake_hands(&acceptor, stream).await;
            drop((handshake, own_handshake));
            match outcome {
                Ok(stream) => {
                    // Fails only when the server is gone.
                    let _ = sender.send(Connection { stream, peer, _places: (place, own_place) }).await;
                }
                Err(error) => {
                    metrics.handshakes_failed.increment(1);
                    tracing::debug!(%peer, %error, "TLS handshake failed");
                }
            }
        });
    }
}

async fn shake_hands(acceptor: &TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    // Who offers something else is refused by TLS itself.
    if stream.get_ref().1.alpn_protocol().is_some() {
        return Ok(stream);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the client did not say which protocol it speaks (ALPN)"))
}

impl Connected for Connection {
    type ConnectInfo = SocketAddr;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::ClientConfig;
    use rustls_pki_types::ServerName;
    use tokio_rustls::TlsConnector;

    use super::*;

    type Authority = CertifiedIssuer<'static, KeyPair>;

    fn authority() -> Authority {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn only_who_shows_a_certificate_of_the_authority_may_ask_where_there_is_one() {
        let state = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let files = crate::ca::root::open(state.path(), now).unwrap();
        let signer = Arc::new(Signer::of(&files, "cluster.local", now).unwrap());
        let roots = CertificateDer::pem_slice_iter(signer.roots_pem().as_bytes()).map(Result::unwrap);
        let mut trusted = RootCertStore::empty();
        trusted.add_parsable_certificates(roots);
        let provider = fairway_core::io::tls::provider();
        let (_keeper, current) = tokio::sync::watch::channel(signer);
        let server = ServerCertificate::new(current, vec!["localhost".to_owned()], Arc::clone(&provider)).unwrap();
        let (ours, theirs) = (authority(), authority());
        let file = state.path().join("ca.pem");
        std::fs::write(&file, ours.pem()).unwrap();
        let of = |authority: &Authority| {
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new(["kube-apiserver".to_owned()]).unwrap();
            let certificate = certificate.signed_by(&key, authority).unwrap();
            (vec![certificate.der().clone()], PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())))
        };
        // Whom the port believes, what the caller shows, and whether it is let in.
        for (asked, shown, expected) in [
            (None, None, true),
            (None, Some(of(&theirs)), true),
            (Some(&*file), None, false),
            (Some(&*file), Some(of(&theirs)), false),
            (Some(&*file), Some(of(&ours)), true),
        ] {
            let acceptor = TlsAcceptor::from(server.config(b"http/1.1", asked).unwrap());
            let client =
                ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
            let client = client.unwrap().with_root_certificates(trusted.clone());
            let what = format!("{asked:?} {}", shown.is_some());
            let mut client = match shown {
                Some((chain, key)) => client.with_client_auth_cert(chain, key).unwrap(),
                None => client.with_no_client_auth(),
            };
            client.alpn_protocols = vec![b"http/1.1".to_vec()];
            let (near, far) = tokio::io::duplex(64 * 1024);
            let name = ServerName::try_from("localhost").unwrap();
            let connector = TlsConnector::from(Arc::new(client));
            let (accepted, _) = tokio::join!(acceptor.accept(near), connector.connect(name, far));
            assert_eq!(accepted.is_ok(), expected, "{what}");
        }
        std::fs::write(&file, "nothing").unwrap();
        let error = server.config(b"http/1.1", Some(&file)).unwrap_err().to_string();
        assert!(error.contains("--webhook-client-ca") && error.contains("ca.pem"), "{error}");
    }

    #[test]
    fn a_certificate_is_renewed_by_the_clock_of_the_wall() {
        let state = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let files = crate::ca::root::open(state.path(), now).unwrap();
        let signer = Signer::of(&files, "cluster.local", now).unwrap();
        let provider = fairway_core::io::tls::provider();
        let made = make(&signer, &["localhost".to_owned()], &provider, now).unwrap();
        let days = |days: i64| now + time::Duration::days(days);
        for (at, expected) in [(now, false), (days(14), false), (days(15), true), (days(400), true), (days(-1), true)] {
            assert_eq!(made.is_due(at), expected, "{at}");
        }
        // Near the end of who signs, there is less than the usual time.
        let late = signer.not_after() - time::Duration::hours(2);
        let made = make(&signer, &["localhost".to_owned()], &provider, late).unwrap();
        assert!(made.is_due(late + time::Duration::hours(1)));
    }
}
