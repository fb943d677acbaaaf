//! Gateway API's ReferenceGrant: what the owners of a namespace let objects of others refer to.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// `gateway.networking.k8s.io` ReferenceGrant.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceGrant {
    /// `gateway.networking.k8s.io` and a version.
    pub api_version: String,
    /// `ReferenceGrant`.
    pub kind: String,
    /// Name, namespace, age.
    pub metadata: ObjectMeta,
    /// What is granted.
    #[serde(default)]
    pub spec: ReferenceGrantSpec,
}

/// Body of a [`ReferenceGrant`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReferenceGrantSpec {
    /// Who may refer: any of these.
    pub from: Vec<GrantFrom>,
    /// To what: any of these.
    pub to: Vec<GrantTo>,
}

/// Who may refer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrantFrom {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
}

/// To what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrantTo {
    /// API group; empty is the core group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name; none is all of the kind.
    pub name: Option<String>,
}
