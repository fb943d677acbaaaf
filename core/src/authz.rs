//! The evaluator of what connections show: `decide(view, facts)`. A fact that is missing never widens access. Requests are decided
//! about by `waypoint/src/rbac.rs`, in Envoy's words; `e2e/tests/evaluators.rs` holds that one policy means the same to both.
//!
//! A connection has one source, or two where it comes from a waypoint: the waypoint, and the client that this speaks for. A rule
//! matches if one of them is what the rule asks for, and none is what it excludes (ADR 0043).

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    facts::{ConnectionFacts, Original},
    ident::Identity,
    policy::{Action, Applied, Clause, Match, Policy, PolicyKey, Rule, ServiceAccountMatch, StringMatch},
    reason::Reason,
    view::{Asked, PodView, Who},
};

/// The verdict on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The connection may pass.
    Allow {
        /// The policy that let it pass; none where no ALLOW policy applies.
        rule: Option<PolicyKey>,
        /// Rehearsed policies that matched.
        dry_run: Vec<DryRunHit>,
    },
    /// The connection is refused.
    Deny(Denial),
}

impl Decision {
    /// Whether the connection may pass.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    /// Rehearsed policies that matched.
    #[must_use]
    pub fn dry_run(&self) -> &[DryRunHit] {
        match self {
            Self::Allow { dry_run, .. } | Self::Deny(Denial { dry_run, .. }) => dry_run,
        }
    }
}

/// A refusal, and what refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", reason.message().trim_end_matches('.'), Named(.policy.as_ref()))]
pub struct Denial {
    /// The policy that refuses; none when it is the lack of one.
    pub policy: Option<PolicyKey>,
    /// Why.
    pub reason: Reason,
    /// Rehearsed policies that matched.
    pub dry_run: Vec<DryRunHit>,
}

struct Named<'a>(Option<&'a PolicyKey>);

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |key| write!(formatter, " (policy {key})"))
    }
}

/// A rehearsed policy that matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DryRunHit {
    /// The policy.
    pub policy: PolicyKey,
    /// What it would have done.
    pub action: Action,
}

/// Decides on a connection to the pod of the view.
///
/// Costs what the policies cost that can match the connection, not all that apply. Nothing is allocated unless a
/// rehearsed policy matches.
#[must_use]
pub fn decide(view: &PodView, facts: &ConnectionFacts) -> Decision {
    let facts = Facts::new(facts, original(view, facts));
    judge(view, &facts, view.policies.that_can_match(&facts.asked()))
}

/// The client that the peer speaks for, where that counts: the peer has proved to be a waypoint of the pod, and the client is of
/// its trust domain, as nobody else could have proved anything to it.
#[must_use]
pub fn original<'a>(view: &PodView, facts: &'a ConnectionFacts) -> Option<&'a Original> {
    let (original, peer) = (facts.original.as_deref()?, facts.source_identity.as_ref()?);
    let is_believed = view.waypoints.contains(peer) && original.identity.trust_domain() == peer.trust_domain();
    is_believed.then_some(original)
}

/// Asks `policies`, which must be in the view's order and hold at least those that match.
fn judge<'a>(view: &PodView, facts: &Facts<'_>, policies: impl Iterator<Item = &'a Applied>) -> Decision {
    let mut dry_run = Vec::new();
    if view.workload.is_none() {
        return Decision::Deny(Denial { policy: None, reason: Reason::WorkloadUnknown, dry_run });
    }
    // The view has them in the order in which they count.
    for applied in policies {
        let policy = match applied {
            Applied::Known(policy) => policy,
            Applied::Refusing { key, invalid } => {
                let reason = if *invalid { Reason::PolicyInvalid } else { Reason::PolicyUnknown };
                return Decision::Deny(Denial { policy: Some(key.clone()), reason, dry_run });
            }
        };
        if !facts.match_policy(policy) {
            continue;
        }
        if policy.dry_run {
            dry_run.push(DryRunHit { policy: policy.key.clone(), action: policy.action });
            continue;
        }
        return match policy.action {
            Action::Allow => Decision::Allow { rule: Some(policy.key.clone()), dry_run },
            Action::Deny => {
                let strict = facts.peer.identity.is_none() && facts.match_only_for_plaintext(policy);
                let reason = if strict { Reason::StrictPlaintext } else { Reason::PolicyDenied };
                Decision::Deny(Denial { policy: Some(policy.key.clone()), reason, dry_run })
            }
        };
    }
    if view.policies.need_allow() {
        Decision::Deny(Denial { policy: None, reason: Reason::PolicyNotAllowed, dry_run })
    } else {
        Decision::Allow { rule: None, dry_run }
    }
}

/// The facts in the form policies compare with, worked out once per decision.
struct Facts<'a> {
    peer: Source<'a>,
    /// Whom the peer speaks for.
    original: Option<Source<'a>>,
    destination: IpAddr,
    port: u16,
}

/// Somebody that a connection comes from.
struct Source<'a> {
    identity: Option<&'a Identity>,
    principal: Option<&'a str>,
    /// Empty for plaintext.
    namespace: &'a str,
    address: IpAddr,
}

impl<'a> Source<'a> {
    fn new(identity: Option<&'a Identity>, address: IpAddr) -> Self {
        Self {
            identity,
            principal: identity.map(Identity::principal),
            namespace: identity.map_or("", Identity::namespace),
            // Sockets bound to [::] report IPv4 peers in IPv6 clothes.
            address: address.to_canonical(),
        }
    }

    fn who(&self) -> Who<'a> {
        let account = self.identity.map(|identity| (identity.namespace(), identity.service_account()));
        Who { principal: self.principal, account, namespace: self.namespace }
    }

    fn is_principal(&self, expected: &StringMatch) -> bool {
        self.principal.is_some_and(|principal| expected.matches(principal))
    }

    fn is_in_namespace(&self, expected: &StringMatch) -> bool {
        expected.matches(self.namespace)
    }

    fn is_account(&self, expected: &ServiceAccountMatch) -> bool {
        self.identity.is_some_and(|identity| {
            identity.service_account() == &*expected.service_account && identity.namespace() == &*expected.namespace
        })
    }

    fn is_in_block(&self, block: &IpNet) -> bool {
        block.contains(&self.address)
    }
}

impl<'a> Facts<'a> {
    fn new(facts: &'a ConnectionFacts, original: Option<&'a Original>) -> Self {
        Self {
            peer: Source::new(facts.source_identity.as_ref(), facts.source.ip()),
            original: original.map(|original| Source::new(Some(&original.identity), original.address.ip())),
            destination: facts.destination.ip().to_canonical(),
            port: facts.destination.port(),
        }
    }

    fn sources(&self) -> impl Iterator<Item = &Source<'a>> {
        std::iter::once(&self.peer).chain(&self.original)
    }

    fn asked(&self) -> Asked<'a> {
        Asked { peer: self.peer.who(), original: self.original.as_ref().map(Source::who), port: self.port }
    }

    fn match_policy(&self, policy: &Policy) -> bool {
        policy.rules.iter().any(|rule| self.match_rule(rule))
    }

    /// All that a rule asks of a source, in whatever clauses, it asks of one and the same.
    fn match_rule(&self, rule: &Rule) -> bool {
        self.sources().any(|source| rule.clauses.iter().all(|clause| self.match_clause(clause, source)))
    }

    fn match_clause(&self, clause: &Clause, source: &Source<'a>) -> bool {
        clause.matches.is_empty() || clause.matches.iter().any(|entry| self.match_entry(entry, source))
    }

    fn match_entry(&self, entry: &Match, source: &Source<'a>) -> bool {
        let port = |expected: &u16| *expected == self.port;
        let destination = |block: &IpNet| block.contains(&self.destination);
        // Cheapest first.
        !entry.is_empty()
            && holds(&entry.destination_ports, &entry.not_destination_ports, port)
            && self.comes_from(source, &entry.principals, &entry.not_principals, Source::is_principal)
            && self.comes_from(source, &entry.namespaces, &entry.not_namespaces, Source::is_in_namespace)
            && self.comes_from(source, &entry.service_accounts, &entry.not_service_accounts, Source::is_account)
            && self.comes_from(source, &entry.source_ips, &entry.not_source_ips, Source::is_in_block)
            && holds(&entry.destination_ips, &entry.not_destination_ips, destination)
    }

    /// As [`holds`]: the positives of this source, the negatives of all.
    fn comes_from<T>(
        &self,
        source: &Source<'a>,
        positives: &[T],
        negatives: &[T],
        matches: impl Fn(&Source<'a>, &T) -> bool,
    ) -> bool {
        (positives.is_empty() || positives.iter().any(|expected| matches(source, expected)))
            && !negatives.iter().any(|expected| self.sources().any(|source| matches(source, expected)))
    }

    /// Whether the policy matched by demanding that there be no identity, which is how STRICT is written.
    fn match_only_for_plaintext(&self, policy: &Policy) -> bool {
        policy
            .rules
            .iter()
            .filter(|rule| self.match_rule(rule))
            .flat_map(|rule| &rule.clauses)
            .flat_map(|clause| &clause.matches)
            .any(|entry| entry.not_principals.contains(&StringMatch::Presence) && self.match_entry(entry, &self.peer))
    }
}

/// Positives are alternatives, none given is no condition; no negative may match.
fn holds<T>(positives: &[T], negatives: &[T], matches: impl Fn(&T) -> bool) -> bool {
    (positives.is_empty() || positives.iter().any(&matches)) && !negatives.iter().any(matches)
}
