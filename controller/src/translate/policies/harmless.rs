//! Policies that are no matter of who may do what: the last good version of each stays in force, and one that was never valid does
//! nothing, as refusing everything would be the worse mistake.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_core::source::objects::ByKey;
use fairway_core::source::{Kind, ObjectKey};
use serde_json::Value;

use super::super::{Fault, Severity};
use super::{Good, KEPT, Policies};

/// All of one kind.
pub(super) struct Harmless<'a, O, P> {
    pub(super) kind: Kind,
    pub(super) objects: &'a ByKey<O>,
    /// The last good versions.
    pub(super) previous: &'a BTreeMap<ObjectKey, Good<O, P>>,
    /// Whether what one of these was once read as can still be done.
    pub(super) holds: &'a dyn Fn(&P) -> bool,
    /// What follows from one that was never valid, or whose last version does not hold any more.
    pub(super) without: &'static str,
}

/// What they come to, and the versions to which that is true.
pub(super) type InForce<O, P> = (Vec<(ObjectKey, Arc<P>)>, BTreeMap<ObjectKey, Good<O, P>>);

impl<O, P> Harmless<'_, O, P> {
    /// Translates all of them by `read`, and reports to `policies` what is wrong.
    pub(super) fn translate(
        &self,
        policies: &mut Policies,
        rejected: &BTreeMap<ObjectKey, Arc<Value>>,
        read: impl Fn(&O) -> Result<P, Vec<Fault>>,
    ) -> InForce<O, P> {
        let mut in_force = (Vec::new(), BTreeMap::new());
        for (key, object) in self.objects.iter() {
            match read(object) {
                Ok(means) => keep(&mut in_force, key, Good { object: Arc::clone(object), means: Arc::new(means) }),
                Err(faults) => self.broken(policies, &mut in_force, key, faults),
            }
        }
        for key in rejected.keys().filter(|key| key.kind == self.kind && !self.objects.contains_key(key)) {
            // The source reports what is wrong with it.
            let unread = Fault { field: String::new(), message: "cannot be read".to_owned() };
            let faults = if self.previous.contains_key(key) { Vec::new() } else { vec![unread] };
            self.broken(policies, &mut in_force, key, faults);
        }
        in_force
    }

    fn broken(&self, policies: &mut Policies, in_force: &mut InForce<O, P>, key: &ObjectKey, faults: Vec<Fault>) {
        let Some(last) = self.previous.get(key).filter(|last| (self.holds)(&last.means)) else {
            return policies.report(key, Severity::Error, faults, self.without);
        };
        policies.report(key, Severity::Error, faults, KEPT);
        keep(in_force, key, last.clone());
    }
}

fn keep<O, P>((means, accepted): &mut InForce<O, P>, key: &ObjectKey, good: Good<O, P>) {
    means.push((key.clone(), Arc::clone(&good.means)));
    accepted.insert(key.clone(), good);
}
