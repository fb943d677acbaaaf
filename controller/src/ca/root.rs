//! The mesh's root: made once, kept on disk, read again at every start.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::prelude::FromDer;

use crate::files::Prepared;

/// Lifetime of a root: rotation is a planned operation.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates start this much in the past, because clocks differ (interop §4.2).
pub(super) const BACKDATE: Duration = Duration::from_secs(120);
const KEY_FILE: &str = "root-key.pem";
const CERTIFICATE_FILE: &str = "root-cert.pem";
/// Bytes of a serial number; RFC 5280 §4.1.2.2 allows 20.
const SERIAL_BYTES: usize = 16;

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The file system refused.
    #[error("cannot {doing} {path}: {error}; check the owner and the space of the state directory")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// What is there is not ours.
    #[error(
        "{path} cannot be used as root: {problem}; restore it from a backup, or move both files away to start a new mesh root"
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A certificate without its key is never replaced silently: all workloads trust it.
    #[error(
        "{0} is there and its key is not; restore the key from a backup, or move the certificate away to start a new mesh root"
    )]
    KeyMissing(PathBuf),
    /// The cryptographic library refused.
    #[error("cannot make a root: {0}")]
    Make(#[from] rcgen::Error),
}

/// Key and certificate that everything in the mesh trusts.
pub struct Root {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    not_after: OffsetDateTime,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Root {
    /// Reads the root in `directory`, or makes one when there is none.
    ///
    /// # Errors
    /// When what is there cannot be used or nothing can be written.
    pub fn open(directory: &Path, now: OffsetDateTime) -> Result<Self, RootError> {
        let key_path = directory.join(KEY_FILE);
        let certificate_path = directory.join(CERTIFICATE_FILE);
        let key = read(&key_path)?;
        let certificate = read(&certificate_path)?;
        let (key, certificate) = match (key, certificate) {
            (None, Some(_)) => return Err(RootError::KeyMissing(certificate_path)),
            (None, None) => {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| RootError::Io {
                    doing: "create",
                    path: directory.to_owned(),
                    error,
                })?;
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                // The key first: a stop in between leaves a key without certificate, which is completed below.
                write(&key_path, &key.serialize_pem(), 0o600)?;
                let certificate = certify(&key, now)?;
                write(&certificate_path, &certificate, 0o644)?;
                tracing::info!(path = %certificate_path.display(), "made a new mesh root");
                (key, certificate)
            }
            (Some(key), certificate) => {
                let key = KeyPair::from_pem(&key)
                    .map_err(|error| RootError::Unusable { path: key_path, problem: error.to_string() })?;
                let certificate = match certificate {
                    Some(certificate) => certificate,
                    None => {
                        let certificate = certify(&key, now)?;
                        write(&certificate_path, &certificate, 0o644)?;
                        certificate
                    }
                };
                (key, certificate)
            }
        };
        Self::from_parts(key, certificate, now)
            .map_err(|problem| RootError::Unusable { path: certificate_path, problem })
    }

    fn from_parts(key: KeyPair, pem: String, now: OffsetDateTime) -> Result<Self, String> {
        let der = der(&pem)?;
        let (_, parsed) =
            x509_parser::certificate::X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err("the certificate is not for the key beside it".to_owned());
        }
        if !parsed.is_ca() {
            return Err("the certificate is not that of an authority".to_owned());
        }
        let not_after = parsed.validity().not_after.to_datetime();
        if not_after <= now {
            return Err(format!("the certificate expired at {not_after}"));
        }
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(|error| error.to_string())?;
        Ok(Self { issuer, pem, not_after })
    }

    /// The certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// End of the root's life, which nothing it signs outlives.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

fn certify(key: &KeyPair, now: OffsetDateTime) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Fairway");
    params.distinguished_name.push(DnType::CommonName, "Fairway mesh root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - BACKDATE;
    params.not_after = now + LIFETIME;
    params.serial_number = Some(serial());
    Ok(params.self_signed(key)?.pem())
}

/// A positive random number, as RFC 5280 §4.1.2.2 wants it.
pub(super) fn serial() -> SerialNumber {
    let mut bytes = [0_u8; SERIAL_BYTES];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut bytes);
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    SerialNumber::from_slice(&bytes)
}

/// The first certificate in a PEM text.
pub(super) fn der(pem: &str) -> Result<CertificateDer<'static>, String> {
    use rustls_pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string())
}

fn read(path: &Path) -> Result<Option<String>, RootError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RootError::Io { doing: "read", path: path.to_owned(), error }),
    }
}

/// Replaces a file as a whole and for good.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), RootError> {
    let replace = || {
        let prepared = Prepared::new(path, text.as_bytes(), mode)?;
        prepared.sync()?;
        prepared.commit()?.sync()
    };
    replace().map_err(|error| RootError::Io { doing: "write", path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_root_is_made_once_and_read_again() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("ca");
        let now = OffsetDateTime::now_utc();
        let first = Root::open(&directory, now).unwrap();
        let mode = fs::metadata(directory.join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Root::open(&directory, now).unwrap().pem(), first.pem());
        assert!(first.not_after() > now + Duration::from_secs(9 * 365 * 24 * 3600));
    }

    #[test]
    fn a_key_without_certificate_is_completed() {
        let state = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        Root::open(state.path(), now).unwrap();
        let key = fs::read_to_string(state.path().join(KEY_FILE)).unwrap();
        fs::remove_file(state.path().join(CERTIFICATE_FILE)).unwrap();
        Root::open(state.path(), now).unwrap();
        assert_eq!(fs::read_to_string(state.path().join(KEY_FILE)).unwrap(), key);
    }

    #[test]
    fn what_cannot_be_used_is_never_replaced() {
        let now = OffsetDateTime::now_utc();
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Root::open(one.path(), now).unwrap();
        Root::open(other.path(), now).unwrap();
        // The certificate of another key.
        fs::copy(other.path().join(CERTIFICATE_FILE), one.path().join(CERTIFICATE_FILE)).unwrap();
        assert!(matches!(Root::open(one.path(), now), Err(RootError::Unusable { .. })));
        // Expired.
        let later = now + LIFETIME + Duration::from_secs(1);
        assert!(matches!(Root::open(other.path(), later), Err(RootError::Unusable { .. })));
        // Without key.
        fs::remove_file(other.path().join(KEY_FILE)).unwrap();
        assert!(matches!(Root::open(other.path(), now), Err(RootError::KeyMissing(_))));
        // Not a key.
        fs::write(other.path().join(KEY_FILE), "nothing").unwrap();
        assert!(matches!(Root::open(other.path(), now), Err(RootError::Unusable { .. })));
    }
}
