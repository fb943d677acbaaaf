//! The kinds of objects that are read, and what the Kubernetes API calls them.

use std::fmt;

use serde::Serialize;

/// The kinds a source understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Kind {
    /// Core `v1`, cluster scoped.
    Namespace,
    /// Core `v1`, cluster scoped.
    Node,
    /// Core `v1`.
    Pod,
    /// Core `v1`.
    Service,
    /// Core `v1`.
    ServiceAccount,
    /// `discovery.k8s.io/v1`.
    EndpointSlice,
    /// `gateway.networking.k8s.io`, `v1` or `v1beta1`.
    Gateway,
    /// `gateway.networking.k8s.io`, `v1` or `v1beta1`.
    HTTPRoute,
    /// `gateway.networking.k8s.io/v1`.
    GRPCRoute,
    /// `security.istio.io`, `v1` or `v1beta1`.
    AuthorizationPolicy,
    /// `security.istio.io`, `v1` or `v1beta1`.
    PeerAuthentication,
    /// `networking.istio.io`, `v1` or `v1beta1`.
    ServiceEntry,
    /// `networking.istio.io`, `v1` or `v1beta1`.
    WorkloadEntry,
    /// `networking.istio.io`, `v1` or `v1beta1`.
    VirtualService,
    /// `gateway.networking.k8s.io`, `v1` or `v1alpha2`.
    TCPRoute,
    /// `gateway.networking.k8s.io`, `v1`, `v1alpha3` or `v1alpha2`.
    TLSRoute,
    /// `gateway.networking.k8s.io`, `v1` or `v1alpha3`.
    BackendTLSPolicy,
    /// `security.istio.io`, `v1` or `v1beta1`.
    RequestAuthentication,
    /// `networking.istio.io`, `v1` or `v1beta1`.
    DestinationRule,
    /// `telemetry.istio.io`, `v1` or `v1alpha1`.
    Telemetry,
    /// `gateway.networking.k8s.io`, `v1` or `v1beta1`.
    ReferenceGrant,
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `fairway.dev/v1alpha1`.
    RateLimit,
    /// `fairway.dev/v1alpha1`.
    ExternalProcessor,
}

impl Kind {
    /// Every kind, in the order they are listed to people.
    pub const ALL: [Self; 24] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::ServiceAccount,
        Self::EndpointSlice,
        Self::Gateway,
        Self::HTTPRoute,
        Self::GRPCRoute,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::VirtualService,
        Self::TCPRoute,
        Self::TLSRoute,
        Self::BackendTLSPolicy,
        Self::RequestAuthentication,
        Self::DestinationRule,
        Self::Telemetry,
        Self::ReferenceGrant,
        Self::NetworkPolicy,
        Self::RateLimit,
        Self::ExternalProcessor,
    ];

    /// The `kind` field of such an object.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::ServiceAccount => "ServiceAccount",
            Self::EndpointSlice => "EndpointSlice",
            Self::Gateway => "Gateway",
            Self::HTTPRoute => "HTTPRoute",
            Self::GRPCRoute => "GRPCRoute",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::VirtualService => "VirtualService",
            Self::TCPRoute => "TCPRoute",
            Self::TLSRoute => "TLSRoute",
            Self::BackendTLSPolicy => "BackendTLSPolicy",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::DestinationRule => "DestinationRule",
            Self::Telemetry => "Telemetry",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::RateLimit => "RateLimit",
            Self::ExternalProcessor => "ExternalProcessor",
        }
    }

    /// What paths of the Kubernetes API call objects of this kind.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::Service => "services",
            Self::ServiceAccount => "serviceaccounts",
            Self::EndpointSlice => "endpointslices",
            Self::Gateway => "gateways",
            Self::HTTPRoute => "httproutes",
            Self::GRPCRoute => "grpcroutes",
            Self::AuthorizationPolicy => "authorizationpolicies",
            Self::PeerAuthentication => "peerauthentications",
            Self::ServiceEntry => "serviceentries",
            Self::WorkloadEntry => "workloadentries",
            Self::VirtualService => "virtualservices",
            Self::TCPRoute => "tcproutes",
            Self::TLSRoute => "tlsroutes",
            Self::BackendTLSPolicy => "backendtlspolicies",
            Self::RequestAuthentication => "requestauthentications",
            Self::DestinationRule => "destinationrules",
            Self::Telemetry => "telemetries",
            Self::ReferenceGrant => "referencegrants",
            Self::NetworkPolicy => "networkpolicies",
            Self::RateLimit => "ratelimits",
            Self::ExternalProcessor => "externalprocessors",
        }
    }

    /// The API group; empty for the core group.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::Service | Self::ServiceAccount => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::NetworkPolicy => "networking.k8s.io",
            Self::Gateway
            | Self::HTTPRoute
            | Self::GRPCRoute
            | Self::TCPRoute
            | Self::TLSRoute
            | Self::BackendTLSPolicy
            | Self::ReferenceGrant => "gateway.networking.k8s.io",
            Self::AuthorizationPolicy | Self::PeerAuthentication | Self::RequestAuthentication => "security.istio.io",
            Self::ServiceEntry | Self::WorkloadEntry | Self::VirtualService | Self::DestinationRule => {
                "networking.istio.io"
            }
            Self::Telemetry => "telemetry.istio.io",
            Self::RateLimit | Self::ExternalProcessor => "fairway.dev",
        }
    }

    /// The versions of the group that are read; the first one is what we write.
    #[must_use]
    pub fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::Service | Self::ServiceAccount | Self::EndpointSlice => {
                &["v1"]
            }
            Self::GRPCRoute | Self::NetworkPolicy => &["v1"],
            Self::Gateway
            | Self::HTTPRoute
            | Self::AuthorizationPolicy
            | Self::PeerAuthentication
            | Self::ServiceEntry
            | Self::WorkloadEntry
            | Self::VirtualService
            | Self::RequestAuthentication
            | Self::DestinationRule
            | Self::ReferenceGrant => &["v1", "v1beta1"],
            Self::TCPRoute => &["v1", "v1alpha2"],
            Self::TLSRoute => &["v1", "v1alpha3", "v1alpha2"],
            Self::BackendTLSPolicy => &["v1", "v1alpha3"],
            Self::Telemetry => &["v1", "v1alpha1"],
            Self::RateLimit | Self::ExternalProcessor => &["v1alpha1"],
        }
    }

    /// The `apiVersion` field we write for such an object.
    #[must_use]
    pub fn api_version(self) -> String {
        let version = self.versions().first().copied().unwrap_or("v1");
        if self.group().is_empty() { version.to_owned() } else { format!("{}/{version}", self.group()) }
    }

    /// Whether objects of this kind live in a namespace.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }

    /// Whether objects of this kind restrict who may talk to whom, how much, and what comes of it.
    #[must_use]
    pub fn is_policy(self) -> bool {
        matches!(
            self,
            Self::AuthorizationPolicy
                | Self::PeerAuthentication
                | Self::RequestAuthentication
                | Self::RateLimit
                | Self::ExternalProcessor
        )
    }

    /// Whether objects of this kind say which requests go where.
    #[must_use]
    pub fn is_route(self) -> bool {
        matches!(self, Self::HTTPRoute | Self::GRPCRoute | Self::TCPRoute | Self::TLSRoute | Self::VirtualService)
    }

    /// Whether this kind is a custom resource, which a cluster may not have.
    #[must_use]
    pub fn is_custom(self) -> bool {
        !self.group().is_empty() && !matches!(self, Self::EndpointSlice | Self::NetworkPolicy)
    }

    /// Whether nothing but the metadata of such objects means anything to us.
    #[must_use]
    pub fn is_metadata_only(self) -> bool {
        matches!(self, Self::Namespace | Self::Node | Self::ServiceAccount)
    }

    /// The kind called `name` in `group`, when we understand it.
    #[must_use]
    pub fn find(group: &str, name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.group() == group && kind.as_str() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
