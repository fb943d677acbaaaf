//! A certificate authority for tests, inside the proxy: it signs whatever it is asked to, with a root kept in a file.
//!
//! Proxies that are given the same file trust each other. Istio's proxy has such an authority with a key that is
//! compiled in, in builds for tests only; a key that everybody can read is no key, so ours is made on first use.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::authority::{Answer, Authority, AuthorityError};
use crate::ident::Identity;

/// How far a certificate's validity reaches back: clocks of proxies in different machines differ.
const BACKDATED: Duration = Duration::from_secs(120);
/// Where the second half of the file begins.
const KEY_BEGINS: &str = "-----BEGIN PRIVATE KEY-----";
/// How long the root is valid.
const ROOT_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Signs for anybody; never to be used where it matters who somebody is.
pub struct TestAuthority {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
}

/// Why there is no test authority.
#[derive(Debug, thiserror::Error)]
pub enum TestAuthorityError {
    /// The file can be neither read nor made.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{path} must hold a certificate and its key, PEM ({detail}); remove it and it is made anew", path = .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

impl TestAuthority {
    /// The authority whose root is in the file at `path`; makes it if there is none.
    ///
    /// # Errors
    /// When the file cannot be read or made, or holds something else.
    pub fn open(path: &Path, now: SystemTime) -> Result<Self, TestAuthorityError> {
        let file = |source| TestAuthorityError::File { path: path.to_owned(), source };
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let root = make_root(now).map_err(|error| file(io::Error::other(error)))?;
                keep(path, &root).map_err(file)?;
                // Perhaps somebody else was faster, and theirs is the one.
                fs::read_to_string(path).map_err(file)?
            }
            read => read.map_err(file)?,
        };
        let content = |detail: String| TestAuthorityError::Content { path: path.to_owned(), detail };
        let (certificate_pem, key_pem) = text
            .find(KEY_BEGINS)
            .and_then(|place| text.split_at_checked(place))
            .ok_or_else(|| content("there is no key".to_owned()))?;
        let key = KeyPair::from_pem(key_pem).map_err(|error| content(error.to_string()))?;
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|error| content(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|error| content(error.to_string()))?;
        Ok(Self { root_pem: certificate_pem.to_owned(), issuer })
    }

    fn issue(&self, identity: &Identity, csr_pem: &str, lifetime: Duration) -> Result<Vec<String>, rcgen::Error> {
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem)?;
        request.params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(identity.to_string())?)];
        request.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        request.params.is_ca = IsCa::ExplicitNoCa;
        let now = SystemTime::now();
        request.params.not_before = (now - BACKDATED).into();
        request.params.not_after = (now + lifetime).into();
        Ok(vec![request.signed_by(&self.issuer)?.pem(), self.root_pem.clone()])
    }
}

impl Authority for TestAuthority {
    fn sign<'a>(&'a self, identity: &'a Identity, csr_pem: String, lifetime: Duration) -> Answer<'a> {
        let signed = self.issue(identity, &csr_pem, lifetime);
        let answer = signed.map_err(|error| AuthorityError::Unreachable(format!("the test authority: {error}")));
        Box::pin(async { answer })
    }
}

fn make_root(now: SystemTime) -> Result<String, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Fairway test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + ROOT_LIFETIME).into();
    Ok(format!("{}{}", params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Puts the whole text in place at once, unless there is something: proxies that start together end up with one root.
fn keep(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension(format!("{:016x}.draft", rand::random::<u64>()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let placed = file.write_all(text.as_bytes()).and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        placed => placed,
    });
    fs::remove_file(&draft)?;
    placed
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use super::*;
    use crate::io::certs::Certificates;
    use crate::io::tls::provider;

    /// Two proxies given one file trust each other, because they have one root; the file is for its owner alone.
    #[tokio::test]
    async fn one_file_is_one_root() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root.pem");
        let identity: Identity = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        let mut roots = Vec::new();
        for _ in 0..2 {
            let authority = TestAuthority::open(&path, SystemTime::now()).unwrap();
            let certificates =
                Certificates::new(Arc::new(authority), provider(), Duration::from_secs(3600), SystemTime::now);
            let certificate = certificates.claim(&identity).get().await.unwrap();
            assert_eq!(certificate.identity, identity);
            roots.push(certificate.roots_pem.clone());
        }
        assert_eq!(roots[0], roots[1]);
        assert!(!roots[0][0].contains("PRIVATE"), "{}", roots[0][0]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        fs::write(&path, "something else").unwrap();
        let error = TestAuthority::open(&path, SystemTime::now()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("remove it"), "{error}");
    }
}
