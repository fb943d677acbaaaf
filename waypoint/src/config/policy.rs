//! Who may do what: Envoy's RBAC rules, checked.

use std::net::IpAddr;

use fairway_proto::envoy::core::CidrRange;
use fairway_proto::envoy::matcher::list_matcher::MatchPattern as ListPattern;
use fairway_proto::envoy::matcher::metadata_matcher::path_segment::Segment;
use fairway_proto::envoy::matcher::path_matcher::Rule as PathRule;
use fairway_proto::envoy::matcher::value_matcher::MatchPattern as ValuePattern;
use fairway_proto::envoy::matcher::{MetadataMatcher, StringMatcher, ValueMatcher};
use fairway_proto::envoy::rbac::permission::Rule as PermissionRule;
use fairway_proto::envoy::rbac::principal::Identifier;
use fairway_proto::envoy::rbac::rbac::Action;
use fairway_proto::envoy::rbac::{
    Permission as PermissionMessage, Policy as PolicyMessage, Principal as PrincipalMessage, Rbac,
};
use ipnet::IpNet;
use serde_json::Value;

use super::HeaderMatch;
use super::route::header;
use super::text::Text;
use super::wrong::{Within, Wrong, all};

/// The filter that finds out what tokens claim.
const CLAIMS: &str = "envoy.filters.http.jwt_authn";
/// Where it leaves them.
pub(super) const PAYLOAD: &str = "payload";

/// What rules say of what they match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing else may pass.
    Allow,
    /// It must not pass.
    Deny,
}

/// Rules that decide nothing: it is told what they say.
#[derive(Clone, Debug, PartialEq)]
pub struct Silent {
    /// Why anybody asks them.
    pub purpose: Purpose,
    /// The rules.
    pub rules: Rules,
}

/// Why rules are asked that decide nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To know of what they match (AuthorizationPolicy's AUDIT).
    Audit,
    /// To see what they would decide (`istio.io/dry-run`).
    DryRun,
}

/// What one filter says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    /// It decides.
    Decides(Rules),
    /// It does not.
    Silent(Silent),
}

impl Said {
    /// Reads a filter: rules that decide, or log, or rules that are only shadows of such.
    pub(super) fn of(rules: Option<&Rbac>, shadow: Option<&Rbac>) -> Result<Self, Wrong> {
        match (rules, shadow) {
            (Some(_), Some(_)) => Err(Wrong::new("rules", "must not be there beside shadow_rules")),
            (None, Some(shadow)) => {
                let rules = Rules::of(Some(shadow)).within("shadow_rules")?;
                Ok(Self::Silent(Silent { purpose: Purpose::DryRun, rules }))
            }
            (Some(rules), None) if rules.action() == Action::Log => {
                // They match like those that refuse: what is not known hides nothing.
                let rules = Rules { verdict: Verdict::Deny, policies: policies(rules).within("rules")? };
                Ok(Self::Silent(Silent { purpose: Purpose::Audit, rules }))
            }
            (rules, None) => Ok(Self::Decides(Rules::of(rules).within("rules")?)),
        }
    }

    /// What of several decides, and what does not, in order.
    pub(super) fn parted(several: Vec<Self>) -> (Vec<Rules>, Vec<Silent>) {
        let (mut decides, mut silent) = (Vec::new(), Vec::new());
        for said in several {
            match said {
                Self::Decides(rules) => decides.push(rules),
                Self::Silent(it) => silent.push(it),
            }
        }
        (decides, silent)
    }
}

/// One set of rules; any may match.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// What follows from a match.
    pub verdict: Verdict,
    /// The rules.
    pub policies: Vec<Policy>,
}

/// One rule: one of the permissions and one of the principals must match.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// `<namespace>/<name>/<rule>`
    pub name: String,
    /// What is done.
    pub permissions: Vec<Permission>,
    /// By whom.
    pub principals: Vec<Principal>,
}

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Permission {
    /// Whatever.
    Any,
    /// All of these.
    All(Vec<Permission>),
    /// One of these.
    OneOf(Vec<Permission>),
    /// Not this.
    Not(Box<Permission>),
    /// A request with this header.
    Header(HeaderMatch),
    /// A request for this path, without the query.
    Path(Text),
    /// To an address in here.
    Destination(IpNet),
    /// To this port.
    Port(u16),
    /// By a TLS client that asks for a name like this.
    ServerName(Text),
}

/// By whom.
#[derive(Clone, Debug, PartialEq)]
pub enum Principal {
    /// Whoever.
    Any,
    /// All of these.
    All(Vec<Principal>),
    /// One of these.
    OneOf(Vec<Principal>),
    /// Not this.
    Not(Box<Principal>),
    /// A client that has proved an identity; of this name, if one is asked for.
    Authenticated(Option<Text>),
    /// From an address in here.
    Source(IpNet),
    /// From an address in here, before proxies that are believed.
    Remote(IpNet),
    /// With this header.
    Header(HeaderMatch),
    /// With a token that claims something: the names that lead to it, and what it must be.
    Claim(Vec<String>, ClaimMatch),
}

/// A claim to compare with.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimMatch {
    /// It is a text like this.
    Text(Text),
    /// It is a list, and an element of it is like this.
    Element(Box<ClaimMatch>),
    /// It is one of these.
    OneOf(Vec<ClaimMatch>),
}

impl ClaimMatch {
    /// Whether `claim` is what is asked for.
    #[must_use]
    pub fn matches(&self, claim: &Value) -> bool {
        match self {
            Self::Text(text) => claim.as_str().is_some_and(|claim| text.matches(claim)),
            Self::Element(element) => claim.as_array().is_some_and(|list| list.iter().any(|it| element.matches(it))),
            Self::OneOf(several) => several.iter().any(|one| one.matches(claim)),
        }
    }
}

impl Rules {
    /// Whether any of them asks what tokens claim.
    #[must_use]
    pub fn asks_for_claims(&self) -> bool {
        self.policies.iter().flat_map(|policy| &policy.principals).any(Principal::asks_for_claims)
    }

    pub(super) fn of(message: Option<&Rbac>) -> Result<Self, Wrong> {
        let message = message.ok_or_else(|| Wrong::here("is missing"))?;
        let verdict = match message.action() {
            Action::Allow if message.action == i32::from(Action::Allow) => Verdict::Allow,
            Action::Deny => Verdict::Deny,
            _ => return Err(Wrong::new("action", "must be ALLOW or DENY")),
        };
        Ok(Self { verdict, policies: policies(message)? })
    }
}

fn policies(message: &Rbac) -> Result<Vec<Policy>, Wrong> {
    let policy = |(name, message): (&String, &PolicyMessage)| {
        let read = || -> Result<Policy, Wrong> {
            Ok(Policy {
                name: name.clone(),
                permissions: all("permissions", &message.permissions, permission)?,
                principals: all("principals", &message.principals, principal)?,
            })
        };
        read().within(format_args!("policies[{name}]"))
    };
    message.policies.iter().map(policy).collect()
}

impl Principal {
    fn asks_for_claims(&self) -> bool {
        match self {
            Self::Claim(..) => true,
            Self::All(inner) | Self::OneOf(inner) => inner.iter().any(Self::asks_for_claims),
            Self::Not(inner) => inner.asks_for_claims(),
            _ => false,
        }
    }
}

fn permission(message: &PermissionMessage) -> Result<Permission, Wrong> {
    Ok(match message.rule.as_ref().ok_or_else(|| Wrong::missing("rule"))? {
        PermissionRule::Any(true) => Permission::Any,
        PermissionRule::Any(false) => return Err(Wrong::new("any", "must be true")),
        PermissionRule::AndRules(set) => Permission::All(all("and_rules.rules", &set.rules, permission)?),
        PermissionRule::OrRules(set) => Permission::OneOf(all("or_rules.rules", &set.rules, permission)?),
        PermissionRule::NotRule(inner) => Permission::Not(Box::new(permission(inner).within("not_rule")?)),
        PermissionRule::Header(matcher) => Permission::Header(header(matcher).within("header")?),
        PermissionRule::UrlPath(matcher) => match &matcher.rule {
            Some(PathRule::Path(text)) => Permission::Path(Text::of(text).within("url_path.path")?),
            None => return Err(Wrong::missing("url_path.path")),
        },
        PermissionRule::DestinationIp(range) => Permission::Destination(block(range).within("destination_ip")?),
        PermissionRule::DestinationPort(port) => {
            let port = u16::try_from(*port).map_err(|_| Wrong::new("destination_port", "is above 65535"))?;
            Permission::Port(port)
        }
        PermissionRule::RequestedServerName(name) => {
            Permission::ServerName(Text::of(name).within("requested_server_name")?)
        }
    })
}

fn principal(message: &PrincipalMessage) -> Result<Principal, Wrong> {
    Ok(match message.identifier.as_ref().ok_or_else(|| Wrong::missing("identifier"))? {
        Identifier::Any(true) => Principal::Any,
        Identifier::Any(false) => return Err(Wrong::new("any", "must be true")),
        Identifier::AndIds(set) => Principal::All(all("and_ids.ids", &set.ids, principal)?),
        Identifier::OrIds(set) => Principal::OneOf(all("or_ids.ids", &set.ids, principal)?),
        Identifier::NotId(inner) => Principal::Not(Box::new(principal(inner).within("not_id")?)),
        Identifier::Authenticated(authenticated) => {
            let name = |matcher: &StringMatcher| Text::of(matcher).within("authenticated.principal_name");
            Principal::Authenticated(authenticated.principal_name.as_ref().map(name).transpose()?)
        }
        Identifier::DirectRemoteIp(range) => Principal::Source(block(range).within("direct_remote_ip")?),
        Identifier::RemoteIp(range) => Principal::Remote(block(range).within("remote_ip")?),
        Identifier::Header(matcher) => Principal::Header(header(matcher).within("header")?),
        Identifier::Metadata(matcher) => claim(matcher).within("metadata")?,
    })
}

fn claim(message: &MetadataMatcher) -> Result<Principal, Wrong> {
    if message.filter != CLAIMS {
        return Err(Wrong::new("filter", format!("must be {CLAIMS}")));
    }
    let names = all("path", &message.path, |segment| match &segment.segment {
        Some(Segment::Key(name)) => Ok(name.clone()),
        None => Err(Wrong::missing("key")),
    })?;
    let Some((PAYLOAD, path)) = names.split_first().map(|(first, rest)| (first.as_str(), rest)) else {
        return Err(Wrong::new("path[0].key", format!("must be {PAYLOAD}")));
    };
    if path.is_empty() {
        return Err(Wrong::missing("path[1]"));
    }
    let value = message.value.as_ref().ok_or_else(|| Wrong::missing("value"))?;
    Ok(Principal::Claim(path.to_vec(), claimed(value).within("value")?))
}

fn claimed(message: &ValueMatcher) -> Result<ClaimMatch, Wrong> {
    Ok(match message.match_pattern.as_ref().ok_or_else(|| Wrong::missing("match_pattern"))? {
        ValuePattern::StringMatch(text) => ClaimMatch::Text(Text::of(text).within("string_match")?),
        ValuePattern::ListMatch(list) => match &list.match_pattern {
            Some(ListPattern::OneOf(element)) => {
                ClaimMatch::Element(Box::new(claimed(element).within("list_match.one_of")?))
            }
            None => return Err(Wrong::missing("list_match.one_of")),
        },
        ValuePattern::OrMatch(several) => {
            ClaimMatch::OneOf(all("or_match.value_matchers", &several.value_matchers, claimed)?)
        }
    })
}

fn block(message: &CidrRange) -> Result<IpNet, Wrong> {
    let ip: IpAddr = message.address_prefix.parse().map_err(|_| Wrong::new("address_prefix", "is no IP address"))?;
    let length = message.prefix_len.unwrap_or_default();
    let length = u8::try_from(length).map_err(|_| Wrong::new("prefix_len", "is too long"))?;
    IpNet::new(ip, length).map(|net| net.trunc()).map_err(|_| Wrong::new("prefix_len", "is too long"))
}
