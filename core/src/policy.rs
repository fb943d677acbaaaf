//! Authorization policies as they are decided with: every entry checked and ready to compare.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use fairway_proto::security as proto;
use ipnet::IpNet;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    addr::cidr_from_bytes,
    invalid::{FieldError, Invalid, Kind, Problem, port},
    key::two_part_key,
};

two_part_key! {
    /// Primary key of a policy: namespace and name.
    PolicyKey, name, "The policy's name."
}

impl PolicyKey {
    /// The key of the resource with this name. A name that is no key gives one that no policy can have, so that such a
    /// resource can be kept as rejected, and removed, without touching another.
    #[must_use]
    pub fn of_resource(name: &str) -> Self {
        name.parse().unwrap_or_else(|_not_a_key| Self::new("", name))
    }

    /// The name of the resource that has this key; the reverse of [`PolicyKey::of_resource`].
    #[must_use]
    pub fn resource_name(&self) -> &str {
        self.as_str().strip_prefix('/').unwrap_or(self.as_str())
    }
}

/// One policy. It matches when any rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Namespace and name.
    pub key: PolicyKey,
    /// What it covers.
    pub scope: Scope,
    /// What a match means.
    pub action: Action,
    /// Evaluated and reported, never enforced.
    pub dry_run: bool,
    /// Alternatives.
    pub rules: Box<[Rule]>,
}

/// What a policy covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Scope {
    /// Every workload.
    Global,
    /// Workloads of the policy's namespace.
    Namespace,
    /// Workloads that list the policy's key.
    WorkloadSelector,
}

/// What a policy's match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Action {
    /// The connection may pass; where there are such policies, one must match.
    Allow,
    /// The connection is refused.
    Deny,
}

/// Matches when all clauses match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Rule {
    /// Conditions that all must hold.
    pub clauses: Box<[Clause]>,
}

/// Matches when any match matches; with none, always.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Clause {
    /// Alternatives.
    pub matches: Box<[Match]>,
}

/// All attributes that are set must hold; with none set it never matches. Inside one attribute the positives are
/// alternatives, and no negative may match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub struct Match {
    #[serde(skip_serializing_if = "is_empty")]
    pub namespaces: Box<[StringMatch]>,
    #[serde(skip_serializing_if = "is_empty")]
    pub not_namespaces: Box<[StringMatch]>,
    #[serde(skip_serializing_if = "is_empty")]
    pub principals: Box<[StringMatch]>,
    #[serde(skip_serializing_if = "is_empty")]
    pub not_principals: Box<[StringMatch]>,
    #[serde(skip_serializing_if = "is_empty")]
    pub source_ips: Box<[IpNet]>,
    #[serde(skip_serializing_if = "is_empty")]
    pub not_source_ips: Box<[IpNet]>,
    #[serde(skip_serializing_if = "is_empty")]
    pub destination_ips: Box<[IpNet]>,
    #[serde(skip_serializing_if = "is_empty")]
    pub not_destination_ips: Box<[IpNet]>,
    #[serde(skip_serializing_if = "is_empty")]
    pub destination_ports: Box<[u16]>,
    #[serde(skip_serializing_if = "is_empty")]
    pub not_destination_ports: Box<[u16]>,
    #[serde(skip_serializing_if = "is_empty")]
    pub service_accounts: Box<[ServiceAccountMatch]>,
    #[serde(skip_serializing_if = "is_empty")]
    pub not_service_accounts: Box<[ServiceAccountMatch]>,
}

fn is_empty<T>(entries: &[T]) -> bool {
    entries.is_empty()
}

impl Match {
    /// Whether no attribute is set, in which case it never matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
            && self.not_namespaces.is_empty()
            && self.principals.is_empty()
            && self.not_principals.is_empty()
            && self.source_ips.is_empty()
            && self.not_source_ips.is_empty()
            && self.destination_ips.is_empty()
            && self.not_destination_ips.is_empty()
            && self.destination_ports.is_empty()
            && self.not_destination_ports.is_empty()
            && self.service_accounts.is_empty()
            && self.not_service_accounts.is_empty()
    }
}

/// How a text is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// Equal.
    Exact(Box<str>),
    /// Begins with.
    Prefix(Box<str>),
    /// Ends with.
    Suffix(Box<str>),
    /// Not empty.
    Presence,
}

impl StringMatch {
    /// Whether the text matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(expected) => **expected == *text,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Suffix(suffix) => text.ends_with(&**suffix),
            Self::Presence => !text.is_empty(),
        }
    }
}

/// The shape Istio's node proxy gives it in `/config_dump`.
impl Serialize for StringMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            Self::Exact(text) => map.serialize_entry("Exact", text)?,
            Self::Prefix(text) => map.serialize_entry("Prefix", text)?,
            Self::Suffix(text) => map.serialize_entry("Suffix", text)?,
            Self::Presence => map.serialize_entry("Presence", &())?,
        }
        map.end()
    }
}

/// A service account, compared without its trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountMatch {
    /// Namespace of the account.
    pub namespace: Box<str>,
    /// Name of the account.
    pub service_account: Box<str>,
}

/// A policy that cannot be understood. Where no earlier version is at hand, what it covers is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct RejectedPolicy {
    /// Namespace and name, from the message or from the resource's name.
    pub key: PolicyKey,
    /// What it would cover; unknown counts as its whole namespace and all who list it.
    pub scope: Option<Scope>,
    /// It would not have been enforced, so it refuses nobody.
    pub dry_run: bool,
    /// What is wrong with it.
    pub error: Invalid,
}

impl RejectedPolicy {
    /// A policy whose bytes are not even the right message; only the resource's name is known.
    #[must_use]
    pub fn undecodable(key: PolicyKey, error: &dyn std::error::Error) -> Self {
        let problem = Problem::Encoding(error.to_string().into());
        let error = FieldError::new("(message)", problem).of(Kind::Policy, key.as_str());
        Self { key, scope: None, dry_run: false, error }
    }
}

impl TryFrom<proto::Authorization> for Policy {
    type Error = Box<RejectedPolicy>;

    fn try_from(message: proto::Authorization) -> Result<Self, Self::Error> {
        let key = PolicyKey::new(&message.namespace, &message.name);
        let scope = scope(message.scope).ok();
        let dry_run = message.dry_run;
        convert(message).map_err(|error| {
            let error = error.of(Kind::Policy, key.as_str());
            Box::new(RejectedPolicy { key, scope, dry_run, error })
        })
    }
}

fn scope(value: i32) -> Result<Scope, FieldError> {
    match proto::Scope::try_from(value) {
        Ok(proto::Scope::Global) => Ok(Scope::Global),
        Ok(proto::Scope::Namespace) => Ok(Scope::Namespace),
        Ok(proto::Scope::WorkloadSelector) => Ok(Scope::WorkloadSelector),
        Err(_) => Err(FieldError::new("scope", Problem::Enum(value))),
    }
}

fn convert(message: proto::Authorization) -> Result<Policy, FieldError> {
    for (field, value) in [("namespace", &message.namespace), ("name", &message.name)] {
        if value.is_empty() {
            return Err(FieldError::new(field, Problem::Missing));
        }
    }
    let key = format!("{}/{}", message.namespace, message.name)
        .parse()
        .map_err(|problem: Problem| FieldError::new("name", problem))?;
    Ok(Policy {
        key,
        scope: scope(message.scope)?,
        action: match proto::Action::try_from(message.action) {
            Ok(proto::Action::Allow) => Action::Allow,
            Ok(proto::Action::Deny) => Action::Deny,
            Err(_) => return Err(FieldError::new("action", Problem::Enum(message.action))),
        },
        dry_run: message.dry_run,
        rules: each(message.rules, "rules", |rule| {
            let clauses = each(rule.clauses, "clauses", |clause| {
                Ok(Clause { matches: each(clause.matches, "matches", read_match)? })
            })?;
            Ok(Rule { clauses })
        })?,
    })
}

/// Converts a repeated field; the path of an error gets the entry's index.
fn each<M, T>(
    messages: Vec<M>,
    field: &str,
    convert: impl Fn(M) -> Result<T, FieldError>,
) -> Result<Box<[T]>, FieldError> {
    messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| convert(message).map_err(|error| error.under(format_args!("{field}[{index}]"))))
        .collect()
}

fn read_match(message: proto::Match) -> Result<Match, FieldError> {
    // An extension may narrow the match; leaving it out would widen an ALLOW.
    if let Some(extension) = message.extensions.first() {
        return Err(FieldError::new("extensions[0]", Problem::Extension(extension.name.as_str().into())));
    }
    Ok(Match {
        namespaces: each(message.namespaces, "namespaces", string)?,
        not_namespaces: each(message.not_namespaces, "not_namespaces", string)?,
        principals: each(message.principals, "principals", string)?,
        not_principals: each(message.not_principals, "not_principals", string)?,
        source_ips: each(message.source_ips, "source_ips", block)?,
        not_source_ips: each(message.not_source_ips, "not_source_ips", block)?,
        destination_ips: each(message.destination_ips, "destination_ips", block)?,
        not_destination_ips: each(message.not_destination_ips, "not_destination_ips", block)?,
        destination_ports: each(message.destination_ports, "destination_ports", workload_port)?,
        not_destination_ports: each(message.not_destination_ports, "not_destination_ports", workload_port)?,
        service_accounts: each(message.service_accounts, "service_accounts", service_account)?,
        not_service_accounts: each(message.not_service_accounts, "not_service_accounts", service_account)?,
    })
}

fn string(message: proto::StringMatch) -> Result<StringMatch, FieldError> {
    use proto::string_match::MatchType;

    match message.match_type {
        Some(MatchType::Exact(text)) => Ok(StringMatch::Exact(text.into())),
        Some(MatchType::Prefix(text)) => Ok(StringMatch::Prefix(text.into())),
        Some(MatchType::Suffix(text)) => Ok(StringMatch::Suffix(text.into())),
        Some(MatchType::Presence(_)) => Ok(StringMatch::Presence),
        None => Err(FieldError::new("match_type", Problem::Missing)),
    }
}

fn block(message: proto::Address) -> Result<IpNet, FieldError> {
    cidr_from_bytes(&message.address, message.length).map_err(|problem| {
        let field = if matches!(problem, Problem::PrefixLength { .. }) { "length" } else { "address" };
        FieldError::new(field, problem)
    })
}

fn workload_port(value: u32) -> Result<u16, FieldError> {
    port(value).map_err(|problem| FieldError::new("", problem))
}

fn service_account(message: proto::ServiceAccountMatch) -> Result<ServiceAccountMatch, FieldError> {
    for (field, value) in [("namespace", &message.namespace), ("serviceAccount", &message.service_account)] {
        if value.is_empty() {
            return Err(FieldError::new(field, Problem::Missing));
        }
    }
    Ok(ServiceAccountMatch { namespace: message.namespace.into(), service_account: message.service_account.into() })
}

/// The shape Istio's node proxy gives it in `/config_dump`.
impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", self.key.name())?;
        map.serialize_entry("namespace", self.key.namespace())?;
        map.serialize_entry("scope", &self.scope)?;
        map.serialize_entry("action", &self.action)?;
        map.serialize_entry("dryRun", &self.dry_run)?;
        map.serialize_entry("rules", &self.rules)?;
        map.end()
    }
}

/// A policy as one workload meets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It is known and decides.
    Known(Arc<Policy>),
    /// It is not known, or not understood: it refuses.
    Refusing {
        /// The policy.
        key: PolicyKey,
        /// Whether it is not understood, or did not arrive.
        invalid: bool,
    },
}

impl Applied {
    /// The policy's key.
    #[must_use]
    pub fn key(&self) -> &PolicyKey {
        match self {
            Self::Known(policy) => &policy.key,
            Self::Refusing { key, .. } => key,
        }
    }
}
