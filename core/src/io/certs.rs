//! Obtains workload certificates from the authority and keeps them fresh.
//!
//! Nothing else signs, fetches or holds a key. A certificate is served until it expires: a failed renewal never
//! takes away a valid one.

pub mod authority;
pub mod describe;
pub mod manager;
pub mod metrics;
pub mod request;
pub mod schedule;
pub mod test_authority;

use std::time::{Duration, SystemTime};

pub use authority::{Authority, AuthorityError};
pub use manager::{CertificateHandle, Certificates};

use crate::ident::Identity;
use crate::io::tls::Credentials;

/// One workload's certificate, key and roots, ready for use in TLS.
#[derive(Debug)]
pub struct WorkloadCertificate {
    /// Who it says its holder is.
    pub identity: Identity,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// Serial number, in decimal.
    pub serial: String,
    /// Leaf and intermediates, PEM, leaf first.
    pub chain_pem: Vec<String>,
    /// Roots that came with it, PEM.
    pub roots_pem: Vec<String>,
    /// The same, prepared for handshakes.
    pub credentials: Credentials,
}

impl WorkloadCertificate {
    /// How long it has been expired, if it has.
    #[must_use]
    pub fn expired_since(&self, now: SystemTime) -> Option<Duration> {
        now.duration_since(self.not_after).ok()
    }
}

/// Why a workload has no certificate to show.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CertificateError {
    /// The authority has not answered since the workload appeared.
    #[error("no certificate for {identity} yet; the certificate authority has not answered")]
    Pending {
        /// Whose certificate.
        identity: Identity,
    },
    /// The authority refused or could not be reached.
    #[error("no certificate for {identity}, last CA error: {last_error}")]
    Unavailable {
        /// Whose certificate.
        identity: Identity,
        /// What the authority said last.
        last_error: String,
    },
    /// It ran out and could not be renewed.
    #[error("certificate of {identity} expired {} ago, last CA error: {last_error}", age(*.since))]
    Expired {
        /// Whose certificate.
        identity: Identity,
        /// How long ago.
        since: Duration,
        /// What the authority said last.
        last_error: String,
    },
}

/// As people say it: rounded down, one unit.
fn age(since: Duration) -> String {
    match since.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7_200 => format!("{} m", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
pub(crate) mod tests;
