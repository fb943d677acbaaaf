//! Why a resource from the wire was rejected: which resource, which field, what is wrong with it.

use std::fmt;

use crate::ident::IdentityError;

/// A resource that could not become a domain type. Only that resource is rejected, never its neighbours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name:?}: field `{field}` {problem}")]
pub struct Invalid {
    /// What kind of resource it is.
    pub kind: Kind,
    /// The resource's key as far as it could be read.
    pub name: Box<str>,
    /// Path of the field, for example `rules[0].clauses[1].matches[0].source_ips[2]`.
    pub field: Box<str>,
    /// What is wrong with the field.
    pub problem: Problem,
}

/// Kinds of resources that come over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `istio.workload.Address` with neither arm set.
    Address,
    /// `istio.workload.Workload`.
    Workload,
    /// `istio.workload.Service`.
    Service,
    /// `istio.security.Authorization`.
    Policy,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Address => "address",
            Self::Workload => "workload",
            Self::Service => "service",
            Self::Policy => "policy",
        })
    }
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The field must be set.
    #[error("is missing")]
    Missing,
    /// The number stands for no value of the enum, or for one that is not supported.
    #[error("has the unsupported value {0}")]
    Enum(i32),
    /// IP addresses have 4 or 16 bytes.
    #[error("has an IP address of {0} bytes; it must have 4 or 16")]
    AddressLength(usize),
    /// The prefix is longer than the address.
    #[error("has prefix length {length}; at most {maximum} is possible")]
    PrefixLength {
        /// The length given.
        length: u32,
        /// 32 for IPv4, 128 for IPv6.
        maximum: u8,
    },
    /// Ports are 1 to 65535.
    #[error("has port {0}; it must be 1 to 65535")]
    Port(u32),
    /// Keys have two parts.
    #[error("is {0:?}; it must be two names separated by a slash")]
    Key(Box<str>),
    /// No SPIFFE identity can be made of it.
    #[error("gives no identity: {0}")]
    Identity(#[from] IdentityError),
    /// An extension that would change the decision and is not known here.
    #[error("has the unsupported extension {0:?}")]
    Extension(Box<str>),
    /// Removals go by the resource's name, so a resource of another name could never be removed.
    #[error("says {0:?}, which is not the name of the resource")]
    Name(Box<str>),
    /// Nothing could ever be chosen.
    #[error("has no weight above 0")]
    Weight,
    /// The bytes are not the message they should be.
    #[error("cannot be decoded: {0}")]
    Encoding(Box<str>),
}

/// A problem and the path to it, before the resource's name is known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    path: String,
    problem: Problem,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<Problem>) -> Self {
        Self { path: field.into(), problem: problem.into() }
    }

    /// The same problem, seen from the message that holds `field`.
    pub(crate) fn under(mut self, field: impl fmt::Display) -> Self {
        self.path = if self.path.is_empty() { field.to_string() } else { format!("{field}.{}", self.path) };
        self
    }

    pub(crate) fn of(self, kind: Kind, name: impl Into<Box<str>>) -> Invalid {
        Invalid { kind, name: name.into(), field: self.path.into(), problem: self.problem }
    }
}

/// A port that must be there.
pub(crate) fn port(value: u32) -> Result<u16, Problem> {
    match u16::try_from(value) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Problem::Port(value)),
    }
}

/// A port where 0 stands for "none".
pub(crate) fn optional_port(value: u32) -> Result<Option<u16>, Problem> {
    if value == 0 { Ok(None) } else { port(value).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_names_resource_field_and_problem() {
        let error = FieldError::new("", Problem::Port(70_000)).under("ports[1]").under("rules[0]");
        assert_eq!(
            error.of(Kind::Policy, "default/p").to_string(),
            "policy \"default/p\": field `rules[0].ports[1]` has port 70000; it must be 1 to 65535"
        );
    }

    #[test]
    fn ports_are_never_truncated() {
        assert_eq!(port(65_535), Ok(65_535));
        assert_eq!(port(65_536), Err(Problem::Port(65_536)));
        assert_eq!(port(0), Err(Problem::Port(0)));
        assert_eq!(optional_port(0), Ok(None));
        assert_eq!(optional_port(65_616), Err(Problem::Port(65_616)));
    }
}
