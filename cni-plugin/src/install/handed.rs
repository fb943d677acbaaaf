//! A note of the pods that node proxies were handed, for the next agent; its place is that of the note on namespaces.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use fairway_core::source::ObjectKey;

use super::{InstallError, STATE_DIRECTORY, Settings, files, io_error};

const FILE: &str = "handed.json";

impl Settings {
    fn handed_file(&self) -> PathBuf {
        self.net_dir.join(STATE_DIRECTORY).join(FILE)
    }

    /// The pods by uid as they were noted last; none when there is no note that can be understood.
    #[must_use]
    pub fn handed(&self) -> BTreeMap<String, ObjectKey> {
        let read = fs::read(self.handed_file()).ok();
        let noted = read.and_then(|bytes| serde_json::from_slice::<BTreeMap<String, (String, String)>>(&bytes).ok());
        let noted = noted.unwrap_or_default().into_iter();
        noted.map(|(uid, (namespace, name))| (uid, ObjectKey::pod(namespace, name))).collect()
    }

    /// Notes the pods by uid.
    ///
    /// # Errors
    /// When it cannot be written; what was there stays.
    pub fn note_handed(&self, pods: &BTreeMap<String, ObjectKey>) -> Result<(), InstallError> {
        if !self.net_dir.is_dir() {
            return Err(InstallError::NoDirectory(self.net_dir.clone()));
        }
        let path = self.handed_file();
        let named = pods.iter().map(|(uid, key)| (uid, (&key.namespace, &key.name)));
        let text = serde_json::to_string(&named.collect::<BTreeMap<_, _>>()).unwrap_or_default() + "\n";
        fs::create_dir_all(self.net_dir.join(STATE_DIRECTORY)).map_err(io_error(&path))?;
        files::write(&path, text.as_bytes(), 0o644).map_err(io_error(&path))
    }
}
