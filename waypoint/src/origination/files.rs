//! What TLS is begun with, read of files: whom to believe, and what to prove ourselves with. Files are read again when they change; what was
//! read last stays while they cannot be.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::Hash;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::OwnCertificate;

/// How often files are looked at, which are replaced a few times a year, or a day.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Files of each kind that are kept at hand; more are read again when they are needed.
const KEPT: usize = 1024;

/// What was read, by file.
#[derive(Debug, Default)]
pub(super) struct Files {
    roots: HashMap<PathBuf, Known<RootCertStore>>,
    own: HashMap<OwnCertificate, Known<CertifiedKey>>,
}

/// What was read last of some files.
#[derive(Debug)]
struct Known<T> {
    checked: Instant,
    seen: Vec<Option<Version>>,
    value: Arc<T>,
}

/// What tells a file from the one that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    modified: Option<SystemTime>,
    inode: u64,
    size: u64,
}

impl Version {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self { modified: metadata.modified().ok(), inode: metadata.ino(), size: metadata.size() })
    }
}

impl Files {
    /// The roots in a file of at most `largest` bytes.
    ///
    /// # Errors
    /// Why there are none, by file.
    pub(super) fn roots(&mut self, path: &Path, largest: u64, now: Instant) -> Result<Arc<RootCertStore>, String> {
        current(&mut self.roots, &path.to_owned(), &[path], now, || roots(path, largest))
    }

    /// The certificate and key in files of at most `largest` bytes each.
    ///
    /// # Errors
    /// Why there are none, by file, and what to do.
    pub(super) fn own(
        &mut self,
        own: &OwnCertificate,
        provider: &CryptoProvider,
        largest: u64,
        now: Instant,
    ) -> Result<Arc<CertifiedKey>, String> {
        let read = || certified(own, provider, largest);
        current(&mut self.own, own, &[&own.chain, &own.key], now, read)
    }
}

/// What is in the files `paths`; that of before where they cannot be read any more.
fn current<K: Clone + Eq + Hash, T>(
    all: &mut HashMap<K, Known<T>>,
    key: &K,
    paths: &[&Path],
    now: Instant,
    read: impl FnOnce() -> Result<T, String>,
) -> Result<Arc<T>, String> {
    let known = all.get(key);
    if let Some(known) = known.filter(|known| now.saturating_duration_since(known.checked) < CHECK_INTERVAL) {
        return Ok(Arc::clone(&known.value));
    }
    // Before they are read: what changes meanwhile is read again the next time.
    let seen: Vec<_> = paths.iter().map(|path| Version::of(path)).collect();
    let is_same = |known: &Known<T>| known.seen == seen && seen.iter().all(Option::is_some);
    let value = match known {
        Some(known) if is_same(known) => Ok(Arc::clone(&known.value)),
        _ => read().map(Arc::new),
    };
    let (seen, value) = match (value, known) {
        (Ok(value), _) => (seen, value),
        (Err(problem), Some(known)) => {
            tracing::warn!(problem, "files of TLS cannot be read; what was in them before is used");
            // They are read again until they can be.
            (known.seen.clone(), Arc::clone(&known.value))
        }
        (Err(problem), None) => return Err(problem),
    };
    if all.len() >= KEPT {
        all.clear();
    }
    all.insert(key.clone(), Known { checked: now, seen, value: Arc::clone(&value) });
    Ok(value)
}

/// The bytes of a file. Only of one: whoever writes a rule must not have a waypoint wait for a pipe, or read without end.
fn bytes(path: &Path, largest: u64) -> Result<Vec<u8>, String> {
    let is_file = fs::metadata(path).map_err(|error| error.to_string())?.is_file();
    if !is_file {
        return Err("it is no file".to_owned());
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(largest.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= largest) {
        Ok(bytes)
    } else {
        Err(format!("it has more than {largest} bytes (TLS_FILE_SIZE)"))
    }
}

fn roots(path: &Path, largest: u64) -> Result<RootCertStore, String> {
    let unreadable = |problem: &dyn std::fmt::Display| format!("roots in {}: {problem}", path.display());
    let pem = bytes(path, largest).map_err(|problem| unreadable(&problem))?;
    let mut store = RootCertStore::empty();
    // Machines have old ones among them that nobody can read any more.
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    if store.is_empty() { Err(unreadable(&"there is no certificate in it")) } else { Ok(store) }
}

fn certified(own: &OwnCertificate, provider: &CryptoProvider, largest: u64) -> Result<CertifiedKey, String> {
    let unusable = |what: &str, path: &Path, problem: &dyn std::fmt::Display| {
        let next = "put it where the waypoint runs (annotation fairway.dev/secrets of its Gateway), or name another in the DestinationRule";
        format!("{what} in {}: {problem}; {next}", path.display())
    };
    let of_chain = |problem: &dyn std::fmt::Display| unusable("client certificate", &own.chain, problem);
    let of_key = |problem: &dyn std::fmt::Display| unusable("private key", &own.key, problem);
    let pem = bytes(&own.chain, largest).map_err(|problem| of_chain(&problem))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| of_chain(&error))?;
    if chain.is_empty() {
        return Err(of_chain(&"there is no certificate in it"));
    }
    let pem = bytes(&own.key, largest).map_err(|problem| of_key(&problem))?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| of_key(&error))?;
    // A key of another certificate is refused here, and not by every server.
    CertifiedKey::from_der(chain, key, provider).map_err(|error| of_key(&error))
}

#[cfg(test)]
mod tests;
