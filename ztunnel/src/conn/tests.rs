//! Tests of `conn`: whenever a policy changes, the connection follows, and nothing falls between asking and watching.

use std::cell::Cell;
use std::future::{pending, ready};
use std::sync::Barrier;
use std::sync::mpsc;
use std::time::Duration;

use fairway_core::ident::Identity;
use fairway_core::io::drain::{self, Mode, Trigger};
use fairway_core::io::live::Live;
use fairway_core::io::metrics::Metrics;
use fairway_core::policy::Policy;
use fairway_core::reason::Reason;
use fairway_core::snapshot::{PodRef, Update};
use fairway_core::workload::Workload;
use fairway_proto::security::string_match::MatchType;
use fairway_proto::security::{Action, Authorization, Clause, Match, Rule, Scope, StringMatch};
use fairway_proto::workload as proto;
use futures_util::FutureExt;

use super::*;
use crate::telemetry::Telemetry;

/// Generous: only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(30);
const CLIENT: &str = "cluster.local/ns/shop/sa/client";
const SOMEBODY_ELSE: &str = "cluster.local/ns/shop/sa/other";
const UID: &str = "Kubernetes//Pod/shop/server";

fn server(listed: &[&str]) -> Update {
    let message = proto::Workload {
        uid: UID.to_owned(),
        name: "server".to_owned(),
        namespace: "shop".to_owned(),
        node: "node-2".to_owned(),
        service_account: "server".to_owned(),
        authorization_policies: listed.iter().map(|key| (*key).to_owned()).collect(),
        ..Default::default()
    };
    Workload::try_from(message).unwrap().into()
}

fn policy(name: &str, scope: Scope, action: Action, principal: &str) -> Update {
    let principals = vec![StringMatch { match_type: Some(MatchType::Exact(principal.to_owned())) }];
    let matches = vec![Match { principals, ..Match::default() }];
    let message = Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: scope.into(),
        action: action.into(),
        rules: vec![Rule { clauses: vec![Clause { matches }] }],
        ..Authorization::default()
    };
    Policy::try_from(message).unwrap().into()
}

/// Denies the client in the whole namespace.
fn deny() -> Update {
    policy("deny", Scope::Namespace, Action::Deny, CLIENT)
}

fn allow(name: &str, principal: &str) -> Update {
    policy(name, Scope::Namespace, Action::Allow, principal)
}

fn removed(name: &str) -> Update {
    Update::RemovePolicy(PolicyKey::new("shop", name))
}

fn world() -> Live {
    let live = Live::new();
    live.apply(vec![server(&[]), Update::Complete]);
    live
}

fn view(live: &Live) -> watch::Receiver<Arc<PodView>> {
    live.subscribe(&PodRef {
        node: Some("node-2".into()),
        namespace: "shop".into(),
        name: "server".into(),
        service_account: "server".into(),
    })
}

fn identified(live: &Live) -> Identified {
    counted(live, &Metrics::default())
}

/// As [`identified`], with the matches of policies in dry run counted in `metrics`.
fn counted(live: &Live, metrics: &Metrics) -> Identified {
    let facts = ConnectionFacts {
        source: "10.101.0.2:40000".parse().unwrap(),
        source_identity: Some(Identity::new("cluster.local", "shop", "client").unwrap()),
        original: None,
        destination: "10.102.0.2:7000".parse().unwrap(),
        http: None,
    };
    Identified::new(facts, view(live), Telemetry::new(metrics).dry_run())
}

fn authorized(live: &Live) -> Authorized {
    identified(live).authorize().map_err(|denial| denial.to_string()).unwrap()
}

/// A drain nobody starts, for as long as the trigger is held.
fn no_drain() -> (Trigger, Drain) {
    drain::new()
}

fn denial(cut: Result<(), Cut>) -> Denial {
    match cut {
        Err(Cut::Denied(denial)) => denial,
        other => panic!("not denied: {other:?}"),
    }
}

fn is_deny(denial: &Denial) -> bool {
    denial.reason == Reason::PolicyDenied && denial.policy == Some(PolicyKey::new("shop", "deny"))
}

/// The DENY arrives before each step in turn: the connection is refused, or cut as soon as it is looked at.
#[tokio::test]
async fn a_policy_that_arrives_at_any_step_is_obeyed() {
    const STEPS: usize = 5;
    for arrives in 0..=STEPS {
        let live = world();
        let (_trigger, drain) = no_drain();
        let at = |step| {
            if arrives == step {
                live.apply(vec![deny()]);
            }
        };
        at(0);
        let identified = identified(&live);
        at(1);
        let mut authorized = match identified.authorize() {
            Ok(authorized) => authorized,
            Err(denial) => {
                assert!(arrives < 2 && is_deny(&denial), "{arrives}: {denial:?}");
                continue;
            }
        };
        at(2);
        let open = authorized.while_allowed(drain, pending(), |_| {});
        at(3);
        pin!(open);
        if arrives > 3 {
            assert!(open.as_mut().now_or_never().is_none(), "{arrives}: cut for nothing");
        }
        at(4);
        if arrives > 4 {
            // Looked at twice, to see that being looked at does no harm.
            assert!(open.as_mut().now_or_never().is_none(), "{arrives}: cut for nothing");
        }
        at(5);
        let cut = open.now_or_never().unwrap_or_else(|| panic!("{arrives}: still open"));
        assert!(is_deny(&denial(cut)), "{arrives}");
    }
}

/// Another thread applies the DENY while the connection is asked about, at ever other moments. Whoever wins, the
/// connection does not stay open.
#[test]
fn no_update_falls_between_subscribing_and_deciding() {
    const ROUNDS: usize = 10_000;
    let live = world();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (rounds, told) = mpsc::channel::<usize>();
    let (both_start, both_done) = (Barrier::new(2), Barrier::new(2));
    let (mut refused, mut cut) = (0_usize, 0_usize);
    std::thread::scope(|scope| {
        let (live, both_start, both_done) = (&live, &both_start, &both_done);
        scope.spawn(move || {
            for round in told {
                let batches = arrival(round);
                both_start.wait();
                linger(round / 4 % 8);
                batches.into_iter().for_each(|batch| drop(live.apply(batch)));
                both_done.wait();
            }
        });
        // Moved here, so that the other thread ends with this one, also when a check fails.
        let rounds = rounds;
        for round in 0..ROUNDS {
            rounds.send(round).unwrap();
            both_start.wait();
            linger(round / 32 % 8);
            let identified = identified(live);
            linger(round / 64 % 8);
            let ended = match identified.authorize() {
                Err(denial) => {
                    refused += 1;
                    Some(denial)
                }
                Ok(mut authorized) => {
                    cut += 1;
                    linger(round / 128 % 8);
                    let (_trigger, drain) = no_drain();
                    let open = authorized.while_allowed(drain, pending(), |_| {});
                    runtime.block_on(async { tokio::time::timeout(PATIENCE, open).await }).ok().map(denial)
                }
            };
            both_done.wait();
            let ended = ended.unwrap_or_else(|| panic!("round {round}: left open"));
            assert!(is_deny(&ended) || ended.reason == Reason::PolicyUnknown, "round {round}: {ended:?}");
            live.apply(vec![server(&[]), removed("deny")]);
        }
    });
    println!("{refused} refused before they opened, {cut} cut after");
    assert_eq!(refused + cut, ROUNDS);
}

/// The ways in which a DENY reaches a pod: by namespace, or attached by a selector, in one batch or in two.
fn arrival(round: usize) -> Vec<Vec<Update>> {
    let by_selector = policy("deny", Scope::WorkloadSelector, Action::Deny, CLIENT);
    let listing = server(&["shop/deny"]);
    match round % 4 {
        0 => vec![vec![deny()]],
        1 => vec![vec![by_selector, listing]],
        2 => vec![vec![by_selector], vec![listing]],
        // The workload names a policy that is yet to come: refused from the first batch on.
        _ => vec![vec![listing], vec![by_selector]],
    }
}

/// Passes a little time that is different in each round.
fn linger(turns: usize) {
    for _ in 0..turns * 40 {
        std::hint::spin_loop();
    }
}

#[tokio::test]
async fn policies_that_do_not_deny_it_come_and_go() {
    let live = world();
    let (_trigger, drain) = no_drain();
    let mut connection = authorized(&live);
    assert_eq!(connection.allowed_by(), None);
    let told = std::cell::RefCell::new(Vec::new());
    {
        let tell = |policy: Option<PolicyKey>| told.borrow_mut().push(policy.map(|key| key.to_string()));
        let open = connection.while_allowed(drain.clone(), pending::<()>(), tell);
        pin!(open);
        for batch in [
            vec![policy("other", Scope::Namespace, Action::Deny, SOMEBODY_ELSE)],
            vec![allow("first", CLIENT)],
            vec![allow("second", CLIENT)],
            vec![removed("first")],
            vec![removed("other"), server(&["shop/listed"]), {
                policy("listed", Scope::WorkloadSelector, Action::Allow, CLIENT)
            }],
        ] {
            live.apply(batch.clone());
            assert!(open.as_mut().now_or_never().is_none(), "cut by {batch:?}");
        }
    }
    assert_eq!(connection.allowed_by().map(PolicyKey::as_str), Some("shop/listed"));
    let names: Vec<_> = told.into_inner().into_iter().map(Option::unwrap).collect();
    assert_eq!(names, ["shop/first", "shop/second", "shop/listed"], "told when another one allows it, and only then");
    // Now one of them is needed, so an edit that drops the client cuts it, in nobody's name.
    live.apply(vec![removed("second"), policy("listed", Scope::WorkloadSelector, Action::Allow, SOMEBODY_ELSE)]);
    let denial = denial(connection.while_allowed(drain, pending(), |_| {}).now_or_never().unwrap());
    assert_eq!((denial.reason, denial.policy), (Reason::PolicyNotAllowed, None));
}

#[tokio::test]
async fn a_pod_that_vanishes_from_the_configuration_keeps_the_last_answer() {
    let live = world();
    let (_trigger, drain) = no_drain();
    let mut authorized = authorized(&live);
    let open = authorized.while_allowed(drain, pending(), |_| {});
    pin!(open);
    live.apply(vec![Update::RemoveAddress(UID.to_owned())]);
    assert!(open.as_mut().now_or_never().is_none(), "cut although nothing is known to deny it");
    // New ones are refused meanwhile.
    let reason = identified(&live).authorize().err().unwrap().reason;
    assert_eq!(reason, Reason::WorkloadUnknown);
    // A policy that arrives while nobody knows whom it is for counts as soon as the pod is back.
    live.apply(vec![deny()]);
    assert!(open.as_mut().now_or_never().is_none());
    live.apply(vec![server(&[])]);
    assert!(is_deny(&denial(open.now_or_never().unwrap())));
}

/// The workload names a policy that is yet to come: new connections are refused, open ones wait for it.
#[tokio::test(start_paused = true)]
async fn a_policy_that_is_listed_is_waited_for_but_not_for_long() {
    let late = |principal| policy("late", Scope::WorkloadSelector, Action::Deny, principal);
    for arrives in [None, Some(CLIENT), Some(SOMEBODY_ELSE)] {
        let live = world();
        let (_trigger, drain) = no_drain();
        let mut authorized = authorized(&live);
        let open = authorized.while_allowed(drain, pending(), |_| {});
        pin!(open);
        live.apply(vec![server(&["shop/late"])]);
        assert!(open.as_mut().now_or_never().is_none(), "cut before the policy could arrive");
        assert_eq!(identified(&live).authorize().err().unwrap().reason, Reason::PolicyUnknown);
        if let Some(principal) = arrives {
            live.apply(vec![late(principal)]);
        }
        // Time is paused: it passes at once, and no further than to the next timer.
        let ended = tokio::time::timeout(PATIENCE, open).await;
        let expected = match arrives {
            None => Some(Reason::PolicyUnknown),
            Some(CLIENT) => Some(Reason::PolicyDenied),
            Some(_) => None,
        };
        let found = ended.ok().map(denial);
        assert_eq!(found.as_ref().map(|denial| denial.reason), expected, "{arrives:?}");
        if let Some(denial) = found {
            assert_eq!(denial.policy, Some(PolicyKey::new("shop", "late")));
        }
    }
}

#[tokio::test]
async fn only_an_immediate_drain_cuts() {
    let live = world();
    let (trigger, drain) = no_drain();
    let mut authorized = authorized(&live);
    let open = authorized.while_allowed(drain, pending::<()>(), |_| {});
    pin!(open);
    trigger.start(Mode::Graceful);
    assert!(open.as_mut().now_or_never().is_none(), "a graceful drain lets open connections finish");
    trigger.start(Mode::Immediate);
    assert!(matches!(open.now_or_never(), Some(Err(Cut::Drained))));
}

#[tokio::test]
async fn a_drain_whose_owner_is_gone_cuts() {
    let live = world();
    let (trigger, drain) = no_drain();
    let mut authorized = authorized(&live);
    drop(trigger);
    assert!(matches!(authorized.while_allowed(drain, pending::<()>(), |_| {}).now_or_never(), Some(Err(Cut::Drained))));
}

#[tokio::test]
async fn without_a_publisher_the_connection_goes_on_until_it_ends_or_is_drained() {
    let live = world();
    let (trigger, drain) = no_drain();
    let (mut one, mut other) = (authorized(&live), authorized(&live));
    drop(live);
    assert_eq!(one.while_allowed(drain.clone(), ready(7), |_| {}).await.unwrap(), 7);
    let open = other.while_allowed(drain, pending::<()>(), |_| {});
    pin!(open);
    assert!(open.as_mut().now_or_never().is_none());
    trigger.start(Mode::Immediate);
    assert!(matches!(open.now_or_never(), Some(Err(Cut::Drained))));
}

#[tokio::test]
async fn work_that_ends_gives_its_result_unless_policy_was_first() {
    let live = world();
    let (trigger, drain) = no_drain();
    let (mut one, mut other) = (authorized(&live), authorized(&live));
    assert_eq!(one.while_allowed(drain.clone(), ready("done"), |_| {}).await.unwrap(), "done");
    // Everything at once: the policy's name is what the operator wants to read.
    live.apply(vec![deny()]);
    trigger.start(Mode::Immediate);
    assert!(is_deny(&denial(other.while_allowed(drain, ready(()), |_| {}).now_or_never().unwrap())));
}

/// The caller resets sockets after the cut, so nothing may still be copying between them.
#[tokio::test]
async fn the_work_is_dropped_before_the_cut_is_told() {
    struct Work<'a>(&'a Cell<bool>);
    impl Drop for Work<'_> {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    for drained in [false, true] {
        let live = world();
        let (trigger, drain) = no_drain();
        let mut authorized = authorized(&live);
        let dropped = Cell::new(false);
        let work = Work(&dropped);
        let working = async move {
            let _work = work;
            pending::<()>().await;
        };
        let open = authorized.while_allowed(drain, working, |_| {});
        pin!(open);
        assert!(open.as_mut().now_or_never().is_none());
        assert!(!dropped.get(), "dropped while the connection is open");
        if drained {
            trigger.start(Mode::Immediate);
        } else {
            live.apply(vec![deny()]);
        }
        // The future itself is still there, pinned: what it held is not.
        assert!(open.as_mut().now_or_never().unwrap().is_err());
        assert!(dropped.get(), "still running after the cut");
    }
}

/// A policy that is only tried counts at the first decision and when it comes later, and denies nobody.
#[tokio::test]
async fn policies_in_dry_run_are_counted_and_do_not_cut() {
    let tried = |name: &str| {
        let Update::Policy(mut policy) = policy(name, Scope::Namespace, Action::Deny, CLIENT) else { panic!() };
        policy.dry_run = true;
        Update::Policy(policy)
    };
    let (live, metrics) = (world(), Metrics::default());
    live.apply(vec![tried("first")]);
    let mut authorized = counted(&live, &metrics).authorize().map_err(|denial| denial.to_string()).unwrap();
    let (_trigger, drain) = no_drain();
    let count = |name: &str| {
        let series = format!("fairway_policy_dry_run_matches_total{{policy=\"shop/{name}\",action=\"deny\"}} ");
        metrics.render().lines().find_map(|line| line.strip_prefix(&series).map(ToOwned::to_owned))
    };
    assert_eq!([count("first"), count("second")], [Some("1".to_owned()), None]);
    let open = authorized.while_allowed(drain, pending::<()>(), |_| {});
    pin!(open);
    assert!(open.as_mut().now_or_never().is_none());
    live.apply(vec![tried("second")]);
    assert!(open.now_or_never().is_none(), "a policy in dry run cut the connection");
    assert_eq!([count("first"), count("second")], [Some("1".to_owned()), Some("1".to_owned())]);
}
