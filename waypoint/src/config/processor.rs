//! Who sees requests and their answers, and changes them (Envoy's `ext_proc`).

use std::sync::Arc;
use std::time::Duration;

use fairway_proto::envoy::ext_proc::processing_mode::{BodySendMode, HeaderSendMode};
use fairway_proto::envoy::ext_proc::{
    ExtProcPerRoute, ExternalProcessor, ProcessingMode, ext_proc_per_route::Override,
};
use http::StatusCode;
use regex::Regex;

use super::duration;
use super::text::whole;
use super::trace::called;
use super::wrong::{Within, Wrong};

/// For each message, where the resource does not say; Envoy's default.
const TIMEOUT: Duration = Duration::from_millis(200);
/// The status where nobody answers, where the resource does not say; Envoy's default.
const STATUS: i32 = 500;

/// Who sees requests and their answers.
#[derive(Clone, Debug)]
pub struct Processor {
    /// Where.
    pub cluster: Arc<str>,
    /// Each answer has to be there by then.
    pub timeout: Duration,
    /// The longest that it may ask for in place of that; none where it may not.
    pub longest: Option<Duration>,
    /// Requests and answers pass as they are where there is no answer.
    pub fails_open: bool,
    /// The status where there is none, and they do not.
    pub status_on_error: StatusCode,
    /// What it sees, unless the route says otherwise.
    pub modes: Modes,
    /// Whether it may say what further parts it sees.
    pub may_override: bool,
    /// Headers whose names match are not its to change.
    pub kept: Option<Regex>,
}

impl PartialEq for Processor {
    /// Patterns are the same if their texts are.
    fn eq(&self, other: &Self) -> bool {
        let parts = |it: &Self| (it.timeout, it.longest, it.fails_open, it.status_on_error, it.modes, it.may_override);
        let kept = |it: &Self| it.kept.as_ref().map(|pattern| pattern.as_str().to_owned());
        self.cluster == other.cluster && parts(self) == parts(other) && kept(self) == kept(other)
    }
}

/// Which parts are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes {
    /// Of requests.
    pub request: Parts,
    /// Of answers.
    pub response: Parts,
}

/// Which parts of one side are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Its headers.
    pub headers: bool,
    /// Its body.
    pub body: BodyMode,
    /// Its trailers.
    pub trailers: bool,
}

/// How a body is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyMode {
    /// Not at all.
    Unseen,
    /// All at once.
    Buffered,
    /// Piece by piece.
    Streamed,
}

/// What a route says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processing {
    /// Nobody sees its requests.
    Off,
    /// These parts are seen.
    Seen(Modes),
}

impl Parts {
    /// Whether anything is seen.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.headers || self.trailers || self.has_body()
    }

    /// Whether the body is seen.
    #[must_use]
    pub fn has_body(&self) -> bool {
        self.body != BodyMode::Unseen
    }
}

impl Modes {
    /// As the message says it, and `before` where it does not; none of it where that is impossible.
    ///
    /// # Errors
    /// What is not supported.
    pub fn of(message: &ProcessingMode, before: Self) -> Result<Self, Wrong> {
        let sent = |mode: i32, before: bool, field: &str| match HeaderSendMode::try_from(mode) {
            Ok(HeaderSendMode::Default) => Ok(before),
            Ok(HeaderSendMode::Send) => Ok(true),
            Ok(HeaderSendMode::Skip) => Ok(false),
            Err(_) => Err(Wrong::new(field, "is unknown")),
        };
        let body = |mode: i32, field: &str| match BodySendMode::try_from(mode) {
            Ok(BodySendMode::None) => Ok(BodyMode::Unseen),
            Ok(BodySendMode::Buffered) => Ok(BodyMode::Buffered),
            Ok(BodySendMode::Streamed) => Ok(BodyMode::Streamed),
            Ok(mode) => Err(Wrong::new(field, format!("{} is not supported", mode.as_str_name()))),
            Err(_) => Err(Wrong::new(field, "is unknown")),
        };
        Ok(Self {
            request: Parts {
                headers: sent(message.request_header_mode, before.request.headers, "request_header_mode")?,
                body: body(message.request_body_mode, "request_body_mode")?,
                trailers: sent(message.request_trailer_mode, before.request.trailers, "request_trailer_mode")?,
            },
            response: Parts {
                headers: sent(message.response_header_mode, before.response.headers, "response_header_mode")?,
                body: body(message.response_body_mode, "response_body_mode")?,
                trailers: sent(message.response_trailer_mode, before.response.trailers, "response_trailer_mode")?,
            },
        })
    }
}

impl Default for Modes {
    /// Envoy's: headers.
    fn default() -> Self {
        let headers = Parts { headers: true, body: BodyMode::Unseen, trailers: false };
        Self { request: headers, response: headers }
    }
}

impl Processor {
    pub(super) fn of(message: &ExternalProcessor) -> Result<Self, Wrong> {
        let service = message.grpc_service.as_ref();
        if service.is_some_and(|service| service.timeout.is_some()) {
            return Err(Wrong::new("grpc_service.timeout", "must not be there: it would be for all messages together"));
        }
        let time = |time: Option<prost_types::Duration>, field| time.as_ref().map(duration).transpose().within(field);
        let timeout = time(message.message_timeout, "message_timeout")?.unwrap_or(TIMEOUT);
        if timeout.is_zero() {
            return Err(Wrong::new("message_timeout", "must be more than nothing"));
        }
        let longest = time(message.max_message_timeout, "max_message_timeout")?.filter(|longest| !longest.is_zero());
        let rules = message.mutation_rules.clone().unwrap_or_default();
        if rules.disallow_system != Some(true) {
            return Err(Wrong::new("mutation_rules.disallow_system", "must be true: policy was asked about these"));
        }
        let kept = rules.disallow_expression.as_ref().map(whole).transpose();
        let status = message.status_on_error.map_or(STATUS, |status| status.code);
        let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.filter(|status| status.is_client_error() || status.is_server_error());
        let modes = message.processing_mode.unwrap_or_default();
        Ok(Self {
            cluster: called(service).within("grpc_service")?,
            timeout,
            longest,
            fails_open: message.failure_mode_allow,
            status_on_error: status.ok_or_else(|| Wrong::new("status_on_error", "is no status of a refusal"))?,
            modes: Modes::of(&modes, Modes::default()).within("processing_mode")?,
            may_override: message.allow_mode_override,
            kept: kept.within("mutation_rules.disallow_expression")?,
        })
    }
}

/// What a route says.
pub(super) fn processing(message: &ExtProcPerRoute) -> Result<Processing, Wrong> {
    match message.r#override.as_ref().ok_or_else(|| Wrong::missing("override"))? {
        Override::Disabled(true) => Ok(Processing::Off),
        Override::Disabled(false) => Err(Wrong::new("disabled", "must be true")),
        Override::Overrides(overrides) => {
            let modes = overrides.processing_mode.ok_or_else(|| Wrong::missing("overrides.processing_mode"))?;
            Ok(Processing::Seen(Modes::of(&modes, Modes::default()).within("overrides.processing_mode")?))
        }
    }
}

#[cfg(test)]
mod tests {
    use fairway_proto::envoy::core::GrpcService;
    use fairway_proto::envoy::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    use fairway_proto::envoy::ext_proc::ExtProcOverrides;
    use fairway_proto::envoy::fraction::HttpStatus;
    use fairway_proto::envoy::matcher::RegexMatcher;
    use fairway_proto::envoy::mutation_rules::HeaderMutationRules;

    use super::*;

    fn read(change: impl FnOnce(&mut ExternalProcessor)) -> Result<Processor, String> {
        let target = EnvoyGrpc { cluster_name: "processor:9000".into() };
        let rules = HeaderMutationRules { disallow_system: Some(true), disallow_expression: None };
        let mut message = ExternalProcessor {
            grpc_service: Some(GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)),
                timeout: None,
            }),
            mutation_rules: Some(rules),
            ..ExternalProcessor::default()
        };
        change(&mut message);
        Processor::of(&message).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn what_is_not_said_is_envoys() {
        let read = read(|_| {}).unwrap();
        assert_eq!((read.timeout, read.longest, read.fails_open, read.may_override), (TIMEOUT, None, false, false));
        assert_eq!((read.status_on_error.as_u16(), read.modes), (500, Modes::default()));
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        let zero = || Some(prost_types::Duration::default());
        let mode =
            |mode: BodySendMode| Some(ProcessingMode { request_body_mode: mode.into(), ..ProcessingMode::default() });
        let rows = [
            (read(|it| it.grpc_service = None), "grpc_service.envoy_grpc: is missing"),
            (
                read(|it| it.grpc_service.as_mut().unwrap().timeout = zero()),
                "grpc_service.timeout: must not be there: it would be for all messages together",
            ),
            (read(|it| it.message_timeout = zero()), "message_timeout: must be more than nothing"),
            (
                read(|it| it.status_on_error = Some(HttpStatus { code: 200 })),
                "status_on_error: is no status of a refusal",
            ),
            (
                read(|it| it.mutation_rules = None),
                "mutation_rules.disallow_system: must be true: policy was asked about these",
            ),
            (
                read(|it| it.processing_mode = mode(BodySendMode::FullDuplexStreamed)),
                "processing_mode.request_body_mode: FULL_DUPLEX_STREAMED is not supported",
            ),
            (
                read(|it| it.processing_mode = mode(BodySendMode::BufferedPartial)),
                "processing_mode.request_body_mode: BUFFERED_PARTIAL is not supported",
            ),
        ];
        for (read, expected) in rows {
            assert_eq!(read.unwrap_err(), expected);
        }
        let regex = Some(RegexMatcher { regex: "(".into() });
        let wrong = read(|it| it.mutation_rules.as_mut().unwrap().disallow_expression = regex).unwrap_err();
        assert!(wrong.starts_with("mutation_rules.disallow_expression.regex: "), "{wrong}");
    }

    #[test]
    fn routes_switch_it_off_or_say_what_is_seen() {
        let read = |said| processing(&ExtProcPerRoute { r#override: said }).map_err(|wrong| wrong.to_string());
        assert_eq!(read(Some(Override::Disabled(true))), Ok(Processing::Off));
        assert_eq!(read(Some(Override::Disabled(false))).unwrap_err(), "disabled: must be true");
        assert_eq!(read(None).unwrap_err(), "override: is missing");
        let mut mode = ProcessingMode { response_body_mode: 1, response_header_mode: 2, ..ProcessingMode::default() };
        mode.request_trailer_mode = 1;
        let said = ExtProcOverrides { processing_mode: Some(mode) };
        let request = Parts { headers: true, body: BodyMode::Unseen, trailers: true };
        let response = Parts { headers: false, body: BodyMode::Streamed, trailers: false };
        assert_eq!(read(Some(Override::Overrides(said))), Ok(Processing::Seen(Modes { request, response })));
        let nothing = read(Some(Override::Overrides(ExtProcOverrides::default())));
        assert_eq!(nothing.unwrap_err(), "overrides.processing_mode: is missing");
    }
}
