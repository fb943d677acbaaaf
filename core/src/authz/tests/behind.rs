//! Connections that come from a waypoint, which speaks for a client: what each pattern of policies says of them, and what of that holds
//! for all policies.

use super::*;

const A: &str = "cluster.local/ns/shop/sa/a";
const B: &str = "cluster.local/ns/shop/sa/b";
const WAY: &str = "cluster.local/ns/infra/sa/way";

fn of(principal: &str) -> Identity {
    format!("spiffe://{principal}").parse().unwrap()
}

/// A waypoint in a namespace of its own, and two clients.
fn address(principal: &str) -> &'static str {
    match principal {
        A => "10.0.0.1:999",
        B => "10.0.0.2:999",
        _ => "10.0.9.9:999",
    }
}

fn comes(peer: &str, original: Option<&str>) -> ConnectionFacts {
    let original = original.map(|client| Arc::new(Original { identity: of(client), address: socket(address(client)) }));
    ConnectionFacts { original, ..facts(address(peer), Some(of(peer)), "10.0.0.7:80") }
}

/// The view of a pod behind the waypoint.
fn behind(policies: impl IntoIterator<Item = proto::Authorization>) -> PodView {
    PodView { waypoints: [of(WAY)].into(), ..view(policies) }
}

/// Whom a policy lets in: the waypoint for nobody, for `a` and for `b`, and both of them directly.
#[test]
fn who_gets_in_through_a_waypoint() {
    let blocks = |list: &[&str]| list.iter().map(|text| block(text)).collect::<Vec<_>>();
    let (both_clauses, none, all) = (["way", "a"], [false; 5], [true; 5]);
    macro_rules! row {
        ($action:ident $($field:ident: $values:expr),+ => $verdicts:expr) => {
            (stringify!($action $($field: $values),+), $action(vec![Match { $($field: $values,)+ ..Default::default() }]), $verdicts)
        };
    }
    let two_clauses = {
        let clause = |name: &str| proto::Clause {
            matches: vec![Match { principals: vec![suffix(&format!("/sa/{name}"))], ..Default::default() }],
        };
        let rules = vec![proto::Rule { clauses: both_clauses.map(clause).into() }];
        proto::Authorization { rules, ..allow(vec![]) }
    };
    let rows = [
        // What users write, with and without a waypoint in mind.
        row!(allow principals: vec![exact(A)] => [false, true, false, true, false]),
        row!(allow service_accounts: vec![account("shop", "a")] => [false, true, false, true, false]),
        row!(allow namespaces: vec![exact("shop")] => [false, true, true, true, true]),
        row!(allow principals: vec![exact(WAY)] => [true, true, true, false, false]),
        row!(allow not_principals: vec![exact(B)] => [true, true, false, true, false]),
        row!(deny principals: vec![exact(B)] => [true, true, false, true, false]),
        row!(deny not_principals: vec![exact(WAY)] => [true, true, true, false, false]),
        row!(deny not_principals: vec![exact(A)] => [false, true, false, true, false]),
        row!(deny not_namespaces: vec![exact("shop")] => [false, true, true, true, true]),
        row!(deny not_principals: vec![presence()] => all),
        // Of one source, and of none.
        row!(allow principals: vec![exact(WAY)], not_principals: vec![exact(B)] => [true, true, false, false, false]),
        row!(deny principals: vec![exact(WAY)], not_principals: vec![exact(A)] => [false, true, false, true, true]),
        row!(allow principals: vec![exact(A)], source_ips: blocks(&["10.0.9.9/32"]) => none),
        row!(allow principals: vec![exact(A)], source_ips: blocks(&["10.0.0.1/32"]) => [false, true, false, true, false]),
        ("one clause of the waypoint, another of the client", two_clauses, none),
        // Addresses.
        row!(allow source_ips: blocks(&["10.0.0.1/32"]) => [false, true, false, true, false]),
        row!(allow source_ips: blocks(&["10.0.9.0/24"]) => [true, true, true, false, false]),
        row!(allow not_source_ips: blocks(&["10.0.0.2/32"]) => [true, true, false, true, false]),
        row!(deny source_ips: blocks(&["10.0.0.2/32"]) => [true, true, false, true, false]),
        row!(deny not_source_ips: blocks(&["10.0.9.0/24"]) => [true, true, true, false, false]),
        // Nothing of sources.
        row!(allow destination_ports: vec![80] => all),
        row!(deny destination_ports: vec![80] => none),
    ];
    let ways = [comes(WAY, None), comes(WAY, Some(A)), comes(WAY, Some(B)), comes(A, None), comes(B, None)];
    for (name, policy, expected) in rows {
        let view = behind([policy]);
        let found = ways.each_ref().map(|facts| decide(&view, facts).is_allowed());
        assert_eq!(found, expected, "{name}");
    }
}

/// A waypoint is in a namespace, too, mostly in that of the pods: by it, rules about namespaces mean all that comes through it. Those who
/// are meant have to be named.
#[test]
fn the_namespace_of_the_waypoint_is_one_of_who_comes_through_it() {
    const HERE: &str = "cluster.local/ns/shop/sa/way";
    const VISITOR: &str = "cluster.local/ns/street/sa/visitor";
    macro_rules! row {
        ($action:ident $field:ident: $value:expr => $verdicts:expr) => {
            (stringify!($action $field: $value), $action(vec![Match { $field: vec![$value], ..Default::default() }]), $verdicts)
        };
    }
    // For a visitor, for a client of the pod's namespace, and the visitor by itself.
    let rows = [
        row!(allow namespaces: exact("shop") => [true, true, false]),
        row!(deny not_namespaces: exact("shop") => [true, true, false]),
        row!(deny namespaces: exact("street") => [false, true, false]),
        row!(allow principals: exact(A) => [false, true, false]),
        row!(deny not_principals: exact(A) => [false, true, false]),
    ];
    let ways = [comes(HERE, Some(VISITOR)), comes(HERE, Some(A)), comes(VISITOR, None)];
    for (name, policy, expected) in rows {
        let view = PodView { waypoints: [of(HERE)].into(), ..view([policy]) };
        let found = ways.each_ref().map(|facts| decide(&view, facts).is_allowed());
        assert_eq!(found, expected, "{name}");
    }
}

/// To name both is to ask for both: who names the client, and who names the waypoint, each as the only one.
#[test]
fn only_this_client_and_only_through_the_waypoint() {
    let only = |name: &str, principal| proto::Authorization {
        name: name.into(),
        ..deny(vec![Match { not_principals: vec![exact(principal)], ..Default::default() }])
    };
    let view = behind([only("client", A), only("waypoint", WAY)]);
    let ways = [comes(WAY, Some(A)), comes(WAY, Some(B)), comes(WAY, None), comes(A, None)];
    assert_eq!(ways.map(|facts| decide(&view, &facts).is_allowed()), [true, false, false, false]);
}

#[test]
fn nobody_but_a_waypoint_of_the_pod_is_believed() {
    let policy = || allow(vec![Match { principals: vec![exact(A)], ..Default::default() }]);
    let elsewhere = of("other.domain/ns/shop/sa/a");
    let foreign = Original { identity: elsewhere, address: socket("10.0.0.1:1") };
    let foreign = ConnectionFacts { original: Some(Arc::new(foreign)), ..comes(WAY, None) };
    let plaintext = ConnectionFacts { source_identity: None, ..comes(WAY, Some(A)) };
    let rows = [
        (behind([policy()]), comes(WAY, Some(A)), Some(A)),
        (view([policy()]), comes(WAY, Some(A)), None),
        (behind([policy()]), comes(B, Some(A)), None),
        (behind([policy()]), plaintext, None),
        (behind([policy()]), foreign, None),
    ];
    for (view, facts, believed) in rows {
        let found = original(&view, &facts).map(|original| original.identity.principal());
        assert_eq!((found, decide(&view, &facts).is_allowed()), (believed, believed.is_some()), "{facts:?}");
    }
}

/// The connection as if whom the peer speaks for had come by itself.
fn directly(facts: &ConnectionFacts, original: &Original) -> ConnectionFacts {
    let source_identity = Some(original.identity.clone());
    ConnectionFacts { source: original.address, source_identity, original: None, ..facts.clone() }
}

fn is_allow(policy: &proto::Authorization) -> bool {
    policy.action == i32::from(proto::Action::Allow)
}

fn entries(policy: &proto::Authorization) -> impl Iterator<Item = &Match> {
    policy.rules.iter().flat_map(|rule| &rule.clauses).flat_map(|clause| &clause.matches)
}

fn excludes_sources(entry: &Match) -> bool {
    let Match { not_principals, not_namespaces, not_service_accounts, not_source_ips, .. } = entry;
    !(not_principals.is_empty()
        && not_namespaces.is_empty()
        && not_service_accounts.is_empty()
        && not_source_ips.is_empty())
}

fn asks_for_sources(entry: &Match) -> bool {
    let Match { principals, namespaces, service_accounts, source_ips, .. } = entry;
    !(principals.is_empty() && namespaces.is_empty() && service_accounts.is_empty() && source_ips.is_empty())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Where nobody is believed, or nobody is spoken for, nothing is as if there were no waypoints.
    #[test]
    fn without_an_original_nothing_changes(policies in some_policies(), facts in prop::collection::vec(some_facts(), 8)) {
        let nobody = view(policies);
        let everybody = believing(nobody.clone());
        for facts in facts {
            let alone = ConnectionFacts { original: None, ..facts.clone() };
            let expected = decide(&nobody, &alone);
            prop_assert_eq!(&decide(&everybody, &alone), &expected);
            prop_assert_eq!(&decide(&nobody, &facts), &expected, "{:?}", facts);
        }
    }

    /// What is promised of every set of policies (ADR 0043).
    #[test]
    fn an_original_lets_in_what_policies_say_and_nothing_else(
        policies in some_policies(), facts in prop::collection::vec(some_facts(), 8)
    ) {
        let of = |wanted: &dyn Fn(&proto::Authorization) -> bool| {
            believing(view(policies.iter().filter(|policy| wanted(policy)).cloned()))
        };
        let all = of(&|_| true);
        let allowing = of(&is_allow);
        let denying = of(&|policy| !is_allow(policy) && !entries(policy).any(excludes_sources));
        let is_stricter = policies.iter().all(|policy| {
            !entries(policy).any(if is_allow(policy) { asks_for_sources } else { excludes_sources })
        });
        for facts in facts {
            let Some(original) = original(&all, &facts) else { continue };
            let (peer, client) = (ConnectionFacts { original: None, ..facts.clone() }, directly(&facts, original));
            let allowed = |view: &PodView, facts: &ConnectionFacts| decide(view, facts).is_allowed();
            let is_allowed = allowed(&all, &facts);
            // No DENY that excludes nobody is got around.
            prop_assert!(!is_allowed || (allowed(&denying, &peer) && allowed(&denying, &client)), "{:?}", facts);
            // No ALLOW lets in who would get in neither as the waypoint nor directly.
            prop_assert!(
                !allowed(&allowing, &facts) || allowed(&allowing, &peer) || allowed(&allowing, &client), "{:?}", facts
            );
            // More is let in only by an ALLOW that asks for a source, or a DENY that excludes one.
            prop_assert!(!is_stricter || !is_allowed || allowed(&all, &peer), "{:?}", facts);
        }
    }
}
