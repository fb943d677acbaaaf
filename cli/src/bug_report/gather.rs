//! What goes into the archive: what the command itself finds, the pages of every part, logs, and objects.

use fairway_core::source::Kind;
use fairway_core::source::cluster::api_resource;
use fairway_lab::layout::Layout;
use fairway_lab::{apply, logs};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DynamicObject, ListParams, LogParams, TypeMeta};
use serde_json::{Value, json};

use super::{Entry, redact};
use crate::mesh::{Mesh, Part, Where};
use crate::objects::{Cluster, Objects};
use crate::{check, proxy_status};

/// Lines taken of each log, the last ones.
const LINES: usize = 20_000;
/// Pages of parts; metrics have a way of their own.
const OF_CONTROLLERS: [&str; 3] = ["/debug/sources", "/debug/syncz", "/debug/world"];
const OF_PROXIES: [&str; 2] = ["/config_dump", "/connections"];
const OF_AGENTS: [&str; 2] = ["/debug/pods", "/debug/events"];
const OF_WAYPOINTS: [&str; 3] = ["/config_dump?include_eds", "/clusters", "/requests"];

/// What there is, and what could not be had.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) entries: Vec<Entry>,
    pub(super) missing: Vec<String>,
}

impl Gathered {
    fn add<E: std::fmt::Display>(&mut self, path: String, found: Result<String, E>) {
        match found {
            Ok(text) => self.entries.push(Entry::new(path, &text)),
            Err(error) => {
                self.missing.push(format!("{path}: {}", error.to_string().lines().next().unwrap_or_default()))
            }
        }
    }
}

/// All of it.
pub(super) fn all(place: &Where, with_logs: bool, with_objects: bool) -> Gathered {
    let mut gathered = Gathered::default();
    gathered.add::<String>("version.txt".to_owned(), Ok(format!("fairway {}\n", env!("CARGO_PKG_VERSION"))));
    match place.mesh() {
        Ok(mesh) => {
            of_mesh(&mut gathered, place, &mesh);
            if with_logs {
                match mesh.lab() {
                    Some(layout) => lab_logs(&mut gathered, layout),
                    None => cluster_logs(&mut gathered, place, &mesh),
                }
            }
        }
        Err(error) => gathered.missing.push(format!("everything that parts of the mesh say: {error}")),
    }
    if with_objects {
        match place.objects() {
            Ok(Objects::Cluster(cluster)) => cluster_objects(&mut gathered, &cluster),
            Ok(Objects::Directory(layout)) => lab_objects(&mut gathered, &layout),
            Err(error) => gathered.missing.push(format!("objects: {error}")),
        }
    }
    let missing: String = gathered.missing.iter().map(|line| format!("{line}\n")).collect();
    gathered.add::<String>("missing.txt".to_owned(), Ok(missing));
    gathered
}

fn of_mesh(gathered: &mut Gathered, place: &Where, mesh: &Mesh) {
    gathered.add("status.json".to_owned(), serde_json::to_string_pretty(&mesh.status));
    gathered.add("check.json".to_owned(), serde_json::to_string_pretty(&check::answer(place, mesh)));
    let proxies = proxy_status::proxies(mesh);
    for replica in mesh.replicas() {
        pages(gathered, mesh, Part::Replica(&replica), &format!("controller/{replica}"), &OF_CONTROLLERS);
    }
    for node in &mesh.status.nodes {
        pages(gathered, mesh, Part::Proxy(&node.name), &format!("nodes/{}/proxy", node.name), &OF_PROXIES);
        pages(gathered, mesh, Part::Agent(&node.name), &format!("nodes/{}/agent", node.name), &OF_AGENTS);
    }
    for proxy in proxies.iter().flatten().filter(|proxy| proxy.kind == "waypoint") {
        let (pod, namespace) = proxy.name.rsplit_once('.').unwrap_or((&proxy.name, ""));
        pages(gathered, mesh, Part::Waypoint(namespace, pod), &format!("waypoints/{namespace}/{pod}"), &OF_WAYPOINTS);
    }
}

fn pages(gathered: &mut Gathered, mesh: &Mesh, part: Part<'_>, folder: &str, paths: &[&str]) {
    for path in paths {
        let name = path.split('?').next().unwrap_or_default().trim_start_matches('/').replace('/', "-");
        gathered.add(format!("{folder}/{name}.json"), mesh.text(part, path));
    }
    gathered.add(format!("{folder}/metrics.txt"), mesh.metrics(part));
}

fn last_lines(text: &str) -> String {
    let skipped = text.lines().count().saturating_sub(LINES);
    text.lines().skip(skipped).map(|line| format!("{line}\n")).collect()
}

fn lab_logs(gathered: &mut Gathered, layout: &Layout) {
    // Those of applications are their owners'; waypoints are the mesh's.
    let ours = logs::list(layout).into_iter().filter(|log| !log.name.contains('/') || log.name.contains("/waypoint"));
    for log in ours {
        let text = std::fs::read(&log.path).map(|bytes| last_lines(&String::from_utf8_lossy(&bytes)));
        gathered.add(format!("logs/{}.log", log.name), text);
    }
}

fn cluster_logs(gathered: &mut Gathered, place: &Where, mesh: &Mesh) {
    let cluster = match place.cluster() {
        Ok(cluster) => cluster,
        Err(error) => return gathered.missing.push(format!("logs: {error}")),
    };
    let pods: Api<Pod> = Api::namespaced(cluster.client(), place.mesh_namespace());
    let parameters = LogParams { tail_lines: i64::try_from(LINES).ok(), ..LogParams::default() };
    for component in &mesh.status.components {
        let text = cluster.run(pods.logs(&component.name, &parameters));
        gathered.add(format!("logs/{}.log", component.name), text);
    }
}

fn file_of(kind: &str, objects: &[Value]) -> (String, Result<String, serde_json::Error>) {
    (format!("objects/{kind}.json"), serde_json::to_string_pretty(objects))
}

fn lab_objects(gathered: &mut Gathered, layout: &Layout) {
    let inputs = match apply::read(&layout.manifests().to_string_lossy()) {
        Ok(inputs) => inputs,
        Err(error) => return gathered.missing.push(format!("objects: {error}")),
    };
    let mut objects = apply::objects(&inputs);
    for kind in Kind::ALL {
        let is_it = |object: &Value| object.get("kind").and_then(Value::as_str) == Some(kind.as_str());
        let (mut of_kind, others) = objects.into_iter().partition::<Vec<Value>, _>(is_it);
        objects = others;
        of_kind.iter_mut().for_each(redact::object);
        if !of_kind.is_empty() {
            let (path, text) = file_of(kind.as_str(), &of_kind);
            gathered.add(path, text);
        }
    }
}

/// Of kinds that a mesh reads alone: no Secret is asked for.
fn cluster_objects(gathered: &mut Gathered, cluster: &Cluster) {
    for kind in Kind::ALL {
        let api: Api<DynamicObject> = Api::all_with(cluster.client(), &api_resource(kind));
        match cluster.run(api.list(&ListParams::default())) {
            Ok(list) => {
                let written = |mut object: DynamicObject| {
                    object.types = Some(TypeMeta { api_version: kind.api_version(), kind: kind.to_string() });
                    let mut written = serde_json::to_value(object).unwrap_or_else(|error| json!(error.to_string()));
                    redact::object(&mut written);
                    written
                };
                let objects: Vec<Value> = list.items.into_iter().map(written).collect();
                let (path, text) = file_of(kind.as_str(), &objects);
                gathered.add(path, text);
            }
            Err(error) => gathered.missing.push(format!("objects/{}.json: {error}", kind.as_str())),
        }
    }
}
