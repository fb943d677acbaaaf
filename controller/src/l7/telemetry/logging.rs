//! Whom a waypoint tells of requests that have ended, and of which: what several places say, put together as Istio does it.

use std::collections::{BTreeMap, BTreeSet};

use fairway_core::cel::Expression;
use serde::Deserialize;

use super::super::model::Target;
use super::super::providers::Providers;
use super::super::providers::logs::Sink;
use super::{Match, Mode, Named};

/// What Istio calls the log that it has without being told of one.
const OF_ISTIO: &str = "envoy";

/// What one entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Of whom; of all where none are named.
    providers: Vec<String>,
    is_disabled: Option<bool>,
    condition: Option<String>,
}

/// Whom a waypoint tells of requests, before a service: nobody where there are no loggers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Who the waypoint is to a collector.
    pub service: String,
    /// Each of them.
    pub loggers: Vec<Logger>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logger {
    /// Of which requests; none is all.
    pub condition: Option<String>,
    /// Who; none is the waypoint's own log.
    pub sink: Option<Sink>,
}

impl Logged {
    /// Where those are who are told.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        self.loggers.iter().filter_map(|logger| logger.sink.as_ref()?.target().cloned()).collect()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Written {
    r#match: Match,
    providers: Vec<Named>,
    disabled: Option<bool>,
    filter: Option<Filter>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Filter {
    expression: String,
}

/// What an entry says; nothing where it is not for waypoints, or anything of it is not understood: half of it could log more than
/// was meant.
pub(super) fn read(at: &str, written: Written, providers: &Providers, texts: &mut Vec<String>) -> Option<Said> {
    if written.r#match.mode == Mode::Client {
        return None;
    }
    let before = texts.len();
    for (index, provider) in written.providers.iter().enumerate() {
        if let Err(problem) = sink(&provider.name, providers) {
            texts.push(format!("{at}.providers[{index}]: {problem}: the entry has no effect"));
        }
    }
    let condition = written.filter.map(|filter| filter.expression).filter(|expression| !expression.is_empty());
    if let Some(Err(error)) = condition.as_deref().map(Expression::condition) {
        texts.push(format!("{at}.filter.expression: {error}: the entry has no effect"));
    }
    let providers = written.providers.into_iter().map(|provider| provider.name).collect();
    (texts.len() == before).then_some(Said { providers, is_disabled: written.disabled, condition })
}

/// Who is called so.
fn sink(name: &str, providers: &Providers) -> Result<Sink, String> {
    match providers.logs.get(name) {
        Some(Ok(sink)) => Ok(sink.clone()),
        Some(Err(problem)) => Err(format!("{name:?}: {problem}")),
        None if name == OF_ISTIO => Ok(Sink::usual_of_istio()),
        None => Err(format!("the mesh configuration has no access log {name:?} (envoyFileAccessLog, envoyOtelAls)")),
    }
}

/// What is told to whom, as these places say, the most general first; none where nobody says anything.
pub(super) fn put_together<'a>(
    service: String,
    levels: impl Iterator<Item = &'a [Said]>,
    providers: &Providers,
) -> Option<Logged> {
    let levels: Vec<&[Said]> = levels.filter(|level| !level.is_empty()).collect();
    if levels.is_empty() && providers.logging.is_empty() {
        return None;
    }
    // The last place that names anybody says who may be told at all; otherwise the mesh does, or it is our own log.
    let named = levels.iter().rev().map(|level| level.iter().flat_map(|said| &said.providers).collect::<BTreeSet<_>>());
    let named = named.into_iter().find(|named| !named.is_empty());
    let of_mesh = || providers.logging.iter().filter(|name| sink(name, providers).is_ok()).collect::<BTreeSet<_>>();
    let named = named.unwrap_or_else(of_mesh);
    let all: Vec<Option<&String>> = if named.is_empty() { vec![None] } else { named.into_iter().map(Some).collect() };
    let mut loggers: BTreeMap<Option<&String>, (bool, Option<&String>)> = BTreeMap::new();
    for name in all {
        let (mut is_disabled, mut condition) = (false, None);
        for said in levels.iter().copied().flatten() {
            if said.providers.is_empty() || name.is_some_and(|name| said.providers.contains(name)) {
                is_disabled = said.is_disabled.unwrap_or(is_disabled);
                condition = said.condition.as_ref().or(condition);
            }
        }
        loggers.insert(name, (is_disabled, condition));
    }
    if loggers.iter().eq([(&None, &(false, None))]) {
        return None;
    }
    let told = loggers.into_iter().filter(|(_, (is_disabled, _))| !is_disabled);
    let loggers = told.filter_map(|(name, (_, condition))| {
        let sink = name.map(|name| sink(name, providers)).transpose().ok()?;
        Some(Logger { condition: condition.cloned(), sink })
    });
    Some(Logged { service, loggers: loggers.collect() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::mesh;
    use super::*;

    const MESH: &str = "extensionProviders:\n\
        - {name: lines, envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: a}}}\n\
        - {name: files, envoyFileAccessLog: {path: /var/log/a}}\n\
        - {name: otel, envoyOtelAls: {service: logs.shop, port: 4317}}\n";

    fn said(entries: &Value, providers: &Providers, texts: &mut Vec<String>) -> Vec<Said> {
        let entries: Vec<Written> = serde_json::from_value(entries.clone()).unwrap();
        entries.into_iter().filter_map(|entry| read("spec.accessLogging[0]", entry, providers, texts)).collect()
    }

    /// Who is told, and of what, as these places say, after what the mesh says.
    fn told(of_mesh: &str, levels: &[Value]) -> Option<Vec<String>> {
        let providers = mesh::read(&format!("{of_mesh}{MESH}")).unwrap().providers;
        let levels: Vec<Vec<Said>> = levels.iter().map(|level| said(level, &providers, &mut Vec::new())).collect();
        let logged = put_together("way.shop".into(), levels.iter().map(Vec::as_slice), &providers)?;
        let shown = |logger: &Logger| {
            let sink = match &logger.sink {
                None => "own",
                Some(Sink::Collector { .. }) => "otel",
                Some(sink) if *sink == Sink::usual_of_istio() => "envoy",
                Some(_) => "lines",
            };
            logger.condition.as_ref().map_or_else(|| sink.to_owned(), |condition| format!("{sink} if {condition}"))
        };
        Some(logged.loggers.iter().map(shown).collect())
    }

    /// What the mesh says, what places say, and who is told.
    type Row = (&'static str, Vec<Value>, Option<&'static [&'static str]>);

    #[test]
    fn places_are_put_together_as_with_istio() {
        let (envoy, filter) = (json!([{"name": "envoy"}]), json!({"expression": "response.code >= 400"}));
        let both = json!([{"name": "lines"}, {"name": "otel"}]);
        let of_mesh = "defaultProviders: {accessLogging: [otel, unknown]}\n";
        let rows: [Row; 12] = [
            ("", vec![], None),
            ("", vec![json!([])], None),
            ("", vec![json!([{}])], None),
            ("", vec![json!([{"disabled": true}])], Some(&[])),
            ("", vec![json!([{"disabled": true}]), json!([{"disabled": false}])], None),
            ("", vec![json!([{"match": {"mode": "CLIENT"}, "disabled": true}])], None),
            ("", vec![json!([{"filter": filter}])], Some(&["own if response.code >= 400"])),
            (
                "",
                vec![json!([{"providers": envoy}]), json!([{"filter": filter}])],
                Some(&["envoy if response.code >= 400"]),
            ),
            (
                "",
                vec![json!([{"providers": envoy, "filter": filter}]), json!([{"providers": both}])],
                Some(&["lines", "otel"]),
            ),
            (
                "",
                vec![json!([{"providers": both}, {"providers": [{"name": "otel"}], "disabled": true}])],
                Some(&["lines"]),
            ),
            (of_mesh, vec![], Some(&["otel"])),
            (of_mesh, vec![json!([{"providers": envoy}])], Some(&["envoy"])),
        ];
        for (of_mesh, levels, expected) in rows {
            let found = told(of_mesh, &levels);
            let found = found.as_ref().map(|told| told.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(found.as_deref(), expected, "{levels:?}");
        }
    }

    #[test]
    fn an_entry_that_is_not_understood_has_no_effect_at_all_and_says_why() {
        let providers = mesh::read(MESH).unwrap().providers;
        for (entry, why) in [
            (
                json!({"filter": {"expression": "response.kode == 1"}, "disabled": true}),
                "filter.expression: \"response.kode\" is not known",
            ),
            (json!({"filter": {"expression": "response.code"}}), "filter.expression: is a number"),
            (
                json!({"providers": [{"name": "lines"}, {"name": "none"}]}),
                "providers[1]: the mesh configuration has no access log \"none\"",
            ),
            (json!({"providers": [{"name": "files"}]}), "providers[0]: \"files\": path must be"),
        ] {
            let mut texts = Vec::new();
            assert_eq!(said(&json!([entry]), &providers, &mut texts), []);
            assert!(texts.len() == 1 && texts[0].contains(why) && texts[0].contains("has no effect"), "{texts:?}");
        }
    }
}
