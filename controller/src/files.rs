//! Files that are replaced as a whole, so that a crash leaves the old one or the new one.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The next content of a file, written beside it.
#[derive(Debug)]
pub(crate) struct Prepared {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl Prepared {
    /// Writes `content` beside `path`.
    pub(crate) fn new(path: &Path, content: &[u8], mode: u32) -> io::Result<Self> {
        let temporary = beside(path, "new");
        // A leftover would keep its own mode.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        if let Err(error) = file.write_all(content) {
            // Half a file is of no use and takes space that seems to be short.
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        Ok(Self { file, temporary, path: path.to_owned() })
    }

    /// Waits until the content survives a loss of power.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Puts the content into place; what is returned can be synchronised later.
    pub(crate) fn commit(self) -> io::Result<Replaced> {
        fs::rename(&self.temporary, &self.path)?;
        Ok(Replaced { file: self.file, path: self.path })
    }
}

/// A file with its new content.
#[derive(Debug)]
pub(crate) struct Replaced {
    file: File,
    path: PathBuf,
}

impl Replaced {
    /// Waits until the replacement survives a loss of power.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()?;
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// `path` with a further ending.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}
