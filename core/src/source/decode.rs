//! One document to one typed object: identity, names, types.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serde_path_to_error::Segment;

use super::name::{check_label, check_name};
use super::objects::Typed;
use super::{DEFAULT_NAMESPACE, Kind, ObjectKey, Strip};
use crate::yaml::{Fault, FieldPath, Node, Step};

/// Who a document says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// An object of a kind we read.
    Known(ObjectKey),
    /// An object of some other kind.
    Unknown { api_version: String, kind: String, name: String },
}

/// A document, or one item of a list in a document.
pub(super) struct Item<'a> {
    pub(super) node: &'a Node,
    /// Steps from the document to the item; empty unless it was in a list.
    pub(super) prefix: FieldPath,
    /// What a typed list says of its items, which then need not repeat it.
    inherited: Option<(String, String)>,
}

/// The objects in a document: itself, or the items of a list kind.
pub(super) fn items(document: &Node) -> Vec<Item<'_>> {
    let kind = document.text("kind").unwrap_or_default();
    let (Some(item_kind), Some(items)) = (kind.strip_suffix("List"), document.get("items")) else {
        return vec![Item { node: document, prefix: FieldPath::default(), inherited: None }];
    };
    let api_version = document.text("apiVersion").unwrap_or_default();
    let inherited = (!item_kind.is_empty()).then(|| (api_version.to_owned(), item_kind.to_owned()));
    let wrap = |(index, node)| Item {
        node,
        prefix: FieldPath(vec![Step::Key("items".to_owned()), Step::Index(index)]),
        inherited: inherited.clone(),
    };
    items.items().iter().enumerate().map(wrap).collect()
}

impl Item<'_> {
    /// A fault at `path` of this item.
    fn fault(&self, path: &FieldPath, message: impl Into<String>) -> Fault {
        let mut full = self.prefix.clone();
        full.0.extend(path.0.iter().cloned());
        let field = (!full.is_empty()).then(|| full.to_string());
        Fault { place: self.node.locate(path), field, message: message.into() }
    }

    fn required(&self, keys: &[&str]) -> Result<&str, Fault> {
        let path = FieldPath::of(keys);
        let mut node = Some(self.node);
        for key in keys.iter().take(keys.len().saturating_sub(1)) {
            node = node.and_then(|node| node.get(key));
        }
        let last = keys.last().copied().unwrap_or_default();
        match node.and_then(|node| node.text(last)) {
            Some(text) if !text.is_empty() => Ok(text),
            Some(_) => Err(self.fault(&path, "is empty")),
            None if node.is_some_and(|node| node.get(last).is_some()) => {
                Err(self.fault(&path, "must be text; quote it if it looks like a number"))
            }
            None => Err(self.fault(&path, "is missing")),
        }
    }

    fn type_meta(&self) -> Result<(&str, &str), Fault> {
        match &self.inherited {
            Some((api_version, kind)) => {
                Ok((self.node.text("apiVersion").unwrap_or(api_version), self.node.text("kind").unwrap_or(kind)))
            }
            None => Ok((self.required(&["apiVersion"])?, self.required(&["kind"])?)),
        }
    }

    /// Who this item says it is.
    pub(super) fn identity(&self) -> Result<Identity, Fault> {
        if !self.node.is_mapping() {
            return Err(self.fault(
                &FieldPath::default(),
                "must be a Kubernetes object: a mapping with apiVersion, kind and metadata",
            ));
        }
        let (api_version, kind_name) = self.type_meta()?;
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let Some(kind) = Kind::find(group, kind_name) else {
            let name = self.node.get("metadata").and_then(|metadata| metadata.text("name")).unwrap_or_default();
            return Ok(Identity::Unknown {
                api_version: api_version.to_owned(),
                kind: kind_name.to_owned(),
                name: name.to_owned(),
            });
        };
        if !kind.versions().contains(&version) {
            let known = kind.versions().join(", ");
            let message = format!("version \"{version}\" of {kind} is not supported; use one of: {known}");
            return Err(self.fault(&FieldPath::of(&["apiVersion"]), message));
        }
        self.key(kind).map(Identity::Known)
    }

    fn key(&self, kind: Kind) -> Result<ObjectKey, Fault> {
        let name = self.required(&["metadata", "name"])?;
        check_name(kind, name).map_err(|message| self.fault(&FieldPath::of(&["metadata", "name"]), message))?;
        let given = self.node.get("metadata").is_some_and(|metadata| metadata.get("namespace").is_some());
        let namespace =
            if kind.is_namespaced() && given { self.required(&["metadata", "namespace"])? } else { DEFAULT_NAMESPACE };
        check_label(namespace).map_err(|message| self.fault(&FieldPath::of(&["metadata", "namespace"]), message))?;
        Ok(ObjectKey::new(kind, namespace, name))
    }

    /// The item as JSON, complete with what its list or the defaults say of it.
    pub(super) fn json(&self, key: &ObjectKey, keep_null: bool) -> Value {
        let mut value = self.node.to_json(keep_null);
        if let Some((api_version, kind)) = &self.inherited {
            for (field, text) in [("apiVersion", api_version), ("kind", kind)] {
                if value.get(field).is_none() {
                    set(&mut value, field, json!(text));
                }
            }
        }
        if let Some(metadata) = value.get_mut("metadata") {
            if key.kind.is_namespaced() {
                set(metadata, "namespace", json!(key.namespace));
            } else if let Some(metadata) = metadata.as_object_mut() {
                metadata.remove("namespace");
            }
        }
        value
    }

    /// The typed object that `value`, which is this item or was made from it, stands for.
    pub(super) fn typed(&self, kind: Kind, value: &Value, strip: Strip) -> Result<Typed, Fault> {
        let typed = match (kind, strip) {
            (Kind::Pod, Strip::Nothing) => read(value).map(Typed::WholePod),
            _ => typed(kind, value),
        };
        typed.map_err(|(path, message)| self.fault(&path, message))
    }
}

fn set(value: &mut Value, field: &str, content: Value) {
    if let Some(object) = value.as_object_mut() {
        object.insert(field.to_owned(), content);
    }
}

/// The typed object of a kind that `value` stands for.
pub(super) fn typed(kind: Kind, value: &Value) -> Result<Typed, (FieldPath, String)> {
    Ok(match kind {
        Kind::Namespace => Typed::Namespace(read(value)?),
        Kind::Node => Typed::Node(read(value)?),
        Kind::Pod => Typed::Pod(read(value)?),
        Kind::Service => Typed::Service(read(value)?),
        Kind::ServiceAccount => Typed::ServiceAccount(read(value)?),
        Kind::EndpointSlice => Typed::EndpointSlice(read(value)?),
        Kind::Gateway => Typed::Gateway(read(value)?),
        Kind::HTTPRoute => Typed::HTTPRoute(read(value)?),
        Kind::GRPCRoute => Typed::GRPCRoute(read(value)?),
        Kind::AuthorizationPolicy => Typed::AuthorizationPolicy(read(value)?),
        Kind::PeerAuthentication => Typed::PeerAuthentication(read(value)?),
        Kind::ServiceEntry => Typed::ServiceEntry(read(value)?),
        Kind::WorkloadEntry => Typed::WorkloadEntry(read(value)?),
        Kind::VirtualService => Typed::VirtualService(read(value)?),
        Kind::TCPRoute => Typed::TCPRoute(read(value)?),
        Kind::TLSRoute => Typed::TLSRoute(read(value)?),
        Kind::BackendTLSPolicy => Typed::BackendTLSPolicy(read(value)?),
        Kind::RequestAuthentication => Typed::RequestAuthentication(read(value)?),
        Kind::DestinationRule => Typed::DestinationRule(read(value)?),
        Kind::Telemetry => Typed::Telemetry(read(value)?),
        Kind::ReferenceGrant => Typed::ReferenceGrant(read(value)?),
        Kind::NetworkPolicy => Typed::NetworkPolicy(read(value)?),
        Kind::RateLimit => Typed::RateLimit(read(value)?),
        Kind::ExternalProcessor => Typed::ExternalProcessor(read(value)?),
    })
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<Arc<T>, (FieldPath, String)> {
    serde_path_to_error::deserialize(value).map(Arc::new).map_err(|error| fault_of(&error))
}

/// Which field is to blame, and what is wrong with it.
pub(super) fn fault_of(error: &serde_path_to_error::Error<serde_json::Error>) -> (FieldPath, String) {
    let steps = error.path().iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    (FieldPath(steps.collect()), error.inner().to_string())
}

/// Applies a JSON merge patch (RFC 7396 §2).
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(target) = target.as_object_mut() else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
