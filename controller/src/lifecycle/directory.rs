//! Waypoints beside a directory of manifests: what a gateway becomes is one more file there, with Pods in the place of its
//! Deployment, as nobody makes any of one without an API server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use fairway_core::io::drain::Drain;
use fairway_core::source::directory::Loaded;
use fairway_core::source::gateway::Gateway;
use fairway_core::source::labels::{HasLabels, WAYPOINT_CLASS};
use fairway_core::source::status::Writer;
use fairway_core::source::{Kind, ObjectKey};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::automatic;
use super::conditions::{self, Outcome};
use super::render::{self, GATEWAY_NAME, Part, WaypointSettings};
use crate::files::Prepared;
use crate::state::Published;
use crate::status::condition::now;
use crate::status::directory::OWNER;
use crate::translate::automatic::NAME;

/// Directory of what is made, below the manifests. No namespace has an underscore in its name.
const MADE: &str = "_waypoints";
/// Mode of what is made: there is nothing secret in it.
const READABLE: u32 = 0o644;
/// Pause after something could not be written.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps waypoints until the drain starts.
pub async fn run(
    root: PathBuf,
    mut published: watch::Receiver<Arc<Published>>,
    settings: WaypointSettings,
    mut drain: Drain,
) {
    let keeper = Keeper { made: root.join(MADE), status: Writer::of(&root, OWNER), settings };
    loop {
        let state = Arc::clone(&published.borrow_and_update());
        let is_known = !state.loaded.is_never_read();
        let done = if is_known { keeper.round(&state.loaded, &state.automatic()) } else { Ok(()) };
        let is_behind = done.is_err();
        if let Err(error) = done {
            tracing::warn!(error, "waypoints are not as they should be; trying again");
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if is_behind => {}
            _ = drain.started() => return,
        }
    }
}

struct Keeper {
    made: PathBuf,
    status: Writer,
    settings: WaypointSettings,
}

impl Keeper {
    /// Looks at everything once; in the namespaces `wanted` something needs a waypoint that they ask for.
    fn round(&self, loaded: &Loaded, wanted: &BTreeSet<&str>) -> Result<(), String> {
        let mut files = BTreeSet::new();
        for namespace in wanted {
            let present = loaded.objects.gateways.get(&ObjectKey::new(Kind::Gateway, *namespace, NAME));
            if present.is_none_or(|gateway| automatic::is_ours(gateway)) {
                // No namespace has a dot in its name.
                let name = format!("{namespace}.automatic.yaml");
                self.write(&name, &text(&[automatic::gateway(namespace)]))?;
                files.insert(name);
            }
        }
        for (key, gateway) in loaded.objects.gateways.iter() {
            if gateway.spec.gateway_class_name != WAYPOINT_CLASS {
                continue;
            }
            let (outcome, file) = match render::render(gateway, &self.settings) {
                Err(fault) => (Outcome::Refused(fault), None),
                Ok(parts) => {
                    let objects = objects(&parts, key);
                    match objects.iter().find(|object| is_taken(loaded, object, key)) {
                        Some(object) => (taken(object), None),
                        None => (made(loaded, key, &objects), Some(objects)),
                    }
                }
            };
            if let Some(objects) = file {
                let name = format!("{}_{}.yaml", key.namespace, key.name);
                self.write(&name, &text(&objects))?;
                files.insert(name);
            }
            self.say(key, gateway, &outcome)?;
        }
        self.remove_others(loaded, &files)
    }

    fn say(&self, key: &ObjectKey, gateway: &Gateway, outcome: &Outcome) -> Result<(), String> {
        let Some(status) = conditions::status(gateway, outcome, &self.settings.cluster_domain, &now()) else {
            return Ok(());
        };
        self.status.write(key, json!({"status": status})).map_err(|error| error.to_string())
    }

    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.made.join(name);
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            return Ok(());
        }
        // Not synchronised: what is lost is made again.
        let replace = || Prepared::new(&path, text.as_bytes(), READABLE)?.commit();
        let written = fs::create_dir_all(&self.made).and_then(|()| replace());
        written.map_err(|error| failure(&path, &error))?;
        tracing::info!(file = %path.display(), "waypoint made of a gateway");
        Ok(())
    }

    /// What belongs to no gateway any more goes.
    fn remove_others(&self, loaded: &Loaded, files: &BTreeSet<String>) -> Result<(), String> {
        for entry in fs::read_dir(&self.made).into_iter().flatten().flatten() {
            let is_ours = entry.file_name().to_str().is_some_and(|name| files.contains(name));
            if !is_ours {
                fs::remove_file(entry.path()).map_err(|error| failure(&entry.path(), &error))?;
            }
        }
        for key in self.status.owned().map_err(|error| error.to_string())? {
            let is_gone =
                || loaded.objects.gateways.get(&key).is_none_or(|it| it.spec.gateway_class_name != WAYPOINT_CLASS);
            if key.kind == Kind::Gateway && is_gone() {
                self.status.remove(&key).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

fn failure(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}; check that the directory of manifests is writable and not full", path.display())
}

/// The objects of a waypoint, as a directory has them.
fn objects(parts: &BTreeMap<Part, Value>, gateway: &ObjectKey) -> Vec<Value> {
    let mut objects = Vec::new();
    for (part, object) in parts {
        match part {
            Part::ServiceAccount | Part::Service => {
                let mut object = object.clone();
                // Objects of a directory have no uid by which an owner could be named; its name is the file's.
                if let Some(metadata) = object["metadata"].as_object_mut() {
                    metadata.remove("ownerReferences");
                }
                objects.push(object);
            }
            Part::Deployment => {
                let fewest = parts.get(&Part::HorizontalPodAutoscaler).map(|scaler| &scaler["spec"]["minReplicas"]);
                let replicas = fewest.unwrap_or(&object["spec"]["replicas"]).as_u64().unwrap_or(1);
                objects.extend((0..replicas).map(|number| pod(&object["spec"]["template"], gateway, number)));
            }
            // Nobody scales or drains.
            Part::HorizontalPodAutoscaler | Part::PodDisruptionBudget => {}
        }
    }
    objects
}

fn pod(template: &Value, gateway: &ObjectKey, number: u64) -> Value {
    let mut pod = template.clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(format!("{}-{number}", gateway.name));
    pod["metadata"]["namespace"] = json!(gateway.namespace);
    pod
}

/// One manifest of all of them. JSON is YAML.
fn text(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("---\n{object:#}\n")).collect()
}

/// Whether an object of that name is somebody else's.
fn is_taken(loaded: &Loaded, object: &Value, gateway: &ObjectKey) -> bool {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let key = |kind| ObjectKey::new(kind, &*gateway.namespace, name);
    let objects = &loaded.objects;
    let is_ours = |object: &dyn HasLabels| object.label(GATEWAY_NAME) == Some(&gateway.name);
    let found = match object["kind"].as_str() {
        Some("ServiceAccount") => {
            objects.service_accounts.get(&key(Kind::ServiceAccount)).map(|it| is_ours(&it.metadata))
        }
        Some("Service") => objects.services.get(&key(Kind::Service)).map(|it| is_ours(&it.metadata)),
        _ => objects.pods.get(&key(Kind::Pod)).map(|it| is_ours(&**it)),
    };
    found == Some(false)
}

fn taken(object: &Value) -> Outcome {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    Outcome::Failed(conditions::in_the_way(&kind, &name))
}

fn made(loaded: &Loaded, gateway: &ObjectKey, objects: &[Value]) -> Outcome {
    let pods = objects.iter().filter(|object| object["kind"] == "Pod");
    let (mut ready, mut wanted) = (0, 0);
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        wanted += 1;
        ready += u64::from(loaded.objects.pod(&gateway.namespace, name).is_some_and(|pod| pod.is_ready));
    }
    Outcome::Made { ready, wanted }
}

#[cfg(test)]
mod tests {
    use fairway_core::source::directory;

    use super::*;

    const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: way, namespace: shop, annotations: {fairway.dev/replicas: \"2\"}}\n\
        spec: {gatewayClassName: fairway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n";

    fn keeper(root: &Path) -> Keeper {
        Keeper {
            made: root.join(MADE),
            status: Writer::of(root, OWNER),
            settings: WaypointSettings {
                image: "fairway/waypoint:test".to_owned(),
                cpu: "1".to_owned(),
                memory: "1Gi".to_owned(),
                controller: "https://controller:15012".to_owned(),
                root_config_map: "root".to_owned(),
                token_audience: "istio-ca".to_owned(),
                cluster_domain: "cluster.local".to_owned(),
                cluster_id: "Kubernetes".to_owned(),
            },
        }
    }

    #[test]
    fn a_gateway_becomes_pods_and_all_of_it_goes_with_it() {
        let root = tempfile::tempdir().unwrap();
        let keeper = keeper(root.path());
        std::fs::write(root.path().join("gateway.yaml"), GATEWAY).unwrap();
        keeper.round(&directory::load(root.path(), None), &BTreeSet::new()).unwrap();
        let loaded = directory::load(root.path(), None);
        assert_eq!(loaded.errors, []);
        let pods: Vec<String> = loaded.objects.pods.keys().map(ToString::to_string).collect();
        assert_eq!(pods.len(), 2, "{pods:?}");
        let pod = loaded.objects.pod("shop", "way-1").unwrap();
        assert_eq!(pod.label("istio.io/dataplane-mode"), Some("none"));
        assert_eq!(pod.label(GATEWAY_NAME), Some("way"));
        assert!(loaded.objects.services.contains_key(&ObjectKey::new(Kind::Service, "shop", "way")));
        let gateway = loaded.objects.gateways.get(&ObjectKey::new(Kind::Gateway, "shop", "way")).unwrap();
        assert_eq!(gateway.status.addresses.len(), 1);
        std::fs::remove_file(root.path().join("gateway.yaml")).unwrap();
        keeper.round(&directory::load(root.path(), None), &BTreeSet::new()).unwrap();
        let loaded = directory::load(root.path(), None);
        assert_eq!((loaded.objects.pods.len(), loaded.objects.services.len(), loaded.errors), (0, 0, vec![]));
    }

    #[test]
    fn a_namespace_that_asks_for_it_has_a_gateway_while_something_needs_one() {
        let root = tempfile::tempdir().unwrap();
        let keeper = keeper(root.path());
        let wanted = BTreeSet::from(["shop"]);
        // The second round makes pods of what the first has made, and the third finds all as it should be.
        for _ in 0..3 {
            keeper.round(&directory::load(root.path(), None), &wanted).unwrap();
        }
        let loaded = directory::load(root.path(), None);
        assert_eq!(loaded.errors, []);
        let gateway = loaded.objects.gateways.get(&ObjectKey::new(Kind::Gateway, "shop", NAME)).unwrap();
        assert!(automatic::is_ours(gateway) && gateway.status.addresses.len() == 1, "{gateway:?}");
        assert_eq!(loaded.objects.pods.len(), 1);
        for _ in 0..2 {
            keeper.round(&directory::load(root.path(), None), &BTreeSet::new()).unwrap();
        }
        let loaded = directory::load(root.path(), None);
        assert_eq!((loaded.objects.gateways.len(), loaded.objects.pods.len(), loaded.errors), (0, 0, vec![]));
        // Somebody has made one of that name.
        std::fs::write(root.path().join("gateway.yaml"), GATEWAY.replace("name: way", "name: waypoint")).unwrap();
        keeper.round(&directory::load(root.path(), None), &wanted).unwrap();
        assert_eq!(directory::load(root.path(), None).errors, []);
    }

    #[test]
    fn what_is_somebody_elses_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let service =
            "---\napiVersion: v1\nkind: Service\nmetadata: {name: way, namespace: shop}\nspec: {ports: [{port: 1}]}\n";
        std::fs::write(root.path().join("gateway.yaml"), format!("{GATEWAY}{service}")).unwrap();
        let keeper = keeper(root.path());
        keeper.round(&directory::load(root.path(), None), &BTreeSet::new()).unwrap();
        let loaded = directory::load(root.path(), None);
        let gateway = loaded.objects.gateways.get(&ObjectKey::new(Kind::Gateway, "shop", "way")).unwrap();
        assert!(loaded.objects.pods.is_empty());
        let said = gateway.status.conditions.iter().find(|it| it.type_ == "Programmed").unwrap();
        assert!(said.message.contains("Service way belongs to somebody else"), "{said:?}");
    }
}
