//! A client that comes back with a digest of what it holds, and the real client at the other end.

use prost::Message;

use super::*;

/// Names and versions; enough that naming them all would show.
const MANY: usize = 4_000;

fn large(previous: &World, revision: impl Fn(usize) -> Option<&'static str>) -> World {
    let names: Vec<(String, &str)> =
        (0..MANY).filter_map(|number| Some((format!("Kubernetes//Pod/n/web-{number}"), revision(number)?))).collect();
    let workloads: Vec<(&str, &str)> = names.iter().map(|(name, revision)| (name.as_str(), *revision)).collect();
    world(previous, &workloads, &["p"])
}

/// Connects again and takes all there is: bytes up and down, and resources that came.
fn come_back(proxy: &mut Proxy, world: &World) -> (usize, usize, usize) {
    let mut server = node_proxy();
    let (mut up, mut down, mut resources) = (0, 0, 0);
    for request in proxy.client.connected() {
        up += request.encoded_len();
        server.receive(request);
    }
    server.plan(world);
    while let Some(response) = server.next_response() {
        down += response.encoded_len();
        resources += response.resources.len();
        let outcome = proxy.client.received(response);
        proxy.world.apply(outcome.updates);
        server.receive(outcome.answer.unwrap());
    }
    (up, down, resources)
}

fn known(proxy: &Proxy) -> Vec<(String, String)> {
    let snapshot = proxy.world.snapshot();
    let mut all: Vec<_> =
        snapshot.workloads().map(|workload| (workload.uid.to_string(), workload.node.to_string())).collect();
    all.sort();
    all
}

#[test]
fn coming_back_costs_what_changed_and_not_what_there_is() {
    let one = large(&World::default(), |_| Some("1"));
    let mut proxy = Proxy::new();
    let (_, full, _) = come_back(&mut proxy, &one);

    // Nothing has changed: a sum for each of the 256 buckets goes up, a bit for each comes down.
    let (up, down, resources) = come_back(&mut proxy, &one);
    assert_eq!(resources, 0);
    assert!(up < 256 * 8 * 2 && down < 256, "{up} bytes up, {down} bytes down, of {full}");

    // Three are gone, three are new, three have changed; each costs a bucket of some twenty.
    let two = large(&one, |number| match number {
        100..103 => None,
        200..203 => Some("2"),
        _ => Some("1"),
    });
    let (up, down, resources) = come_back(&mut proxy, &two);
    assert!((3..6 * 60).contains(&resources), "{resources} resources came");
    assert!(up < 256 * 8 * 2 && down < full / 10, "{up} bytes up, {down} bytes down, of {full}");
    let mut fresh = Proxy::new();
    come_back(&mut fresh, &two);
    assert_eq!(known(&proxy), known(&fresh));
    come_back(&mut proxy, &one);
    assert_eq!(known(&proxy).len(), MANY);
}

#[test]
fn a_server_that_does_not_understand_gives_everything_and_nothing_stale_stays() {
    let one = large(&World::default(), |_| Some("1"));
    let two = large(&one, |number| (number != 7).then_some("1"));
    let mut proxy = Proxy::new();
    come_back(&mut proxy, &one);
    let mut server = node_proxy();
    for mut request in proxy.client.connected() {
        assert!(request.type_url != type_url::ADDRESS || request.initial_resource_versions.is_empty());
        // As a server does that has never heard of it.
        request.node = None;
        server.receive(request);
    }
    server.plan(&two);
    while let Some(mut response) = server.next_response() {
        if Extent::of(&response.system_version_info) == Extent::Whole {
            response.system_version_info = "2026-01-02T03:04:05Z/7".to_owned();
        }
        let outcome = proxy.client.received(response);
        proxy.world.apply(outcome.updates);
    }
    assert_eq!(known(&proxy).len(), MANY - 1);
    // And is told names the next time, as it wants it.
    let address = proxy.client.connected().into_iter().find(|request| request.type_url == type_url::ADDRESS).unwrap();
    assert!(!address.initial_resource_versions.is_empty());
}

#[test]
fn what_may_be_in_an_unreadable_file_is_kept_until_it_can_be_read() {
    let one = large(&World::default(), |_| Some("1"));
    let mut proxy = Proxy::new();
    come_back(&mut proxy, &one);
    let mut open = large(&World::default(), |number| (number != 7).then_some("1"));
    open.is_open = true;
    let mut server = proxy.connect();
    proxy.follow(&mut server, &open);
    assert_eq!(known(&proxy).len(), MANY);
    let mut closed = open.clone();
    closed.is_open = false;
    proxy.follow(&mut server, &closed);
    assert_eq!(known(&proxy).len(), MANY - 1);
}
