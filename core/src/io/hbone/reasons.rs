//! The one reason of the closed list for each way in which a tunnel can fail.

use std::io;

use super::TunnelError;
use super::server::AcceptError;
use crate::io::socket::DialError;
use crate::io::tls::verify::PeerRefused;
use crate::reason::Reason;

impl TunnelError {
    /// The reason to report.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Certificate(_) => Reason::CertificateUnavailable,
            Self::Dial { source: DialError::Timeout { .. }, .. } => Reason::TunnelConnectTimeout,
            Self::Dial { source, .. } if source.is_exhaustion() => Reason::ResourceLimit,
            Self::Dial { .. } => Reason::TunnelConnectFailed,
            Self::Tls { source, .. } => tls_reason(source),
            Self::PeerRefused { .. } => Reason::PeerIdentityMismatch,
            Self::TlsTimeout { .. } => Reason::TlsHandshakeFailed,
            Self::Http2 { .. } | Self::Request { .. } => Reason::Http2Failed,
            // The far side's own reason, where it is told: the same at both ends.
            Self::Refused { reason, .. } => reason.unwrap_or(Reason::TunnelRefused),
            Self::AnswerTimeout { .. } => Reason::TimedOut,
            Self::PoolTimeout { .. } | Self::PoolFull { .. } => Reason::ConnectionLimit,
            Self::Silent { .. } => Reason::TunnelConnectTimeout,
            Self::Inner { source, .. } => source.reason(),
            Self::Shared(error) => error.reason(),
        }
    }
}

impl AcceptError {
    /// The reason to report.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Tls(source) => tls_reason(source),
            Self::PeerRefused(PeerRefused::ForeignTrustDomain { .. }) => Reason::PeerUntrusted,
            Self::PeerRefused(_) | Self::NoIdentity => Reason::PeerIdentityMismatch,
            Self::Timeout(_) | Self::Silent(_) => Reason::TimedOut,
            Self::Http2(_) => Reason::Http2Failed,
        }
    }
}

/// The cause inside a TLS failure, where rustls says it.
fn tls_reason(error: &io::Error) -> Reason {
    use rustls::{CertificateError, Error};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::NoCertificatesPresented) => Reason::ClientCertificateMissing,
        Some(Error::InvalidCertificate(CertificateError::Revoked)) => Reason::CertificateRevoked,
        Some(Error::InvalidCertificate(_)) => Reason::PeerUntrusted,
        _ => Reason::TlsHandshakeFailed,
    }
}
