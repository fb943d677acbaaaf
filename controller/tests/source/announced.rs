//! The root in a config map of every namespace.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_controller::announce;
use fairway_controller::ca::root;
use fairway_controller::ca::signer::Signer;
use fairway_controller::state::Published;
use fairway_controller::status::lease::Leadership;
use fairway_controller::translate::Settings;
use fairway_core::io::drain::{self, Mode};
use fairway_core::source::directory::load;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};

use super::contract::object;
use super::fake::Fake;

const NAME: &str = "istio-ca-root-cert";
const PATIENCE: Duration = Duration::from_secs(60);

fn with_namespaces(names: &[&str]) -> Arc<Published> {
    let manifests = tempfile::tempdir().unwrap();
    for name in names {
        let namespace = object("v1", "Namespace", name, json!({}));
        std::fs::write(manifests.path().join(format!("{name}.json")), namespace.to_string()).unwrap();
    }
    let loaded = Arc::new(load(manifests.path(), None));
    Arc::new(Published::default().next(loaded, &Settings::default()))
}

fn map(namespace: &str, pem: &str, manager: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"root-cert.pem": pem},
        "metadata": {"name": NAME, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": manager}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn every_namespace_is_told_the_root_and_what_is_not_ours_is_left_alone() {
    let fake = Fake::start().await;
    fake.put(map("theirs", "another root", "somebody"));
    fake.put(map("old", "a root before", "fairway-controller"));
    // Of another name, though the server were to send it.
    fake.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other", "namespace": "new"}}));
    let (sender, mut applied) = mpsc::unbounded_channel();
    fake.answers(move |method, path, body| {
        (method == "PATCH").then(|| {
            sender.send((path.to_owned(), body.clone())).unwrap();
            (200, body)
        })
    });
    let state = tempfile::tempdir().unwrap();
    let signer = |directory: &str| {
        let now = OffsetDateTime::now_utc();
        Arc::new(Signer::of(&root::open(&state.path().join(directory), now).unwrap(), "cluster.local", now).unwrap())
    };
    let (keeper, current) = watch::channel(signer("first"));
    let expected = current.clone();
    let (published, receiver) = watch::channel(with_namespaces(&["theirs", "old"]));
    let (lead, leads) = watch::channel(None);
    let leads = Leadership::told(leads);
    let (trigger, drain) = drain::new();
    let running = tokio::spawn(announce::run(fake.client(), receiver, leads, current, NAME.to_owned(), drain));
    let mut next = async |namespace: &str| {
        let (path, body) = tokio::time::timeout(PATIENCE, applied.recv()).await.unwrap().unwrap();
        assert_eq!(path, format!("/api/v1/namespaces/{namespace}/configmaps/{NAME}"));
        assert_eq!(body["data"]["root-cert.pem"], expected.borrow().roots_pem());
        fake.put(body);
    };
    lead.send_replace(Instant::now().checked_add(PATIENCE));
    next("old").await;
    // A namespace comes.
    published.send_replace(with_namespaces(&["new", "old", "theirs"]));
    next("new").await;
    // Somebody meddles.
    fake.put(map("old", "tampered", "fairway-controller"));
    next("old").await;
    // Somebody deletes, and who was in the way goes.
    fake.delete(&map("new", "", ""));
    next("new").await;
    fake.delete(&map("theirs", "", ""));
    next("theirs").await;
    // Another root.
    keeper.send_replace(signer("second"));
    next("new").await;
    next("old").await;
    next("theirs").await;
    trigger.start(Mode::Graceful);
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
    assert!(applied.try_recv().is_err(), "nothing more");
}
