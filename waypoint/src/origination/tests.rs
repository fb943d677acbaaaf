//! Tests of `origination`, against servers on loopback whose certificates are made for the test.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use fairway_core::io::tls;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A root, in a file.
struct World {
    issuer: Issuer<'static, KeyPair>,
    roots: tempfile::NamedTempFile,
}

impl World {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let mut roots = tempfile::NamedTempFile::new().unwrap();
        roots.write_all(root.pem().as_bytes()).unwrap();
        Self { issuer: Issuer::new(params, key), roots }
    }

    /// A server with a certificate for `name`, that speaks one of `spoken` and answers with what it was asked as.
    async fn server(&self, name: &str, spoken: &[&[u8]]) -> SocketAddr {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        config.alpn_protocols = spoken.iter().map(|protocol| protocol.to_vec()).collect();
        let (acceptor, listener) =
            (TlsAcceptor::from(Arc::new(config)), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(socket).await {
                    let asked = stream.get_ref().1.server_name().unwrap_or("nobody").to_owned();
                    stream.write_all(asked.as_bytes()).await.unwrap();
                    stream.shutdown().await.unwrap();
                }
            }
        });
        address
    }

    fn to(&self, asked: &str, names: &[&str]) -> Origination {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Origination { server_name: asked.to_owned(), names, roots: self.roots.path().to_owned() }
    }
}

async fn asked(to: &Origination, http2: bool, server: SocketAddr) -> Result<String, String> {
    let socket = TcpStream::connect(server).await.unwrap();
    let originations = Originations::new(tls::provider());
    let begun = originations.begin(to, http2, socket).await;
    let mut stream = begun.map_err(|failure| {
        assert_eq!(failure.reason, Reason::TlsHandshakeFailed);
        failure.detail
    })?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    Ok(text)
}

#[tokio::test]
async fn a_server_has_to_be_who_it_is_said_to_be() {
    let (world, stranger) = (World::new(), World::new());
    let server = world.server("api.example", &[b"http/1.1"]).await;
    let (ours, theirs) = (world.to("api.example", &["api.example"]), stranger.to("api.example", &["api.example"]));
    assert_eq!(asked(&ours, false, server).await.as_deref(), Ok("api.example"));
    let refused = asked(&theirs, false, server).await.unwrap_err();
    assert!(refused.starts_with("TLS with api.example: invalid peer certificate: "), "{refused}");
    // The name that is asked for need not be the one that is proven, as with Istio's subjectAltNames.
    assert_eq!(
        asked(&world.to("front.example", &["x.example", "api.example"]), false, server).await.as_deref(),
        Ok("front.example")
    );
    for names in [&["front.example"][..], &["spiffe://api/example"], &[]] {
        let refused = asked(&world.to("api.example", names), false, server).await.unwrap_err();
        assert!(refused.contains("name"), "{names:?}: {refused}");
    }
}

#[tokio::test]
async fn http2_is_spoken_where_the_server_agrees() {
    let world = World::new();
    let to = world.to("api.example", &["api.example"]);
    for (spoken, http2, good) in [
        (&[b"h2".as_slice(), b"http/1.1"][..], true, true),
        (&[], true, false),
        (&[], false, true),
        (&[b"http/1.1"], false, true),
    ] {
        let server = world.server("api.example", spoken).await;
        let found = asked(&to, http2, server).await;
        assert_eq!(found.is_ok(), good, "{spoken:?} {http2}: {found:?}");
    }
}

#[tokio::test]
async fn roots_are_read_again_when_they_change_and_kept_when_they_go() {
    let (world, next) = (World::new(), World::new());
    let originations = Originations::new(tls::provider());
    let (path, start) = (world.roots.path().to_owned(), Instant::now());
    let at = |checks: u32| originations.roots(&path, start + CHECK_INTERVAL * checks);
    let first = at(0).await.unwrap();
    assert!(Arc::ptr_eq(&at(1).await.unwrap(), &first), "as it was");
    std::fs::copy(next.roots.path(), &path).unwrap();
    let later = SystemTime::now() + Duration::from_secs(5);
    std::fs::File::options().append(true).open(&path).unwrap().set_modified(later).unwrap();
    assert!(Arc::ptr_eq(&at(1).await.unwrap(), &first), "it is not looked at again so soon");
    let second = at(2).await.unwrap();
    assert!(!Arc::ptr_eq(&second, &first));
    let whole = std::fs::read(&path).unwrap();
    let write = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        std::fs::File::options().append(true).open(&path).unwrap().set_modified(later + CHECK_INTERVAL).unwrap();
    };
    write(b"half");
    assert!(Arc::ptr_eq(&at(3).await.unwrap(), &second));
    write(&whole);
    let third = at(4).await.unwrap();
    assert!(!Arc::ptr_eq(&third, &second), "it is read again once it can be");
    std::fs::remove_file(&path).unwrap();
    assert!(Arc::ptr_eq(&at(5).await.unwrap(), &third));
    let missing = originations.roots(Path::new("/nowhere"), start).await.unwrap_err();
    assert!(missing.starts_with("roots in /nowhere: "), "{missing}");
}

/// A file that is not read to its end, as on a disk that hangs, keeps only those waiting who need it.
#[tokio::test]
async fn a_file_that_cannot_be_read_yet_holds_up_no_other_task() {
    let world = World::new();
    let originations = Originations::new(tls::provider());
    let directory = tempfile::tempdir().unwrap();
    let (path, now) = (directory.path().join("roots.pem"), Instant::now());
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut given_up = Box::pin(originations.roots(&path, now));
    assert!(futures_util::poll!(&mut given_up).is_pending(), "somebody has to write it first");
    drop(given_up);
    let other = world.roots.path();
    let found = tokio::time::timeout(Duration::from_secs(60), originations.roots(other, now)).await;
    found.expect("nobody waits who needs another file").unwrap();
    // What was found is kept, although nobody has waited for it.
    std::fs::write(&path, std::fs::read(other).unwrap()).unwrap();
    let find = async {
        while originations.fresh(&path, now).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), find).await.expect("what was found to be kept");
}
