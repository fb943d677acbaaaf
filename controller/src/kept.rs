//! The last good version of every policy in the state directory, so that a restart never forgets what someone closed.
//!
//! Readable manifests need none of this. It is for the policies of a file that is in error when the controller starts,
//! and for those whose newest version is not valid (docs/adr/0009).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use fairway_core::source::Remembered;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{self, Prepared, Replaced};

const FILE: &str = "policies.json";
/// Ending of a version that was set aside because it is out of date or cannot be read.
const UNUSABLE: &str = "unusable";
/// Format of the file; a newer one is not guessed at.
const VERSION: u32 = 1;
/// Largest file, in bytes: 10,000 policies of several KiB each.
const MAXIMUM_BYTES: u64 = 64 * 1024 * 1024;
/// Policies say who may not talk to whom; nobody else needs to know.
const MODE: u32 = 0o600;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    policies: Vec<Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    file: String,
    object: Value,
}

/// Why the kept versions cannot be had or replaced.
#[derive(Debug, thiserror::Error)]
enum KeptError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("is not what was written: {0}")]
    Content(#[from] serde_json::Error),
    #[error("has format {0}, and only {VERSION} is known; it was written by another version of the controller")]
    Version(u32),
    #[error("has {size} bytes, and at most {limit} are kept; remove policies")]
    TooLarge { size: u64, limit: u64 },
    #[error("was set aside as .{UNUSABLE} when it could not be kept up to date")]
    SetAside,
}

/// The file of kept versions.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    written: Option<Vec<u8>>,
    trouble: Option<String>,
    is_lost: bool,
    limit: u64,
}

impl Store {
    /// Opens the store in a state directory, and reads what it holds. Never fails: a store that is lost says so.
    #[must_use]
    pub fn open(directory: &Path) -> (Self, Vec<Remembered>) {
        Self::open_with(directory, MAXIMUM_BYTES)
    }

    fn open_with(directory: &Path, limit: u64) -> (Self, Vec<Remembered>) {
        let path = directory.join(FILE);
        let mut store = Self { path, written: None, trouble: None, is_lost: false, limit };
        let kept = match store.read() {
            Ok(kept) => kept.unwrap_or_default(),
            Err(error) => {
                store.is_lost = true;
                store.trouble = Some(format!(
                    "the kept versions of policies cannot be read: {} {error}; policies in files that are in error now are not known",
                    store.path.display()
                ));
                return (store, Vec::new());
            }
        };
        if kept.is_empty() {
            // There must be something to set aside if the first version cannot be written.
            store.save(&[]);
        }
        (store, kept)
    }

    fn read(&self) -> Result<Option<Vec<Remembered>>, KeptError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return if self.unusable().exists() { Err(KeptError::SetAside) } else { Ok(None) };
            }
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        file.take(self.limit.saturating_add(1)).read_to_end(&mut bytes)?;
        self.check_size(&bytes)?;
        let Document { version, policies } = serde_json::from_slice(&bytes)?;
        if version != VERSION {
            return Err(KeptError::Version(version));
        }
        Ok(Some(policies.into_iter().map(|Entry { file, object }| Remembered { file, object }).collect()))
    }

    fn check_size(&self, bytes: &[u8]) -> Result<(), KeptError> {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if size > self.limit { Err(KeptError::TooLarge { size, limit: self.limit }) } else { Ok(()) }
    }

    /// What an operator must know, if anything.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether what was kept before the start cannot be had. It is until something is saved.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Keeps these versions from now on. What is returned survives the end of the process, and a loss of power once it is
    /// synchronised; nothing when they are kept already or cannot be.
    pub(crate) fn save(&mut self, policies: &[Remembered]) -> Option<Replaced> {
        match self.write(policies) {
            Ok(replaced) => {
                self.trouble = None;
                self.is_lost = false;
                replaced
            }
            Err(error) => {
                self.written = None;
                // An older version may allow more than the one proxies have by now; better none than that.
                let aside = match fs::rename(&self.path, self.unusable()) {
                    Err(aside) if aside.kind() != io::ErrorKind::NotFound => format!(
                        " and its old content cannot be set aside ({aside}): before a restart remove the file or repair all manifests"
                    ),
                    _ => String::new(),
                };
                self.trouble = Some(format!(
                    "the last good versions of policies cannot be kept: {}: {error}; check the space and the owner of the state directory{aside}",
                    self.path.display()
                ));
                None
            }
        }
    }

    fn write(&mut self, policies: &[Remembered]) -> Result<Option<Replaced>, KeptError> {
        let entries = policies.iter().map(|kept| Entry { file: kept.file.clone(), object: kept.object.clone() });
        let bytes = serde_json::to_vec(&Document { version: VERSION, policies: entries.collect() })?;
        if self.written.as_ref() == Some(&bytes) {
            return Ok(None);
        }
        self.check_size(&bytes)?;
        if let Some(directory) = self.path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let prepared = Prepared::new(&self.path, &bytes, MODE)?;
        if self.is_lost && self.path.exists() {
            fs::rename(&self.path, self.unusable())?;
        }
        let replaced = prepared.commit()?;
        self.written = Some(bytes);
        Ok(Some(replaced))
    }

    fn unusable(&self) -> PathBuf {
        files::beside(&self.path, UNUSABLE)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    fn kept(name: &str) -> Remembered {
        Remembered { file: "a.yaml".to_owned(), object: json!({"metadata": {"name": name}}) }
    }

    #[test]
    fn what_is_saved_is_read_again() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("new");
        let (mut store, nothing) = Store::open(&directory);
        assert_eq!((nothing, store.trouble(), store.is_lost()), (vec![], None, false));
        store.save(&[kept("a"), kept("b")]).unwrap().sync().unwrap();
        assert!(store.save(&[kept("a"), kept("b")]).is_none(), "nothing to do");
        let path = directory.join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        let (store, again) = Store::open(&directory);
        assert_eq!((again, store.is_lost()), (vec![kept("a"), kept("b")], false));
    }

    #[test]
    fn content_that_cannot_be_used_is_lost_until_saved_anew() {
        for content in ["", "{\"version\":1,\"policies\":[", "{\"version\":2,\"policies\":[]}", "[]"] {
            let state = tempfile::tempdir().unwrap();
            let path = state.path().join(FILE);
            fs::write(&path, content).unwrap();
            let (mut store, nothing) = Store::open(state.path());
            assert!(nothing.is_empty() && store.is_lost(), "{content}");
            assert!(store.trouble().unwrap().contains("policies.json"), "{content}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content, "left for the operator");
            assert!(store.save(&[kept("a")]).is_some());
            assert!(!store.is_lost() && store.trouble().is_none());
            assert_eq!(fs::read_to_string(store.unusable()).unwrap(), content);
            assert_eq!(Store::open(state.path()).1, [kept("a")]);
        }
    }

    #[test]
    fn what_could_not_be_replaced_is_never_used_again() {
        let state = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open_with(state.path(), 200);
        store.save(&[kept("a")]).unwrap();
        assert!(store.save(&[kept(&"x".repeat(200))]).is_none());
        assert!(store.trouble().unwrap().contains("at most"), "{:?}", store.trouble());
        let (again, nothing) = Store::open_with(state.path(), 200);
        assert!(nothing.is_empty() && again.is_lost());
        // There is room again.
        assert!(store.save(&[kept("a")]).is_some());
        assert_eq!(Store::open_with(state.path(), 200).1, [kept("a")]);
    }

    #[test]
    fn a_directory_that_takes_nothing_is_trouble() {
        let state = tempfile::tempdir().unwrap();
        let blocked = state.path().join("file");
        fs::write(&blocked, "").unwrap();
        let (mut store, _) = Store::open(&blocked);
        assert!(store.trouble().is_some());
        assert!(store.save(&[]).is_none());
    }
}
