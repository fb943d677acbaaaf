//! Which file an object is in, and where in it a field is written.

use std::collections::BTreeMap;

use super::super::{Kind, Location, ObjectKey, SourceError};
use super::Loaded;
use crate::yaml::FieldPath;

impl Loaded {
    /// Where `field` of an object, such as `spec.rules[0].to`, is written, or what is nearest to it.
    ///
    /// Lines are known of policies only, and only while the file still holds the object as it is in force.
    #[must_use]
    pub fn locate(&self, key: &ObjectKey, field: &str) -> Option<Location> {
        let defined = self.manifests.iter().find_map(|(name, file)| Some((name, file.entries.get(key)?)));
        let Some((file, manifest)) = defined else {
            return self.errors.iter().find(|error| error.object.as_ref() == Some(key)).map(location);
        };
        let path = FieldPath::parse(field);
        let place = manifest.document.as_ref().map_or(manifest.name_place, |document| document.locate(&path));
        Some(Location { file: file.clone(), line: place.line(), column: place.column() })
    }

    /// The files of all objects of one kind, those in error included.
    #[must_use]
    pub fn files(&self, kind: Kind) -> BTreeMap<&ObjectKey, &str> {
        let first = ObjectKey::new(kind, "", "");
        let mut files = BTreeMap::new();
        for (name, file) in &self.manifests {
            for (key, _) in file.entries.range(&first..).take_while(|(key, _)| key.kind == kind) {
                files.entry(key).or_insert(name.as_str());
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

fn location(error: &SourceError) -> Location {
    Location { file: error.file.clone(), line: error.line, column: error.column }
}
