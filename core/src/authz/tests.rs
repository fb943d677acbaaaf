//! Verdicts from a table, each row with a connection that just misses it, and against a reference that reads the wire.

mod behind;

use std::{net::SocketAddr, sync::Arc};

use fairway_proto::security::{self as proto, Match};
use proptest::prelude::*;

use super::{Decision, Denial, DryRunHit, Facts, decide, judge, original};
use crate::{
    facts::{ConnectionFacts, Original},
    ident::Identity,
    policy::{Action, Applied, Policy, PolicyKey},
    reason::Reason,
    snapshot::{Update, World},
    testing::{
        account, block, exact, identity, pod, policy, policy_message, prefix, presence, socket, suffix, workload,
    },
    view::PodView,
};

fn facts(source: &str, identity: Option<Identity>, destination: &str) -> ConnectionFacts {
    let (source, destination) = (socket(source), socket(destination));
    ConnectionFacts { source, source_identity: identity, original: None, destination, http: None }
}

/// A view of a pod of namespace `shop` under these namespace-wide policies.
fn view(policies: impl IntoIterator<Item = proto::Authorization>) -> PodView {
    let mut world = World::new();
    let mut batch: Vec<Update> = policies.into_iter().map(|message| policy(message).into()).collect();
    batch.push(workload(pod("web", &["10.0.0.1"])).into());
    let snapshot = world.apply(batch);
    snapshot.view_of(snapshot.workload_by_uid("Kubernetes//Pod/shop/web").unwrap())
}

fn allow(matches: Vec<Match>) -> proto::Authorization {
    policy_message("allow", proto::Scope::Namespace, proto::Action::Allow, matches)
}

fn deny(matches: Vec<Match>) -> proto::Authorization {
    policy_message("deny", proto::Scope::Namespace, proto::Action::Deny, matches)
}

fn denied(policy: Option<&str>, reason: Reason) -> Decision {
    let policy = policy.map(|name| PolicyKey::new("shop", name));
    Decision::Deny(Denial { policy, reason, dry_run: Vec::new() })
}

fn allowed(policy: Option<&str>) -> Decision {
    Decision::Allow { rule: policy.map(|name| PolicyKey::new("shop", name)), dry_run: Vec::new() }
}

/// Each row: a match, a connection it matches, and one it does not.
#[test]
fn every_attribute_matches_and_its_twin_does_not() {
    let client = || Some(identity("shop", "client"));
    let other = || Some(identity("bank", "other"));
    let plain = || facts("10.0.0.9:999", None, "10.0.0.1:80");
    let from = |identity| facts("10.0.0.9:999", identity, "10.0.0.1:80");
    let at = |source, destination| facts(source, None, destination);
    let principal = "cluster.local/ns/shop/sa/client";

    macro_rules! row {
        ($($field:ident: $values:expr),+ => $hit:expr, not $miss:expr) => {
            (stringify!($($field: $values),+), Match { $($field: $values,)+ ..Default::default() }, $hit, $miss)
        };
    }
    let rows = vec![
        row!(principals: vec![exact(principal)] => from(client()), not from(other())),
        row!(principals: vec![exact(principal)] => from(client()), not plain()),
        row!(principals: vec![exact("spiffe://cluster.local/ns/bank/sa/other"), prefix("cluster.local/ns/shop/")]
            => from(client()), not from(other())),
        row!(principals: vec![suffix("/sa/client")] => from(client()), not from(other())),
        row!(principals: vec![presence()] => from(client()), not plain()),
        row!(principals: vec![exact(principal)] => from(client()),
            not from(Some(Identity::new("other.domain", "shop", "client").unwrap()))),
        row!(not_principals: vec![exact(principal)] => from(other()), not from(client())),
        row!(not_principals: vec![exact(principal)] => plain(), not from(client())),
        row!(not_principals: vec![presence()] => plain(), not from(client())),
        row!(namespaces: vec![exact("shop")] => from(client()), not from(other())),
        row!(namespaces: vec![exact("shop")] => from(client()), not plain()),
        row!(namespaces: vec![prefix("sh"), suffix("nk")] => from(other()), not plain()),
        row!(namespaces: vec![presence()] => from(client()), not plain()),
        row!(not_namespaces: vec![exact("shop")] => plain(), not from(client())),
        row!(not_namespaces: vec![presence()] => plain(), not from(client())),
        row!(service_accounts: vec![account("shop", "client")] => from(client()), not from(other())),
        row!(service_accounts: vec![account("shop", "client")]
            => from(Some(Identity::new("other.domain", "shop", "client").unwrap())), not plain()),
        row!(service_accounts: vec![account("shop", "client")] => from(client()), not from(Some(identity("bank", "client")))),
        row!(not_service_accounts: vec![account("shop", "client")] => plain(), not from(client())),
        row!(source_ips: vec![block("10.0.0.0/24")] => plain(), not at("10.0.1.9:999", "10.0.0.1:80")),
        row!(source_ips: vec![block("10.0.0.9/32")] => plain(), not at("10.0.0.8:999", "10.0.0.1:80")),
        row!(source_ips: vec![block("10.0.0.0/24")] => at("[::ffff:10.0.0.9]:999", "10.0.0.1:80"), not at("[fd00::9]:999", "10.0.0.1:80")),
        row!(source_ips: vec![block("::ffff:10.0.0.0/120")] => plain(), not at("10.0.1.9:999", "10.0.0.1:80")),
        row!(source_ips: vec![block("fd00::/16")] => at("[fd00::9]:999", "[fd01::1]:80"), not at("[fe80::9]:999", "[fd01::1]:80")),
        row!(source_ips: vec![block("0.0.0.0/0")] => plain(), not at("[fd00::9]:999", "[fd01::1]:80")),
        row!(not_source_ips: vec![block("10.0.0.0/24")] => at("10.0.1.9:999", "10.0.0.1:80"), not plain()),
        row!(destination_ips: vec![block("10.0.0.1/32")] => plain(), not at("10.0.0.9:999", "10.0.0.2:80")),
        row!(not_destination_ips: vec![block("10.0.0.1/32")] => at("10.0.0.9:999", "10.0.0.2:80"), not plain()),
        row!(destination_ports: vec![443, 80] => plain(), not at("10.0.0.9:999", "10.0.0.1:81")),
        row!(not_destination_ports: vec![443, 80] => at("10.0.0.9:999", "10.0.0.1:81"), not plain()),
        // Attributes are joined by "and", also a positive with its negative.
        row!(destination_ports: vec![80], namespaces: vec![exact("shop")] => from(client()), not plain()),
        row!(namespaces: vec![presence()], not_namespaces: vec![exact("bank")] => from(client()), not from(other())),
        row!(destination_ports: vec![80], not_destination_ports: vec![81] => plain(), not at("10.0.0.9:999", "10.0.0.1:81")),
    ];
    for (name, entry, hit, miss) in rows {
        let allowing = view([allow(vec![entry.clone()])]);
        let denying = view([deny(vec![entry])]);
        assert_eq!(decide(&allowing, &hit), allowed(Some("allow")), "{name}");
        assert_eq!(decide(&allowing, &miss), denied(None, Reason::PolicyNotAllowed), "{name}");
        assert!(!decide(&denying, &hit).is_allowed(), "{name}");
        assert_eq!(decide(&denying, &miss), allowed(None), "{name}");
    }
}

#[test]
fn empty_parts() {
    let anyone = facts("10.0.0.9:999", None, "10.0.0.1:80");
    let with_rules = |rules| proto::Authorization { rules, ..deny(vec![]) };
    // A match without attributes never matches, a clause without matches and a rule without clauses always do, a policy
    // without rules never.
    assert_eq!(decide(&view([deny(vec![Match::default()])]), &anyone), allowed(None));
    assert_eq!(decide(&view([deny(vec![])]), &anyone), denied(Some("deny"), Reason::PolicyDenied));
    assert_eq!(
        decide(&view([with_rules(vec![proto::Rule::default()])]), &anyone),
        denied(Some("deny"), Reason::PolicyDenied)
    );
    assert_eq!(decide(&view([with_rules(vec![])]), &anyone), allowed(None));
    let allow_nothing = proto::Authorization { rules: vec![], ..allow(vec![]) };
    assert_eq!(decide(&view([allow_nothing]), &anyone), denied(None, Reason::PolicyNotAllowed));
    assert_eq!(decide(&view([]), &anyone), allowed(None));
}

#[test]
fn clauses_are_all_needed_and_rules_are_alternatives() {
    let port = |port| proto::Clause { matches: vec![Match { destination_ports: vec![port], ..Default::default() }] };
    let namespace =
        |name| proto::Clause { matches: vec![Match { namespaces: vec![exact(name)], ..Default::default() }] };
    let rules = vec![
        proto::Rule { clauses: vec![port(80), namespace("shop")] },
        proto::Rule { clauses: vec![port(81), namespace("bank")] },
    ];
    let view = view([proto::Authorization { rules, ..allow(vec![]) }]);
    for (namespace, destination, expected) in [
        ("shop", "10.0.0.1:80", true),
        ("bank", "10.0.0.1:81", true),
        ("shop", "10.0.0.1:81", false),
        ("bank", "10.0.0.1:80", false),
    ] {
        let facts = facts("10.0.0.9:999", Some(identity(namespace, "x")), destination);
        assert_eq!(decide(&view, &facts).is_allowed(), expected, "{namespace} {destination}");
    }
}

#[test]
fn deny_beats_allow() {
    let anyone = facts("10.0.0.9:999", None, "10.0.0.1:80");
    assert_eq!(decide(&view([allow(vec![]), deny(vec![])]), &anyone), denied(Some("deny"), Reason::PolicyDenied));
}

#[test]
fn strict_is_named_only_where_plaintext_was_the_fault() {
    let strict = deny(vec![Match { not_principals: vec![presence()], ..Default::default() }]);
    let on_port = deny(vec![
        Match { not_principals: vec![presence()], destination_ports: vec![81], ..Default::default() },
        Match { destination_ports: vec![80], ..Default::default() },
    ]);
    let plain = facts("10.0.0.9:999", None, "10.0.0.1:80");
    let mutual = facts("10.0.0.9:999", Some(identity("shop", "client")), "10.0.0.1:80");
    assert_eq!(decide(&view([strict.clone()]), &plain), denied(Some("deny"), Reason::StrictPlaintext));
    assert_eq!(decide(&view([strict]), &mutual), allowed(None));
    assert_eq!(decide(&view([on_port.clone()]), &plain), denied(Some("deny"), Reason::PolicyDenied));
    assert_eq!(decide(&view([on_port]), &mutual), denied(Some("deny"), Reason::PolicyDenied));
}

#[test]
fn rehearsed_policies_are_reported_and_not_enforced() {
    let dry = |message| proto::Authorization { dry_run: true, ..message };
    let anyone = facts("10.0.0.9:999", None, "10.0.0.1:80");
    let hit = |name, action| DryRunHit { policy: PolicyKey::new("shop", name), action };

    let decision = decide(&view([dry(deny(vec![]))]), &anyone);
    assert!(decision.is_allowed());
    assert_eq!(decision.dry_run(), [hit("deny", Action::Deny)]);

    // A rehearsed ALLOW does not turn the default into a refusal.
    let decision = decide(&view([dry(allow(vec![Match::default()]))]), &anyone);
    assert_eq!(decision, allowed(None));
    let decision = decide(&view([dry(allow(vec![]))]), &anyone);
    assert_eq!(decision.dry_run(), [hit("allow", Action::Allow)]);

    // What is denied for real was not asked of rehearsed ALLOWs.
    let real = proto::Authorization { name: "real".into(), ..deny(vec![]) };
    let decision = decide(&view([dry(allow(vec![])), dry(deny(vec![])), real]), &anyone);
    assert!(!decision.is_allowed());
    assert_eq!(decision.dry_run(), [hit("deny", Action::Deny)]);
}

#[test]
fn nothing_is_allowed_before_the_world_is_complete() {
    let anyone = facts("10.0.0.9:999", None, "10.0.0.1:80");
    let web = crate::snapshot::PodRef {
        node: None,
        namespace: "shop".into(),
        name: "web".into(),
        service_account: "default".into(),
    };
    let mut world = World::new();
    let snapshot = world.apply(vec![workload(pod("web", &["10.0.0.1"])).into()]);
    assert_eq!(decide(&snapshot.view(&web), &anyone), denied(None, Reason::WorkloadUnknown));
    let snapshot = world.apply(vec![Update::Complete]);
    assert!(decide(&snapshot.view(&web), &anyone).is_allowed());
}

#[test]
fn unknown_workload_and_unknown_policy_refuse() {
    let anyone = facts("10.0.0.9:999", None, "10.0.0.1:80");
    assert_eq!(decide(&PodView::unknown(), &anyone), denied(None, Reason::WorkloadUnknown));

    let mut world = World::new();
    let mut listing = pod("web", &["10.0.0.1"]);
    listing.authorization_policies = vec!["shop/late".into()];
    let snapshot = world.apply(vec![workload(listing).into()]);
    let view = |snapshot: &Arc<crate::snapshot::Snapshot>| {
        snapshot.view_of(snapshot.workload_by_uid("Kubernetes//Pod/shop/web").unwrap())
    };
    assert_eq!(decide(&view(&snapshot), &anyone), denied(Some("late"), Reason::PolicyUnknown));

    let mut broken = policy_message("late", proto::Scope::WorkloadSelector, proto::Action::Allow, vec![]);
    let valid = policy(broken.clone());
    broken.action = 9;
    let rejected = Policy::try_from(broken).unwrap_err();
    let snapshot = world.apply(vec![rejected.clone().into()]);
    assert_eq!(decide(&view(&snapshot), &anyone), denied(Some("late"), Reason::PolicyInvalid));

    let snapshot = world.apply(vec![valid.into()]);
    assert_eq!(decide(&view(&snapshot), &anyone), allowed(Some("late")));
    // A broken update keeps what was understood.
    let snapshot = world.apply(vec![rejected.into()]);
    assert_eq!(decide(&view(&snapshot), &anyone), allowed(Some("late")));
}

#[test]
fn denials_name_reason_and_policy() {
    let anyone = facts("10.0.0.9:999", None, "10.0.0.1:80");
    let Decision::Deny(denial) = decide(&view([deny(vec![])]), &anyone) else { panic!("allowed") };
    assert_eq!(denial.to_string(), "A DENY policy matched the connection (policy shop/deny)");
}

/// An evaluator that shares nothing with the real one: it reads wire messages and spells every rule out.
mod reference {
    use super::*;

    pub(super) fn allows(policies: &[proto::Authorization], facts: &ConnectionFacts) -> bool {
        let of = |action: proto::Action| {
            policies
                .iter()
                .filter(move |policy| !policy.dry_run && policy.action == i32::from(action))
                .collect::<Vec<_>>()
        };
        if of(proto::Action::Deny).into_iter().any(|policy| matches(policy, facts)) {
            return false;
        }
        let allowing = of(proto::Action::Allow);
        allowing.is_empty() || allowing.into_iter().any(|policy| matches(policy, facts))
    }

    /// Who it comes from: the peer, and whom it speaks for.
    fn sources(facts: &ConnectionFacts) -> Vec<(Option<String>, SocketAddr)> {
        let mut sources = vec![(facts.source_identity.as_ref().map(ToString::to_string), facts.source)];
        if let Some(original) = facts.original.as_ref().filter(|_| facts.source_identity.is_some()) {
            sources.push((Some(original.identity.to_string()), original.address));
        }
        sources
    }

    fn matches(policy: &proto::Authorization, facts: &ConnectionFacts) -> bool {
        for rule in &policy.rules {
            for wanted in sources(facts) {
                let mut all = true;
                for clause in &rule.clauses {
                    let mut any = clause.matches.is_empty();
                    for entry in &clause.matches {
                        let excluded =
                            sources(facts).iter().any(|source| !entry_matches(&negatives(entry), facts, source));
                        any = any || (*entry != Match::default() && entry_matches(entry, facts, &wanted) && !excluded);
                    }
                    all = all && any;
                }
                if all {
                    return true;
                }
            }
        }
        false
    }

    /// What of a match excludes.
    fn negatives(entry: &Match) -> Match {
        Match {
            namespaces: vec![],
            principals: vec![],
            source_ips: vec![],
            destination_ips: vec![],
            destination_ports: vec![],
            service_accounts: vec![],
            ..entry.clone()
        }
    }

    fn entry_matches(entry: &Match, facts: &ConnectionFacts, (uri, address): &(Option<String>, SocketAddr)) -> bool {
        let parts: Vec<&str> = uri.as_deref().map(|uri| uri.split('/').collect()).unwrap_or_default();
        let principal = uri.as_deref().map(|uri: &str| uri.replacen("spiffe://", "", 1));
        let namespace = parts.get(4).copied().unwrap_or_default().to_owned();
        let account = parts.get(6).map(|account| (namespace.clone(), (*account).to_owned()));

        let principal_in = |list: &[proto::StringMatch]| {
            list.iter().any(|expected| principal.as_deref().is_some_and(|principal| text(expected, principal)))
        };
        let namespace_in = |list: &[proto::StringMatch]| list.iter().any(|expected| text(expected, &namespace));
        let account_in = |list: &[proto::ServiceAccountMatch]| {
            list.iter().any(|expected| {
                account.as_ref() == Some(&(expected.namespace.clone(), expected.service_account.clone()))
            })
        };
        let source_in = |list: &[proto::Address]| list.iter().any(|expected| ip(expected, *address));
        let destination_in = |list: &[proto::Address]| list.iter().any(|expected| ip(expected, facts.destination));
        let port_in = |list: &[u32]| list.contains(&u32::from(facts.destination.port()));

        (entry.principals.is_empty() || principal_in(&entry.principals))
            && !principal_in(&entry.not_principals)
            && (entry.namespaces.is_empty() || namespace_in(&entry.namespaces))
            && !namespace_in(&entry.not_namespaces)
            && (entry.service_accounts.is_empty() || account_in(&entry.service_accounts))
            && !account_in(&entry.not_service_accounts)
            && (entry.source_ips.is_empty() || source_in(&entry.source_ips))
            && !source_in(&entry.not_source_ips)
            && (entry.destination_ips.is_empty() || destination_in(&entry.destination_ips))
            && !destination_in(&entry.not_destination_ips)
            && (entry.destination_ports.is_empty() || port_in(&entry.destination_ports))
            && !port_in(&entry.not_destination_ports)
    }

    fn text(expected: &proto::StringMatch, text: &str) -> bool {
        use proto::string_match::MatchType;
        match expected.match_type.as_ref().unwrap() {
            MatchType::Exact(expected) => text == expected,
            MatchType::Prefix(expected) => text.starts_with(expected.as_str()),
            MatchType::Suffix(expected) => text.ends_with(expected.as_str()),
            MatchType::Presence(_) => !text.is_empty(),
        }
    }

    /// Bit by bit.
    fn ip(block: &proto::Address, address: SocketAddr) -> bool {
        let octets = match address.ip() {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let bit = |bytes: &[u8], index: u32| bytes[index as usize / 8] >> (7 - index % 8) & 1;
        block.address.len() == octets.len()
            && (0..block.length).all(|index| bit(&block.address, index) == bit(&octets, index))
    }
}

fn some_text() -> impl Strategy<Value = proto::StringMatch> {
    prop_oneof![
        prop_oneof![Just("cluster.local/ns/a/sa/a"), Just("cluster.local/ns/b/sa/a"), Just("a"), Just("b"), Just("")]
            .prop_map(exact),
        prop_oneof![Just("cluster.local/ns/a"), Just("cluster"), Just("a"), Just("")].prop_map(prefix),
        prop_oneof![Just("sa/a"), Just("/b"), Just("b"), Just("")].prop_map(suffix),
        Just(presence()),
    ]
}

fn some_block() -> impl Strategy<Value = proto::Address> {
    prop_oneof![
        Just("10.0.0.0/31"),
        Just("10.0.0.2/32"),
        Just("10.0.0.3/30"),
        Just("0.0.0.0/0"),
        Just("fd00::2/127"),
        Just("::/0")
    ]
    .prop_map(block)
}

fn some_account() -> impl Strategy<Value = proto::ServiceAccountMatch> {
    ("[ab]", "[ab]").prop_map(|(namespace, name)| account(&namespace, &name))
}

/// Short lists, mostly empty: else nothing ever matches.
fn few<T: std::fmt::Debug>(item: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    (0..6_usize, prop::collection::vec(item, 2)).prop_map(|(count, mut list)| {
        list.truncate(count.saturating_sub(3));
        list
    })
}

fn some_match() -> impl Strategy<Value = Match> {
    (
        (few(some_text()), few(some_text()), few(some_text()), few(some_text())),
        (few(some_block()), few(some_block()), few(some_block()), few(some_block())),
        (few(80_u32..83), few(80_u32..83), few(some_account()), few(some_account())),
    )
        .prop_map(|(texts, blocks, rest)| Match {
            namespaces: texts.0,
            not_namespaces: texts.1,
            principals: texts.2,
            not_principals: texts.3,
            source_ips: blocks.0,
            not_source_ips: blocks.1,
            destination_ips: blocks.2,
            not_destination_ips: blocks.3,
            destination_ports: rest.0,
            not_destination_ports: rest.1,
            service_accounts: rest.2,
            not_service_accounts: rest.3,
            extensions: vec![],
        })
}

fn some_policies() -> impl Strategy<Value = Vec<proto::Authorization>> {
    let clause = prop::collection::vec(some_match(), 0..3).prop_map(|matches| proto::Clause { matches });
    let rule = prop::collection::vec(clause, 0..3).prop_map(|clauses| proto::Rule { clauses });
    let rules = prop::collection::vec(rule, 0..3);
    let policy = (0..2_i32, any::<bool>(), prop::bool::weighted(0.2), rules);
    prop::collection::vec(policy, 0..4).prop_map(|policies| {
        let build = |(index, (action, global, dry_run, rules))| proto::Authorization {
            name: format!("p{index}"),
            namespace: "shop".into(),
            scope: if global { proto::Scope::Global } else { proto::Scope::Namespace }.into(),
            action,
            dry_run,
            rules,
            extensions: vec![],
        };
        policies.into_iter().enumerate().map(build).collect()
    })
}

fn some_facts() -> impl Strategy<Value = ConnectionFacts> {
    let address = || {
        prop_oneof![
            (0..4_u8).prop_map(|last| format!("10.0.0.{last}")),
            (0..4_u8).prop_map(|last| format!("[fd00::{last}]"))
        ]
    };
    let who = || ("[ab]", "[ab]").prop_map(|(namespace, name)| identity(&namespace, &name));
    let original = prop::option::of((who(), address()));
    (address(), address(), 80_u16..83, prop::option::of(who()), original).prop_map(
        |(source, destination, port, peer, original)| {
            let original = original
                .map(|(identity, address)| Arc::new(Original { identity, address: socket(&format!("{address}:999")) }));
            let known = facts(&format!("{source}:999"), peer, &format!("{destination}:{port}"));
            ConnectionFacts { original, ..known }
        },
    )
}

/// The view, in which everybody that there is may speak for others.
fn believing(mut view: PodView) -> PodView {
    view.waypoints = ["a", "b"].iter().flat_map(|name| [identity("a", name), identity("b", name)]).collect();
    view
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn agrees_with_the_reference(policies in some_policies(), facts in prop::collection::vec(some_facts(), 8)) {
        let view = believing(view(policies.clone()));
        for facts in facts {
            let decision = decide(&view, &facts);
            prop_assert_eq!(decision.is_allowed(), reference::allows(&policies, &facts), "{:?}: {:?}", facts, decision);
        }
    }

    /// Verdict, policy, reason and rehearsed hits are those of asking every policy in turn.
    #[test]
    fn the_index_changes_no_decision(
        policies in prop::collection::vec(some_policies(), 1..6),
        unknown in prop::option::weighted(0.1, 0..3_usize),
        facts in prop::collection::vec(some_facts(), 8),
    ) {
        let policies = policies.into_iter().flatten().enumerate();
        let policies = policies.map(|(index, policy)| proto::Authorization { name: format!("p{index}"), ..policy });
        let mut view = believing(view(policies));
        if let Some(position) = unknown {
            let mut applied = view.policies.to_vec();
            let key = PolicyKey::new("shop", "unknown");
            applied.insert(position.min(applied.len()), Applied::Refusing { key, invalid: false });
            view.policies = applied.into();
        }
        for facts in facts {
            let facts = Facts::new(&facts, original(&view, &facts));
            let all = judge(&view, &facts, view.policies.iter());
            let found = judge(&view, &facts, view.policies.find(&facts.asked()));
            prop_assert_eq!(found, all);
        }
    }
}
