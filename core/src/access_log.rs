//! What a line of an access log says: Envoy's format strings, of which the operators are understood that have a value here
//! (docs/guides/waypoint.md lists them). Any other is refused by name.

use std::borrow::Cow;

/// Bytes of a format; a longer one is a mistake.
pub const LONGEST: usize = 16 * 1024;

/// A text with places for what is known of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// At most so many bytes of it.
    Place(Operator, Option<usize>),
}

/// What there is a place for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `START_TIME`
    StartTime,
    /// `REQ(name?other)`: a header of the request, or another one where it has none.
    Request(String, Option<String>),
    /// `RESP(name?other)`: the same of the answer.
    Response(String, Option<String>),
    /// One that needs to be told nothing.
    Plain(Plain),
}

/// Operators that need to be told nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// `PROTOCOL`
    Protocol,
    /// `RESPONSE_CODE`
    ResponseCode,
    /// `RESPONSE_FLAGS`
    ResponseFlags,
    /// `RESPONSE_CODE_DETAILS`
    ResponseCodeDetails,
    /// `GRPC_STATUS_NUMBER`
    GrpcStatusNumber,
    /// `BYTES_RECEIVED`
    BytesReceived,
    /// `BYTES_SENT`
    BytesSent,
    /// `DURATION`, in milliseconds
    Duration,
    /// `UPSTREAM_HOST`
    UpstreamHost,
    /// `UPSTREAM_CLUSTER`, and what Envoy calls the same before another name is put in its place
    UpstreamCluster,
    /// `UPSTREAM_PEER_URI_SAN`
    UpstreamPeer,
    /// `UPSTREAM_REQUEST_ATTEMPT_COUNT`
    UpstreamAttempts,
    /// `UPSTREAM_TRANSPORT_FAILURE_REASON`
    UpstreamFailure,
    /// `DOWNSTREAM_LOCAL_ADDRESS`
    DownstreamLocal,
    /// `DOWNSTREAM_REMOTE_ADDRESS`
    DownstreamRemote,
    /// `DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT`
    DownstreamRemoteHost,
    /// `DOWNSTREAM_REMOTE_PORT`
    DownstreamRemotePort,
    /// `DOWNSTREAM_LOCAL_PORT`
    DownstreamLocalPort,
    /// `DOWNSTREAM_LOCAL_URI_SAN`: who we have proved to be to the client.
    DownstreamLocalName,
    /// `DOWNSTREAM_PEER_URI_SAN`
    DownstreamPeer,
    /// `REQUESTED_SERVER_NAME`
    RequestedServerName,
    /// `CONNECTION_TERMINATION_DETAILS`
    ConnectionTerminationDetails,
    /// `ROUTE_NAME`
    RouteName,
    /// `TRACE_ID`
    TraceId,
    /// Envoy's default formats have it, and nothing is known of it here.
    Unknown,
}

const PLAIN: [(&str, Plain); 27] = [
    ("PROTOCOL", Plain::Protocol),
    ("RESPONSE_CODE", Plain::ResponseCode),
    ("RESPONSE_FLAGS", Plain::ResponseFlags),
    ("RESPONSE_CODE_DETAILS", Plain::ResponseCodeDetails),
    ("GRPC_STATUS_NUMBER", Plain::GrpcStatusNumber),
    ("BYTES_RECEIVED", Plain::BytesReceived),
    ("BYTES_SENT", Plain::BytesSent),
    ("DURATION", Plain::Duration),
    ("UPSTREAM_HOST", Plain::UpstreamHost),
    ("UPSTREAM_REMOTE_ADDRESS", Plain::UpstreamHost),
    ("UPSTREAM_PEER_URI_SAN", Plain::UpstreamPeer),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Plain::UpstreamAttempts),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", Plain::UpstreamFailure),
    ("DOWNSTREAM_LOCAL_ADDRESS", Plain::DownstreamLocal),
    ("DOWNSTREAM_REMOTE_ADDRESS", Plain::DownstreamRemote),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Plain::DownstreamRemoteHost),
    ("DOWNSTREAM_REMOTE_PORT", Plain::DownstreamRemotePort),
    ("DOWNSTREAM_LOCAL_PORT", Plain::DownstreamLocalPort),
    ("DOWNSTREAM_PEER_URI_SAN", Plain::DownstreamPeer),
    ("ROUTE_NAME", Plain::RouteName),
    ("TRACE_ID", Plain::TraceId),
    ("CONNECTION_TERMINATION_DETAILS", Plain::ConnectionTerminationDetails),
    ("REQUESTED_SERVER_NAME", Plain::RequestedServerName),
    ("UPSTREAM_CLUSTER", Plain::UpstreamCluster),
    ("UPSTREAM_CLUSTER_RAW", Plain::UpstreamCluster),
    ("UPSTREAM_LOCAL_ADDRESS", Plain::Unknown),
    ("DOWNSTREAM_LOCAL_URI_SAN", Plain::DownstreamLocalName),
];

/// What is said at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// A number.
    Number(u64),
    /// A text.
    Text(Cow<'a, str>),
}

impl Said<'_> {
    fn into_text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.into_owned(),
        }
    }
}

/// What is logged.
pub trait Entry {
    /// What there is to say at this place.
    fn say(&self, operator: &Operator) -> Option<Said<'_>>;
}

/// Why a format cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// There is no end.
    #[error("a % has no second one; write %% for the sign itself")]
    Open,
    /// Nothing is said there.
    #[error("%{0}% is not supported")]
    Unsupported(String),
    /// It is longer than anybody reads.
    #[error("is longer than {LONGEST} bytes")]
    Long,
}

impl Template {
    /// Reads a format.
    ///
    /// # Errors
    /// What of it is not understood.
    pub fn parse(text: &str) -> Result<Self, BadTemplate> {
        if text.len() > LONGEST {
            return Err(BadTemplate::Long);
        }
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, behind)) = rest.split_once('%') {
            plain.push_str(before);
            if let Some(behind) = behind.strip_prefix('%') {
                plain.push('%');
                rest = behind;
                continue;
            }
            let (place, behind) = behind.split_once('%').ok_or(BadTemplate::Open)?;
            let read = operator(place).ok_or_else(|| BadTemplate::Unsupported(place.to_owned()))?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Place(read.0, read.1));
            rest = behind;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// The text for this; where there is nothing to say, there is a dash, or nothing at all if it `omits_empty`.
    pub fn write(&self, entry: &impl Entry, omits_empty: bool) -> String {
        let mut line = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Place(operator, most) => {
                    let said = entry.say(operator).map(Said::into_text);
                    let said = said.unwrap_or_else(|| if omits_empty { String::new() } else { "-".to_owned() });
                    line.push_str(most.map_or(&*said, |most| shortened(&said, most)));
                }
            }
        }
        line
    }

    /// The value for this: of one place alone it keeps its kind, and is none where there is nothing to say.
    pub fn value<'a>(&'a self, entry: &'a impl Entry, omits_empty: bool) -> Option<Said<'a>> {
        match self.parts.as_slice() {
            [Part::Place(operator, None)] => entry.say(operator),
            [Part::Place(operator, Some(most))] => {
                Some(Said::Text(shortened(&entry.say(operator)?.into_text(), *most).to_owned().into()))
            }
            [Part::Text(text)] => Some(Said::Text(text.as_str().into())),
            _ => Some(Said::Text(self.write(entry, omits_empty).into())),
        }
    }

    /// Names of the headers of requests that it says, and of those of answers, in lower case.
    #[must_use]
    pub fn headers(&self) -> (Vec<&str>, Vec<&str>) {
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        for part in &self.parts {
            let (names, name, other) = match part {
                Part::Place(Operator::Request(name, other), _) => (&mut asked, name, other),
                Part::Place(Operator::Response(name, other), _) => (&mut answered, name, other),
                _ => continue,
            };
            names.extend([name].into_iter().chain(other).map(String::as_str));
        }
        (asked, answered)
    }
}

/// `NAME`, `NAME(about)`, and either with `:bytes` behind.
fn operator(place: &str) -> Option<(Operator, Option<usize>)> {
    let (name, about, most) = match place.split_once('(') {
        Some((name, rest)) => {
            let (about, most) = rest.rsplit_once(')')?;
            (name, Some(about), most)
        }
        None => {
            let (name, most) = place.find(':').map_or((place, ""), |at| place.split_at(at));
            (name, None, most)
        }
    };
    let most = match most.strip_prefix(':') {
        Some(most) => Some(most.parse().ok()?),
        None if most.is_empty() => None,
        None => return None,
    };
    let operator = match (name, about) {
        ("START_TIME", None) if most.is_none() => Operator::StartTime,
        ("REQ", Some(about)) => {
            let (name, other) = headers(about)?;
            Operator::Request(name, other)
        }
        ("RESP", Some(about)) => {
            let (name, other) = headers(about)?;
            Operator::Response(name, other)
        }
        (name, None) => Operator::Plain(PLAIN.into_iter().find(|(known, _)| *known == name)?.1),
        _ => return None,
    };
    Some((operator, most))
}

/// `name` or `name?other`.
fn headers(about: &str) -> Option<(String, Option<String>)> {
    let (name, other) = about.split_once('?').map_or((about, None), |(name, other)| (name, Some(other)));
    let other = match other {
        Some(other) => Some(header(other)?),
        None => None,
    };
    Some((header(name)?, other))
}

/// A header by its name in lower case (RFC 9110 §5.6.2), or what HTTP/2 has in place of one (RFC 9113 §8.3.1).
fn header(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    let is_pseudo = matches!(name.as_str(), ":method" | ":path" | ":authority" | ":scheme");
    let is_name = !name.is_empty() && name.bytes().all(is_token);
    (is_pseudo || is_name).then_some(name)
}

fn shortened(text: &str, most: usize) -> &str {
    let end = (0..=text.len().min(most)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Request;

    impl Entry for Request {
        fn say(&self, operator: &Operator) -> Option<Said<'_>> {
            match operator {
                Operator::Request(name, other) => match (name.as_str(), other.as_deref()) {
                    ("x-user", _) => Some(Said::Text("Ännchen".into())),
                    (_, Some(":path")) => Some(Said::Text("/a".into())),
                    _ => None,
                },
                Operator::Plain(Plain::ResponseCode) => Some(Said::Number(200)),
                Operator::StartTime => Some(Said::Text("now".into())),
                _ => None,
            }
        }
    }

    #[test]
    fn lines_say_what_there_is_and_a_dash_where_there_is_nothing() {
        let rows = [
            ("", "", ""),
            ("100%% of %RESPONSE_CODE%\n", "100% of 200\n", "100% of 200\n"),
            ("[%START_TIME%] %REQ(X-USER)% %REQ(other?:PATH)%", "[now] Ännchen /a", "[now] Ännchen /a"),
            ("%REQ(X-USER):1%|%REQ(X-USER):4%|%RESPONSE_CODE:2%", "|Änn|20", "|Änn|20"),
            ("%RESP(server)% %ROUTE_NAME% %UPSTREAM_CLUSTER_RAW%.", "- - -.", "  ."),
        ];
        for (format, expected, without) in rows {
            let template = Template::parse(format).unwrap();
            assert_eq!(template.write(&Request, false), expected, "{format}");
            assert_eq!(template.write(&Request, true), without, "{format}");
        }
    }

    #[test]
    fn a_place_alone_keeps_the_kind_of_its_value() {
        let rows = [
            ("%RESPONSE_CODE%", Some(Said::Number(200))),
            ("%RESPONSE_CODE:1%", Some(Said::Text("2".into()))),
            ("%RESPONSE_CODE%ms", Some(Said::Text("200ms".into()))),
            ("%ROUTE_NAME%", None),
            ("%ROUTE_NAME:3%", None),
            ("a %ROUTE_NAME%", Some(Said::Text("a -".into()))),
            ("a", Some(Said::Text("a".into()))),
        ];
        for (format, expected) in rows {
            assert_eq!(Template::parse(format).unwrap().value(&Request, false), expected, "{format}");
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (format, expected) in [
            ("%", "no second"),
            ("%START_TIME", "no second"),
            ("%START_TIME(%s)%", "%START_TIME(%"),
            ("%CEL(request.path)%", "%CEL(request.path)% is not supported"),
            ("%REQ%", "%REQ%"),
            ("%REQ()%", "%REQ()%"),
            ("%REQ(a b)%", "%REQ(a b)%"),
            ("%REQ(a?)%", "%REQ(a?)%"),
            ("%REQ(a):x%", "%REQ(a):x%"),
            ("%REQ(a)x%", "%REQ(a)x%"),
            ("%PROTOCOL()%", "%PROTOCOL()%"),
            ("%start_time%", "%start_time%"),
        ] {
            let error = Template::parse(format).unwrap_err().to_string();
            assert!(error.contains(expected), "{format}: {error}");
        }
        assert_eq!(Template::parse(&"x".repeat(LONGEST + 1)), Err(BadTemplate::Long));
        let template = Template::parse("%REQ(A?:PATH)% %RESP(b)%").unwrap();
        assert_eq!(template.headers(), (vec!["a", ":path"], vec!["b"]));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in "[%A-Z_():?a-z0-9 \\PC]{0,60}") {
            if let Ok(template) = Template::parse(&text) {
                let _line = template.write(&Request, false);
            }
        }

        #[test]
        fn what_has_no_place_stays_as_it_is(text in "[^%]{0,60}") {
            prop_assert_eq!(Template::parse(&text).unwrap().write(&Request, false), text);
        }
    }
}
