//! Whether a route may send something to what is in another namespace (ReferenceGrant, api-surface A15).

use std::collections::BTreeSet;

use fairway_core::source::reference_grant::{GrantTo, ReferenceGrant};
use fairway_core::source::route::ParentReference;
use fairway_core::source::{Kind, ObjectKey, Objects};

use super::catalog::{Refusal, parent_kind};

/// A route that refers to backends.
#[derive(Clone, Debug)]
pub(super) struct Referrer<'a> {
    key: &'a ObjectKey,
    /// Namespaces whose services it is attached to for clients of its own namespace, and for nobody else's.
    consumed: BTreeSet<&'a str>,
}

impl<'a> Referrer<'a> {
    /// The route with these parents.
    pub(super) fn of(key: &'a ObjectKey, parents: &'a [ParentReference]) -> Self {
        let services = parents.iter().filter(|parent| parent_kind(parent).is_some());
        let consumed: BTreeSet<_> =
            services.map(|parent| parent.namespace.as_deref().unwrap_or(&key.namespace)).collect();
        let is_producer = consumed.contains(key.namespace.as_str());
        Self { key, consumed: if is_producer { BTreeSet::new() } else { consumed } }
    }

    /// Whether it may refer to this object: to its own namespace's, to those that a grant of their namespace names, and,
    /// for a consumer's route, to those beside the service it is attached to, which its clients can dial as well.
    pub(super) fn check(&self, object: &ObjectKey, objects: &Objects) -> Result<(), Refusal> {
        let is_near = object.namespace == self.key.namespace || self.consumed.contains(object.namespace.as_str());
        let mut grants = objects.reference_grants.iter().filter(|(grant, _)| grant.namespace == object.namespace);
        if is_near || grants.any(|(_, grant)| grants_it(grant, self.key, object)) {
            return Ok(());
        }
        let (kind, from, to) = (self.key.kind, &self.key.namespace, &object.namespace);
        let message =
            format!("{object} is of another namespace; a ReferenceGrant in {to} must allow {kind}s of {from}");
        Err(("RefNotPermitted", message))
    }
}

fn grants_it(grant: &ReferenceGrant, from: &ObjectKey, to: &ObjectKey) -> bool {
    let is_from = grant
        .spec
        .from
        .iter()
        .any(|it| it.group == from.kind.group() && it.kind == from.kind.as_str() && it.namespace == from.namespace);
    let is_named = |name: &Option<String>| name.as_deref().is_none_or(|name| name.is_empty() || name == to.name);
    let is_to = |it: &GrantTo| group(&it.group) == to.kind.group() && it.kind == to.kind.as_str() && is_named(&it.name);
    is_from && grant.spec.to.iter().any(is_to)
}

/// The core group has two names.
fn group(name: &str) -> &str {
    if name == "core" { Kind::Service.group() } else { name }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn grant(from: (&str, &str, &str), to: (&str, &str, Option<&str>)) -> Objects {
        let mut objects = Objects::default();
        let grant = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant",
            "metadata": {"name": "it", "namespace": "bank"},
            "spec": {
                "from": [{"group": from.0, "kind": from.1, "namespace": from.2}],
                "to": [{"group": to.0, "kind": to.1, "name": to.2}],
            },
        });
        let key = ObjectKey::new(Kind::ReferenceGrant, "bank", "it");
        objects.reference_grants.insert(key, Arc::new(serde_json::from_value(grant).unwrap()));
        objects
    }

    #[test]
    fn who_is_named_may_refer_to_what_is_named() {
        const GROUP: &str = "gateway.networking.k8s.io";
        let route = ObjectKey::new(Kind::HTTPRoute, "shop", "way");
        let vault = ObjectKey::new(Kind::Service, "bank", "vault");
        let all = (GROUP, "HTTPRoute", "shop");
        for (from, to, expected) in [
            (all, ("", "Service", None), true),
            (all, ("core", "Service", None), true),
            (all, ("", "Service", Some("vault")), true),
            (all, ("", "Service", Some("till")), false),
            (all, ("", "Secret", None), false),
            (all, ("networking.istio.io", "ServiceEntry", None), false),
            ((GROUP, "GRPCRoute", "shop"), ("", "Service", None), false),
            ((GROUP, "HTTPRoute", "other"), ("", "Service", None), false),
            (("", "HTTPRoute", "shop"), ("", "Service", None), false),
        ] {
            let checked = Referrer::of(&route, &[]).check(&vault, &grant(from, to));
            assert_eq!(checked.is_ok(), expected, "{from:?} {to:?}: {checked:?}");
        }
        let own = ObjectKey::new(Kind::Service, "shop", "web");
        Referrer::of(&route, &[]).check(&own, &Objects::default()).unwrap();
    }

    #[test]
    fn a_consumer_may_send_its_own_clients_where_they_were_going() {
        let route = ObjectKey::new(Kind::HTTPRoute, "shop", "way");
        let vault = ObjectKey::new(Kind::Service, "bank", "vault");
        let parent = |kind: &str, namespace: Option<&str>| ParentReference {
            group: Some(String::new()),
            kind: Some(kind.to_owned()),
            namespace: namespace.map(str::to_owned),
            name: "it".to_owned(),
            ..ParentReference::default()
        };
        for (parents, expected) in [
            (vec![parent("Service", Some("bank"))], true),
            (vec![parent("Service", Some("bank")), parent("Service", Some("other"))], true),
            (vec![parent("Service", Some("other"))], false),
            // Also for everybody's clients.
            (vec![parent("Service", Some("bank")), parent("Service", None)], false),
            (vec![parent("Gateway", Some("bank"))], false),
        ] {
            let checked = Referrer::of(&route, &parents).check(&vault, &Objects::default());
            assert_eq!(checked.is_ok(), expected, "{parents:?}");
        }
    }
}
