//! Conditions beside the manifests, in the controller's part of the status directory.

use std::path::Path;

use fairway_core::source::ObjectKey;
use fairway_core::source::status::Writer as Overlays;
use serde_json::{Value, json};

use super::Writer;

/// Name of the controller among the owners of status.
pub(crate) const OWNER: &str = "controller";

/// Writes overlays.
#[derive(Debug)]
pub struct Directory {
    overlays: Overlays,
}

impl Directory {
    /// A writer for the manifests in `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { overlays: Overlays::of(root, OWNER) }
    }

    fn remove(&self, key: &ObjectKey) {
        if let Err(error) = self.overlays.remove(key) {
            tracing::warn!(%error, "a condition of an object that is gone stays");
        }
    }
}

impl Writer for Directory {
    async fn write(&mut self, key: &ObjectKey, status: Value) -> Result<(), String> {
        // A small file, and rarely.
        self.overlays.write(key, json!({"status": status})).map_err(|error| error.to_string())
    }

    async fn forget(&mut self, key: &ObjectKey) {
        self.remove(key);
    }

    fn may_write(&mut self) -> bool {
        true
    }

    async fn turn(&mut self) {
        std::future::pending().await
    }
}
