//! The mesh's own root: made once and kept on disk, for meshes that are given no other authority.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use time::OffsetDateTime;

use super::material::{Files, OWN};
use crate::files::Prepared;

/// Lifetime of a root: rotation is a planned operation.
const LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates start this much in the past, because clocks differ (interop §4.2).
pub(super) const BACKDATE: Duration = Duration::from_secs(120);
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

/// Reads the files of the root in `directory`, or makes one when there is none.
///
/// # Errors
/// When the key is missing or the file system refuses.
pub fn open(directory: &Path, now: OffsetDateTime) -> Result<Files, RootError> {
    let key_path = directory.join(OWN.key);
    let certificate_path = directory.join(OWN.certificate);
    let (key, certificate) = match (read(&key_path)?, read(&certificate_path)?) {
        (None, Some(_)) => return Err(RootError::KeyMissing(certificate_path)),
        (Some(key), Some(certificate)) => (key, certificate),
        (None, None) => {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| RootError::Io {
                doing: "create",
                path: directory.to_owned(),
                error,
            })?;
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let text = key.serialize_pem().into_bytes();
            // The key first: a stop in between leaves a key without certificate, which is completed below.
            write(&key_path, &text, 0o600)?;
            let certificate = certify(&key, now)?.into_bytes();
            write(&certificate_path, &certificate, 0o644)?;
            tracing::info!(path = %certificate_path.display(), "made a new mesh root");
            (text, certificate)
        }
        (Some(text), None) => {
            let unusable = |error: &dyn std::error::Error| RootError::Unusable {
                path: key_path.clone(),
                problem: error.to_string(),
            };
            let pem = std::str::from_utf8(&text).map_err(|error| unusable(&error))?;
            let key = KeyPair::from_pem(pem).map_err(|error| unusable(&error))?;
            let certificate = certify(&key, now)?.into_bytes();
            write(&certificate_path, &certificate, 0o644)?;
            (text, certificate)
        }
    };
    Ok(Files::from([(OWN.key.to_owned(), key), (OWN.certificate.to_owned(), certificate)]))
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

fn read(path: &Path) -> Result<Option<Vec<u8>>, RootError> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RootError::Io { doing: "read", path: path.to_owned(), error }),
    }
}

/// Replaces a file as a whole and for good.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), RootError> {
    let replace = || {
        let prepared = Prepared::new(path, content, mode)?;
        prepared.sync()?;
        prepared.commit()?.sync()
    };
    replace().map_err(|error| RootError::Io { doing: "write", path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::signer::Signer;
    use super::*;

    #[test]
    fn a_root_is_made_once_and_read_again() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("ca");
        let now = OffsetDateTime::now_utc();
        let first = open(&directory, now).unwrap();
        let mode = fs::metadata(directory.join(OWN.key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(open(&directory, now).unwrap(), first);
        let signer = Signer::of(&first, "cluster.local", now).unwrap();
        assert!(signer.not_after() > now + Duration::from_secs(9 * 365 * 24 * 3600));
    }

    #[test]
    fn a_key_without_certificate_is_completed() {
        let state = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let first = open(state.path(), now).unwrap();
        fs::remove_file(state.path().join(OWN.certificate)).unwrap();
        let second = open(state.path(), now).unwrap();
        assert_eq!(second.get(OWN.key), first.get(OWN.key));
        Signer::of(&second, "cluster.local", now).unwrap();
        fs::remove_file(state.path().join(OWN.certificate)).unwrap();
        fs::write(state.path().join(OWN.key), "nothing").unwrap();
        assert!(matches!(open(state.path(), now), Err(RootError::Unusable { .. })));
    }

    #[test]
    fn a_certificate_without_key_is_never_replaced() {
        let state = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        open(state.path(), now).unwrap();
        fs::remove_file(state.path().join(OWN.key)).unwrap();
        assert!(matches!(open(state.path(), now), Err(RootError::KeyMissing(_))));
    }
}
