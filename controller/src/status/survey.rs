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
    Addressed(Verdict),
    /// Something without effect, by what it is for.
    Ancestors(Vec<Value>),
}

impl Said {
    /// Version of the object that this is about.
    fn generation(&self) -> Option<i64> {
        match self {
            Self::Policy(verdict) | Self::Addressed(verdict) => verdict.generation,
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
            Said::Addressed(verdict) => addressed::compare(verdict, published, key, now),
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
        for (key, verdict) in addressed::verdicts(published) {
            add(key, Said::Addressed(verdict), Effect::Unsaid);
        }
        for (key, ancestors) in unserved::backend_tls(published) {
            add(key, Said::Ancestors(ancestors), Effect::Unsaid);
        }
        Self { published: Arc::clone(published), objects }
    }

    /// Whether it is of this very state.
    pub(super) fn is_of(&self, published: &Arc<Published>) -> bool {
        Arc::ptr_eq(&self.published, published)
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
