//! `fairway bug-report`: one archive with what a helper needs to see of a mesh, and no secrets.

mod gather;
mod redact;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use fairway_lab::{Error, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::mesh::Where;

/// Arguments of `bug-report`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to put the archive; without it, fairway-bug-report-TIME.tar.gz in this directory
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Leave logs out
    #[arg(long)]
    skip_logs: bool,
    /// Leave the objects of the mesh out
    #[arg(long)]
    skip_objects: bool,
    /// Show what would be in the archive, without writing it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Where,
}

/// A file of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    path: String,
    text: String,
}

impl Entry {
    /// A file whose secrets are taken out.
    fn new(path: impl Into<String>, text: &str) -> Self {
        Self { path: path.into(), text: redact::text(text) }
    }
}

/// Gathers, and writes the archive. What cannot be had is named in it, and no failure.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let now = OffsetDateTime::now_utc();
    let gathered = gather::all(&arguments.place, !arguments.skip_logs, !arguments.skip_objects);
    if arguments.dry_run {
        for entry in &gathered.entries {
            fairway_lab::say!("{:>9}  {}", entry.text.len(), entry.path);
        }
    } else {
        let path = arguments.file.clone().unwrap_or_else(|| PathBuf::from(named(now)));
        write(&path, now, &gathered.entries)?;
        fairway_lab::say!(
            "{} has {} files; look through it before you pass it on",
            path.display(),
            gathered.entries.len()
        );
    }
    for missing in &gathered.missing {
        fairway_lab::complain!("left out: {missing}");
    }
    Ok(ExitCode::SUCCESS)
}

fn named(now: OffsetDateTime) -> String {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    format!("fairway-bug-report-{}.tar.gz", now.format(&format).unwrap_or_default())
}

fn write(path: &Path, now: OffsetDateTime, entries: &[Entry]) -> Result<()> {
    let failed = |error: std::io::Error| Error::new(format!("writing {}", path.display())).because(error);
    // What is in it is for whoever made it, until he passes it on.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|error| failed(error).hint("name another file with --file"))?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    let root = "fairway-bug-report";
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(entry.text.len()).unwrap_or(u64::MAX));
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now.unix_timestamp()).unwrap_or_default());
        archive.append_data(&mut header, format!("{root}/{}", entry.path), entry.text.as_bytes()).map_err(failed)?;
    }
    archive.into_inner().and_then(GzEncoder::finish).and_then(|file| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn the_archive_has_every_file_without_its_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.tar.gz");
        let entries = [
            Entry::new("logs/a.log", "GET / Authorization: Bearer abcdefghijklmnop\nnext line\n"),
            Entry::new(format!("objects/{}.json", "deep/".repeat(30)), "{}"),
        ];
        write(&path, OffsetDateTime::UNIX_EPOCH, &entries).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "others do not read it");
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(&path).unwrap()));
        let mut found = Vec::new();
        for file in archive.entries().unwrap() {
            let mut file = file.unwrap();
            let name = file.path().unwrap().display().to_string();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            found.push((name, text));
        }
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].0, "fairway-bug-report/logs/a.log");
        assert!(!found[0].1.contains("abcdefgh") && found[0].1.contains("next line"), "{}", found[0].1);
        let again = write(&path, OffsetDateTime::UNIX_EPOCH, &entries).unwrap_err().to_string();
        assert!(again.contains("--file"), "nothing is overwritten: {again}");
    }

    #[test]
    fn the_name_says_when() {
        assert_eq!(named(OffsetDateTime::UNIX_EPOCH), "fairway-bug-report-19700101T000000Z.tar.gz");
    }
}
