//! Tests of `session`.

use fairway_proto::rpc_status::Status;
use fairway_proto::type_url::{CLUSTER, LISTENER};
use fairway_proto::workload::{Port, Service};

use super::*;
use crate::translate::{Desired, Translation};

fn world(previous: &World, services: &[(&str, u32)]) -> World {
    let service = |(name, port): &(&str, u32)| Service {
        hostname: (*name).to_owned(),
        namespace: "shop".to_owned(),
        ports: vec![Port { service_port: *port, target_port: *port, ..Port::default() }],
        ..Service::default()
    };
    let desired = Desired::of([], services.iter().map(service), []);
    let world = previous.next(&desired);
    let l7 = previous.l7().next(Arc::new(Translation::of(desired)), Arc::clone(world.addresses()), "");
    world.with_l7(previous, l7)
}

fn request(type_url: &str, names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    }
}

/// Number of resources in each response.
fn counts(responses: &[DiscoveryResponse]) -> Vec<usize> {
    responses.iter().map(|response| response.resources.len()).collect()
}

#[test]
fn only_what_was_asked_for_is_sent_and_only_when_it_changes() {
    let one = world(&World::default(), &[("a", 80), ("b", 80)]);
    let mut session = Session::default();
    assert_eq!(session.receive(request(LISTENER, &["a:80"], "")), Event::Subscribed(ResourceType::Listener));
    let sent = session.plan(&one).unwrap();
    assert_eq!(counts(&sent), [1]);
    assert_eq!(session.plan(&one).unwrap(), []);
    assert_eq!(
        session.receive(request(LISTENER, &["a:80"], &sent[0].nonce)),
        Event::Acknowledged(ResourceType::Listener)
    );
    // Another service changes: nothing is said, and the client is as far as that all the same.
    let two = world(&one, &[("a", 80), ("b", 81)]);
    assert_eq!(session.plan(&two).unwrap(), []);
    let (_, progress) = session.progress().next().unwrap();
    assert_eq!((progress.sent, progress.acked), (2, 2));
    // Its own goes: the response without it says so.
    let three = world(&two, &[("b", 81)]);
    assert_eq!(counts(&session.plan(&three).unwrap()), [0]);
}

#[test]
fn more_names_are_answered_and_fewer_are_not() {
    let one = world(&World::default(), &[("a", 80), ("b", 80)]);
    let mut session = Session::default();
    session.receive(request(CLUSTER, &["a:80"], ""));
    let nonce = session.plan(&one).unwrap()[0].nonce.clone();
    session.receive(request(CLUSTER, &["a:80", "b:80", "none:1"], &nonce));
    let sent = session.plan(&one).unwrap();
    assert_eq!(counts(&sent), [2]);
    session.receive(request(CLUSTER, &["b:80"], &sent[0].nonce));
    assert_eq!(session.plan(&one).unwrap(), []);
    session.receive(request(CLUSTER, &[], &sent[0].nonce));
    assert_eq!(session.plan(&world(&one, &[("b", 81)])).unwrap(), []);
}

#[test]
fn a_request_that_has_not_seen_the_last_response_is_left_alone() {
    let one = world(&World::default(), &[("a", 80), ("b", 80)]);
    let mut session = Session::default();
    session.receive(request(CLUSTER, &["a:80"], ""));
    session.plan(&one).unwrap();
    assert_eq!(session.receive(request(CLUSTER, &["b:80"], "other")), Event::Stale);
    assert_eq!(session.plan(&one).unwrap(), []);
}

#[test]
fn everything_is_sent_to_who_names_nothing() {
    let mut session = Session::default();
    session.receive(request(CLUSTER, &[], ""));
    assert_eq!(counts(&session.plan(&world(&World::default(), &[("a", 80), ("b", 80)])).unwrap()), [2]);
}

#[test]
fn a_refusal_is_kept_and_nothing_is_sent_again() {
    let one = world(&World::default(), &[("a", 80)]);
    let mut session = Session::default();
    session.receive(request(CLUSTER, &["a:80"], ""));
    let nonce = session.plan(&one).unwrap()[0].nonce.clone();
    let detail = Status { message: "no".to_owned(), ..Status::default() };
    let refusal = DiscoveryRequest { error_detail: Some(detail), ..request(CLUSTER, &["a:80"], &nonce) };
    assert_eq!(session.receive(refusal), Event::Refused(ResourceType::Cluster, "no".to_owned()));
    assert_eq!(session.plan(&one).unwrap(), []);
    let (_, progress) = session.progress().next().unwrap();
    assert_eq!((progress.acked, progress.nacked.as_deref()), (0, Some("no")));
    let refused: Vec<_> = progress.refused.named().map(|(name, refusal)| (name.to_string(), refusal.held)).collect();
    assert_eq!(refused, [("a:80".to_owned(), 0)]);
}

#[test]
fn what_is_long_comes_in_parts_where_parts_may_come() {
    let resources = || (0..5).map(|number| Resource::new(format!("{number}").into(), vec![0; 1024 * 1024], Vec::new()));
    let sizes = |kind| parts(kind, resources().collect()).map(|parts| parts.iter().map(Vec::len).collect::<Vec<_>>());
    assert_eq!(sizes(ResourceType::ClusterLoadAssignment).unwrap(), [2, 2, 1]);
    let status = sizes(ResourceType::Cluster).unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.message().contains("by name, or by delta"), "{status}");
}

#[test]
fn a_part_that_is_refused_is_not_forgotten() {
    let one = world(&World::default(), &[("a", 80)]);
    let mut session = Session::default();
    session.receive(request(CLUSTER, &["a:80"], ""));
    let nonce = session.plan(&one).unwrap()[0].nonce.clone();
    let subscription = session.subscriptions.get_mut(&ResourceType::Cluster).unwrap();
    subscription.parts = vec!["part".to_owned()];
    let error_detail = Some(Status { message: "bad".to_owned(), ..Status::default() });
    let refusal = DiscoveryRequest { error_detail, ..request(CLUSTER, &["a:80"], "part") };
    assert_eq!(session.receive(refusal), Event::Refused(ResourceType::Cluster, "bad".to_owned()));
    session.receive(request(CLUSTER, &["a:80"], &nonce));
    let (_, progress) = session.progress().next().unwrap();
    assert_eq!((progress.acked, progress.nacked.as_deref()), (0, Some("bad")));
}
