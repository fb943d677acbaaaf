//! Pages for operators: readiness, metrics, what the manifests gave, who is in step.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_core::io::admin::{Reply, Router, StatusCode, json, text};
use fairway_core::io::metrics::page::page;
use fairway_core::source::UnknownKind;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;

use crate::dump;
use crate::metrics::Metrics;
use crate::serve::clients::{Client, Clients};
use crate::state::Published;
use crate::translate::{Problem, Severity};

mod access;

pub use access::Access;

/// The pages.
#[must_use]
pub fn router(
    published: watch::Receiver<Arc<Published>>,
    clients: Clients,
    metrics: Metrics,
    access: &Access,
) -> Router {
    let latest = move |published: &watch::Receiver<Arc<Published>>| Arc::clone(&published.borrow());
    let (ready, sources, syncz, world) = (published.clone(), published.clone(), published.clone(), published);
    Router::new()
        .get("/ready", move |_| {
            let published = latest(&ready);
            async move { readiness(&published) }
        })
        .get("/metrics", move |request| page(metrics.registry().clone(), request))
        .get(
            "/debug/sources",
            access.guard(move || {
                let published = latest(&sources);
                async move { json(&Sources::of(&published)) }
            }),
        )
        .get(
            "/debug/syncz",
            access.guard(move || {
                let progress = Progress { generation: latest(&syncz).world.generation, proxies: clients.list() };
                async move { json(&progress) }
            }),
        )
        .get(
            "/debug/world",
            access.guard(move || {
                let published = latest(&world);
                async move { json(&dump_of(&published)) }
            }),
        )
}

fn readiness(published: &Published) -> Reply {
    if published.world.generation > 0 {
        text(StatusCode::OK, "ready\n")
    } else {
        text(
            StatusCode::SERVICE_UNAVAILABLE,
            "not all objects could be read yet, so nothing is served; see /debug/sources\n",
        )
    }
}

fn dump_of(published: &Published) -> Value {
    let mut dumped = dump::desired(published.desired());
    if let Some(object) = dumped.as_object_mut() {
        object.insert("generation".to_owned(), published.world.generation.into());
    }
    dumped
}

/// `/debug/sources`: what the manifests gave and what is wrong with them.
///
/// ```json
/// {
///   "objects": {"Namespace": 1, "Pod": 4, "Service": 0, "AuthorizationPolicy": 1},
///   "unknownKinds": [{"file": "shop.yaml", "apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}],
///   "meshConfigError": null,
///   "errors": [{
///     "file": "shop.yaml", "line": 7, "column": 11, "field": "spec.rules[0].to[0].operation.ports[0]",
///     "object": "AuthorizationPolicy shop/deny", "message": "..."
///   }],
///   "warnings": []
/// }
/// ```
///
/// `objects` names every kind that is read. `meshConfigError` is why the file of the mesh configuration, as it is now, does not count. Entries of `warnings` look like those of `errors`; they are in force, but not word for word. `file` is relative to the
/// directory of manifests and empty when the fault is in the state directory; `line`, `column`, `field` and `object` are null
/// when they are not known.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Sources<'a> {
    objects: BTreeMap<&'static str, usize>,
    unknown_kinds: &'a [UnknownKind],
    mesh_config_error: Option<&'a str>,
    errors: Vec<Entry<'a>>,
    warnings: Vec<Entry<'a>>,
}

#[derive(Debug, Default, Serialize)]
struct Entry<'a> {
    file: &'a str,
    line: Option<u32>,
    column: Option<u32>,
    field: Option<&'a str>,
    object: Option<String>,
    message: &'a str,
}

/// In place of a file: where what is wrong with the mesh configuration is.
const MESH_CONFIG: &str = "mesh configuration";

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
        let from_state = published.trouble.iter().map(|trouble| Entry { message: trouble, ..Entry::default() });
        let problems =
            |severity| published.problems.iter().filter(move |problem| problem.severity == severity).map(entry);
        let odd = published.mesh.odd.iter();
        let odd = odd.map(|message| Entry { file: MESH_CONFIG, message, ..Entry::default() });
        Self {
            objects: loaded.objects.counts().into_iter().map(|(kind, count)| (kind.as_str(), count)).collect(),
            unknown_kinds: &loaded.objects.unknown,
            mesh_config_error: published.mesh_trouble.as_deref(),
            errors: from_state.chain(from_files).chain(problems(Severity::Error)).collect(),
            warnings: odd.chain(problems(Severity::Warning)).collect(),
        }
    }
}

fn entry(problem: &Problem) -> Entry<'_> {
    let location = problem.location.as_ref();
    Entry {
        file: location.map_or("", |location| &location.file),
        line: location.and_then(|location| location.line),
        column: location.and_then(|location| location.column),
        field: (!problem.field.is_empty()).then_some(problem.field.as_str()),
        object: Some(problem.object.to_string()),
        message: &problem.message,
    }
}

/// `/debug/syncz`: who is connected and how far each is, in generations of the world.
///
/// ```json
/// {
///   "generation": 12,
///   "proxies": [{
///     "id": "ztunnel~10.99.0.11~ztunnel-node-1.fairway-system~fairway-system.svc.cluster.local",
///     "node": "node-1", "version": "0.1.0", "connectedSince": "2026-01-02T03:04:05Z",
///     "types": {"istio.workload.Address": {"sent": 12, "acked": 11, "nacked": null}}
///   }]
/// }
/// ```
///
/// `nacked` is the message of the last response of that type if it was refused, and null again once one is acknowledged.
#[derive(Debug, Serialize)]
struct Progress {
    generation: u64,
    proxies: Vec<Client>,
}
