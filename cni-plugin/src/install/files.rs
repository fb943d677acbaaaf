//! Files that others read at any moment: replaced as a whole, and never over what somebody else wrote meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// How often a file that somebody else writes at the same time is tried.
const ATTEMPTS: usize = 10;

/// How much of a program is compared at a time, in bytes.
const CHUNK: usize = 64 * 1024;

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
    write_by(path, mode, |file| file.write_all(content))
}

fn write_by(path: &Path, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let temporary = prepare(path, mode, fill)?;
    fs::rename(&temporary, path).inspect_err(|_| drop(fs::remove_file(&temporary)))
}

fn prepare(path: &Path, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<PathBuf> {
    let temporary = beside(path);
    let _ = fs::remove_file(&temporary);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        fill(&mut file)?;
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
    for attempt in 1..=ATTEMPTS {
        let temporary = prepare(path, mode, |file| file.write_all(content.as_bytes()))?;
        if let Err(error) = swap(&temporary, path) {
            // Not every file system can exchange; the file may also be gone by now.
            let unable = matches!(error, Errno::EINVAL | Errno::ENOSYS);
            if unable && fs::read_to_string(path).is_ok_and(|present| present == believed) {
                return Ok(fs::rename(&temporary, path)?);
            }
            let _ = fs::remove_file(&temporary);
            return Err(ExchangeError::Io(error.into()));
        }
        let was = fs::read_to_string(&temporary);
        if was.as_ref().is_ok_and(|was| *was == believed) {
            let _ = fs::remove_file(&temporary);
            return Ok(());
        }
        // Somebody wrote between our reading and our writing: what we put there is the old with our change.
        match was.ok().and_then(|was| again(&was)) {
            Some(newer) if attempt < ATTEMPTS => {
                let _ = fs::remove_file(&temporary);
                believed = content;
                content = newer;
            }
            Some(_) => return give_back(&temporary, path, &content).and(Err(ExchangeError::Contended)),
            None => return give_back(&temporary, path, &content),
        }
    }
    Err(ExchangeError::Contended)
}

/// Puts a file back whose writer has no need of us, is not done yet, or never stops. It has to be the very same file: its writer
/// holds it open and goes on writing there.
fn give_back(taken: &Path, path: &Path, ours: &str) -> Result<(), ExchangeError> {
    swap(taken, path).map_err(|error| ExchangeError::Io(error.into()))?;
    if fs::read_to_string(taken).is_ok_and(|displaced| displaced == ours) {
        let _ = fs::remove_file(taken);
        return Ok(());
    }
    // A third file was put there meanwhile: that one is the newest.
    Ok(fs::rename(taken, path)?)
}

fn swap(one: &Path, other: &Path) -> nix::Result<()> {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)
}

/// Copies a program unless it is there already; says whether it did. Never holds it in memory, of which it would take
/// more than all the rest of the agent.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<bool> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", from.display()));
    let mut wanted = File::open(from).map_err(named)?;
    let is_there = File::open(to).is_ok_and(|present| have_same_content(&wanted, &present).unwrap_or(false));
    if is_there {
        return Ok(false);
    }
    wanted.rewind().map_err(named)?;
    write_by(to, 0o755, |file| io::copy(&mut wanted, file).map(drop))?;
    Ok(true)
}

fn have_same_content(one: &File, other: &File) -> io::Result<bool> {
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (BufReader::with_capacity(CHUNK, one), BufReader::with_capacity(CHUNK, other));
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let count = left.len().min(right.len());
        if left.get(..count) != right.get(..count) {
            return Ok(false);
        }
        if count == 0 {
            return Ok(left.len() == right.len());
        }
        one.consume(count);
        other.consume(count);
    }
}

/// Removes a file; none is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// How deep below the directory of results a runtime keeps them: `results/` has them, `multus/results/` with Multus.
const CACHE_DEPTH: usize = 3;

/// Whether `holds` says so of a file in `directory` or not far below.
pub(super) fn any(directory: &Path, holds: impl Fn(&str) -> bool) -> bool {
    let mut waiting = vec![(directory.to_owned(), 1)];
    while let Some((directory, depth)) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_directory && depth < CACHE_DEPTH {
                waiting.push((entry.path(), depth + 1));
            } else if !is_directory
                && File::open(entry.path()).and_then(io::read_to_string).is_ok_and(|text| holds(&text))
            {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_up_leaves_the_newest_file() {
        let directory = tempfile::tempdir().unwrap();
        let [path, theirs] = ["list", "theirs"].map(|name| directory.path().join(name));
        // Written after our last look, or before it.
        for rounds in [ATTEMPTS, ATTEMPTS - 1] {
            let round = std::cell::Cell::new(0);
            fs::write(&path, "round 0").unwrap();
            let given_up = exchange(&path, "believed", "ours", |was| {
                if round.get() < rounds {
                    round.set(round.get() + 1);
                    fs::write(&theirs, format!("round {}", round.get())).unwrap();
                    fs::rename(&theirs, &path).unwrap();
                }
                Some(format!("{was} and us"))
            });
            assert!(matches!(given_up, Err(ExchangeError::Contended)), "{given_up:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("round {rounds}"));
            assert!(!beside(&path).exists());
        }
    }

    #[test]
    fn a_program_is_copied_only_when_it_differs() {
        let directory = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| directory.path().join(name));
        let long = vec![7; 3 * CHUNK + 5];
        let mut other_end = long.clone();
        *other_end.last_mut().unwrap() = 8;
        for present in [None, Some(other_end), Some(long[1..].to_vec()), Some(Vec::new())] {
            fs::write(&from, &long).unwrap();
            let _ = fs::remove_file(&to);
            if let Some(present) = &present {
                fs::write(&to, present).unwrap();
            }
            assert!(copy(&from, &to).unwrap());
            assert_eq!(fs::read(&to).unwrap(), long);
            assert_eq!(fs::metadata(&to).unwrap().mode() & 0o777, 0o755);
            assert!(!copy(&from, &to).unwrap(), "it is there");
        }
        let error = copy(&directory.path().join("missing"), &to).unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
