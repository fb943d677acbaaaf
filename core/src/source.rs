//! Kubernetes objects, from wherever they come, and what is wrong with them.
//!
//! A [`Source`] is a directory of manifests, [`directory::Directory`], or the API server of a cluster,
//! [`cluster::Cluster`]. Both give the same: a [`Loaded`], which is typed [`Objects`] plus errors as data, again after
//! every change. [`status::Writer`] is how an agent writes status beside manifests it does not own.

pub mod admission;
#[cfg(feature = "cluster")]
pub mod cluster;
mod decode;
pub mod directory;
pub mod external_processor;
pub mod freshness;
pub mod gateway;
pub mod istio;
pub mod istio_destination;
pub mod istio_network;
pub mod istio_tokens;
pub mod istio_traffic;
mod kind;
pub mod labels;
mod loaded;
mod mesh_pod;
pub mod mesh_slice;
mod name;
pub mod objects;
pub mod rate_limit;
pub mod reference_grant;
pub mod route;
pub mod status;
pub mod unserved;
mod watch;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch::Receiver;

pub use freshness::Freshness;
pub use kind::Kind;
pub use loaded::{Loaded, Remembered};
pub use mesh_pod::MeshPod;
pub use mesh_slice::MeshSlice;
pub use objects::{Objects, UnknownKind};

/// Namespace given to a namespaced object that names none, as `kubectl` does.
pub const DEFAULT_NAMESPACE: &str = "default";

/// What of manifests is not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Strip {
    /// All of a pod that a mesh does not read: pods are [`Objects::pods`].
    #[default]
    Unneeded,
    /// Nothing: pods are [`Objects::whole_pods`].
    Nothing,
}

/// Where objects come from.
///
/// Whatever happens to the place, what was read last is given until something newer can be read: nothing is withdrawn
/// because it cannot be seen.
pub trait Source: fmt::Debug + Send {
    /// Starts to read, going on from what is [`Loaded::remembered`] of the time before a restart. The receiver holds a
    /// reading when this returns, if only one that [`Loaded::is_never_read`].
    ///
    /// Reading ends when all receivers are gone. Must be called within a runtime.
    fn start(self: Box<Self>, remembered: &Loaded) -> Readings;
}

/// What a [`Source`] gives.
#[derive(Clone, Debug)]
pub struct Readings {
    /// The newest reading.
    pub loaded: Receiver<Arc<Loaded>>,
    /// How far behind it is.
    pub freshness: Freshness,
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

/// One thing that is wrong with the objects, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct SourceError {
    /// File, relative to the root of the source; empty for objects from an API server.
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
        if !self.file.is_empty() {
            f.write_str(": ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}
