//! A pod that its node has enrolled and the controller has not announced yet: what is known of it without being told.

use std::{net::IpAddr, sync::Arc};

use super::{Locality, NetworkMode, Protocol, Workload, WorkloadType, WorkloadUid};
use crate::{
    addr::NetworkAddress,
    ident::{Identity, TrustDomain},
    snapshot::{PodRef, Snapshot},
    workload::HealthStatus,
};

/// What a node proxy knows of the place it runs in, by its configuration.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Domain of the identities of its pods, if that is configured.
    pub trust_domain: Option<TrustDomain>,
    /// Name of the cluster.
    pub cluster_id: Arc<str>,
    /// Name of the network, unless the pods of the node have another one.
    pub network: Arc<str>,
}

impl Site {
    /// Who `pod` will be once it is announced: of the trust domain of the node's other pods, or of the configured one. None
    /// where it cannot be told.
    #[must_use]
    pub fn identity(&self, pod: &PodRef, snapshot: &Snapshot) -> Option<Identity> {
        let trust_domain = match neighbours(pod, snapshot).split_first() {
            None => self.trust_domain.as_ref()?.as_str(),
            Some((first, rest)) => {
                let agree = rest.iter().all(|other| other.trust_domain() == first.trust_domain());
                agree.then(|| first.trust_domain())?
            }
        };
        Identity::new(trust_domain, &pod.namespace, &pod.service_account).ok()
    }

    /// `pod`, which connects from `address`, as far as its node knows: enough to find what it connects to, and to ask for
    /// its certificate. Its services, its labels and its waypoint are not known.
    ///
    /// None where a guess might be wrong: the pods of the node disagree on their trust domain or on their network, which
    /// addresses belong to; or the controller has said something of this address that could not be understood.
    #[must_use]
    pub fn newcomer(&self, pod: &PodRef, address: IpAddr, snapshot: &Snapshot) -> Option<Workload> {
        if !snapshot.is_complete() {
            return None;
        }
        let identity = self.identity(pod, snapshot)?;
        let neighbours = neighbours(pod, snapshot);
        let network = match neighbours.split_first() {
            None => &self.network,
            Some((first, rest)) if rest.iter().all(|other| other.network == first.network) => &first.network,
            Some(_) => return None,
        };
        let address = address.to_canonical();
        if snapshot.refused_address(&NetworkAddress { network: Arc::clone(network), ip: address }).is_some() {
            return None;
        }
        let Self { cluster_id, .. } = self;
        Some(Workload {
            uid: WorkloadUid::new(format!("{cluster_id}//Pod/{}/{}", pod.namespace, pod.name)),
            name: Arc::clone(&pod.name),
            identity,
            addresses: [address].into(),
            hostname: None,
            network: Arc::clone(network),
            protocol: Protocol::Hbone,
            network_mode: NetworkMode::Standard,
            waypoint: None,
            network_gateway: None,
            node: pod.node.clone().unwrap_or_default(),
            // Empty is said as unknown; the pod's name would be a guess, and a metric series of its own.
            canonical_name: Arc::default(),
            canonical_revision: Arc::default(),
            workload_type: WorkloadType::Pod,
            workload_name: Arc::default(),
            native_tunnel: false,
            authorization_policies: Arc::default(),
            status: HealthStatus::Healthy,
            cluster_id: Arc::clone(cluster_id),
            services: Box::default(),
            application_tunnel: None,
            // That of the node.
            locality: neighbours.first().map_or_else(Arc::<Locality>::default, |first| Arc::clone(&first.locality)),
            capacity: 1,
            extensions: Box::default(),
        })
    }
}

/// What is known of the pod's node.
fn neighbours<'a>(pod: &PodRef, snapshot: &'a Snapshot) -> &'a [Arc<Workload>] {
    pod.node.as_deref().map_or(&[], |node| snapshot.workloads_on(node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        snapshot::{RefusedResource, Update, World},
        testing::{pod, workload},
    };
    use fairway_proto::workload as proto;

    const ADDRESS: &str = "10.0.0.9";

    fn site() -> Site {
        Site {
            trust_domain: TrustDomain::new("east.example").ok(),
            cluster_id: "east".into(),
            network: "configured".into(),
        }
    }

    fn enrolled() -> PodRef {
        PodRef {
            node: Some("n1".into()),
            namespace: "shop".into(),
            name: "web-0".into(),
            service_account: "web".into(),
        }
    }

    fn neighbour(name: &str, network: &str) -> Workload {
        let locality = proto::Locality { zone: "z1".to_owned(), ..Default::default() };
        workload(proto::Workload {
            node: "n1".to_owned(),
            network: network.to_owned(),
            locality: Some(locality),
            ..pod(name, &[])
        })
    }

    fn newcomer(snapshot: &Snapshot) -> Option<Workload> {
        site().newcomer(&enrolled(), ADDRESS.parse().unwrap(), snapshot)
    }

    #[test]
    fn a_newcomer_is_what_its_node_and_its_neighbours_say() {
        let alone = newcomer(&World::complete().snapshot()).unwrap();
        assert_eq!(alone.identity.as_str(), "spiffe://east.example/ns/shop/sa/web");
        assert_eq!((alone.uid.as_str(), &*alone.network), ("east//Pod/shop/web-0", "configured"));
        assert_eq!(*alone.addresses, [ADDRESS.parse::<IpAddr>().unwrap()]);

        let elsewhere =
            workload(proto::Workload { node: "n2".to_owned(), network: "far".to_owned(), ..pod("other", &[]) });
        let world = vec![neighbour("a", "near").into(), neighbour("b", "near").into(), elsewhere.into()];
        let among = newcomer(&World::complete().apply(world)).unwrap();
        assert_eq!((&*among.network, &*among.locality.zone), ("near", "z1"));
        assert_eq!(
            among.identity.as_str(),
            "spiffe://cluster.local/ns/shop/sa/web",
            "theirs is what the controller says"
        );
    }

    #[test]
    fn where_a_guess_might_be_wrong_nobody_is_made_up() {
        assert_eq!(newcomer(&World::new().snapshot()), None, "nothing is known yet");

        let divided = vec![neighbour("a", "near").into(), neighbour("b", "far").into()];
        assert_eq!(newcomer(&World::complete().apply(divided)), None, "neighbours disagree on the network");

        let migrating = proto::Workload {
            node: "n1".to_owned(),
            trust_domain: "old.example".to_owned(),
            network: "near".to_owned(),
            ..pod("old", &[])
        };
        let migrating = vec![neighbour("a", "near").into(), workload(migrating).into()];
        assert_eq!(newcomer(&World::complete().apply(migrating)), None, "neighbours disagree on the trust domain");

        let unnamed = Site { trust_domain: None, ..site() };
        let snapshot = World::complete().snapshot();
        assert_eq!(
            unnamed.newcomer(&enrolled(), ADDRESS.parse().unwrap(), &snapshot),
            None,
            "nobody names a trust domain"
        );

        let refused = proto::Workload { network: "configured".to_owned(), ..pod("web-0", &[ADDRESS]) };
        let refused = Update::RefusedAddress(Box::new(RefusedResource::workload("east//Pod/shop/web-0", &refused)));
        assert_eq!(newcomer(&World::complete().apply(vec![refused])), None, "not understood");

        let nameless = PodRef { service_account: "".into(), ..enrolled() };
        let snapshot = World::complete().snapshot();
        assert_eq!(site().newcomer(&nameless, ADDRESS.parse().unwrap(), &snapshot), None, "no such identity");
    }
}
