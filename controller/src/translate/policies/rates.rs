//! RateLimits together: which are in force, and which stay as they were. One that was never valid limits nothing: that is
//! no matter of who may do what, and refusing everything would be the worse mistake.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_core::source::{Kind, ObjectKey, Objects};
use serde_json::Value;

use super::super::{Fault, Settings, Severity};
use super::{Accepted, Good, KEPT, Policies};
use crate::l7::rates::read;

const UNLIMITED: &str = "it was never valid, so it limits nothing until this is fixed";

/// Translates all of them.
pub(super) fn translate(
    policies: &mut Policies,
    objects: &Objects,
    rejected: &BTreeMap<ObjectKey, Arc<Value>>,
    settings: &Settings,
    previous: &Accepted,
) {
    for (key, object) in objects.rate_limits.iter() {
        match read(object, &settings.root_namespace, &settings.mesh.providers) {
            Ok(means) => {
                let means = Arc::new(means);
                policies.rates.push((key.clone(), Arc::clone(&means)));
                policies.accepted.rates.insert(key.clone(), Good { object: Arc::clone(object), means });
            }
            Err(faults) => broken(policies, key, faults, previous),
        }
    }
    for key in rejected.keys() {
        if key.kind == Kind::RateLimit && !objects.rate_limits.contains_key(key) {
            // The source reports what is wrong with it.
            let unread = Fault { field: String::new(), message: "cannot be read".to_owned() };
            let faults = if previous.rates.contains_key(key) { Vec::new() } else { vec![unread] };
            broken(policies, key, faults, previous);
        }
    }
}

fn broken(policies: &mut Policies, key: &ObjectKey, faults: Vec<Fault>, previous: &Accepted) {
    let Some(last) = previous.rates.get(key) else {
        return policies.report(key, Severity::Error, faults, UNLIMITED);
    };
    policies.report(key, Severity::Error, faults, KEPT);
    policies.rates.push((key.clone(), Arc::clone(&last.means)));
    policies.accepted.rates.insert(key.clone(), last.clone());
}
