//! What policies in dry run would have done: a log line and a count for each connection one of them matches.

use fairway_core::authz::DryRunHit;
use fairway_core::facts::{ConnectionFacts, Original};
use fairway_core::io::metrics::Metrics;
use fairway_core::policy::{Action, PolicyKey};

const MATCHES: &str = "fairway_policy_dry_run_matches_total";

/// Counts matches by policy. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DryRuns {
    metrics: Metrics,
}

impl DryRuns {
    pub(super) fn new(metrics: &Metrics) -> Self {
        metrics
            .describe(MATCHES, "Connections that a policy in dry run matched, which it would have allowed or denied.");
        Self { metrics: metrics.clone() }
    }

    /// The record of one connection.
    #[must_use]
    pub fn of_connection(&self) -> DryRunMatches {
        DryRunMatches { counts: self.clone(), policies: Box::default() }
    }
}

/// The policies in dry run that match one connection, as of its last decision.
#[derive(Clone, Debug)]
pub struct DryRunMatches {
    counts: DryRuns,
    policies: Box<[PolicyKey]>,
}

impl DryRunMatches {
    /// Takes note of the matches of a decision, in which `original` counted beside the peer. One that was noted the last time is not
    /// counted again: connections are decided on with every change of configuration.
    pub fn note(&mut self, hits: &[DryRunHit], facts: &ConnectionFacts, original: Option<&Original>) {
        for hit in hits.iter().filter(|hit| !self.policies.contains(&hit.policy)) {
            let action = match hit.action {
                Action::Allow => "allow",
                Action::Deny => "deny",
            };
            tracing::info!(
                policy = %hit.policy, action, source = %facts.source, destination = %facts.destination,
                original.addr = original.map(|original| tracing::field::display(original.address)),
                original.identity = original.map(|original| original.identity.as_str()),
                "a policy in dry run matches"
            );
            // Policies come and go, and so do their series.
            let labels = [("policy", hit.policy.as_str()), ("action", action)];
            self.counts.metrics.held_counter(MATCHES, &labels).increment(1);
        }
        if !(hits.is_empty() && self.policies.is_empty()) {
            self.policies = hits.iter().map(|hit| hit.policy.clone()).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_counts_once_until_it_stops() {
        let metrics = Metrics::default();
        let mut matched = DryRuns::new(&metrics).of_connection();
        let facts = ConnectionFacts {
            source: "10.0.0.1:4000".parse().unwrap(),
            source_identity: None,
            original: None,
            destination: "10.0.0.2:80".parse().unwrap(),
            http: None,
        };
        let hit = |name: &str, action| DryRunHit { policy: PolicyKey::new("shop", name), action };
        let count = |policy: &str| {
            let page = metrics.render();
            let line = page.lines().find(|line| line.starts_with(MATCHES) && line.contains(policy)).unwrap_or("0");
            line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        let rows = [
            (vec![hit("a", Action::Deny)], [1, 0]),
            (vec![hit("a", Action::Deny)], [1, 0]),
            (vec![hit("a", Action::Deny), hit("b", Action::Allow)], [1, 1]),
            (vec![], [1, 1]),
            (vec![hit("a", Action::Deny)], [2, 1]),
        ];
        for (hits, expected) in rows {
            matched.note(&hits, &facts, None);
            assert_eq!([count("shop/a"), count("shop/b")], expected, "{hits:?}");
        }
        assert!(metrics.render().contains("fairway_policy_dry_run_matches_total{policy=\"shop/a\",action=\"deny\"} 2"));
    }
}
