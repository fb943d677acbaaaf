//! Whom a bundle accepts, and what a revocation list takes back.

use std::path::PathBuf;

use rustls::Error;

use super::super::revocation::{RevocationError, RevocationFile};
use super::*;
use crate::io::certs::tests::{MemoryAuthority, identity};
use crate::io::tls;
use crate::limits::Limits;

fn algorithms() -> WebPkiSupportedAlgorithms {
    tls::provider().signature_verification_algorithms
}

async fn chain(authority: &Arc<MemoryAuthority>, account: &str) -> Vec<CertificateDer<'static>> {
    let certificates = MemoryAuthority::shared(authority);
    certificates.claim(&identity(account)).get().await.unwrap().credentials.chain().to_vec()
}

fn verify(trust: &Trust, role: Role, chain: &[CertificateDer<'static>]) -> Result<(), Error> {
    let (leaf, intermediates) = chain.split_first().unwrap();
    trust.current().verify(role, leaf, intermediates, unix_time(SystemTime::now()), algorithms())
}

fn refused(error: CertificateError) -> Result<(), Error> {
    Err(Error::InvalidCertificate(error))
}

#[tokio::test]
async fn roots_come_and_go_for_whoever_checks_next() {
    let (old, new) = (Arc::new(MemoryAuthority::new()), Arc::new(MemoryAuthority::new()));
    let (old_chain, new_chain) = (chain(&old, "cart").await, chain(&new, "cart").await);
    let trust = Trust::default();
    let unknown = || refused(CertificateError::UnknownIssuer);
    let expect = |roots: Vec<CertificateDer<'static>>, of_old: Result<(), Error>, of_new: Result<(), Error>| {
        let changed = trust.replace_roots(&Anchors::of_roots(roots).unwrap());
        for role in [Role::Client, Role::Server] {
            assert_eq!(verify(&trust, role, &old_chain), of_old);
            assert_eq!(verify(&trust, role, &new_chain), of_new);
        }
        changed
    };
    assert!(!expect(vec![], unknown(), unknown()), "nothing to begin with");
    assert!(expect(vec![old.root()], Ok(()), unknown()));
    assert!(expect(vec![old.root(), new.root()], Ok(()), Ok(())));
    assert!(!expect(vec![new.root(), old.root(), new.root()], Ok(()), Ok(())), "the order says nothing");
    assert!(expect(vec![new.root()], unknown(), Ok(())));
}

#[tokio::test]
async fn age_is_told_apart_from_mistrust() {
    let authority = Arc::new(MemoryAuthority::new());
    let chain = chain(&authority, "cart").await;
    let anchors = Anchors::of_roots(vec![authority.root()]).unwrap();
    let later = unix_time(SystemTime::now() + Duration::from_secs(7_200));
    let expired = anchors.verify(Role::Server, &chain[0], &[], later, algorithms());
    assert!(matches!(expired, Err(Error::InvalidCertificate(CertificateError::ExpiredContext { .. }))), "{expired:?}");
}

/// A file that can be written to, and what follows it.
struct Written {
    _directory: tempfile::TempDir,
    path: PathBuf,
    trust: Trust,
}

impl Written {
    fn new(authority: &MemoryAuthority) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca-crl.pem");
        let trust = Trust::default();
        trust.replace_roots(&Anchors::of_roots(vec![authority.root()]).unwrap());
        Self { _directory: directory, path, trust }
    }

    async fn open(&self) -> Result<RevocationFile, RevocationError> {
        RevocationFile::open(&self.path, self.trust.clone(), &Limits::default()).await
    }
}

#[tokio::test]
async fn a_list_revokes_whom_it_names_in_both_roles_as_pem_and_as_der() {
    let authority = Arc::new(MemoryAuthority::new());
    let (cart, web) = (chain(&authority, "cart").await, chain(&authority, "web").await);
    let written = Written::new(&authority);
    let mut file = written.open().await.unwrap();
    assert!(!written.trust.current().can_revoke(), "no file, no list");
    let list = authority.revoking(&[&cart]);
    let both = format!("{}{}", authority.revoking(&[]).pem().unwrap(), authority.revoking(&[&web]).pem().unwrap());
    let contents = [list.pem().unwrap().into_bytes(), list.der().to_vec()];
    for content in contents {
        std::fs::write(&written.path, content).unwrap();
        assert!(file.reload().await.unwrap());
        for role in [Role::Client, Role::Server] {
            assert_eq!(verify(&written.trust, role, &cart), refused(CertificateError::Revoked));
            assert_eq!(verify(&written.trust, role, &web), Ok(()));
        }
    }
    std::fs::write(&written.path, both).unwrap();
    assert!(file.reload().await.unwrap());
    assert!(!file.reload().await.unwrap(), "unchanged");
    assert_eq!(written.trust.current().revoked.len(), 2, "all blocks of the file");
}

#[tokio::test]
async fn a_broken_file_keeps_the_last_good_list_and_says_so_once() {
    let authority = Arc::new(MemoryAuthority::new());
    let cart = chain(&authority, "cart").await;
    let written = Written::new(&authority);
    let good = authority.revoking(&[&cart]).pem().unwrap();
    std::fs::write(&written.path, &good).unwrap();
    let mut file = written.open().await.unwrap();
    let half = good.get(..good.len() / 2).unwrap().to_owned();
    let broken_block = good.replace("-----BEGIN X509 CRL-----\n", "-----BEGIN X509 CRL-----\nAAAA");
    for broken in [String::new(), "no list".to_owned(), half, broken_block.clone(), good.clone() + &broken_block] {
        std::fs::write(&written.path, &broken).unwrap();
        let error = file.reload().await.unwrap_err();
        assert!(matches!(error, RevocationError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains("ca-crl.pem"), "{error}");
        assert!(!file.reload().await.unwrap(), "the same again is no news");
        assert_eq!(verify(&written.trust, Role::Client, &cart), refused(CertificateError::Revoked), "{broken:?}");
    }
    std::fs::remove_file(&written.path).unwrap();
    assert!(matches!(file.reload().await, Err(RevocationError::Unreadable { .. })));
    assert_eq!(verify(&written.trust, Role::Client, &cart), refused(CertificateError::Revoked));
    std::fs::write(&written.path, authority.revoking(&[]).pem().unwrap()).unwrap();
    assert!(file.reload().await.unwrap());
    assert_eq!(verify(&written.trust, Role::Client, &cart), Ok(()));
}

#[tokio::test]
async fn a_broken_file_is_no_way_to_begin() {
    let written = Written::new(&MemoryAuthority::new());
    std::fs::write(&written.path, "no list").unwrap();
    assert!(matches!(written.open().await, Err(RevocationError::Malformed { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_file_is_followed() {
    let authority = Arc::new(MemoryAuthority::new());
    let cart = chain(&authority, "cart").await;
    let written = Written::new(&authority);
    let following = tokio::spawn(written.open().await.unwrap().follow());
    let mut trust = written.trust.subscribe();
    std::fs::write(&written.path, authority.revoking(&[&cart]).pem().unwrap()).unwrap();
    trust.wait_for(Anchors::can_revoke).await.unwrap();
    assert_eq!(verify(&written.trust, Role::Client, &cart), refused(CertificateError::Revoked));
    following.abort();
}
