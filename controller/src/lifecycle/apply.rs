//! Makes the objects of one waypoint what they should be, and leaves alone what belongs to somebody else.

use std::collections::BTreeMap;

use fairway_core::source::gateway::Gateway;
use kube::api::{Api, DeleteParams, DynamicObject, Patch};
use serde_json::{Value, json};

use super::conditions::in_the_way;
use super::owned::{self, Owned, Present};
use super::render::Part;
use crate::api_server::{Name, application, handing_over, is_conflict, unless_gone, within};

/// What was applied last: what was asked for, and what the API server made of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Applied {
    wanted: BTreeMap<Part, Value>,
    made: BTreeMap<Part, String>,
}

/// What is to be done about a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is as it should be.
    Nothing,
    /// It is ours, or does not seem to exist.
    Apply,
    /// It should not exist, and is ours.
    Delete,
    /// It is somebody else's.
    Taken,
}

fn step(part: Part, wanted: Option<&Value>, present: Option<&Present>, gateway: &str, before: &Applied) -> Step {
    let is_ours = present.is_some_and(|present| present.owner.as_deref() == Some(gateway));
    match (wanted, present) {
        (None, _) if is_ours => Step::Delete,
        (None, _) => Step::Nothing,
        (Some(_), Some(_)) if !is_ours => Step::Taken,
        (Some(wanted), Some(present))
            if before.wanted.get(&part) == Some(wanted) && before.made.get(&part) == Some(&present.content) =>
        {
            Step::Nothing
        }
        (Some(_), _) => Step::Apply,
    }
}

/// Makes all parts what they should be; says what failed.
pub(super) async fn make(
    client: &kube::Client,
    owned: &Owned,
    gateway: &Gateway,
    wanted: BTreeMap<Part, Value>,
    applied: &mut Applied,
) -> Result<(), String> {
    let name: Name =
        (gateway.metadata.namespace.clone().unwrap_or_default(), gateway.metadata.name.clone().unwrap_or_default());
    let uid = gateway.metadata.uid.as_deref().unwrap_or_default();
    for part in Part::ALL {
        let present = owned.view().objects.get(&(part, name.clone())).cloned();
        let object = wanted.get(&part);
        let kind = part.names().2;
        let taken = || in_the_way(kind, &name.1);
        match (step(part, object, present.as_ref(), uid, applied), object) {
            (Step::Nothing, _) | (Step::Apply, None) => {}
            (Step::Taken, _) => return Err(taken()),
            (Step::Delete, _) => {
                let api = api(client, part, &name.0);
                within(api.delete(&name.1, &DeleteParams::default())).await.map(drop).or_else(unless_gone)?;
            }
            (Step::Apply, Some(object)) => {
                let api = api(client, part, &name.0);
                // What does not carry our labels is not watched, so it is asked for.
                if present.is_none()
                    && let Some(found) = within(api.get_metadata_opt(&name.1)).await.map_err(|it| it.to_string())?
                    && owned::owner(found.metadata.owner_references.as_ref()).as_deref() != Some(uid)
                {
                    return Err(taken());
                }
                if let Some(pods) = pods_to_hand_over(part, object, present.as_ref(), applied) {
                    hand_over(&api, &name, object, pods)
                        .await
                        .map_err(|error| format!("{kind} {}: {error}", name.1))?;
                }
                let patch = Patch::Apply(object);
                let made = within(api.patch(&name.1, &application(), &patch))
                    .await
                    .map_err(|error| format!("{kind} {} cannot be applied: {error}", name.1))?;
                tracing::info!(kind, namespace = name.0, name = name.1, "part of a waypoint applied");
                applied.wanted.insert(part, object.clone());
                applied.made.insert(part, owned::present(&made).content);
            }
        }
    }
    applied.wanted.retain(|part, _| wanted.contains_key(part));
    Ok(())
}

/// How many pods there are, when from now on it is an autoscaler that says so. What we leave out of an application while we
/// are its only owner falls back to its default, which is one pod.
fn pods_to_hand_over(part: Part, wanted: &Value, present: Option<&Present>, before: &Applied) -> Option<u64> {
    let says = |object: &Value| object.pointer("/spec/replicas").is_some();
    let is_handed_over = before.wanted.get(&part).is_some_and(|before| !says(before));
    let pods = present?.pods.1;
    (part == Part::Deployment && !says(wanted) && !is_handed_over && pods > 0).then_some(pods)
}

async fn hand_over(api: &Api<DynamicObject>, name: &Name, object: &Value, pods: u64) -> Result<(), String> {
    let held = json!({"apiVersion": object["apiVersion"], "kind": object["kind"],
        "metadata": {"name": name.1, "namespace": name.0}, "spec": {"replicas": pods}});
    match within(api.patch(&name.1, &handing_over(), &Patch::Apply(&held))).await {
        Ok(_) => Ok(()),
        // An autoscaler has another number already.
        Err(failure) if is_conflict(&failure) => Ok(()),
        Err(failure) => Err(failure.to_string()),
    }
}

fn api(client: &kube::Client, part: Part, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &owned::resource(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_pods_is_handed_to_an_autoscaler_once() {
        let (with, without) = (json!({"spec": {"replicas": 3}}), json!({"spec": {}}));
        let present = Present { owner: None, content: String::new(), pods: (1, 3) };
        let none = Present { owner: None, content: String::new(), pods: (0, 0) };
        let before = |object: Option<&Value>| Applied {
            wanted: object.map(|object| (Part::Deployment, object.clone())).into_iter().collect(),
            made: BTreeMap::new(),
        };
        for (part, wanted, present, before, expected) in [
            (Part::Deployment, &without, Some(&present), before(Some(&with)), Some(3)),
            (Part::Deployment, &without, Some(&present), before(None), Some(3)),
            (Part::Deployment, &without, Some(&present), before(Some(&without)), None),
            (Part::Deployment, &without, Some(&none), before(Some(&with)), None),
            (Part::Deployment, &without, None, before(None), None),
            (Part::Deployment, &with, Some(&present), before(Some(&with)), None),
            (Part::Service, &without, Some(&present), before(Some(&with)), None),
        ] {
            assert_eq!(pods_to_hand_over(part, wanted, present, &before), expected, "{part:?} {wanted} {before:?}");
        }
    }

    #[test]
    fn what_is_ours_is_repaired_and_what_is_not_is_left_alone() {
        let (old, new) = (json!({"spec": 1}), json!({"spec": 2}));
        let present = |owner: Option<&str>, content: &str| Present {
            owner: owner.map(str::to_owned),
            content: content.to_owned(),
            pods: (0, 0),
        };
        let before = Applied {
            wanted: BTreeMap::from([(Part::Service, old.clone())]),
            made: BTreeMap::from([(Part::Service, "made".to_owned())]),
        };
        let rows = [
            ("as it was", Some(&old), Some(present(Some("g"), "made")), Step::Nothing),
            ("drifted", Some(&old), Some(present(Some("g"), "other")), Step::Apply),
            ("asked for otherwise", Some(&new), Some(present(Some("g"), "made")), Step::Apply),
            ("deleted", Some(&old), None, Step::Apply),
            ("of an earlier gateway of that name", Some(&old), Some(present(Some("f"), "made")), Step::Taken),
            ("without an owner", Some(&old), Some(present(None, "made")), Step::Taken),
            ("not wanted any more", None, Some(present(Some("g"), "made")), Step::Delete),
            ("not wanted, not ours", None, Some(present(None, "made")), Step::Nothing),
            ("not wanted, not there", None, None, Step::Nothing),
        ];
        for (name, wanted, present, expected) in rows {
            assert_eq!(step(Part::Service, wanted, present.as_ref(), "g", &before), expected, "{name}");
        }
    }
}
