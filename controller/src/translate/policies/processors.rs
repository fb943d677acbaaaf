//! ExternalProcessors together: which are in force, and which stay as they were. One that was never valid has nobody see anything:
//! who may do what is said by policies, which hold without it.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_core::source::{Kind, ObjectKey, Objects};
use serde_json::Value;

use super::super::{Fault, Settings, Severity};
use super::{Accepted, Good, KEPT, Policies};
use crate::l7::processors::read;

const UNSEEN: &str = "it was never valid, so nobody sees these requests until this is fixed";

/// Translates all of them.
pub(super) fn translate(
    policies: &mut Policies,
    objects: &Objects,
    rejected: &BTreeMap<ObjectKey, Arc<Value>>,
    settings: &Settings,
    previous: &Accepted,
) {
    for (key, object) in objects.external_processors.iter() {
        match read(object, &settings.root_namespace, &settings.mesh.providers.processors) {
            Ok(means) => {
                let means = Arc::new(means);
                policies.processors.push((key.clone(), Arc::clone(&means)));
                policies.accepted.processors.insert(key.clone(), Good { object: Arc::clone(object), means });
            }
            Err(faults) => broken(policies, key, faults, previous),
        }
    }
    for key in rejected.keys() {
        if key.kind == Kind::ExternalProcessor && !objects.external_processors.contains_key(key) {
            // The source reports what is wrong with it.
            let unread = Fault { field: String::new(), message: "cannot be read".to_owned() };
            let faults = if previous.processors.contains_key(key) { Vec::new() } else { vec![unread] };
            broken(policies, key, faults, previous);
        }
    }
}

fn broken(policies: &mut Policies, key: &ObjectKey, faults: Vec<Fault>, previous: &Accepted) {
    let Some(last) = previous.processors.get(key) else {
        return policies.report(key, Severity::Error, faults, UNSEEN);
    };
    policies.report(key, Severity::Error, faults, KEPT);
    policies.processors.push((key.clone(), Arc::clone(&last.means)));
    policies.accepted.processors.insert(key.clone(), last.clone());
}
