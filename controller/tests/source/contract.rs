//! What every source promises, whatever its objects are kept in.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_core::source::cluster::Cluster;
use fairway_core::source::directory::Directory;
use fairway_core::source::objects::label;
use fairway_core::source::{Kind, Loaded, ObjectKey, Readings, Source};
use serde_json::{Value, json};

use super::fake::Fake;

/// How much sooner than in earnest a source tries again in tests.
pub(super) const HURRY: u32 = 50;
/// For something to be seen on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where objects are kept.
pub(super) trait Place {
    async fn new() -> Self;
    fn source(&self) -> Box<dyn Source>;
    fn put(&self, object: Value);
    fn delete(&self, object: &Value);
    /// The place cannot be read, or can again. Objects can be put all the while.
    fn outage(&self, begins: bool);
}

struct InDirectory {
    root: tempfile::TempDir,
}

impl InDirectory {
    fn path(&self) -> PathBuf {
        let (seen, away) = (self.root.path().join("manifests"), self.root.path().join("away"));
        if away.exists() { away } else { seen }
    }

    fn file(&self, object: &Value) -> PathBuf {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        self.path().join(format!(
            "{}_{}_{}.json",
            text(&object["kind"]),
            text(&metadata["namespace"]),
            text(&metadata["name"])
        ))
    }
}

impl Place for InDirectory {
    async fn new() -> Self {
        let place = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir(place.path()).unwrap();
        place
    }

    fn source(&self) -> Box<dyn Source> {
        Box::new(Directory { root: self.root.path().join("manifests") })
    }

    fn put(&self, object: Value) {
        // Whole or not at all, as the API takes objects.
        let hidden = self.path().join(".new");
        fs::write(&hidden, object.to_string()).unwrap();
        fs::rename(hidden, self.file(&object)).unwrap();
    }

    fn delete(&self, object: &Value) {
        fs::remove_file(self.file(object)).unwrap();
    }

    fn outage(&self, begins: bool) {
        let (seen, away) = (self.root.path().join("manifests"), self.root.path().join("away"));
        if begins {
            fs::rename(seen, away).unwrap()
        } else {
            fs::rename(away, seen).unwrap()
        };
    }
}

struct InCluster {
    fake: Fake,
}

impl Place for InCluster {
    async fn new() -> Self {
        Self { fake: Fake::start().await }
    }

    fn source(&self) -> Box<dyn Source> {
        Box::new(Cluster::new(self.fake.client()).hurried(HURRY))
    }

    fn put(&self, object: Value) {
        self.fake.put(object);
    }

    fn delete(&self, object: &Value) {
        self.fake.delete(object);
    }

    fn outage(&self, begins: bool) {
        self.fake.gone(begins);
    }
}

pub(super) fn start(source: Box<dyn Source>) -> Readings {
    source.start(&Loaded::remembered(&[]))
}

/// Waits until a reading is as it should be.
pub(super) async fn until(readings: &mut Readings, what: &str, is_so: impl Fn(&Loaded) -> bool) -> Arc<Loaded> {
    let found = tokio::time::timeout(PATIENCE, readings.loaded.wait_for(|loaded| is_so(loaded)))
        .await
        .map(|it| it.unwrap().clone());
    found.unwrap_or_else(|_| panic!("{what}: {:#?}", readings.loaded.borrow()))
}

/// Waits until the source says that it is behind, or is not.
pub(super) async fn until_stale(readings: &Readings, is_stale: bool) {
    let deadline = Instant::now() + PATIENCE;
    while readings.freshness.stale_for(Instant::now()).is_some() != is_stale {
        assert!(Instant::now() < deadline, "stale is not {is_stale}: {:?}", readings.freshness);
        // Freshness is asked for, and does not tell.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) fn object(api_version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    if !matches!(kind, "Namespace" | "Node") {
        object["metadata"]["namespace"] = json!("shop");
    }
    for (key, value) in rest.as_object().unwrap() {
        match (key.as_str(), value) {
            ("metadata", Value::Object(metadata)) => {
                for (key, value) in metadata {
                    object["metadata"][key] = value.clone();
                }
            }
            _ => object[key] = value.clone(),
        }
    }
    object
}

pub(super) fn pod(name: &str, rest: Value) -> Value {
    object("v1", "Pod", name, rest)
}

pub(super) fn policy(name: &str, action: &str) -> Value {
    let spec = json!({"action": action, "rules": [{"from": [{"source": {"namespaces": ["other"]}}]}]});
    object("security.istio.io/v1", "AuthorizationPolicy", name, json!({"spec": spec}))
}

pub(super) fn policy_key(name: &str) -> ObjectKey {
    ObjectKey::new(Kind::AuthorizationPolicy, "shop", name)
}

fn one_of_each() -> Vec<Value> {
    vec![
        object("v1", "Namespace", "shop", json!({"metadata": {"labels": {"istio.io/dataplane-mode": "ambient"}}})),
        object("v1", "Node", "node-1", json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "a"}}})),
        pod("web", json!({"spec": {"containers": [], "nodeName": "node-1"}})),
        object("v1", "Service", "web", json!({"spec": {"ports": [{"port": 80}]}})),
        object("v1", "ServiceAccount", "web", json!({})),
        object("discovery.k8s.io/v1", "EndpointSlice", "web-1", json!({"addressType": "IPv4", "endpoints": []})),
        object("gateway.networking.k8s.io/v1", "Gateway", "waypoint", json!({"spec": {"gatewayClassName": "a"}})),
        object("gateway.networking.k8s.io/v1", "HTTPRoute", "web", json!({"spec": {"rules": [{"odd": 1}]}})),
        object("gateway.networking.k8s.io/v1", "GRPCRoute", "web", json!({"spec": {"rules": []}})),
        policy("deny", "DENY"),
        object("security.istio.io/v1", "PeerAuthentication", "strict", json!({"spec": {"mtls": {"mode": "STRICT"}}})),
        object("networking.istio.io/v1", "ServiceEntry", "outside", json!({"spec": {"hosts": ["example.com"]}})),
        object("networking.istio.io/v1", "WorkloadEntry", "machine", json!({"spec": {"address": "192.0.2.1"}})),
        object("networking.istio.io/v1", "VirtualService", "web", json!({"spec": {"hosts": ["web"]}})),
        object("gateway.networking.k8s.io/v1", "TCPRoute", "web", json!({"spec": {"rules": [{"backendRefs": []}]}})),
        object("gateway.networking.k8s.io/v1", "TLSRoute", "web", json!({"spec": {"hostnames": ["a.example"]}})),
        object("gateway.networking.k8s.io/v1", "BackendTLSPolicy", "web", json!({"spec": {"targetRefs": []}})),
        object(
            "security.istio.io/v1",
            "RequestAuthentication",
            "jwt",
            json!({"spec": {"jwtRules": [{"issuer": "a"}]}}),
        ),
        object("networking.istio.io/v1", "DestinationRule", "web", json!({"spec": {"host": "web"}})),
        object("networking.k8s.io/v1", "NetworkPolicy", "web", json!({"spec": {"podSelector": {}}})),
        object("gateway.networking.k8s.io/v1", "ReferenceGrant", "web", json!({"spec": {"from": [], "to": []}})),
        object(
            "fairway.dev/v1alpha1",
            "RateLimit",
            "web",
            json!({"spec": {"limits": [{"requests": 1, "period": "1s"}]}}),
        ),
        object("fairway.dev/v1alpha1", "ExternalProcessor", "web", json!({"spec": {"provider": "p"}})),
        object("telemetry.istio.io/v1", "Telemetry", "mesh", json!({"spec": {"tracing": []}})),
    ]
}

async fn every_kind_is_read<P: Place>() {
    let place = P::new().await;
    one_of_each().into_iter().for_each(|object| place.put(object));
    let mut readings = start(place.source());
    let loaded = until(&mut readings, "every kind", |loaded| {
        !loaded.is_never_read() && loaded.objects.counts().values().all(|count| *count == 1)
    })
    .await;
    assert_eq!(loaded.errors, []);
    assert!(!loaded.has_unseen());
    assert_eq!(loaded.objects.namespace_label("shop", "istio.io/dataplane-mode"), Some("ambient"));
    let node = loaded.objects.nodes.values().next().unwrap();
    assert_eq!(label(&node.metadata, "topology.kubernetes.io/zone"), Some("a"));
    assert_eq!(loaded.objects.service_entries.values().next().unwrap().spec.hosts, ["example.com"]);
    assert_eq!(readings.freshness.stale_for(Instant::now()), None);
}

async fn changes_are_followed<P: Place>() {
    let place = P::new().await;
    let mut readings = start(place.source());
    until(&mut readings, "empty", |loaded| !loaded.is_never_read()).await;
    place.put(pod("web", json!({})));
    until(&mut readings, "a pod", |loaded| loaded.objects.pod("shop", "web").is_some()).await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    place.put(pod("web", ready));
    until(&mut readings, "a ready pod", |loaded| loaded.objects.pod("shop", "web").is_some_and(|pod| pod.is_ready))
        .await;
    place.delete(&pod("web", json!({})));
    until(&mut readings, "no pod", |loaded| loaded.objects.pods.is_empty()).await;
}

async fn a_policy_that_breaks_keeps_its_last_good_version<P: Place>() {
    let place = P::new().await;
    place.put(policy("deny", "DENY"));
    let mut readings = start(place.source());
    let good = until(&mut readings, "a policy", |loaded| loaded.objects.authorization_policies.len() == 1).await;
    place.put(policy("deny", "MAYBE"));
    let loaded = until(&mut readings, "an error", |loaded| !loaded.errors.is_empty()).await;
    assert_eq!(loaded.errors[0].field.as_deref(), Some("spec.action"));
    assert_eq!(loaded.errors[0].object, Some(policy_key("deny")));
    assert!(loaded.errors[0].message.contains("MAYBE"), "{}", loaded.errors[0]);
    assert_eq!(loaded.objects.authorization_policies, good.objects.authorization_policies);
    assert!(loaded.rejected.is_empty());
    place.put(policy("deny", "ALLOW"));
    let loaded = until(&mut readings, "no error", |loaded| loaded.errors.is_empty()).await;
    assert_ne!(loaded.objects.authorization_policies, good.objects.authorization_policies);
    place.put(policy("deny", "MAYBE"));
    until(&mut readings, "an error again", |loaded| !loaded.errors.is_empty()).await;
    place.delete(&policy("deny", "MAYBE"));
    let loaded = until(&mut readings, "no policy", |loaded| loaded.objects.authorization_policies.is_empty()).await;
    assert_eq!((loaded.errors.len(), loaded.rejected.len()), (0, 0));
}

async fn a_policy_that_never_was_good_is_known_to_be_there<P: Place>() {
    let place = P::new().await;
    let mut unknown = policy("deny", "DENY");
    unknown["spec"]["rules"][0]["unheardOf"] = json!(true);
    place.put(unknown);
    let mut readings = start(place.source());
    let loaded = until(&mut readings, "an error", |loaded| !loaded.is_never_read() && !loaded.errors.is_empty()).await;
    assert!(loaded.objects.authorization_policies.is_empty());
    assert_eq!(loaded.rejected.keys().collect::<Vec<_>>(), [&policy_key("deny")]);
    assert!(loaded.files(Kind::AuthorizationPolicy).contains_key(&policy_key("deny")), "to be remembered");
    assert!(loaded.errors[0].message.contains("unheardOf"), "{}", loaded.errors[0]);
    place.put(policy("deny", "DENY"));
    let loaded = until(&mut readings, "the policy", |loaded| loaded.objects.authorization_policies.len() == 1).await;
    assert_eq!((loaded.errors.len(), loaded.rejected.len()), (0, 0));
}

async fn an_object_in_error_hides_no_other<P: Place>() {
    let place = P::new().await;
    place.put(pod("good", json!({})));
    place.put(pod("broken", json!({"spec": {"nodeName": 7, "containers": []}})));
    let mut readings = start(place.source());
    let loaded = until(&mut readings, "a pod", |loaded| loaded.objects.pod("shop", "good").is_some()).await;
    assert_eq!(loaded.errors.len(), 1, "{:?}", loaded.errors);
    assert_eq!(loaded.errors[0].object, Some(ObjectKey::pod("shop", "broken")));
    assert_eq!(loaded.errors[0].field.as_deref(), Some("spec.nodeName"));
}

async fn an_outage_withdraws_nothing_and_is_told<P: Place>() {
    let place = P::new().await;
    place.put(pod("a", json!({})));
    place.put(policy("deny", "DENY"));
    let mut readings = start(place.source());
    let before =
        until(&mut readings, "a pod", |loaded| !loaded.is_never_read() && loaded.objects.pods.len() == 1).await;
    place.outage(true);
    until_stale(&readings, true).await;
    place.put(pod("b", json!({})));
    place.delete(&policy("deny", "DENY"));
    let during = until(&mut readings, "an error", |loaded| !loaded.errors.is_empty()).await;
    assert_eq!(during.objects, before.objects);
    assert!(!during.is_never_read() && !during.has_unseen());
    place.outage(false);
    until(&mut readings, "what happened meanwhile", |loaded| {
        loaded.objects.pods.len() == 2 && loaded.objects.authorization_policies.is_empty() && loaded.errors.is_empty()
    })
    .await;
    until_stale(&readings, false).await;
}

async fn a_place_that_cannot_be_read_yet_is_not_an_empty_one<P: Place>() {
    let place = P::new().await;
    place.put(pod("a", json!({})));
    place.outage(true);
    let mut readings = start(place.source());
    until_stale(&readings, true).await;
    let loaded = until(&mut readings, "an error", |loaded| !loaded.errors.is_empty()).await;
    assert!(loaded.is_never_read() && loaded.has_unseen());
    place.outage(false);
    let loaded = until(&mut readings, "a pod", |loaded| !loaded.is_never_read()).await;
    assert_eq!((loaded.objects.pods.len(), loaded.has_unseen()), (1, false));
}

macro_rules! contract {
    ($($promise:ident),+ $(,)?) => {
        mod directory {
            $(#[tokio::test(flavor = "multi_thread")] async fn $promise() { super::$promise::<super::InDirectory>().await; })+
        }
        mod cluster {
            $(#[tokio::test(flavor = "multi_thread")] async fn $promise() { super::$promise::<super::InCluster>().await; })+
        }
    };
}

contract!(
    every_kind_is_read,
    changes_are_followed,
    a_policy_that_breaks_keeps_its_last_good_version,
    a_policy_that_never_was_good_is_known_to_be_there,
    an_object_in_error_hides_no_other,
    an_outage_withdraws_nothing_and_is_told,
    a_place_that_cannot_be_read_yet_is_not_an_empty_one,
);
