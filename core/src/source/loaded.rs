//! What one reading of a source gave.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::objects::Objects;
use super::{Kind, Location, ObjectKey, SourceError, decode, directory};

/// What one reading of a source gave.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The objects in force.
    pub objects: Objects,
    /// Everything that is wrong, by file and line where there are files.
    pub errors: Vec<SourceError>,
    /// Objects in error of which no good version is known, as they were written: a reader that enforces policy must
    /// treat these as present and refusing, not as absent.
    pub rejected: BTreeMap<ObjectKey, Arc<Value>>,
    pub(super) origin: Origin,
}

/// Where a reading is from, and what the next one needs to know of it.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    Directory(directory::Read),
    #[cfg(feature = "cluster")]
    Cluster {
        /// Not every kind could be listed yet.
        never_read: bool,
    },
}

impl Default for Origin {
    fn default() -> Self {
        Self::Directory(directory::Read::default())
    }
}

/// An object as it was when it was last good, and the file it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Remembered {
    /// File, relative to the root of the source; empty for an object from an API server.
    pub file: String,
    /// The whole object.
    pub object: Value,
}

impl Loaded {
    /// A reading to go on from after a restart: while a file has a fault, what is remembered of it is what it gave
    /// before. What does not pass the checks of a manifest becomes [`Loaded::rejected`].
    #[must_use]
    pub fn remembered(objects: &[Remembered]) -> Self {
        directory::remembered(objects)
    }

    /// This reading with another version of an object, as it would be if the source had it.
    #[must_use]
    pub fn with(&self, key: &ObjectKey, written: &Value) -> Self {
        let mut loaded = self.clone();
        loaded.errors.retain(|error| error.object.as_ref() != Some(key));
        match decode::typed(key.kind, written) {
            Ok(object) => {
                loaded.rejected.remove(key);
                loaded.objects.insert(key.clone(), object);
            }
            // As in any reading, what it was when it was last good stays.
            Err((path, message)) => {
                let field = (!path.is_empty()).then(|| path.to_string());
                let object = Some(key.clone());
                loaded.errors.push(SourceError {
                    file: String::new(),
                    line: None,
                    column: None,
                    field,
                    message,
                    object,
                });
                if !loaded.objects.has(key) {
                    loaded.rejected.insert(key.clone(), Arc::new(written.clone()));
                }
            }
        }
        loaded
    }

    /// Whether this reading of a directory gave exactly what `other` gave.
    #[must_use]
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        match (&self.origin, &other.origin) {
            (Origin::Directory(left), Origin::Directory(right)) => left.is_same_as(right),
            #[cfg(feature = "cluster")]
            _ => false,
        }
    }

    /// Whether the source could never be read, or not completely, so that this says nothing of what is in it.
    #[must_use]
    pub fn is_never_read(&self) -> bool {
        match &self.origin {
            Origin::Directory(read) => read.never_read,
            #[cfg(feature = "cluster")]
            Origin::Cluster { never_read } => *never_read,
        }
    }

    /// Whether part of the source cannot be read and never could since the first reading. What is absent here may then
    /// exist there.
    #[must_use]
    pub fn has_unseen(&self) -> bool {
        match &self.origin {
            Origin::Directory(read) => read.has_unseen(),
            #[cfg(feature = "cluster")]
            Origin::Cluster { never_read } => *never_read,
        }
    }

    /// Where `field` of an object, such as `spec.rules[0].to`, is written, or what is nearest to it.
    ///
    /// Lines are known of policies only, and only while the file still holds the object as it is in force. Objects of an
    /// API server are not written anywhere.
    #[must_use]
    pub fn locate(&self, key: &ObjectKey, field: &str) -> Option<Location> {
        match &self.origin {
            Origin::Directory(read) => read.locate(key, field).or_else(|| {
                let error = self.errors.iter().find(|error| error.object.as_ref() == Some(key))?;
                Some(Location { file: error.file.clone(), line: error.line, column: error.column })
            }),
            #[cfg(feature = "cluster")]
            Origin::Cluster { .. } => None,
        }
    }

    /// The files of all objects of one kind, those in error included; empty names for objects of an API server.
    #[must_use]
    pub fn files(&self, kind: Kind) -> BTreeMap<&ObjectKey, &str> {
        match &self.origin {
            Origin::Directory(read) => read.files(kind),
            #[cfg(feature = "cluster")]
            Origin::Cluster { .. } => {
                let keys: Vec<&ObjectKey> = match kind {
                    Kind::AuthorizationPolicy => self.objects.authorization_policies.keys().collect(),
                    Kind::PeerAuthentication => self.objects.peer_authentications.keys().collect(),
                    _ => Vec::new(),
                };
                let rejected = self.rejected.keys().filter(|key| key.kind == kind);
                keys.into_iter().chain(rejected).map(|key| (key, "")).collect()
            }
        }
    }
}
