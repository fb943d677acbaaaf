//! Gateways that the controller makes itself: of a namespace that asks for it, exactly while something there needs a waypoint.
//!
//! What is bound to it is refused until it is there. It goes some time after nothing is bound to it any more, and its pods let
//! their connections end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_core::io::drain::Drain;
use fairway_core::source::gateway::Gateway;
use fairway_core::source::labels::WAYPOINT_CLASS;
use fairway_core::source::objects::label;
use fairway_core::source::{Kind, ObjectKey, Objects};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, PostParams, Preconditions};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::api_server::{Complaints, MANAGER, is_conflict, is_gone, resource, unless_gone, within};
use crate::state::Published;
use crate::status::lease::Leadership;
use crate::translate::automatic::NAME;

/// How long a waypoint stays after the last thing that needed it: proxies have to hear that nothing is bound to it any more, and
/// who edits an object deletes it first.
pub const LINGER: Duration = Duration::from_secs(30);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// Label of what is ours. Anybody can write it, and an API server keeps it on what somebody else applies: it finds them, and says
/// nothing about who may delete one there.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "fairway-controller");
/// Port of tunnels.
const TUNNEL_PORT: u16 = 15008;

/// The gateway of a namespace.
#[must_use]
pub fn gateway(namespace: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": NAME, "namespace": namespace, "labels": {MANAGED_BY.0: MANAGED_BY.1}},
        "spec": {
            "gatewayClassName": WAYPOINT_CLASS,
            "listeners": [{"name": "mesh", "port": TUNNEL_PORT, "protocol": "HBONE"}],
        },
    })
}

/// Whether it says that the controller made it.
#[must_use]
pub fn is_ours(gateway: &Gateway) -> bool {
    label(&gateway.metadata, MANAGED_BY.0) == Some(MANAGED_BY.1)
}

/// Whether nobody but the controller has ever had a hand in it, by who has written which fields; status aside.
fn is_ours_alone(metadata: &ObjectMeta) -> bool {
    let entries = metadata.managed_fields.iter().flatten();
    let mut managers = entries.filter(|it| it.subresource.as_deref().is_none_or(str::is_empty)).peekable();
    managers.peek().is_some() && managers.all(|entry| entry.manager.as_deref() == Some(MANAGER))
}

/// What is to be done, and when there is something else to do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Round {
    /// Namespaces that have none yet.
    make: Vec<String>,
    /// Namespaces of those that nothing needs any more, with their uids.
    remove: Vec<(String, String)>,
    /// When the next one may go.
    next: Option<Instant>,
}

/// What nothing needs.
#[derive(Debug, Default)]
struct Unneeded {
    /// Since when, by namespace.
    since: BTreeMap<String, Instant>,
    /// Namespaces and uids of those that turned out to be somebody else's, too.
    shared: BTreeSet<(String, String)>,
}

impl Unneeded {
    /// Decides for this moment. What is there under the name and not ours serves as well, and is left alone.
    fn round(&mut self, objects: &Objects, wanted: &BTreeSet<&str>, linger: Duration, now: Instant) -> Round {
        let mut round = Round::default();
        let present = |namespace: &str| objects.gateways.get(&ObjectKey::new(Kind::Gateway, namespace, NAME));
        round.make.extend(wanted.iter().filter(|it| present(it).is_none()).map(|it| (*it).to_owned()));
        let ours = objects.gateways.iter().filter(|(key, gateway)| key.name == NAME && is_ours(gateway));
        let is_going = |gateway: &Gateway| gateway.metadata.deletion_timestamp.is_some();
        let idle = ours.filter(|(key, gateway)| !wanted.contains(key.namespace.as_str()) && !is_going(gateway));
        let uid = |gateway: &Gateway| gateway.metadata.uid.clone().unwrap_or_default();
        let idle: BTreeMap<&str, String> = idle.map(|(key, it)| (key.namespace.as_str(), uid(it))).collect();
        self.since.retain(|namespace, _| idle.contains_key(namespace.as_str()));
        self.shared.retain(|(namespace, uid)| idle.get(namespace.as_str()) == Some(uid));
        for (namespace, uid) in idle {
            let one = (namespace.to_owned(), uid);
            let since = *self.since.entry(namespace.to_owned()).or_insert(now);
            match since.checked_add(linger).filter(|at| *at > now) {
                Some(at) => round.next = Some(round.next.map_or(at, |next| next.min(at))),
                None if self.shared.contains(&one) => {}
                None => round.remove.push(one),
            }
        }
        round
    }
}

/// Keeps them while `leads` says so, until the drain starts.
pub async fn run(
    client: kube::Client,
    mut published: watch::Receiver<Arc<Published>>,
    mut leads: Leadership,
    linger: Duration,
    mut drain: Drain,
) {
    let mut complaints = Complaints::new("waypoint that a namespace asks for");
    let mut unneeded = Unneeded::default();
    loop {
        let state = Arc::clone(&published.borrow_and_update());
        let mut wake = None;
        if leads.may_write() && state.world.generation > 0 {
            let round = unneeded.round(&state.loaded.objects, &state.automatic(), linger, Instant::now());
            wake = round.next.map(|at| at.saturating_duration_since(Instant::now()));
            let named = |namespace: &String| (namespace.clone(), NAME.to_owned());
            let touched: BTreeSet<_> =
                round.make.iter().chain(round.remove.iter().map(|(it, _)| it)).map(named).collect();
            complaints.forget_but(|name| touched.contains(name));
            for namespace in round.make {
                let made = make(&client, &namespace).await;
                if !complaints.note((namespace, NAME.to_owned()), made) {
                    wake = Some(RETRY);
                }
            }
            for (namespace, uid) in round.remove {
                let removed = remove(&client, &namespace, &uid).await.map(|left| {
                    if left == Left::Shared {
                        unneeded.shared.insert((namespace.clone(), uid));
                    }
                });
                if !complaints.note((namespace, NAME.to_owned()), removed) {
                    wake = Some(RETRY);
                }
            }
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            changed = leads.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wake.unwrap_or_default()), if wake.is_some() => {}
            _ = drain.started() => return,
        }
    }
}

fn kind() -> ApiResource {
    resource("gateway.networking.k8s.io", "v1", "Gateway", "gateways")
}

/// Makes it if there is none of that name: what somebody else has made meanwhile serves as well, and is not changed.
async fn make(client: &kube::Client, namespace: &str) -> Result<(), String> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind());
    let failed = |error: String| format!("gateway {NAME} cannot be made: {error}");
    let wanted = serde_json::from_value(gateway(namespace)).map_err(|error| failed(error.to_string()))?;
    let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match within(api.create(&parameters, &wanted)).await {
        Ok(_) => {
            tracing::info!(namespace, name = NAME, "a waypoint is made, because something needs it");
            Ok(())
        }
        Err(failure) if is_conflict(&failure) => Ok(()),
        Err(failure) => Err(failed(failure.to_string())),
    }
}

/// What became of one that nothing needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// It is gone, or going.
    Nothing,
    /// It stays: somebody else has a hand in it.
    Shared,
}

/// Removes the one with this uid, and no later one, if it is as the controller has made it. Looked at is what the API server has now,
/// and deleted that or nothing.
async fn remove(client: &kube::Client, namespace: &str, uid: &str) -> Result<Left, String> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind());
    let failed = |error: String| format!("gateway {NAME} cannot be removed: {error}");
    let metadata = match within(api.get(NAME)).await {
        Ok(present) => present.metadata,
        Err(failure) if is_gone(&failure) => return Ok(Left::Nothing),
        Err(failure) => return Err(failed(failure.to_string())),
    };
    if metadata.uid.as_deref() != Some(uid) {
        // Another one: it is heard of.
        return Ok(Left::Nothing);
    }
    if !is_ours_alone(&metadata) {
        tracing::info!(namespace, name = NAME, "the waypoint, which nothing needs, stays: somebody else wrote to it");
        return Ok(Left::Shared);
    }
    let preconditions = Some(Preconditions { uid: metadata.uid, resource_version: metadata.resource_version });
    let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
    within(api.delete(NAME, &parameters)).await.map(drop).or_else(unless_gone).map_err(failed)?;
    tracing::info!(namespace, name = NAME, "the waypoint goes, because nothing needs it any more");
    Ok(Left::Nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(namespace: &str, change: impl FnOnce(&mut Value)) -> Objects {
        let mut objects = Objects::default();
        let mut written = gateway(namespace);
        written["metadata"]["uid"] = json!("u-1");
        change(&mut written);
        let key = ObjectKey::new(Kind::Gateway, namespace, NAME);
        objects.gateways.insert(key, Arc::new(serde_json::from_value(written).unwrap()));
        objects
    }

    #[test]
    fn a_waypoint_is_there_while_it_is_needed_and_a_moment_longer() {
        let start = Instant::now();
        let mut unneeded = Unneeded::default();
        let (none, shop) = (BTreeSet::new(), BTreeSet::from(["shop"]));
        let mut at = |objects: &Objects, wanted: &BTreeSet<&str>, seconds: u64| {
            unneeded.round(objects, wanted, LINGER, start + Duration::from_secs(seconds))
        };
        assert_eq!(at(&Objects::default(), &none, 0), Round::default());
        assert_eq!(at(&Objects::default(), &shop, 0).make, ["shop"]);
        let made = with("shop", |_| {});
        assert_eq!(at(&made, &shop, 1), Round::default());
        // Nothing needs it, then something does again, and the time begins anew.
        assert_eq!(at(&made, &none, 2).next, Some(start + Duration::from_secs(2) + LINGER));
        assert_eq!(at(&made, &shop, 20), Round::default());
        assert_eq!(at(&made, &none, 40).remove, []);
        assert_eq!(at(&made, &none, 69).remove, []);
        assert_eq!(at(&made, &none, 70).remove, [("shop".to_owned(), "u-1".to_owned())]);
        // What is going, and what somebody else has made.
        let going = with("shop", |it| it["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        assert_eq!(at(&going, &none, 200), Round::default());
        let theirs = with("shop", |it| it["metadata"]["labels"] = json!({}));
        assert_eq!(at(&theirs, &none, 300), Round::default());
        assert_eq!(at(&theirs, &shop, 300), Round::default());
    }

    #[test]
    fn one_that_is_somebody_elses_too_is_asked_about_once() {
        let (start, none) = (Instant::now(), BTreeSet::new());
        let mut unneeded = Unneeded::default();
        let made = with("shop", |_| {});
        assert_eq!(unneeded.round(&made, &none, Duration::ZERO, start).remove.len(), 1);
        unneeded.shared.insert(("shop".to_owned(), "u-1".to_owned()));
        assert_eq!(unneeded.round(&made, &none, Duration::ZERO, start), Round::default());
        let later = with("shop", |it| it["metadata"]["uid"] = json!("u-2"));
        assert_eq!(unneeded.round(&later, &none, Duration::ZERO, start).remove.len(), 1);
    }

    #[test]
    fn ours_is_what_nobody_else_has_written_to() {
        let user = json!({"manager": "kubectl-client-side-apply", "operation": "Update"});
        let applied = json!({"manager": "kubectl", "operation": "Apply"});
        let ours = json!({"manager": MANAGER, "operation": "Update"});
        let status = json!({"manager": "another", "operation": "Update", "subresource": "status"});
        for (managers, expected) in [
            (vec![ours.clone()], true),
            (vec![ours.clone(), status.clone()], true),
            (vec![ours.clone(), user.clone()], false),
            (vec![ours, applied], false),
            (vec![user], false),
            (vec![status], false),
            (Vec::new(), false),
        ] {
            let metadata: ObjectMeta = serde_json::from_value(json!({"managedFields": managers})).unwrap();
            assert_eq!(is_ours_alone(&metadata), expected, "{metadata:?}");
        }
    }
}
