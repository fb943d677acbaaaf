//! Tests of `live`.

use std::sync::atomic::{AtomicBool, Ordering};

use fairway_proto::{security, workload as proto};

use super::*;
use crate::policy::{Policy, PolicyKey};
use crate::workload::Workload;

fn workload(name: &str, revision: &str) -> Update {
    let message = proto::Workload {
        uid: format!("Kubernetes//Pod/shop/{name}"),
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        node: "node-1".to_owned(),
        canonical_revision: revision.to_owned(),
        service_account: "web".to_owned(),
        ..Default::default()
    };
    Workload::try_from(message).unwrap().into()
}

fn policy(namespace: &str, name: &str) -> Update {
    let message = security::Authorization {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        scope: security::Scope::Namespace.into(),
        action: security::Action::Deny.into(),
        ..Default::default()
    };
    Policy::try_from(message).unwrap().into()
}

fn pod(name: &str) -> PodRef {
    PodRef { node: Some("node-1".into()), namespace: "shop".into(), name: name.into(), service_account: "web".into() }
}

#[test]
fn only_changed_views_wake() {
    let live = Live::new();
    let (mut a, mut b) = (live.subscribe(&pod("a")), live.subscribe(&pod("b")));
    live.apply(vec![workload("a", "v1"), workload("b", "v1")]);
    assert!(a.has_changed().unwrap() && b.has_changed().unwrap());
    a.mark_unchanged();
    b.mark_unchanged();

    live.apply(vec![workload("a", "v2")]);
    assert!(a.has_changed().unwrap() && !b.has_changed().unwrap());
    a.mark_unchanged();

    live.apply(vec![policy("shop", "deny")]);
    assert!(a.has_changed().unwrap() && b.has_changed().unwrap());
    assert_eq!(b.borrow_and_update().policies.len(), 1);
    a.mark_unchanged();

    live.apply(vec![policy("elsewhere", "deny"), policy("shop", "deny"), workload("b", "v1")]);
    assert!(!a.has_changed().unwrap() && !b.has_changed().unwrap(), "nothing that decides for them changed");

    live.apply(vec![Update::RemovePolicy(PolicyKey::new("shop", "deny"))]);
    assert!(a.has_changed().unwrap() && b.has_changed().unwrap());
}

#[test]
fn versions_move_only_with_the_world() {
    let live = Live::new();
    let mut versions = live.versions();
    live.apply(vec![workload("a", "v1")]);
    assert!(versions.has_changed().unwrap());
    let version = *versions.borrow_and_update();
    assert_eq!(version, live.snapshot().version());
    live.apply(vec![workload("a", "v1")]);
    assert!(!versions.has_changed().unwrap());
}

#[test]
fn unused_views_are_dropped() {
    let live = Live::new();
    let (a, b) = (live.subscribe(&pod("a")), live.subscribe(&pod("a")));
    assert_eq!(live.views(), 1);
    drop(a);
    live.apply(vec![workload("x", "v1")]);
    assert_eq!(live.views(), 1);
    drop(b);
    live.apply(vec![]);
    assert_eq!(live.views(), 0);
}

/// Subscribers start at every possible moment of a stream of batches; each must end up seeing the last one.
#[test]
fn no_batch_falls_between_subscribing_and_reading() {
    const BATCHES: usize = 500;
    let live = Live::new();
    live.apply(vec![workload("a", "0")]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for batch in 1..=BATCHES {
                live.apply(vec![workload("a", &batch.to_string())]);
            }
            done.store(true, Ordering::SeqCst);
        });
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut receivers = Vec::new();
                    while !done.load(Ordering::SeqCst) {
                        let mut view = live.subscribe(&pod("a"));
                        let seen = Arc::clone(&view.borrow_and_update());
                        receivers.push((view, seen));
                        std::thread::yield_now();
                    }
                    receivers
                })
            })
            .collect();
        writer.join().unwrap();
        for reader in readers {
            for (mut view, mut seen) in reader.join().unwrap() {
                if view.has_changed().unwrap() {
                    seen = Arc::clone(&view.borrow_and_update());
                }
                assert_eq!(*seen.workload.as_ref().unwrap().canonical_revision, *BATCHES.to_string());
            }
        }
    });
}

/// Whoever is woken must find a snapshot at least as new as the view that woke it.
#[test]
fn the_snapshot_is_never_older_than_a_view() {
    let live = Live::new();
    let mut view = live.subscribe(&pod("a"));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let revision = |workload: &Workload| workload.canonical_revision.parse::<u32>().unwrap();
            loop {
                if !view.has_changed().unwrap() {
                    std::thread::yield_now();
                    continue;
                }
                let seen = revision(view.borrow_and_update().workload.as_ref().unwrap());
                let current = revision(live.snapshot().find_pod(&pod("a")).unwrap());
                assert!(current >= seen, "{current} {seen}");
                if seen == 300 {
                    return;
                }
            }
        });
        for batch in 1..=300 {
            live.apply(vec![workload("a", &batch.to_string())]);
        }
        reader.join().unwrap();
    });
}
