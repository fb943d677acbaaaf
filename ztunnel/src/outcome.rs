//! Turns whatever ended a connection into one reason of the closed list, with the words for the log.

use std::io;

use fairway_core::io::copy::CopyError;
use fairway_core::io::hbone::TunnelError;
use fairway_core::io::hbone::lifetime::Lifetime;
use fairway_core::io::hbone::server::AcceptError;
use fairway_core::io::hbone::stream::StreamError;
use fairway_core::io::socket::DialError;
use fairway_core::io::tls::verify::PeerRefused;
use fairway_core::reason::Reason;
use fairway_core::route::Refusal;
use fairway_core::workload::Workload;

use crate::conn::Cut;
use crate::telemetry::Outcome;

/// The application could not be reached.
#[must_use]
pub fn application_unreachable(error: &DialError) -> Outcome {
    let reason = match error {
        DialError::Timeout { .. } => Reason::ApplicationConnectTimeout,
        error if error.is_exhaustion() => Reason::ResourceLimit,
        _ => Reason::ApplicationConnectFailed,
    };
    Outcome::because(reason, error)
}

/// A destination outside the mesh could not be reached.
#[must_use]
pub fn upstream_unreachable(error: &DialError) -> Outcome {
    let reason = match error {
        DialError::Timeout { .. } => Reason::UpstreamConnectTimeout,
        error if error.is_exhaustion() => Reason::ResourceLimit,
        _ => Reason::UpstreamConnectFailed,
    };
    Outcome::because(reason, error)
}

impl From<&Refusal> for Outcome {
    fn from(refusal: &Refusal) -> Self {
        Self::because(refusal.reason, refusal)
    }
}

impl From<Cut> for Outcome {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Denied(denial) => denial.into(),
            Cut::Drained => Self::of(Reason::WorkloadRemoved),
        }
    }
}

impl From<Result<(), CopyError>> for Outcome {
    fn from(result: Result<(), CopyError>) -> Self {
        match result {
            Ok(()) => Self::ok(),
            Err(error) => Self::because(broken(&error), &error),
        }
    }
}

fn broken(error: &CopyError) -> Reason {
    match error {
        CopyError::Application(error) | CopyError::Peer(error) => match error.kind() {
            io::ErrorKind::TimedOut => Reason::TimedOut,
            _ => Reason::ResetByPeer,
        },
        CopyError::Tunnel(StreamError::Reset(_)) => Reason::ResetByPeer,
        CopyError::Tunnel(StreamError::Connection(_)) => Reason::Http2Failed,
    }
}

/// The tunnel to `peer` could not be opened: says in which direction to look.
#[must_use]
pub fn tunnel_failed(error: &TunnelError, peer: &Workload) -> Outcome {
    let mut outcome = Outcome::from(error);
    let node = match &*peer.node {
        "" => String::new(),
        node => format!("node {node}, "),
    };
    let place = format!("{node}workload {}/{}", peer.namespace(), peer.name);
    let advice = match error.cause() {
        TunnelError::Dial { source: error @ DialError::Connect { destination, source }, .. }
            if !error.is_exhaustion() =>
        {
            let port = destination.port();
            Some(match source.kind() {
                io::ErrorKind::ConnectionRefused => format!(
                    "nothing listens on TCP {port} of {place}, or a firewall rejects it: see whether the node proxy there runs and has the pod enrolled"
                ),
                _ => format!("NetworkPolicy or firewall may block TCP {port} to {place}, or there is no route"),
            })
        }
        TunnelError::Dial { source: DialError::Timeout { .. }, peer, .. } | TunnelError::Silent { peer, .. } => {
            Some(format!("NetworkPolicy or firewall may block TCP {} to {place}", peer.port()))
        }
        _ => None,
    };
    if let (Some(detail), Some(advice)) = (&mut outcome.detail, advice) {
        detail.push_str("; ");
        detail.push_str(&advice);
    }
    outcome
}

/// A copy through a tunnel ended. When the tunnel was cut, that is the reason, not what it looked like from inside.
#[must_use]
pub fn of_tunnel(result: Result<(), CopyError>, lifetime: &Lifetime) -> Outcome {
    match (&result, lifetime.ended()) {
        (Err(CopyError::Tunnel(StreamError::Connection(_))), Some(reason)) => Outcome::of(reason),
        _ => result.into(),
    }
}

fn tunnel_reason(error: &TunnelError) -> Reason {
    match error {
        TunnelError::Certificate(_) => Reason::CertificateUnavailable,
        TunnelError::Dial { source: DialError::Timeout { .. }, .. } => Reason::TunnelConnectTimeout,
        TunnelError::Dial { source, .. } if source.is_exhaustion() => Reason::ResourceLimit,
        TunnelError::Dial { .. } => Reason::TunnelConnectFailed,
        TunnelError::Tls { source, .. } => tls_reason(source),
        TunnelError::PeerRefused { .. } => Reason::PeerIdentityMismatch,
        TunnelError::TlsTimeout { .. } => Reason::TlsHandshakeFailed,
        TunnelError::Http2 { .. } | TunnelError::Request { .. } => Reason::Http2Failed,
        // The far side's own reason, where it is told: the same at both ends.
        TunnelError::Refused { reason, .. } => reason.unwrap_or(Reason::TunnelRefused),
        TunnelError::AnswerTimeout { .. } => Reason::TimedOut,
        TunnelError::PoolTimeout { .. } | TunnelError::PoolFull { .. } => Reason::ConnectionLimit,
        TunnelError::Silent { .. } => Reason::TunnelConnectTimeout,
        TunnelError::Inner { source, .. } => tunnel_reason(source),
        TunnelError::Shared(error) => tunnel_reason(error),
    }
}

impl From<&TunnelError> for Outcome {
    fn from(error: &TunnelError) -> Self {
        Self::because(tunnel_reason(error), error)
    }
}

impl From<&AcceptError> for Outcome {
    fn from(error: &AcceptError) -> Self {
        let reason = match error {
            AcceptError::Tls(source) => tls_reason(source),
            AcceptError::PeerRefused(PeerRefused::ForeignTrustDomain { .. }) => Reason::PeerUntrusted,
            AcceptError::PeerRefused(_) | AcceptError::NoIdentity => Reason::PeerIdentityMismatch,
            AcceptError::Timeout(_) | AcceptError::Silent(_) => Reason::TimedOut,
            AcceptError::Http2(_) => Reason::Http2Failed,
        };
        Self::because(reason, error)
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

#[cfg(test)]
mod tests;
