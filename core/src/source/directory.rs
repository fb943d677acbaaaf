//! A directory of manifests to typed objects: what is new applies, what is broken keeps what it gave before.
//!
//! `ROOT/**/*.{yaml,yml,json}` hold ordinary manifests; `ROOT/.status/<owner>/*.yaml` hold partial objects that are
//! merged over the object of the same key (RFC 7396). Any other file or directory whose name starts with a dot is
//! skipped.
//!
//! While a file has a fault, nothing it gave before is lost: documents that are valid apply, an object in error keeps
//! its last good version, and so does one that went missing, because the fault may be what hides it. What must survive
//! a restart in this way is given back to [`watch_from`] as [`Loaded::remembered`].

mod file;
mod locate;
mod scan;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::decode::{self, Item};
use super::loaded::Origin;
use super::objects::Objects;
use super::{Freshness, ObjectKey, Readings, Source, SourceError, Strip};
use file::{Manifest, Overlay, Parsed};
use scan::Area;

pub use super::loaded::{Loaded, Remembered};
pub use super::watch::{watch, watch_for_node, watch_from, watch_whole};
pub use scan::MAX_MANIFEST_BYTES;
pub(crate) use scan::STATUS_DIRECTORY;

/// What the next reading of a directory needs to know of this one.
#[derive(Clone, Debug, Default)]
pub(super) struct Read {
    manifests: Files<Manifest>,
    overlays: Files<Overlay>,
    scan_errors: Vec<SourceError>,
    /// Directories and files that could not be looked at, now nor before.
    unseen: Vec<String>,
    /// The root could not be read, now nor before.
    pub(super) never_read: bool,
    /// The root could not be read this time.
    is_missing: bool,
    /// What is left out of objects.
    strip: Strip,
}

/// For whom a directory is read.
#[derive(Clone, Debug, Default)]
pub(super) struct Reader {
    /// Whose status is left out, as its owner knows it.
    pub(super) without: Option<String>,
    /// What is left out of objects.
    pub(super) strip: Strip,
}

type Files<T> = BTreeMap<String, Arc<Parsed<T>>>;

impl Read {
    pub(super) fn has_unseen(&self) -> bool {
        self.never_read
            || !self.unseen.is_empty()
            || self.manifests.values().any(|file| file.unseen)
            || self.overlays.values().any(|file| file.unseen)
    }

    /// Whether this is exactly what `other` is.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        same_files(&self.manifests, &other.manifests)
            && same_files(&self.overlays, &other.overlays)
            && self.scan_errors == other.scan_errors
            && self.unseen == other.unseen
    }

    /// Why the root could not be read this time, if so.
    pub(super) fn failure(&self) -> Option<&SourceError> {
        self.is_missing.then(|| self.scan_errors.first()).flatten()
    }
}

/// Manifests in a directory, as a source.
#[derive(Clone, Debug)]
pub struct Directory {
    /// The directory.
    pub root: PathBuf,
}

impl Source for Directory {
    fn start(self: Box<Self>, remembered: &Loaded) -> Readings {
        let freshness = Freshness::default();
        Readings {
            loaded: super::watch::start(&self.root, Reader::default(), Some(remembered), freshness.clone()),
            freshness,
        }
    }
}

/// See [`Loaded::remembered`].
pub(super) fn remembered(objects: &[Remembered]) -> Loaded {
    let mut by_file: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for Remembered { file, object } in objects {
        by_file.entry(file).or_default().push(object);
    }
    let manifests =
        by_file.into_iter().map(|(name, objects)| (name.to_owned(), file::remembered(name, &objects))).collect();
    let read = Read { manifests, never_read: true, ..Read::default() };
    merge(read)
}

fn same_files<T>(left: &Files<T>, right: &Files<T>) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .all(|((left_name, left), (right_name, right))| left_name == right_name && Arc::ptr_eq(left, right))
}

/// Reads everything under `root`.
///
/// `previous` is the last reading: what did not change is taken from it, and so is what broke since. Never fails:
/// what is wrong is in [`Loaded::errors`].
#[must_use]
pub fn load(root: &Path, previous: Option<&Loaded>) -> Loaded {
    load_as(root, &Reader::default(), previous)
}

/// As [`load`], for who runs pods: they are [`Objects::whole_pods`].
#[must_use]
pub fn load_whole(root: &Path, previous: Option<&Loaded>) -> Loaded {
    load_as(root, &Reader { without: None, strip: Strip::Nothing }, previous)
}

/// As [`load`], for `reader`; `previous` was read for it, too.
pub(super) fn load_as(root: &Path, reader: &Reader, previous: Option<&Loaded>) -> Loaded {
    let strip = reader.strip;
    let before = previous.and_then(|previous| match &previous.origin {
        Origin::Directory(read) => Some(read),
        #[cfg(feature = "cluster")]
        Origin::Cluster { .. } => None,
    });
    let scan = scan::scan(root, reader.without.as_deref());
    if scan.root_is_missing {
        // A vanished mount is likelier than the wish to delete everything at once.
        let mut read = before.cloned().unwrap_or(Read { never_read: true, strip, ..Read::default() });
        (read.scan_errors, read.is_missing) = (scan.errors, true);
        return merge(read);
    }
    let mut manifests = Files::new();
    let mut overlays = Files::new();
    for found in scan.files {
        match found.area {
            Area::Manifest => {
                let before = before.and_then(|before| before.manifests.get(&found.name));
                manifests.insert(found.name.clone(), file::read(&found, before, strip));
            }
            Area::Status => {
                let before = before.and_then(|before| before.overlays.get(&found.name));
                overlays.insert(found.name.clone(), file::read(&found, before, strip));
            }
        }
    }
    if let Some(before) = before {
        keep_unreadable(&mut manifests, &before.manifests, &scan.unreadable);
        keep_unreadable(&mut overlays, &before.overlays, &scan.unreadable);
    }
    let known = before.filter(|before| !before.never_read);
    let is_unseen = |name: &String| known.is_none_or(|before| before.unseen.contains(name));
    let unseen = scan.unreadable.into_iter().filter(is_unseen).collect();
    merge(Read { manifests, overlays, scan_errors: scan.errors, unseen, never_read: false, is_missing: false, strip })
}

/// What could not be looked at stays as it was, and so do files below a directory that could not be listed.
fn keep_unreadable<T>(files: &mut Files<T>, previous: &Files<T>, unreadable: &[String]) {
    let is_below = |name: &str, path: &str| {
        path.is_empty() || name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    for (name, file) in previous {
        if unreadable.iter().any(|path| is_below(name, path)) {
            files.entry(name.clone()).or_insert_with(|| file.clone());
        }
    }
}

/// One world out of all files: the first file in lexical order that defines an object wins.
fn merge(read: Read) -> Loaded {
    let mut errors = read.scan_errors.clone();
    let mut patches: BTreeMap<&ObjectKey, Vec<(&str, &Overlay)>> = BTreeMap::new();
    for (name, file) in &read.overlays {
        errors.extend(file.errors.iter().cloned());
        for (key, overlay) in &file.entries {
            patches.entry(key.as_ref()).or_default().push((name, overlay.as_ref()));
        }
    }
    let mut objects = Objects::default();
    let mut owners: BTreeMap<&ObjectKey, &str> = BTreeMap::new();
    let mut rejected = BTreeMap::new();
    for (name, file) in &read.manifests {
        errors.extend(file.errors.iter().cloned());
        objects.unknown.extend(file.unknown.iter().cloned());
        for (key, manifest) in &file.entries {
            let key = key.as_ref();
            if let Some(first) = owners.get(key) {
                errors.push(duplicate(name, first, key, manifest));
                continue;
            }
            owners.insert(key, name);
            let patches = patches.get(key).map(Vec::as_slice).unwrap_or_default();
            objects.insert(key.clone(), overlaid(key, manifest, patches, read.strip, &mut errors));
        }
    }
    for (key, value) in read.manifests.values().flat_map(|file| &file.rejected) {
        if !owners.contains_key(key) {
            rejected.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    Loaded { objects, errors, rejected, origin: Origin::Directory(read) }
}

fn duplicate(name: &str, first: &str, key: &ObjectKey, manifest: &Manifest) -> SourceError {
    let place = manifest.name_place;
    SourceError {
        file: name.to_owned(),
        line: place.line(),
        column: place.column(),
        field: Some("metadata.name".to_owned()),
        message: format!("{key} in {name} is ignored: {first} defines it already; keep it in one of the two files"),
        object: Some(key.clone()),
    }
}

/// `manifest` with what every owner of status says of it; an owner whose word does not fit is left out.
fn overlaid(
    key: &ObjectKey,
    manifest: &Manifest,
    patches: &[(&str, &Overlay)],
    strip: Strip,
    errors: &mut Vec<SourceError>,
) -> super::objects::Typed {
    let mut typed = manifest.typed.clone();
    let mut value: Option<Value> = None;
    for (name, overlay) in patches {
        let mut candidate = value.clone().unwrap_or_else(|| manifest.value());
        decode::merge(&mut candidate, &overlay.patch);
        let decoded = overlay.document.with_item(|item: &Item<'_>| item.typed(key.kind, &candidate, strip));
        match decoded {
            Some(Ok(object)) => {
                typed = object;
                value = Some(candidate);
            }
            Some(Err(fault)) => errors.push(file::source_error(name, fault, Some(key.clone()))),
            None => {}
        }
    }
    typed
}

#[cfg(test)]
mod tests;
