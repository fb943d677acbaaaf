//! Which file an object is in, and where in it a field is written.

use std::collections::BTreeMap;

use super::super::{Kind, Location, ObjectKey};
use super::Read;
use crate::yaml::FieldPath;

impl Read {
    /// Where `field` of an object is written, when a file defines it.
    pub(in super::super) fn locate(&self, key: &ObjectKey, field: &str) -> Option<Location> {
        let (file, manifest) = self.manifests.iter().find_map(|(name, file)| Some((name, file.entries.get(key)?)))?;
        let path = FieldPath::parse(field);
        let place = manifest.document.as_ref().map_or(manifest.name_place, |document| document.locate(&path));
        Some(Location { file: file.clone(), line: place.line(), column: place.column() })
    }

    /// The files of all objects of one kind, those in error included.
    pub(in super::super) fn files(&self, kind: Kind) -> BTreeMap<&ObjectKey, &str> {
        let first = ObjectKey::new(kind, "", "");
        let mut files = BTreeMap::new();
        for (name, file) in &self.manifests {
            for (key, _) in file.entries.range::<ObjectKey, _>(&first..).take_while(|(key, _)| key.kind == kind) {
                files.entry(key.as_ref()).or_insert(name.as_str());
            }
        }
        for (name, file) in &self.manifests {
            for key in file.rejected.keys().filter(|key| key.kind == kind) {
                files.entry(key).or_insert(name.as_str());
            }
        }
        files
    }
}
