//! What a waypoint would do with a request, or with a connection that it does not look into, in the words of its answer.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Party, Refused, Target, Way};

/// What a waypoint would do. What is none was not reached, as something before it refuses or answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Passage {
    /// The waypoint.
    pub waypoint: Party,
    /// Whom it takes the client for.
    pub identity: String,
    /// What was dialled; none where the tunnel asks for nothing that is this waypoint's.
    pub destination: Option<SocketAddr>,
    /// The service that has this address.
    pub service: Option<Target>,
    /// Name of the listener that decides.
    pub listener: Option<String>,
    /// How far the waypoint looks into connections of this listener.
    pub handling: Option<Handling>,
    /// The request as policies and routes see it.
    pub request: Option<Asked>,
    /// Who would be asked, which only sending tells the answer of. All below holds if they let it pass as it is.
    pub questions: Vec<Question>,
    /// What is made of tokens, where the waypoint looks for them.
    pub token: Option<Token>,
    /// Rules in the order in which they are asked, as far as they were.
    pub rules: Vec<RuleSet>,
    /// Name of the route.
    pub route: Option<String>,
    /// Limits that would count the request.
    pub rate_limits: Vec<RateLimit>,
    /// What goes wrong on purpose.
    pub fault: Option<Fault>,
    /// What the route does.
    pub action: Option<Action>,
    /// The way to an endpoint: of several the first of the heaviest backend.
    pub onward: Option<Onward>,
    /// Why it would be refused, if it would.
    pub refused: Option<Refused>,
    /// The status that the client would see where the waypoint answers itself.
    pub status: Option<u16>,
}

/// How far a waypoint looks into connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Handling {
    /// They carry requests.
    Requests,
    /// Nobody has said what the port speaks: they carry requests if the client begins with one.
    RequestsIfSpoken,
    /// Names that TLS clients ask for tell them apart.
    ServerNames,
    /// It does not.
    Bytes,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// Method.
    pub method: String,
    /// Host, and port if there is one.
    pub authority: String,
    /// Path in the one form that is decided on, without the query.
    pub path: String,
}

/// Somebody who would be asked about the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// What they do.
    pub asked: Whom,
    /// Where they are.
    pub cluster: String,
    /// How long they have.
    pub timeout_ms: u64,
    /// The status of the answer where they do not answer; the request passes where it is none.
    pub status_on_error: Option<u16>,
}

/// Who is asked about requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Whom {
    /// An authorizer, which may refuse the request or change it.
    Authorizer,
    /// Who counts requests for several proxies.
    RateLimiter,
    /// Who sees requests and their answers, and may refuse or change them.
    Processor,
}

/// What is made of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Whose tokens are believed.
    pub issuers: Vec<String>,
    /// Whether the request has one that is.
    pub is_believed: bool,
    /// Whether rules ask what tokens claim. Without that a request needs none.
    pub is_asked_for: bool,
}

/// Rules of one verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleSet {
    /// `ALLOW`: one must match. `DENY`: none may.
    pub action: String,
    /// The rules, each `NAMESPACE/POLICY/RULE`.
    pub rules: Vec<String>,
    /// The first that matches.
    pub matching: Option<String>,
}

/// A limit that would count the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// What it counts by, and the request's values of that.
    pub counted_by: Vec<(String, String)>,
    /// Requests at once at most.
    pub most: u32,
    /// How many come back in each interval.
    pub fill: u32,
    /// The interval.
    pub interval_ms: u64,
    /// How many would still pass in this replica of the waypoint.
    pub left: u32,
}

/// What goes wrong on purpose, each for so many requests in a million.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Milliseconds of delay, and for how many.
    pub delay_ms: Option<(u64, u32)>,
    /// The status of the failure, and for how many.
    pub abort: Option<(String, u32)>,
}

/// What a route does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Action {
    /// It sends the request on.
    Forward(Forwarding),
    /// It sends the client elsewhere.
    Redirect {
        /// The status.
        status: u16,
        /// Where to.
        location: String,
    },
    /// It answers.
    Reply {
        /// The status.
        status: u16,
    },
    /// It tells a browser what pages of other origins may do.
    Preflight,
}

/// How a request is sent on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forwarding {
    /// Where to, one of these.
    pub backends: Vec<Backend>,
    /// Another path, where it is changed.
    pub path: Option<String>,
    /// Another host, where it is changed.
    pub host: Option<String>,
    /// For the request with all its attempts.
    pub timeout_ms: Option<u64>,
    /// When it is tried again.
    pub retry: Option<Retry>,
    /// Who gets a copy: the cluster, and of how many in a million.
    pub mirrors: Vec<(String, u32)>,
}

/// One share of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// The cluster.
    pub cluster: String,
    /// Its weight.
    pub weight: u32,
    /// How many endpoints the waypoint knows of it, whatever their state; none where it knows no such cluster.
    pub endpoints: Option<usize>,
}

/// When a request is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// How often.
    pub attempts: u32,
    /// After what.
    pub on: Vec<String>,
    /// For each attempt.
    pub attempt_timeout_ms: Option<u64>,
}

/// The way to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Onward {
    /// The workload at the other end.
    pub workload: Option<Party>,
    /// How it is reached.
    pub way: Way,
}

impl Passage {
    /// Of which nothing is known yet but who comes, and to whom.
    #[must_use]
    pub fn begun(waypoint: Party, identity: String) -> Self {
        Self {
            waypoint,
            identity,
            destination: None,
            service: None,
            listener: None,
            handling: None,
            request: None,
            questions: Vec::new(),
            token: None,
            rules: Vec::new(),
            route: None,
            rate_limits: Vec::new(),
            fault: None,
            action: None,
            onward: None,
            refused: None,
            status: None,
        }
    }
}
