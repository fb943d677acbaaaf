//! What one pod may see: itself and the policies that apply to it. Equal views wake nobody.

mod policies;

use std::sync::Arc;

pub use self::policies::Policies;
pub(crate) use self::policies::{Asked, Who};
use crate::{
    ident::Identity,
    policy::{Action, Applied},
    route,
    snapshot::Snapshot,
    workload::Workload,
};

/// Everything that decides about connections to one pod.
///
/// Equality asks the pointers first; a snapshot keeps those of unchanged objects, so equal views cost a few comparisons.
#[derive(Debug, Clone)]
pub struct PodView {
    /// The pod's workload; none while the controller has not announced it.
    pub workload: Option<Arc<Workload>>,
    /// In the order they are asked: rehearsed DENY, DENY, refusing ones, rehearsed ALLOW, ALLOW; then by key.
    pub policies: Policies,
    /// The waypoints of the pod, in order: they are believed for whom they speak.
    pub waypoints: Arc<[Identity]>,
}

impl PodView {
    /// The view of a pod that is not known: nothing may reach it.
    #[must_use]
    pub fn unknown() -> Self {
        Self { workload: None, policies: Policies::default(), waypoints: Arc::default() }
    }

    /// The view of a workload: policies of the mesh, of its namespace, and those it lists; and its waypoints.
    #[must_use]
    pub(crate) fn of(snapshot: &Snapshot, workload: Option<Arc<Workload>>) -> Self {
        let Some(workload) = workload else { return Self::unknown() };
        let listed = workload.authorization_policies.iter().filter_map(|key| snapshot.listed(key));
        let mut policies: Vec<Applied> = snapshot.unlisted(workload.namespace()).cloned().chain(listed).collect();
        policies.sort_by(|left, right| stage(left).cmp(&stage(right)).then_with(|| left.key().cmp(right.key())));
        // A listed policy may cover the namespace as well.
        policies.dedup_by(|left, right| left.key() == right.key());
        let waypoints = route::waypoints(snapshot, &workload);
        Self { workload: Some(workload), policies: policies.into(), waypoints }
    }
}

impl PartialEq for PodView {
    fn eq(&self, other: &Self) -> bool {
        let same_workload = match (&self.workload, &other.workload) {
            (Some(left), Some(right)) => Arc::ptr_eq(left, right) || left == right,
            (None, None) => true,
            _ => false,
        };
        same_workload && self.policies == other.policies && self.waypoints == other.waypoints
    }
}

impl Eq for PodView {}

/// When a policy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    RehearsedDeny,
    Deny,
    Refusing,
    RehearsedAllow,
    Allow,
}

pub(crate) fn stage(applied: &Applied) -> Stage {
    match applied {
        Applied::Refusing { .. } => Stage::Refusing,
        Applied::Known(policy) => match (policy.action, policy.dry_run) {
            (Action::Deny, true) => Stage::RehearsedDeny,
            (Action::Deny, false) => Stage::Deny,
            (Action::Allow, true) => Stage::RehearsedAllow,
            (Action::Allow, false) => Stage::Allow,
        },
    }
}
