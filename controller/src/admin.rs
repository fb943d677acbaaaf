//! Pages for operators: readiness, metrics, what the manifests gave, who is in step.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_core::io::admin::{Reply, Router, StatusCode, json, text};
use fairway_core::source::UnknownKind;
use serde::Serialize;
use serde_json::{Value, json as value};
use tokio::sync::watch;

use crate::dump;
use crate::metrics::Metrics;
use crate::serve::clients::Clients;
use crate::state::Published;
use crate::translate::{Problem, Severity};

/// The pages.
#[must_use]
pub fn router(published: watch::Receiver<Arc<Published>>, clients: Clients, metrics: Metrics) -> Router {
    let latest = move |published: &watch::Receiver<Arc<Published>>| Arc::clone(&published.borrow());
    let (ready, sources, syncz, world) = (published.clone(), published.clone(), published.clone(), published);
    Router::new()
        .get("/ready", move |_| {
            let published = latest(&ready);
            async move { readiness(&published) }
        })
        .get("/metrics", move |_| {
            let metrics = metrics.clone();
            async move { text(StatusCode::OK, metrics.render()) }
        })
        .get("/debug/sources", move |_| {
            let published = latest(&sources);
            async move { json(&Sources::of(&published)) }
        })
        .get("/debug/syncz", move |_| {
            let generation = latest(&syncz).world.generation;
            let proxies = clients.list();
            async move { json(&value!({ "generation": generation, "proxies": proxies })) }
        })
        .get("/debug/world", move |_| {
            let published = latest(&world);
            async move { json(&dump_of(&published)) }
        })
}

fn readiness(published: &Published) -> Reply {
    if published.world.generation > 0 {
        text(StatusCode::OK, "ready\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "the directory of manifests is not there yet; see /debug/sources\n")
    }
}

fn dump_of(published: &Published) -> Value {
    let mut dumped = dump::desired(published.desired());
    if let Some(object) = dumped.as_object_mut() {
        object.insert("generation".to_owned(), published.world.generation.into());
    }
    dumped
}

/// What the manifests gave and what is wrong with them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Sources<'a> {
    objects: BTreeMap<&'static str, usize>,
    unknown_kinds: &'a [UnknownKind],
    errors: Vec<Entry<'a>>,
    /// In force, but not word for word.
    warnings: Vec<Entry<'a>>,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    file: &'a str,
    line: Option<u32>,
    column: Option<u32>,
    field: Option<&'a str>,
    object: Option<String>,
    message: &'a str,
}

impl<'a> Sources<'a> {
    fn of(published: &'a Published) -> Self {
        let loaded = &published.loaded;
        let from_files = loaded.errors.iter().map(|error| Entry {
            file: &error.file,
            line: error.line,
            column: error.column,
            field: error.field.as_deref(),
            object: error.object.as_ref().map(ToString::to_string),
            message: &error.message,
        });
        let problems = |severity| {
            published.problems.iter().filter(move |problem| problem.severity == severity).map(|it| entry(published, it))
        };
        Self {
            objects: loaded.objects.counts().into_iter().map(|(kind, count)| (kind.as_str(), count)).collect(),
            unknown_kinds: &loaded.objects.unknown,
            errors: from_files.chain(problems(Severity::Error)).collect(),
            warnings: problems(Severity::Warning).collect(),
        }
    }
}

fn entry<'a>(published: &'a Published, problem: &'a Problem) -> Entry<'a> {
    let known = published.loaded.errors.iter().find(|error| error.object.as_ref() == Some(&problem.object));
    Entry {
        file: known.map(|error| error.file.as_str()).unwrap_or_default(),
        line: None,
        column: None,
        field: (!problem.field.is_empty()).then_some(problem.field.as_str()),
        object: Some(problem.object.to_string()),
        message: &problem.message,
    }
}
