//! Two sources of one world: what a local file says, under what the control plane says (interop §11).

use std::collections::{HashMap, HashSet};

use super::{Snapshot, Update};
use crate::policy::PolicyKey;

/// What an update is about. Workloads and services share one space of names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Name {
    Address(String),
    Policy(PolicyKey),
}

impl Name {
    /// The name, and whether the update gives the resource rather than taking it away; none for what names no resource.
    fn of(update: &Update) -> Option<(Self, bool)> {
        let address = |name: &str| Self::Address(name.to_owned());
        Some(match update {
            Update::Workload(workload) => (address(workload.uid.as_str()), true),
            Update::Service(service) => (address(service.key.as_str()), true),
            Update::RefusedAddress(refused) => (address(&refused.name), true),
            Update::Policy(policy) => (Self::Policy(policy.key.clone()), true),
            Update::InvalidPolicy(rejected) => (Self::Policy(rejected.key.clone()), true),
            Update::RemoveAddress(name) => (address(name), false),
            Update::RemovePolicy(key) => (Self::Policy(key.clone()), false),
            Update::Complete => return None,
        })
    }

    fn removal(self) -> Update {
        match self {
            Self::Address(name) => Update::RemoveAddress(name),
            Self::Policy(key) => Update::RemovePolicy(key),
        }
    }
}

/// Which source has said what. The control plane wins; what it takes away is the file's again.
#[derive(Debug, Default)]
pub struct Layers {
    local: HashMap<Name, Update>,
    remote: HashSet<Name>,
    /// Names the control plane has given (true) or taken away since [`Layers::keep`].
    tentative: Vec<(Name, bool)>,
}

impl Layers {
    /// Two layers over a world in which the control plane has said all there is so far.
    #[must_use]
    pub fn over(snapshot: &Snapshot) -> Self {
        let (addresses, policies) = snapshot.resource_names();
        let policies = policies.iter().map(|name| Name::Policy(PolicyKey::of_resource(name)));
        Self {
            local: HashMap::new(),
            remote: addresses.into_iter().map(Name::Address).chain(policies).collect(),
            tentative: Vec::new(),
        }
    }

    /// What an update of the control plane does to the world.
    #[must_use]
    pub fn remote(&mut self, update: Update) -> Update {
        let Some((name, given)) = Name::of(&update) else { return update };
        let effect = if given { update } else { self.local.get(&name).cloned().unwrap_or(update) };
        let is_news = if given { self.remote.insert(name.clone()) } else { self.remote.remove(&name) };
        if is_news {
            self.tentative.push((name, given));
        }
        effect
    }

    /// What the control plane has said so far is in force.
    pub fn keep(&mut self) {
        self.tentative = Vec::new();
    }

    /// What the control plane has said since [`Layers::keep`] never came into force.
    pub fn discard(&mut self) {
        for (name, given) in std::mem::take(&mut self.tentative).into_iter().rev() {
            if given {
                self.remote.remove(&name);
            } else {
                self.remote.insert(name);
            }
        }
    }

    /// What a new version of the whole file does to the world.
    #[must_use]
    pub fn local(&mut self, file: Vec<Update>) -> Vec<Update> {
        let present = file.into_iter().filter_map(|update| Some((Name::of(&update)?.0, update))).collect();
        let before = std::mem::replace(&mut self.local, present);
        let gone = before.into_keys().filter(|name| !self.local.contains_key(name)).map(Name::removal);
        let given = self.local.values().cloned();
        // First what is given: a policy's successor under another name is there before it goes.
        let visible = |update: &Update| Name::of(update).is_some_and(|(name, _)| !self.remote.contains(&name));
        given.chain(gone).filter(visible).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::Policy;
    use crate::snapshot::World;
    use crate::testing;
    use crate::workload::Workload;

    /// One of four workloads or policies, in one of three versions.
    type Resource = (u8, u8);

    #[derive(Clone, Debug)]
    enum Step {
        File(BTreeMap<u8, u8>),
        Given(Resource),
        Taken(u8),
        /// Given or taken, and forgotten before it was published.
        Lost(Vec<(u8, Option<u8>)>),
    }

    fn update((which, version): Resource) -> Update {
        if which < 2 {
            let mut workload = testing::pod(&format!("w{which}"), &["10.0.0.1"]);
            workload.node = format!("v{version}");
            return Workload::try_from(workload).unwrap().into();
        }
        let message = fairway_proto::security::Authorization {
            name: format!("p{which}"),
            namespace: "shop".to_owned(),
            dry_run: version == 1,
            action: i32::from(version == 2),
            ..Default::default()
        };
        Policy::try_from(message).unwrap().into()
    }

    fn removal(which: u8) -> Update {
        Name::of(&update((which, 0))).unwrap().0.removal()
    }

    fn world_of(resources: &BTreeMap<u8, u8>) -> String {
        let mut world = World::new();
        let snapshot = world.apply(resources.iter().map(|(which, version)| update((*which, *version))).collect());
        serde_json::to_string(&crate::snapshot::Dump(&snapshot)).unwrap()
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            prop::collection::btree_map(0..4_u8, 0..3_u8, 0..4).prop_map(Step::File),
            (0..4_u8, 0..3_u8).prop_map(Step::Given),
            (0..4_u8).prop_map(Step::Taken),
            prop::collection::vec((0..4_u8, prop::option::of(0..3_u8)), 0..4).prop_map(Step::Lost),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order: the world is what the control plane says, and else what the file says.
        #[test]
        fn the_control_plane_wins_and_the_file_fills_in(
            early in prop::collection::btree_map(0..4_u8, 0..3_u8, 0..4),
            steps in prop::collection::vec(step(), 0..12),
        ) {
            let mut world = World::new();
            world.apply(early.iter().map(|(which, version)| update((*which, *version))).collect());
            let mut layers = Layers::over(&world.snapshot());
            let (mut file, mut remote) = (BTreeMap::new(), early);
            for step in steps {
                let batch = match step {
                    Step::File(resources) => {
                        let batch = layers.local(resources.iter().map(|(which, version)| update((*which, *version))).collect());
                        file = resources;
                        batch
                    }
                    Step::Lost(updates) => {
                        layers.keep();
                        for (which, version) in updates {
                            let effect = layers.remote(version.map_or_else(|| removal(which), |version| update((which, version))));
                            world.stage(effect);
                        }
                        world.discard();
                        layers.discard();
                        Vec::new()
                    }
                    Step::Given((which, version)) => {
                        remote.insert(which, version);
                        vec![layers.remote(update((which, version)))]
                    }
                    Step::Taken(which) => {
                        remote.remove(&which);
                        vec![layers.remote(removal(which))]
                    }
                };
                let snapshot = world.apply(batch);
                let mut expected = file.clone();
                expected.extend(remote.clone());
                prop_assert_eq!(serde_json::to_string(&crate::snapshot::Dump(&snapshot)).unwrap(), world_of(&expected));
            }
        }
    }
}
