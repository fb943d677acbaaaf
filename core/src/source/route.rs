//! Gateway API's routes as users write them. What is not read is kept by name, so that a translation can
//! say that it does not do it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Fields that nothing here gives a meaning to, by name.
pub type Unread = BTreeMap<String, Value>;

/// `gateway.networking.k8s.io` HTTPRoute.
pub type HttpRoute = Route<HttpRule>;
/// `gateway.networking.k8s.io` GRPCRoute.
pub type GrpcRoute = Route<GrpcRule>;

/// `gateway.networking.k8s.io` TCPRoute or TLSRoute.
pub type StreamRoute = Route<StreamRule>;

/// What routes of all kinds have.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route<Rule> {
    /// `gateway.networking.k8s.io` and a version.
    pub api_version: String,
    /// `HTTPRoute`, `GRPCRoute`, `TCPRoute` or `TLSRoute`.
    pub kind: String,
    /// Name, namespace, age.
    pub metadata: ObjectMeta,
    /// What is asked for.
    #[serde(default)]
    pub spec: RouteSpec<Rule>,
    /// Written by controllers, one entry for each parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// Body of a [`Route`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteSpec<Rule> {
    /// What it is attached to.
    #[serde(default)]
    pub parent_refs: Vec<ParentReference>,
    /// Hosts: to a TLSRoute the names that clients ask for; to others they mean nothing where the parent is a service.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// The rules; absent is one that matches everything.
    #[serde(default)]
    pub rules: Option<Vec<Rule>>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// What a route is attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// API group; absent is Gateway API's, empty the core group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind; absent is `Gateway`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Namespace; absent is the route's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Name of a port or listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// A port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// What else is there; a route's status does not repeat it.
    #[serde(flatten, skip_serializing)]
    pub unread: Unread,
}

/// One rule of an [`HttpRoute`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRule {
    /// Its name.
    pub name: Option<String>,
    /// Any may match; none is every request.
    pub matches: Vec<HttpMatch>,
    /// What is done to requests and answers.
    pub filters: Vec<Filter>,
    /// Where requests go.
    pub backend_refs: Vec<BackendReference>,
    /// How long they may take.
    pub timeouts: Option<Timeouts>,
    /// When they are tried again.
    pub retry: Option<Retry>,
    /// How clients come back to an endpoint.
    pub session_persistence: Option<SessionPersistence>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// One rule of a [`GrpcRoute`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRule {
    /// Its name.
    pub name: Option<String>,
    /// Any may match; none is every request.
    pub matches: Vec<GrpcMatch>,
    /// What is done to requests and answers.
    pub filters: Vec<Filter>,
    /// Where requests go.
    pub backend_refs: Vec<BackendReference>,
    /// How clients come back to an endpoint.
    pub session_persistence: Option<SessionPersistence>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// The rule of a [`StreamRoute`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamRule {
    /// Its name.
    pub name: Option<String>,
    /// Where connections go.
    pub backend_refs: Vec<BackendReference>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// What a request must be like: all of this.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatch {
    /// Its path; absent is any.
    pub path: Option<PathMatch>,
    /// Its headers.
    pub headers: Vec<ValueMatch>,
    /// Its query parameters.
    pub query_params: Vec<ValueMatch>,
    /// Its method.
    pub method: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// A path to compare with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathMatch {
    /// `PathPrefix`, the default, `Exact` or `RegularExpression`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The path; absent is `/`.
    pub value: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// A header or query parameter to compare with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ValueMatch {
    /// `Exact`, the default, or `RegularExpression`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// Its value; absent is none that could be compared with.
    pub value: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// What a call must be like: all of this.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcMatch {
    /// Its method; absent is any.
    pub method: Option<MethodMatch>,
    /// Its headers.
    pub headers: Vec<ValueMatch>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// A gRPC method to compare with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MethodMatch {
    /// `Exact`, the default, or `RegularExpression`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Service with its package; absent is any.
    pub service: Option<String>,
    /// Method; absent is any.
    pub method: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// What is done to a request or its answer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    /// Which of the fields below counts.
    #[serde(rename = "type")]
    pub kind: String,
    /// For `RequestHeaderModifier`.
    pub request_header_modifier: Option<HeaderModifier>,
    /// For `ResponseHeaderModifier`.
    pub response_header_modifier: Option<HeaderModifier>,
    /// For `RequestMirror`.
    pub request_mirror: Option<Mirror>,
    /// For `RequestRedirect`.
    pub request_redirect: Option<Redirect>,
    /// For `URLRewrite`.
    pub url_rewrite: Option<Rewrite>,
    /// For `CORS`.
    pub cors: Option<CorsFilter>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// What pages from other origins may do.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsFilter {
    /// Which origins, with `*` for all or for a part of a host.
    pub allow_origins: Vec<String>,
    /// Whether with cookies and the like.
    pub allow_credentials: Option<bool>,
    /// With which methods.
    pub allow_methods: Vec<String>,
    /// With which headers.
    pub allow_headers: Vec<String>,
    /// Which headers of answers they see.
    pub expose_headers: Vec<String>,
    /// How long browsers remember it, in seconds; absent is 5.
    pub max_age: Option<i32>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderModifier {
    /// Replaced, or added.
    pub set: Vec<Header>,
    /// Added.
    pub add: Vec<Header>,
    /// Removed, by name.
    pub remove: Vec<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Sends copies of requests elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mirror {
    /// Where to.
    pub backend_ref: BackendReference,
    /// Of how many in a hundred; absent is all.
    pub percent: Option<u32>,
    /// Of how many; excludes `percent`.
    pub fraction: Option<Fraction>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Some of many.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fraction {
    /// So many of
    pub numerator: u32,
    /// so many; absent is a hundred.
    pub denominator: Option<u32>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Sends clients elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Redirect {
    /// `http` or `https`; absent is that of the request.
    pub scheme: Option<String>,
    /// Host; absent is that of the request.
    pub hostname: Option<String>,
    /// Path; absent is that of the request.
    pub path: Option<PathModifier>,
    /// Port; absent is that of the scheme, or the one dialled.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308; absent is 302.
    pub status_code: Option<u16>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Changes where a request goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rewrite {
    /// Host.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathModifier>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Another path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathModifier {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The whole path.
    pub replace_full_path: Option<String>,
    /// What stands for the prefix that matched.
    pub replace_prefix_match: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// Where requests go.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendReference {
    /// API group; absent is the core group.
    pub group: Option<String>,
    /// Kind; absent is `Service`.
    pub kind: Option<String>,
    /// Name.
    pub name: String,
    /// Namespace; absent is the route's.
    pub namespace: Option<String>,
    /// The service's port.
    pub port: Option<i32>,
    /// Its share; absent is 1.
    pub weight: Option<u32>,
    /// What is done to requests that go there.
    pub filters: Vec<Filter>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// How long requests may take, as Gateway API writes durations (GEP-2257); `0s` is without limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    /// With all attempts.
    pub request: Option<String>,
    /// One attempt.
    pub backend_request: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// When requests are tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    /// Statuses of answers, 400 to 599.
    pub codes: Vec<u32>,
    /// How often.
    pub attempts: Option<u32>,
    /// Time between attempts.
    pub backoff: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// How clients come back to the endpoint that has answered them (GEP-1619).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionPersistence {
    /// Name of the cookie or header; absent is one of our own.
    pub session_name: Option<String>,
    /// `Cookie`, the default, or `Header`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Longest time at all.
    pub absolute_timeout: Option<String>,
    /// Longest time without a request.
    pub idle_timeout: Option<String>,
    /// More of a cookie.
    pub cookie_config: Option<CookieConfig>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}

/// More of a cookie.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CookieConfig {
    /// `Session`, the default, ends with the browser; `Permanent` lasts as long as the absolute timeout.
    pub lifetime_type: Option<String>,
    /// What else is there.
    #[serde(flatten)]
    pub unread: Unread,
}
