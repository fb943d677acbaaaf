//! A request or a connection as a record of a log.

use std::time::SystemTime;

use fairway_proto::otlp::common::AnyValue;
use fairway_proto::otlp::common::any_value::Value;
use fairway_proto::otlp::logs::LogRecord;

use super::attribute::text;
use super::nanoseconds;
use crate::trace::Trace;

/// The record of what has ended, with a text and pieces; in its trace, if it has one.
pub(super) fn of(
    trace: Option<&Trace>,
    begun: SystemTime,
    (body, pieces): (Option<String>, Vec<(&str, String)>),
) -> LogRecord {
    let time = nanoseconds(begun.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    LogRecord {
        time_unix_nano: time,
        observed_time_unix_nano: time,
        body: body.map(|body| AnyValue { value: Some(Value::StringValue(body)) }),
        attributes: pieces.into_iter().map(|(name, value)| text(name, &value)).collect(),
        flags: trace.map_or(0, |trace| trace.is_sampled.into()),
        trace_id: trace.map(|trace| trace.trace.to_be_bytes().to_vec()).unwrap_or_default(),
        span_id: trace.map(|trace| trace.span.to_be_bytes().to_vec()).unwrap_or_default(),
    }
}
