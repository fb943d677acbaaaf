//! What the controller asks of an API server and writes to it, and what it writes beside manifests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fairway_controller::serve::clients::Clients;
use fairway_controller::state::Published;
use fairway_controller::status::lease::Leadership;
use fairway_controller::status::{self, lease};
use fairway_controller::token::Verifier;
use fairway_controller::token::review::Reviewer;
use fairway_controller::translate::Settings;
use fairway_core::io::drain::{self, Mode};
use fairway_core::source::directory::load;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tonic::Code;
use tonic::metadata::MetadataMap;

use super::contract::policy;
use super::fake::{Fake, Lease};

pub(super) const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
pub(super) const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/fairway-system/leases";
const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_is_asked_about_a_token_once_in_a_while() {
    let fake = Fake::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    fake.answers(move |_, path, body| {
        if path != REVIEWS {
            return None;
        }
        count.fetch_add(1, Ordering::SeqCst);
        assert_eq!(body["spec"]["audiences"], json!(["istio-ca"]));
        let mut review = body.clone();
        review["status"] = match body["spec"]["token"].as_str() {
            Some("good") => json!({"authenticated": true, "audiences": ["istio-ca"],
                "user": {"username": "system:serviceaccount:shop:web"}}),
            _ => json!({"authenticated": false, "error": "it has expired"}),
        };
        Some((201, review))
    });
    let verifier = Verifier::Review(Box::new(Reviewer::new(fake.client(), "istio-ca")));
    let with_token = |token: &str| {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
        metadata
    };
    let ask =
        async |token: &str| soon(verifier.authenticate(&with_token(token), None, std::time::SystemTime::now())).await;
    for _ in 0..3 {
        let caller = ask("good").await.unwrap();
        assert_eq!((caller.namespace.as_str(), caller.service_account.as_str()), ("shop", "web"));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let refused = ask("bad").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("it has expired"), "{refused}");
    fake.gone(true);
    assert_eq!(ask("good").await.unwrap().namespace, "shop", "still believed");
    assert_eq!(ask("other").await.unwrap_err().code(), Code::Unavailable);
    assert!(
        !verifier.can_check(&with_token("other"), std::time::SystemTime::now()).await,
        "a client would not come back"
    );
    fake.gone(false);
    fake.refuse(REVIEWS, Some(403));
    fake.answers(|_, _, _| None);
    let forbidden = ask("another").await.unwrap_err();
    assert_eq!(forbidden.code(), Code::Unavailable);
    assert!(forbidden.message().contains("system:auth-delegator"), "{forbidden}");
}

fn published(policy: &Value) -> Arc<Published> {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("a.json"), policy.to_string()).unwrap();
    Arc::new(Published::default().next(Arc::new(load(root.path(), None)), &Settings::default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leads_applies_conditions_to_the_status() {
    let fake = Fake::start().await;
    let (sender, mut applied) = mpsc::unbounded_channel();
    fake.answers(move |method, path, body| {
        if method != "PATCH" {
            return None;
        }
        sender.send((path.to_owned(), body.clone())).unwrap();
        Some((200, body))
    });
    let (state, receiver) = watch::channel(published(&policy("deny", "DENY")));
    let (lead, leads) = watch::channel(None);
    let leads = Leadership::told(leads);
    let (trigger, drain) = drain::new();
    let writer = status::cluster::Cluster::new(fake.client(), leads);
    let keeping = tokio::spawn(status::keep(receiver, Clients::default(), BTreeSet::new(), writer, drain));
    state.send_modify(|_| ());
    lead.send_replace(Instant::now().checked_add(PATIENCE));
    let (path, body) = soon(applied.recv()).await.unwrap();
    assert_eq!(path, "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/deny/status");
    let condition = &body["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("ZtunnelAccepted"), &json!("True")));
    let request = fake.requests().into_iter().find(|request| request.contains("/status")).unwrap();
    assert!(request.contains("fieldManager=fairway-controller") && request.contains("force=true"), "{request}");
    // The same again is not written; what differs is.
    state.send_replace(published(&policy("deny", "DENY")));
    state.send_replace(published(&policy("deny", "MAYBE")));
    let (_, body) = soon(applied.recv()).await.unwrap();
    let condition = &body["status"]["conditions"][0];
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Invalid")));
    assert!(condition["message"].as_str().unwrap().contains("spec.action"), "{condition}");
    // Who does not lead any more does not write.
    lead.send_replace(None);
    state.send_replace(published(&policy("deny", "ALLOW")));
    trigger.start(Mode::Graceful);
    soon(keeping).await.unwrap();
    assert!(applied.try_recv().is_err());
}

/// What others said since it was read stays, and nothing is written over what they say at the same moment.
#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_route_is_written_beside_what_others_say_now() {
    const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/way";
    let spec = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": []});
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "way", "namespace": "shop", "generation": 1}, "spec": spec,
    });
    let fake = Fake::start().await;
    let (sender, mut applied) = mpsc::unbounded_channel();
    let (mut version, held) = (0, route.clone());
    fake.answers(move |method, path, body| match (method, path) {
        ("GET", ROUTE) => {
            version += 1;
            let mut now = held.clone();
            now["metadata"]["resourceVersion"] = json!(version.to_string());
            now["status"]["parents"] = json!([{"controllerName": "another", "conditions": [], "version": version}]);
            Some((200, now))
        }
        ("PATCH", _) => {
            sender.send(body.clone()).unwrap();
            let late = json!({"kind": "Status", "code": 409, "reason": "Conflict", "message": "too late"});
            Some(if version < 3 { (409, late) } else { (200, body) })
        }
        _ => None,
    });
    let (_state, receiver) = watch::channel(published(&route));
    let (_lead, leads) = watch::channel(Instant::now().checked_add(PATIENCE));
    let leads = Leadership::told(leads);
    let (_trigger, drain) = drain::new();
    let writer = status::cluster::Cluster::new(fake.client(), leads);
    tokio::spawn(status::keep(receiver, Clients::default(), BTreeSet::new(), writer, drain));
    for version in 1..=3 {
        let body = soon(applied.recv()).await.unwrap();
        assert_eq!(body["metadata"]["resourceVersion"], version.to_string());
        let parents = body["status"]["parents"].as_array().unwrap();
        assert_eq!((&parents[0]["controllerName"], &parents[0]["version"]), (&json!("another"), &json!(version)));
        assert_eq!(parents[1]["controllerName"], "fairway.dev/controller");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_written_beside_the_manifests_and_read_back() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("a.json"), policy("deny", "DENY").to_string()).unwrap();
    let mut readings = fairway_core::source::directory::watch(root.path());
    let first = Published::default().next(readings.borrow_and_update().clone(), &Settings::default());
    let (state, receiver) = watch::channel(Arc::new(first.clone()));
    let (trigger, drain) = drain::new();
    let keeping = tokio::spawn(status::keep(
        receiver,
        Clients::default(),
        BTreeSet::new(),
        status::directory::Directory::new(root.path()),
        drain,
    ));
    let loaded = soon(
        readings
            .wait_for(|loaded| loaded.objects.authorization_policies.values().all(|policy| policy.status.is_some())),
    )
    .await
    .unwrap()
    .clone();
    let second = first.next(loaded, &Settings::default());
    assert_eq!(second.world.generation, first.world.generation, "proxies hear nothing of it");
    state.send_replace(Arc::new(second));
    std::fs::remove_file(root.path().join("a.json")).unwrap();
    let loaded =
        soon(readings.wait_for(|loaded| loaded.objects.authorization_policies.is_empty())).await.unwrap().clone();
    state.send_replace(Arc::new(first.next(loaded, &Settings::default())));
    let overlay = root.path().join(".status/controller/AuthorizationPolicy_shop_deny.yaml");
    soon(async {
        while overlay.exists() {
            // Nobody tells; it is looked at again.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    trigger.start(Mode::Graceful);
    soon(keeping).await.unwrap();
}

/// Waits until a replica may write.
async fn leads(leadership: &mut Leadership) {
    while !leadership.may_write() {
        leadership.changed().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_leads_and_hands_over_when_it_ends() {
    let fake = Fake::start().await;
    let lease = Lease::default();
    fake.answers(move |method, path, body| path.starts_with(LEASES).then(|| lease.answer(method, body)));
    let (first_trigger, first_drain) = drain::new();
    let mut first = lease::strive(fake.client(), "fairway-system", "first".to_owned(), first_drain);
    soon(leads(&mut first)).await;
    let (second_trigger, second_drain) = drain::new();
    let mut second = lease::strive(fake.client(), "fairway-system", "second".to_owned(), second_drain);
    let asked = |count: usize| fake.requests().iter().filter(|request| request.starts_with(LEASES)).count() >= count;
    soon(async {
        while !asked(5) {
            // Nobody tells; it is looked at again.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(first.may_write() && !second.may_write());
    first_trigger.start(Mode::Graceful);
    soon(leads(&mut second)).await;
    assert!(!first.may_write());
    second_trigger.start(Mode::Graceful);
}
