//! Kubernetes objects from a directory of manifests, with status overlays, and what is wrong with them.
//!
//! [`directory::load`] reads the directory once, [`directory::watch`] keeps reading it; both give a
//! [`directory::Loaded`]: typed [`Objects`] plus errors as data. [`status::Writer`] is how an agent writes status
//! beside manifests it does not own.

mod decode;
pub mod directory;
pub mod istio;
mod name;
pub mod objects;
pub mod status;
mod watch;

use std::fmt;

use serde::Serialize;

pub use objects::{Objects, UnknownKind};

/// Namespace given to a namespaced object that names none, as `kubectl` does.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The kinds this source understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Kind {
    /// Core `v1`, cluster scoped.
    Namespace,
    /// Core `v1`.
    Pod,
    /// Core `v1`.
    Service,
    /// Core `v1`.
    ServiceAccount,
    /// `security.istio.io`, `v1` or `v1beta1`.
    AuthorizationPolicy,
    /// `security.istio.io`, `v1` or `v1beta1`.
    PeerAuthentication,
}

impl Kind {
    /// Every kind, in the order they are listed to people.
    pub const ALL: [Self; 6] = [
        Self::Namespace,
        Self::Pod,
        Self::Service,
        Self::ServiceAccount,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
    ];

    /// The `kind` field of such an object.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::ServiceAccount => "ServiceAccount",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
        }
    }

    /// The API group; empty for the core group.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::Namespace | Self::Pod | Self::Service | Self::ServiceAccount => "",
            Self::AuthorizationPolicy | Self::PeerAuthentication => "security.istio.io",
        }
    }

    /// The versions of the group that are read; the first one is what we write.
    #[must_use]
    pub fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Namespace | Self::Pod | Self::Service | Self::ServiceAccount => &["v1"],
            Self::AuthorizationPolicy | Self::PeerAuthentication => &["v1", "v1beta1"],
        }
    }

    /// The `apiVersion` field we write for such an object.
    #[must_use]
    pub fn api_version(self) -> String {
        let version = self.versions().first().copied().unwrap_or("v1");
        if self.group().is_empty() { version.to_owned() } else { format!("{}/{version}", self.group()) }
    }

    /// Whether objects of this kind live in a namespace.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        self != Self::Namespace
    }

    /// Whether objects of this kind restrict who may talk to whom.
    #[must_use]
    pub fn is_policy(self) -> bool {
        matches!(self, Self::AuthorizationPolicy | Self::PeerAuthentication)
    }

    /// The kind called `name` in `group`, when we understand it.
    #[must_use]
    pub fn find(group: &str, name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.group() == group && kind.as_str() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What identifies an object; `namespace` is empty for a cluster-scoped kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectKey {
    /// Kind of the object.
    pub kind: Kind,
    /// Namespace it lives in; empty when the kind is cluster scoped.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// The key of a namespaced object; for a cluster-scoped kind the namespace is dropped.
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        let namespace = if kind.is_namespaced() { namespace.into() } else { String::new() };
        Self { kind, namespace, name: name.into() }
    }

    /// The key of a pod.
    pub fn pod(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self::new(Kind::Pod, namespace, name)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Where something is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    /// File, relative to the root of the source.
    pub file: String,
    /// Line, from 1, when it is known.
    pub line: Option<u32>,
    /// Column, from 1, when it is known.
    pub column: Option<u32>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        Ok(())
    }
}

/// One thing that is wrong with the manifests, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct SourceError {
    /// File, relative to the root of the source.
    pub file: String,
    /// Line, from 1, when it is known.
    pub line: Option<u32>,
    /// Column, from 1, when it is known.
    pub column: Option<u32>,
    /// Path of the field, such as `spec.rules[0].to`, when a field is to blame.
    pub field: Option<String>,
    /// What is wrong, and what is expected instead.
    pub message: String,
    /// The object that is to blame, when it could be identified.
    #[serde(skip)]
    pub object: Option<ObjectKey>,
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        f.write_str(": ")?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}
