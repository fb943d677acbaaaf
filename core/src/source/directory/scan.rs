//! Lists the files of a source, in lexical order and within bounds.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::super::SourceError;

/// Largest manifest that is read, in bytes; the Kubernetes API itself takes objects up to about 1.5 MiB.
pub const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;
/// Deepest directory below the root, in levels; also ends loops of symbolic links.
const MAX_DEPTH: usize = 16;
/// Most files in one source; more means the wrong directory was named.
const MAX_FILES: usize = 65_536;
/// How often a source is listed anew because something that was listed is gone. Beyond that, it is looked at again with
/// the next change or rescan.
const MAX_LISTINGS: usize = 3;
/// Where agents write status, below the root.
pub(crate) const STATUS_DIRECTORY: &str = ".status";

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Area {
    Manifest,
    Status,
}

/// A file to read.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Path relative to the root, as people see it.
    pub(super) name: String,
    pub(super) area: Area,
}

#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) files: Vec<Found>,
    pub(super) errors: Vec<SourceError>,
    /// Directories and files that exist but could not be looked at, or not completely.
    pub(super) unreadable: Vec<String>,
    pub(super) root_is_missing: bool,
    /// Something that was listed was gone when it was looked at.
    is_torn: bool,
}

/// Lists the manifests and overlays below `root`, without those that the owner `without` wrote.
///
/// What is gone by the time it is looked at may have been deleted, or the whole root may have been moved away or
/// unmounted meanwhile. Only another listing can tell.
pub(super) fn scan(root: &Path, without: Option<&str>) -> Scan {
    let mut scan = Scan::of(root, without);
    for _ in 1..MAX_LISTINGS {
        if !scan.is_torn {
            break;
        }
        scan = Scan::of(root, without);
    }
    if scan.is_torn {
        let message = "files vanish while the directory is listed; what it held is kept until it can be read whole";
        scan.errors.push(whole_file(&root.to_string_lossy(), message.to_owned()));
        scan.unreadable.push(String::new());
    }
    scan
}

impl Scan {
    fn of(root: &Path, without: Option<&str>) -> Self {
        let mut scan = Self::default();
        match fs::read_dir(root) {
            Ok(_) => scan.walk(root, "", Area::Manifest, 0, without),
            Err(error) => {
                scan.root_is_missing = true;
                scan.errors.push(whole_file(
                    &root.to_string_lossy(),
                    format!("the directory of manifests cannot be read ({error}); create it or name another one"),
                ));
            }
        }
        scan.files.sort_by(|left, right| left.name.cmp(&right.name));
        scan
    }

    fn walk(&mut self, directory: &Path, name: &str, area: Area, depth: usize, without: Option<&str>) {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.is_torn = true;
                return;
            }
            Err(error) => {
                self.errors.push(whole_file(name, format!("the directory cannot be listed: {error}")));
                self.unreadable.push(name.to_owned());
                return;
            }
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.errors.push(whole_file(name, format!("the directory cannot be listed: {error}")));
                    self.unreadable.push(name.to_owned());
                    return;
                }
            };
            let file_name = entry.file_name();
            let file_name = file_name.to_string_lossy();
            let (is_top, path) = (depth == 0, entry.path());
            let is_status = is_top && area == Area::Manifest && file_name == STATUS_DIRECTORY;
            let is_left_out = is_top && area == Area::Status && without == Some(file_name.as_ref());
            if is_left_out || (file_name.starts_with('.') && !is_status) {
                continue;
            }
            let relative = if name.is_empty() { file_name.to_string() } else { format!("{name}/{file_name}") };
            // Follows links: a mounted ConfigMap consists of them.
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // A link that leads nowhere is still there.
                    let is_link = entry.file_type().is_ok_and(|listed| listed.is_symlink());
                    self.is_torn |= !is_link || fs::symlink_metadata(&path).is_err();
                    continue;
                }
                Err(error) => {
                    self.errors.push(whole_file(&relative, format!("cannot be read: {error}")));
                    self.unreadable.push(relative);
                    continue;
                }
            };
            if is_status {
                if metadata.is_dir() {
                    self.walk(&path, &relative, Area::Status, 0, without);
                }
                continue;
            }
            if metadata.is_dir() {
                if depth < MAX_DEPTH {
                    self.walk(&path, &relative, area, depth + 1, without);
                } else {
                    self.errors.push(whole_file(
                        &relative,
                        format!("is more than {MAX_DEPTH} directories deep and is skipped"),
                    ));
                }
            } else if metadata.is_file() && is_manifest(&file_name) {
                if self.files.len() == MAX_FILES {
                    self.errors
                        .push(whole_file(&relative, format!("is skipped: there are more than {MAX_FILES} files")));
                    self.unreadable.push(name.to_owned());
                    return;
                }
                self.files.push(Found { path, name: relative, area });
            }
        }
    }
}

fn is_manifest(name: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending))
}

fn whole_file(name: &str, message: String) -> SourceError {
    SourceError { file: name.to_owned(), line: None, column: None, field: None, message, object: None }
}

/// The text of a file, or what an operator should know about why there is none.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_MANIFEST_BYTES {
        return Err(format!("is larger than {MAX_MANIFEST_BYTES} bytes; split it"));
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("is not UTF-8 text from byte {} on", error.utf8_error().valid_up_to()))
}
