//! Tests of `dns::lookup`: asked for once, remembered, forgotten in time.

use std::net::SocketAddr;
use std::time::Duration;

use fairway_core::io::dns::resolvers::Resolvers;
use fairway_core::io::dns::test_resolver::{Behaviour, FakeResolver, both_families, nobody, silent, with_code};
use fairway_core::io::metrics::Metrics;
use fairway_core::io::socket::SocketFactory;
use fairway_proto::workload as proto;
use futures_util::future::join_all;
use hickory_proto::op::ResponseCode;
use tokio::time::advance;

use super::*;

fn lookup(resolver: SocketAddr) -> (Lookup, Metrics) {
    let metrics = Metrics::default();
    let ours = SocketFactory::host(None);
    let upstream = Upstream::new(Resolvers::fixed(&[resolver]), ours.clone(), ours);
    (Lookup::new(upstream, DnsMetrics::new(&metrics)), metrics)
}

fn client() -> Workload {
    let message =
        proto::Workload { uid: "u".into(), name: "client".into(), namespace: "shop".into(), ..Default::default() };
    Workload::try_from(message).unwrap()
}

async fn ask(lookup: &Lookup, name: &str, dialled: &str) -> Result<String, String> {
    let found = lookup.address(&name.into(), &client(), dialled.parse().unwrap()).await;
    found.map(|ip| ip.to_string()).map_err(|error| error.to_string())
}

#[tokio::test(start_paused = true)]
async fn the_clients_own_family_first() {
    fn only_six(query: &[u8]) -> Vec<Vec<u8>> {
        let is_six = query[query.len() - 11 - 3] == 28;
        if is_six { both_families(query) } else { vec![with_code(query, ResponseCode::NoError)] }
    }
    let rows: [(Behaviour, &str, &str); 4] = [
        (both_families, "10.0.0.1", "192.0.2.1"),
        (both_families, "fd00::1", "2001:db8::1"),
        (only_six, "10.0.0.1", "2001:db8::1"),
        (only_six, "fd00::1", "2001:db8::1"),
    ];
    for (behaviour, dialled, expected) in rows {
        let resolver = FakeResolver::start(behaviour, None).await;
        assert_eq!(ask(&lookup(resolver.address).0, "api.example.com", dialled).await.as_deref(), Ok(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_for_once_and_again_when_its_time_is_over() {
    let resolver = FakeResolver::start(both_families, None).await;
    let (lookup, metrics) = lookup(resolver.address);
    let all = join_all((0..50).map(|_| ask(&lookup, "api.example.com", "10.0.0.1"))).await;
    assert!(all.iter().all(|found| found.as_deref() == Ok("192.0.2.1")), "{all:?}");
    assert_eq!(resolver.asked().0, 2, "one query for each family");
    advance(limits::DNS_CACHE_MAXIMUM.duration() - Duration::from_millis(1)).await;
    ask(&lookup, "api.example.com", "10.0.0.1").await.unwrap();
    assert_eq!(resolver.asked().0, 2, "forgotten too early");
    // It said a minute and a half, which is longer than anything is remembered.
    advance(Duration::from_millis(2)).await;
    ask(&lookup, "api.example.com", "10.0.0.1").await.unwrap();
    assert_eq!(resolver.asked().0, 4, "remembered too long");
    let page = metrics.render();
    assert!(page.contains("istio_on_demand_dns_total{") && page.contains("hostname=\"api.example.com\""), "{page}");
    assert!(page.contains("} 52"), "{page}");
}

#[tokio::test(start_paused = true)]
async fn failures_say_why_and_are_not_asked_about_by_every_connection() {
    fn unknown(query: &[u8]) -> Vec<Vec<u8>> {
        vec![with_code(query, ResponseCode::NXDomain)]
    }
    fn empty(query: &[u8]) -> Vec<Vec<u8>> {
        vec![with_code(query, ResponseCode::NoError)]
    }
    let gone = nobody().await;
    let quiet = FakeResolver::start(silent, None).await;
    let (unknown, empty) = (FakeResolver::start(unknown, None).await, FakeResolver::start(empty, None).await);
    for (resolver, expected) in [
        (gone, "refused"),
        (quiet.address, "no resolver answered"),
        (unknown.address, "Non-Existent"),
        (empty.address, "no address"),
    ] {
        let error = ask(&lookup(resolver).0, "api.example.com", "10.0.0.1").await.unwrap_err();
        assert!(error.starts_with("api.example.com: ") && error.contains(expected), "{error}");
    }
    let (lookup, metrics) = lookup(unknown.address);
    let before = unknown.asked().0;
    for _ in 0..5 {
        ask(&lookup, "x.example.com", "10.0.0.1").await.unwrap_err();
    }
    assert_eq!(unknown.asked().0, before + 2);
    advance(limits::DNS_CACHE_MINIMUM.duration() + Duration::from_millis(1)).await;
    ask(&lookup, "x.example.com", "10.0.0.1").await.unwrap_err();
    assert_eq!(unknown.asked().0, before + 4);
    assert!(metrics.render().contains("fairway_dns_failures_total{reason=\"dns_failed\"} 2"), "{}", metrics.render());
    assert_eq!(ask(&lookup, "no..name", "10.0.0.1").await, Err("\"no..name\" is not a DNS name".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_does_not_take_the_others_along() {
    let resolver = FakeResolver::start(both_families, None).await;
    let (lookup, _) = lookup(resolver.address);
    let mut first = Box::pin(ask(&lookup, "api.example.com", "10.0.0.1"));
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    let mut second = Box::pin(ask(&lookup, "api.example.com", "10.0.0.1"));
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    drop(first);
    assert_eq!(second.await.as_deref(), Ok("192.0.2.1"));
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_bounded() {
    let (lookup, _) = lookup(nobody().await);
    let now = Instant::now();
    let known = |seconds| Known { until: now + Duration::from_secs(seconds), result: Ok(Arc::default()) };
    let most = limits::DNS_CACHE_ENTRIES.size();
    for index in 0..most {
        // The first is being asked for, the second expires soonest.
        let slot = lookup.slot(&format!("n{index}").into(), now);
        if index > 0 {
            slot.set(known(u64::try_from(index).unwrap())).unwrap();
        }
    }
    let holds = |name: &str| lookup.slots.lock().unwrap().contains_key(name);
    lookup.slot(&"one-more".into(), now);
    assert_eq!(lookup.slots.lock().unwrap().len(), most);
    assert!(holds("n0") && !holds("n1") && holds("n2") && holds("one-more"));
    // Those whose time is over go first, all of them.
    lookup.slot(&"later".into(), now + Duration::from_secs(100));
    assert!(!holds("n100") && holds("n101") && holds("later"));
}
