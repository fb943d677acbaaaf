//! The certificate authority in a Secret that replicas share.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairway_controller::ca::keeper::{self, Place};
use fairway_controller::ca::{root, secret};
use fairway_controller::metrics::Metrics;
use fairway_core::io::drain;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::fake::Fake;

const COLLECTION: &str = "/api/v1/namespaces/fairway-system/secrets";
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(100);

/// Answers about the one secret as an API server does; who asks first here finds none, whether there is one or not.
fn hold(fake: &Fake, held: &Arc<Mutex<Option<Value>>>) {
    let (answering, mut asked) = (Arc::clone(held), 0);
    fake.answers(move |method, path, body| {
        let mut held = answering.lock().unwrap();
        let absent = json!({"kind": "Status", "code": 404, "message": "not found", "reason": "NotFound"});
        match (method, path) {
            ("GET", path) if path == format!("{COLLECTION}/fairway-ca") => {
                asked += 1;
                Some(held.clone().filter(|_| asked > 1).map_or((404, absent), |held: Value| (200, held)))
            }
            ("POST", COLLECTION) if held.is_some() => {
                Some((409, json!({"kind": "Status", "code": 409, "message": "exists", "reason": "AlreadyExists"})))
            }
            ("POST", COLLECTION) => {
                *held = Some(body.clone());
                Some((201, body))
            }
            _ => None,
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_that_start_at_once_one_makes_the_root_and_both_follow_it() {
    // A door to the API server for each, so that both find no secret, whoever comes first.
    let (fakes, held) = ([Fake::start().await, Fake::start().await], Arc::default());
    fakes.iter().for_each(|fake| hold(fake, &held));
    let state = tempfile::tempdir().unwrap();
    let (_trigger, drain) = drain::new();
    let replica = |fake: &Fake, name: &str| {
        let (client, namespace) = (fake.client(), "fairway-system".to_owned());
        let place = secret::Place { client, namespace, name: "fairway-ca".to_owned() };
        let place = Place::Shared(place, state.path().join(name));
        keeper::keep(place, "cluster.local".to_owned(), Metrics::new(), drain.clone())
    };
    let (one, other) =
        tokio::time::timeout(PATIENCE, async { tokio::join!(replica(&fakes[0], "one"), replica(&fakes[1], "other")) })
            .await
            .unwrap();
    let (mut one, mut other) = (one.unwrap(), other.unwrap());
    let pem = one.borrow().roots_pem().to_owned();
    assert_eq!(pem, other.borrow().roots_pem());
    // Somebody puts another one beside it.
    let next = root::open(&state.path().join("next"), OffsetDateTime::now_utc()).unwrap();
    let mut changed = held.lock().unwrap().clone().unwrap();
    let both = [pem.as_bytes(), &next["root-cert.pem"]].concat();
    changed["data"]["root-cert.pem"] = json!(STANDARD.encode(both));
    changed["metadata"]["resourceVersion"] = json!("100");
    let telling = async {
        loop {
            let event = json!({"type": "MODIFIED", "object": changed.clone()});
            fakes.iter().for_each(|fake| fake.say(COLLECTION, event.clone()));
            // Again and again: nothing says when a watch has begun, and who does not watch yet is not told.
            tokio::time::sleep(AGAIN).await;
        }
    };
    let told = async {
        for current in [&mut one, &mut other] {
            current.wait_for(|signer| signer.root_count() == 2).await.unwrap();
        }
    };
    let told = async {
        tokio::select! { () = telling => {}, () = told => {} }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
}
