//! Tests of `session`.

use fairway_proto::rpc_status::Status;
use fairway_proto::security::{Authorization, Scope};
use fairway_proto::type_url;
use fairway_proto::workload::Workload;

use super::*;
use crate::translate::Desired;

mod named;
mod resume;

fn world(previous: &World, workloads: &[(&str, &str)], policies: &[&str]) -> World {
    let workloads = workloads.iter().map(|(uid, node)| Workload {
        uid: (*uid).to_owned(),
        namespace: "n".to_owned(),
        node: (*node).to_owned(),
        addresses: vec![vec![10, 0, 0, 1]],
        ..Workload::default()
    });
    // "*" after the name stands for a policy of those that list it.
    let policies = policies.iter().map(|name| Authorization {
        name: name.trim_end_matches('*').to_owned(),
        namespace: "n".to_owned(),
        scope: if name.ends_with('*') { Scope::WorkloadSelector.into() } else { Scope::Namespace.into() },
        ..Authorization::default()
    });
    previous.next(&Desired::of(workloads, [], policies))
}

fn node_proxy() -> Session {
    Session::of(Client::default(), Role::Node)
}

fn subscribe(kind: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.type_url().to_owned(), ..Default::default() }
}

fn answer(response: &DeltaDiscoveryResponse, refusal: Option<&str>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: refusal.map(|message| Status { message: message.to_owned(), ..Status::default() }),
        ..Default::default()
    }
}

fn drain(session: &mut Session) -> Vec<DeltaDiscoveryResponse> {
    std::iter::from_fn(|| session.next_response()).collect()
}

/// Type, changed names, removed names.
fn shape(responses: &[DeltaDiscoveryResponse]) -> Vec<(&str, Vec<&str>, Vec<&str>)> {
    let of = |response: &'_ DeltaDiscoveryResponse| match response.type_url.as_str() {
        type_url::ADDRESS => "address",
        type_url::AUTHORIZATION => "policy",
        _ => "other",
    };
    responses
        .iter()
        .map(|response| {
            let changed = response.resources.iter().map(|resource| resource.name.as_str()).collect();
            (of(response), changed, response.removed_resources.iter().map(String::as_str).collect())
        })
        .collect()
}

/// What of a type was sent and acknowledged, and the last refusal.
fn progress(session: &Session, kind: ResourceType) -> (u64, u64, Option<String>) {
    let (_, progress) = session.progress().find(|(it, _)| *it == kind).unwrap();
    (progress.sent, progress.acked, progress.nacked.clone())
}

const ADDRESS: ResourceType = ResourceType::Address;
const POLICY: ResourceType = ResourceType::Authorization;

#[test]
fn a_subscription_is_answered_even_with_nothing() {
    let mut session = node_proxy();
    assert_eq!(session.receive(subscribe(ADDRESS)), Event::Subscribed(ADDRESS));
    session.plan(&world(&World::default(), &[], &[]));
    assert_eq!(shape(&drain(&mut session)), [("address", vec![], vec![])]);
    session.receive(subscribe(POLICY));
    session.plan(&world(&World::default(), &[], &[]));
    assert_eq!(shape(&drain(&mut session)), [("policy", vec![], vec![])]);
}

#[test]
fn only_differences_follow_and_acknowledgements_are_counted() {
    let one = world(&World::default(), &[("a", "1"), ("b", "1")], &[]);
    let two = world(&one, &[("a", "2"), ("c", "1")], &[]);
    let mut session = node_proxy();
    session.receive(subscribe(ADDRESS));
    session.plan(&one);
    let first = drain(&mut session);
    assert_eq!(shape(&first), [("address", vec!["a", "b"], vec![])]);
    assert_eq!(session.receive(answer(&first[0], None)), Event::Acknowledged(ADDRESS));
    assert_eq!(progress(&session, ADDRESS), (1, 1, None));
    session.plan(&two);
    let second = drain(&mut session);
    assert_eq!(shape(&second), [("address", vec!["a", "c"], vec!["b"])]);
    assert_eq!(progress(&session, ADDRESS), (2, 1, None));
    assert_eq!(session.receive(answer(&second[0], None)), Event::Acknowledged(ADDRESS));
    assert_eq!(progress(&session, ADDRESS).1, 2);
    session.plan(&two);
    assert!(session.is_idle());
}

#[test]
fn a_slow_client_skips_worlds() {
    let one = world(&World::default(), &[("a", "1")], &[]);
    let two = world(&one, &[("a", "2"), ("b", "1")], &[]);
    let three = world(&two, &[("a", "3")], &[]);
    let mut session = node_proxy();
    session.receive(subscribe(ADDRESS));
    session.plan(&one);
    // Not sent yet: later worlds are not planned on top.
    session.plan(&two);
    session.plan(&three);
    assert_eq!(shape(&drain(&mut session)), [("address", vec!["a"], vec![])]);
    session.plan(&three);
    assert_eq!(shape(&drain(&mut session)), [("address", vec!["a"], vec![])]);
}

#[test]
fn a_returning_client_gets_what_changed_while_it_was_away() {
    let one = world(&World::default(), &[("a", "1"), ("b", "1")], &["p"]);
    let held = |kind| {
        let resources = one.resources(kind).values();
        resources.map(|resource| (resource.name.to_string(), resource.version.clone())).collect()
    };
    let two = world(&one, &[("a", "1"), ("c", "1")], &["p"]);
    let mut session = node_proxy();
    for kind in ResourceType::NODE {
        let request = DeltaDiscoveryRequest { initial_resource_versions: held(kind), ..subscribe(kind) };
        session.receive(request);
    }
    session.plan(&two);
    assert_eq!(shape(&drain(&mut session)), [("policy", vec![], vec![]), ("address", vec!["c"], vec!["b"])]);
}

#[test]
fn a_policy_concerns_its_targets_all_the_while_its_scope_changes() {
    let mut session = node_proxy();
    let wide = world(&World::default(), &[("a", "1")], &["p"]);
    for kind in [ADDRESS, POLICY] {
        session.receive(subscribe(kind));
    }
    session.plan(&wide);
    let acknowledge = |session: &mut Session, responses: Vec<DeltaDiscoveryResponse>| {
        for response in &responses {
            session.receive(answer(response, None));
        }
    };
    let responses = drain(&mut session);
    acknowledge(&mut session, responses);
    // Narrowed: the workload lists it before the namespace is let go.
    let narrow = world(&wide, &[("a", "2")], &["p*"]);
    session.plan(&narrow);
    let responses = drain(&mut session);
    assert_eq!(shape(&responses), [("address", vec!["a"], vec![]), ("policy", vec!["n/p"], vec![])]);
    acknowledge(&mut session, responses);
    // Widened: the namespace is covered before the workload lists it no more.
    session.plan(&world(&narrow, &[("a", "3")], &["p"]));
    assert_eq!(shape(&drain(&mut session)), [("policy", vec!["n/p"], vec![]), ("address", vec!["a"], vec![])]);
}

#[test]
fn a_policy_is_there_before_it_is_named_and_until_it_is_not() {
    let one = world(&World::default(), &[("a", "1")], &["old"]);
    let two = world(&one, &[("a", "2")], &["new"]);
    let mut session = node_proxy();
    for kind in ResourceType::NODE {
        session.receive(subscribe(kind));
    }
    session.plan(&one);
    drain(&mut session);
    session.plan(&two);
    let responses = drain(&mut session);
    let expected =
        [("policy", vec!["n/new"], vec![]), ("address", vec!["a"], vec![]), ("policy", vec![], vec!["n/old"])];
    assert_eq!(shape(&responses), expected);
    for response in &responses {
        session.receive(answer(response, None));
    }
    assert_eq!(progress(&session, POLICY), (2, 2, None));
}

#[test]
fn a_refusal_is_kept_until_something_is_taken_over() {
    let one = world(&World::default(), &[("a", "1")], &[]);
    let mut session = node_proxy();
    session.receive(subscribe(ADDRESS));
    session.plan(&one);
    let first = drain(&mut session);
    let event = session.receive(answer(&first[0], Some("a: bad")));
    assert_eq!(event, Event::Refused(ADDRESS, "a: bad".to_owned()));
    assert_eq!(progress(&session, ADDRESS), (1, 0, Some("a: bad".to_owned())));
    // A refusal is not answered with the same again.
    session.plan(&one);
    assert!(session.is_idle());
    assert_eq!(session.receive(answer(&first[0], None)), Event::Stale);
    session.plan(&world(&one, &[("a", "2")], &[]));
    let second = drain(&mut session);
    session.receive(answer(&second[0], None));
    assert_eq!(progress(&session, ADDRESS), (2, 2, None));
}

#[test]
fn an_unchanged_type_keeps_step_with_the_world() {
    let one = world(&World::default(), &[("a", "1")], &[]);
    let two = world(&one, &[("a", "1")], &["p"]);
    let mut session = node_proxy();
    session.receive(subscribe(ADDRESS));
    session.plan(&one);
    let first = drain(&mut session);
    // The world moves on before the answer.
    session.plan(&two);
    session.receive(answer(&first[0], None));
    assert_eq!(progress(&session, ADDRESS), (2, 2, None));
    session.plan(&world(&two, &[("a", "1")], &[]));
    assert_eq!(progress(&session, ADDRESS), (3, 3, None));
}

#[test]
fn an_answer_about_a_name_that_is_under_way_is_waited_for() {
    let one = world(&World::default(), &[("a", "1")], &[]);
    let mut session = node_proxy();
    session.receive(subscribe(ADDRESS));
    session.plan(&one);
    for response in drain(&mut session) {
        session.receive(answer(&response, None));
    }
    // It is asked for in the state that was acknowledged, and the world moves on before the client has it.
    session.receive(DeltaDiscoveryRequest { resource_names_subscribe: vec!["a".to_owned()], ..subscribe(ADDRESS) });
    session.plan(&one);
    let asked = drain(&mut session);
    assert_eq!(shape(&asked), [("address", vec!["a"], vec![])]);
    session.plan(&world(&one, &[("a", "1")], &["p"]));
    assert_eq!(progress(&session, ADDRESS), (2, 1, None));
    session.receive(answer(&asked[0], None));
    assert_eq!(progress(&session, ADDRESS), (2, 2, None));
}

#[test]
fn unknown_types_and_names_are_answered_with_nothing() {
    let mut session = node_proxy();
    let request = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/other".to_owned(),
        resource_names_subscribe: vec!["*".to_owned(), "x".to_owned()],
        ..Default::default()
    };
    assert!(matches!(session.receive(request), Event::UnknownType(_)));
    let responses = drain(&mut session);
    assert_eq!(shape(&responses), [("other", vec![], vec!["x"])]);
    session.receive(answer(&responses[0], None));
    assert!(session.is_idle());

    let one = world(&World::default(), &[("a", "1")], &[]);
    session.receive(DeltaDiscoveryRequest {
        resource_names_subscribe: vec!["*".to_owned()],
        resource_names_unsubscribe: vec!["*".to_owned()],
        ..subscribe(ADDRESS)
    });
    session.plan(&one);
    drain(&mut session);
    let names = vec!["/10.0.0.1".to_owned(), "/10.9.9.9".to_owned()];
    let event = session.receive(DeltaDiscoveryRequest { resource_names_subscribe: names, ..subscribe(ADDRESS) });
    assert_eq!(event, Event::Names(ADDRESS));
    session.plan(&one);
    let responses = drain(&mut session);
    assert_eq!(shape(&responses), [("address", vec!["a"], vec![]), ("address", vec![], vec!["/10.9.9.9"])]);
    assert_eq!(responses[0].resources[0].aliases, ["/10.0.0.1"]);
}

#[test]
fn large_worlds_come_in_parts_and_count_once_all_are_answered() {
    let name = |number: usize| format!("{number:06}-{}", "x".repeat(500));
    let names: Vec<String> = (0..20_000).map(name).collect();
    let workloads: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let one = world(&World::default(), &workloads, &[]);
    let mut session = node_proxy();
    session.receive(subscribe(ADDRESS));
    session.plan(&one);
    let responses = drain(&mut session);
    assert!(responses.len() > 1);
    for response in &responses {
        assert!(prost::Message::encoded_len(response) < 4 * 1024 * 1024);
    }
    assert_eq!(responses.iter().map(|response| response.resources.len()).sum::<usize>(), names.len());
    let (last, others) = responses.split_last().unwrap();
    for response in others {
        session.receive(answer(response, None));
    }
    assert_eq!(progress(&session, ADDRESS).1, 0);
    session.receive(answer(last, None));
    assert_eq!(progress(&session, ADDRESS).1, 1);
    // All gone: names alone can fill several responses.
    session.plan(&world(&one, &[], &[]));
    let responses = drain(&mut session);
    assert_eq!(responses.iter().map(|response| response.removed_resources.len()).sum::<usize>(), names.len());
    for response in &responses {
        assert!(prost::Message::encoded_len(response) < 4 * 1024 * 1024);
    }
}

#[test]
fn a_client_that_never_answers_is_sent_no_more() {
    let mut current = world(&World::default(), &[("a", "0")], &[]);
    let mut session = node_proxy();
    session.receive(subscribe(ADDRESS));
    let mut sent = 0;
    for number in 0..2 * MAXIMUM_UNANSWERED {
        current = world(&current, &[("a", &number.to_string())], &[]);
        session.plan(&current);
        sent += drain(&mut session).len();
    }
    assert_eq!(sent, MAXIMUM_UNANSWERED);
    assert!(!session.can_send());
}

#[test]
fn a_client_that_floods_is_noticed() {
    let names = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
    let mut session = node_proxy();
    let request = DeltaDiscoveryRequest { resource_names_subscribe: names(MAXIMUM_NAMES), ..subscribe(ADDRESS) };
    assert_eq!(session.receive(request.clone()), Event::Subscribed(ADDRESS));
    assert_eq!(session.receive(request), Event::Flood);
    let mut session = node_proxy();
    let other = DeltaDiscoveryRequest { type_url: "other".to_owned(), ..Default::default() };
    for _ in 0..MAXIMUM_ASKED {
        assert!(matches!(session.receive(other.clone()), Event::UnknownType(_)));
    }
    assert_eq!(session.receive(other), Event::Flood);
}

/// The client of our proxies, and the world it made of what it was told.
struct Proxy {
    client: fairway_core::io::xds::Session,
    world: fairway_core::snapshot::World,
}

impl Proxy {
    fn new() -> Self {
        Self {
            client: fairway_core::io::xds::Session::new(fairway_core::io::xds::NodeInfo::default()),
            world: fairway_core::snapshot::World::new(),
        }
    }

    fn connect(&mut self) -> Session {
        let mut server = node_proxy();
        for request in self.client.connected() {
            server.receive(request);
        }
        server
    }

    fn come_back(&mut self, world: &World) -> Vec<(usize, usize)> {
        let mut server = self.connect();
        self.follow(&mut server, world)
    }

    /// Takes all that `server` has for `world`; how many workloads and policies were known after each response.
    fn follow(&mut self, server: &mut Session, world: &World) -> Vec<(usize, usize)> {
        let mut known = Vec::new();
        server.plan(world);
        while let Some(response) = server.next_response() {
            let outcome = self.client.received(response);
            assert_eq!(outcome.rejections, []);
            let snapshot = self.world.apply(outcome.updates);
            known.push((snapshot.workloads().count(), snapshot.policies().count()));
            server.receive(outcome.answer.unwrap());
        }
        known
    }
}

/// Workloads with names so long that a client cannot say all of them when it subscribes.
fn many_workloads(previous: &World, count: usize, node: &str) -> World {
    let name = "w".repeat(220);
    let workloads = (0..count).map(|index| Workload {
        uid: format!("{name}/{index:06}"),
        name: format!("w{index}"),
        namespace: "n".to_owned(),
        node: node.to_owned(),
        ..Workload::default()
    });
    let policies = ["p", "q"].map(|name| Authorization {
        name: name.to_owned(),
        namespace: "n".to_owned(),
        ..Authorization::default()
    });
    previous.next(&Desired::of(workloads, [], policies))
}

#[test]
fn nothing_known_is_dropped_while_a_proxy_comes_back() {
    const COUNT: usize = 16_000;
    let one = many_workloads(&World::default(), COUNT, "node-1");
    let mut proxy = Proxy::new();
    let known = proxy.come_back(&one);
    assert!(known.len() > 2, "the answer has several parts");
    assert_eq!(known.last(), Some(&(COUNT, 2)));

    // Not all of it fits into the subscription, and the answer has several parts again.
    let mut server = proxy.connect();
    let changed = many_workloads(&one, COUNT, "node-2");
    let known = proxy.follow(&mut server, &changed);
    assert!(known.len() > 2, "the answer has several parts");
    assert!(known.iter().all(|known| *known == (COUNT, 2)), "{known:?}");

    // The same with a stream that ends in the middle of the answer.
    let mut server = proxy.connect();
    server.plan(&one);
    for _ in 0..2 {
        let outcome = proxy.client.received(server.next_response().unwrap());
        assert_eq!(proxy.world.apply(outcome.updates).workloads().count(), COUNT);
    }
    let known = proxy.come_back(&one);
    assert!(known.iter().all(|known| *known == (COUNT, 2)), "{known:?}");

    // What was deleted meanwhile goes, whether it could be named or not.
    let less = many_workloads(&one, COUNT - 10, "node-1");
    let known = proxy.come_back(&less);
    assert_eq!(known.last(), Some(&(COUNT - 10, 2)));
    assert!(known.iter().all(|(workloads, _)| *workloads >= COUNT - 10), "{known:?}");
}

#[test]
fn what_may_be_in_an_unreadable_file_is_not_withdrawn() {
    let full = many_workloads(&World::default(), 16_000, "node-1");
    let mut proxy = Proxy::new();
    proxy.come_back(&full);

    // The controller comes back and can read the files of none of these but one, which changed.
    let mut open = world(&World::default(), &[("new", "node-1")], &["p"]);
    open.is_open = true;
    let mut server = proxy.connect();
    let known = proxy.follow(&mut server, &open);
    assert_eq!(known.last(), Some(&(16_001, 2)));

    // What was known to the controller goes also now.
    let mut fewer = world(&open, &[], &["p"]);
    fewer.is_open = true;
    assert_eq!(proxy.follow(&mut server, &fewer), [(16_000, 2)]);

    // Repaired: most of it is there again.
    let mut closed = many_workloads(&fewer, 15_000, "node-1");
    proxy.follow(&mut server, &closed);
    closed.is_open = false;
    let known = proxy.follow(&mut server, &closed);
    assert_eq!(known.last(), Some(&(15_000, 2)));
    assert_eq!(proxy.follow(&mut server, &closed), [], "the answer is closed once");
}

#[test]
fn an_answer_that_was_open_is_closed_even_when_nothing_is_left_to_withdraw() {
    let mut world = world(&World::default(), &[("a", "1")], &[]);
    world.is_open = true;
    let mut session = node_proxy();
    session.receive(subscribe(ADDRESS));
    session.plan(&world);
    assert_eq!(shape(&drain(&mut session)), [("address", vec!["a"], vec![])]);
    session.plan(&world);
    assert_eq!(shape(&drain(&mut session)), []);
    world.is_open = false;
    session.plan(&world);
    assert_eq!(shape(&drain(&mut session)), [("address", vec![], vec![])]);
}

#[test]
fn who_is_neither_node_proxy_nor_waypoint_is_told_of_what_it_names_only() {
    let world = world(&World::default(), &[("w", "node"), ("v", "node")], &[]);
    let mut session = Session::of(Client::default(), Role::Other);
    assert_eq!(session.receive(subscribe(ResourceType::Address)), Event::Denied(ResourceType::Address));
    let named =
        DeltaDiscoveryRequest { resource_names_subscribe: vec!["w".to_owned()], ..subscribe(ResourceType::Address) };
    let mut session = Session::of(Client::default(), Role::Other);
    assert_eq!(session.receive(named), Event::Subscribed(ResourceType::Address));
    session.plan(&world);
    assert_eq!(shape(&drain(&mut session)), [("address", vec!["w"], vec![])]);
    let all =
        DeltaDiscoveryRequest { resource_names_subscribe: vec!["*".to_owned()], ..subscribe(ResourceType::Address) };
    assert_eq!(session.receive(all), Event::Denied(ResourceType::Address));
    let mut session = Session::of(Client::default(), Role::Waypoint);
    assert_eq!(session.receive(subscribe(ResourceType::Address)), Event::Subscribed(ResourceType::Address));
}

#[test]
fn a_refusal_is_remembered_by_name_until_something_else_is_taken_over() {
    let first = world(&World::default(), &[], &["p", "q"]);
    let mut session = node_proxy();
    session.receive(subscribe(ResourceType::Authorization));
    session.plan(&first);
    let [response] = drain(&mut session).try_into().unwrap();
    session.receive(answer(&response, Some("p is bad")));
    let refused = |session: &Session| -> Vec<String> {
        session
            .progress()
            .flat_map(|(_, progress)| progress.refused.named().map(|(name, _)| name.to_string()))
            .collect()
    };
    assert_eq!(refused(&session), ["n/p", "n/q"]);
    // That something else is taken over says nothing of them; that they are gone does.
    let second = world(&first, &[], &["p", "r"]);
    session.plan(&second);
    for response in drain(&mut session) {
        session.receive(answer(&response, None));
    }
    assert_eq!(refused(&session), ["n/p"]);
    // And they are in force as they were when they were refused first, however far the client is with the rest.
    let (_, progress) = session.progress().next().unwrap();
    let (_, refusal) = progress.refused.named().next().unwrap();
    assert_eq!((progress.acked, refusal.held), (second.generation, 0));
}

#[test]
fn who_refuses_more_than_is_remembered_refuses_everything() {
    let mut progress = Progress { acked: 4, ..Progress::default() };
    let names = |count: usize| (0..count).map(|number| Arc::from(number.to_string()));
    progress.refused(names(MAXIMUM_REFUSED), "no");
    assert_eq!(progress.refused.overflow(), None);
    progress.acked = 5;
    progress.refused(names(MAXIMUM_REFUSED + 1), "still");
    assert!(progress.refused.named().all(|(_, refusal)| refusal.held == 4));
    assert_eq!(progress.refused.overflow().unwrap().held, 5);
}
