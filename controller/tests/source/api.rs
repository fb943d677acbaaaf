//! What an API server does to those who watch it, and what must come of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fairway_core::source::cluster::{Cluster, Selection};
use fairway_core::source::{Kind, ObjectKey, Readings};
use serde_json::json;

use super::contract::{HURRY, object, pod, policy, start, until, until_stale};
use super::fake::{Fake, Streams};

const PODS: &str = "/api/v1/pods";
const POLICIES: &str = "/apis/security.istio.io/v1/authorizationpolicies";
const OLD_POLICIES: &str = "/apis/security.istio.io/v1beta1/authorizationpolicies";
const DEFINITION: &str = "authorizationpolicies.security.istio.io";

fn reading(fake: &Fake, kinds: &[Kind]) -> Readings {
    let selections = kinds.iter().map(|kind| Selection { kind: *kind, fields: String::new() });
    start(Box::new(Cluster::new(fake.client()).selecting(selections.collect()).hurried(HURRY)))
}

async fn pods(readings: &mut Readings, count: usize) {
    until(readings, "pods", |loaded| !loaded.is_never_read() && loaded.objects.pods.len() == count).await;
}

/// Waits until something was asked for.
async fn until_asked(fake: &Fake, what: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !fake.requests().iter().any(|request| what(request)) {
        assert!(Instant::now() < deadline, "{:?}", fake.requests());
        // The server does not tell when it is asked.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_breaks_goes_on_from_the_last_bookmark() {
    let fake = Fake::start().await;
    fake.put(pod("a", json!({})));
    let mut readings = reading(&fake, &[Kind::Pod]);
    pods(&mut readings, 1).await;
    let version = fake.bookmark(PODS);
    fake.put(object("v1", "Pod", "b", json!({})));
    pods(&mut readings, 2).await;
    let last = fake.bookmark(PODS);
    fake.put(object("v1", "Service", "unrelated", json!({})));
    assert!(last > version);
    fake.cut();
    // The bookmark may still be on its way when the watch breaks; the next one is not.
    until_asked(&fake, |request| {
        request.contains(&format!("resourceVersion={last}"))
            || request.contains(&format!("resourceVersion={}", last - 1))
    })
    .await;
    fake.put(pod("c", json!({})));
    pods(&mut readings, 3).await;
    assert_eq!(fake.requests().iter().filter(|request| request.contains("sendInitialEvents")).count(), 1);
    until_stale(&readings, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_gap_everything_is_replaced_at_once() {
    for said_in_the_watch in [false, true] {
        let fake = Fake::start().await;
        for name in ["a", "b", "c"] {
            fake.put(pod(name, json!({})));
        }
        let mut readings = reading(&fake, &[Kind::Pod]);
        pods(&mut readings, 3).await;
        let mut seen = readings.loaded.clone();
        let watcher = tokio::spawn(async move {
            let mut states = BTreeSet::new();
            loop {
                let names: Vec<String> =
                    seen.borrow_and_update().objects.pods.keys().map(|key| key.name.clone()).collect();
                let is_last = names == ["c", "d"];
                states.insert(names);
                if is_last {
                    return states;
                }
                seen.changed().await.unwrap();
            }
        });
        if said_in_the_watch {
            fake.refuse(PODS, Some(503));
            fake.delete(&pod("a", json!({})));
            fake.delete(&pod("b", json!({})));
            fake.put(pod("d", json!({})));
            fake.forget();
            fake.refuse(PODS, None);
        } else {
            fake.gone(true);
            until_stale(&readings, true).await;
            fake.delete(&pod("a", json!({})));
            fake.delete(&pod("b", json!({})));
            fake.put(pod("d", json!({})));
            fake.forget();
            fake.gone(false);
        }
        let states = tokio::time::timeout(Duration::from_secs(30), watcher).await.unwrap().unwrap();
        let all =
            [vec!["a", "b", "c"], vec!["c", "d"]].map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(states, BTreeSet::from(all));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_watch_and_garbage_keep_what_is_known() {
    let expired = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "expired"}});
    for line in [json!("no JSON {"), json!({"type": "SOMETHING", "object": {}}), json!({"type": "ADDED"}), expired] {
        let fake = Fake::start().await;
        fake.put(pod("a", json!({})));
        let mut readings = reading(&fake, &[Kind::Pod]);
        pods(&mut readings, 1).await;
        fake.say(PODS, line.clone());
        fake.forget();
        fake.put(pod("b", json!({})));
        pods(&mut readings, 2).await;
        until(&mut readings, "no error", |loaded| loaded.errors.is_empty()).await;
        until_stale(&readings, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_cannot_list_by_watching_are_asked_for_pages() {
    for streams in [Streams::Refused, Streams::Ignored] {
        let fake = Fake::start().await;
        fake.lists(streams, 2);
        for name in ["a", "b", "c", "d", "e"] {
            fake.put(pod(name, json!({})));
        }
        let mut readings = reading(&fake, &[Kind::Pod]);
        pods(&mut readings, 5).await;
        fake.delete(&pod("c", json!({})));
        pods(&mut readings, 4).await;
        assert!(fake.requests().iter().any(|request| request.contains("continue=4")), "{:?}", fake.requests());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_not_defined_is_waited_for() {
    let fake = Fake::start().await;
    fake.serve(POLICIES, false);
    fake.serve(OLD_POLICIES, false);
    let mut readings = reading(&fake, &[Kind::Pod, Kind::AuthorizationPolicy]);
    let loaded = until(&mut readings, "the rest", |loaded| !loaded.is_never_read()).await;
    assert_eq!(loaded.errors, []);
    until_stale(&readings, false).await;
    fake.define(DEFINITION, true);
    fake.serve(POLICIES, true);
    fake.put(policy("deny", "DENY"));
    until(&mut readings, "the policy", |loaded| loaded.objects.authorization_policies.len() == 1).await;
    // Defined and not served: the server has just started.
    fake.serve(POLICIES, false);
    until_stale(&readings, true).await;
    let loaded = until(&mut readings, "an error", |loaded| !loaded.errors.is_empty()).await;
    assert_eq!(loaded.objects.authorization_policies.len(), 1);
    fake.define(DEFINITION, false);
    until(&mut readings, "no policy", |loaded| loaded.objects.authorization_policies.is_empty()).await;
    until_stale(&readings, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_versions_are_read_where_there_is_no_newer() {
    let fake = Fake::start().await;
    fake.serve(POLICIES, false);
    let mut old = policy("deny", "DENY");
    old["apiVersion"] = json!("security.istio.io/v1beta1");
    fake.put(old);
    let mut readings = reading(&fake, &[Kind::AuthorizationPolicy]);
    until(&mut readings, "the policy", |loaded| loaded.objects.authorization_policies.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_read_is_said_and_keeps_the_rest_from_being_taken_for_all() {
    let fake = Fake::start().await;
    fake.refuse(POLICIES, Some(403));
    fake.put(pod("a", json!({})));
    let mut readings = reading(&fake, &[Kind::Pod, Kind::AuthorizationPolicy]);
    let loaded =
        until(&mut readings, "an error", |loaded| !loaded.errors.is_empty() && loaded.objects.pods.len() == 1).await;
    assert!(loaded.is_never_read());
    let message = loaded.errors[0].to_string();
    assert!(message.contains("authorizationpolicies") && message.contains("role"), "{message}");
    fake.refuse(POLICIES, None);
    until(&mut readings, "all", |loaded| !loaded.is_never_read() && loaded.errors.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_watch_is_not_trusted() {
    let fake = Fake::start().await;
    fake.put(pod("a", json!({})));
    let readings = start(Box::new(
        Cluster::new(fake.client())
            .selecting(vec![Selection { kind: Kind::Pod, fields: String::new() }])
            .hurried(1_000),
    ));
    until_stale(&readings, true).await;
    until_stale(&readings, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_reads_is_not_kept_and_makes_no_difference() {
    let fake = Fake::start().await;
    let full = |note: &str, image: &str| {
        pod(
            "a",
            json!({
                "metadata": {
                    "uid": "u", "managedFields": [{"manager": note}],
                    "annotations": {"ambient.istio.io/redirection": "enabled", "kubectl.kubernetes.io/last": note},
                },
                "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": image, "ports": [{"containerPort": 80}],
                    "readinessProbe": {"tcpSocket": {"port": 80}}}], "runtimeClassName": "kata", "os": {"name": "linux"}},
                "status": {"podIP": "10.0.0.1", "conditions": [
                    {"type": "Ready", "status": "True", "message": note}, {"type": "Other", "status": "True"},
                ]},
            }),
        )
    };
    fake.put(full("one", "image:1"));
    let mut readings = reading(&fake, &[Kind::Pod]);
    pods(&mut readings, 1).await;
    let before = readings.loaded.borrow_and_update().clone();
    let read = before.objects.pod("shop", "a").unwrap();
    assert_eq!(read.annotation("ambient.istio.io/redirection"), Some("enabled"));
    fake.put(full("two", "image:2"));
    fake.put(pod("b", json!({})));
    pods(&mut readings, 2).await;
    let after = readings.loaded.borrow().objects.pods.clone();
    assert!(std::sync::Arc::ptr_eq(after.values().next().unwrap(), read), "the same but for what is not read");
    let of_node = Cluster::new(fake.client()).of_node("node-1").hurried(HURRY);
    let mut readings = start(Box::new(of_node));
    until(&mut readings, "pods", |loaded| loaded.objects.pods.len() == 2).await;
    let loaded = readings.loaded.borrow().clone();
    let pod = loaded.objects.pods.get(&ObjectKey::pod("shop", "a")).unwrap();
    assert_eq!((&*pod.probed, &*pod.runtime_class, pod.is_windows), (&[80][..], "kata", false));
    assert!(fake.requests().iter().any(|request| request.contains("fieldSelector=spec.nodeName%3Dnode-1")));
}
