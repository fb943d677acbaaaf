//! Tests of `names`: what is known of a name, which addresses are used, and the keeper against a resolver on loopback.

use fairway_core::io::dns::resolvers::Resolvers;
use fairway_core::io::dns::test_resolver::{FakeResolver, both_families, with_code};
use fairway_core::io::socket::SocketFactory;
use hickory_proto::op::ResponseCode;

use super::*;
use crate::config::{self, Action};
use crate::testing::{Served, forwarding, get, route_to};
use crate::tests::web;

const BOUNDS: Bounds =
    Bounds { least: Duration::from_secs(1), most: Duration::from_secs(60), stale: Duration::from_secs(600) };

fn ips(texts: &[&str]) -> Arc<[IpAddr]> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn whole(addresses: &Arc<[IpAddr]>, seconds: u64) -> Found {
    Found { addresses: Arc::clone(addresses), lifetime: Duration::from_secs(seconds), is_partial: false }
}

#[test]
fn half_an_answer_is_used_and_the_rest_asked_for_less_and_less_often() {
    let (start, found) = (Instant::now(), ips(&["192.0.2.1"]));
    let half = Found { is_partial: true, ..whole(&found, 10) };
    let mut name = Name::new(start);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        name = name.heard(Ok(half.clone()), start, BOUNDS);
        assert_eq!((name.addresses.as_ref(), &name.problem), (Some(&found), &None));
        pauses.push((name.due - start).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 10, 10], "as long as it holds at most");
}

#[test]
fn an_answer_that_fails_takes_nothing_away_for_a_while() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let failed = || Err("nobody answers".to_owned());
    let name = Name::new(start).heard(failed(), start, BOUNDS);
    assert_eq!((name.addresses.clone(), name.due), (None, after(1)));
    assert!(name.is_settled(), "who waits is told");
    let pauses: Vec<u64> = (0..8)
        .scan(name.clone(), |name, _| {
            *name = name.clone().heard(failed(), start, BOUNDS);
            Some((name.due - start).as_secs())
        })
        .collect();
    assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
    let found = ips(&["192.0.2.1"]);
    let name = name.heard(Ok(whole(&found, 30)), start, BOUNDS);
    assert_eq!((name.due, name.failures, &name.problem), (after(30), 0, &None));
    let name = name.heard(failed(), after(30), BOUNDS);
    assert_eq!((name.addresses.as_ref(), name.due), (Some(&found), after(31)));
    let late = name.clone().heard(failed(), after(629), BOUNDS);
    assert_eq!(late.addresses.as_ref(), Some(&found), "for ten minutes past its time");
    let too_late = late.heard(failed(), after(630), BOUNDS);
    assert_eq!((too_late.addresses, too_late.problem.as_deref()), (None, Some("nobody answers")));
    let at_once = Name::new(start).heard(Ok(whole(&found, 0)), start, BOUNDS);
    assert_eq!(at_once.due, after(1), "a time to live of 0 does not keep resolvers busy");
}

#[test]
fn only_addresses_of_others_and_of_a_family_that_we_have_are_used() {
    type Row = (&'static [&'static str], &'static [&'static str], Result<&'static [&'static str], &'static str>);
    let rows: [Row; 15] = [
        (&["192.0.2.1", "2001:db8::1"], &["10.0.0.9"], Ok(&["192.0.2.1"])),
        (&["192.0.2.1", "2001:db8::1"], &["fd00::9"], Ok(&["2001:db8::1"])),
        (&["192.0.2.1", "2001:db8::1"], &["fd00::9", "10.0.0.9"], Ok(&["2001:db8::1"])),
        (&["2001:db8::1"], &["10.0.0.9", "fd00::9"], Ok(&["2001:db8::1"])),
        (&["2001:db8::1"], &["10.0.0.9"], Err("it has no address of IPv4")),
        (&["192.0.2.1"], &[], Err("the waypoint does not know its own addresses yet")),
        (&["192.0.2.2", "192.0.2.1"], &["10.0.0.9"], Ok(&["192.0.2.2", "192.0.2.1"])),
        (&["100.100.100.200", "fd00:ec2::254"], &["10.0.0.9", "fd00::9"], Err("its addresses are")),
        // Networks of one's own are the usual: databases are there.
        (&["10.0.0.10"], &["10.0.0.9"], Ok(&["10.0.0.10"])),
        (&["127.0.0.1", "192.0.2.1"], &["10.0.0.9"], Ok(&["192.0.2.1"])),
        (&["127.0.0.1", "0.0.0.0", "255.255.255.255"], &["10.0.0.9"], Err("its addresses are the waypoint's own")),
        (
            &["169.254.169.254"],
            &["10.0.0.9"],
            Err("its addresses are the waypoint's own or of its link: 169.254.169.254"),
        ),
        (&["::ffff:127.0.0.1", "::1", "fe80::1", "::", "ff02::1"], &["fd00::9"], Err("its addresses")),
        (&["224.0.0.1"], &["10.0.0.9"], Err("its addresses")),
        (&["10.0.0.9"], &["10.0.0.9"], Err("its addresses are the waypoint's own")),
    ];
    for (found, own, expected) in rows {
        match (usable(&ips(found), &ips(own)), expected) {
            (Ok(used), Ok(expected)) => assert_eq!(used, ips(expected), "{found:?}"),
            (Err(problem), Err(expected)) => assert!(problem.starts_with(expected), "{found:?}: {problem}"),
            (used, _) => panic!("{found:?}: {used:?}"),
        }
    }
}

#[test]
fn more_names_than_may_be_are_said_to_be() {
    let names = Names::new(&Metrics::default());
    let limits = Limits::with(&[(limits::DNS_CACHE_ENTRIES.name, 1)].into()).unwrap();
    let now = Instant::now();
    names.keep(&["a".into(), "b".into()].into(), &limits, now);
    assert_eq!(names.due(&BTreeSet::new(), now).0, ["a".into()]);
    let cluster = Cluster { names: Some(Arc::new(config::Names::one("b", 80, false))), ..Cluster::named("b:80") };
    assert!(names.problem(&cluster).contains("DNS_CACHE_ENTRIES"), "{}", names.problem(&cluster));
    assert_eq!(names.due(&BTreeSet::new(), now + IDLE * 2).0, ["a".into()], "it is never asked for");
    let first = Name::new(now).heard(Ok(whole(&ips(&["192.0.2.1"]), 30)), now, BOUNDS);
    names.lock().known.insert("a".into(), first.clone());
    names.keep(&["0".into(), "a".into()].into(), &limits, now);
    assert_eq!(names.lock().known.get("a"), Some(&first), "who is there stays");
    assert!(names.of("0").is_some_and(|of| of.is_err()));
    names.keep(&["0".into()].into(), &limits, now);
    assert_eq!((names.of("0"), names.due(&BTreeSet::new(), now).0), (None, vec!["0".into()]), "at once");
    names.keep(&BTreeSet::new(), &limits, now);
    assert_eq!(names.lock().known.len(), 0);
}

/// A waypoint whose port 80 leads to `name`, and which asks this resolver.
async fn served(resolver: &FakeResolver, name: &str) -> Served {
    let mut served = Served::start().await;
    served.http(80, vec![], vec![forwarding(route_to(&web(80)), |_| {})], &[]);
    served.change_cluster(&web(80), |cluster| cluster.names = Some(Arc::new(config::Names::one(name, 80, false))));
    let ours = SocketFactory::host(None);
    let upstream = Upstream::new(Resolvers::fixed(&[resolver.address]), ours.clone(), ours);
    tokio::spawn(keep(Arc::clone(&served.waypoint), upstream, served.drain()));
    served
}

#[tokio::test]
async fn names_of_the_configuration_become_endpoints() {
    let resolver = FakeResolver::start(both_families, None).await;
    let served = served(&resolver, "api.example").await;
    let config = served.waypoint.config.load();
    assert!(matches!(config.routes[&web(80)].hosts[0].routes[0].action, Action::Forward(_)));
    let (cluster, nobody) = (&config.clusters[&web(80)], Arc::default());
    let found = endpoints(&served.waypoint, cluster, &nobody).await.unwrap();
    // The waypoint of the test has an address of IPv4.
    assert_eq!(found.priorities, [["192.0.2.1:80".parse().unwrap()]]);
    assert_eq!(resolver.asked().0, 2, "one query for each family");
    let metrics = served.metrics.render();
    assert!(metrics.contains("fairway_waypoint_name_lookups_total{result=\"found\"} 1"), "{metrics}");
    // What is there is taken without waiting.
    let again = served.waypoint.config.load();
    assert!(Arc::ptr_eq(&endpoints(&served.waypoint, cluster, &found).await.unwrap(), &found));
    assert!(Arc::ptr_eq(&again.endpoints[&web(80)], &found));
}

#[tokio::test]
async fn a_name_without_an_address_is_said_to_whoever_asks() {
    let resolver = FakeResolver::start(|query| vec![with_code(query, ResponseCode::NXDomain)], None).await;
    let served = served(&resolver, "gone.example").await;
    let (response, body) = served.send(80, false, get("/", &[])).await;
    assert_eq!(response.status().as_u16(), 503);
    assert!(body.ends_with("(dns_failed)\n"), "{body}");
    assert!(
        served.waypoint.names.problem(&served.config.clusters[&web(80)]).contains("gone.example: the resolver says")
    );
    let metrics = served.metrics.render();
    assert!(metrics.contains("fairway_waypoint_names_unresolved 1"), "{metrics}");
}

#[tokio::test]
async fn a_name_does_not_lead_to_what_a_waypoint_stands_for() {
    let served = Served::start().await;
    let member = |name: &str, ip: &str, service: &str| {
        served.announce(name, ip.parse().unwrap(), true, |pod| {
            let key = format!("shop/{service}.shop.svc.cluster.local");
            pod.services.insert(key, fairway_proto::workload::PortList::default());
        });
    };
    member("web", "10.0.0.7", "web");
    member("other", "10.0.0.8", "other");
    let (local, snapshot) = (served.waypoint.known().unwrap(), served.waypoint.live.snapshot());
    // The service "web" has our waypoint, and "other" none.
    let rows = [
        ("other", "10.96.0.1", false),
        ("other", "10.0.0.7", false),
        ("other", "10.0.0.8", true),
        ("other", "192.0.2.1", true),
        ("web", "10.96.0.1", false),
        ("web", "10.0.0.7", true),
        ("web", "10.0.0.8", true),
    ];
    for (dialled, ip, expected) in rows {
        let service = snapshot.service_by_hostname(&format!("{dialled}.shop.svc.cluster.local"), "shop");
        assert!(service.is_some(), "{dialled}");
        let planned = dial::plan_named(&snapshot, &local, service, format!("{ip}:8080").parse().unwrap());
        match planned {
            Ok(plan) => assert!(expected, "{dialled} at {ip}: {plan:?}"),
            Err(failure) => assert_eq!((failure.reason, expected), (Reason::DnsFailed, false), "{dialled} at {ip}"),
        }
    }
}
