//! The mesh's roots in a config map of every namespace, for those who are to trust it: written by the replica that leads,
//! repaired on drift, and never taken from others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fairway_core::io::drain::Drain;
use fairway_core::source::Loaded;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch};
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::api_server::{self, Complaints, application, within};
use crate::ca::signer::Current;
use crate::state::Published;
use crate::status::lease::Leadership;

/// Key of the certificates in the config map, as Istio's clients look for it.
const KEY: &str = "root-cert.pem";
/// Label by which we know what is ours.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "fairway-controller");
/// Time changes are gathered: namespaces come in crowds.
const GATHER: Duration = Duration::from_millis(50);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// What a namespace has.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Present {
    /// Ours, with these certificates.
    Ours(Arc<str>),
    /// Somebody else's.
    Theirs,
}

/// What there is, by namespace; nothing before all of it is known.
#[derive(Debug, Default)]
struct Seen {
    maps: Mutex<Option<BTreeMap<String, Present>>>,
    changed: Notify,
}

/// Keeps config maps called `name` while `leads` says so, until the drain starts.
pub async fn run(
    client: kube::Client,
    mut published: watch::Receiver<Arc<Published>>,
    mut leads: Leadership,
    mut current: Current,
    name: String,
    mut drain: Drain,
) {
    let seen = Seen::watch(&client, &name);
    let mut complaints = Complaints::new("root certificate");
    loop {
        let loaded = Arc::clone(&published.borrow_and_update().loaded);
        let names = namespaces(&loaded);
        let signer = Arc::clone(&current.borrow_and_update());
        let mut is_behind = false;
        if leads.may_write() {
            complaints.forget_but(|(namespace, _)| names.contains(namespace));
            for (namespace, step) in seen.steps(&names, signer.roots_pem()) {
                if !leads.may_write() {
                    break;
                }
                let result = match step {
                    Step::Apply => apply(&client, &namespace, &name, signer.roots_pem()).await,
                    Step::Taken => Err(format!(
                        "config map {name} is somebody else's; delete it if nobody needs it any more, or choose another \
                         name with --root-config-map"
                    )),
                };
                let is_done = complaints.note((namespace, name.clone()), result);
                is_behind |= step == Step::Apply && !is_done;
            }
        }
        tokio::select! {
            differs = other_namespaces(&mut published, &loaded) => if !differs { return },
            changed = leads.changed() => if changed.is_err() { return },
            changed = current.changed() => if changed.is_err() { return },
            () = seen.changed.notified() => {}
            () = tokio::time::sleep(RETRY), if is_behind => {}
            _ = drain.started() => return,
        }
        tokio::time::sleep(GATHER).await;
    }
}

/// Waits until there may be other namespaces; false when nobody will tell any more.
async fn other_namespaces(published: &mut watch::Receiver<Arc<Published>>, known: &Loaded) -> bool {
    let differs = |now: &Loaded| {
        now.is_never_read() != known.is_never_read() || !now.objects.namespaces.is_same(&known.objects.namespaces)
    };
    published.wait_for(|published| differs(&published.loaded)).await.is_ok()
}

/// Where the config map belongs, once all is known: what is being deleted takes no new objects.
fn namespaces(loaded: &Loaded) -> BTreeSet<String> {
    if loaded.is_never_read() {
        return BTreeSet::new();
    }
    let live = loaded.objects.namespaces.iter().filter(|(_, it)| it.metadata.deletion_timestamp.is_none());
    live.map(|(key, _)| key.name.clone()).collect()
}

/// What is to be done about a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Apply,
    Taken,
}

fn step(present: Option<&Present>, pem: &str) -> Option<Step> {
    match present {
        Some(Present::Ours(held)) if held.as_ref() == pem => None,
        Some(Present::Ours(_)) | None => Some(Step::Apply),
        Some(Present::Theirs) => Some(Step::Taken),
    }
}

async fn apply(client: &kube::Client, namespace: &str, name: &str, pem: &str) -> Result<(), String> {
    let object: Value = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": {MANAGED_BY.0: MANAGED_BY.1}},
        "data": {KEY: pem},
    });
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let applied = within(api.patch(name, &application(), &Patch::Apply(&object))).await;
    applied.map(drop).map_err(|error| format!("config map {name} cannot be applied: {error}"))
}

impl Seen {
    /// Starts to watch the config maps of that name, until nobody else holds what it gives.
    fn watch(client: &kube::Client, name: &str) -> Arc<Self> {
        let seen = Arc::new(Self::default());
        let weak = Arc::downgrade(&seen);
        // By name, so that a role can be for this name alone.
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let (api, name) = (Api::all(client.clone()), name.to_owned());
        let mut listing = BTreeMap::new();
        tokio::spawn(api_server::follow(api, config, "config maps with the root certificate", move |event| {
            let Some(seen) = weak.upgrade() else { return ControlFlow::Break(()) };
            seen.take(&name, event, &mut listing);
            ControlFlow::Continue(())
        }));
        seen
    }

    fn maps(&self) -> MutexGuard<'_, Option<BTreeMap<String, Present>>> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, name: &str, event: Event<ConfigMap>, listing: &mut BTreeMap<String, Present>) {
        let is_meant = |map: &ConfigMap| map.metadata.name.as_deref() == Some(name);
        match event {
            Event::Init => return listing.clear(),
            Event::InitApply(map) if is_meant(&map) => return put(listing, &map),
            Event::InitDone => *self.maps() = Some(std::mem::take(listing)),
            Event::Apply(map) if is_meant(&map) => put(self.maps().get_or_insert_default(), &map),
            Event::Delete(map) if is_meant(&map) => {
                self.maps().get_or_insert_default().remove(map.metadata.namespace.as_deref().unwrap_or_default());
            }
            Event::InitApply(_) | Event::Apply(_) | Event::Delete(_) => return,
        }
        self.changed.notify_one();
    }

    /// What is to be done where; nothing before it is known what there is.
    fn steps(&self, namespaces: &BTreeSet<String>, pem: &str) -> Vec<(String, Step)> {
        let maps = self.maps();
        let Some(maps) = maps.as_ref() else { return Vec::new() };
        let steps = namespaces.iter().filter_map(|it| Some((it.clone(), step(maps.get(it), pem)?)));
        steps.collect()
    }
}

/// Notes a config map; all that hold the same share it.
fn put(maps: &mut BTreeMap<String, Present>, map: &ConfigMap) {
    let label = map.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY.0));
    let held = map.data.as_ref().and_then(|data| data.get(KEY)).map_or("", String::as_str);
    let present = if label.is_some_and(|label| label == MANAGED_BY.1) {
        let shared = maps.values().find_map(|other| match other {
            Present::Ours(other) if other.as_ref() == held => Some(Arc::clone(other)),
            _ => None,
        });
        Present::Ours(shared.unwrap_or_else(|| held.into()))
    } else {
        Present::Theirs
    };
    maps.insert(map.metadata.namespace.clone().unwrap_or_default(), present);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_kept_and_what_is_not_is_left_alone() {
        for (name, present, expected) in [
            ("as it should be", Some(Present::Ours("new".into())), None),
            ("of an older root", Some(Present::Ours("old".into())), Some(Step::Apply)),
            ("missing", None, Some(Step::Apply)),
            ("of another mesh", Some(Present::Theirs), Some(Step::Taken)),
        ] {
            assert_eq!(step(present.as_ref(), "new"), expected, "{name}");
        }
    }
}
