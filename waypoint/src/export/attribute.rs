//! Attributes of spans, records and their resource.

use fairway_proto::otlp::common::any_value::Value;
use fairway_proto::otlp::common::{AnyValue, InstrumentationScope, KeyValue};
use fairway_proto::otlp::resource::Resource;

pub(super) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

pub(super) fn number(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

/// Who we are to a collector.
pub(super) fn resource(attributes: &[(String, String)]) -> Resource {
    Resource { attributes: attributes.iter().map(|(key, value)| text(key, value)).collect() }
}

/// What of us tells it something.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope { name: "fairway-waypoint".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}
