//! Telemetries: of which requests waypoints tell whom what, and what they count (api-surface A5). One at each place counts, and the more
//! special place before the more general one, field by field.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_core::source::istio::{TargetReference, WorkloadSelector};
use fairway_core::source::unserved::Unserved;
use fairway_core::source::{ObjectKey, Objects};
use serde::Deserialize;
use serde_json::Value;

use super::authz::Place;
use super::authz::read::place;
use super::model::Target;
use super::providers::Providers;
use super::rules::text;
use crate::age::by_age;
use crate::translate::Settings;

mod logging;
mod metrics;

pub use logging::{Logged, Logger};
pub use metrics::{Change, Counted};

/// Shares are told in hundredths of a percent (the CRD's steps).
const WHOLE: f64 = 100.0;

/// All of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Telemetries {
    places: BTreeMap<Place, Said>,
    /// Whose each of these is.
    owners: BTreeMap<Place, ObjectKey>,
    /// What of each has no effect, or another one.
    pub findings: BTreeMap<ObjectKey, Findings>,
    /// Who is told.
    pub providers: Arc<Providers>,
    mesh: Mesh,
}

/// What is said of one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Version of the object.
    pub generation: Option<i64>,
    /// Fields, and what is to be said of them.
    pub texts: Vec<String>,
    /// What one should know of what does have its effect.
    pub notes: Vec<String>,
}

/// Names of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mesh {
    root_namespace: String,
    cluster: String,
    trust_domain: String,
}

/// What one place says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Said {
    tracing: Tracing,
    logging: Vec<logging::Said>,
    metrics: Vec<metrics::Said>,
}

/// What one place says of traces; what is none is as the more general place says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Tracing {
    provider: Option<String>,
    percent: Option<f64>,
    is_disabled: Option<bool>,
    tags: Option<BTreeMap<String, Tag>>,
    has_names: Option<bool>,
}

/// What a span says besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    /// This.
    Fixed(String),
    /// A header, or this where it is missing.
    Header(String, String),
}

/// What a waypoint does with traces before a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    /// Who the waypoint is to the collector.
    pub service: String,
    /// The collector.
    pub collector: Target,
    /// Of a hundred requests whose client has not decided.
    pub percent: f64,
    /// What spans say besides.
    pub tags: BTreeMap<String, Tag>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Spec {
    selector: Option<WorkloadSelector>,
    target_ref: Option<TargetReference>,
    target_refs: Vec<TargetReference>,
    tracing: Vec<Written>,
    // Each is read by itself: one that is not understood costs neither traces nor logs.
    metrics: Vec<Value>,
    access_logging: Vec<logging::Written>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Written {
    r#match: Match,
    providers: Vec<Named>,
    random_sampling_percentage: Option<f64>,
    disable_span_reporting: Option<bool>,
    custom_tags: Option<BTreeMap<String, WrittenTag>>,
    enable_istio_tags: Option<bool>,
    // A request is sampled for itself in any case.
    #[serde(rename = "useRequestIdForTraceSampling")]
    _by_request_id: Option<bool>,
    disable_context_propagation: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Match {
    mode: Mode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Mode {
    #[default]
    ClientAndServer,
    Client,
    Server,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenTag {
    literal: Option<Literal>,
    header: Option<Header>,
    environment: Option<Value>,
    formatter: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Literal {
    value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Header {
    name: String,
    default_value: String,
}

/// Reads all of them.
#[must_use]
pub fn read(objects: &Objects, settings: &Settings) -> Telemetries {
    let mut all = Telemetries {
        providers: Arc::clone(&settings.mesh.providers),
        mesh: Mesh {
            root_namespace: settings.root_namespace.clone(),
            cluster: settings.cluster_id.clone(),
            trust_domain: settings.trust_domain.clone(),
        },
        ..Telemetries::default()
    };
    for (key, object) in by_age(objects.telemetries.iter(), |object| &object.metadata) {
        let mut found = Findings { generation: object.metadata.generation, ..Findings::default() };
        if let Some((places, said)) = one(key, object, settings, &mut found) {
            for place in places {
                if let Some(owner) = all.owners.get(&place) {
                    found.texts.push(format!("spec: has no effect, as {owner} is older and there, too"));
                    continue;
                }
                all.owners.insert(place.clone(), key.clone());
                all.places.insert(place, said.clone());
            }
        }
        all.findings.insert(key.clone(), found);
    }
    all
}

/// Where an object is, and what it says; nothing where it cannot be read.
fn one(key: &ObjectKey, object: &Unserved, settings: &Settings, found: &mut Findings) -> Option<(Vec<Place>, Said)> {
    let Findings { texts, notes, .. } = found;
    let spec = if object.spec.is_null() { Value::Object(serde_json::Map::new()) } else { object.spec.clone() };
    let spec: Spec = match serde_json::from_value(spec) {
        Ok(spec) => spec,
        Err(error) => {
            texts.push(format!("spec: {error}: it has no effect until this is fixed"));
            return None;
        }
    };
    let mut places = Vec::new();
    let targets: Vec<&TargetReference> = spec.target_ref.iter().chain(&spec.target_refs).collect();
    for (index, target) in targets.iter().enumerate() {
        match place(target, &key.namespace, &settings.root_namespace) {
            Ok(place) => places.push(place),
            Err(message) => texts.push(format!("spec.targetRefs[{index}]: {message}")),
        }
    }
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty());
    if selects {
        texts.push("spec.selector: has no effect, as no waypoint is picked by labels; use targetRefs".to_owned());
    } else if targets.is_empty() {
        places.push(Place::Namespace(key.namespace.clone()));
    }
    let mut tracing = Tracing::default();
    for (index, written) in spec.tracing.into_iter().enumerate() {
        let at = format!("spec.tracing[{index}]");
        // A waypoint is on the server's side of a request, as with Istio.
        if written.r#match.mode != Mode::Client {
            tracing.read(&at, written, &settings.mesh.providers, texts);
        }
    }
    let providers = &settings.mesh.providers;
    let logging = spec.access_logging.into_iter().enumerate().filter_map(|(index, written)| {
        logging::read(&format!("spec.accessLogging[{index}]"), written, providers, texts)
    });
    let logging = logging.collect();
    let metrics = spec.metrics.into_iter().enumerate().filter_map(|(index, written)| {
        metrics::read(&format!("spec.metrics[{index}]"), written, providers, texts, notes)
    });
    let metrics = metrics.collect();
    Some((places, Said { tracing, logging, metrics }))
}

impl Tracing {
    fn read(&mut self, at: &str, written: Written, providers: &Providers, texts: &mut Vec<String>) {
        if let Some(first) = written.providers.first() {
            match providers.collectors.get(&first.name) {
                Some(Ok(_)) => {}
                Some(Err(problem)) => texts.push(format!("{at}.providers[0]: {:?}: {problem}", first.name)),
                None => texts.push(format!(
                    "{at}.providers[0]: the mesh configuration has no collector {:?} (opentelemetry)",
                    first.name
                )),
            }
            self.provider = Some(first.name.clone());
        }
        match written.random_sampling_percentage {
            Some(percent) if (0.0..=WHOLE).contains(&percent) => self.percent = Some(percent),
            Some(_) => texts.push(format!("{at}.randomSamplingPercentage: must be from 0 to 100; it has no effect")),
            None => {}
        }
        self.is_disabled = written.disable_span_reporting.or(self.is_disabled);
        self.has_names = written.enable_istio_tags.or(self.has_names);
        if written.disable_context_propagation == Some(true) {
            texts.push(format!("{at}.disableContextPropagation: is not supported; set disableSpanReporting"));
        }
        let Some(written) = written.custom_tags else { return };
        let mut tags = BTreeMap::new();
        for (name, tag) in written {
            let at = format!("{at}.customTags[{name}]");
            match (tag.literal, tag.header, tag.environment.is_some() || tag.formatter.is_some()) {
                (Some(literal), None, false) => drop(tags.insert(name, Tag::Fixed(literal.value))),
                (None, Some(header), false) if text::is_header_name(&header.name) => {
                    tags.insert(name, Tag::Header(header.name.to_ascii_lowercase(), header.default_value));
                }
                (None, Some(_), false) => texts.push(format!("{at}.header.name: is no name of a header")),
                _ => texts.push(format!("{at}: must be either literal or header; it has no effect")),
            }
        }
        self.tags = Some(tags);
    }

    /// What `more` says, and otherwise this.
    fn with(self, more: &Self) -> Self {
        Self {
            provider: more.provider.clone().or(self.provider),
            percent: more.percent.or(self.percent),
            is_disabled: more.is_disabled.or(self.is_disabled),
            tags: more.tags.clone().or(self.tags),
            has_names: more.has_names.or(self.has_names),
        }
    }
}

impl Telemetries {
    /// Says of each that is at a place where nobody enforces it why that is.
    pub(super) fn note_missed(&mut self, misses: impl Fn(&Place) -> Option<String>) {
        for (place, owner) in &self.owners {
            if let (Some(message), Some(findings)) = (misses(place), self.findings.get_mut(owner)) {
                findings.texts.push(format!("spec.targetRefs: {message}: it has no effect there"));
            }
        }
    }

    /// What is said for these places, the most general first.
    fn said<'a>(&'a self, places: &'a [Place]) -> impl Iterator<Item = &'a Said> {
        let root = Place::Namespace(self.mesh.root_namespace.clone());
        let of_root = self.places.get(&root);
        // A waypoint of the root namespace is not told twice, or the general word would come after a more special one.
        let others = places.iter().filter(move |place| **place != root);
        of_root.into_iter().chain(others.filter_map(|place| self.places.get(place)))
    }

    /// Whom the waypoint `name` of `namespace` tells of requests that have ended, as these places say, the most general first;
    /// nothing where nobody says anything.
    pub(super) fn logged(&self, (namespace, name): (&str, &str), places: &[Place]) -> Option<Logged> {
        let levels = self.said(places).map(|said| said.logging.as_slice());
        logging::put_together(format!("{name}.{namespace}"), levels, &self.providers)
    }

    /// What waypoints count otherwise than usual, as these places say, the most general first; nothing where nobody says anything.
    pub(super) fn counted(&self, places: &[Place]) -> Option<Counted> {
        metrics::put_together(self.said(places).map(|said| said.metrics.as_slice()))
    }

    /// What the waypoint `name` of `namespace` does with traces, as these places say, the most general first; nothing where
    /// nobody is told.
    pub(super) fn traced(&self, (namespace, name): (&str, &str), places: &[Place]) -> Option<Traced> {
        let mut said = self.said(places).map(|said| &said.tracing).peekable();
        said.peek()?;
        let tracing = said.fold(Tracing::default(), Tracing::with);
        if tracing.is_disabled == Some(true) {
            return None;
        }
        let provider = tracing.provider.as_ref().or(self.providers.tracing.as_ref())?;
        let collector = self.providers.collectors.get(provider)?.as_ref().ok()?.clone();
        let mut tags = tracing.tags.unwrap_or_default();
        if tracing.has_names != Some(false) {
            let names = [
                ("istio.canonical_service", name),
                ("istio.namespace", namespace),
                ("istio.cluster_id", &self.mesh.cluster),
                ("istio.mesh_id", &self.mesh.trust_domain),
            ];
            for (key, value) in names {
                tags.entry(key.to_owned()).or_insert_with(|| Tag::Fixed(value.to_owned()));
            }
        }
        let service = format!("{name}.{namespace}");
        Some(Traced { service, collector, percent: tracing.percent.unwrap_or_default(), tags })
    }
}
