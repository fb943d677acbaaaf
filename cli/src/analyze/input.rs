//! Files to be looked at before they are applied: read as the controller reads manifests, alone or beside what a mesh has.

use std::collections::BTreeSet;

use fairway_controller::translate::waypoint::is_class;
use fairway_core::source::labels::{AMBIENT, DATAPLANE_MODE, NONE};
use fairway_core::source::{DEFAULT_NAMESPACE, Kind, Loaded, ObjectKey, directory};
use fairway_lab::apply::{self, Input};
use fairway_lab::{Error, Result};
use serde_json::{Value, json};

/// Kinds that make pods, with the path of the pods' template.
const MAKERS: [(&str, &str); 6] = [
    ("Deployment", "/spec/template"),
    ("StatefulSet", "/spec/template"),
    ("DaemonSet", "/spec/template"),
    ("ReplicaSet", "/spec/template"),
    ("Job", "/spec/template"),
    ("CronJob", "/spec/jobTemplate/spec/template"),
];
/// What says that a pod is captured, as pods of enrolled namespaces will be.
const CAPTURED: (&str, &str) = ("ambient.istio.io/redirection", "enabled");
/// An address that nobody has (RFC 5737).
const SOMEWHERE: &str = "192.0.2.1";

/// The files that are named.
pub(super) fn read(files: &[String]) -> Result<Vec<Input>> {
    files.iter().map(|file| apply::read(file)).collect::<Result<Vec<_>>>().map(|read| read.concat())
}

/// What files say by themselves.
pub(super) fn load(inputs: &[Input]) -> Result<Loaded> {
    let failed = |error: std::io::Error| Error::new("putting the files beside each other").because(error);
    let directory = tempfile::tempdir().map_err(failed)?;
    for (index, input) in inputs.iter().enumerate() {
        std::fs::write(directory.path().join(placed(index)), &input.text).map_err(failed)?;
    }
    let loaded = directory::load(directory.path(), None);
    let written = apply::objects(inputs);
    Ok(with_waypoints(with_pods(loaded, &written), &written, None))
}

/// What there would be if the files were applied.
pub(super) fn beside(mesh: Loaded, inputs: &[Input]) -> Loaded {
    let written = apply::objects(inputs);
    let loaded = written.iter().fold(mesh.clone(), |loaded, object| match key(object) {
        Some(key) => loaded.with(&key, object),
        None => loaded,
    });
    with_waypoints(with_pods(loaded, &written), &written, Some(&mesh))
}

/// The objects that files are about.
pub(super) fn keys(inputs: &[Input]) -> BTreeSet<ObjectKey> {
    apply::objects(inputs).iter().filter_map(key).collect()
}

/// The place of a message in the words of who has written the file.
pub(super) fn as_written(location: &str, inputs: &[Input]) -> String {
    let named = inputs
        .iter()
        .enumerate()
        .find_map(|(index, input)| Some(format!("{}{}", input.name, location.strip_prefix(&placed(index))?)));
    named.unwrap_or_else(|| location.to_owned())
}

fn placed(index: usize) -> String {
    format!("{index:06}.yaml")
}

fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer).and_then(Value::as_str)
}

fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace").unwrap_or(DEFAULT_NAMESPACE)
}

fn key(object: &Value) -> Option<ObjectKey> {
    let group = text(object, "/apiVersion")?.split_once('/').map_or("", |(group, _)| group);
    let kind = Kind::find(group, text(object, "/kind")?)?;
    Some(ObjectKey::new(kind, namespace(object), text(object, "/metadata/name").unwrap_or_default()))
}

/// The pods that will be there: files hold who makes them. One stands for all of a template.
fn with_pods(mut loaded: Loaded, objects: &[Value]) -> Loaded {
    for object in objects {
        let Some((_, path)) = MAKERS.iter().find(|(kind, _)| Some(*kind) == text(object, "/kind")) else { continue };
        let Some(template) = object.pointer(path) else { continue };
        let mut pod = template.clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(text(object, "/metadata/name").unwrap_or_default());
        pod["metadata"]["namespace"] = json!(namespace(object));
        if is_enrolled(&loaded, &pod) {
            pod["metadata"]["annotations"][CAPTURED.0] = json!(CAPTURED.1);
        }
        if let Some(key) = key(&pod) {
            loaded = loaded.with(&key, &pod);
        }
    }
    loaded
}

/// The waypoints as they will be: an address is what a controller gives them, not who writes the file. One that the mesh has
/// keeps what it has.
fn with_waypoints(mut loaded: Loaded, objects: &[Value], mesh: Option<&Loaded>) -> Loaded {
    for object in objects {
        let Some(key) = key(object).filter(|key| loaded.objects.gateways.contains_key(key)) else { continue };
        let status = mesh.and_then(|mesh| mesh.objects.gateways.get(&key)).map(|gateway| json!(gateway.status));
        let is_waypoint = text(object, "/spec/gatewayClassName").is_some_and(is_class);
        let mut gateway = object.clone();
        match status {
            Some(status) => gateway["status"] = status,
            None if is_waypoint => gateway["status"]["addresses"] = json!([{"type": "IPAddress", "value": SOMEWHERE}]),
            None => continue,
        }
        loaded = loaded.with(&key, &gateway);
    }
    loaded
}

fn is_enrolled(loaded: &Loaded, pod: &Value) -> bool {
    let own = pod.pointer("/metadata/labels").and_then(|labels| labels.get(DATAPLANE_MODE)).and_then(Value::as_str);
    let on_node = pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true);
    let of_namespace = loaded.objects.namespace(namespace(pod)).and_then(|it| it.metadata.labels.as_ref());
    let of_namespace = of_namespace.and_then(|labels| labels.get(DATAPLANE_MODE)).map(String::as_str);
    !on_node && own != Some(NONE) && own.or(of_namespace) == Some(AMBIENT)
}
