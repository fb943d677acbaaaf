//! Whether a route may send something to what is in another namespace (ReferenceGrant, api-surface A15).

use fairway_core::source::reference_grant::{GrantTo, ReferenceGrant};
use fairway_core::source::route::ParentReference;
use fairway_core::source::{Kind, ObjectKey, Objects};

use super::catalog::{Refusal, parent_object};

/// A route that refers to backends.
#[derive(Clone, Debug)]
pub(super) struct Referrer<'a> {
    key: &'a ObjectKey,
    stance: Stance,
}

/// For whose clients a route is.
#[derive(Clone, Debug)]
enum Stance {
    /// Everybody's, by the word of the service's own namespace.
    Producer,
    /// Those of its own namespace, which dialled this service; none where it may be one of several.
    Consumer(Option<ObjectKey>),
    /// Everybody's, in the words of Istio, which knows no grants.
    Host,
}

/// How far a reference reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Every port of what is named.
    All,
    /// What is named was dialled: the port that was dialled, and no other, for which there may be other policies.
    Dialled,
}

impl<'a> Referrer<'a> {
    /// The route with these parents.
    pub(super) fn of(key: &'a ObjectKey, parents: &[ParentReference]) -> Self {
        let services = parents.iter().filter_map(|parent| parent_object(&key.namespace, parent));
        let mut services: Vec<ObjectKey> = services.collect();
        services.dedup();
        let is_consumer = !services.is_empty() && services.iter().all(|service| service.namespace != key.namespace);
        let only = if services.len() == 1 { services.pop() } else { None };
        Self { key, stance: if is_consumer { Stance::Consumer(only) } else { Stance::Producer } }
    }

    /// A VirtualService, where it says something of a host of this owner.
    pub(super) fn of_host(key: &'a ObjectKey, owner: &ObjectKey) -> Self {
        let is_consumer = owner.namespace != key.namespace;
        Self { key, stance: if is_consumer { Stance::Consumer(Some(owner.clone())) } else { Stance::Host } }
    }

    /// Whether it may refer to this object: to its own namespace's, to those that a grant of their namespace names, and, for a
    /// consumer's route, to the service that its clients dialled. Requests that it sends elsewhere come out of the waypoint of
    /// that service, past the policies of the other one: that is more than its clients could reach (GEP-1294, "Namespace
    /// boundaries").
    pub(super) fn check(&self, object: &ObjectKey, objects: &Objects) -> Result<Reach, Refusal> {
        let is_near = object.namespace == self.key.namespace || matches!(self.stance, Stance::Host);
        let mut grants = objects.reference_grants.iter().filter(|(grant, _)| grant.namespace == object.namespace);
        if is_near || grants.any(|(_, grant)| grants_it(grant, self.key, object)) {
            return Ok(Reach::All);
        }
        if matches!(&self.stance, Stance::Consumer(Some(dialled)) if dialled == object) {
            return Ok(Reach::Dialled);
        }
        Err(("RefNotPermitted", format!("{object} is of another namespace; {}", self.needed(object))))
    }

    /// What would allow it.
    pub(super) fn needed(&self, object: &ObjectKey) -> String {
        let (kind, from, to) = (self.key.kind, &self.key.namespace, &object.namespace);
        format!("a ReferenceGrant in {to} must allow {kind}s of {from}")
    }

    /// The service of another namespace whose clients' requests may go to the port that they dialled alone.
    pub(super) fn bound_to(&self, objects: &Objects) -> Option<&ObjectKey> {
        let Stance::Consumer(Some(dialled)) = &self.stance else { return None };
        matches!(self.check(dialled, objects), Ok(Reach::Dialled)).then_some(dialled)
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
    fn a_consumer_may_send_its_own_clients_where_they_were_going_and_nowhere_else() {
        let route = ObjectKey::new(Kind::HTTPRoute, "shop", "way");
        let vault = ObjectKey::new(Kind::Service, "bank", "vault");
        let parent = |kind: &str, namespace: Option<&str>, name: &str| ParentReference {
            group: Some(String::new()),
            kind: Some(kind.to_owned()),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            ..ParentReference::default()
        };
        let bank = Some("bank");
        for (parents, expected) in [
            (vec![parent("Service", bank, "vault")], Some(Reach::Dialled)),
            // Once for each port.
            (vec![parent("Service", bank, "vault"), parent("Service", bank, "vault")], Some(Reach::Dialled)),
            // Who dials one service of a namespace has not dialled another, past whose policies the request would come.
            (vec![parent("Service", bank, "till")], None),
            (vec![parent("Service", bank, "vault"), parent("Service", bank, "till")], None),
            (vec![parent("Service", Some("other"), "vault")], None),
            // Also for everybody's clients.
            (vec![parent("Service", bank, "vault"), parent("Service", None, "vault")], None),
            (vec![parent("Gateway", bank, "vault")], None),
        ] {
            let checked = Referrer::of(&route, &parents).check(&vault, &Objects::default());
            assert_eq!(checked.ok(), expected, "{parents:?}");
        }
        let granted = grant(("gateway.networking.k8s.io", "HTTPRoute", "shop"), ("", "Service", None));
        let checked = Referrer::of(&route, &[parent("Service", bank, "till")]).check(&vault, &granted);
        assert_eq!(checked.unwrap(), Reach::All);
    }

    #[test]
    fn a_virtual_service_takes_grants_where_it_is_a_consumers() {
        let ours = ObjectKey::new(Kind::VirtualService, "shop", "way");
        let service = |namespace, name| ObjectKey::new(Kind::Service, namespace, name);
        let vault = service("bank", "vault");
        for (owner, expected) in [
            (service("shop", "web"), Some(Reach::All)),
            (vault.clone(), Some(Reach::Dialled)),
            (service("bank", "till"), None),
        ] {
            let checked = Referrer::of_host(&ours, &owner).check(&vault, &Objects::default());
            assert_eq!(checked.ok(), expected, "{owner}");
        }
        let granted = grant(("networking.istio.io", "VirtualService", "shop"), ("", "Service", None));
        let checked = Referrer::of_host(&ours, &service("bank", "till")).check(&vault, &granted);
        assert_eq!(checked.unwrap(), Reach::All);
    }
}
