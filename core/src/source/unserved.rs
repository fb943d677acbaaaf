//! Kinds that are read only to tell their authors that they have no effect.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An object of such a kind.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unserved {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name, namespace, age.
    pub metadata: ObjectMeta,
    /// What is asked for.
    #[serde(default)]
    pub spec: Value,
    /// Written by controllers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}
