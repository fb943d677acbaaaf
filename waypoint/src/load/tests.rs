//! Tests of who is next, and of how many at a time.

use std::time::Duration;

use super::*;
use crate::config::{Bounds, Budget, Outliers, WarmUp};

const SECOND: Duration = Duration::from_secs(1);

fn endpoint(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn endpoints(ports: &[&[u16]]) -> Arc<Assignment> {
    let all = |ports: &&[u16]| ports.iter().map(|port| endpoint(*port)).collect();
    Arc::new(Assignment { priorities: ports.iter().map(all).collect(), weights: Vec::new() })
}

fn cluster(balancer: Balancer) -> Cluster {
    Cluster { balancer, ..Cluster::named("c") }
}

/// The ports that are next four times, drawing the numbers 0, 1, 2 and so on.
fn next(load: &Load, cluster: &Cluster, all: &Arc<Assignment>, tried: &[u16], hash: Option<u64>) -> Vec<u16> {
    let tried: Vec<_> = tried.iter().map(|port| endpoint(*port)).collect();
    let wanted = Wanted { hash, session: None, tried: &tried, now: Instant::now() };
    let mut number = 0;
    let mut draw = |count: usize| {
        number += 1;
        (number - 1) % count
    };
    (0..4).filter_map(|_| load.pick(cluster, all, &wanted, &mut draw)).map(|endpoint| endpoint.port()).collect()
}

#[test]
fn turns_go_round_and_leave_out_what_was_tried() {
    let (load, cluster) = (Load::default(), cluster(Balancer::RoundRobin));
    let ports = |all: &Arc<Assignment>, tried: &[u16]| next(&load, &cluster, all, tried, None);
    let two = endpoints(&[&[1, 2], &[3]]);
    assert_eq!(ports(&two, &[]), [1, 2, 1, 2]);
    assert_eq!(ports(&two, &[1]), [2, 2, 2, 2]);
    assert_eq!(ports(&two, &[1, 2]), [3, 3, 3, 3]);
    assert_eq!(ports(&two, &[1, 2, 3]), [1, 2, 1, 2], "rather one that failed than none");
    assert_eq!(ports(&endpoints(&[&[], &[3]]), &[]), [3, 3, 3, 3]);
    assert_eq!(ports(&endpoints(&[&[]]), &[]), Vec::<u16>::new());
}

#[test]
fn of_two_the_one_with_less_to_do_is_next() {
    let (load, cluster) = (Load::default(), cluster(Balancer::LeastRequest));
    let two = endpoints(&[&[1, 2]]);
    let busy = [load.busy(&cluster, endpoint(1)), load.busy(&cluster, endpoint(1)), load.busy(&cluster, endpoint(2))];
    assert_eq!(next(&load, &cluster, &two, &[], None), [2, 2, 2, 2]);
    assert_eq!(next(&load, &cluster, &two, &[2], None), [1, 1, 1, 1]);
    drop(busy);
    assert_eq!(next(&load, &cluster, &two, &[], None), [1, 1, 1, 1], "the first drawn where both are idle");
    assert_eq!(load.busy(&super::tests::cluster(Balancer::Random), endpoint(1)).map(drop), None);
}

#[test]
fn what_is_drawn_is_next() {
    for balancer in [Balancer::Random, Balancer::Ring(64), Balancer::Table(7)] {
        let load = Load::default();
        assert_eq!(next(&load, &cluster(balancer), &endpoints(&[&[1, 2, 3]]), &[], None), [1, 2, 3, 1]);
    }
}

#[test]
fn what_belongs_together_goes_to_one_endpoint() {
    for balancer in [Balancer::Ring(64), Balancer::Table(67)] {
        let (load, cluster, all) = (Load::default(), cluster(balancer), endpoints(&[&[1, 2, 3], &[4]]));
        for key in 0..20_u64 {
            let hash = Some(hash(&key.to_be_bytes()));
            let found = next(&load, &cluster, &all, &[], hash);
            assert!(found.iter().all(|port| *port == found[0]), "{found:?}");
            let other = next(&load, &cluster, &all, &found[..1], hash);
            assert!(other[0] != found[0] && other[0] != 4 && other.iter().all(|port| *port == other[0]), "{other:?}");
            assert_eq!(next(&load, &cluster, &all, &[1, 2, 3], hash), [4; 4]);
        }
        let fewer = endpoints(&[&[7]]);
        assert_eq!(next(&load, &cluster, &fewer, &[], Some(1)), [7; 4], "of the endpoints that there are now");
    }
}

#[test]
fn who_keeps_failing_is_left_out_until_too_few_are_left() {
    let outliers = |panic_percent| Outliers {
        errors: Some(1),
        gateway_errors: None,
        local_errors: None,
        is_split: false,
        success_rate: None,
        interval: SECOND,
        time: 30 * SECOND,
        most_percent: 100,
        panic_percent,
    };
    for (balancer, hash) in [(Balancer::RoundRobin, None), (Balancer::Ring(64), Some(7)), (Balancer::Table(7), Some(7))]
    {
        let load = Load::default();
        let with = |panic_percent| Cluster { outliers: Some(outliers(panic_percent)), ..cluster(balancer) };
        let all = endpoints(&[&[1, 2], &[3]]);
        let now = Instant::now();
        let pick = |panic_percent, now| {
            let wanted = Wanted { hash, session: None, tried: &[], now };
            load.pick(&with(panic_percent), &all, &wanted, &mut |_| 0).map(|endpoint| endpoint.port())
        };
        assert_eq!(load.note(&with(0.0), &all, endpoint(1), Outcome::Failed, now), [endpoint(1)]);
        assert!((0..4).all(|_| pick(50.0, now) == Some(2)));
        assert_eq!(load.note(&with(0.0), &all, endpoint(2), Outcome::Failed, now), [endpoint(2)]);
        assert_eq!(pick(0.0, now), Some(3), "the next priority");
        assert!(matches!(pick(50.0, now), Some(1 | 2)), "all of them where too few are left");
        assert_eq!(load.note(&with(0.0), &all, endpoint(3), Outcome::Failed, now), [endpoint(3)]);
        assert_eq!(pick(0.0, now), None);
        assert!(matches!(pick(0.0, now + 30 * SECOND), Some(1 | 2)), "and back again");
    }
}

/// What is held against an endpoint is held against it by the policy that was broken: not by another one, nor by the same one after
/// there was none.
#[test]
fn who_was_left_out_is_back_when_the_policy_is_another() {
    let policy = Outliers {
        errors: Some(2),
        gateway_errors: None,
        local_errors: None,
        is_split: false,
        success_rate: None,
        interval: SECOND,
        time: 3600 * SECOND,
        most_percent: 100,
        panic_percent: 0.0,
    };
    let all = endpoints(&[&[1, 2]]);
    let with = |outliers| Cluster { outliers, ..cluster(Balancer::RoundRobin) };
    let rows = [
        ("as it was", Some(policy.clone()), [2, 2, 2, 2]),
        ("another bound for panic", Some(Outliers { panic_percent: 50.0, ..policy.clone() }), [2, 2, 2, 2]),
        ("none", None, [1, 2, 1, 2]),
        ("more errors", Some(Outliers { errors: Some(3), ..policy.clone() }), [1, 2, 1, 2]),
        ("a shorter time", Some(Outliers { time: SECOND, ..policy.clone() }), [1, 2, 1, 2]),
    ];
    for (name, changed, expected) in rows {
        let (loads, now) = (Loads::default(), Instant::now());
        let load = loads.of(&"c".into());
        let (before, after) = (with(Some(policy.clone())), with(changed));
        let fails = |cluster| load.note(cluster, &all, endpoint(1), Outcome::Failed, now).len();
        assert_eq!([fails(&before), fails(&before)], [0, 1], "{name}");
        assert_eq!(next(&load, &after, &all, &[], None), expected, "{name}");
        let is_out = expected == [2; 4];
        assert_eq!(load.keeps(&after, &all, endpoint(1), now), !is_out, "{name}");
        assert_eq!(load.seen(&after, &all, now).endpoints[0].left_out, is_out, "{name}");
        // What was counted before counts no more.
        if !is_out {
            assert_eq!(fails(&after), 0, "{name}");
        }
        loads.keep(|_| Some((&after, &all)), now);
        if after.outliers.is_none() {
            assert_eq!(next(&load, &before, &all, &[], None), [1, 2, 1, 2], "{name}");
        }
    }
}

/// How many of a hundred requests each of the ports 1 to 3 gets at `now`; none of them ends.
fn shares(load: &Load, cluster: &Cluster, all: &Arc<Assignment>, now: Instant) -> [i32; 3] {
    let (mut counts, mut busy, mut drawn) = ([0; 3], Vec::new(), 0_usize);
    for _ in 0..100 {
        let wanted = Wanted { hash: None, session: None, tried: &[], now };
        let mut draw = |count: usize| {
            drawn = drawn.wrapping_add(1);
            weights::spread(drawn, count)
        };
        let endpoint = load.pick(cluster, all, &wanted, &mut draw).unwrap();
        busy.push(load.busy(cluster, endpoint));
        counts[usize::from(endpoint.port() - 1)] += 1;
    }
    counts
}

fn are_close(found: [i32; 3], expected: [i32; 3]) -> bool {
    found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() <= 5)
}

#[test]
fn who_weighs_more_gets_more() {
    let mut all = Assignment::clone(&endpoints(&[&[1, 2, 3], &[4]]));
    all.weights = vec![vec![7, 2, 1], vec![]];
    let (all, now) = (Arc::new(all), Instant::now());
    for balancer in [Balancer::RoundRobin, Balancer::Random, Balancer::LeastRequest, Balancer::Ring(64)] {
        let found = shares(&Load::default(), &cluster(balancer), &all, now);
        assert!(are_close(found, [70, 20, 10]), "{balancer:?}: {found:?}");
    }
    let (load, cluster) = (Load::default(), cluster(Balancer::RoundRobin));
    assert_eq!(next(&load, &cluster, &all, &[1, 2], None), [3, 3, 3, 3], "what was tried is left out");
    assert_eq!(next(&load, &cluster, &all, &[1, 2, 3], None), [4, 4, 4, 4]);
}

#[test]
fn new_endpoints_get_more_and_more() {
    let start = Instant::now();
    for balancer in [Balancer::RoundRobin, Balancer::LeastRequest] {
        let load = Load::default();
        let warm_up = Some(WarmUp { window: 100 * SECOND, aggression: 1.0, least_percent: 10.0 });
        let cluster = Cluster { warm_up, ..cluster(balancer) };
        let (two, three) = (endpoints(&[&[1, 2]]), endpoints(&[&[1, 2, 3]]));
        let found = shares(&load, &cluster, &two, start);
        assert!(are_close(found, [50, 50, 0]), "{balancer:?}, all are new: {found:?}");
        // Seconds after the third has come, and what of a hundred it gets in hundredths of the others'.
        for (seconds, part) in [(0, 10), (10, 10), (50, 50), (80, 80), (100, 100), (1000, 100)] {
            let found = shares(&load, &cluster, &three, start + (1000 + seconds) * SECOND);
            let new = part * 100 / (200 + part);
            let old = (100 - new) / 2;
            assert!(are_close(found, [old, old, new]), "{balancer:?} after {seconds} s: {found:?}, {new} of it new");
        }
    }
}

#[test]
fn requests_repetitions_and_connections_are_bounded() {
    let with = |requests, retries, budget| {
        let bounds = Bounds { requests, retries, waiting: 1, connections: 2, budget };
        Cluster { bounds, ..Cluster::named("c") }
    };
    let bounded = |requests, retries| with(requests, retries, Budget { percent: 20.0, at_least: 3 });
    let load = Arc::new(Load::default());
    let under_way: Vec<_> = (0..30).map(|_| load.request(&bounded(30, 100)).unwrap()).collect();
    assert!(load.request(&bounded(30, 100)).is_none());
    let retries: Vec<_> = (0..9).map_while(|_| load.retry(&bounded(30, 100))).collect();
    assert_eq!(retries.len(), 6, "a fifth of the requests");
    drop(retries);
    assert_eq!((0..9).map_while(|_| load.retry(&bounded(30, 2))).collect::<Vec<_>>().len(), 2);
    for (percent, at_least, expected) in [(50.0, 3, 15), (0.0, 0, 0), (10.0, 7, 7), (100.0, 0, 30)] {
        let cluster = with(30, u32::MAX, Budget { percent, at_least });
        let found = (0..99).map_while(|_| load.retry(&cluster)).collect::<Vec<_>>().len();
        assert_eq!(found, expected, "{percent} % of 30, {at_least} at least");
    }
    drop(under_way);
    assert_eq!((0..9).map_while(|_| load.retry(&bounded(30, 100))).collect::<Vec<_>>().len(), 3);
    assert_eq!((0..9).map_while(|_| load.connect(&bounded(1, 1))).collect::<Vec<_>>().len(), 2);
    assert_eq!((0..9).map_while(|_| load.wait(&bounded(1, 1))).collect::<Vec<_>>().len(), 1);
}

#[test]
fn what_is_gone_is_forgotten() {
    let loads = Loads::default();
    let load = loads.of(&"c".into());
    let busy = cluster(Balancer::LeastRequest);
    drop(load.busy(&busy, endpoint(1)));
    let held = load.busy(&busy, endpoint(2));
    drop(load.busy(&busy, endpoint(3)));
    let all = endpoints(&[&[3]]);
    loads.keep(|name| (name == "c").then_some((&busy, &all)), Instant::now());
    let mut known: Vec<_> = lock(&load.busy).keys().map(SocketAddr::port).collect();
    known.sort_unstable();
    assert_eq!(known, [2, 3]);
    drop(held);
    loads.keep(|_| None, Instant::now());
    assert!(!Arc::ptr_eq(&load, &loads.of(&"c".into())));
}

#[test]
fn what_is_under_way_and_who_is_left_out_can_be_seen() {
    let (load, now) = (Arc::new(Load::default()), Instant::now());
    let outliers = Outliers {
        errors: Some(1),
        gateway_errors: None,
        local_errors: None,
        is_split: false,
        success_rate: None,
        interval: SECOND,
        time: SECOND,
        most_percent: 100,
        panic_percent: 0.0,
    };
    let mut cluster = Cluster { outliers: Some(outliers), ..cluster(Balancer::RoundRobin) };
    cluster.bounds.requests = 7;
    let all = endpoints(&[&[1], &[2]]);
    let under_way = load.request(&cluster);
    cluster.bounds.connections = 0;
    assert!(load.connect(&cluster).is_none());
    assert_eq!(load.note(&cluster, &all, endpoint(2), Outcome::Failed, now), [endpoint(2)]);
    let seen = load.seen(&cluster, &all, now);
    assert_eq!((seen.requests.now, seen.requests.most, seen.requests.refused), (1, 7, 0));
    assert_eq!((seen.connections.now, seen.connections.most, seen.connections.refused), (0, 0, 1));
    let shown: Vec<_> = seen.endpoints.iter().map(|it| (it.address.port(), it.priority, it.left_out)).collect();
    assert_eq!(shown, [(1, 0, false), (2, 1, true)]);
    drop(under_way);
    let later = load.seen(&cluster, &all, now + 2 * SECOND);
    assert!(later.requests.now == 0 && !later.endpoints[1].left_out);
}
