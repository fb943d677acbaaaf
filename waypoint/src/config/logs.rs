//! Who is told of requests that have ended, and of which.

use std::sync::Arc;

use fairway_core::access_log::Template;
use fairway_core::cel::Expression;
use fairway_proto::envoy::access_log::access_log::ConfigType;
use fairway_proto::envoy::access_log::access_log_filter::FilterSpecifier;
use fairway_proto::envoy::access_log::extension_filter::ConfigType as FilterType;
use fairway_proto::envoy::access_log::{AccessLog, AccessLogFilter};
use fairway_proto::envoy::access_log_cel::ExpressionFilter;
use fairway_proto::envoy::access_log_file::FileAccessLog;
use fairway_proto::envoy::access_log_file::file_access_log::AccessLogFormat;
use fairway_proto::envoy::access_log_otel::OpenTelemetryAccessLogConfig;
use fairway_proto::envoy::core::SubstitutionFormatString;
use fairway_proto::envoy::core::data_source::Specifier;
use fairway_proto::envoy::core::substitution_format_string::Format as Written;
use fairway_proto::otlp::common::any_value::Value;
use fairway_proto::otlp::common::{AnyValue, KeyValueList};
use http::header::HeaderName;
use prost_types::value::Kind;

use super::Collector;
use super::listener::{decode, unsupported};
use super::route::header_name;
use super::trace::called;
use super::wrong::{Within, Wrong, all};

const FILE: &str = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";
const OPEN_TELEMETRY: &str =
    "type.googleapis.com/envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig";
const EXPRESSION: &str = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter";
/// The one file that is written.
const OUTPUT: &str = "/dev/stdout";

/// Who is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// Each of them.
    pub loggers: Vec<Logger>,
    /// Headers of requests that have to be kept for that.
    pub asked: Vec<HeaderName>,
    /// The same of answers.
    pub answered: Vec<HeaderName>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logger {
    /// Of which requests; none is all.
    pub condition: Option<Expression>,
    /// Who.
    pub sink: Sink,
}

/// Where requests are told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Our own log, in our own words.
    Usual,
    /// Lines on standard output; what there is nothing to say about is left out, or a dash.
    Line(Format, bool),
    /// A collector.
    Collector(Box<Record>),
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// This.
    Text(Template),
    /// An object of JSON with these.
    Json(Vec<(String, Template)>),
}

/// What a collector is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who is told.
    pub collector: Arc<Collector>,
    /// In one text.
    pub body: Option<Template>,
    /// And piece by piece.
    pub attributes: Vec<(String, Template)>,
}

impl Logs {
    /// None where nothing is said.
    pub(super) fn of(messages: &[AccessLog]) -> Result<Option<Self>, Wrong> {
        if messages.is_empty() {
            return Ok(None);
        }
        let loggers = all("access_log", messages, logger)?;
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        for logger in &loggers {
            let (mut of_request, of_answer) = logger.sink.headers();
            of_request.extend(logger.condition.iter().flat_map(Expression::headers));
            asked.extend(names(of_request)?);
            answered.extend(names(of_answer)?);
        }
        for names in [&mut asked, &mut answered] {
            names.sort_by(|one: &HeaderName, other| one.as_str().cmp(other.as_str()));
            names.dedup();
        }
        Ok(Some(Self { loggers, asked, answered }))
    }

    /// Clusters of those who are told.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.loggers.iter().filter_map(|logger| match &logger.sink {
            Sink::Collector(record) => Some(&record.collector.cluster),
            Sink::Usual | Sink::Line(..) => None,
        })
    }
}

impl Sink {
    fn headers(&self) -> (Vec<&str>, Vec<&str>) {
        let templates: Vec<&Template> = match self {
            Self::Usual => Vec::new(),
            Self::Line(Format::Text(template), _) => vec![template],
            Self::Line(Format::Json(entries), _) => entries.iter().map(|(_, template)| template).collect(),
            Self::Collector(record) => {
                record.body.iter().chain(record.attributes.iter().map(|(_, template)| template)).collect()
            }
        };
        let (asked, answered): (Vec<_>, Vec<_>) = templates.into_iter().map(Template::headers).unzip();
        (asked.concat(), answered.concat())
    }
}

/// Those that are headers; the others are what HTTP/2 has in place of some, which is kept anyway.
pub(super) fn names(names: Vec<&str>) -> Result<Vec<HeaderName>, Wrong> {
    names.into_iter().filter(|name| !name.starts_with(':')).map(header_name).collect()
}

fn logger(message: &AccessLog) -> Result<Logger, Wrong> {
    let condition = message.filter.as_ref().map(condition).transpose().within("filter")?;
    let Some(ConfigType::TypedConfig(config)) = &message.config_type else {
        return Err(Wrong::missing("typed_config"));
    };
    let sink = match config.type_url.as_str() {
        FILE => file(&decode(&config.value)?).within("typed_config")?,
        OPEN_TELEMETRY => Sink::Collector(Box::new(record(&decode(&config.value)?).within("typed_config")?)),
        _ => return Err(unsupported(config)),
    };
    Ok(Logger { condition, sink })
}

fn condition(message: &AccessLogFilter) -> Result<Expression, Wrong> {
    let Some(FilterSpecifier::ExtensionFilter(filter)) = &message.filter_specifier else {
        return Err(Wrong::missing("extension_filter"));
    };
    let Some(FilterType::TypedConfig(config)) = &filter.config_type else { return Err(Wrong::missing("typed_config")) };
    if config.type_url != EXPRESSION {
        return Err(unsupported(config)).within("extension_filter");
    }
    let message: ExpressionFilter = decode(&config.value)?;
    let read = Expression::condition(&message.expression);
    read.map_err(|error| Wrong::new("extension_filter.typed_config.expression", error.to_string()))
}

fn file(message: &FileAccessLog) -> Result<Sink, Wrong> {
    if message.path != OUTPUT {
        return Err(Wrong::new("path", format!("must be {OUTPUT}")));
    }
    match &message.access_log_format {
        None => Ok(Sink::Usual),
        Some(AccessLogFormat::LogFormat(format)) => line(format).within("log_format"),
    }
}

fn line(message: &SubstitutionFormatString) -> Result<Sink, Wrong> {
    let format = match message.format.as_ref().ok_or_else(|| Wrong::missing("text_format_source"))? {
        Written::TextFormatSource(source) => match &source.specifier {
            Some(Specifier::InlineString(text)) => {
                Format::Text(template(text).within("text_format_source.inline_string")?)
            }
            _ => return Err(Wrong::missing("text_format_source.inline_string")),
        },
        Written::JsonFormat(object) => {
            let entries = object.fields.iter().map(|(name, value)| {
                let read = match &value.kind {
                    Some(Kind::StringValue(text)) => template(text),
                    _ => Err(Wrong::here("must be a text")),
                };
                Ok((name.clone(), read.within(format_args!("json_format.fields[{name}]"))?))
            });
            Format::Json(entries.collect::<Result<_, Wrong>>()?)
        }
    };
    Ok(Sink::Line(format, message.omit_empty_values))
}

fn template(text: &str) -> Result<Template, Wrong> {
    Template::parse(text).map_err(|error| Wrong::here(error.to_string()))
}

fn record(message: &OpenTelemetryAccessLogConfig) -> Result<Record, Wrong> {
    let common = message.common_config.as_ref().ok_or_else(|| Wrong::missing("common_config"))?;
    let cluster = called(common.grpc_service.as_ref()).within("common_config.grpc_service")?;
    let body = match &message.body {
        None => None,
        Some(body) => Some(template(&text(body).within("body")?).within("body")?),
    };
    let attributes = entries(message.attributes.as_ref()).within("attributes")?;
    let attributes = attributes.into_iter().map(|(name, value)| Ok((name, template(&value).within("attributes")?)));
    let named = Some(("log_name".to_owned(), common.log_name.clone())).filter(|(_, name)| !name.is_empty());
    let of_resource = entries(message.resource_attributes.as_ref()).within("resource_attributes")?;
    let collector = Arc::new(Collector { cluster, attributes: named.into_iter().chain(of_resource).collect() });
    Ok(Record { collector, body, attributes: attributes.collect::<Result<_, Wrong>>()? })
}

fn entries(list: Option<&KeyValueList>) -> Result<Vec<(String, String)>, Wrong> {
    let entries = list.into_iter().flat_map(|list| &list.values).enumerate();
    let read = entries.map(|(index, entry)| {
        let value = entry.value.as_ref().ok_or_else(|| Wrong::missing("value"));
        let value = value.and_then(text).within(format_args!("values[{index}]"))?;
        Ok((entry.key.clone(), value))
    });
    read.collect()
}

fn text(value: &AnyValue) -> Result<String, Wrong> {
    match &value.value {
        Some(Value::StringValue(text)) => Ok(text.clone()),
        _ => Err(Wrong::new("string_value", "is missing")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fairway_proto::envoy::access_log::ExtensionFilter;
    use fairway_proto::envoy::access_log_grpc::CommonGrpcAccessLogConfig;
    use fairway_proto::envoy::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    use fairway_proto::envoy::core::{DataSource, GrpcService};
    use prost::Message;
    use prost_types::{Any, Struct};

    use super::*;

    fn packed(type_url: &str, message: &impl Message) -> Any {
        Any { type_url: type_url.to_owned(), value: message.encode_to_vec() }
    }

    fn with(type_url: &str, config: &impl Message, condition: Option<&str>) -> AccessLog {
        let filter = condition.map(|expression| {
            let config = packed(EXPRESSION, &ExpressionFilter { expression: expression.to_owned() });
            let filter = ExtensionFilter { name: String::new(), config_type: Some(FilterType::TypedConfig(config)) };
            AccessLogFilter { filter_specifier: Some(FilterSpecifier::ExtensionFilter(filter)) }
        });
        let config_type = Some(ConfigType::TypedConfig(packed(type_url, config)));
        AccessLog { name: String::new(), filter, config_type }
    }

    fn lines(format: Option<Written>) -> FileAccessLog {
        let format = SubstitutionFormatString { format, omit_empty_values: false };
        FileAccessLog { path: OUTPUT.to_owned(), access_log_format: Some(AccessLogFormat::LogFormat(format)) }
    }

    fn in_text(text: &str) -> Option<Written> {
        let specifier = Some(Specifier::InlineString(text.to_owned()));
        Some(Written::TextFormatSource(DataSource { specifier }))
    }

    fn in_json(kind: Kind) -> Option<Written> {
        let fields = BTreeMap::from([("a".to_owned(), prost_types::Value { kind: Some(kind) })]);
        Some(Written::JsonFormat(Struct { fields }))
    }

    fn collecting(body: &str) -> OpenTelemetryAccessLogConfig {
        let target = TargetSpecifier::EnvoyGrpc(EnvoyGrpc { cluster_name: "logs:4317".into() });
        let grpc_service = Some(GrpcService { target_specifier: Some(target), timeout: None });
        let common =
            CommonGrpcAccessLogConfig { log_name: "way".into(), grpc_service, ..CommonGrpcAccessLogConfig::default() };
        let body = Some(AnyValue { value: Some(Value::StringValue(body.to_owned())) });
        OpenTelemetryAccessLogConfig { common_config: Some(common), body, ..Default::default() }
    }

    #[test]
    fn what_is_told_keeps_the_headers_that_it_needs() {
        assert_eq!(Logs::of(&[]), Ok(None));
        let messages = [
            with(
                FILE,
                &FileAccessLog { path: OUTPUT.to_owned(), access_log_format: None },
                Some("response.code > 399"),
            ),
            with(
                FILE,
                &lines(in_text("%REQ(X-B)% %REQ(:PATH)% %RESP(server)%\n")),
                Some("request.headers['x-a'] == ''"),
            ),
            with(FILE, &lines(in_json(Kind::StringValue("%REQ(x-b)%".into()))), None),
            with(OPEN_TELEMETRY, &collecting("%REQ(x-c)%"), None),
        ];
        let read = Logs::of(&messages).unwrap().unwrap();
        assert_eq!(read.loggers[0].sink, Sink::Usual);
        assert_eq!(read.loggers[0].condition.as_ref().unwrap().text(), "response.code > 399");
        assert_eq!(read.asked, ["x-a", "x-b", "x-c"]);
        assert_eq!(read.answered, ["server"]);
        assert_eq!(read.clusters().map(|cluster| &**cluster).collect::<Vec<_>>(), ["logs:4317"]);
        let Sink::Collector(record) = &read.loggers[3].sink else { panic!("{read:?}") };
        assert_eq!(record.collector.attributes, [("log_name".to_owned(), "way".to_owned())]);
    }

    #[test]
    fn what_is_missing_or_not_understood_is_named() {
        let elsewhere = FileAccessLog { path: "/var/log/a".into(), access_log_format: None };
        let mut nowhere = collecting("");
        nowhere.common_config = None;
        let rows = [
            (AccessLog::default(), "access_log[0].typed_config: is missing"),
            (with("other", &elsewhere, None), "access_log[0].typed_config: other is not supported here"),
            (with(FILE, &elsewhere, None), "access_log[0].typed_config.path: must be /dev/stdout"),
            (with(FILE, &lines(None), None), "access_log[0].typed_config.log_format.text_format_source: is missing"),
            (
                with(FILE, &lines(in_text("%ODD%")), None),
                "access_log[0].typed_config.log_format.text_format_source.inline_string: %ODD% is not supported",
            ),
            (
                with(FILE, &lines(in_json(Kind::NumberValue(1.0))), None),
                "access_log[0].typed_config.log_format.json_format.fields[a]: must be a text",
            ),
            (with(OPEN_TELEMETRY, &nowhere, None), "access_log[0].typed_config.common_config: is missing"),
            (
                with(OPEN_TELEMETRY, &collecting("%"), None),
                "access_log[0].typed_config.body: a % has no second one; write %% for the sign itself",
            ),
            (
                with(FILE, &lines(in_text("a")), Some("response.code")),
                "access_log[0].filter.extension_filter.typed_config.expression: is a number, and not a condition (at character 0)",
            ),
        ];
        for (message, expected) in rows {
            assert_eq!(Logs::of(&[message]).unwrap_err().to_string(), expected);
        }
    }
}
