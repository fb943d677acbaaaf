//! Istio's security kinds as users write them; every field is read, so that a translation can say what it does with it.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `security.istio.io` AuthorizationPolicy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicy {
    /// `security.istio.io/v1` or `v1beta1`.
    pub api_version: String,
    /// `AuthorizationPolicy`.
    pub kind: String,
    /// Name, namespace, labels, annotations.
    pub metadata: ObjectMeta,
    /// What is allowed or denied.
    #[serde(default)]
    pub spec: AuthorizationPolicySpec,
    /// Written by controllers; not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// Body of an [`AuthorizationPolicy`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    /// Workloads it applies to; excludes `target_refs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// Single attachment, kept for old clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetReference>,
    /// Gateways, services or classes it is attached to; excludes `selector`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<TargetReference>,
    /// Verdict when a rule matches.
    #[serde(default)]
    pub action: Action,
    /// External authorizer of a `CUSTOM` policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ExtensionProvider>,
    /// Any may match; without rules the policy never matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// Selects workloads by label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSelector {
    /// All must be present with these values.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// An object a policy is attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetReference {
    /// API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// Kind of the object.
    pub kind: String,
    /// Name of the object.
    pub name: String,
    /// Must be empty or the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Verdict of a policy whose rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// Lets the request pass; once one exists, what no such policy allows is denied.
    #[default]
    Allow,
    /// Refuses the request.
    Deny,
    /// Marks the request for auditing.
    Audit,
    /// Asks an external authorizer.
    Custom,
}

/// Names an external authorizer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtensionProvider {
    /// Name of the provider in the mesh configuration.
    pub name: String,
}

/// One rule: any source, any operation and every condition must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Any of these sources; absent means any source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<RuleFrom>,
    /// Any of these operations; absent means any operation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<RuleTo>,
    /// All of these conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when: Vec<Condition>,
}

/// An entry of a rule's `from`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleFrom {
    /// The source to match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// An entry of a rule's `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleTo {
    /// The operation to match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
}

/// Who connects. Fields are combined with AND, the entries of one field with OR; the `not_*` fields are negated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Source {
    /// Peer identities `<trust domain>/ns/<namespace>/sa/<account>`.
    pub principals: Vec<String>,
    /// Negation of `principals`.
    pub not_principals: Vec<String>,
    /// `<issuer>/<subject>` of a validated token (L7).
    pub request_principals: Vec<String>,
    /// Negation of `request_principals` (L7).
    pub not_request_principals: Vec<String>,
    /// Namespaces of the peer identity.
    pub namespaces: Vec<String>,
    /// Negation of `namespaces`.
    pub not_namespaces: Vec<String>,
    /// `<namespace>/<account>` or `<account>` in the policy's own namespace.
    pub service_accounts: Vec<String>,
    /// Negation of `service_accounts`.
    pub not_service_accounts: Vec<String>,
    /// Trust domains of the peer identity.
    pub trust_domains: Vec<String>,
    /// Negation of `trust_domains`.
    pub not_trust_domains: Vec<String>,
    /// Addresses or prefixes of the packet's source.
    pub ip_blocks: Vec<String>,
    /// Negation of `ip_blocks`.
    pub not_ip_blocks: Vec<String>,
    /// Addresses or prefixes of the original client (L7).
    pub remote_ip_blocks: Vec<String>,
    /// Negation of `remote_ip_blocks` (L7).
    pub not_remote_ip_blocks: Vec<String>,
}

/// What is asked for. Combined like [`Source`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Operation {
    /// Host of the request (L7).
    pub hosts: Vec<String>,
    /// Negation of `hosts` (L7).
    pub not_hosts: Vec<String>,
    /// Ports of the workload, as text.
    pub ports: Vec<String>,
    /// Negation of `ports`.
    pub not_ports: Vec<String>,
    /// HTTP methods (L7).
    pub methods: Vec<String>,
    /// Negation of `methods` (L7).
    pub not_methods: Vec<String>,
    /// Paths of the request (L7).
    pub paths: Vec<String>,
    /// Negation of `paths` (L7).
    pub not_paths: Vec<String>,
}

/// A further condition on an attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    /// Name of the attribute, such as `source.ip`.
    pub key: String,
    /// Any of these values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// None of these values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_values: Vec<String>,
}

/// `security.istio.io` PeerAuthentication.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAuthentication {
    /// `security.istio.io/v1` or `v1beta1`.
    pub api_version: String,
    /// `PeerAuthentication`.
    pub kind: String,
    /// Name, namespace, creation time.
    pub metadata: ObjectMeta,
    /// The mode and where it applies.
    #[serde(default)]
    pub spec: PeerAuthenticationSpec,
    /// Written by controllers; not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// Body of a [`PeerAuthentication`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAuthenticationSpec {
    /// Workloads it applies to; ignored in the root namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// Mode of the whole workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MutualTls>,
    /// Modes of single workload ports; needs a selector.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub port_level_mtls: BTreeMap<NonZeroU16, MutualTls>,
}

/// A mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MutualTls {
    /// What is accepted.
    #[serde(default)]
    pub mode: MutualTlsMode,
}

/// What a workload accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum MutualTlsMode {
    /// Inherited from the next wider scope.
    #[default]
    Unset,
    /// Clear text; at the node tunnel this is the same as [`MutualTlsMode::Permissive`].
    Disable,
    /// Clear text and mutual TLS.
    Permissive,
    /// Mutual TLS only.
    Strict,
}
