//! Changes files that others write as well, and loses nothing of what they write: not when they write at the same moment,
//! and not when this process is killed in the middle.
//!
//! A new file is exchanged with the one that is there, atomically, and only then is looked at what that one held: whatever
//! somebody wrote since our last look is in our hands then, and nowhere else. Until it is dealt with it keeps a name that
//! says what was put in its place and what it was believed to be. By that [`recover`] tells whose word is the newest.

use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::files::{self, HIDDEN, beside, remove};

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

/// What a file holds, in few bytes; nothing for a file that is not there.
type Print = Option<u64>;

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
    // What somebody wrote, until what was made of it is in its place.
    let mut newest: Option<PathBuf> = None;
    for attempt in 1..=ATTEMPTS {
        let ours = print_of(content.as_bytes());
        let taken = taken_from(path, ours, print_of(believed.as_bytes()));
        let temporary = files::prepare(path, mode, |file| file.write_all(content.as_bytes()))?;
        fs::rename(temporary, &taken)?;
        if let Err(error) = rename(&taken, path, RenameFlags::RENAME_EXCHANGE) {
            // Not every file system can exchange; the file may also be gone by now.
            let unable = matches!(error, Errno::EINVAL | Errno::ENOSYS);
            if unable && fs::read_to_string(path).is_ok_and(|present| present == believed) {
                return Ok(fs::rename(&taken, path)?);
            }
            let _ = fs::remove_file(&taken);
            return Err(ExchangeError::Io(error.into()));
        }
        drop(newest.take().map(fs::remove_file));
        let was = fs::read_to_string(&taken);
        if was.as_ref().is_ok_and(|was| *was == believed) {
            let _ = fs::remove_file(&taken);
            return Ok(());
        }
        // Somebody wrote between our reading and our writing: what we put there is the old with our change.
        match was.ok().and_then(|was| again(&was)) {
            Some(newer) if attempt < ATTEMPTS => {
                newest = Some(taken);
                believed = std::mem::replace(&mut content, newer);
            }
            Some(_) => return Ok(give_back(&taken, path, ours)?).and(Err(ExchangeError::Contended)),
            None => return Ok(give_back(&taken, path, ours)?),
        }
    }
    Err(ExchangeError::Contended)
}

/// Removes `path` if it holds what it is believed to; says whether it did.
pub(super) fn displace(path: &Path, believed: &str) -> io::Result<bool> {
    let taken = taken_from(path, None, print_of(believed.as_bytes()));
    match fs::rename(path, &taken) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        renamed => renamed?,
    }
    let is_believed = fs::read_to_string(&taken).is_ok_and(|was| was == believed);
    if is_believed {
        fs::remove_file(&taken)?
    } else {
        give_back(&taken, path, None)?
    }
    Ok(is_believed)
}

/// Finishes what was begun in `directory` by a process that was killed: of what somebody wrote and what we put in its
/// place without having seen it, the newest stays.
pub(super) fn recover(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let hidden = entry.file_name();
        let Some(hidden) = hidden.to_str().filter(|hidden| hidden.starts_with('.')) else { continue };
        if hidden.ends_with(HIDDEN) {
            // Nobody has seen it yet, and it may not be whole.
            remove(&entry.path())?;
        }
        let Some((name, ours, believed)) = parse(hidden) else { continue };
        let (taken, path) = (entry.path(), directory.join(name));
        let held = print(&taken)?;
        if held == ours || held == believed {
            // Not yet put there, or replaced knowingly.
            remove(&taken)?;
            continue;
        }
        // Who removed the file since has had the last word.
        let is_newer = || written(&path).is_some_and(|present| written(&taken) > Some(present));
        let present = print(&path)?;
        let is_newest = present == ours || is_newer();
        tracing::info!(file = %path.display(), restored = is_newest, "an agent before this one was killed while it wrote");
        if is_newest { give_back(&taken, &path, present)? } else { remove(&taken)? }
    }
    Ok(())
}

/// Puts a file back in place of what is there, which is to be `present`: its writer has no need of us, is not done yet, or
/// never stops. It has to be the very same file: its writer may hold it open and go on writing there.
fn give_back(taken: &Path, path: &Path, present: Print) -> io::Result<()> {
    if !path.exists() {
        match rename(taken, path, RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EEXIST) => {}
            renamed => return Ok(renamed?),
        }
    }
    rename(taken, path, RenameFlags::RENAME_EXCHANGE)?;
    if present.is_some() && print(taken)? == present {
        return remove(taken);
    }
    // Another file was put there meanwhile: that one is the newest.
    fs::rename(taken, path)
}

fn rename(one: &Path, other: &Path, how: RenameFlags) -> nix::Result<()> {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, how)
}

/// When a file was written last; nothing when it is not there.
fn written(path: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn print(path: &Path) -> io::Result<Print> {
    match fs::read(path) {
        Ok(bytes) => Ok(print_of(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn print_of(bytes: &[u8]) -> Print {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    Some(hasher.finish())
}

/// The name of what is taken from `path`: what was put there instead, and what it was believed to be.
fn taken_from(path: &Path, ours: Print, believed: Print) -> PathBuf {
    let mut name: OsString = beside(path).into_os_string();
    let number = |print: Print| print.map_or_else(|| "none".to_owned(), |print| format!("{print:016x}"));
    name.push(format!("-{}-{}", number(ours), number(believed)));
    name.into()
}

/// The reverse: the file's name, and both.
fn parse(name: &str) -> Option<(&str, Print, Print)> {
    let (name, prints) = name.strip_prefix('.')?.rsplit_once(&format!("{HIDDEN}-"))?;
    let (ours, believed) = prints.split_once('-')?;
    let number = |text: &str| match text {
        "none" => Some(None),
        _ => u64::from_str_radix(text, 16).ok().map(Some),
    };
    Some((name, number(ours)?, number(believed)?))
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    const OURS: &str = "old and us";

    struct Place {
        directory: tempfile::TempDir,
        path: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("10-a.conflist");
            Self { directory, path }
        }

        /// As whoever replaces the whole file.
        fn write(&self, text: &str) {
            let theirs = self.directory.path().join("theirs");
            fs::write(&theirs, text).unwrap();
            fs::rename(theirs, &self.path).unwrap();
        }

        fn taken(&self) -> PathBuf {
            taken_from(&self.path, print_of(OURS.as_bytes()), print_of(b"old"))
        }

        /// The file after all, alone.
        fn recovered(&self) -> Option<String> {
            recover(self.directory.path()).unwrap();
            let left = fs::read_dir(self.directory.path()).unwrap().filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().starts_with('.')
            });
            assert_eq!(left.count(), 0);
            fs::read_to_string(&self.path).ok()
        }
    }

    #[test]
    fn who_gives_up_leaves_the_newest_file() {
        // Written after our last look, or before it.
        for rounds in [ATTEMPTS, ATTEMPTS - 1] {
            let place = Place::new();
            let round = std::cell::Cell::new(0);
            place.write("round 0");
            let given_up = exchange(&place.path, "believed", "ours", |was| {
                if round.get() < rounds {
                    round.set(round.get() + 1);
                    place.write(&format!("round {}", round.get()));
                }
                Some(format!("{was} and us"))
            });
            assert!(matches!(given_up, Err(ExchangeError::Contended)), "{given_up:?}");
            assert_eq!(place.recovered(), Some(format!("round {rounds}")));
        }
    }

    #[test]
    fn who_is_killed_with_the_newest_file_in_hand_has_not_lost_it() {
        // Somebody writes between our looks, this often; we are killed after the last of them.
        for rounds in 0..3 {
            let place = Place::new();
            let round = std::cell::Cell::new(0);
            place.write("round 0");
            let killed = catch_unwind(AssertUnwindSafe(|| {
                exchange(&place.path, "believed", "ours", |was| {
                    assert!(round.get() < rounds, "killed");
                    round.set(round.get() + 1);
                    place.write(&format!("round {}", round.get()));
                    Some(format!("{was} and us"))
                })
            }));
            assert!(killed.is_err());
            assert_eq!(place.recovered(), Some(format!("round {rounds}")));
        }
    }

    #[test]
    fn whatever_was_done_when_it_was_killed_the_newest_word_stays() {
        // What was taken, if anything; then what is in its place; what stays.
        let rows = [
            ("before the exchange", Some(OURS), Some("old"), Some("old")),
            ("before the exchange, and written meanwhile", Some(OURS), Some("new"), Some("new")),
            ("after it, nothing was lost", Some("old"), Some(OURS), Some(OURS)),
            ("after it, with what somebody wrote in hand", Some("new"), Some(OURS), Some("new")),
            ("the same, half written", Some("ne"), Some(OURS), Some("ne")),
            ("and written again since", Some("new"), Some("newer"), Some("newer")),
            ("and removed since", Some("new"), None, None),
            ("nothing was taken", None, Some(OURS), Some(OURS)),
        ];
        for (name, taken, present, expected) in rows {
            let place = Place::new();
            fs::write(beside(&place.path), "old and").unwrap();
            if let Some(text) = taken {
                fs::write(place.taken(), text).unwrap();
                let past = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
                fs::File::options().write(true).open(place.taken()).unwrap().set_modified(past).unwrap();
            }
            if let Some(text) = present {
                place.write(text);
            }
            assert_eq!(place.recovered().as_deref(), expected, "{name}");
        }
        // Given back, when a third one has written: the one in hand is newer than the one in place.
        let place = Place::new();
        place.write("new");
        let past = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        fs::File::options().write(true).open(&place.path).unwrap().set_modified(past).unwrap();
        fs::write(place.taken(), "newer").unwrap();
        assert_eq!(place.recovered().as_deref(), Some("newer"));
    }

    #[test]
    fn only_what_is_believed_is_removed_and_nothing_is_lost_on_the_way() {
        let place = Place::new();
        place.write("new");
        assert!(!displace(&place.path, "old").unwrap());
        assert_eq!(place.recovered().as_deref(), Some("new"));
        assert!(displace(&place.path, "new").unwrap() && displace(&place.path, "new").unwrap());
        assert_eq!(place.recovered(), None);
        // Killed between taking it and looking at it.
        fs::write(taken_from(&place.path, None, print_of(b"old")), "new").unwrap();
        assert_eq!(place.recovered().as_deref(), Some("new"));
    }

    #[test]
    fn names_say_what_was_taken_and_others_are_not_ours() {
        let path = Path::new("/net.d/10-a.conflist");
        for prints in [(Some(1), Some(u64::MAX)), (None, Some(0))] {
            let taken = taken_from(path, prints.0, prints.1);
            let name = taken.file_name().unwrap().to_str().unwrap();
            assert_eq!(parse(name), Some(("10-a.conflist", prints.0, prints.1)));
        }
        for name in ["10-a.conflist", ".10-a.conflist.fairway", ".a.fairway-1", ".a.fairway-x-y", ".a.swp"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
