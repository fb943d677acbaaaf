//! What is counted otherwise than usual. Envoy has no such metrics unless Istio builds it, so this is said where it does not look, in
//! the words of Istio's own filter.

use fairway_proto::envoy::core::Metadata;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use super::super::telemetry::{Change, Counted};

/// By this name waypoints find it.
const NAME: &str = "dev.fairway.metrics";

/// What a listener says of it; nothing where everything is as usual.
pub(super) fn metadata(counted: Option<&Counted>) -> Option<Metadata> {
    let metrics = counted?.iter().map(|(metric, change)| self::metric(metric.name(), change));
    let said = object([("metrics", list(metrics))]);
    Some(Metadata { filter_metadata: [(NAME.to_owned(), said)].into() })
}

fn metric(name: &str, change: &Change) -> Value {
    let removed = change.labels.iter().filter(|(_, value)| value.is_none()).map(|(label, _)| text(label));
    let added = change.labels.iter().filter_map(|(label, value)| Some((label.as_str(), text(value.as_ref()?))));
    let (removed, added): (Vec<_>, Vec<_>) = (removed.collect(), added.collect());
    let fields = [
        Some(("name", text(name))),
        change.is_off.then_some(("drop", value(Kind::BoolValue(true)))),
        (!removed.is_empty()).then(|| ("tags_to_remove", list(removed.into_iter()))),
        (!added.is_empty()).then(|| ("dimensions", value(Kind::StructValue(object(added))))),
    ];
    value(Kind::StructValue(object(fields.into_iter().flatten())))
}

pub(super) fn object<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Struct {
    Struct { fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
}

pub(super) fn list(values: impl Iterator<Item = Value>) -> Value {
    value(Kind::ListValue(ListValue { values: values.collect() }))
}

pub(super) fn text(text: &str) -> Value {
    value(Kind::StringValue(text.to_owned()))
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}
