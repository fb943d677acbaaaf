//! What is counted otherwise than usual: metrics that are off, and labels that are added, changed or left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_core::cel::Expression;
use fairway_proto::envoy::core::Metadata;
use http::header::HeaderName;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::logs::names;
use super::wrong::{Within, Wrong, all};

/// By this name a listener says it; Envoy, which has no such metrics, does not look there.
const NAME: &str = "dev.fairway.metrics";
/// Before the name of every metric.
const PREFIX: &str = "istio_";
/// What may be said something of.
const METRICS: [&str; 8] = [
    "requests_total",
    "request_duration_milliseconds",
    "request_bytes",
    "response_bytes",
    "tcp_connections_opened_total",
    "tcp_connections_closed_total",
    "tcp_sent_bytes_total",
    "tcp_received_bytes_total",
];

/// What is counted otherwise than usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// By the metric's name, without what is before all of them.
    pub changes: BTreeMap<String, Change>,
    /// What labels say; each once.
    pub values: Vec<Expression>,
    /// Headers of requests that have to be kept for that.
    pub asked: Vec<HeaderName>,
}

/// What is otherwise about one metric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// It is not counted.
    pub is_off: bool,
    /// Labels that are left out.
    pub without: Vec<String>,
    /// Labels that are added, or say something else, and which of the values.
    pub with: Vec<(Arc<str>, usize)>,
}

impl Metrics {
    /// None where nothing is said.
    pub(crate) fn of(metadata: Option<&Metadata>) -> Result<Option<Arc<Self>>, Wrong> {
        let Some(said) = metadata.and_then(|metadata| metadata.filter_metadata.get(NAME)) else { return Ok(None) };
        let mut read = Self::default();
        read.read(said).within(format_args!("metadata.filter_metadata[{NAME}]"))?;
        let asked = names(read.values.iter().flat_map(Expression::headers).collect())?;
        read.asked = asked;
        Ok(Some(Arc::new(read)))
    }

    /// What is otherwise about the metric of this whole name.
    #[must_use]
    pub fn change(&self, metric: &str) -> Option<&Change> {
        self.changes.get(metric.strip_prefix(PREFIX)?)
    }

    fn read(&mut self, said: &Struct) -> Result<(), Wrong> {
        known(said, &["metrics"])?;
        for (index, said) in list(said.fields.get("metrics")).within("metrics")?.iter().enumerate() {
            let (name, change) = self.metric(said).within(format_args!("metrics[{index}]"))?;
            if self.changes.insert(name.clone(), change).is_some() {
                return Err(Wrong::new("metrics", format!("{name} is there twice")));
            }
        }
        Ok(())
    }

    fn metric(&mut self, said: &Value) -> Result<(String, Change), Wrong> {
        let Some(Kind::StructValue(said)) = &said.kind else { return Err(Wrong::here("must be an object")) };
        known(said, &["name", "drop", "tags_to_remove", "dimensions"])?;
        let [name, drop, without, with] =
            ["name", "drop", "tags_to_remove", "dimensions"].map(|name| said.fields.get(name));
        let name = text(name).within("name")?;
        if !METRICS.contains(&name) {
            return Err(Wrong::new("name", format!("there is no metric {name:?}")));
        }
        let is_off = match drop.map(|drop| &drop.kind) {
            None => false,
            Some(Some(Kind::BoolValue(is_off))) => *is_off,
            Some(_) => return Err(Wrong::new("drop", "must be true or false")),
        };
        let without = list(without).within("tags_to_remove")?;
        let without = all("tags_to_remove", without, |label| {
            let label = text(Some(label))?;
            is_label(label).then(|| label.to_owned()).ok_or_else(|| Wrong::here("is no name of a label"))
        })?;
        let mut change = Change { is_off, without, with: Vec::new() };
        let with = match with.map(|with| &with.kind) {
            None => return Ok((name.to_owned(), change)),
            Some(Some(Kind::StructValue(with))) => with,
            Some(_) => return Err(Wrong::new("dimensions", "must be an object")),
        };
        for (label, value) in &with.fields {
            let at = format!("dimensions[{label}]");
            if !is_label(label) {
                return Err(Wrong::new(at, "is no name of a label"));
            }
            let read = Expression::label(text(Some(value)).within(&at)?);
            let read = read.map_err(|error| Wrong::new(&at, error.to_string()))?;
            let place = self.values.iter().position(|known| *known == read).unwrap_or_else(|| {
                self.values.push(read);
                self.values.len() - 1
            });
            change.with.push((label.as_str().into(), place));
        }
        Ok((name.to_owned(), change))
    }
}

/// Prometheus's names of labels, but for those that it or a histogram keeps for itself.
fn is_label(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let begins = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let fits = name.bytes().next().is_some_and(begins) && name.bytes().all(is_part);
    fits && !name.starts_with("__") && !matches!(name, "le" | "quantile")
}

/// There are no fields but these.
fn known(said: &Struct, names: &[&str]) -> Result<(), Wrong> {
    match said.fields.keys().find(|name| !names.contains(&name.as_str())) {
        Some(other) => Err(Wrong::new(other.as_str(), "is not supported")),
        None => Ok(()),
    }
}

fn list(value: Option<&Value>) -> Result<&[Value], Wrong> {
    match value.map(|value| &value.kind) {
        None => Ok(&[]),
        Some(Some(Kind::ListValue(list))) => Ok(&list.values),
        Some(_) => Err(Wrong::here("must be a list")),
    }
}

fn text(value: Option<&Value>) -> Result<&str, Wrong> {
    match value.map(|value| &value.kind) {
        Some(Some(Kind::StringValue(text))) => Ok(text),
        _ => Err(Wrong::here("must be a text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(kind: Kind) -> Value {
        Value { kind: Some(kind) }
    }

    fn string(text: &str) -> Value {
        value(Kind::StringValue(text.to_owned()))
    }

    fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        value(Kind::StructValue(Struct { fields }))
    }

    fn several<const N: usize>(values: [Value; N]) -> Value {
        value(Kind::ListValue(prost_types::ListValue { values: values.into() }))
    }

    fn read<const N: usize>(metrics: [Value; N]) -> Result<Arc<Metrics>, Wrong> {
        let said = Struct { fields: [("metrics".to_owned(), several(metrics))].into() };
        let filter_metadata = [(NAME.to_owned(), said)].into();
        Metrics::of(Some(&Metadata { filter_metadata })).map(Option::unwrap)
    }

    #[test]
    fn what_is_said_holds_for_the_metric_that_it_is_said_of() {
        assert_eq!(Metrics::of(None), Ok(None));
        assert_eq!(Metrics::of(Some(&Metadata::default())), Ok(None));
        let host = || object([("host", string("request.headers['X-Host']")), ("port", string("destination.port"))]);
        let removed = several([string("source_app")]);
        let metrics = read([
            object([("name", string("requests_total")), ("dimensions", host()), ("tags_to_remove", removed)]),
            object([("name", string("request_bytes")), ("drop", value(Kind::BoolValue(true)))]),
            object([("name", string("response_bytes")), ("dimensions", host())]),
        ]);
        let metrics = metrics.unwrap();
        let with = vec![("host".into(), 0), ("port".into(), 1)];
        let expected = Change { is_off: false, without: vec!["source_app".into()], with };
        assert_eq!(metrics.change("istio_requests_total"), Some(&expected));
        assert!(metrics.change("istio_request_bytes").unwrap().is_off);
        assert_eq!(metrics.change("istio_response_bytes").unwrap().with, expected.with);
        assert_eq!(metrics.change("istio_tcp_sent_bytes_total"), None);
        // Who says the same twice is asked once.
        assert_eq!((metrics.values.len(), metrics.asked.as_slice()), (2, &[HeaderName::from_static("x-host")][..]));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let of = |name: &'static str, said: Value| object([("name", string("requests_total")), (name, said)]);
        let with = |label: &'static str, said: &str| of("dimensions", object([(label, string(said))]));
        let rows = [
            (string("a"), "metrics[0]: must be an object"),
            (object([]), "metrics[0].name: must be a text"),
            (object([("name", string("requests"))]), "metrics[0].name: there is no metric \"requests\""),
            (of("drop", string("yes")), "metrics[0].drop: must be true or false"),
            (of("match", string("true")), "metrics[0].match: is not supported"),
            (of("tags_to_remove", string("a")), "metrics[0].tags_to_remove: must be a list"),
            (of("tags_to_remove", several([string("a-b")])), "metrics[0].tags_to_remove[0]: is no name of a label"),
            (of("dimensions", string("a")), "metrics[0].dimensions: must be an object"),
            (with("le", "'a'"), "metrics[0].dimensions[le]: is no name of a label"),
            (with("__a", "'a'"), "metrics[0].dimensions[__a]: is no name of a label"),
            (with("1a", "'a'"), "metrics[0].dimensions[1a]: is no name of a label"),
            (with("a", "odd"), "metrics[0].dimensions[a]: \"odd\" is not known (at character 0)"),
        ];
        for (said, expected) in rows {
            let error = read([said]).unwrap_err().to_string();
            assert_eq!(error, format!("metadata.filter_metadata[{NAME}].{expected}"));
        }
        let twice = || object([("name", string("requests_total"))]);
        let error = read([twice(), twice()]).unwrap_err().to_string();
        assert!(error.ends_with("metrics: requests_total is there twice"), "{error}");
    }
}
