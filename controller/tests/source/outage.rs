//! An API server that is away for an hour and remembers nothing when it is back, by a clock that nobody waits for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fairway_controller::kept::Store;
use fairway_controller::metrics::Metrics;
use fairway_controller::state::{Published, Publisher, publish};
use fairway_controller::translate::Settings;
use fairway_core::io::drain;
use fairway_core::source::cluster::{Cluster, Selection};
use fairway_core::source::{Kind, Loaded};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::contract::{pod, policy, start};
use super::fake::Fake;

const HOUR: Duration = Duration::from_secs(3_600);

/// What proxies are told: workloads, and how many policies.
fn told(published: &Published) -> (Vec<String>, usize) {
    let desired = published.desired();
    (desired.workloads.keys().map(|name| name.rsplit('/').next().unwrap().to_owned()).collect(), desired.policies.len())
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_an_api_server_that_then_remembers_nothing_withdraws_nothing() {
    let fake = Fake::start().await;
    let address = |last: u8| json!({"status": {"podIP": format!("10.0.0.{last}")}});
    for (name, last) in [("a", 1), ("b", 2), ("c", 3)] {
        fake.put(pod(name, address(last)));
    }
    fake.put(policy("deny", "DENY"));
    let kinds = [Kind::Pod, Kind::AuthorizationPolicy].map(|kind| Selection { kind, fields: String::new() });
    let readings = start(Box::new(Cluster::new(fake.client_without_sockets()).selecting(kinds.into())));
    let freshness = readings.freshness.clone();
    let stale_for = || freshness.stale_for(Instant::now().into_std());
    let state = tempfile::tempdir().unwrap();
    let (_keys, keys) = watch::channel(Arc::default());
    let (store, _) = Store::open(state.path());
    let publisher = Publisher::new(&Loaded::remembered(&[]), store, Settings::default(), Metrics::new(), keys);
    let (_trigger, drain) = drain::new();
    let mut published = publish(readings.loaded, publisher, drain);
    let all = (["a", "b", "c"].map(str::to_owned).to_vec(), 1);
    let before = published.wait_for(|state| told(state) == all).await.unwrap().world.generation;
    assert_eq!(stale_for(), None);

    let mut seen = published.clone();
    let watcher = tokio::spawn(async move {
        let mut states = BTreeSet::new();
        loop {
            let state = told(&seen.borrow_and_update());
            states.insert(state.clone());
            if state.0 == ["c", "d"] {
                return states;
            }
            seen.changed().await.unwrap();
        }
    });
    fake.gone(true);
    // Only time will do, and the clock stands still but for this.
    tokio::time::sleep(HOUR).await;
    assert_eq!(published.borrow().world.generation, before, "nothing that proxies should hold has changed");
    assert!(stale_for().is_some_and(|stale| stale > HOUR - Duration::from_secs(60)), "{freshness:?}");
    assert!(!published.borrow().loaded.errors.is_empty(), "operators are told");

    fake.delete(&pod("a", json!({})));
    fake.delete(&pod("b", json!({})));
    fake.put(pod("d", address(4)));
    // What was watched cannot be gone on from: the answer is 410.
    fake.forget();
    fake.gone(false);
    let states = tokio::time::timeout(HOUR, watcher).await.unwrap().unwrap();
    let after = (["c", "d"].map(str::to_owned).to_vec(), 1);
    assert_eq!(states, BTreeSet::from([all, after]), "from one to the other at once");
    published.wait_for(|state| state.loaded.errors.is_empty()).await.unwrap();
    assert_eq!(stale_for(), None);
}
