//! The evaluator of what connections show: `decide(view, facts)`. A fact that is missing never widens access. Requests are decided
//! about by `waypoint/src/rbac.rs`, in Envoy's words; `e2e/tests/evaluators.rs` holds that one policy means the same to both.

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    facts::ConnectionFacts,
    ident::Identity,
    policy::{Action, Applied, Clause, Match, Policy, PolicyKey, Rule, ServiceAccountMatch, StringMatch},
    reason::Reason,
    view::{Asked, PodView},
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
    let facts = Facts::new(facts);
    judge(view, &facts, view.policies.that_can_match(&facts.asked()))
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
                let strict = facts.identity.is_none() && facts.match_only_for_plaintext(policy);
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
    identity: Option<&'a Identity>,
    principal: Option<&'a str>,
    /// Empty for plaintext.
    namespace: &'a str,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
}

impl<'a> Facts<'a> {
    fn new(facts: &'a ConnectionFacts) -> Self {
        let identity = facts.source_identity.as_ref();
        Self {
            identity,
            principal: identity.map(Identity::principal),
            namespace: identity.map_or("", Identity::namespace),
            // Sockets bound to [::] report IPv4 peers in IPv6 clothes.
            source: facts.source.ip().to_canonical(),
            destination: facts.destination.ip().to_canonical(),
            port: facts.destination.port(),
        }
    }

    fn asked(&self) -> Asked<'a> {
        let account = self.identity.map(|identity| (identity.namespace(), identity.service_account()));
        Asked { principal: self.principal, account, namespace: self.namespace, port: self.port }
    }

    fn match_policy(&self, policy: &Policy) -> bool {
        policy.rules.iter().any(|rule| self.match_rule(rule))
    }

    fn match_rule(&self, rule: &Rule) -> bool {
        rule.clauses.iter().all(|clause| self.match_clause(clause))
    }

    fn match_clause(&self, clause: &Clause) -> bool {
        clause.matches.is_empty() || clause.matches.iter().any(|entry| self.match_entry(entry))
    }

    fn match_entry(&self, entry: &Match) -> bool {
        let port = |expected: &u16| *expected == self.port;
        let source = |block: &IpNet| block.contains(&self.source);
        let destination = |block: &IpNet| block.contains(&self.destination);
        let namespace = |expected: &StringMatch| expected.matches(self.namespace);
        let principal = |expected: &StringMatch| self.principal.is_some_and(|principal| expected.matches(principal));
        let account = |expected: &ServiceAccountMatch| {
            self.identity.is_some_and(|identity| {
                identity.service_account() == &*expected.service_account && identity.namespace() == &*expected.namespace
            })
        };
        // Cheapest first.
        !entry.is_empty()
            && holds(&entry.destination_ports, &entry.not_destination_ports, port)
            && holds(&entry.principals, &entry.not_principals, principal)
            && holds(&entry.namespaces, &entry.not_namespaces, namespace)
            && holds(&entry.service_accounts, &entry.not_service_accounts, account)
            && holds(&entry.source_ips, &entry.not_source_ips, source)
            && holds(&entry.destination_ips, &entry.not_destination_ips, destination)
    }

    /// Whether the policy matched by demanding that there be no identity, which is how STRICT is written.
    fn match_only_for_plaintext(&self, policy: &Policy) -> bool {
        policy
            .rules
            .iter()
            .filter(|rule| self.match_rule(rule))
            .flat_map(|rule| &rule.clauses)
            .flat_map(|clause| &clause.matches)
            .any(|entry| entry.not_principals.contains(&StringMatch::Presence) && self.match_entry(entry))
    }
}

/// Positives are alternatives, none given is no condition; no negative may match.
fn holds<T>(positives: &[T], negatives: &[T], matches: impl Fn(&T) -> bool) -> bool {
    (positives.is_empty() || positives.iter().any(&matches)) && !negatives.iter().any(matches)
}
