//! A directory of manifests to typed objects: what is new applies, what is broken keeps what it gave before.
//!
//! `ROOT/**/*.{yaml,yml,json}` hold ordinary manifests; `ROOT/.status/<owner>/*.yaml` hold partial objects that are
//! merged over the object of the same key (RFC 7396). Any other file or directory whose name starts with a dot is
//! skipped.
//!
//! While a file has a fault, nothing it gave before is lost: documents that are valid apply, an object in error keeps
//! its last good version, and so does one that went missing, because the fault may be what hides it.

mod file;
mod scan;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::decode::{self, Item};
use super::objects::Objects;
use super::{ObjectKey, SourceError};
use file::{Manifest, Overlay, Parsed};
use scan::Area;

pub use super::watch::watch;
pub use scan::MAX_MANIFEST_BYTES;
pub(crate) use scan::STATUS_DIRECTORY;

/// What one reading of the directory gave.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The objects in force.
    pub objects: Objects,
    /// Everything that is wrong, by file and line.
    pub errors: Vec<SourceError>,
    /// Objects in error of which no good version is known, as they were written: a reader that enforces policy must
    /// treat these as present and refusing, not as absent.
    pub rejected: BTreeMap<ObjectKey, Arc<Value>>,
    manifests: Files<Manifest>,
    overlays: Files<Overlay>,
    scan_errors: Vec<SourceError>,
}

type Files<T> = BTreeMap<String, Arc<Parsed<T>>>;

impl Loaded {
    /// Whether this reading gave exactly what `other` gave.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        same_files(&self.manifests, &other.manifests)
            && same_files(&self.overlays, &other.overlays)
            && self.scan_errors == other.scan_errors
    }
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
    let scan = scan::scan(root);
    if scan.root_is_missing {
        // A vanished mount is likelier than the wish to delete everything at once.
        let mut loaded = previous.cloned().unwrap_or_default();
        loaded.errors.retain(|error| !loaded.scan_errors.contains(error));
        loaded.errors.extend(scan.errors.iter().cloned());
        loaded.scan_errors = scan.errors;
        return loaded;
    }
    let mut manifests = Files::new();
    let mut overlays = Files::new();
    for found in scan.files {
        match found.area {
            Area::Manifest => {
                let before = previous.and_then(|previous| previous.manifests.get(&found.name));
                manifests.insert(found.name.clone(), file::read(&found, before));
            }
            Area::Status => {
                let before = previous.and_then(|previous| previous.overlays.get(&found.name));
                overlays.insert(found.name.clone(), file::read(&found, before));
            }
        }
    }
    if let Some(previous) = previous {
        keep_unreadable(&mut manifests, &previous.manifests, &scan.unreadable);
        keep_unreadable(&mut overlays, &previous.overlays, &scan.unreadable);
    }
    merge(manifests, overlays, scan.errors)
}

/// Files below a directory that could not be listed stay as they were.
fn keep_unreadable<T>(files: &mut Files<T>, previous: &Files<T>, unreadable: &[String]) {
    for (name, file) in previous {
        let hidden =
            unreadable.iter().any(|directory| name.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/')));
        if hidden {
            files.entry(name.clone()).or_insert_with(|| file.clone());
        }
    }
}

/// One world out of all files: the first file in lexical order that defines an object wins.
fn merge(manifests: Files<Manifest>, overlays: Files<Overlay>, scan_errors: Vec<SourceError>) -> Loaded {
    let mut errors = scan_errors.clone();
    let mut patches: BTreeMap<&ObjectKey, Vec<(&str, &Overlay)>> = BTreeMap::new();
    for (name, file) in &overlays {
        errors.extend(file.errors.iter().cloned());
        for (key, overlay) in &file.entries {
            patches.entry(key).or_default().push((name, overlay));
        }
    }
    let mut objects = Objects::default();
    let mut owners: BTreeMap<&ObjectKey, &str> = BTreeMap::new();
    let mut rejected = BTreeMap::new();
    for (name, file) in &manifests {
        errors.extend(file.errors.iter().cloned());
        objects.unknown.extend(file.unknown.iter().cloned());
        for (key, manifest) in &file.entries {
            if let Some(first) = owners.get(key) {
                errors.push(duplicate(name, first, key, manifest));
                continue;
            }
            owners.insert(key, name);
            let patches = patches.get(key).map(Vec::as_slice).unwrap_or_default();
            objects.insert(key.clone(), overlaid(key, manifest, patches, &mut errors));
        }
    }
    for (key, value) in manifests.values().flat_map(|file| &file.rejected) {
        if !owners.contains_key(key) {
            rejected.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    Loaded { objects, errors, rejected, manifests, overlays, scan_errors }
}

fn duplicate(name: &str, first: &str, key: &ObjectKey, manifest: &Manifest) -> SourceError {
    let place = manifest.document.node_place();
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
    errors: &mut Vec<SourceError>,
) -> super::objects::Typed {
    let mut typed = manifest.typed.clone();
    let mut value: Option<Value> = None;
    for (name, overlay) in patches {
        let mut candidate = value.clone().unwrap_or_else(|| manifest.value.as_ref().clone());
        decode::merge(&mut candidate, &overlay.patch);
        let decoded = overlay.document.with_item(|item: &Item<'_>| item.typed(key.kind, &candidate));
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
