//! One file to its entries, keeping what it gave before where it broke.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;

use super::super::decode::{self, Identity, Item};
use super::super::objects::{Typed, UnknownKind};
use super::super::parse::{self, Fault, Node, Place};
use super::super::{ObjectKey, SourceError};
use super::scan::{self, Found};

/// What one file gave.
#[derive(Debug)]
pub(super) struct Parsed<T> {
    fingerprint: u64,
    pub(super) entries: BTreeMap<ObjectKey, T>,
    pub(super) unknown: Vec<UnknownKind>,
    pub(super) errors: Vec<SourceError>,
    /// Objects in error that this file never gave a good version of.
    pub(super) rejected: BTreeMap<ObjectKey, Arc<Value>>,
}

/// A document and which of its items an entry came from.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    document: Arc<Node>,
    index: usize,
}

impl Origin {
    /// Runs `action` on the item this stands for.
    pub(super) fn with_item<R>(&self, action: impl FnOnce(&Item<'_>) -> R) -> Option<R> {
        decode::items(&self.document).get(self.index).map(action)
    }

    pub(super) fn node_place(&self) -> Place {
        self.with_item(|item| item.node.locate(&parse::FieldPath::of(&["metadata", "name"]))).unwrap_or_default()
    }
}

/// A complete object.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) document: Origin,
    pub(super) value: Arc<Value>,
    pub(super) typed: Typed,
}

/// Some fields of an object that is defined elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Overlay {
    pub(super) document: Origin,
    pub(super) patch: Value,
}

/// What a file is made of.
pub(super) trait Content: Clone {
    fn build(item: &Item<'_>, key: &ObjectKey, origin: Origin) -> Result<Self, Fault>;
}

impl Content for Manifest {
    fn build(item: &Item<'_>, key: &ObjectKey, document: Origin) -> Result<Self, Fault> {
        let value = Arc::new(item.json(key, false));
        let typed = item.typed(key.kind, &value)?;
        Ok(Self { document, value, typed })
    }
}

impl Content for Overlay {
    fn build(item: &Item<'_>, key: &ObjectKey, document: Origin) -> Result<Self, Fault> {
        Ok(Self { document, patch: item.json(key, true) })
    }
}

/// Reads a file, or takes it from `previous` when it did not change.
pub(super) fn read<T: Content>(found: &Found, previous: Option<&Arc<Parsed<T>>>) -> Arc<Parsed<T>> {
    let text = scan::read_text(&found.path);
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let fingerprint = hasher.finish();
    if let Some(previous) = previous.filter(|previous| previous.fingerprint == fingerprint) {
        return previous.clone();
    }
    let mut parsed = Parsed {
        fingerprint,
        entries: BTreeMap::new(),
        unknown: Vec::new(),
        errors: Vec::new(),
        rejected: BTreeMap::new(),
    };
    let documents = text
        .map_err(|message| Fault { place: Place::default(), field: None, message })
        .and_then(|text| parse::documents(&text));
    match documents {
        Ok(documents) => documents.into_iter().for_each(|document| parsed.add_document(found, document)),
        Err(fault) => parsed.errors.push(source_error(&found.name, fault, None)),
    }
    if let Some(previous) = previous {
        parsed.keep(previous);
    }
    Arc::new(parsed)
}

impl<T: Content> Parsed<T> {
    fn add_document(&mut self, found: &Found, document: Node) {
        let document = Arc::new(document);
        for (index, item) in decode::items(&document).iter().enumerate() {
            let origin = Origin { document: document.clone(), index };
            self.add_item(found, item, origin);
        }
    }

    fn add_item(&mut self, found: &Found, item: &Item<'_>, origin: Origin) {
        let key = match item.identity() {
            Ok(Identity::Known(key)) => key,
            Ok(Identity::Unknown { api_version, kind, name }) => {
                self.unknown.push(UnknownKind { file: found.name.clone(), api_version, kind, name });
                return;
            }
            Err(fault) => {
                self.errors.push(source_error(&found.name, fault, None));
                return;
            }
        };
        if self.entries.contains_key(&key) {
            let place = origin.node_place();
            let message = format!("{key} is defined twice in {}; the first one is used", found.name);
            let fault = Fault { place, field: Some("metadata.name".to_owned()), message };
            self.errors.push(source_error(&found.name, fault, Some(key)));
            return;
        }
        match T::build(item, &key, origin) {
            Ok(entry) => drop(self.entries.insert(key, entry)),
            Err(fault) => {
                self.rejected.insert(key.clone(), Arc::new(item.json(&key, false)));
                self.errors.push(source_error(&found.name, fault, Some(key)));
            }
        }
    }

    /// While this file has a fault, what it gave before and does not give now stays.
    fn keep(&mut self, previous: &Self) {
        if self.errors.is_empty() {
            return;
        }
        for (key, entry) in &previous.entries {
            self.entries.entry(key.clone()).or_insert_with(|| entry.clone());
        }
        for (key, value) in &previous.rejected {
            self.rejected.entry(key.clone()).or_insert_with(|| value.clone());
        }
        self.rejected.retain(|key, _| !self.entries.contains_key(key));
    }
}

/// A fault as the reader of the source sees it.
pub(super) fn source_error(file: &str, fault: Fault, object: Option<ObjectKey>) -> SourceError {
    SourceError {
        file: file.to_owned(),
        line: fault.place.line(),
        column: fault.place.column(),
        field: fault.field,
        message: fault.message,
        object,
    }
}
