//! Makes the objects of one waypoint what they should be, and leaves alone what belongs to somebody else.

use std::collections::BTreeMap;

use fairway_core::source::gateway::Gateway;
use kube::api::{Api, DeleteParams, DynamicObject, Patch};
use serde_json::Value;

use super::conditions::in_the_way;
use super::owned::{self, Owned, Present};
use super::render::Part;
use crate::api_server::{Name, application, unless_gone, within};

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

fn api(client: &kube::Client, part: Part, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &owned::resource(part))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
