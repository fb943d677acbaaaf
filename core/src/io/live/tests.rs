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

fn complete() -> Live {
    let live = Live::new();
    live.apply(vec![Update::Complete]);
    live
}

#[test]
fn no_pod_is_shown_before_the_world_is_complete() {
    let live = Live::new();
    let mut view = live.subscribe(&pod("a"));
    live.apply(vec![workload("a", "v1"), policy("shop", "deny")]);
    assert!(!view.has_changed().unwrap() && view.borrow().workload.is_none());
    live.apply(vec![Update::Complete]);
    assert!(view.has_changed().unwrap());
    let shown = view.borrow_and_update().clone();
    assert!(shown.workload.is_some() && shown.policies.len() == 1);
    live.apply(vec![Update::Complete]);
    assert!(!view.has_changed().unwrap());
}

#[test]
fn only_changed_views_wake() {
    let live = complete();
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
    let live = complete();
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
    let live = complete();
    let (a, b) = (live.subscribe(&pod("a")), live.subscribe(&pod("a")));
    assert_eq!(live.views(), 1);
    drop(a);
    live.apply(vec![workload("x", "v1")]);
    assert_eq!(live.views(), 1);
    drop(b);
    live.apply(vec![]);
    assert_eq!(live.views(), 0);
}

/// Set when dropped, so that those who wait for the end see it even if a test fails before.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Subscribers start at every possible moment of a stream of batches; each must end up seeing the last one.
#[test]
fn no_batch_falls_between_subscribing_and_reading() {
    const BATCHES: usize = 500;
    /// What a reader keeps at most; more would only cost memory.
    const RECEIVERS: usize = 10_000;
    let live = complete();
    live.apply(vec![workload("a", "0")]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let _done = Done(&done);
            for batch in 1..=BATCHES {
                live.apply(vec![workload("a", &batch.to_string())]);
            }
        });
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut receivers = Vec::new();
                    while !done.load(Ordering::SeqCst) && receivers.len() < RECEIVERS {
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
    let live = complete();
    let mut view = live.subscribe(&pod("a"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let revision = |workload: &Workload| workload.canonical_revision.parse::<u32>().unwrap();
            loop {
                // Asked before looking for a change, so that after the last batch one look is enough.
                let last_look = done.load(Ordering::SeqCst);
                if !view.has_changed().unwrap() {
                    assert!(!last_look, "the last batch woke nobody");
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
        let finish = Done(&done);
        for batch in 1..=300 {
            live.apply(vec![workload("a", &batch.to_string())]);
        }
        drop(finish);
        reader.join().unwrap();
    });
}
