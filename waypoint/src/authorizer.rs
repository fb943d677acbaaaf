//! Asks whoever a policy names whether a request may be sent. What cannot be asked, or is not answered, refuses the request
//! unless the provider is said to fail open.

use std::sync::Arc;

use fairway_core::limits;
use fairway_core::reason::Reason;
use http::header::{self, HeaderName, HeaderValue, InvalidHeaderValue};
use http::{HeaderMap, StatusCode};
use tokio::time::timeout;

use crate::config::{Authorizer, Config, Custom, Edits, Manner, Put, Speech, Text};
use crate::facts::Head;
use crate::failure::{Failure, Written};
use crate::replay::{Beginning, Received};
use crate::stream::Connection;

mod grpc;
mod http_head;

/// A request to be asked about.
pub struct Question<'a> {
    /// What is known of it.
    pub head: Head<'a>,
    /// Its headers as the endpoint would get them, who the client is included.
    pub headers: &'a HeaderMap,
    /// The version it came in.
    pub version: http::Version,
    /// The beginning of its body, where that is shown.
    pub body: Option<Beginning>,
}

/// What lets a request pass may change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Its headers.
    pub request: Edits,
    /// Those of its answer.
    pub response: Edits,
}

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be sent.
    Passes(Changes),
    /// It may not, and this is the answer.
    Refuses(StatusCode, Written),
}

/// Asks about one request.
///
/// # Errors
/// Why it may not be sent.
pub async fn ask(
    connection: &Arc<Connection>,
    config: &Config,
    custom: &Custom,
    (head, headers, version): (Head<'_>, &HeaderMap, http::Version),
    body: &mut Received,
) -> Result<Changes, Failure> {
    let authorizer = &custom.authorizer;
    let body = match authorizer.body {
        Some(shown) => Some(beginning(connection, shown.most, shown.partial, body).await?),
        None => None,
    };
    let question = Question { head, headers, version, body };
    let answered = match &authorizer.speech {
        Speech::Grpc => grpc::ask(connection, config, authorizer, &question).await,
        Speech::Http { .. } => http_head::ask(connection, config, authorizer, &question).await,
    };
    if answered.is_ok() {
        connection.waypoint.telemetry.answered(&authorizer.cluster);
    }
    match answered {
        Ok(Verdict::Passes(changes)) => Ok(changes),
        Ok(Verdict::Refuses(status, written)) => {
            let failure = Failure::new(Reason::AuthorizerRefused, &authorizer.cluster);
            Err(Failure { status: Some(status), answer: Some(Box::new(written)), ..failure })
        }
        Err(failure) => {
            let detail = format!("{}: {} ({})", authorizer.cluster, failure.detail, failure.reason);
            let passes = authorizer.fails_open && is_no_answer(&failure);
            connection.waypoint.telemetry.unanswered(&authorizer.cluster, passes, &detail);
            if passes {
                return Ok(Changes::default());
            }
            let failure = Failure::new(Reason::AuthorizerFailed, detail);
            Err(Failure { status: Some(authorizer.status_on_error), ..failure })
        }
    }
}

/// An answer that cannot be used.
fn unusable(problem: impl ToString) -> Failure {
    Failure::new(Reason::AuthorizerFailed, problem)
}

/// Whether nobody has answered. What cannot be used may have been a no, and never fails open.
fn is_no_answer(failure: &Failure) -> bool {
    failure.reason != Reason::AuthorizerFailed
}

/// What of the body is shown. A client that is slow or says too much does not fail open.
async fn beginning(
    connection: &Connection,
    most: usize,
    partial: bool,
    body: &mut Received,
) -> Result<Beginning, Failure> {
    let most = most.min(connection.waypoint.limits.size(&limits::AUTHORIZER_BODY));
    let patience = connection.waypoint.limits.duration(&limits::SHOWN_BODY_TIMEOUT);
    let late = |_elapsed| Failure::too_slow(Reason::TimedOut, format!("no body to show within {patience:?}"));
    let begun = timeout(patience, body.begin(most)).await.map_err(late)?;
    let begun = begun.map_err(|error| Failure::new(Reason::ClientLeft, error))?;
    if begun.is_whole || partial {
        return Ok(begun);
    }
    let failure = Failure::new(Reason::BadRequest, format!("the body is longer than the {most} bytes that are shown"));
    Err(Failure { status: Some(StatusCode::PAYLOAD_TOO_LARGE), ..failure })
}

/// Whether somebody else may write this header: what frames and addresses a message is ours alone.
pub(crate) fn is_free(name: &HeaderName) -> bool {
    let ours = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("x-forwarded-client-cert"),
    ];
    !ours.contains(name)
}

/// One header to write, if it may be written; an error where that is impossible. The client's own must not stay in its place.
pub(crate) fn put(name: &str, value: &[u8], manner: Manner) -> Option<Result<Put, InvalidHeaderValue>> {
    let name = HeaderName::try_from(name).ok().filter(is_free)?;
    Some(HeaderValue::from_bytes(value).map(|value| Put { name, value, manner }))
}

/// Whether any of these is meant by this name, whatever its case.
fn is_among(texts: &[Text], name: &HeaderName) -> bool {
    texts.iter().any(|text| text.matches(name.as_str()))
}

/// Those headers of the question that are shown.
fn shown<'a>(
    authorizer: &'a Authorizer,
    question: &'a Question<'_>,
) -> impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> {
    let is_shown = |name: &HeaderName| authorizer.headers.as_ref().is_none_or(|texts| is_among(texts, name));
    question.headers.iter().filter(move |(name, _)| is_shown(name))
}
