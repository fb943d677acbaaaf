//! What policies say that decide nothing: those that audit, and those that are only tried out.

use crate::config::{Purpose, Rules, Silent, Verdict};
use crate::facts::Facts;
use crate::rbac;

/// In the place of a policy, where it is the lack of one that would refuse.
pub const NO_POLICY: &str = "none";

/// What they say of one request or connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Policies that audit it.
    pub audits: Vec<String>,
    /// Policies in dry run that match it, and what each would decide.
    pub dry_run: Vec<(Would, String)>,
}

/// What a policy in dry run would decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Would {
    /// It would let it pass.
    Allow,
    /// It would refuse it.
    Deny,
}

impl Would {
    /// For metrics and logs, as at node proxies.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl Noted {
    /// Asks all of them. Those in dry run that would allow refuse what none of them allows, unless one of those that are
    /// `enforced` does.
    #[must_use]
    pub fn of(silent: &[Silent], enforced: &[Rules], facts: &Facts<'_>) -> Self {
        let mut noted = Self::default();
        for Silent { purpose, rules } in silent {
            let names = || policies(rbac::all_matching(rules, facts));
            match (purpose, rules.verdict) {
                (Purpose::Audit, _) => noted.audits.extend(names()),
                (Purpose::DryRun, Verdict::Deny) => {
                    noted.dry_run.extend(names().into_iter().map(|name| (Would::Deny, name)));
                }
                (Purpose::DryRun, Verdict::Allow) => {
                    let names = names();
                    if names.is_empty() && !rbac::is_allowed(enforced, facts) {
                        noted.dry_run.push((Would::Deny, NO_POLICY.to_owned()));
                    }
                    noted.dry_run.extend(names.into_iter().map(|name| (Would::Allow, name)));
                }
            }
        }
        noted
    }

    /// The policies that audit it, for the log.
    #[must_use]
    pub fn audits(&self) -> Option<String> {
        (!self.audits.is_empty()).then(|| self.audits.join(","))
    }

    /// What those in dry run would decide, for the log.
    #[must_use]
    pub fn dry_run(&self) -> Option<String> {
        let all: Vec<String> = self.dry_run.iter().map(|(would, name)| format!("{} {name}", would.label())).collect();
        (!all.is_empty()).then(|| all.join(","))
    }
}

/// The policies that these rules are of, each once: rules are called after their policy and their place in it.
fn policies<'a>(rules: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for rule in rules {
        let policy = rule.rsplit_once('/').map_or(rule, |(policy, _)| policy);
        if !names.iter().any(|known| known == policy) {
            names.push(policy.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use fairway_core::ident::Identity;

    use super::*;
    use crate::config::{Permission, Policy, Principal, Text};

    fn rules(verdict: Verdict, policies: &[(&str, u16)]) -> Rules {
        let policy = |(name, port): &(&str, u16)| Policy {
            name: (*name).to_owned(),
            permissions: vec![Permission::Port(*port)],
            principals: vec![Principal::Any],
        };
        Rules { verdict, policies: policies.iter().map(policy).collect() }
    }

    #[test]
    fn what_decides_nothing_is_told_by_policy() {
        use Verdict::{Allow, Deny};
        let audit = |policies: &[(&str, u16)]| Silent { purpose: Purpose::Audit, rules: rules(Deny, policies) };
        let tried =
            |verdict, policies: &[(&str, u16)]| Silent { purpose: Purpose::DryRun, rules: rules(verdict, policies) };
        let allows = || vec![rules(Allow, &[("shop/open/0", 80)])];
        let (two, other) = ([("shop/a/0", 80), ("shop/a/1", 80), ("shop/b/0", 80)], [("shop/a/0", 81)]);
        // What is asked, what is in force, who audits, and what would be decided.
        let rows = [
            ("nothing", vec![], vec![], None, None),
            ("audits, each policy once", vec![audit(&two)], vec![], Some("shop/a,shop/b"), None),
            ("audits something else", vec![audit(&other)], vec![], None, None),
            ("would refuse", vec![tried(Deny, &two)], allows(), None, Some("deny shop/a,deny shop/b")),
            ("would not refuse", vec![tried(Deny, &other)], vec![], None, None),
            ("would allow", vec![tried(Allow, &two)], vec![], None, Some("allow shop/a,allow shop/b")),
            ("would allow something else", vec![tried(Allow, &other)], vec![], None, Some("deny none")),
            ("would allow nothing", vec![tried(Allow, &[])], vec![], None, Some("deny none")),
            ("another allows it", vec![tried(Allow, &other)], allows(), None, None),
            ("nobody refuses it", vec![tried(Allow, &other)], vec![rules(Deny, &other)], None, Some("deny none")),
            (
                "all of them",
                vec![audit(&two[..1]), tried(Deny, &two[2..]), tried(Allow, &two[..1])],
                vec![],
                Some("shop/a"),
                Some("deny shop/b,allow shop/a"),
            ),
        ];
        let identity = Identity::new("cluster.local", "shop", "web").unwrap();
        let facts = Facts::of(&identity, "10.0.0.1".parse().unwrap(), "10.96.0.1:80".parse().unwrap());
        for (name, silent, enforced, audits, dry_run) in rows {
            let noted = Noted::of(&silent, &enforced, &facts);
            assert_eq!((noted.audits().as_deref(), noted.dry_run().as_deref()), (audits, dry_run), "{name}");
        }
    }

    /// What nobody can know of a connection is audited as it would be refused, and allowed by nothing.
    #[test]
    fn what_is_not_known_hides_nothing() {
        let path = |verdict| {
            let permissions = vec![Permission::Path(Text::Exact("/".to_owned()))];
            let policy = Policy { name: "shop/a/0".to_owned(), permissions, principals: vec![Principal::Any] };
            Rules { verdict, policies: vec![policy] }
        };
        let silent = [
            Silent { purpose: Purpose::Audit, rules: path(Verdict::Deny) },
            Silent { purpose: Purpose::DryRun, rules: path(Verdict::Deny) },
            Silent { purpose: Purpose::DryRun, rules: path(Verdict::Allow) },
        ];
        let identity = Identity::new("cluster.local", "shop", "web").unwrap();
        let (source, destination) = ("10.0.0.1".parse().unwrap(), "10.96.0.1:80".parse().unwrap());
        let noted = Noted::of(&silent, &[], &Facts::of(&identity, source, destination));
        assert_eq!(noted.audits, ["shop/a"]);
        assert_eq!(noted.dry_run, [(Would::Deny, "shop/a".to_owned()), (Would::Deny, NO_POLICY.to_owned())]);
    }
}
