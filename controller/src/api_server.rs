//! Writing to the API server: as whom, how long an answer may take, what a refusal means, and watching what was written.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;

/// Name of the controller among the owners of fields.
pub(crate) const MANAGER: &str = "fairway-controller";
/// The same for fields that pass to somebody else: without an owner in between they would fall back to their defaults.
const HANDING_OVER: &str = "fairway-controller-handing-over";
/// For an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a watch that failed.
const RETRY: Duration = Duration::from_secs(2);

/// Namespace and name; without a namespace where that is empty.
pub(crate) type Name = (String, String);

/// Why a request gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Server(Box<kube::Error>),
    #[error("the API server did not answer within {0:?}")]
    Silent(Duration),
}

/// The answer, if it comes in time.
pub(crate) async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Failure::Server(Box::new(error))),
        Err(_) => Err(Failure::Silent(PATIENCE)),
    }
}

/// The server's HTTP status, if it said one.
fn code(failure: &Failure) -> Option<u16> {
    match failure {
        Failure::Server(error) => match error.as_ref() {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        },
        Failure::Silent(_) => None,
    }
}

/// Whether there is no such object.
pub(crate) fn is_gone(failure: &Failure) -> bool {
    code(failure) == Some(404)
}

/// What is gone need not be changed.
pub(crate) fn unless_gone(failure: Failure) -> Result<(), String> {
    if is_gone(&failure) { Ok(()) } else { Err(failure.to_string()) }
}

/// Whether somebody else was faster: has the field, the name, or written in between.
pub(crate) fn is_conflict(failure: &Failure) -> bool {
    code(failure) == Some(409)
}

/// Server-side application that holds what is there for who is to have it.
pub(crate) fn handing_over() -> PatchParams {
    PatchParams::apply(HANDING_OVER)
}

/// Server-side application in the controller's name.
pub(crate) fn application() -> PatchParams {
    PatchParams::apply(MANAGER).force()
}

/// How the API calls a kind.
pub(crate) fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// Says `status` of an object, which is without a namespace where that is empty; one that is gone needs none.
pub(crate) async fn say(
    client: &kube::Client,
    resource: &ApiResource,
    namespace: &str,
    name: &str,
    status: &Value,
) -> Result<(), String> {
    let mut partial = json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, "status": status});
    let api: Api<DynamicObject> = if namespace.is_empty() {
        Api::all_with(client.clone(), resource)
    } else {
        partial["metadata"]["namespace"] = json!(namespace);
        Api::namespaced_with(client.clone(), namespace, resource)
    };
    let patch = Patch::Apply(&partial);
    within(api.patch_status(name, &application(), &patch)).await.map(drop).or_else(unless_gone)
}

/// Tells `take` what there is and what becomes of it, until it breaks off. `what` is for the log.
pub(crate) async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    what: &str,
    mut take: impl FnMut(Event<K>) -> ControlFlow<()>,
) where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut events = pin!(watcher(api, config));
    let mut complained = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                complained = false;
                if take(event).is_break() {
                    return;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::info!(%error, "cannot watch {what}, and writes none meanwhile");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// What fails, as it was logged: once, and when it does not any more.
#[derive(Debug)]
pub(crate) struct Complaints {
    what: &'static str,
    failing: BTreeMap<Name, String>,
}

impl Complaints {
    /// None yet about any `what`.
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, failing: BTreeMap::new() }
    }

    /// Logs what is news; whether it went well.
    pub(crate) fn note(&mut self, name: Name, result: Result<(), String>) -> bool {
        let what = self.what;
        match result {
            Ok(()) => {
                if self.failing.remove(&name).is_some() {
                    tracing::info!(namespace = name.0, name = name.1, "the {what} is as it should be");
                }
                true
            }
            Err(error) => {
                if self.failing.get(&name) != Some(&error) {
                    tracing::warn!(namespace = name.0, name = name.1, "the {what} is not as it should be: {error}");
                }
                self.failing.insert(name, error);
                false
            }
        }
    }

    /// Forgets all but these.
    pub(crate) fn forget_but(&mut self, is_present: impl Fn(&Name) -> bool) {
        self.failing.retain(|name, _| is_present(name));
    }
}
