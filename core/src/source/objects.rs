//! The typed objects of a source, and questions every reader of them asks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod as WholePod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

use super::external_processor::ExternalProcessor;
use super::gateway::Gateway;
use super::istio::{AuthorizationPolicy, PeerAuthentication};
use super::istio_destination::DestinationRule;
use super::istio_network::{ServiceEntry, WorkloadEntry};
use super::istio_tokens::RequestAuthentication;
use super::istio_traffic::VirtualService;
use super::labels::HasLabels;
use super::rate_limit::RateLimit;
use super::reference_grant::ReferenceGrant;
use super::route::{GrpcRoute as GRPCRoute, HttpRoute as HTTPRoute, StreamRoute as TCPRoute, StreamRoute as TLSRoute};
use super::unserved::{Unserved as BackendTLSPolicy, Unserved as Telemetry};
use super::{Kind, MeshPod as Pod, MeshSlice as EndpointSlice, ObjectKey};
use crate::ordered::OrderedMap;

/// All objects of one kind; what does not change is shared between readings.
pub type ByKey<T> = OrderedMap<ObjectKey, Arc<T>>;

/// An object that is not read, because its kind means nothing to us.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnknownKind {
    /// File, relative to the root of the source.
    pub file: String,
    /// Its `apiVersion`.
    pub api_version: String,
    /// Its `kind`.
    pub kind: String,
    /// Its name, empty when it has none.
    pub name: String,
}

/// Defines [`Objects`] and [`Typed`], which have a place for each kind.
macro_rules! objects {
    ($($(#[doc = $doc:expr])+ $field:ident: $kind:ident),+ $(,)?) => {
        /// Everything a source says, by kind. Cheap to clone.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Objects {
            $($(#[doc = $doc])+ pub $field: ByKey<$kind>,)+
            /// Pods as they are written, in place of `pods`, for who runs them ([`super::Strip::Nothing`]).
            pub whole_pods: ByKey<WholePod>,
            /// Objects of kinds we do not read.
            pub unknown: Vec<UnknownKind>,
        }

        /// One typed object.
        #[derive(Clone, Debug, PartialEq)]
        pub(super) enum Typed {
            $($kind(Arc<$kind>),)+
            WholePod(Arc<WholePod>),
        }

        impl Objects {
            fn count(&self, kind: Kind) -> usize {
                if kind == Kind::Pod {
                    return self.pods.len() + self.whole_pods.len();
                }
                match kind {
                    $(Kind::$kind => self.$field.len(),)+
                }
            }

            pub(super) fn insert(&mut self, key: ObjectKey, object: Typed) {
                match object {
                    $(Typed::$kind(object) => drop(self.$field.insert(key, object)),)+
                    Typed::WholePod(object) => drop(self.whole_pods.insert(key, object)),
                }
            }

            /// Whether there is an object called `key`.
            #[must_use]
            pub fn has(&self, key: &ObjectKey) -> bool {
                match key.kind {
                    $(Kind::$kind => self.$field.contains_key(key),)+
                }
            }

            /// Takes an object out.
            #[cfg(feature = "cluster")]
            pub(super) fn remove(&mut self, key: &ObjectKey) -> Option<Typed> {
                match key.kind {
                    $(Kind::$kind => self.$field.remove(key).map(Typed::$kind),)+
                }
            }

            /// The object called `key`.
            #[cfg(feature = "cluster")]
            pub(super) fn get(&self, key: &ObjectKey) -> Option<Typed> {
                match key.kind {
                    $(Kind::$kind => self.$field.get(key).cloned().map(Typed::$kind),)+
                }
            }

            /// The kinds of which anything may be different in a reading that came of this one.
            #[must_use]
            pub fn changed_kinds(&self, newer: &Self) -> BTreeSet<Kind> {
                let kinds = [$((Kind::$kind, self.$field.is_same(&newer.$field)),)+];
                kinds.into_iter().filter(|(_, is_same)| !is_same).map(|(kind, _)| kind).collect()
            }

            /// The keys of all objects of one kind.
            #[cfg(feature = "cluster")]
            pub(super) fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
                match kind {
                    $(Kind::$kind => self.$field.keys().cloned().collect(),)+
                }
            }
        }
    };
}

objects! {
    /// Namespaces.
    namespaces: Namespace,
    /// Nodes.
    nodes: Node,
    /// Pods.
    pods: Pod,
    /// Services.
    services: Service,
    /// Service accounts.
    service_accounts: ServiceAccount,
    /// Addresses of services.
    endpoint_slices: EndpointSlice,
    /// Gateways, of which those of a waypoint class mean something.
    gateways: Gateway,
    /// HTTP routes.
    http_routes: HTTPRoute,
    /// gRPC routes.
    grpc_routes: GRPCRoute,
    /// Authorization policies.
    authorization_policies: AuthorizationPolicy,
    /// Peer authentications.
    peer_authentications: PeerAuthentication,
    /// Services that are not Kubernetes'.
    service_entries: ServiceEntry,
    /// Workloads that are not pods.
    workload_entries: WorkloadEntry,
    /// Istio's routes.
    virtual_services: VirtualService,
    /// Routes of connections.
    tcp_routes: TCPRoute,
    /// Routes of connections by the name that TLS clients ask for.
    tls_routes: TLSRoute,
    /// How TLS is spoken to services.
    backend_tls_policies: BackendTLSPolicy,
    /// Whose tokens are believed.
    request_authentications: RequestAuthentication,
    /// How endpoints are used, and parts of them.
    destination_rules: DestinationRule,
    /// What is measured and logged.
    telemetries: Telemetry,
    /// Which references into a namespace its owners allow.
    reference_grants: ReferenceGrant,
    /// What the network lets through.
    network_policies: NetworkPolicy,
    /// How many requests pass.
    rate_limits: RateLimit,
    /// Who sees requests and their answers, and changes them.
    external_processors: ExternalProcessor,
}

impl Objects {
    /// The namespace called `name`.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(&ObjectKey::new(Kind::Namespace, "", name))
    }

    /// The pod called `name` in `namespace`.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        self.pods.get(&ObjectKey::pod(namespace, name))
    }

    /// The value of a label of the namespace called `namespace`.
    #[must_use]
    pub fn namespace_label(&self, namespace: &str, key: &str) -> Option<&str> {
        label(&self.namespace(namespace)?.metadata, key)
    }

    /// The objects of one kind, which these must be, in a namespace.
    pub fn within<'a, T>(
        of_kind: &'a ByKey<T>,
        kind: Kind,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<T>)> + use<'a, T> {
        let first = ObjectKey { kind, namespace: namespace.to_owned(), name: String::new() };
        let namespace = namespace.to_owned();
        of_kind.range_from(&first).take_while(move |(key, _)| key.namespace == namespace)
    }

    /// How many objects there are of each kind, zero included.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        Kind::ALL.into_iter().map(|kind| (kind, self.count(kind))).collect()
    }
}

/// The value of the label `key`.
#[must_use]
pub fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.label(key)
}

/// The value of the annotation `key`.
#[must_use]
pub fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether every label of `selector` is on the object.
#[must_use]
pub fn matches_labels(object: &impl HasLabels, selector: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| object.label(key) == Some(value))
}

/// The addresses of a pod, the primary one first; text that is not an address is left out.
#[must_use]
pub fn pod_ips(pod: &WholePod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let single = status.pod_ip.as_deref();
    let several = status.pod_ips.iter().flatten().map(|entry| entry.ip.as_str());
    let mut addresses = Vec::new();
    for address in single.into_iter().chain(several).filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// The node a pod was placed on, once it was.
#[must_use]
pub fn node_name(pod: &WholePod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

/// The service account a pod runs as.
#[must_use]
pub fn service_account_name(pod: &WholePod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.as_deref())
        .filter(|account| !account.is_empty())
        .unwrap_or("default")
}

/// Whether the pod shares the network of its node.
#[must_use]
pub fn is_host_network(pod: &WholePod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// Whether the pod was asked to end but still runs.
#[must_use]
pub fn is_terminating(pod: &WholePod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod's condition `Ready` is true.
#[must_use]
pub fn is_ready(pod: &WholePod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
