//! The policies of one pod, with an index of those that a given connection can match.
//!
//! A policy matches only if some entry of its matches, and such an entry often names exactly whom or what it is about.
//! The index keeps, by what is named, who could match; they are then asked as they are. It may name too many, never too
//! few.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hash},
    ops::Deref,
    sync::{Arc, OnceLock},
};

use foldhash::fast::FixedState;

use crate::policy::{Action, Applied, Match, Policy, StringMatch};

/// Up to this many are asked one by one: looking into the index costs about as much as asking this many.
const FEW: usize = 8;

/// What applies to one pod, in the order it is asked. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    list: Box<[Applied]>,
    need_allow: bool,
    /// Made by the first connection that could use it: most views are never decided with.
    index: OnceLock<Index>,
}

/// What the index is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// Who connects.
    pub(crate) peer: Who<'a>,
    /// Whom the peer speaks for.
    pub(crate) original: Option<Who<'a>>,
    /// The application's port.
    pub(crate) port: u16,
}

/// Somebody that a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who<'a> {
    /// None in plaintext.
    pub(crate) principal: Option<&'a str>,
    /// The same as namespace and service account.
    pub(crate) account: Option<(&'a str, &'a str)>,
    /// Empty in plaintext.
    pub(crate) namespace: &'a str,
}

impl Policies {
    /// Whether a policy must allow a connection for it to pass.
    #[must_use]
    pub fn need_allow(&self) -> bool {
        self.shared.need_allow
    }

    /// In order, all that can match such a connection, and perhaps others.
    pub(crate) fn that_can_match(&self, asked: &Asked<'_>) -> impl Iterator<Item = &Applied> {
        let (all, found) = if self.len() <= FEW { (Some(self.iter()), None) } else { (None, Some(self.find(asked))) };
        all.into_iter().flatten().chain(found.into_iter().flatten())
    }

    /// The same by way of the index, however few there are.
    pub(crate) fn find(&self, asked: &Asked<'_>) -> Found<'_> {
        let index = self.shared.index.get_or_init(|| Index::of(self));
        Found { list: self, heads: index.candidates(asked) }
    }
}

impl From<Vec<Applied>> for Policies {
    fn from(list: Vec<Applied>) -> Self {
        let enforced_allow = |applied: &Applied| matches!(applied, Applied::Known(policy) if policy.action == Action::Allow && !policy.dry_run);
        let need_allow = list.iter().any(enforced_allow);
        Self { shared: Arc::new(Shared { list: list.into(), need_allow, index: OnceLock::new() }) }
    }
}

impl Deref for Policies {
    type Target = [Applied];

    fn deref(&self) -> &[Applied] {
        &self.shared.list
    }
}

impl PartialEq for Policies {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
            || (self.len() == other.len() && self.iter().zip(other.iter()).all(|(left, right)| same(left, right)))
    }
}

impl Eq for Policies {}

fn same(left: &Applied, right: &Applied) -> bool {
    match (left, right) {
        (Applied::Known(left), Applied::Known(right)) => Arc::ptr_eq(left, right) || left == right,
        _ => left == right,
    }
}

/// The ways to be found, in the order in which a policy's are tried: the first ones leave the fewest candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Way {
    Principal,
    Account,
    Namespace,
    Port,
}

/// Of one way and what is named. Two that happen to be equal cost a policy asked in vain.
type Key = u64;

fn key(way: Way, named: impl Hash) -> Key {
    FixedState::default().hash_one((way, named))
}

/// How a policy, or a part of one, is found.
#[derive(Debug, PartialEq, Eq)]
enum Gate {
    /// By any of these keys, all of ways as good as this or better; with none it never matches.
    Keys(Way, Vec<Key>),
    /// Always.
    Open,
}

impl Gate {
    const SHUT: Self = Self::Keys(Way::Principal, Vec::new());

    fn of_policy(policy: &Policy) -> Self {
        // All clauses must match, so the narrowest one may speak for the rule.
        let of_rule = |clauses: &[crate::policy::Clause]| {
            clauses.iter().map(|clause| Self::of_clause(&clause.matches)).fold(Self::Open, Self::narrower)
        };
        policy.rules.iter().map(|rule| of_rule(&rule.clauses)).fold(Self::SHUT, Self::or)
    }

    fn of_clause(matches: &[Match]) -> Self {
        if matches.is_empty() {
            return Self::Open;
        }
        matches.iter().map(Self::of_entry).fold(Self::SHUT, Self::or)
    }

    /// All attributes that are set must hold, so the best of those that name what they want may speak for the entry.
    fn of_entry(entry: &Match) -> Self {
        if entry.is_empty() {
            return Self::SHUT;
        }
        if let Some(keys) = exact(Way::Principal, &entry.principals) {
            return Self::Keys(Way::Principal, keys);
        }
        if !entry.service_accounts.is_empty() {
            let named = entry.service_accounts.iter().map(|account| (&*account.namespace, &*account.service_account));
            return Self::Keys(Way::Account, named.map(|named| key(Way::Account, named)).collect());
        }
        if let Some(keys) = exact(Way::Namespace, &entry.namespaces) {
            return Self::Keys(Way::Namespace, keys);
        }
        if !entry.destination_ports.is_empty() {
            let keys = entry.destination_ports.iter().map(|port| key(Way::Port, port));
            return Self::Keys(Way::Port, keys.collect());
        }
        Self::Open
    }

    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Keys(way, mut keys), Self::Keys(other, more)) => {
                keys.extend(more);
                Self::Keys(way.max(other), keys)
            }
            _ => Self::Open,
        }
    }

    fn narrower(self, other: Self) -> Self {
        match (&self, &other) {
            (_, Self::Open) => self,
            (Self::Open, _) => other,
            (Self::Keys(way, keys), Self::Keys(next, more)) => {
                if (way, keys.len()) <= (next, more.len()) {
                    self
                } else {
                    other
                }
            }
        }
    }
}

/// The keys of texts that are all exact; none if there are no texts, or others.
fn exact(way: Way, texts: &[StringMatch]) -> Option<Vec<Key>> {
    let named = texts.iter().map(|text| match text {
        StringMatch::Exact(text) => Some(key(way, &**text)),
        StringMatch::Prefix(_) | StringMatch::Suffix(_) | StringMatch::Presence => None,
    });
    named.collect::<Option<Vec<_>>>().filter(|keys| !keys.is_empty())
}

/// Positions in the list, rising.
#[derive(Debug, Default)]
struct Index {
    named: HashMap<Key, Vec<u32>, FixedState>,
    always: Vec<u32>,
}

impl Index {
    fn of(list: &[Applied]) -> Self {
        let mut index = Self::default();
        for (position, applied) in (0_u32..).zip(list) {
            let policy = match applied {
                Applied::Known(policy) => policy,
                Applied::Refusing { .. } => {
                    // Nobody gets past it.
                    index.always.push(position);
                    break;
                }
            };
            match Gate::of_policy(policy) {
                Gate::Open => index.always.push(position),
                Gate::Keys(_, keys) => {
                    for key in HashSet::<Key, FixedState>::from_iter(keys) {
                        index.named.entry(key).or_default().push(position);
                    }
                }
            }
        }
        index
    }

    fn candidates(&self, asked: &Asked<'_>) -> [&[u32]; WAYS_IN] {
        let of = |named: Option<Key>| named.and_then(|key| self.named.get(&key)).map_or(&[][..], Vec::as_slice);
        let who = |who: &Who<'_>| {
            [
                of(who.principal.map(|principal| key(Way::Principal, principal))),
                of(who.account.map(|account| key(Way::Account, account))),
                of(Some(key(Way::Namespace, who.namespace))),
            ]
        };
        let [principal, account, namespace] = who(&asked.peer);
        let [first, second, third] = asked.original.as_ref().map(who).unwrap_or_default();
        let port = of(Some(key(Way::Port, asked.port)));
        [&self.always, principal, account, namespace, first, second, third, port]
    }
}

/// Lists of candidates: what is always asked, what names the port, and three for each of two sources.
const WAYS_IN: usize = 8;

/// Merges the candidates of all ways, each once.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    list: &'a [Applied],
    heads: [&'a [u32]; WAYS_IN],
}

impl<'a> Iterator for Found<'a> {
    type Item = &'a Applied;

    fn next(&mut self) -> Option<&'a Applied> {
        let next = *self.heads.iter().filter_map(|positions| positions.first()).min()?;
        for positions in &mut self.heads {
            if let Some((first, rest)) = positions.split_first()
                && *first == next
            {
                *positions = rest;
            }
        }
        self.list.get(usize::try_from(next).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::PolicyKey,
        testing::{account, exact, policy, policy_message, prefix},
    };
    use fairway_proto::security::{Action, Match, Scope};

    fn listed(matches: Vec<Match>) -> Applied {
        Applied::Known(Arc::new(policy(policy_message("p", Scope::Global, Action::Allow, matches))))
    }

    fn asked(principal: &'static str) -> Asked<'static> {
        let peer = Who { principal: Some(principal), account: Some(("shop", "web")), namespace: "shop" };
        Asked { peer, original: None, port: 80 }
    }

    fn found(applied: Applied, asked: &Asked<'_>) -> bool {
        Policies::from(vec![applied]).find(asked).count() == 1
    }

    #[test]
    fn entries_are_found_by_what_they_name_and_not_otherwise() {
        let client = "cluster.local/ns/shop/sa/web";
        let rows = [
            (Match { principals: vec![exact(client)], ..Match::default() }, true),
            (Match { principals: vec![exact("other")], ..Match::default() }, false),
            // The principal decides although the port would fit.
            (Match { principals: vec![exact("other")], destination_ports: vec![80], ..Match::default() }, false),
            (Match { principals: vec![prefix("other")], ..Match::default() }, true),
            (
                Match { principals: vec![prefix("x"), exact("x")], destination_ports: vec![81], ..Match::default() },
                false,
            ),
            (Match { service_accounts: vec![account("shop", "web")], ..Match::default() }, true),
            (Match { service_accounts: vec![account("web", "shop")], ..Match::default() }, false),
            (Match { namespaces: vec![exact("shop")], ..Match::default() }, true),
            (Match { namespaces: vec![exact("bank")], ..Match::default() }, false),
            (Match { destination_ports: vec![79, 80], ..Match::default() }, true),
            (Match { destination_ports: vec![79], ..Match::default() }, false),
            (Match { not_principals: vec![exact("other")], ..Match::default() }, true),
            (Match::default(), false),
        ];
        for (entry, expected) in rows {
            assert_eq!(found(listed(vec![entry.clone()]), &asked(client)), expected, "{entry:?}");
        }
        assert!(found(listed(vec![]), &asked(client)), "an empty clause always matches");
    }

    #[test]
    fn nothing_behind_a_refusing_policy_is_asked() {
        let refusing = Applied::Refusing { key: PolicyKey::new("shop", "gone"), invalid: false };
        let open = || listed(vec![]);
        let policies = Policies::from(vec![open(), refusing.clone(), open(), refusing]);
        assert_eq!(policies.find(&asked("x")).count(), 2);
        assert!(policies.need_allow());
    }
}
