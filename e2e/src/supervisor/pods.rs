//! What the supervisor tells the lab's Kubernetes of its pods, and what pods get from it.

use std::collections::BTreeMap;

use fairway_core::source::directory::Loaded;
use fairway_core::source::objects::is_terminating;
use k8s_openapi::api::core::v1::Pod;

use super::{PodRecord, Supervisor};
use crate::kubelet::{self, Fixed};
use crate::kubernetes::pods::{Report, State};
use crate::kubernetes::{self, Reports, control_plane};

impl PodRecord {
    /// Whether `pod` is the one that runs, and is to go on.
    pub(super) fn is(&self, pod: &Pod) -> bool {
        match kubernetes::uid(pod) {
            Some(uid) => uid == self.placement.uid && !is_terminating(pod),
            None => Fixed::of(pod) == self.fixed,
        }
    }
}

impl Supervisor {
    /// How every pod of the world is.
    pub(super) fn reports(&self, world: &Loaded) -> Reports {
        let mut reports = Reports::new();
        for (key, pod) in world.objects.whole_pods.iter() {
            let Some(uid) = kubernetes::uid(pod) else { continue };
            let said = match self.pods.get(key) {
                Some(record) if record.placement.uid == uid && record.tid.is_some() => {
                    Some(kubelet::pod_status(&record.placement, &record.progress))
                }
                Some(_) => None,
                None if is_terminating(pod) => {
                    reports.insert(key.clone(), Report { uid: uid.to_owned(), state: State::Ended });
                    None
                }
                None => self.component_status(world, key),
            };
            if let Some(mut said) = said {
                let state = State::Present(said["status"].take());
                reports.insert(key.clone(), Report { uid: uid.to_owned(), state });
            }
        }
        reports
    }

    /// What every container finds in its environment.
    pub(super) fn variables(&self) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::from([("PATH".to_owned(), self.config.path.clone())]);
        if self.kubernetes.is_some() {
            variables.extend(control_plane::variables());
        }
        variables
    }
}
