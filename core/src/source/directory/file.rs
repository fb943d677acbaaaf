//! One file to its entries, keeping what it gave before where it broke.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;

use super::super::decode::{self, Identity, Item};
use super::super::objects::{Typed, UnknownKind};
use super::super::{Kind, ObjectKey, SourceError, Strip, mesh_pod};
use super::scan::{self, Found};
use crate::yaml::{self, Fault, FieldPath, Node, Place};

/// What one file gave.
#[derive(Debug)]
pub(super) struct Parsed<T> {
    /// Of the text; none for what is remembered, which is no file's text.
    fingerprint: Option<u64>,
    /// In boxes: most files have one, and the map makes room for many.
    pub(super) entries: BTreeMap<Box<ObjectKey>, Box<T>>,
    pub(super) unknown: Vec<UnknownKind>,
    pub(super) errors: Vec<SourceError>,
    /// Objects in error that this file never gave a good version of.
    pub(super) rejected: BTreeMap<ObjectKey, Arc<Value>>,
    /// Part of the file cannot be read and never could since the process started: what it holds is not known.
    pub(super) unseen: bool,
    /// Part of the file cannot be read now.
    hides: bool,
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

    /// Where `path` of the item is written.
    pub(super) fn locate(&self, path: &FieldPath) -> Place {
        self.with_item(|item| item.node.locate(path)).unwrap_or_default()
    }

    fn name_place(&self) -> Place {
        self.locate(&FieldPath::of(&["metadata", "name"]))
    }
}

/// A complete object.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    /// Where its name is written; not known once the file does not hold it any more.
    pub(super) name_place: Place,
    /// The places of its fields, for kinds whose readers find faults in fields: the trees of all pods would be large.
    pub(super) document: Option<Origin>,
    /// All that is kept of it, as JSON: a tree of values would take many times the memory, and is needed only where
    /// somebody says more of the object.
    text: Arc<str>,
    pub(super) typed: Typed,
}

impl Manifest {
    /// The object as it was written, as far as it is kept.
    pub(super) fn value(&self) -> Value {
        // It is ours, so it can be read.
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

/// Some fields of an object that is defined elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Overlay {
    pub(super) document: Origin,
    pub(super) patch: Value,
}

/// What a file is made of.
pub(super) trait Content: Clone {
    fn build(item: &Item<'_>, key: &ObjectKey, origin: Origin, strip: Strip) -> Result<Self, Fault>;

    /// This, kept although the file does not hold it as it was.
    fn kept(&self) -> Self;
}

impl Content for Manifest {
    fn build(item: &Item<'_>, key: &ObjectKey, document: Origin, strip: Strip) -> Result<Self, Fault> {
        let value = item.json(key, false);
        let typed = item.typed(key.kind, &value, strip)?;
        let name_place = document.name_place();
        let text = match (key.kind, strip) {
            (Kind::Pod, Strip::Unneeded) => mesh_pod::pruned(value).to_string(),
            _ => value.to_string(),
        };
        Ok(Self { name_place, document: key.kind.is_policy().then_some(document), text: text.into(), typed })
    }

    fn kept(&self) -> Self {
        Self { name_place: Place::default(), document: None, text: self.text.clone(), typed: self.typed.clone() }
    }
}

impl Content for Overlay {
    fn build(item: &Item<'_>, key: &ObjectKey, document: Origin, _: Strip) -> Result<Self, Fault> {
        Ok(Self { document, patch: item.json(key, true) })
    }

    fn kept(&self) -> Self {
        self.clone()
    }
}

/// Reads a file, or takes it from `previous` when it did not change.
pub(super) fn read<T: Content>(found: &Found, previous: Option<&Arc<Parsed<T>>>, strip: Strip) -> Arc<Parsed<T>> {
    let text = scan::read_text(&found.path);
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let fingerprint = Some(hasher.finish());
    if let Some(previous) = previous.filter(|previous| previous.fingerprint == fingerprint) {
        return previous.clone();
    }
    let mut parsed = Parsed::empty(fingerprint);
    let documents = text
        .map_err(|message| Fault { place: Place::default(), field: None, message })
        .and_then(|text| yaml::documents(&text));
    match documents {
        Ok(documents) => documents.into_iter().for_each(|document| parsed.add_document(&found.name, document, strip)),
        Err(fault) => parsed.hide(source_error(&found.name, fault, None)),
    }
    parsed.unseen = parsed.hides && previous.is_none_or(|previous| previous.unseen);
    if let Some(previous) = previous {
        parsed.keep(previous);
    }
    Arc::new(parsed)
}

/// Objects as they were before a restart, standing for what the file `name` gave then.
pub(super) fn remembered(name: &str, objects: &[&Value]) -> Arc<Parsed<Manifest>> {
    let mut parsed = Parsed::empty(None);
    for object in objects {
        // JSON is YAML, and so the same checks apply as to a manifest.
        let documents = yaml::documents(&object.to_string()).unwrap_or_default();
        documents.into_iter().for_each(|document| parsed.add_document(name, document, Strip::Unneeded));
    }
    parsed.entries.values_mut().for_each(|entry: &mut Box<Manifest>| **entry = entry.kept());
    parsed.errors.clear();
    parsed.unseen = true;
    Arc::new(parsed)
}

impl<T: Content> Parsed<T> {
    fn empty(fingerprint: Option<u64>) -> Self {
        Self {
            fingerprint,
            entries: BTreeMap::new(),
            unknown: Vec::new(),
            errors: Vec::new(),
            rejected: BTreeMap::new(),
            unseen: false,
            hides: false,
        }
    }

    /// An error that may hide an object.
    fn hide(&mut self, error: SourceError) {
        self.hides = true;
        self.errors.push(error);
    }

    fn add_document(&mut self, file: &str, document: Node, strip: Strip) {
        let document = Arc::new(document);
        for (index, item) in decode::items(&document).iter().enumerate() {
            let origin = Origin { document: document.clone(), index };
            self.add_item(file, item, origin, strip);
        }
    }

    fn add_item(&mut self, file: &str, item: &Item<'_>, origin: Origin, strip: Strip) {
        let key = match item.identity() {
            Ok(Identity::Known(key)) => key,
            Ok(Identity::Unknown { api_version, kind, name }) => {
                self.unknown.push(UnknownKind { file: file.to_owned(), api_version, kind, name });
                return;
            }
            Err(fault) => {
                self.hide(source_error(file, fault, None));
                return;
            }
        };
        if self.entries.contains_key(&key) {
            let place = origin.name_place();
            let message = format!("{key} is defined twice in {file}; the first one is used");
            let fault = Fault { place, field: Some("metadata.name".to_owned()), message };
            self.errors.push(source_error(file, fault, Some(key)));
            return;
        }
        match T::build(item, &key, origin, strip) {
            Ok(entry) => drop(self.entries.insert(Box::new(key), Box::new(entry))),
            Err(fault) => {
                self.rejected.insert(key.clone(), Arc::new(item.json(&key, false)));
                // A policy is known even so, and refuses.
                self.hides |= !key.kind.is_policy();
                self.errors.push(source_error(file, fault, Some(key)));
            }
        }
    }

    /// While this file has a fault, what it gave before and does not give now stays.
    fn keep(&mut self, previous: &Self) {
        if self.errors.is_empty() {
            return;
        }
        for (key, entry) in &previous.entries {
            self.entries.entry(key.clone()).or_insert_with(|| Box::new(entry.kept()));
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
