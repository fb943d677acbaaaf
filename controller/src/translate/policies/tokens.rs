//! RequestAuthentications together: which are in force, which stay as they were, and what refuses in place of the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_core::source::{Kind, ObjectKey, Objects};
use serde_json::Value;

use super::super::policy::{self, Stance};
use super::super::{Fault, Severity};
use super::{Accepted, Good, KEPT, Policies, REFUSING, written};
use crate::l7::tokens::{Policy, read};

/// Translates all of them.
pub(super) fn translate(
    policies: &mut Policies,
    objects: &Objects,
    rejected: &BTreeMap<ObjectKey, Arc<Value>>,
    root: &str,
    previous: &Accepted,
) {
    for (key, object) in objects.request_authentications.iter() {
        match read::read(object, root) {
            Ok((means, warnings)) => {
                policies.report(key, Severity::Warning, warnings, "");
                let means = Arc::new(means);
                add(policies, key, &means);
                policies.accepted.tokens.insert(key.clone(), Good { object: Arc::clone(object), means });
            }
            Err(faults) => broken(policies, key, Arc::new(written(object)), faults, root, previous),
        }
    }
    for (key, written) in rejected {
        let is_new = key.kind == Kind::RequestAuthentication && !objects.request_authentications.contains_key(key);
        if is_new {
            // The source reports what is wrong with it.
            let faults = if previous.tokens.contains_key(key) {
                Vec::new()
            } else {
                vec![Fault { field: String::new(), message: "cannot be read".to_owned() }]
            };
            broken(policies, key, Arc::clone(written), faults, root, previous);
        }
    }
}

fn add(policies: &mut Policies, key: &ObjectKey, means: &Option<Policy>) {
    policies.tokens.extend(means.clone().map(|policy| (key.clone(), Arc::new(policy))));
}

/// The version before, if there is one; otherwise nothing passes where it was to look at tokens: a rule that refuses some of
/// them would not see whose they are.
fn broken(
    policies: &mut Policies,
    key: &ObjectKey,
    written: Arc<Value>,
    faults: Vec<Fault>,
    root: &str,
    previous: &Accepted,
) {
    if let Some(last) = previous.tokens.get(key) {
        policies.report(key, Severity::Error, faults, KEPT);
        add(policies, key, &last.means);
        policies.accepted.tokens.insert(key.clone(), last.clone());
        return;
    }
    let places = Stance::read(&written, &key.namespace, root).places.unwrap_or_default();
    // What was meant for nobody refuses nobody.
    policies.report(key, Severity::Error, faults, if places.is_empty() { "" } else { REFUSING });
    // No AuthorizationPolicy has such a name.
    let name = format!("{}/RequestAuthentication:{}", key.namespace, key.name);
    policies.attached.push((key.clone(), Arc::new(policy::refuse_all(name, places))));
    policies.accepted.refused.insert(key.clone(), written);
}
