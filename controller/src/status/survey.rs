//! What is to be said of everything: what a state says of each object, looked up once for each state, and what proxies have
//! answered, for each of their answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_core::source::{Kind, ObjectKey};
use serde_json::{Value, json};

use super::answers::Answers;
use super::concerned::{Concerned, Places};
use super::programmed::{Memory, Programmed, Running};
use super::{
    ACCEPTED, Account, INVALID, Verdict, WAYPOINT_ACCEPTED, addressed, present, routes, traffic, unserved, verdicts,
};
use crate::l7;
use crate::serve::clients::Client;
use crate::state::Published;

/// Whether nothing has changed that anything is said of. Pods come and go all the time, and nothing is said of them.
fn says_the_same(before: &Published, now: &Published) -> bool {
    let is_unsaid = |kind: &Kind| {
        matches!(kind, Kind::Pod | Kind::EndpointSlice | Kind::Node | Kind::ServiceAccount | Kind::NetworkPolicy)
    };
    let (l7_before, l7) = (before.world.l7(), now.world.l7());
    before.loaded.objects.changed_kinds(&now.loaded.objects).iter().all(is_unsaid)
        && before.loaded.errors == now.loaded.errors
        && before.loaded.rejected == now.loaded.rejected
        && before.problems == now.problems
        && before.desired().services.is_same(&now.desired().services)
        // Kept where nothing about them has changed.
        && std::ptr::eq(before.routes(), now.routes())
        && std::ptr::eq(before.destinations(), now.destinations())
        && std::ptr::eq(l7_before.waypoints(), l7.waypoints())
        && Arc::ptr_eq(l7_before.keys(), l7.keys())
}

/// What is to be said of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    said: Arc<Said>,
    programmed: Option<Programmed>,
}

/// What a state says of one object, by what it is.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Policy(Verdict),
    Route(l7::verdict::Verdict),
    /// Something whose conditions are others' as well.
    Addressed(addressed::Addressed),
    /// Something without effect, by what it is for.
    Ancestors(Vec<Value>),
}

impl Said {
    /// Version of the object that this is about.
    fn generation(&self) -> Option<i64> {
        match self {
            Self::Policy(verdict) => verdict.generation,
            Self::Addressed(said) => said.verdict.generation,
            Self::Route(verdict) => verdict.generation,
            Self::Ancestors(_) => None,
        }
    }
}

impl Statement {
    /// The status to write, and whether it says anything new.
    pub(super) fn compare(&self, published: &Published, key: &ObjectKey, now: &str) -> (Value, bool) {
        let programmed = self.programmed.as_ref();
        match self.said.as_ref() {
            Said::Policy(verdict) => {
                let (conditions, differs) = verdict.compare(programmed, present(published, key), now);
                (json!({"conditions": conditions}), differs)
            }
            Said::Addressed(said) => addressed::compare(said, published, key, now),
            Said::Route(verdict) => routes::compare(verdict, programmed, published, key, now),
            Said::Ancestors(ancestors) => unserved::compare(ancestors, published, key, now),
        }
    }
}

/// Where an object takes effect.
enum Effect {
    /// Nothing is said of it.
    Unsaid,
    /// It is not what is in force, for which there is this condition.
    Invalid(&'static str),
    /// At these proxies.
    At(Concerned),
}

/// What one state says of everything.
pub(super) struct Survey {
    published: Arc<Published>,
    objects: BTreeMap<ObjectKey, (Arc<Said>, Effect)>,
}

impl Survey {
    pub(super) fn of(published: &Arc<Published>) -> Self {
        let places = Places::of(published);
        let mut objects = BTreeMap::new();
        let mut add = |key: ObjectKey, said: Said, effect: Effect| drop(objects.insert(key, (Arc::new(said), effect)));
        for (key, verdict) in verdicts(published) {
            let effect = if verdict.reason == INVALID {
                Effect::Invalid(verdict.condition)
            } else {
                Effect::At(places.policy(&key, verdict.condition == WAYPOINT_ACCEPTED))
            };
            add(key, Said::Policy(verdict), effect);
        }
        let followed = |key: &ObjectKey, is_unsupported: bool| match places.route(key) {
            Some(_) if is_unsupported => Effect::Invalid(ACCEPTED),
            Some(concerned) => Effect::At(concerned.clone()),
            None => Effect::Unsaid,
        };
        for (key, verdict) in routes::verdicts(published) {
            let effect = followed(&key, verdict.is_unsupported);
            add(key, Said::Route(verdict), effect);
        }
        for (key, verdict) in traffic(published) {
            let route = published.routes().verdicts.get(&key);
            let effect = match (key.kind, route) {
                (Kind::DestinationRule, _) if verdict.reason == INVALID => Effect::Invalid(ACCEPTED),
                (Kind::DestinationRule, _) => places.destination(&key).map_or(Effect::Unsaid, Effect::At),
                (_, Some(route)) => followed(&key, route.is_unsupported || verdict.reason == INVALID),
                (_, None) => Effect::Unsaid,
            };
            add(key, Said::Policy(verdict), effect);
        }
        for (key, verdict) in unserved::telemetry(published) {
            add(key, Said::Policy(verdict), Effect::Unsaid);
        }
        for (key, said) in addressed::verdicts(published) {
            add(key, Said::Addressed(said), Effect::Unsaid);
        }
        for (key, ancestors) in unserved::backend_tls(published) {
            add(key, Said::Ancestors(ancestors), Effect::Unsaid);
        }
        Self { published: Arc::clone(published), objects }
    }

    /// The same of another state, if that says the same.
    pub(super) fn of_next(self, published: &Arc<Published>) -> Option<Self> {
        says_the_same(&self.published, published).then(|| Self { published: Arc::clone(published), ..self })
    }

    /// What is to be said where these clients are connected.
    pub(super) fn statements(
        &self,
        memory: &mut Memory,
        clients: &[Client],
        node_accounts: &BTreeSet<Account>,
    ) -> BTreeMap<ObjectKey, Statement> {
        memory.look(&self.published);
        memory.keep(|key| self.objects.contains_key(key));
        let answers = Answers::of(clients);
        let running = Running::of(&self.published.loaded.objects, node_accounts);
        let mut decide = |key: &ObjectKey, said: &Said, effect: &Effect| match effect {
            Effect::Unsaid => None,
            Effect::Invalid(because) => {
                memory.is_invalid(key);
                Some(Programmed::invalid(because))
            }
            Effect::At(concerned) => {
                let before = match said {
                    Said::Route(_) => routes::said(&self.published, key),
                    _ => present(&self.published, key),
                };
                Some(memory.decide(key, concerned, said.generation(), before, (&answers, &running)))
            }
        };
        let statement = |(key, (said, effect)): (&ObjectKey, &(Arc<Said>, Effect))| {
            (key.clone(), Statement { said: Arc::clone(said), programmed: decide(key, said, effect) })
        };
        self.objects.iter().map(statement).collect()
    }
}

#[cfg(test)]
mod tests {
    use fairway_core::source::Loaded;

    use super::*;
    use crate::translate::Settings;

    #[test]
    fn what_is_said_is_looked_up_again_only_where_it_may_be_something_else() {
        let object = |api_version: &str, kind: &str, spec: Value, labels: Value| {
            json!({"apiVersion": api_version, "kind": kind, "spec": spec,
                "metadata": {"name": "it", "namespace": "shop", "labels": labels}})
        };
        let pod = |labels| {
            let mut pod = object("v1", "Pod", json!({"containers": []}), labels);
            pod["status"] = json!({"podIP": "10.0.0.1"});
            (Kind::Pod, pod)
        };
        let policy =
            |spec| (Kind::AuthorizationPolicy, object("security.istio.io/v1", "AuthorizationPolicy", spec, json!({})));
        let service = |port| {
            let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": port}]});
            (Kind::Service, object("v1", "Service", spec, json!({})))
        };
        let with = |loaded: &Loaded, (kind, written): &(Kind, Value)| {
            loaded.with(&ObjectKey::new(*kind, "shop", "it"), written)
        };
        let first = [pod(json!({})), policy(json!({})), service(80)];
        let loaded = first.iter().fold(Loaded::default(), |loaded, object| with(&loaded, object));
        let before = Arc::new(Published::default().next(Arc::new(loaded.clone()), &Settings::default()));
        for (change, expected) in [
            (pod(json!({"app": "web"})), true),
            // Its waypoint is missing.
            (pod(json!({"istio.io/use-waypoint": "none-such"})), false),
            (policy(json!({"action": "DENY"})), false),
            (policy(json!({"action": "MAYBE"})), false),
            (policy(json!(1)), false),
            (service(81), false),
        ] {
            let now = Arc::new(before.next(Arc::new(with(&loaded, &change)), &Settings::default()));
            let same = Survey::of(&before).of_next(&now);
            assert_eq!(same.is_some(), expected, "{change:?}");
            assert!(same.is_none_or(|survey| Arc::ptr_eq(&survey.published, &now)));
        }
    }
}
