//! How long a tunnel connection lives: it was opened on the strength of two certificates, and ends after them.
//!
//! New streams need certificates that hold now: once one of the two has expired, ours has been renewed, or the peer's
//! is not trusted any more, the connection gets no more of them; opening another is cheap. Streams that are open go on,
//! as nothing is served by cutting a database connection every half day; but not for ever: [`limits::TUNNEL_OVERTIME`]
//! after the first expiry they are cut. A certificate that is revoked cuts them at once, that is what revoking means.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::CertificateError;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::io::certs::{Certificates, WorkloadCertificate};
use crate::io::tls::trust::{Role, Trust, unix_time};
use crate::io::wall_clock;
use crate::limits::{self, Limits};
use crate::reason::Reason;

/// What a tunnel connection's life depends on; clones share it.
#[derive(Clone)]
pub struct Lifetime(Arc<Terms>);

struct Terms {
    /// When the first of the two certificates expires.
    until: SystemTime,
    /// When the peer's certificate was accepted.
    accepted_at: SystemTime,
    peer: Vec<CertificateDer<'static>>,
    role: Role,
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
    now: fn() -> SystemTime,
    limits: Limits,
    ended: OnceLock<Reason>,
}

impl Lifetime {
    /// Of a connection just opened with `ours`, to a peer in `role` that showed `peer`.
    #[must_use]
    pub fn new(
        certificates: &Certificates,
        ours: &WorkloadCertificate,
        role: Role,
        peer: Option<&[CertificateDer<'_>]>,
    ) -> Self {
        let peer: Vec<_> =
            peer.unwrap_or_default().iter().map(|certificate| certificate.clone().into_owned()).collect();
        let theirs = peer.first().and_then(not_after);
        let now = certificates.clock();
        Self(Arc::new(Terms {
            until: theirs.map_or(ours.not_after, |theirs| theirs.min(ours.not_after)),
            accepted_at: now(),
            peer,
            role,
            trust: certificates.trust().clone(),
            algorithms: certificates.provider().signature_verification_algorithms,
            now,
            limits: certificates.limits().clone(),
            ended: OnceLock::new(),
        }))
    }

    /// Whether one of the two certificates has expired.
    #[must_use]
    pub fn is_over(&self) -> bool {
        (self.0.now)() >= self.0.until
    }

    /// Follows the connection. Calls `retire` once no new streams should be opened: a certificate has expired, or the
    /// peer's is not trusted any more. Resolves when all streams must be cut, with the reason.
    pub async fn follow(&self, retire: impl FnOnce()) -> Reason {
        let terms = &*self.0;
        let mut trust = terms.trust.subscribe();
        let last = terms.until.checked_add(terms.limits.duration(&limits::TUNNEL_OVERTIME)).unwrap_or(terms.until);
        let mut retire = Some(retire);
        let reason = loop {
            trust.borrow_and_update();
            let peer = self.check();
            if peer == Err(CertificateError::Revoked.into()) {
                break Reason::CertificateRevoked;
            }
            if peer.is_err()
                && let Some(retire) = retire.take()
            {
                retire();
            }
            let expired = tokio::select! {
                () = wall_clock::reach(if retire.is_some() { terms.until } else { last }, terms.now, &terms.limits) => true,
                // The sender lives as long as we do.
                _ = trust.changed() => false,
            };
            match retire.take() {
                Some(retire) if expired => retire(),
                None if expired => break Reason::TunnelExpired,
                waiting => retire = waiting,
            }
        };
        // Before anything breaks, so that whoever sees it break can ask why.
        let _ = terms.ended.set(reason);
        reason
    }

    /// Why the connection was cut, if it was.
    #[must_use]
    pub fn ended(&self) -> Option<Reason> {
        self.0.ended.get().copied()
    }

    /// Whether the peer would be accepted today, its age aside.
    fn check(&self) -> Result<(), rustls::Error> {
        let terms = &*self.0;
        let Some((leaf, intermediates)) = terms.peer.split_first() else { return Ok(()) };
        terms.trust.current().verify(terms.role, leaf, intermediates, unix_time(terms.accepted_at), terms.algorithms)
    }
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds))
}
