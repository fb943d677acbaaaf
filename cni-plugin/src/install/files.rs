//! Files that others read at any moment: replaced as a whole, and never over what somebody else wrote meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// How often a file that somebody else writes at the same time is tried.
const ATTEMPTS: usize = 10;

/// Why a file was not replaced.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// It changed each time.
    Contended,
    /// The file system refused.
    Io(io::Error),
}

impl From<io::Error> for ExchangeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A hidden name in the same directory; runtimes and our own readers pass over it.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.fairway"))
}

/// Replaces `path` by a file of `content`.
pub(super) fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = prepare(path, content, mode)?;
    fs::rename(&temporary, path).inspect_err(|_| drop(fs::remove_file(&temporary)))
}

fn prepare(path: &Path, content: &[u8], mode: u32) -> io::Result<PathBuf> {
    let temporary = beside(path);
    let _ = fs::remove_file(&temporary);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        // Its name must not come to life before its content, not even when the power fails.
        file.sync_all()
    })();
    written.map(|()| temporary.clone()).inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Replaces `path`, believed to hold `believed`, by `content`. If it turns out to have held something else, that is
/// what counts: `again` makes the new content from it.
pub(super) fn exchange(
    path: &Path,
    believed: &str,
    content: &str,
    again: impl Fn(&str) -> Option<String>,
) -> Result<(), ExchangeError> {
    let mode = fs::metadata(path).map_or(0o600, |metadata| metadata.mode() & 0o777);
    let (mut believed, mut content) = (believed.to_owned(), content.to_owned());
    for _ in 0..ATTEMPTS {
        let temporary = prepare(path, content.as_bytes(), mode)?;
        if let Err(error) = renameat2(AT_FDCWD, &temporary, AT_FDCWD, path, RenameFlags::RENAME_EXCHANGE) {
            // Not every file system can exchange; the file may also be gone by now.
            let unable = matches!(error, nix::errno::Errno::EINVAL | nix::errno::Errno::ENOSYS);
            if unable && fs::read_to_string(path).is_ok_and(|present| present == believed) {
                return Ok(fs::rename(&temporary, path)?);
            }
            let _ = fs::remove_file(&temporary);
            return Err(ExchangeError::Io(error.into()));
        }
        let was = fs::read_to_string(&temporary);
        let _ = fs::remove_file(&temporary);
        let was = was?;
        if was == believed {
            return Ok(());
        }
        // Somebody wrote between our reading and our writing: what we put there is the old with our change.
        let Some(newer) = again(&was) else {
            // What they wrote has no need of us, or is only the beginning: it goes back.
            write(path, was.as_bytes(), mode)?;
            return Ok(());
        };
        believed = content;
        content = newer;
    }
    Err(ExchangeError::Contended)
}

/// Copies a program unless it is there already; says whether it did.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<bool> {
    let wanted =
        fs::read(from).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", from.display())))?;
    let same_length = fs::metadata(to).is_ok_and(|present| u64::try_from(wanted.len()) == Ok(present.len()));
    if same_length && fs::read(to).is_ok_and(|present| present == wanted) {
        return Ok(false);
    }
    write(to, &wanted, 0o755)?;
    Ok(true)
}

/// Removes a file; none is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether `holds` says so of a file in `directory` or one directory below.
pub(super) fn any(directory: &Path, holds: impl Fn(&str) -> bool) -> bool {
    let has = |path: &Path| File::open(path).and_then(io::read_to_string).is_ok_and(|text| holds(&text));
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.into_iter().any(|path| {
        let below = fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path());
        has(&path) || below.into_iter().any(|path| has(&path))
    })
}
