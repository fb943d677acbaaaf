//! Policies from the wire, converted and decided with, beside an evaluator that reads the messages literally.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_core::authz::{self, Decision};
use fairway_core::facts::{ConnectionFacts, Original};
use fairway_core::ident::Identity;
use fairway_core::policy::{Policy, PolicyKey, RejectedPolicy};
use fairway_core::snapshot::{Update, World};
use fairway_core::workload::Workload;
use fairway_proto::security::{Action, Address, Authorization, Match, Scope, StringMatch, string_match::MatchType};
use fairway_proto::workload;

use crate::input::Input;

/// Namespace of the pod that is dialled.
const NAMESPACE: &str = "shop";

/// The first bytes say who dials what, the rest are policies.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let facts = facts(&mut input);
    let mut messages: Vec<Authorization> = input.messages();
    // Of one name the last counts, as on the wire.
    messages.reverse();
    let mut seen = HashSet::new();
    messages.retain(|message| seen.insert(PolicyKey::new(&message.namespace, &message.name)));

    let mut world = World::complete();
    world.apply(vec![pod(&messages).into()]);
    let mut expected = Expected::default();
    let mut updates = Vec::new();
    for message in &messages {
        match Policy::try_from(message.clone()) {
            Ok(policy) => {
                expected.take(message, &facts);
                updates.push(Update::from(policy));
            }
            Err(rejected) => {
                expected.reject(message, &rejected);
                updates.push(Update::from(rejected));
            }
        }
    }
    let snapshot = world.apply(updates);
    let pod = snapshot.workloads().next().expect("the pod is known");
    let mut view = snapshot.view_of(pod);
    // Whoever comes is a waypoint of the pod.
    view.waypoints = facts.source_identity.iter().cloned().collect();
    let decision = authz::decide(&view, &facts);
    assert_eq!(
        decision.is_allowed(),
        expected.allows(),
        "decided {decision:?}, read literally {expected:?}, for {facts:?} and {messages:?}"
    );
    if let Decision::Deny(denial) = &decision {
        assert!(denial.reason.is_denial());
    }
}

fn facts(input: &mut Input<'_>) -> ConnectionFacts {
    let shape = input.byte();
    let ip = |input: &mut Input<'_>, ipv6: bool| -> IpAddr {
        if ipv6 { input.array::<16>().into() } else { input.array::<4>().into() }
    };
    let source = SocketAddr::new(ip(input, shape & 1 > 0), 40_000);
    let destination = SocketAddr::new(ip(input, shape & 2 > 0), input.number());
    let identity = |namespace, account| Identity::new("cluster.local", namespace, account).ok();
    let source_identity = match shape >> 2 & 7 {
        0 | 1 => None,
        2 => identity(NAMESPACE, "web"),
        3 => identity(NAMESPACE, "default"),
        4 => identity("other", "web"),
        5 => identity("shop-2", "web-2"),
        _ => Identity::new("elsewhere.example", NAMESPACE, "web").ok(),
    };
    let original = (shape >> 5 & 1 > 0).then(|| {
        let names = [("shop", "web"), ("shop", "default"), ("other", "web"), ("shop-2", "web-2")];
        let (namespace, account) = names[usize::from(shape >> 6)];
        let domain = source_identity.as_ref().map_or("cluster.local", Identity::trust_domain);
        let identity = Identity::new(domain, namespace, account).expect("names of ours are sound");
        Arc::new(Original { identity, address: SocketAddr::new(ip(input, false), 40_000) })
    });
    ConnectionFacts { source, source_identity, original, destination, http: None }
}

/// Who it comes from: the peer, and whom it speaks for, which only a proven peer can.
fn sources(facts: &ConnectionFacts) -> Vec<(Option<&Identity>, IpAddr)> {
    let peer = (facts.source_identity.as_ref(), facts.source.ip());
    let original = facts.original.as_ref().filter(|_| facts.source_identity.is_some());
    [Some(peer), original.map(|original| (Some(&original.identity), original.address.ip()))]
        .into_iter()
        .flatten()
        .collect()
}

/// The pod lists every policy whose scope asks for it.
fn pod(messages: &[Authorization]) -> Workload {
    let listed = messages.iter().filter(|message| message.scope() == Scope::WorkloadSelector);
    let message = workload::Workload {
        uid: "Kubernetes//Pod/shop/cart".into(),
        name: "cart".into(),
        namespace: NAMESPACE.into(),
        authorization_policies: listed
            .map(|message| PolicyKey::new(&message.namespace, &message.name).as_str().to_owned())
            .filter(|key| key.parse::<PolicyKey>().is_ok())
            .collect(),
        ..Default::default()
    };
    Workload::try_from(message).expect("the pod's names of policies are sound")
}

/// Interop §2.3, told by what was seen instead of by an order of evaluation.
#[derive(Debug, Default)]
struct Expected {
    denied: bool,
    refusing: bool,
    allowed: bool,
    must_be_allowed: bool,
}

impl Expected {
    fn allows(&self) -> bool {
        !self.denied && !self.refusing && (self.allowed || !self.must_be_allowed)
    }

    fn take(&mut self, message: &Authorization, facts: &ConnectionFacts) {
        if message.dry_run || !covers(message) {
            return;
        }
        let sources = sources(facts);
        let matches = message.rules.iter().any(|rule| {
            (0..sources.len()).any(|wanted| {
                rule.clauses.iter().all(|clause| {
                    let holds = |entry: &Match| match_holds(entry, facts, sources[wanted], &sources);
                    clause.matches.is_empty() || clause.matches.iter().any(holds)
                })
            })
        });
        match message.action() {
            Action::Deny => self.denied |= matches,
            Action::Allow => {
                self.must_be_allowed = true;
                self.allowed |= matches;
            }
        }
    }

    /// What is not understood refuses what it would cover; of unknown scope, its namespace and all who list it.
    fn reject(&mut self, message: &Authorization, rejected: &RejectedPolicy) {
        assert_eq!(rejected.key, PolicyKey::new(&message.namespace, &message.name));
        if message.dry_run {
            return;
        }
        let scope_known = Scope::try_from(message.scope).is_ok();
        let by_namespace = rejected.key.namespace() == NAMESPACE;
        self.refusing |= if scope_known { covers_key(message, &rejected.key) } else { by_namespace };
    }
}

fn covers(message: &Authorization) -> bool {
    covers_key(message, &PolicyKey::new(&message.namespace, &message.name))
}

fn covers_key(message: &Authorization, key: &PolicyKey) -> bool {
    match message.scope() {
        Scope::Global => true,
        Scope::Namespace => key.namespace() == NAMESPACE,
        // The pod lists every one of them whose name can be listed.
        Scope::WorkloadSelector => key.as_str().parse::<PolicyKey>().is_ok(),
    }
}

/// Whether `wanted` is what the entry asks for, and none of `all` what it excludes.
fn match_holds(
    entry: &Match,
    facts: &ConnectionFacts,
    wanted: (Option<&Identity>, IpAddr),
    all: &[(Option<&Identity>, IpAddr)],
) -> bool {
    let excluding = Match {
        namespaces: Vec::new(),
        principals: Vec::new(),
        source_ips: Vec::new(),
        destination_ips: Vec::new(),
        destination_ports: Vec::new(),
        service_accounts: Vec::new(),
        ..entry.clone()
    };
    let excludes_nothing = excluding == Match::default();
    source_holds(entry, facts, wanted)
        && (excludes_nothing || all.iter().all(|source| source_holds(&excluding, facts, *source)))
}

fn source_holds(entry: &Match, facts: &ConnectionFacts, (identity, source): (Option<&Identity>, IpAddr)) -> bool {
    let principal = identity.map(Identity::principal).unwrap_or_default();
    let namespace = identity.map(Identity::namespace).unwrap_or_default();
    let source = source.to_canonical();
    let destination = facts.destination.ip().to_canonical();
    let port = u32::from(facts.destination.port());
    // With no identity even an empty prefix of a principal does not hold.
    let principal_is = |wanted: &StringMatch| identity.is_some() && text_holds(wanted, principal);
    let account_is = |wanted: &fairway_proto::security::ServiceAccountMatch| {
        identity.is_some_and(|identity| {
            identity.namespace() == wanted.namespace && identity.service_account() == wanted.service_account
        })
    };
    let attributes = [
        attribute(&entry.namespaces, &entry.not_namespaces, |wanted| text_holds(wanted, namespace)),
        attribute(&entry.principals, &entry.not_principals, principal_is),
        attribute(&entry.source_ips, &entry.not_source_ips, |block| block_holds(block, source)),
        attribute(&entry.destination_ips, &entry.not_destination_ips, |block| block_holds(block, destination)),
        attribute(&entry.destination_ports, &entry.not_destination_ports, |wanted| *wanted == port),
        attribute(&entry.service_accounts, &entry.not_service_accounts, account_is),
    ];
    attributes.iter().any(Option::is_some) && attributes.iter().all(|holds| *holds != Some(false))
}

/// `None` when nothing is asked of the attribute.
fn attribute<T>(any_of: &[T], none_of: &[T], holds: impl Fn(&T) -> bool) -> Option<bool> {
    if any_of.is_empty() && none_of.is_empty() {
        return None;
    }
    Some((any_of.is_empty() || any_of.iter().any(&holds)) && !none_of.iter().any(&holds))
}

fn text_holds(wanted: &StringMatch, text: &str) -> bool {
    match wanted.match_type.as_ref() {
        Some(MatchType::Exact(exact)) => text == exact,
        Some(MatchType::Prefix(prefix)) => text.starts_with(prefix),
        Some(MatchType::Suffix(suffix)) => text.ends_with(suffix),
        Some(MatchType::Presence(_)) => !text.is_empty(),
        None => unreachable!("such a policy is rejected"),
    }
}

/// Bit by bit, in the form of an IPv6 address: IPv4 lies below ::ffff:0:0/96.
fn block_holds(block: &Address, ip: IpAddr) -> bool {
    let (base, is_ipv4) = match <[u8; 4]>::try_from(block.address.as_slice()) {
        Ok(octets) => (IpAddr::from(octets), true),
        Err(_) => (<[u8; 16]>::try_from(block.address.as_slice()).expect("checked").into(), false),
    };
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(ip.to_ipv6_mapped()),
        IpAddr::V6(ip) => u128::from(ip),
    };
    let length = if is_ipv4 { block.length + 96 } else { block.length };
    // A block that begins outside the mapped addresses is about IPv6 alone, and the reverse.
    let mapped = |bits: u128| bits >> 32 == 0xffff;
    let differing = bits(base) ^ bits(ip);
    let prefix_equal = length == 0 || differing >> (128 - length) == 0;
    prefix_equal && (mapped(bits(base)) && length >= 96) == mapped(bits(ip))
}
