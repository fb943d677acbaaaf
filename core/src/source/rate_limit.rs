//! Fairway's own RateLimit as users write it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::istio::TargetReference;

/// `fairway.dev` RateLimit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// `fairway.dev/v1alpha1`.
    pub api_version: String,
    /// `RateLimit`.
    pub kind: String,
    /// Name, namespace, age.
    pub metadata: ObjectMeta,
    /// How many requests, and where.
    #[serde(default)]
    pub spec: RateLimitSpec,
    /// Written by controllers; not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// Body of a [`RateLimit`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RateLimitSpec {
    /// Services, gateways, classes or routes that it is attached to.
    pub target_refs: Vec<TargetReference>,
    /// All of these must let a request pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// Somebody who counts for several proxies must let it pass, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<Global>,
}

/// What somebody else counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Global {
    /// Who: a provider of the mesh configuration.
    pub provider: String,
    /// What it is asked about, all at once.
    pub descriptors: Vec<Descriptor>,
}

/// What requests are counted by, to somebody who has limits for that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Descriptor {
    /// In this order; a request without one of them is not counted by this.
    pub entries: Vec<DescriptorEntry>,
}

/// One of them: a key, and either a fixed value or where it is from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DescriptorEntry {
    /// The key.
    pub key: String,
    /// A fixed value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where the value is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<CountBy>,
}

/// So many requests in so much time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limit {
    /// How many.
    pub requests: u32,
    /// In how much time, such as `1s` or `1m`.
    pub period: String,
    /// How many at once; `requests` if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// What is counted by itself: each combination of these; all requests together if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<CountBy>,
}

/// What tells requests apart that are counted by themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CountBy {
    /// What it is.
    pub r#type: CountKind,
    /// The header, if it is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// Kinds of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum CountKind {
    /// Whom the client has proved to be.
    #[default]
    Client,
    /// Where the client is.
    Address,
    /// A header; requests without it are not counted.
    Header,
}
