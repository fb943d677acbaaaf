//! What there is of our waypoints in the API server, and which classes are ours: watched, so that drift shows at once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fairway_core::source::labels::WAYPOINT_CLASS;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::render::{CONTROLLER_NAME, GATEWAY_CLASS, Part};
use crate::api_server::{self, Name};

/// Group of Gateway API.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// An object as the API server has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// The uid of the gateway that owns it.
    pub owner: Option<String>,
    /// All of it that is for us to say, as text to compare.
    pub content: String,
    /// Pods that are ready, and pods that there should be.
    pub pods: (u64, u64),
}

/// A class of ours.
#[derive(Clone, Debug, Default)]
pub struct Class {
    /// Its generation.
    pub generation: Option<i64>,
    /// What is said of it.
    pub conditions: Vec<Value>,
}

/// Everything that is watched.
#[derive(Debug, Default)]
pub struct View {
    /// The objects.
    pub objects: BTreeMap<(Part, Name), Present>,
    /// The classes of ours, by name.
    pub classes: BTreeMap<String, Class>,
    listed: BTreeSet<Watched>,
}

impl View {
    /// Whether all of it was read: before that, what is not there may only not be known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.listed.len() > Part::ALL.len()
    }
}

/// The view, and a call for each change.
#[derive(Debug, Default)]
pub struct Owned {
    view: Mutex<View>,
    /// Called after every change.
    pub changed: Notify,
}

/// What one watch is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Watched {
    Part(Part),
    Classes,
}

impl Owned {
    /// Starts to watch, until nobody else holds what it gives.
    #[must_use]
    pub fn watch(client: &kube::Client) -> Arc<Self> {
        let owned = Arc::new(Self::default());
        for watched in Part::ALL.into_iter().map(Watched::Part).chain([Watched::Classes]) {
            let weak = Arc::downgrade(&owned);
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &watched.resource());
            let config = match watched {
                Watched::Part(_) => watcher::Config::default().labels(&format!("{GATEWAY_CLASS}={WAYPOINT_CLASS}")),
                Watched::Classes => watcher::Config::default(),
            };
            let mut listing = BTreeMap::new();
            // Gateway API may not be installed, which is as good as no class.
            tokio::spawn(api_server::follow(api, config, watched.plural(), move |event| {
                let Some(owned) = weak.upgrade() else { return ControlFlow::Break(()) };
                owned.take(watched, event, &mut listing);
                ControlFlow::Continue(())
            }));
        }
        owned
    }

    /// What there is now.
    pub fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, watched: Watched, event: Event<DynamicObject>, listing: &mut BTreeMap<Name, DynamicObject>) {
        let mut view = self.view();
        match event {
            Event::Init => return listing.clear(),
            Event::InitApply(object) => {
                listing.insert(name_of(&object), object);
                return;
            }
            Event::InitDone => {
                view.forget(watched);
                for (name, object) in std::mem::take(listing) {
                    view.put(watched, name, &object);
                }
                view.listed.insert(watched);
            }
            Event::Apply(object) => view.put(watched, name_of(&object), &object),
            Event::Delete(object) => view.remove(watched, &name_of(&object)),
        }
        drop(view);
        self.changed.notify_one();
    }
}

impl Watched {
    fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Part(part) => part.names(),
            Self::Classes => (GATEWAY_GROUP, "v1", "GatewayClass", "gatewayclasses"),
        }
    }

    fn plural(self) -> &'static str {
        self.names().3
    }

    fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = self.names();
        api_server::resource(group, version, kind, plural)
    }
}

/// How the API calls a part.
#[must_use]
pub fn resource(part: Part) -> ApiResource {
    Watched::Part(part).resource()
}

/// How the API calls classes.
#[must_use]
pub fn class_resource() -> ApiResource {
    Watched::Classes.resource()
}

impl View {
    fn put(&mut self, watched: Watched, name: Name, object: &DynamicObject) {
        match watched {
            Watched::Part(part) => drop(self.objects.insert((part, name), present(object))),
            Watched::Classes if object.data.pointer("/spec/controllerName") == Some(&json!(CONTROLLER_NAME)) => {
                let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
                let conditions = conditions.cloned().unwrap_or_default();
                self.classes.insert(name.1, Class { generation: object.metadata.generation, conditions });
            }
            Watched::Classes => drop(self.classes.remove(&name.1)),
        }
    }

    fn remove(&mut self, watched: Watched, name: &Name) {
        match watched {
            Watched::Part(part) => drop(self.objects.remove(&(part, name.clone()))),
            Watched::Classes => drop(self.classes.remove(&name.1)),
        }
    }

    fn forget(&mut self, watched: Watched) {
        match watched {
            Watched::Part(part) => self.objects.retain(|(other, _), _| *other != part),
            Watched::Classes => self.classes.clear(),
        }
    }
}

fn name_of(object: &DynamicObject) -> Name {
    let metadata = &object.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// The gateway among the owners of an object.
pub(super) fn owner(owners: Option<&Vec<OwnerReference>>) -> Option<String> {
    let is_gateway = |owner: &&OwnerReference| owner.kind == "Gateway" && owner.api_version.starts_with(GATEWAY_GROUP);
    Some(owners?.iter().find(is_gateway)?.uid.clone())
}

/// What we need of an object.
#[must_use]
pub fn present(object: &DynamicObject) -> Present {
    let metadata = &object.metadata;
    let count = |field: &str| object.data.pointer(field).and_then(Value::as_u64).unwrap_or_default();
    let content = json!([metadata.labels, metadata.owner_references, object.data.get("spec")]);
    Present {
        owner: owner(metadata.owner_references.as_ref()),
        content: content.to_string(),
        pods: (count("/status/readyReplicas"), count("/spec/replicas")),
    }
}
