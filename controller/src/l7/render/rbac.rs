//! Policies in Envoy's words.

use std::collections::BTreeMap;

use fairway_proto::envoy::core::CidrRange;
use fairway_proto::envoy::matcher::metadata_matcher::PathSegment;
use fairway_proto::envoy::matcher::metadata_matcher::path_segment::Segment;
use fairway_proto::envoy::matcher::{
    ListMatcher, MetadataMatcher, OrMatcher, PathMatcher, StringMatcher, ValueMatcher, list_matcher, path_matcher,
    string_matcher::MatchPattern, value_matcher::MatchPattern as ValuePattern,
};
use fairway_proto::envoy::rbac::permission::Rule as PermissionRule;
use fairway_proto::envoy::rbac::principal::Identifier;
use fairway_proto::envoy::rbac::{Permission, Policy as Named, Principal, Rbac, permission, principal, rbac};
use fairway_proto::envoy::route::HeaderMatcher;
use fairway_proto::envoy::route::header_matcher::HeaderMatchSpecifier;
use ipnet::IpNet;

use super::super::authz::{Check, Layer, Pattern, Policy, Rule, Verdict, What, Who};
use super::route::regex;

/// Where Envoy's filter for tokens leaves what it has found, below [`PAYLOAD`].
const TOKENS: &str = "envoy.filters.http.jwt_authn";
/// See [`TOKENS`].
pub(super) const PAYLOAD: &str = "payload";

/// What marks requests that somebody is asked about, with names that begin with `prefix`.
pub(super) fn marks<'a>(policies: impl Iterator<Item = &'a Policy>, prefix: &str) -> Rbac {
    let named = policies.flat_map(|policy| {
        let rules = policy.rules_at(Layer::Head);
        rules.map(move |rule| (format!("{prefix}{}/{}", policy.name, rule.index), one(&rule)))
    });
    Rbac { action: rbac::Action::Deny.into(), policies: named.collect() }
}

fn one(rule: &Rule) -> Named {
    Named { permissions: vec![permission(&rule.what)], principals: vec![principal(&rule.who)] }
}

/// Rules that decide nothing.
pub(super) enum Silent {
    /// What they match is told.
    Audit(Rbac),
    /// What they would decide is told, with a prefix that says which they are.
    Tried(&'static str, Rbac),
}

/// What audits, and what is only tried out: what would refuse, then what would allow.
pub(super) fn silent(policies: &[&Policy], layer: Layer) -> Vec<(&'static str, Silent)> {
    let of = |verdict: Verdict, is_tried: bool, action: rbac::Action| {
        let meant =
            |policy: &&&Policy| policy.verdict == verdict && (policy.is_tried == is_tried || verdict == Verdict::Audit);
        let mut meant = policies.iter().filter(meant).peekable();
        meant.peek()?;
        let policies = named(meant.copied(), layer);
        // What would allow nothing would refuse everything.
        let is_idle = verdict != Verdict::Allow && policies.is_empty();
        (!is_idle).then(|| Rbac { action: action.into(), policies })
    };
    let audit = of(Verdict::Audit, false, rbac::Action::Log).map(|rules| ("audit", Silent::Audit(rules)));
    // Prefixes are Istio's, so that what reads them there reads them here.
    let tried = |name, verdict, action, prefix| Some((name, Silent::Tried(prefix, of(verdict, true, action)?)));
    let deny = tried("dry-run-deny", Verdict::Deny, rbac::Action::Deny, "istio_dry_run_deny_");
    let allow = tried("dry-run-allow", Verdict::Allow, rbac::Action::Allow, "istio_dry_run_allow_");
    [audit, deny, allow].into_iter().flatten().collect()
}

fn named<'a>(policies: impl Iterator<Item = &'a Policy>, layer: Layer) -> BTreeMap<String, Named> {
    let named = policies
        .flat_map(|policy| policy.rules_at(layer).map(|rule| (format!("{}/{}", policy.name, rule.index), one(&rule))));
    named.collect()
}

/// What refuses, then what allows; each only if a policy asks for it. What `asks` does not say that somebody is asked about
/// is refused.
pub(super) fn rules(policies: &[&Policy], layer: Layer, asks: impl Fn(&str) -> bool) -> Vec<(&'static str, Rbac)> {
    let is_of = |policy: &Policy, verdict: &Verdict| match &policy.verdict {
        Verdict::Custom(provider) => *verdict == Verdict::Deny && !asks(provider),
        own => own == verdict,
    };
    [("deny", Verdict::Deny, rbac::Action::Deny), ("allow", Verdict::Allow, rbac::Action::Allow)]
        .into_iter()
        .filter_map(|(name, verdict, action)| {
            let mut meant = policies.iter().filter(|policy| !policy.is_tried && is_of(policy, &verdict)).peekable();
            meant.peek()?;
            let policies = named(meant.copied(), layer);
            // Nothing to refuse needs no filter; nothing that is allowed does.
            let is_idle = verdict == Verdict::Deny && policies.is_empty();
            (!is_idle).then(|| (name, Rbac { action: action.into(), policies }))
        })
        .collect()
}

fn permission(check: &Check<What>) -> Permission {
    let set = |checks: &[Check<What>]| permission::Set { rules: checks.iter().map(permission).collect() };
    let rule = match check {
        Check::All(checks) if checks.is_empty() => PermissionRule::Any(true),
        Check::All(checks) | Check::Any(checks) if checks.len() == 1 => return permission(&checks[0]),
        Check::All(checks) => PermissionRule::AndRules(set(checks)),
        Check::Any(checks) if checks.is_empty() => return permission(&never()),
        Check::Any(checks) => PermissionRule::OrRules(set(checks)),
        Check::Not(check) => PermissionRule::NotRule(Box::new(permission(check))),
        // Left out of what is rendered.
        Check::Unknown => return permission(&never()),
        Check::Is(What::Destination(block)) => PermissionRule::DestinationIp(range(*block)),
        Check::Is(What::Port(port)) => PermissionRule::DestinationPort(u32::from(*port)),
        Check::Is(What::ServerName(pattern)) => PermissionRule::RequestedServerName(text(pattern)),
        Check::Is(What::Header(name, pattern)) => PermissionRule::Header(header(name, pattern)),
        Check::Is(What::Path(pattern)) => {
            PermissionRule::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(text(pattern))) })
        }
    };
    Permission { rule: Some(rule) }
}

fn principal(check: &Check<Who>) -> Principal {
    let set = |checks: &[Check<Who>]| principal::Set { ids: checks.iter().map(principal).collect() };
    let identifier = match check {
        Check::All(checks) if checks.is_empty() => Identifier::Any(true),
        Check::All(checks) | Check::Any(checks) if checks.len() == 1 => return principal(&checks[0]),
        Check::All(checks) => Identifier::AndIds(set(checks)),
        Check::Any(checks) if checks.is_empty() => return principal(&never()),
        Check::Any(checks) => Identifier::OrIds(set(checks)),
        Check::Not(check) => Identifier::NotId(Box::new(principal(check))),
        Check::Unknown => return principal(&never()),
        Check::Is(Who::Peer(pattern)) => {
            Identifier::Authenticated(principal::Authenticated { principal_name: Some(text(pattern)) })
        }
        Check::Is(Who::Source(block)) => Identifier::DirectRemoteIp(range(*block)),
        Check::Is(Who::Remote(block)) => Identifier::RemoteIp(range(*block)),
        Check::Is(Who::Header(name, pattern)) => Identifier::Header(header(name, pattern)),
        Check::Is(Who::Claim(path, pattern)) => Identifier::Metadata(claim(path, pattern)),
    };
    Principal { identifier: Some(identifier) }
}

/// The opposite of everything.
fn never<T>() -> Check<T> {
    Check::Not(Box::new(Check::All(Vec::new())))
}

fn range(block: IpNet) -> CidrRange {
    CidrRange { address_prefix: block.network().to_string(), prefix_len: Some(u32::from(block.prefix_len())) }
}

fn text(pattern: &Pattern) -> StringMatcher {
    let pattern = match pattern {
        Pattern::Exact(text) => MatchPattern::Exact(text.clone()),
        Pattern::Prefix(text) => MatchPattern::Prefix(text.clone()),
        Pattern::Suffix(text) => MatchPattern::Suffix(text.clone()),
        Pattern::Regex(pattern) => MatchPattern::SafeRegex(regex(pattern)),
    };
    StringMatcher { match_pattern: Some(pattern), ignore_case: false }
}

fn header(name: &str, pattern: &Pattern) -> HeaderMatcher {
    let specifier = HeaderMatchSpecifier::StringMatch(text(pattern));
    HeaderMatcher { name: name.to_owned(), header_match_specifier: Some(specifier), ..HeaderMatcher::default() }
}

/// A claim is a text, or a list of which one element will do.
fn claim(path: &[String], pattern: &Pattern) -> MetadataMatcher {
    let value = || ValueMatcher { match_pattern: Some(ValuePattern::StringMatch(text(pattern))) };
    let element = ListMatcher { match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(value()))) };
    let list = ValueMatcher { match_pattern: Some(ValuePattern::ListMatch(Box::new(element))) };
    let either = OrMatcher { value_matchers: vec![value(), list] };
    let names = std::iter::once(PAYLOAD).chain(path.iter().map(String::as_str));
    MetadataMatcher {
        filter: TOKENS.to_owned(),
        path: names.map(|name| PathSegment { segment: Some(Segment::Key(name.to_owned())) }).collect(),
        value: Some(ValueMatcher { match_pattern: Some(ValuePattern::OrMatch(either)) }),
    }
}
