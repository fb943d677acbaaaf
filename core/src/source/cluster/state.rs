//! What the reflectors of a cluster say, put together; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::super::loaded::{Loaded, Origin};
use super::super::objects::Objects;
use super::super::{Kind, ObjectKey, SourceError};
use super::wire::{Broken, Item};

/// Something that happened to the objects of a kind.
#[derive(Debug)]
pub(super) enum Change {
    /// These are all there are; none when the cluster does not have the kind.
    Listed(Kind, Vec<Item>),
    /// One is new or different.
    Applied(Item),
    /// One is gone.
    Deleted(ObjectKey),
    /// The kind cannot be read for this reason, or can again.
    Trouble(Kind, Option<String>),
}

/// Everything known.
#[derive(Debug)]
pub(super) struct State {
    objects: Objects,
    /// Kinds of which no list has come yet.
    unlisted: BTreeSet<Kind>,
    broken: BTreeMap<ObjectKey, SourceError>,
    rejected: BTreeMap<ObjectKey, Arc<Value>>,
    trouble: BTreeMap<Kind, String>,
}

impl State {
    pub(super) fn new(kinds: impl Iterator<Item = Kind>) -> Self {
        Self {
            objects: Objects::default(),
            unlisted: kinds.collect(),
            broken: BTreeMap::new(),
            rejected: BTreeMap::new(),
            trouble: BTreeMap::new(),
        }
    }

    /// The state as readers see it.
    pub(super) fn loaded(&self) -> Loaded {
        let trouble = self.trouble.iter().map(|(kind, why)| SourceError {
            file: String::new(),
            line: None,
            column: None,
            field: None,
            message: format!("{} cannot be read: {why}", kind.plural()),
            object: None,
        });
        Loaded {
            objects: self.objects.clone(),
            errors: trouble.chain(self.broken.values().cloned()).collect(),
            rejected: self.rejected.clone(),
            origin: Origin::Cluster { never_read: !self.unlisted.is_empty() },
        }
    }

    /// Takes a change in; says whether readers see a difference.
    pub(super) fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Listed(kind, items) => self.list(kind, items),
            Change::Applied(item) => self.put(item),
            Change::Deleted(key) => {
                let was_broken = self.broken.remove(&key).is_some();
                let was_rejected = self.rejected.remove(&key).is_some();
                self.objects.remove(&key).is_some() || was_broken || was_rejected
            }
            Change::Trouble(kind, why) => {
                let before = match &why {
                    Some(why) => self.trouble.insert(kind, why.clone()),
                    None => self.trouble.remove(&kind),
                };
                before != why
            }
        }
    }

    /// All objects of a kind at once: what is not among them is gone.
    fn list(&mut self, kind: Kind, items: Vec<Item>) -> bool {
        let mut differs = self.unlisted.remove(&kind);
        let mut gone: BTreeSet<ObjectKey> = self.objects.keys(kind).into_iter().collect();
        gone.extend(self.broken.keys().filter(|key| key.kind == kind).cloned());
        for item in &items {
            gone.remove(&item.key);
        }
        for key in gone {
            differs |= self.apply(Change::Deleted(key));
        }
        for item in items {
            differs |= self.put(item);
        }
        differs
    }

    fn put(&mut self, Item { key, object }: Item) -> bool {
        match object {
            Ok(object) => {
                let was_broken = self.broken.remove(&key).is_some();
                let was_rejected = self.rejected.remove(&key).is_some();
                let is_new = self.objects.get(&key).as_ref() != Some(&object);
                if is_new {
                    self.objects.insert(key, object);
                }
                is_new || was_broken || was_rejected
            }
            Err(Broken { field, message, written }) => {
                let error = SourceError {
                    file: String::new(),
                    line: None,
                    column: None,
                    field: (!field.is_empty()).then_some(field),
                    message,
                    object: Some(key.clone()),
                };
                // What it was when it was last good stays; of what never was good readers know that it is there.
                let is_known = self.objects.get(&key).is_some();
                let differs = !is_known && self.rejected.get(&key) != Some(&written);
                if !is_known {
                    self.rejected.insert(key.clone(), written);
                }
                self.broken.insert(key, error.clone()).as_ref() != Some(&error) || differs
            }
        }
    }
}
