//! What a processor says, made into what is done. Whatever cannot be understood is a failure, never a yes.

use std::time::Duration;

use bytes::Bytes;
use fairway_core::reason::Reason;
use fairway_proto::external_processor::body_mutation::Mutation;
use fairway_proto::external_processor::common_response::ResponseStatus;
use fairway_proto::external_processor::processing_response::Response;
use fairway_proto::external_processor::{
    BodyMutation, CommonResponse, HeaderMutation, HeaderOption, ImmediateResponse, ProcessingResponse,
};
use http::StatusCode;
use http::header::{HeaderMap, HeaderName};
use regex::Regex;

use crate::authorizer::{is_free, put};
use crate::config::{Edits, Manner, Modes, Put};
use crate::failure::{Failure, Written};

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// To the endpoint.
    Request,
    /// To the client.
    Response,
}

/// A part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its headers.
    Headers,
    /// Its body, or a piece of it.
    Body,
    /// Its trailers.
    Trailers,
}

/// What is asked about.
pub type Phase = (Side, Part);

/// What a processor may do.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What it sees unless it says otherwise.
    pub modes: Modes,
    /// Whether it may say otherwise.
    pub may_override: bool,
    /// Headers that only we write.
    pub own: Vec<HeaderName>,
    /// Names of further headers that are not its to change.
    pub kept: Option<Regex>,
}

/// One thing that a processor says.
#[derive(Debug)]
pub enum Said {
    /// It needs so much time.
    Waits(Duration),
    /// What it makes of what it was asked about.
    Answers(Phase, Heard),
    /// The client gets this answer.
    Replies(Box<Failure>),
}

/// What it makes of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Changes of headers, or of trailers.
    pub edits: Edits,
    /// This in place of the body, or of the piece; as it is where there is none.
    pub body: Option<Bytes>,
    /// It wants to see no more of this side.
    pub is_last: bool,
    /// The route is to be chosen again.
    pub is_rerouted: bool,
    /// What it sees of the rest.
    pub modes: Option<Modes>,
}

/// What a message means.
///
/// # Errors
/// What is wrong with it.
pub fn read(message: ProcessingResponse, rules: &Rules) -> Result<Said, String> {
    if let Some(time) = message.override_message_timeout {
        // Whatever else it says is not looked at.
        let time = Duration::try_from(time).map_err(|_| "asks for less than no time")?;
        return Ok(Said::Waits(time));
    }
    let said = message.mode_override.as_ref().filter(|_| rules.may_override);
    let modes =
        || said.map(|said| Modes::of(said, rules.modes)).transpose().map_err(|wrong| format!("mode_override: {wrong}"));
    let headers = |side, answer: Option<CommonResponse>| -> Result<Said, String> {
        Ok(Said::Answers((side, Part::Headers), Heard { modes: modes()?, ..common(answer, Part::Headers, rules)? }))
    };
    let body = |side, answer| Ok(Said::Answers((side, Part::Body), common(answer, Part::Body, rules)?));
    let trailers = |side, mutation: Option<HeaderMutation>| {
        let heard = Heard { edits: edits(&mutation.unwrap_or_default(), rules)?, ..Heard::default() };
        Ok(Said::Answers((side, Part::Trailers), heard))
    };
    match message.response.ok_or("says nothing")? {
        Response::RequestHeaders(answer) => headers(Side::Request, answer.response),
        Response::ResponseHeaders(answer) => headers(Side::Response, answer.response),
        Response::RequestBody(answer) => body(Side::Request, answer.response),
        Response::ResponseBody(answer) => body(Side::Response, answer.response),
        Response::RequestTrailers(answer) => trailers(Side::Request, answer.header_mutation),
        Response::ResponseTrailers(answer) => trailers(Side::Response, answer.header_mutation),
        Response::ImmediateResponse(answer) => Ok(Said::Replies(Box::new(reply(answer, rules)?))),
    }
}

fn common(answer: Option<CommonResponse>, part: Part, rules: &Rules) -> Result<Heard, String> {
    let answer = answer.unwrap_or_default();
    let is_last = match ResponseStatus::try_from(answer.status) {
        Ok(ResponseStatus::Continue) => false,
        Ok(ResponseStatus::ContinueAndReplace) => true,
        Err(_) => return Err(format!("has the unknown status {}", answer.status)),
    };
    let body = match answer.body_mutation.and_then(|BodyMutation { mutation }| mutation) {
        Some(Mutation::Body(bytes)) => Some(Bytes::from(bytes)),
        Some(Mutation::ClearBody(true)) => Some(Bytes::new()),
        Some(Mutation::ClearBody(false)) | None => None,
        Some(Mutation::StreamedResponse(_)) => {
            return Err("has a streamed_response, which is of a mode that is not supported".to_owned());
        }
    };
    // Behind headers a body comes only in place of all of it.
    let body = body.filter(|_| part == Part::Body || is_last);
    let edits = edits(&answer.header_mutation.unwrap_or_default(), rules)?;
    Ok(Heard { edits, body, is_last, is_rerouted: answer.clear_route_cache, modes: None })
}

/// Changes of headers, without those that are not the processor's to make.
fn edits(mutation: &HeaderMutation, rules: &Rules) -> Result<Edits, String> {
    let may = |name: &HeaderName| {
        let is_kept = rules.kept.as_ref().is_some_and(|kept| kept.is_match(name.as_str()));
        is_free(name) && !rules.own.contains(name) && !is_kept
    };
    let remove = mutation.remove_headers.iter().filter_map(|name| HeaderName::try_from(name).ok());
    let put =
        mutation.set_headers.iter().filter_map(|option| set(option).transpose()).collect::<Result<Vec<_>, _>>()?;
    Ok(Edits { remove: remove.filter(may).collect(), put: put.into_iter().filter(|put| may(&put.name)).collect() })
}

fn set(option: &HeaderOption) -> Result<Option<Put>, String> {
    let Some(line) = &option.header else { return Ok(None) };
    let manner = match option.append_action {
        // What is not said is to overwrite here, unlike in Envoy's other messages.
        0 if option.append == Some(true) => Manner::Append,
        0 | 2 => Manner::Overwrite,
        1 => Manner::AddIfAbsent,
        3 => Manner::OverwriteIfPresent,
        other => return Err(format!("has the unknown append_action {other}")),
    };
    let value = match (&*line.value, &*line.raw_value) {
        (value, []) => value.as_bytes(),
        ("", raw) => raw,
        _ => return Err(format!("says the value of {} twice", line.key)),
    };
    put(&line.key, value, manner).transpose().map_err(|_| format!("has what is no value of {}", line.key))
}

/// An answer of the processor's own.
fn reply(answer: ImmediateResponse, rules: &Rules) -> Result<Failure, String> {
    let status = answer.status.and_then(|status| u16::try_from(status.code).ok());
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    // An answer of 1xx would be none.
    let status = status.filter(|status| !status.is_informational()).ok_or("answers without a status")?;
    let mut headers = HeaderMap::new();
    crate::edits::apply(&edits(&answer.headers.unwrap_or_default(), rules)?, &mut headers);
    let detail = if answer.details.is_empty() { "an answer of its own".to_owned() } else { answer.details };
    let failure = Failure::new(Reason::ProcessorAnswered, detail);
    let answer_written = Written { headers, body: answer.body.into() };
    let grpc_status = answer.grpc_status.map(|it| it.status);
    Ok(Failure { status: Some(status), grpc_status, answer: Some(Box::new(answer_written)), ..failure })
}

#[cfg(test)]
mod tests;
