//! Files that others read at any moment: replaced as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How much of a program is compared at a time, in bytes.
const CHUNK: usize = 64 * 1024;

/// How the hidden names end under which files are made ready.
pub(super) const HIDDEN: &str = ".fairway";

/// A hidden name in the same directory; runtimes and our own readers pass over it.
pub(super) fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}{HIDDEN}"))
}

/// Replaces `path` by a file of `content`.
pub(super) fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write_by(path, mode, |file| file.write_all(content))
}

fn write_by(path: &Path, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let temporary = prepare(path, mode, fill)?;
    fs::rename(&temporary, path).inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Makes a file of content beside `path`, safely on the disk.
pub(super) fn prepare(path: &Path, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<PathBuf> {
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
    use std::os::unix::fs::MetadataExt;

    use super::*;

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
