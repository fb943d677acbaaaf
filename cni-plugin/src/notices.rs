//! What the agent says of pods by their annotations, and where it says it: in files beside manifests, or in an API server.

mod marks;

use fairway_core::source::ObjectKey;
use fairway_core::source::status::{StatusError, Writer};
use serde_json::Value;

pub use marks::Marks;

/// Why something could not be said.
#[derive(Debug, thiserror::Error)]
pub enum NoticeError {
    /// Beside the manifests.
    #[error(transparent)]
    File(#[from] StatusError),
    /// In the API server.
    #[error("the annotations of {pod} cannot be written: {error}")]
    Server {
        /// The pod.
        pod: ObjectKey,
        /// What was tried last, and why it failed.
        error: String,
    },
    /// Not in time.
    #[error("the API server still shows annotations of ours on {0}; run this again once it answers")]
    Unsettled(String),
}

/// Where notices go.
#[derive(Clone, Debug)]
pub enum Notices {
    /// Files beside manifests; written when the call returns.
    Files(Writer),
    /// Annotations in the API server, written soon.
    Server(Marks),
}

impl From<Writer> for Notices {
    fn from(writer: Writer) -> Self {
        Self::Files(writer)
    }
}

impl Notices {
    /// Says the annotations of `partial` of the object whose uid is `uid`, and takes back what was said of it before.
    ///
    /// # Errors
    /// When it could not be said; in an API server, when the last attempt to say just that failed.
    pub fn write(&self, key: &ObjectKey, uid: &str, partial: &Value) -> Result<(), NoticeError> {
        match self {
            Self::Files(writer) => Ok(writer.write(key, partial.clone())?),
            Self::Server(marks) => marks.write(key, uid, partial),
        }
    }

    /// Takes back what was said of an object, or of whichever has the name now; nothing was is fine too.
    ///
    /// # Errors
    /// When it could not be taken back.
    pub fn remove(&self, key: &ObjectKey, uid: Option<&str>) -> Result<(), NoticeError> {
        match self {
            Self::Files(writer) => Ok(writer.remove(key)?),
            Self::Server(marks) => {
                marks.remove(key, uid);
                Ok(())
            }
        }
    }

    /// Whether what was said once stays, unless somebody meddles with it.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        matches!(self, Self::Files(_))
    }

    /// Whether anything is said of an object.
    #[must_use]
    pub fn has(&self, key: &ObjectKey) -> bool {
        match self {
            Self::Files(writer) => writer.has(key),
            Self::Server(marks) => marks.has(key),
        }
    }

    /// The objects of which something is said, such as before a restart.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn owned(&self) -> Result<Vec<ObjectKey>, NoticeError> {
        match self {
            Self::Files(writer) => Ok(writer.owned()?),
            Self::Server(marks) => Ok(marks.owned()),
        }
    }

    /// Waits until all that was said can be read by others.
    ///
    /// # Errors
    /// When the API server does not show it in time.
    pub async fn settle(&self) -> Result<(), NoticeError> {
        match self {
            Self::Files(_) => Ok(()),
            Self::Server(marks) => marks.settle().await,
        }
    }
}
