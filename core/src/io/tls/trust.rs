//! What peers' certificates are checked against at this moment: trust bundle and revocation lists.
//!
//! One per proxy, shared by the credentials of all its workloads: roots that come or go with one answer of the
//! certificate authority, and a new revocation list, hold for the next handshake of every open listener.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, Error, OtherError};
use tokio::sync::watch;
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

/// Which end of a connection shows the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that dialled.
    Client,
    /// The one that was dialled.
    Server,
}

/// Roots and revocation lists as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Anchors {
    certificates: Arc<[CertificateDer<'static>]>,
    roots: Arc<[TrustAnchor<'static>]>,
    revoked: Arc<[CertRevocationList<'static>]>,
}

/// The current [`Anchors`]; clones share them.
#[derive(Clone, Debug)]
pub struct Trust {
    current: Arc<watch::Sender<Anchors>>,
}

impl Default for Trust {
    fn default() -> Self {
        Self { current: Arc::new(watch::Sender::new(Anchors::default())) }
    }
}

impl Trust {
    /// What holds now.
    #[must_use]
    pub fn current(&self) -> Anchors {
        self.current.borrow().clone()
    }

    /// Hears of every change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Anchors> {
        self.current.subscribe()
    }

    /// Replaces the roots by `anchors`, if they differ. The newest bundle counts alone: a root that is missing from it
    /// has been withdrawn. Returns whether anything changed.
    pub fn replace_roots(&self, anchors: &Anchors) -> bool {
        self.current.send_if_modified(|current| {
            let changed = current.certificates != anchors.certificates;
            if changed {
                current.certificates = Arc::clone(&anchors.certificates);
                current.roots = Arc::clone(&anchors.roots);
            }
            changed
        })
    }

    /// Replaces the revocation lists and tells everybody who follows.
    pub fn replace_revocation_lists(&self, lists: Vec<CertRevocationList<'static>>) {
        self.current.send_modify(|current| current.revoked = lists.into());
    }
}

impl Anchors {
    /// Roots without revocation lists. The order they come in does not matter.
    ///
    /// # Errors
    /// When a certificate cannot be a root.
    pub fn of_roots(mut certificates: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        certificates.sort_by(|left, right| left.as_ref().cmp(right.as_ref()));
        certificates.dedup();
        let roots: Result<Vec<_>, _> = certificates
            .iter()
            .map(|certificate| webpki::anchor_from_trusted_cert(certificate).map(|anchor| anchor.to_owned()))
            .collect();
        let roots = roots.map_err(refused)?;
        Ok(Self { certificates: certificates.into(), roots: roots.into(), revoked: Arc::default() })
    }

    /// How many roots are trusted.
    #[must_use]
    pub fn root_count(&self) -> usize {
        self.roots.len()
    }

    /// Whether there is any list that could revoke a certificate.
    #[must_use]
    pub fn can_revoke(&self) -> bool {
        !self.revoked.is_empty()
    }

    /// Checks a certificate's chain, validity and revocation. All of the chain is looked up in the lists; a certificate
    /// that no list speaks about is accepted, and lists count beyond their own expiry (interop §4.6).
    ///
    /// # Errors
    /// What is wrong, as TLS would say it.
    pub fn verify(
        &self,
        role: Role,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<(), Error> {
        let certificate = EndEntityCert::try_from(end_entity).map_err(refused)?;
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let verified =
            certificate.verify_for_usage(algorithms.all, &self.roots, intermediates, now, usage, revocation, None);
        verified.map(drop).map_err(refused)
    }
}

/// The moment in the form that verification wants.
#[must_use]
pub fn unix_time(now: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

/// In the words of TLS, which decide the alert that the peer gets (RFC 8446 §6.2).
fn refused(error: webpki::Error) -> Error {
    let known = match error {
        webpki::Error::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::CertRevoked => CertificateError::Revoked,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            CertificateError::BadEncoding
        }
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    Error::InvalidCertificate(known)
}

#[cfg(test)]
mod tests;
