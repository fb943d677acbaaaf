//! Writes status beside manifests one does not own: partial objects, one file per object, replaced atomically.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::directory::STATUS_DIRECTORY;
use super::{Kind, ObjectKey};

/// Why status could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The owner would not make a directory name.
    #[error("\"{0}\" cannot own status: use letters, digits, '-', '_' and '.', not starting with '.'")]
    Owner(String),
    /// The partial object is not one.
    #[error("the status of {0} must be a mapping")]
    NotAMapping(ObjectKey),
    /// The file system refused.
    #[error("cannot write {path}: {error}; check that the directory of manifests is writable and not full")]
    Io {
        /// File or directory that was written.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The status files of one owner, below `ROOT/.status/<owner>/`.
#[derive(Clone, Debug)]
pub struct Writer {
    directory: PathBuf,
}

impl Writer {
    /// A writer for an owner known to be a name: the controller's or another's that is written in the program.
    #[must_use]
    pub fn of(root: &Path, owner: &'static str) -> Self {
        Self { directory: root.join(STATUS_DIRECTORY).join(owner) }
    }

    /// A writer for `owner`; nothing is created before the first [`Writer::write`].
    ///
    /// # Errors
    /// When `owner` cannot be the name of a directory.
    pub fn new(root: &Path, owner: &str) -> Result<Self, StatusError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if owner.is_empty() || owner.starts_with('.') || !owner.chars().all(allowed) {
            return Err(StatusError::Owner(owner.to_owned()));
        }
        Ok(Self { directory: root.join(STATUS_DIRECTORY).join(owner) })
    }

    /// Says `partial` of the object `key`, replacing what this owner said before. Blocks for the time of a small write.
    ///
    /// # Errors
    /// When `partial` is not a mapping or the file cannot be written.
    pub fn write(&self, key: &ObjectKey, partial: Value) -> Result<(), StatusError> {
        let Value::Object(mut object) = partial else {
            return Err(StatusError::NotAMapping(key.clone()));
        };
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        let Some(metadata) = metadata.as_object_mut() else {
            return Err(StatusError::NotAMapping(key.clone()));
        };
        metadata.insert("name".to_owned(), json!(key.name));
        if key.kind.is_namespaced() {
            metadata.insert("namespace".to_owned(), json!(key.namespace));
        }
        object.insert("apiVersion".to_owned(), json!(key.kind.api_version()));
        object.insert("kind".to_owned(), json!(key.kind.as_str()));
        // JSON is YAML, and its quoting has no surprises.
        let text = format!("{:#}\n", Value::Object(object));
        let path = self.path(key);
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            return Ok(());
        }
        self.replace(&path, &text).map_err(|error| StatusError::Io { path, error })
    }

    /// Takes back what was said of `key`; nothing was is fine too.
    ///
    /// # Errors
    /// When the file exists and cannot be removed.
    pub fn remove(&self, key: &ObjectKey) -> Result<(), StatusError> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StatusError::Io { path, error }),
            _ => Ok(()),
        }
    }

    /// Whether this owner says anything of `key`.
    #[must_use]
    pub fn has(&self, key: &ObjectKey) -> bool {
        self.path(key).exists()
    }

    /// The objects this owner says something of, such as before a restart.
    ///
    /// # Errors
    /// When the owner's directory exists and cannot be listed.
    pub fn owned(&self) -> Result<Vec<ObjectKey>, StatusError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(StatusError::Io { path: self.directory.clone(), error });
            }
        };
        let mut keys: Vec<_> =
            entries.flatten().filter_map(|entry| parse_file_name(entry.file_name().to_str()?)).collect();
        keys.sort();
        Ok(keys)
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        // No name of an object has an underscore (RFC 1123), so the parts stay apart.
        self.directory.join(format!("{}_{}_{}.yaml", key.kind, key.namespace, key.name))
    }

    /// Never the root: where that has vanished, an empty one would say that all objects were deleted.
    fn make_directory(&self) -> io::Result<()> {
        if self.directory.is_dir() {
            return Ok(());
        }
        for directory in self.directory.parent().into_iter().chain([self.directory.as_path()]) {
            match fs::create_dir(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn replace(&self, path: &Path, text: &str) -> io::Result<()> {
        self.make_directory()?;
        // A leading dot keeps readers away until the rename.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = self.directory.join(format!(".{name}.tmp"));
        let mut file = fs::File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&temporary, path)
    }
}

fn parse_file_name(name: &str) -> Option<ObjectKey> {
    let mut parts = name.strip_suffix(".yaml")?.split('_');
    let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind)?;
    parts.next().is_none().then(|| ObjectKey::new(kind, namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_lists_and_removes() {
        let root = tempfile::tempdir().unwrap();
        let writer = Writer::new(root.path(), "lab").unwrap();
        let pod = ObjectKey::pod("shop", "web-0.a");
        let namespace = ObjectKey::new(Kind::Namespace, "", "shop");
        assert_eq!(writer.owned().unwrap(), []);
        writer.remove(&pod).unwrap();
        writer.write(&pod, json!({"status": {"podIP": "10.0.0.1"}})).unwrap();
        writer.write(&namespace, json!({})).unwrap();
        assert_eq!(writer.owned().unwrap(), [namespace, pod.clone()]);
        let text = fs::read_to_string(root.path().join(".status/lab/Pod_shop_web-0.a.yaml")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let expected = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web-0.a", "namespace": "shop"}, "status": {"podIP": "10.0.0.1"}});
        assert_eq!(value, expected);
        writer.remove(&pod).unwrap();
        assert_eq!(writer.owned().unwrap().len(), 1);
    }

    #[test]
    fn a_directory_of_manifests_that_has_vanished_is_not_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let manifests = root.path().join("manifests");
        let writer = Writer::new(&manifests, "lab").unwrap();
        let write = || writer.write(&ObjectKey::pod("shop", "web"), json!({}));
        assert!(matches!(write(), Err(StatusError::Io { .. })));
        assert!(!manifests.exists());
        fs::create_dir(&manifests).unwrap();
        write().unwrap();
    }

    #[test]
    fn refuses_what_cannot_be_written() {
        let root = tempfile::tempdir().unwrap();
        for owner in ["", "..", "a/b", ".hidden"] {
            assert!(Writer::new(root.path(), owner).is_err(), "{owner}");
        }
        let writer = Writer::new(root.path(), "lab").unwrap();
        assert!(matches!(writer.write(&ObjectKey::pod("a", "b"), json!(1)), Err(StatusError::NotAMapping(_))));
    }
}
