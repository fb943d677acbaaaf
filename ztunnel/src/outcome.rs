//! Turns whatever ended a connection into one reason of the closed list, with the words for the log.

use std::io;

use fairway_core::io::copy::CopyError;
use fairway_core::io::hbone::TunnelError;
use fairway_core::io::hbone::lifetime::Lifetime;
use fairway_core::io::hbone::server::AcceptError;
use fairway_core::io::hbone::stream::StreamError;
use fairway_core::io::socket::DialError;
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
            Err(error) => Self::because(error.reason(), &error),
        }
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

impl From<&TunnelError> for Outcome {
    fn from(error: &TunnelError) -> Self {
        Self::because(error.reason(), error)
    }
}

impl From<&AcceptError> for Outcome {
    fn from(error: &AcceptError) -> Self {
        Self::because(error.reason(), error)
    }
}

#[cfg(test)]
mod tests;
