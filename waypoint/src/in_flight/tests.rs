//! Tests of what is kept of requests under way: which are shown, and that nothing is left of those that have ended.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use fairway_core::workload::Workload;
use serde_json::Value;

use super::*;
use crate::testing::pod;

fn stream(all: &InFlight) -> Arc<Stream> {
    let workload = Workload::try_from(pod("web", IpAddr::V4(Ipv4Addr::LOCALHOST), false)).unwrap();
    let address = ([10, 0, 0, 1], 80).into();
    let bound = Bound::Workload { workload: Arc::new(workload), address };
    all.stream(&Identity::new("cluster.local", "shop", "client").unwrap(), address, &bound)
}

fn begin(stream: &Arc<Stream>, begun: Instant, path: &str) -> Entry {
    stream.request(begun, (&Method::GET, Version::HTTP_2, false), ("web.shop", path), Some(0xab))
}

fn paths(all: &InFlight, most: usize) -> (Vec<String>, usize) {
    let (rows, count) = all.oldest(most, (Instant::now(), SystemTime::now()));
    (rows.into_iter().filter_map(|row| row.path).collect(), count)
}

#[test]
fn the_oldest_are_shown_and_all_are_counted() {
    let (all, now) = (InFlight::default(), Instant::now());
    let streams = [stream(&all), stream(&all)];
    let at = |seconds: u64| now + Duration::from_secs(seconds);
    let rows = [(0, 3, "/d"), (1, 1, "/b"), (0, 0, "/a"), (1, 2, "/c")];
    let mut entries = rows.map(|(which, seconds, path)| Some(begin(&streams[which], at(seconds), path)));
    assert_eq!(paths(&all, 3), (vec!["/a".into(), "/b".into(), "/c".into()], 4));
    entries[2] = None;
    assert_eq!(paths(&all, 2), (vec!["/b".into(), "/c".into()], 3));
    drop(entries);
    assert_eq!(paths(&all, 2), (vec![], 0));
    drop(streams);
    assert!(lock(&all.0).all.is_empty(), "nothing is left of streams that have ended");
}

#[test]
fn a_place_is_used_again_and_says_nothing_of_who_was_there() {
    let (all, now) = (InFlight::default(), Instant::now());
    let stream = stream(&all);
    let entry = begin(&stream, now, "/first");
    entry.attempt(([10, 0, 0, 2], 80).into());
    entry.enter_on(Phase::Delayed, "shop/route/0");
    entry.answering(503);
    drop(entry);
    let _second = begin(&stream, now, &"/long".repeat(1000));
    let (rows, _) = all.oldest(9, (now + Duration::from_secs(2), SystemTime::UNIX_EPOCH + Duration::from_secs(3)));
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((row.endpoint, row.attempts, row.status, row.route.as_deref()), (None, 0, None, None));
    assert_eq!((row.phase, row.path.as_ref().unwrap().len()), ("authorizing", trace::TEXT_BYTES));
    assert_eq!((row.begun.as_str(), row.age_milliseconds), ("1970-01-01T00:00:01.000Z", 2000));
    assert_eq!(row.trace_id.as_deref(), Some("000000000000000000000000000000ab"));
    assert_eq!((row.id.as_str(), lock(&stream.slots).all.len()), ("1/2", 1));
    let written: Value = serde_json::to_value(row).unwrap();
    assert_eq!(
        (&written["protocol"], &written["sourceIdentity"]),
        (&"HTTP/2".into(), &"spiffe://cluster.local/ns/shop/sa/client".into())
    );
}

/// Who once had many requests under way does not keep the memory for them.
#[test]
fn memory_for_many_goes_when_none_is_left() {
    let all = InFlight::default();
    let stream = stream(&all);
    let entries: Vec<_> = (0..100).map(|_| begin(&stream, Instant::now(), "/")).collect();
    assert_eq!(lock(&stream.slots).all.len(), 100);
    drop(entries);
    let _one = begin(&stream, Instant::now(), "/");
    let slots = lock(&stream.slots);
    assert_eq!((slots.all.len(), slots.free.len()), (1, 0));
}
