//! Why something was not done: one reason of the closed list, and what exactly went wrong.

use bytes::Bytes;
use fairway_core::io::hbone::TunnelError;
use fairway_core::io::socket::DialError;
use fairway_core::reason::Reason;
use fairway_core::route::Refusal;
use http::{HeaderMap, StatusCode};

use crate::config::Abort;
use crate::grpc;
use crate::tokens::Problem;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason.
    pub reason: Reason,
    /// What exactly.
    pub detail: String,
    /// Where the route says which status: that one.
    pub status: Option<StatusCode>,
    /// The same for gRPC's clients.
    pub grpc_status: Option<u32>,
    /// Where somebody else says what the client is told: that.
    pub answer: Option<Box<Written>>,
}

/// What a client is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Failure {
    /// For this reason.
    #[must_use]
    pub fn new(reason: Reason, detail: impl ToString) -> Self {
        Self { reason, detail: detail.to_string(), status: None, grpc_status: None, answer: None }
    }

    /// For this reason, which is the client's doing: it takes too long to send its request.
    #[must_use]
    pub fn too_slow(reason: Reason, detail: impl ToString) -> Self {
        Self { status: Some(StatusCode::REQUEST_TIMEOUT), ..Self::new(reason, detail) }
    }

    /// The status that tells the client of a request.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or(match self.reason {
            Reason::TokenInvalid => StatusCode::UNAUTHORIZED,
            reason if reason.is_denial() => StatusCode::FORBIDDEN,
            Reason::BadRequest => StatusCode::BAD_REQUEST,
            Reason::RouteNotFound => StatusCode::NOT_FOUND,
            Reason::TimedOut | Reason::IdleTimeout => StatusCode::GATEWAY_TIMEOUT,
            Reason::AnswerMalformed => StatusCode::BAD_GATEWAY,
            Reason::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Reason::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        })
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let is_meant_for_others = problem == Problem::Audience;
        Self::new(if is_meant_for_others { Reason::TokenAudience } else { Reason::TokenInvalid }, problem)
    }
}

impl From<Abort> for Failure {
    fn from(abort: Abort) -> Self {
        let failure = Self::new(Reason::FaultInjected, "the route says so");
        match abort {
            Abort::Http(status) => Self { status: Some(status), ..failure },
            Abort::Grpc(code) => Self { status: Some(grpc::status(code)), grpc_status: Some(code), ..failure },
        }
    }
}

impl From<&TunnelError> for Failure {
    fn from(error: &TunnelError) -> Self {
        Self::new(error.reason(), error)
    }
}

impl From<&Refusal> for Failure {
    fn from(refusal: &Refusal) -> Self {
        Self::new(refusal.reason, refusal)
    }
}

impl From<&DialError> for Failure {
    fn from(error: &DialError) -> Self {
        let reason = match error {
            DialError::Timeout { .. } => Reason::UpstreamConnectTimeout,
            error if error.is_exhaustion() => Reason::ResourceLimit,
            _ => Reason::UpstreamConnectFailed,
        };
        Self::new(reason, error)
    }
}

/// What an error says, and why, as far as that is known.
#[must_use]
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
