//! What is read of Gateway API's Gateway: enough to find the waypoints among them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

/// `gateway.networking.k8s.io` Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// `gateway.networking.k8s.io/v1` or `v1beta1`.
    pub api_version: String,
    /// `Gateway`.
    pub kind: String,
    /// Name, namespace, labels.
    pub metadata: ObjectMeta,
    /// What is asked for.
    #[serde(default)]
    pub spec: GatewaySpec,
    /// What there is.
    #[serde(default)]
    pub status: GatewayStatus,
}

/// Body of a [`Gateway`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// Who makes it.
    pub gateway_class_name: String,
    /// Ports it takes traffic on.
    pub listeners: Vec<Listener>,
    /// What is made for it.
    pub infrastructure: Infrastructure,
}

/// What is to be on everything that is made for a [`Gateway`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Infrastructure {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A port of a [`Gateway`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    /// Unique within the gateway.
    pub name: String,
    /// The port.
    pub port: u16,
    /// `HBONE` for waypoints.
    pub protocol: String,
    /// Who may attach to it.
    pub allowed_routes: AllowedRoutes,
}

/// Who may attach to a [`Listener`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedRoutes {
    /// From which namespaces.
    pub namespaces: AllowedNamespaces,
}

/// Namespaces that may attach to a [`Listener`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedNamespaces {
    /// `Same`, `All`, `Selector` or `None`; absent is `Same`.
    pub from: Option<String>,
    /// Labels of the namespaces, with `Selector`.
    pub selector: Option<LabelSelector>,
}

/// What there is of a [`Gateway`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayStatus {
    /// Where it can be reached.
    pub addresses: Vec<GatewayAddress>,
    /// How it is.
    pub conditions: Vec<Condition>,
}

/// Where a [`Gateway`] can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayAddress {
    /// `IPAddress` or `Hostname`; absent is `IPAddress`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The address.
    pub value: String,
}
