//! What waypoints count otherwise than usual: what several places say of metrics and their labels, put together as Istio does it.

use std::collections::BTreeMap;

use fairway_core::cel::Expression;
use serde::Deserialize;
use serde_json::Value;

use super::super::providers::Providers;
use super::{Mode, Named};

/// What Istio calls the provider that it has without being told of one.
const OF_ISTIO: &str = "prometheus";

/// Metrics of waypoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Requests.
    RequestCount,
    /// How long they took.
    RequestDuration,
    /// Bytes of their bodies.
    RequestSize,
    /// Bytes of the bodies of answers.
    ResponseSize,
    /// Connections that have begun.
    TcpOpenedConnections,
    /// Connections that have ended.
    TcpClosedConnections,
    /// Bytes towards clients.
    TcpSentBytes,
    /// Bytes towards endpoints.
    TcpReceivedBytes,
}

const METRICS: [Metric; 8] = [
    Metric::RequestCount,
    Metric::RequestDuration,
    Metric::RequestSize,
    Metric::ResponseSize,
    Metric::TcpOpenedConnections,
    Metric::TcpClosedConnections,
    Metric::TcpSentBytes,
    Metric::TcpReceivedBytes,
];

impl Metric {
    /// Its name, without what is before all of them.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestCount => "requests_total",
            Self::RequestDuration => "request_duration_milliseconds",
            Self::RequestSize => "request_bytes",
            Self::ResponseSize => "response_bytes",
            Self::TcpOpenedConnections => "tcp_connections_opened_total",
            Self::TcpClosedConnections => "tcp_connections_closed_total",
            Self::TcpSentBytes => "tcp_sent_bytes_total",
            Self::TcpReceivedBytes => "tcp_received_bytes_total",
        }
    }

    fn is_of_connections(self) -> bool {
        self >= Self::TcpOpenedConnections
    }
}

/// What a waypoint counts otherwise than usual, before a service, by metric.
pub type Counted = BTreeMap<Metric, Change>;

/// What is otherwise about a metric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// It is not counted.
    pub is_off: bool,
    /// Labels that are added, or say something else, by an expression; none leaves one out.
    pub labels: BTreeMap<String, Option<String>>,
}

/// What one entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Whether it is for Prometheus; none is as the entry before it.
    is_ours: Option<bool>,
    overrides: Vec<Override>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Override {
    metrics: Vec<Metric>,
    is_off: Option<bool>,
    labels: BTreeMap<String, Option<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Written {
    providers: Vec<Named>,
    overrides: Vec<Value>,
    reporting_interval: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WrittenOverride {
    r#match: Selector,
    disabled: Option<bool>,
    tag_overrides: BTreeMap<String, WrittenTag>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Selector {
    metric: Option<WrittenMetric>,
    custom_metric: Option<String>,
    mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum WrittenMetric {
    AllMetrics,
    RequestCount,
    RequestDuration,
    RequestSize,
    ResponseSize,
    TcpOpenedConnections,
    TcpClosedConnections,
    TcpSentBytes,
    TcpReceivedBytes,
    GrpcRequestMessages,
    GrpcResponseMessages,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenTag {
    operation: Operation,
    value: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Operation {
    #[default]
    Upsert,
    Remove,
}

/// What an entry says; nothing where it cannot be read. An override of which anything is not understood has no effect at all: half of it
/// would count something else than was meant.
pub(super) fn read(
    at: &str,
    written: Value,
    providers: &Providers,
    texts: &mut Vec<String>,
    notes: &mut Vec<String>,
) -> Option<Said> {
    let written: Written = match serde_json::from_value(written) {
        Ok(written) => written,
        Err(error) => {
            texts.push(format!("{at}: {error}: the entry has no effect"));
            return None;
        }
    };
    let is_ours = |name: &str| name == OF_ISTIO || providers.metrics.contains(name);
    let has_effect = written.providers.is_empty() || written.providers.iter().any(|named| is_ours(&named.name));
    let rest = if has_effect { "" } else { ": the entry has no effect" };
    for (index, named) in written.providers.iter().enumerate() {
        if !is_ours(&named.name) {
            let name = &named.name;
            texts.push(format!("{at}.providers[{index}]: {name:?} is told of no metrics, only prometheus is{rest}"));
        }
    }
    if written.reporting_interval.is_some() {
        texts.push(format!("{at}.reportingInterval: has no effect, as connections are counted when they end"));
    }
    let mut overrides = Vec::new();
    for (index, written) in written.overrides.into_iter().enumerate() {
        let at = format!("{at}.overrides[{index}]");
        match serde_json::from_value::<WrittenOverride>(written) {
            // A waypoint is on the server's side of a request, as with Istio.
            Ok(written) if written.r#match.mode == Mode::Client => {
                texts.push(format!("{at}.match.mode: CLIENT has no effect, as waypoints count at the server's side"));
            }
            Ok(written) => overrides.extend(one(&at, written, texts, notes)),
            Err(error) => texts.push(format!("{at}: {error}: the override has no effect")),
        }
    }
    Some(Said { is_ours: (!written.providers.is_empty()).then_some(has_effect), overrides })
}

fn one(at: &str, written: WrittenOverride, texts: &mut Vec<String>, notes: &mut Vec<String>) -> Option<Override> {
    let before = texts.len();
    let mut wrong =
        |field: &str, problem: &str| texts.push(format!("{at}.{field}: {problem}: the override has no effect"));
    let metrics = match selected(&written.r#match) {
        Ok(metrics) => metrics,
        Err((field, problem)) => {
            wrong(&format!("match.{field}"), &problem);
            Vec::new()
        }
    };
    let mut labels = BTreeMap::new();
    for (name, tag) in written.tag_overrides {
        let field = format!("tagOverrides[{name}]");
        if !is_label(&name) {
            wrong(&field, "is no name of a label");
        }
        let value = match (tag.operation, tag.value.is_empty()) {
            (Operation::Remove, true) => None,
            (Operation::Remove, false) => {
                wrong(&format!("{field}.value"), "is not for REMOVE");
                None
            }
            (Operation::Upsert, true) => {
                wrong(&format!("{field}.value"), "is missing");
                None
            }
            (Operation::Upsert, false) => {
                if let Err(error) = Expression::label(&tag.value) {
                    wrong(&format!("{field}.value"), &error.to_string());
                }
                Some(tag.value)
            }
        };
        labels.insert(name, value);
    }
    if texts.len() > before {
        return None;
    }
    let is_named = written.r#match.metric.is_some_and(|metric| metric != WrittenMetric::AllMetrics)
        || written.r#match.custom_metric.is_some();
    if is_named && metrics.iter().all(|metric| metric.is_of_connections()) {
        notes.push(format!("{at}.match: holds at waypoints; node proxies count connections as usual"));
    }
    Some(Override { metrics, is_off: written.disabled, labels })
}

/// The metrics that are meant, or which field cannot be used and why.
fn selected(selector: &Selector) -> Result<Vec<Metric>, (&'static str, String)> {
    if let Some(name) = &selector.custom_metric {
        if selector.metric.is_some() {
            return Err(("customMetric", "excludes metric".to_owned()));
        }
        let known = METRICS.into_iter().find(|metric| metric.name() == name);
        return known
            .map(|metric| vec![metric])
            .ok_or_else(|| ("customMetric", format!("there is no metric {name:?}")));
    }
    Ok(match selector.metric {
        None | Some(WrittenMetric::AllMetrics) => METRICS.to_vec(),
        Some(WrittenMetric::RequestCount) => vec![Metric::RequestCount],
        Some(WrittenMetric::RequestDuration) => vec![Metric::RequestDuration],
        Some(WrittenMetric::RequestSize) => vec![Metric::RequestSize],
        Some(WrittenMetric::ResponseSize) => vec![Metric::ResponseSize],
        Some(WrittenMetric::TcpOpenedConnections) => vec![Metric::TcpOpenedConnections],
        Some(WrittenMetric::TcpClosedConnections) => vec![Metric::TcpClosedConnections],
        Some(WrittenMetric::TcpSentBytes) => vec![Metric::TcpSentBytes],
        Some(WrittenMetric::TcpReceivedBytes) => vec![Metric::TcpReceivedBytes],
        Some(WrittenMetric::GrpcRequestMessages | WrittenMetric::GrpcResponseMessages) => {
            return Err(("metric", "messages of gRPC are not counted".to_owned()));
        }
    })
}

/// Prometheus's names of labels, but for those that it or a histogram keeps for itself.
fn is_label(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    begins && name.bytes().all(is_part) && !name.starts_with("__") && !matches!(name, "le" | "quantile")
}

/// What is counted otherwise than usual, as these places say, the most general first: the later word on a metric counts, and on each of
/// its labels. An entry that names no providers is for those of the one before it.
pub(super) fn put_together<'a>(levels: impl Iterator<Item = &'a [Said]>) -> Option<Counted> {
    let mut counted = Counted::new();
    let mut is_ours = true;
    for said in levels.flatten() {
        is_ours = said.is_ours.unwrap_or(is_ours);
        let overrides = said.overrides.iter().filter(|_| is_ours);
        for (metric, said) in overrides.flat_map(|it| it.metrics.iter().map(move |metric| (metric, it))) {
            let change = counted.entry(*metric).or_default();
            change.is_off = said.is_off.unwrap_or(change.is_off);
            change.labels.extend(said.labels.clone());
        }
    }
    counted.retain(|_, change| *change != Change::default());
    (!counted.is_empty()).then_some(counted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::mesh;
    use super::*;

    const MESH: &str = "extensionProviders: [{name: prom, prometheus: {}}, {name: other, stackdriver: {}}]\n";

    fn said(entries: &Value, texts: &mut Vec<String>) -> Vec<Said> {
        let providers = mesh::read(MESH).unwrap().providers;
        let entries = entries.as_array().unwrap().clone();
        entries
            .into_iter()
            .filter_map(|entry| read("spec.metrics[0]", entry, &providers, texts, &mut Vec::new()))
            .collect()
    }

    /// What is counted otherwise, one word for each: `-name` is off, `name-label` lacks one, `name+label=value` has one.
    fn counted(levels: &[Value]) -> Vec<String> {
        let levels: Vec<Vec<Said>> = levels.iter().map(|level| said(level, &mut Vec::new())).collect();
        let mut words = Vec::new();
        for (metric, change) in put_together(levels.iter().map(Vec::as_slice)).unwrap_or_default() {
            let name = metric.name();
            words.extend(change.is_off.then(|| format!("-{name}")));
            words.extend(change.labels.iter().map(|(label, value)| match value {
                Some(value) => format!("{name}+{label}={value}"),
                None => format!("{name}-{label}"),
            }));
        }
        words
    }

    fn of(metric: &str, more: Value) -> Value {
        let mut entry = json!({"match": {"metric": metric}});
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([{"overrides": [entry]}])
    }

    #[test]
    fn places_are_put_together_as_with_istio() {
        let tag = |name: &str, value: &str| json!({"tagOverrides": {name: {"value": value}}});
        let without = |name: &str| json!({"tagOverrides": {name: {"operation": "REMOVE"}}});
        let (off, on) = (json!({"disabled": true}), json!({"disabled": false}));
        let count = "REQUEST_COUNT";
        let rows: [(Vec<Value>, &[&str]); 15] = [
            (vec![], &[]),
            (vec![json!([{}])], &[]),
            (vec![json!([{"overrides": [{}]}])], &[]),
            (vec![of(count, off.clone())], &["-requests_total"]),
            (vec![of(count, off.clone()), of(count, on.clone())], &[]),
            (vec![of(count, off.clone()), of(count, json!({}))], &["-requests_total"]),
            (
                vec![of("ALL_METRICS", off.clone()), of(count, on)],
                &[
                    "-request_duration_milliseconds",
                    "-request_bytes",
                    "-response_bytes",
                    "-tcp_connections_opened_total",
                    "-tcp_connections_closed_total",
                    "-tcp_sent_bytes_total",
                    "-tcp_received_bytes_total",
                ],
            ),
            (vec![of(count, tag("host", "request.host"))], &["requests_total+host=request.host"]),
            (vec![of(count, tag("host", "request.host")), of(count, tag("host", "'a'"))], &["requests_total+host='a'"]),
            (vec![of(count, tag("a", "'a'")), of(count, without("b"))], &["requests_total+a='a'", "requests_total-b"]),
            (vec![of(count, tag("a", "'a'")), of(count, without("a"))], &["requests_total-a"]),
            (vec![json!([{"overrides": [{"match": {"metric": count, "mode": "CLIENT"}, "disabled": true}]}])], &[]),
            (
                vec![json!([{"overrides": [{"match": {"metric": count, "mode": "SERVER"}, "disabled": true}]}])],
                &["-requests_total"],
            ),
            (vec![json!([{"providers": [{"name": "other"}], "overrides": [{"disabled": true}]}])], &[]),
            (
                vec![json!([{"providers": [{"name": "other"}, {"name": "prom"}], "overrides": [
                    {"match": {"customMetric": "response_bytes"}, "disabled": true},
                ]}])],
                &["-response_bytes"],
            ),
        ];
        for (levels, expected) in rows {
            assert_eq!(counted(&levels), expected, "{levels:?}");
        }
    }

    #[test]
    fn an_override_that_is_not_understood_has_no_effect_at_all_and_says_why() {
        let tag = |name: &str, tag: Value| json!({"disabled": true, "tagOverrides": {name: tag}});
        let rows = [
            (tag("a", json!({"value": "request.hots"})), "tagOverrides[a].value: \"request.hots\" is not known"),
            (tag("a", json!({})), "tagOverrides[a].value: is missing"),
            (tag("a", json!({"operation": "REMOVE", "value": "'a'"})), "tagOverrides[a].value: is not for REMOVE"),
            (tag("a-b", json!({"value": "'a'"})), "tagOverrides[a-b]: is no name of a label"),
            (tag("le", json!({"value": "'a'"})), "tagOverrides[le]: is no name of a label"),
            (tag("__a", json!({"operation": "REMOVE"})), "tagOverrides[__a]: is no name of a label"),
            (json!({"match": {"customMetric": "mine"}}), "match.customMetric: there is no metric \"mine\""),
            (json!({"match": {"metric": "GRPC_REQUEST_MESSAGES"}}), "match.metric: messages of gRPC are not counted"),
            (json!({"match": {"metric": "REQUEST_COUNT", "customMetric": "a"}}), "match.customMetric: excludes metric"),
        ];
        for (written, why) in rows {
            let mut texts = Vec::new();
            let fine = json!({"match": {"metric": "REQUEST_SIZE"}, "disabled": true});
            let said = said(&json!([{"overrides": [written, fine]}]), &mut texts);
            let expected = format!("spec.metrics[0].overrides[0].{why}");
            let [text] = texts.as_slice() else { panic!("{texts:?}") };
            assert!(text.starts_with(&expected) && text.ends_with(": the override has no effect"), "{text}");
            let left = put_together([said.as_slice()].into_iter()).unwrap();
            assert_eq!(left.keys().collect::<Vec<_>>(), [&Metric::RequestSize], "the next one has its effect");
        }
    }

    #[test]
    fn an_entry_without_providers_is_for_those_before_it() {
        let off = of("REQUEST_COUNT", json!({"disabled": true}));
        let other = json!([{"providers": [{"name": "other"}]}]);
        let ours = json!([{"providers": [{"name": "prom"}]}]);
        assert!(counted(&[other.clone(), off.clone()]).is_empty());
        assert_eq!(counted(&[other, ours, off]), ["-requests_total"]);
    }

    #[test]
    fn what_is_good_to_know_is_no_fault() {
        let (mut texts, mut notes) = (Vec::new(), Vec::new());
        let written = json!({"overrides": [{"match": {"metric": "TCP_SENT_BYTES"}, "disabled": true}]});
        read("spec.metrics[0]", written, &Providers::default(), &mut texts, &mut notes).unwrap();
        assert!(texts.is_empty() && notes.len() == 1 && notes[0].contains("holds at waypoints"), "{texts:?} {notes:?}");
    }

    #[test]
    fn what_holds_otherwise_than_written_is_said() {
        let rows = [
            (json!({"reportingInterval": "5s"}), "reportingInterval: has no effect"),
            (
                json!({"providers": [{"name": "other"}]}),
                "providers[0]: \"other\" is told of no metrics, only prometheus is: the entry",
            ),
            (
                json!({"providers": [{"name": "prometheus"}, {"name": "other"}]}),
                "providers[1]: \"other\" is told of no",
            ),
            (json!({"overrides": [{"match": {"mode": "CLIENT"}}]}), "overrides[0].match.mode: CLIENT has no effect"),
            (json!({"overrides": [{"match": {"metric": "NONE_SUCH"}}]}), "overrides[0]: unknown variant"),
        ];
        for (written, why) in rows {
            let mut texts = Vec::new();
            said(&json!([written]), &mut texts);
            assert!(texts.len() == 1 && texts[0].starts_with(&format!("spec.metrics[0].{why}")), "{texts:?}");
        }
        let mut texts = Vec::new();
        said(
            &json!([{"providers": [{"name": "prom"}], "overrides": [{"match": {"metric": "ALL_METRICS"}}]}]),
            &mut texts,
        );
        assert!(texts.is_empty(), "{texts:?}");
    }
}
