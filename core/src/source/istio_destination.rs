//! Istio's DestinationRule as users write it. What is not read is kept by name, so that a translation can say that it does not
//! do it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::istio_traffic::PortNumber;
use super::route::Unread;

/// `networking.istio.io` DestinationRule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRule {
    /// `networking.istio.io/v1` or `v1beta1`.
    pub api_version: String,
    /// `DestinationRule`.
    pub kind: String,
    /// Name, namespace, age.
    pub metadata: ObjectMeta,
    /// What is asked for.
    #[serde(default)]
    pub spec: DestinationRuleSpec,
    /// Written by controllers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// Body of a [`DestinationRule`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DestinationRuleSpec {
    /// The services it is about: a name, or `*.` and a part of one; short names are those of its namespace.
    pub host: String,
    /// What holds for all of it.
    pub traffic_policy: Option<TrafficPolicy>,
    /// Named parts of the endpoints.
    pub subsets: Vec<Subset>,
    /// Namespaces that see it; absent is all.
    pub export_to: Vec<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Some of the endpoints.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// What routes call it.
    pub name: String,
    /// What its endpoints are labelled with.
    pub labels: BTreeMap<String, String>,
    /// What holds for it in place of what holds for all.
    pub traffic_policy: Option<TrafficPolicy>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// How endpoints are used.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// Connections, and what is on them.
    pub connection_pool: Option<ConnectionPool>,
    /// Which endpoint is next.
    pub load_balancer: Option<LoadBalancer>,
    /// Which endpoints are left out.
    pub outlier_detection: Option<OutlierDetection>,
    /// Encryption.
    pub tls: Option<Tls>,
    /// How many repetitions there may be.
    pub retry_budget: Option<RetryBudget>,
    /// For single ports, in place of all of the above.
    pub port_level_settings: Vec<PortPolicy>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// How many repetitions there may be at a time.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryBudget {
    /// Of a hundred requests under way; absent is 20.
    pub percent: Option<f64>,
    /// In any case; absent is 3.
    pub min_retry_concurrency: Option<u32>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// How the endpoints of one port are used.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortPolicy {
    /// The port of the service.
    pub port: PortNumber,
    /// See [`TrafficPolicy`], of which ports have no ports.
    #[serde(flatten)]
    pub policy: TrafficPolicy,
}

/// Connections, and what is on them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionPool {
    /// Of every kind.
    pub tcp: Option<TcpSettings>,
    /// With HTTP on them.
    pub http: Option<HttpSettings>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Connections.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpSettings {
    /// At a time.
    pub max_connections: Option<u32>,
    /// For an endpoint to accept one.
    pub connect_timeout: Option<String>,
    /// Probes while nothing is said.
    pub tcp_keepalive: Option<Keepalive>,
    /// Longest life of one.
    pub max_connection_duration: Option<String>,
    /// Longest time in which nothing is said.
    pub idle_timeout: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Probes on a connection while nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Keepalive {
    /// How many without an answer.
    pub probes: Option<u32>,
    /// Before the first.
    pub time: Option<String>,
    /// Between them.
    pub interval: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpSettings {
    /// That wait for a connection.
    #[serde(rename = "http1MaxPendingRequests")]
    pub http1_max_pending_requests: Option<u32>,
    /// At a time.
    #[serde(rename = "http2MaxRequests")]
    pub http2_max_requests: Option<u32>,
    /// On one connection; 0 is no bound.
    pub max_requests_per_connection: Option<u32>,
    /// Repetitions at a time.
    pub max_retries: Option<u32>,
    /// Longest time without requests.
    pub idle_timeout: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Which endpoint is next.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancer {
    /// `ROUND_ROBIN`, `LEAST_REQUEST`, `RANDOM`, `PASSTHROUGH` or `UNSPECIFIED`.
    pub simple: Option<String>,
    /// The same for what has something in common.
    pub consistent_hash: Option<ConsistentHash>,
    /// How new endpoints get their share.
    pub warmup: Option<Warmup>,
    /// Who comes first, by where they are.
    pub locality_lb_setting: Option<LocalitySetting>,
    /// For how long, as it was written before.
    pub warmup_duration_secs: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// New endpoints get more and more of their share.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Warmup {
    /// For how long.
    pub duration: Option<String>,
    /// Of a hundred, at first; absent is 10.
    pub minimum_percent: Option<f64>,
    /// How fast, from 1 on, which is evenly.
    pub aggression: Option<f64>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Who comes first, or who gets how much, by where endpoints are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalitySetting {
    /// Whether it matters; absent is yes.
    pub enabled: Option<bool>,
    /// Shares of places, by the client's.
    pub distribute: Vec<Distribution>,
    /// Which other region comes first, by the client's.
    pub failover: Vec<Failover>,
    /// Labels that the nearer have in common with the client, `key` or `key=value`.
    pub failover_priority: Vec<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Shares of places, each `region/zone/subzone`, for clients of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Distribution {
    /// The client's place.
    pub from: String,
    /// So many of a hundred for each.
    pub to: BTreeMap<String, u32>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Which region comes first for clients of another that has nobody left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Failover {
    /// The client's.
    pub from: String,
    /// The one that comes first.
    pub to: String,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// The same endpoint for what has something in common.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsistentHash {
    /// A header.
    pub http_header_name: Option<String>,
    /// A cookie.
    pub http_cookie: Option<HashCookie>,
    /// The client's address.
    pub use_source_ip: bool,
    /// A parameter.
    pub http_query_parameter_name: Option<String>,
    /// On a ring.
    pub ring_hash: Option<RingHash>,
    /// By a table.
    pub maglev: Option<Maglev>,
    /// Size of the ring, as it was written before.
    pub minimum_ring_size: Option<u64>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// A cookie.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// Its path.
    pub path: Option<String>,
    /// How long a new one lasts; without, none is set.
    pub ttl: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// A ring.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RingHash {
    /// Places on it, at least.
    pub minimum_ring_size: Option<u64>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Maglev {
    /// Places in it: a prime number.
    pub table_size: Option<u64>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Which endpoints are left out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// Answers of 500 and above, one after the other; 0 is never.
    #[serde(rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<u32>,
    /// The same as it was called before.
    pub consecutive_errors: Option<u32>,
    /// Answers of 502, 503 and 504, one after the other.
    pub consecutive_gateway_errors: Option<u32>,
    /// Whether connections that fail are counted by themselves.
    pub split_external_local_origin_errors: bool,
    /// Connections that fail, one after the other.
    pub consecutive_local_origin_failures: Option<u32>,
    /// Time between looks.
    pub interval: Option<String>,
    /// For how long, times how often before.
    pub base_ejection_time: Option<String>,
    /// How many of a hundred at most.
    pub max_ejection_percent: Option<u32>,
    /// With fewer of a hundred left, all are used.
    pub min_health_percent: Option<u32>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Encryption.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tls {
    /// `DISABLE`, `SIMPLE`, `MUTUAL` or `ISTIO_MUTUAL`.
    pub mode: Option<String>,
    /// The name that is asked for.
    pub sni: Option<String>,
    /// Names of which the certificate has one.
    pub subject_alt_names: Vec<String>,
    /// File of whom is believed, where the proxy is; none and `system` are those of its machine.
    pub ca_certificates: Option<String>,
    /// File of the client's certificate, where the proxy is.
    pub client_certificate: Option<String>,
    /// File of its key.
    pub private_key: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}
