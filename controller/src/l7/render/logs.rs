//! Who is told of requests that have ended, in Envoy's words.

use std::collections::BTreeMap;

use fairway_proto::envoy::access_log::access_log::ConfigType;
use fairway_proto::envoy::access_log::access_log_filter::FilterSpecifier;
use fairway_proto::envoy::access_log::extension_filter::ConfigType as FilterType;
use fairway_proto::envoy::access_log::{AccessLog, AccessLogFilter, ExtensionFilter};
use fairway_proto::envoy::access_log_cel::ExpressionFilter;
use fairway_proto::envoy::access_log_file::FileAccessLog;
use fairway_proto::envoy::access_log_file::file_access_log::AccessLogFormat;
use fairway_proto::envoy::access_log_grpc::CommonGrpcAccessLogConfig;
use fairway_proto::envoy::access_log_otel::OpenTelemetryAccessLogConfig;
use fairway_proto::envoy::core::data_source::Specifier;
use fairway_proto::envoy::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use fairway_proto::envoy::core::substitution_format_string::Format as Written;
use fairway_proto::envoy::core::{ApiVersion, DataSource, GrpcService, SubstitutionFormatString};
use fairway_proto::otlp::common::any_value::Value;
use fairway_proto::otlp::common::{AnyValue, KeyValue, KeyValueList};
use prost_types::value::Kind;
use prost_types::{Any, Struct};

use super::super::providers::logs::{Format, Sink};
use super::super::telemetry::{Logged, Logger};
use super::any;

const FILE: &str = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";
const OPEN_TELEMETRY: &str =
    "type.googleapis.com/envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig";
const EXPRESSION: &str = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter";
const OUTPUT: &str = "/dev/stdout";
/// Holds for no request.
const NEVER: &str = "false";

/// Who is told. Where nothing is written, waypoints log in their own way; so nobody is somebody who is told of no request.
pub(super) fn logs(logged: &Logged) -> Vec<AccessLog> {
    if logged.loggers.is_empty() {
        return vec![log(&Logger { condition: Some(NEVER.to_owned()), sink: None }, &logged.service)];
    }
    logged.loggers.iter().map(|logger| log(logger, &logged.service)).collect()
}

fn log(logger: &Logger, service: &str) -> AccessLog {
    let (name, config) = match &logger.sink {
        None => ("envoy.access_loggers.file", file(None)),
        Some(Sink::Output { format, omits_empty }) => ("envoy.access_loggers.file", file(Some((format, *omits_empty)))),
        Some(Sink::Collector { target, name, text, labels }) => {
            let cluster = TargetSpecifier::EnvoyGrpc(EnvoyGrpc { cluster_name: target.to_string() });
            let common = CommonGrpcAccessLogConfig {
                log_name: name.clone(),
                grpc_service: Some(GrpcService { target_specifier: Some(cluster), timeout: None }),
                transport_api_version: ApiVersion::V3.into(),
            };
            let config = OpenTelemetryAccessLogConfig {
                common_config: Some(common),
                body: Some(in_text(text)),
                attributes: (!labels.is_empty()).then(|| list(labels)),
                resource_attributes: Some(list(&BTreeMap::from([("service.name".to_owned(), service.to_owned())]))),
            };
            ("envoy.access_loggers.open_telemetry", any(OPEN_TELEMETRY, &config))
        }
    };
    let filter = logger.condition.as_ref().map(|expression| {
        let config = any(EXPRESSION, &ExpressionFilter { expression: expression.clone() });
        let filter = ExtensionFilter {
            name: "envoy.access_loggers.extension_filters.cel".to_owned(),
            config_type: Some(FilterType::TypedConfig(config)),
        };
        AccessLogFilter { filter_specifier: Some(FilterSpecifier::ExtensionFilter(filter)) }
    });
    AccessLog { name: name.to_owned(), filter, config_type: Some(ConfigType::TypedConfig(config)) }
}

fn file(format: Option<(&Format, bool)>) -> Any {
    let format = format.map(|(format, omit_empty_values)| {
        let format = match format {
            Format::Text(text) => {
                Written::TextFormatSource(DataSource { specifier: Some(Specifier::InlineString(text.clone())) })
            }
            Format::Json(labels) => {
                let value = |text: &String| prost_types::Value { kind: Some(Kind::StringValue(text.clone())) };
                let fields = labels.iter().map(|(name, text)| (name.clone(), value(text))).collect();
                Written::JsonFormat(Struct { fields })
            }
        };
        AccessLogFormat::LogFormat(SubstitutionFormatString { format: Some(format), omit_empty_values })
    });
    any(FILE, &FileAccessLog { path: OUTPUT.to_owned(), access_log_format: format })
}

fn in_text(text: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text.to_owned())) }
}

fn list(entries: &BTreeMap<String, String>) -> KeyValueList {
    let entry = |(key, value): (&String, &String)| KeyValue { key: key.clone(), value: Some(in_text(value)) };
    KeyValueList { values: entries.iter().map(entry).collect() }
}
