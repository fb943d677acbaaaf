//! Istio's VirtualService as users write it. What is not read is kept by name, so that a translation can say that it does not
//! do it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::route::Unread;

/// `networking.istio.io` VirtualService.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualService {
    /// `networking.istio.io/v1` or `v1beta1`.
    pub api_version: String,
    /// `VirtualService`.
    pub kind: String,
    /// Name, namespace, age.
    pub metadata: ObjectMeta,
    /// What is asked for.
    #[serde(default)]
    pub spec: VirtualServiceSpec,
    /// Written by controllers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// Body of a [`VirtualService`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualServiceSpec {
    /// The services it is for; short names are those of its namespace.
    pub hosts: Vec<String>,
    /// Where it holds; absent is `mesh`, between workloads.
    pub gateways: Vec<String>,
    /// Namespaces that see it; absent is all.
    pub export_to: Vec<String>,
    /// Rules for requests, of which the first that matches counts.
    pub http: Vec<TrafficRule>,
    /// Rules for connections by the name that TLS clients ask for.
    pub tls: Vec<TrafficStream>,
    /// Rules for other connections.
    pub tcp: Vec<TrafficStream>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// One rule for connections.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficStream {
    /// Any may match; none is every connection.
    #[serde(rename = "match")]
    pub matches: Vec<TrafficStreamMatch>,
    /// Where they go.
    pub route: Vec<TrafficShare>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// What a connection must be like: all of this.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficStreamMatch {
    /// The names that a TLS client may ask for.
    pub sni_hosts: Vec<String>,
    /// The port of the service.
    pub port: Option<u16>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// One rule for requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficRule {
    /// Its name.
    pub name: Option<String>,
    /// Any may match; none is every request.
    #[serde(rename = "match")]
    pub matches: Vec<TrafficMatch>,
    /// Where requests go.
    pub route: Vec<TrafficShare>,
    /// Back, with another address.
    pub redirect: Option<TrafficRedirect>,
    /// Another host and path.
    pub rewrite: Option<TrafficRewrite>,
    /// How long they may take.
    pub timeout: Option<String>,
    /// When they are tried again.
    pub retries: Option<TrafficRetries>,
    /// Copies.
    pub mirror: Option<TrafficDestination>,
    /// How many copies; absent is all.
    pub mirror_percentage: Option<Percent>,
    /// Several copies.
    pub mirrors: Vec<TrafficMirror>,
    /// Changes of headers.
    pub headers: Option<TrafficHeaders>,
    /// Failures on purpose.
    pub fault: Option<TrafficFault>,
    /// What pages from other origins may do.
    pub cors_policy: Option<TrafficCors>,
    /// An answer without asking anybody.
    pub direct_response: Option<TrafficResponse>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Failures on purpose.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficFault {
    /// Requests that wait.
    pub delay: Option<TrafficDelay>,
    /// Requests that are answered with a failure.
    pub abort: Option<TrafficAbort>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Requests that wait.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficDelay {
    /// How long.
    pub fixed_delay: Option<String>,
    /// How many.
    pub percentage: Option<Percent>,
    /// How many, as it was written before.
    pub percent: Option<u32>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Requests that are answered with a failure.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficAbort {
    /// With this status.
    pub http_status: Option<u16>,
    /// With this one of gRPC's, by its name.
    pub grpc_status: Option<String>,
    /// How many.
    pub percentage: Option<Percent>,
    /// How many, as it was written before.
    pub percent: Option<u32>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// What pages from other origins may do.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficCors {
    /// Which origins.
    pub allow_origins: Vec<TextMatch>,
    /// Which, as it was written before.
    pub allow_origin: Vec<String>,
    /// With which methods.
    pub allow_methods: Vec<String>,
    /// With which headers.
    pub allow_headers: Vec<String>,
    /// Which headers of answers they see.
    pub expose_headers: Vec<String>,
    /// How long browsers remember it.
    pub max_age: Option<String>,
    /// Whether with cookies and the like.
    pub allow_credentials: bool,
    /// What becomes of preflights from other origins: `FORWARD` or `IGNORE`.
    pub unmatched_preflights: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// An answer without asking anybody.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficResponse {
    /// Its status.
    pub status: u16,
    /// What is in it.
    pub body: Option<TrafficBody>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// What is in an answer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficBody {
    /// A text.
    pub string: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// What a request must be like: all of this.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficMatch {
    /// Its name.
    pub name: Option<String>,
    /// Its path.
    pub uri: Option<TextMatch>,
    /// Its method.
    pub method: Option<TextMatch>,
    /// Its headers.
    pub headers: BTreeMap<String, TextMatch>,
    /// Its query parameters.
    pub query_params: BTreeMap<String, TextMatch>,
    /// The port of the service.
    pub port: Option<u16>,
    /// Its host, and its port if there is one.
    pub authority: Option<TextMatch>,
    /// Its scheme.
    pub scheme: Option<TextMatch>,
    /// Whatever the case of the path's letters, where it is no pattern.
    pub ignore_uri_case: bool,
    /// Headers that it must not have.
    pub without_headers: BTreeMap<String, TextMatch>,
    /// The namespace of its client; empty is any.
    pub source_namespace: String,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// A text to compare with; without any, it must be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TextMatch {
    /// This one.
    pub exact: Option<String>,
    /// Those that begin so.
    pub prefix: Option<String>,
    /// Those that match as a whole.
    pub regex: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// A share of requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficShare {
    /// Where they go.
    pub destination: TrafficDestination,
    /// Its size, relative to the others'.
    pub weight: u32,
    /// Changes of headers.
    pub headers: Option<TrafficHeaders>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficDestination {
    /// Its name; a short one is of the namespace of the VirtualService.
    pub host: String,
    /// Its port; absent is its only one, or the one that was dialled.
    pub port: Option<PortNumber>,
    /// A part of it that a DestinationRule names.
    pub subset: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// A port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortNumber {
    /// The port.
    pub number: u16,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Back, with another address.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficRedirect {
    /// Path.
    pub uri: Option<String>,
    /// Host.
    pub authority: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Status; absent is 301.
    pub redirect_code: Option<u16>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Another host and path.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficRewrite {
    /// In place of what of the path matched.
    pub uri: Option<String>,
    /// Host.
    pub authority: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// When requests are tried again.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficRetries {
    /// How often; 0 is never.
    pub attempts: Option<u32>,
    /// For each attempt.
    pub per_try_timeout: Option<String>,
    /// After what, names and statuses joined by commas.
    pub retry_on: Option<String>,
    /// Time before the first repetition.
    pub backoff: Option<String>,
    /// Whether at other endpoints than those that have failed; absent is yes.
    pub retry_ignore_previous_hosts: Option<bool>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Copies of some requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficMirror {
    /// Where to.
    pub destination: TrafficDestination,
    /// How many; absent is all.
    pub percentage: Option<Percent>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// So many of a hundred.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Percent {
    /// From 0 to 100.
    pub value: f64,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficHeaders {
    /// Of requests.
    pub request: HeaderChanges,
    /// Of answers.
    pub response: HeaderChanges,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Changes of headers in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderChanges {
    /// Replaced, or added.
    pub set: BTreeMap<String, String>,
    /// Added.
    pub add: BTreeMap<String, String>,
    /// Removed, by name.
    pub remove: Vec<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}
