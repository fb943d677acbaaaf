//! What routes do besides sending requests somewhere: pages of other origins, failures on purpose, and sessions.

use std::collections::BTreeMap;
use std::time::Duration;

use fairway_proto::envoy::cors::CorsPolicy;
use fairway_proto::envoy::fault::fault_abort::ErrorType;
use fairway_proto::envoy::fault::{FaultAbort, HttpFault};
use fairway_proto::envoy::fault_delay::{FaultDelay, fault_delay};
use http::StatusCode;
use http::header::HeaderValue;
use prost::Message;
use prost_types::Any;

use super::processor::{Modes, Processing, Processor, processing};
use super::session::{Session, session};
use super::text::Text;
use super::wrong::{Within, Wrong, all};
use super::{duration, per_million};

/// Key and type of what is said of other origins.
const CORS: (&str, &str) =
    ("envoy.filters.http.cors", "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy");
/// Key and type of what goes wrong.
const FAULT: (&str, &str) =
    ("envoy.filters.http.fault", "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault");
/// Key and type of who sees requests.
const EXT_PROC: (&str, &str) =
    ("envoy.filters.http.ext_proc", "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute");
/// Key and type of where clients keep which endpoint has answered them.
const SESSION: (&str, &str) = (
    "envoy.filters.http.stateful_session",
    "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute",
);
/// Statuses of gRPC (its document statuscodes).
const GRPC_STATUSES: std::ops::RangeInclusive<u32> = 0..=16;

/// What happens before a route does what it is for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Before {
    /// What pages of other origins may do; the endpoint is asked otherwise.
    pub cors: Option<Cors>,
    /// What goes wrong on purpose.
    pub fault: Fault,
    /// Who sees its requests, if that is not as for others.
    pub processing: Option<Processing>,
    /// How clients come back to the endpoint that has answered them.
    pub session: Option<Session>,
}

/// What pages of other origins may do (Fetch §3.2).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cors {
    /// Which origins.
    pub origins: Vec<Text>,
    /// With which methods.
    pub methods: Option<HeaderValue>,
    /// With which headers.
    pub headers: Option<HeaderValue>,
    /// Which headers of answers they see.
    pub exposed: Option<HeaderValue>,
    /// How long browsers remember what they were told.
    pub max_age: Option<HeaderValue>,
    /// Whether with cookies and the like.
    pub has_credentials: bool,
    /// Whether the endpoint is asked by preflights of other origins.
    pub passes_others: bool,
}

/// What goes wrong on purpose, each by itself for so many in a million.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Requests wait.
    pub delay: Option<(Duration, u32)>,
    /// Requests fail.
    pub abort: Option<(Abort, u32)>,
}

/// With what a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// A status of HTTP.
    Http(StatusCode),
    /// A status of gRPC.
    Grpc(u32),
}

/// Reads what a route says to filters.
pub(super) fn per_route(messages: &BTreeMap<String, Any>) -> Result<Before, Wrong> {
    let mut before = Before::default();
    for (key, message) in messages {
        before.read(key, message).within(format_args!("typed_per_filter_config[{key}]"))?;
    }
    Ok(before)
}

impl Before {
    /// What this processor sees of the route's requests; nothing where it sees none.
    #[must_use]
    pub fn seen(&self, processor: &Processor) -> Option<Modes> {
        match self.processing {
            Some(Processing::Off) => None,
            Some(Processing::Seen(modes)) => Some(modes),
            None => Some(processor.modes),
        }
    }

    fn read(&mut self, key: &str, message: &Any) -> Result<(), Wrong> {
        match (key, message.type_url.as_str()) {
            CORS => self.cors = Some(cors(&decode(message)?)?),
            FAULT => self.fault = fault(&decode(message)?)?,
            EXT_PROC => self.processing = Some(processing(&decode(message)?)?),
            SESSION => self.session = session(&decode(message)?)?,
            (_, kind) => return Err(Wrong::here(format!("{kind} is not supported here"))),
        }
        Ok(())
    }
}

fn decode<M: Message + Default>(message: &Any) -> Result<M, Wrong> {
    M::decode(&*message.value).map_err(|error| Wrong::here(error.to_string()))
}

fn cors(message: &CorsPolicy) -> Result<Cors, Wrong> {
    let value = |field: &str, text: &str| {
        let value = Some(text).filter(|text| !text.is_empty()).map(HeaderValue::try_from);
        value.transpose().map_err(|_| Wrong::new(field, "is no value of a header"))
    };
    Ok(Cors {
        origins: all("allow_origin_string_match", &message.allow_origin_string_match, Text::of)?,
        methods: value("allow_methods", &message.allow_methods)?,
        headers: value("allow_headers", &message.allow_headers)?,
        exposed: value("expose_headers", &message.expose_headers)?,
        max_age: value("max_age", &message.max_age)?,
        has_credentials: message.allow_credentials.unwrap_or(false),
        passes_others: message.forward_not_matching_preflights.unwrap_or(true),
    })
}

fn fault(message: &HttpFault) -> Result<Fault, Wrong> {
    let delay = |message: &FaultDelay| {
        let Some(fault_delay::Kind::FixedDelay(time)) = &message.kind else {
            return Err(Wrong::missing("fixed_delay"));
        };
        Ok((duration(time).within("fixed_delay")?, message.percentage.as_ref().map_or(0, per_million)))
    };
    let abort = |message: &FaultAbort| {
        let kind = match message.error_type {
            Some(ErrorType::HttpStatus(status)) => {
                let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
                // An answer of 1xx would be none.
                let status = status.filter(|status| !status.is_informational());
                Abort::Http(status.ok_or_else(|| Wrong::new("http_status", "is no status of an answer"))?)
            }
            Some(ErrorType::GrpcStatus(status)) if GRPC_STATUSES.contains(&status) => Abort::Grpc(status),
            Some(ErrorType::GrpcStatus(_)) => return Err(Wrong::new("grpc_status", "is no status of gRPC")),
            None => return Err(Wrong::missing("http_status")),
        };
        Ok((kind, message.percentage.as_ref().map_or(0, per_million)))
    };
    Ok(Fault {
        delay: message.delay.as_ref().map(delay).transpose().within("delay")?,
        abort: message.abort.as_ref().map(abort).transpose().within("abort")?,
    })
}
