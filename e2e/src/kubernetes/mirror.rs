//! The API server's objects as the lab's manifests: one file each, as `fairway lab apply` would write them.
//!
//! Only the supervisor reads them; the mesh's own parts ask the API server. What the lab says of objects itself is left out:
//! it says it in files of its own, and what the API server repeats of it could be older.

use std::collections::BTreeSet;
use std::pin::pin;

use fairway_core::source::cluster::api_resource;
use fairway_core::source::{Kind, ObjectKey};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use kube::api::DynamicObject;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::UID;
use super::work::RETRY;
use crate::apply;
use crate::layout::Layout;

/// Metadata that says nothing to a reader of manifests and changes with every write.
const NOISE: [&str; 3] = ["managedFields", "resourceVersion", "generation"];

/// Mirrors every kind that is read, for ever.
pub(crate) async fn run(client: &Client, layout: &Layout) {
    join_all(Kind::ALL.into_iter().map(|kind| mirror(client, kind, layout))).await;
}

async fn mirror(client: &Client, kind: Kind, layout: &Layout) {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &api_resource(kind));
    let mut events = pin!(watcher(api, watcher::Config::default()));
    let mut present = BTreeSet::new();
    let mut listed = BTreeSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => listed.extend(store(layout, kind, &object)),
            Ok(Event::InitDone) => {
                present.difference(&listed).for_each(|key| remove(layout, key));
                present.clone_from(&listed);
            }
            Ok(Event::Apply(object)) => present.extend(store(layout, kind, &object)),
            Ok(Event::Delete(object)) => {
                let key = key(kind, &object);
                remove(layout, &key);
                present.remove(&key);
            }
            Err(error) => {
                // Also how it is while a custom resource is not installed.
                tracing::debug!(%error, %kind, "the API server does not give these objects");
                sleep(RETRY).await;
            }
        }
    }
}

fn key(kind: Kind, object: &DynamicObject) -> ObjectKey {
    let metadata = &object.metadata;
    ObjectKey::new(kind, metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn store(layout: &Layout, kind: Kind, object: &DynamicObject) -> Option<ObjectKey> {
    let key = key(kind, object);
    let manifest = serde_json::to_value(object).map(|value| manifest(kind, value));
    let written = manifest
        .map_err(|error| error.to_string())
        .and_then(|manifest| apply::store_object(layout, &key, &manifest).map_err(|error| error.to_string()));
    if let Err(error) = written {
        tracing::error!(%error, %key, "cannot mirror an object");
        return None;
    }
    Some(key)
}

fn remove(layout: &Layout, key: &ObjectKey) {
    if let Err(error) = apply::remove_object(layout, key) {
        tracing::error!(%error, %key, "cannot remove an object that is gone");
    }
}

/// What a reader of manifests is to see of an object.
fn manifest(kind: Kind, mut object: Value) -> Value {
    object["apiVersion"] = json!(kind.api_version());
    object["kind"] = json!(kind.as_str());
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        NOISE.iter().for_each(|field| drop(metadata.remove(*field)));
    }
    if kind == Kind::Pod {
        own_word_only(&mut object);
    }
    object
}

/// Leaves out of a pod what the lab says of it. Its uid is there once it has a network, as in labs without an API server.
fn own_word_only(pod: &mut Value) {
    if let Some(pod) = pod.as_object_mut() {
        pod.remove("status");
    }
    let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let uid = metadata.remove("uid");
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.extend(uid.map(|uid| (UID.to_owned(), uid)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_mirrored_without_what_the_lab_says_of_it() {
        let pod = json!({"metadata": {"name": "a", "namespace": "shop", "uid": "u", "resourceVersion": "7",
            "managedFields": [], "annotations": {"mine": "1"}},
            "spec": {"nodeName": "node-1"}, "status": {"podIP": "10.0.0.1"}});
        let expected = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "namespace": "shop", "annotations": {UID: "u", "mine": "1"}},
            "spec": {"nodeName": "node-1"}});
        assert_eq!(manifest(Kind::Pod, pod), expected);
    }

    #[test]
    fn other_objects_keep_uid_and_status() {
        let service = json!({"metadata": {"name": "s", "uid": "u"}, "status": {"loadBalancer": {}}});
        let mirrored = manifest(Kind::Service, service);
        assert_eq!(mirrored["metadata"]["uid"], "u");
        assert_eq!(mirrored["status"], json!({"loadBalancer": {}}));
    }
}
