//! The revocation list in a file: read, watched, and kept in its last good version when it breaks.

use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::trust::Trust;
use crate::limits::{self, Limits};

/// Why a file of revocation lists cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// It cannot be read.
    #[error("cannot read the revocation list {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is larger than any list should be.
    #[error("the revocation list {} has {size} bytes, the limit is {limit}", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// It is no list, neither PEM nor DER.
    #[error("{} holds no certificate revocation list (PEM or DER): {detail}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// A file of revocation lists: PEM, several blocks if need be, or DER.
#[derive(Debug)]
pub struct RevocationFile {
    path: PathBuf,
    trust: Trust,
    limits: Limits,
    /// What was in the file last time, good or not.
    seen: Option<Vec<u8>>,
}

impl RevocationFile {
    /// Reads the file for the first time. One that is not there yet revokes nothing until it appears: the control plane
    /// publishes it only when there is something to revoke.
    ///
    /// # Errors
    /// When it is there and cannot be used. Nothing good is known then that could be kept.
    pub async fn open(path: &Path, trust: Trust, limits: &Limits) -> Result<Self, RevocationError> {
        let mut file = Self { path: path.to_owned(), trust, limits: limits.clone(), seen: None };
        match file.reload().await {
            Err(RevocationError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), "there is no revocation list yet; nothing counts as revoked");
            }
            Err(error) => return Err(error),
            Ok(_changed) => {}
        }
        Ok(file)
    }

    /// Looks at the file again and again, for ever; logs what it finds.
    pub async fn follow(mut self) {
        let every = self.limits.duration(&limits::REVOCATION_CHECK);
        let mut checks = interval_at(Instant::now() + every, every);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut missing = self.seen.is_none();
        loop {
            checks.tick().await;
            let error = match self.reload().await {
                Ok(_changed) => {
                    missing = false;
                    continue;
                }
                Err(error) => error,
            };
            let unreadable = matches!(error, RevocationError::Unreadable { .. });
            // What does not change is said once.
            if !(unreadable && missing) {
                tracing::error!(%error, "the last good revocation list stays in force; correct the file");
            }
            missing = unreadable;
        }
    }

    /// Reads the file, and uses it if it has changed; whether a new list is in force.
    ///
    /// # Errors
    /// See [`RevocationError`]; the lists in force stay. The same wrong content is an error once.
    pub async fn reload(&mut self) -> Result<bool, RevocationError> {
        let path = || self.path.clone();
        // In full each time: a volume that swaps a link keeps sizes and times.
        let content = tokio::fs::read(&self.path).await;
        let content = content.map_err(|source| RevocationError::Unreadable { path: path(), source })?;
        if self.seen.as_ref() == Some(&content) {
            return Ok(false);
        }
        let (size, limit) = (content.len(), self.limits.size(&limits::REVOCATION_LIST));
        let lists = if size > limit {
            Err(RevocationError::TooLarge { path: path(), size, limit })
        } else {
            parse(&content).map_err(|detail| RevocationError::Malformed { path: path(), detail })
        };
        self.seen = Some(content);
        let lists = lists?;
        tracing::info!(path = %self.path.display(), lists = lists.len(), "revocation list in force");
        self.trust.replace_revocation_lists(lists);
        Ok(true)
    }
}

/// All of the lists or none: half a list would let in whom the other half revokes.
fn parse(content: &[u8]) -> Result<Vec<CertRevocationList<'static>>, String> {
    let mut lists = Vec::new();
    for block in CertificateRevocationListDer::pem_slice_iter(content) {
        let block = block.map_err(|error| format!("block {} of the PEM: {error}", lists.len() + 1))?;
        lists.push(read(&block).map_err(|error| format!("block {} of the PEM: {error}", lists.len() + 1))?);
    }
    if lists.is_empty() {
        lists.push(read(content).map_err(|error| error.to_string())?);
    }
    Ok(lists)
}

fn read(der: &[u8]) -> Result<CertRevocationList<'static>, webpki::Error> {
    OwnedCertRevocationList::from_der(der).map(CertRevocationList::Owned)
}
