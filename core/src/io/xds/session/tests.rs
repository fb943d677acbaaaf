//! Tests of `session`.

use fairway_proto::discovery::Resource;
use fairway_proto::security::{Authorization, Clause, Match, Rule, StringMatch};
use fairway_proto::workload::{Address, Service, Workload, address};
use prost::Message;
use prost_types::Any;

use super::*;
use crate::snapshot::World;

fn resource(url: &str, name: &str, version: &str, message: &impl Message) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(Any { type_url: url.to_owned(), value: message.encode_to_vec() }),
        ..Default::default()
    }
}

fn workload(name: &str, version: &str) -> Resource {
    let message =
        Workload { uid: name.to_owned(), name: name.to_owned(), namespace: "shop".to_owned(), ..Default::default() };
    resource(type_url::ADDRESS, name, version, &Address { r#type: Some(address::Type::Workload(message)) })
}

fn bad_workload(name: &str) -> Resource {
    let message = Workload { uid: name.to_owned(), addresses: vec![vec![1, 2, 3]], ..Default::default() };
    resource(type_url::ADDRESS, name, "v9", &Address { r#type: Some(address::Type::Workload(message)) })
}

fn policy(name: &str, valid: bool) -> Resource {
    let (namespace, short) = name.split_once('/').unwrap();
    let principals = if valid { vec![] } else { vec![StringMatch { match_type: None }] };
    let matches = vec![Match { principals, ..Default::default() }];
    let message = Authorization {
        name: short.to_owned(),
        namespace: namespace.to_owned(),
        rules: vec![Rule { clauses: vec![Clause { matches }] }],
        ..Default::default()
    };
    resource(type_url::AUTHORIZATION, name, "", &message)
}

fn response(url: &str, nonce: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: url.to_owned(),
        nonce: nonce.to_owned(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn session() -> Session {
    Session::new(NodeInfo::default())
}

fn held(session: &mut Session) -> Vec<(String, String)> {
    session.connected().remove(1).initial_resource_versions.into_iter().collect()
}

#[test]
fn subscribes_to_both_types_in_order_as_wildcard() {
    let requests = session().connected();
    let urls: Vec<_> = requests.iter().map(|request| request.type_url.as_str()).collect();
    assert_eq!(urls, [type_url::AUTHORIZATION, type_url::ADDRESS]);
    for request in requests {
        assert!(request.node.is_some() && request.resource_names_subscribe.is_empty());
        assert!(request.response_nonce.is_empty() && request.initial_resource_versions.is_empty());
    }
}

#[test]
fn an_accepted_response_is_acknowledged_and_remembered() {
    let mut session = session();
    let outcome = session.received(response(
        type_url::ADDRESS,
        "n1",
        vec![
            workload("w1", "v1"),
            resource(
                type_url::ADDRESS,
                "shop/web.example",
                "v2",
                &Address {
                    r#type: Some(address::Type::Service(Service {
                        name: "web".to_owned(),
                        namespace: "shop".to_owned(),
                        hostname: "web.example".to_owned(),
                        ..Default::default()
                    })),
                },
            ),
        ],
        &["w0"],
    ));
    assert!(matches!(
        outcome.updates.as_slice(),
        [Update::Workload(_), Update::Service(_), Update::RemoveAddress(gone)] if gone == "w0"
    ));
    assert_eq!(outcome.first_of, Some(type_url::ADDRESS));
    let answer = outcome.answer.unwrap();
    assert_eq!((answer.response_nonce.as_str(), answer.error_detail), ("n1", None));
    assert!(answer.node.is_none() && answer.initial_resource_versions.is_empty());
    let expected = [("shop/web.example", "v2"), ("w1", "v1")].map(|(name, version)| (name.into(), version.into()));
    assert_eq!(held(&mut session), expected);

    let outcome = session.received(response(type_url::ADDRESS, "n2", vec![], &["w1"]));
    assert_eq!(outcome.first_of, None);
    assert_eq!(held(&mut session).len(), 1);
}

#[test]
fn bad_resources_are_named_and_the_others_applied() {
    let mut session = session();
    session.received(response(type_url::ADDRESS, "n1", vec![workload("w1", "v1")], &[]));
    let empty = Resource { name: "w3".to_owned(), ..Default::default() };
    let neither = resource(type_url::ADDRESS, "w4", "v1", &Address { r#type: None });
    let outcome = session.received(response(
        type_url::ADDRESS,
        "n2",
        vec![bad_workload("w1"), workload("w2", "v1"), empty, neither],
        &["gone"],
    ));
    assert!(matches!(
        outcome.updates.as_slice(),
        [Update::RefusedAddress(bad), Update::Workload(good), Update::RemoveAddress(_)]
            if &*bad.name == "w1" && good.uid.as_str() == "w2"
    ));
    let error = outcome.answer.unwrap().error_detail.unwrap();
    assert_eq!(error.code, 0);
    let parts: Vec<_> = error.message.split("; ").collect();
    for (part, name) in parts.iter().zip(["w1: ", "w3: ", "w4: "]) {
        assert!(part.starts_with(name), "{}", error.message);
    }
    // The rejected update of w1 is not remembered, so the server sends it again.
    assert_eq!(held(&mut session), [("w2".to_owned(), "v1".to_owned())]);
}

#[test]
fn a_rejected_policy_is_known_as_refusing() {
    let mut session = session();
    let undecodable = Resource {
        name: "shop/broken".to_owned(),
        resource: Some(Any { type_url: type_url::AUTHORIZATION.to_owned(), value: vec![0xff; 4] }),
        ..Default::default()
    };
    let outcome = session.received(response(
        type_url::AUTHORIZATION,
        "n1",
        vec![policy("shop/good", true), policy("shop/bad", false), undecodable],
        &["shop/gone", "malformed"],
    ));
    let [
        Update::Policy(_),
        Update::InvalidPolicy(bad),
        Update::InvalidPolicy(broken),
        Update::RemovePolicy(gone),
        Update::RemovePolicy(_),
    ] = outcome.updates.as_slice()
    else {
        panic!("{:?}", outcome.updates);
    };
    assert_eq!([bad.key.as_str(), broken.key.as_str(), gone.as_str()], ["shop/bad", "shop/broken", "shop/gone"]);
    assert_eq!(outcome.rejections.len(), 2);
}

#[test]
fn an_old_policy_whose_update_was_rejected_goes_when_the_server_has_it_no_more() {
    let mut session = session();
    session.received(response(type_url::AUTHORIZATION, "n1", vec![policy("shop/p", true)], &[]));
    session.received(response(type_url::AUTHORIZATION, "n2", vec![policy("shop/p", false)], &[]));
    // Deleted while we were away: not in our versions, so the server cannot list it as removed.
    session.connected();
    let outcome = session.received(response(type_url::AUTHORIZATION, "n3", vec![], &[]));
    assert!(matches!(outcome.updates.as_slice(), [Update::RemovePolicy(key)] if key.as_str() == "shop/p"));
}

#[test]
fn a_subscription_too_large_to_send_is_cut_and_the_rest_compared_with_the_answer() {
    let mut session = session();
    let all: Vec<_> = ["a", "b", "c", "d"].map(|name| workload(name, "v1")).into();
    session.received(response(type_url::ADDRESS, "n1", all, &[]));
    let two = 2 * (1 + 2 + ENTRY_OVERHEAD_BYTES);
    let request = session.connected_within(two).remove(1);
    assert_eq!(request.initial_resource_versions.keys().map(String::as_str).collect::<HashSet<_>>(), ["a", "b"].into());
    // `c` is new to the server's eyes and resent, `d` is gone.
    let outcome = session.received(response(type_url::ADDRESS, "n2", vec![workload("c", "v1")], &[]));
    assert!(matches!(
        outcome.updates.as_slice(),
        [Update::Workload(_), Update::RemoveAddress(gone)] if gone == "d"
    ));
    assert_eq!(held(&mut session).len(), 3);
    // Only the first answer is complete.
    assert!(session.connected().len() == 2);
    session.received(response(type_url::ADDRESS, "n3", vec![], &[]));
    assert_eq!(held(&mut session).len(), 3);
}

#[test]
fn nothing_is_missing_before_the_answer_is_whole() {
    let answer = |extent: Extent, nonce: &str, resources, removed: &[&str]| DeltaDiscoveryResponse {
        system_version_info: extent.in_generation(1),
        ..response(type_url::ADDRESS, nonce, resources, removed)
    };
    let mut session = session();
    let all: Vec<_> = ["a", "b", "c", "d"].map(|name| workload(name, "v1")).into();
    let outcome = session.received(answer(Extent::Part, "n1", all, &[]));
    assert_eq!(outcome.first_of, None);
    assert_eq!(session.received(answer(Extent::Open, "n2", vec![], &[])).first_of, Some(type_url::ADDRESS));

    // None is announced; `d` was deleted while we were away, `c` is said to be.
    session.connected_within(0);
    for (extent, nonce, resources, removed) in [
        (Extent::Part, "n3", vec![workload("a", "v1")], vec![]),
        (Extent::Part, "n4", vec![workload("b", "v1")], vec!["c"]),
        (Extent::Open, "n5", vec![], vec![]),
    ] {
        let count = resources.len() + removed.len();
        assert_eq!(session.received(answer(extent, nonce, resources, &removed)).updates.len(), count, "{nonce}");
    }
    let outcome = session.received(answer(Extent::Whole, "n6", vec![], &[]));
    assert!(matches!(outcome.updates.as_slice(), [Update::RemoveAddress(gone)] if gone == "d"));
}

#[test]
fn the_last_first_answer_completes_the_world_once() {
    let mut session = session();
    let complete = |outcome: Outcome| matches!(outcome.updates.last(), Some(Update::Complete));
    assert!(!complete(session.received(response(type_url::ADDRESS, "n1", vec![workload("w1", "v1")], &[]))));
    assert!(!complete(session.received(response(type_url::ADDRESS, "n2", vec![workload("w2", "v1")], &[]))));
    let part = DeltaDiscoveryResponse {
        system_version_info: Extent::Part.in_generation(1),
        ..response(type_url::AUTHORIZATION, "n3", vec![policy("shop/p", true)], &[])
    };
    assert!(!complete(session.received(part)));
    assert!(complete(session.received(response(type_url::AUTHORIZATION, "n4", vec![], &[]))));
    session.connected();
    assert!(!complete(session.received(response(type_url::AUTHORIZATION, "n5", vec![], &[]))));
}

#[test]
fn a_resource_that_says_another_name_is_rejected_under_its_own_and_can_be_removed() {
    let renamed = |mut resource: Resource, name: &str| {
        resource.name = name.to_owned();
        resource
    };
    let service = |namespace: &str| {
        let message = Service { namespace: namespace.to_owned(), hostname: "web".to_owned(), ..Default::default() };
        resource(type_url::ADDRESS, "shop/web", "v1", &Address { r#type: Some(address::Type::Service(message)) })
    };
    let mut world = World::new();
    let mut session = session();
    let bad = vec![renamed(workload("w1", "v1"), "w2"), service("other")];
    let outcome = session.received(response(type_url::ADDRESS, "n1", bad, &[]));
    assert_eq!(outcome.rejections.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["w2", "shop/web"]);
    assert!(outcome.rejections[0].reason.contains("not the name of the resource"), "{:?}", outcome.rejections);
    let snapshot = world.apply(outcome.updates);
    assert_eq!((snapshot.counts().workloads, snapshot.counts().services), (0, 0));
    assert_eq!(snapshot.resource_names().0, ["w2", "shop/web"].map(str::to_owned).into());
    let outcome = session.received(response(type_url::ADDRESS, "n2", vec![], &["w2", "shop/web"]));
    assert_eq!(world.apply(outcome.updates).resource_names().0.len(), 0);

    for name in ["shop/other", "bank/p", "nonsense"] {
        for (valid, said) in [(true, "shop/p"), (false, "shop/p")] {
            let outcome = session.received(response(
                type_url::AUTHORIZATION,
                "n3",
                vec![renamed(policy(said, valid), name)],
                &[],
            ));
            assert_eq!(outcome.rejections[0].name, name);
            let snapshot = world.apply(outcome.updates);
            assert!(snapshot.rejected_policy(&PolicyKey::of_resource(name)).is_some(), "{name}");
            assert_eq!((snapshot.counts().policies, snapshot.counts().rejected_policies), (0, 1), "{name}");
            let outcome = session.received(response(type_url::AUTHORIZATION, "n4", vec![], &[name]));
            assert_eq!(world.apply(outcome.updates).counts().rejected_policies, 0, "{name}");
        }
    }
}

#[test]
fn an_unknown_type_is_refused() {
    let outcome = session().received(response("type.googleapis.com/other", "n1", vec![], &[]));
    assert!(outcome.updates.is_empty() && outcome.first_of.is_none());
    assert!(outcome.answer.unwrap().error_detail.unwrap().message.contains("not subscribed"));
}

#[test]
fn error_text_is_bounded() {
    let rejections: Vec<_> =
        (0..10_000).map(|index| Rejection { name: format!("workload-{index}"), reason: "x".repeat(50) }).collect();
    let message = error_detail(&rejections).unwrap().message;
    assert!(message.len() < MAX_ERROR_BYTES + 100 && message.ends_with("more"), "{}", message.len());
}
