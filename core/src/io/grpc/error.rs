//! Why the control plane cannot be used, and what to do about it.

use std::error::Error;

use super::CONNECT_TIMEOUT;

/// Settings from which no channel can be made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not a usable address.
    #[error("{0:?} is not an address of a control plane; write host:port, https://host:port or http://host:port")]
    Address(String),
    /// A header that cannot be sent.
    #[error(
        "header {0:?} cannot be sent as gRPC metadata; names are letters, digits, `-`, `_` and `.`, values plain text"
    )]
    Header(String),
}

/// Why no connection was made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name does not resolve.
    #[error("cannot resolve {host}: {reason}; check the address and the node's DNS")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// TCP failed.
    #[error("cannot connect to {address}: {reason}; is the control plane running and the port reachable?")]
    Tcp {
        /// Where to.
        address: String,
        /// What the kernel said.
        reason: String,
    },
    /// TCP and TLS took too long.
    #[error("no connection to {address} within {} s; is a firewall or NetworkPolicy dropping packets?", CONNECT_TIMEOUT.as_secs())]
    Timeout {
        /// Where to.
        address: String,
    },
    /// The roots cannot be used.
    #[error("{roots} cannot be used: {reason}; it must hold the control plane's root certificate as PEM")]
    Roots {
        /// Which roots.
        roots: String,
        /// What is wrong.
        reason: String,
    },
    /// The certificate does not lead to our roots, or is not valid now.
    #[error("certificate of {address} is not trusted by {roots}: {reason}; update the roots from the control plane")]
    Untrusted {
        /// Whose certificate.
        address: String,
        /// Which roots.
        roots: String,
        /// What is wrong.
        reason: String,
    },
    /// The certificate is for other names.
    #[error(
        "certificate of {address} is for other names ({reason}); connect by one of them or set ALT_XDS_HOSTNAME and ALT_CA_HOSTNAME"
    )]
    WrongName {
        /// Whose certificate.
        address: String,
        /// Expected and presented names.
        reason: String,
    },
    /// TLS failed otherwise.
    #[error("TLS with {address} failed: {reason}; does that port speak TLS?")]
    Tls {
        /// Where to.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// Something else, such as HTTP/2 refused.
    #[error("connection to {address} failed: {reason}")]
    Other {
        /// Where to.
        address: String,
        /// What went wrong.
        reason: String,
    },
}

impl ConnectError {
    /// Our own error from within a gRPC status, when the call failed because no connection could be made.
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    pub(super) fn from_transport(error: &tonic::transport::Error, address: &str) -> Self {
        if let Some(found) = Self::find(error) {
            return found.clone();
        }
        let mut reason = error.to_string();
        let mut timed_out = false;
        let mut next = error.source();
        while let Some(error) = next {
            reason = error.to_string();
            timed_out |= error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut);
            next = error.source();
        }
        let address = address.to_owned();
        if timed_out { Self::Timeout { address } } else { Self::Other { address, reason } }
    }
}
