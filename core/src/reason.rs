//! The closed set of outcomes: one reason per connection feeds log, metric, status code and `fairway why`.

use std::fmt;

use serde::{Serialize, Serializer};

/// Istio's `response_flags` metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResponseFlag {
    /// Nothing to report.
    None,
    /// Authorization denied.
    Deny,
    /// The next hop could not be reached.
    Connect,
    /// The TLS handshake failed.
    TlsFailure,
    /// The HTTP/2 handshake failed.
    H2HandshakeFailure,
    /// Something on the path seems to block the tunnel's port.
    NetworkPolicy,
    /// No certificate for the workload.
    IdentityError,
    /// A certificate of the peer's chain was revoked.
    CertRevoked,
}

impl ResponseFlag {
    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
            Self::CertRevoked => "CERT_REVOKED",
        }
    }
}

impl fmt::Display for ResponseFlag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

macro_rules! reasons {
    ($($(#[doc = $message:literal])+ $name:ident = $label:literal, $flag:ident, $status:literal, $hint:literal;)+) => {
        /// Why a connection ended, or was never begun.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $message])+ $name,)+
        }

        impl Reason {
            /// Every reason, in the order of the reference page.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The stable name in logs and metrics, in snake case.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// One sentence that says what happened.
            #[must_use]
            pub fn message(self) -> &'static str {
                match self { $(Self::$name => concat!($($message,)+).trim_ascii(),)+ }
            }

            /// What the operator should do about it.
            #[must_use]
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$name => $hint,)+ }
            }

            /// The value of Istio's `response_flags` label.
            #[must_use]
            pub const fn response_flag(self) -> ResponseFlag {
                match self { $(Self::$name => ResponseFlag::$flag,)+ }
            }

            /// The status that answers a CONNECT request refused for this reason.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }
        }
    };
}

reasons! {
    /// The connection ended as its two ends wanted.
    Ok = "ok", None, 200, "Nothing to do.";

    /// A DENY policy matched the connection.
    PolicyDenied = "policy_denied", Deny, 401,
        "Read the policy that is named; if the connection should pass, exempt its identity, address or port there. One with the action CUSTOM denies all that it matches while the mesh configuration has no provider of the name that it says.";
    /// ALLOW policies apply to the workload and none of them matched the connection.
    PolicyNotAllowed = "policy_not_allowed", Deny, 401,
        "Add the peer's identity to an ALLOW policy of this workload; behind a waypoint its own counts, and that of the client for whom it speaks, and a plaintext peer has no identity.";
    /// The workload names a policy that has not arrived, so the connection is refused rather than let through.
    PolicyUnknown = "policy_unknown", Deny, 401,
        "Usually over in moments. If it lasts, see whether the controller serves the policy that is named and whether this proxy's stream is in sync.";
    /// A policy that applies to the workload cannot be understood, so the connection is refused rather than let through.
    PolicyInvalid = "policy_invalid", Deny, 401,
        "Correct the policy that is named; the proxy's log and the policy's status say which field is wrong.";
    /// The connection was plaintext and the workload accepts mutual TLS only (STRICT).
    StrictPlaintext = "strict_plaintext", Deny, 401,
        "Enrol the client's namespace or pod in the mesh, or set PeerAuthentication to PERMISSIVE for this workload or port.";
    /// The token of a request is not one that its issuer stands by now.
    TokenInvalid = "token_invalid", Deny, 401,
        "The answer's www-authenticate and the proxy's log say what is wrong; compare issuer, keys and times of the token with the RequestAuthentication.";
    /// The token of a request is meant for somebody else.
    TokenAudience = "token_audience", Deny, 401,
        "Ask the issuer for a token of this audience, or add the token's aud to the audiences of the RequestAuthentication.";
    /// The authorizer that a policy asks has refused the request.
    AuthorizerRefused = "authorizer_refused", Deny, 401,
        "Ask the authorizer's own log why; the AuthorizationPolicy with action CUSTOM says which requests it is asked about.";
    /// The authorizer that a policy asks did not answer, so the request is refused rather than let through.
    AuthorizerFailed = "authorizer_failed", Deny, 401,
        "See whether the provider's service in the mesh configuration has ready pods and answers in time; the log says what failed.";
    /// The connection came around the waypoint that it should have come through.
    WaypointBypassed = "waypoint_bypassed", Deny, 401,
        "See whether the client's node proxy is in sync with the controller: it sends to the waypoint by itself. Where gateways or others must come directly, set FAIRWAY_WAYPOINT_BYPASS=true on the node proxy.";
    /// The local workload is not known to the controller, so nothing can be decided for it.
    WorkloadUnknown = "workload_unknown", None, 503,
        "See whether the controller serves this pod and whether the proxy's stream to it is up.";

    /// A pod asked one of the proxy's own ports on loopback, which would loop.
    SelfCall = "self_call", None, 503,
        "The application dials 15001, 15006 or 15008 on localhost; these ports belong to the mesh.";
    /// The target port belongs to the proxy itself.
    IllegalPort = "illegal_port", None, 503,
        "Ports 15001, 15006 and 15008 cannot be application ports in an enrolled pod; choose another.";
    /// The service, or the waypoint or gateway on the way to it, has no endpoint that could take the connection.
    NoHealthyUpstream = "no_healthy_upstream", Connect, 503,
        "See whether the service declares this port, its pods are ready, and its traffic distribution leaves an endpoint in reach; where the log names a waypoint, whether that one has ready pods.";
    /// The waypoint that must handle the traffic is not known, and it must not be bypassed.
    UnknownWaypoint = "unknown_waypoint", Connect, 503,
        "See whether the Gateway that istio.io/use-waypoint names exists, is programmed and has ready pods.";
    /// The control plane did not say in time what the destination is, so it is refused rather than spoken to in plaintext.
    DestinationUnknown = "destination_unknown", Connect, 503,
        "See whether the proxy's stream to the control plane is up; where destinations are asked for one by one (XDS_ON_DEMAND), new ones cannot be reached without it.";
    /// What the controller says about the destination cannot be understood, so it is refused rather than spoken to in plaintext.
    ResourceInvalid = "resource_invalid", Connect, 503,
        "The workload or service that is named was rejected; the proxy's log says which field is wrong. Controller and proxy may be of different versions.";
    /// The endpoint is on another network and cannot be reached from here.
    WrongNetwork = "wrong_network", Connect, 503,
        "Only services reach other networks, and only through an east-west gateway that the controller names for the network, to identities it lists for the service.";
    /// The gateway of the endpoint's network is not known, and there is no other way there.
    UnknownGateway = "unknown_gateway", Connect, 503,
        "See whether the remote network's Gateway exists, has an address, and is announced by the controller.";
    /// The endpoint has only a hostname and the name could not be resolved.
    DnsFailed = "dns_failed", Connect, 503,
        "See whether the host of the ServiceEntry or WorkloadEntry resolves with the DNS servers of the node proxy, or of the waypoint where there is one.";

    /// The application did not accept the connection.
    ApplicationConnectFailed = "application_connect_failed", Connect, 503,
        "See whether the application listens on this port, and on the pod's address rather than on localhost only.";
    /// The application did not answer the connection in time.
    ApplicationConnectTimeout = "application_connect_timeout", Connect, 503,
        "The application's listen queue may be full, or a NetworkPolicy or firewall in the pod may drop its port.";
    /// The destination could not be reached in plaintext.
    UpstreamConnectFailed = "upstream_connect_failed", Connect, 503,
        "The destination is outside the mesh and refused or was unreachable; see its own state and the routes to it.";
    /// The destination did not answer a plaintext connection in time.
    UpstreamConnectTimeout = "upstream_connect_timeout", Connect, 503,
        "The destination is outside the mesh and did not answer; see whether a NetworkPolicy or firewall drops the traffic.";
    /// The peer's tunnel port could not be reached.
    TunnelConnectFailed = "tunnel_connect_failed", Connect, 503,
        "See whether the node proxy on the destination's node runs and still has the pod enrolled; a NetworkPolicy or firewall that rejects TCP port 15008 looks the same.";
    /// The peer's tunnel port did not answer in time.
    TunnelConnectTimeout = "tunnel_connect_timeout", NetworkPolicy, 503,
        "A NetworkPolicy or firewall may block TCP port 15008 between the pods; allow it next to the application's own port.";

    /// The TLS handshake with the peer failed.
    TlsHandshakeFailed = "tls_handshake_failed", TlsFailure, 503,
        "See the error in the log: usually something that is not the mesh listens on or dials port 15008, or TLS versions differ. Of a server outside of the mesh, its certificate is not what the DestinationRule asks for.";
    /// The peer proved to be someone else than the workload that was meant.
    PeerIdentityMismatch = "peer_identity_mismatch", TlsFailure, 503,
        "The pod behind the address may just have been replaced; if it lasts, compare its service account with what the controller announces.";
    /// The peer's certificate does not lead to a root that is trusted, or is of another trust domain.
    PeerUntrusted = "peer_untrusted", TlsFailure, 503,
        "Both ends need the same root and trust domain, and certificates that have not expired; compare them, the nodes' clocks too, and see whether a root rotation is half done.";
    /// The client offered no certificate.
    ClientCertificateMissing = "client_certificate_missing", TlsFailure, 503,
        "Only members of the mesh may use port 15008; clients outside must use the application's own port.";
    /// A certificate of the peer's chain is revoked.
    CertificateRevoked = "certificate_revoked", CertRevoked, 503,
        "Restart the peer so that it gets a new certificate, and find out why the old one was revoked.";
    /// The certificates that the tunnel was opened with expired, and the connection did not end in the time it was given.
    TunnelExpired = "tunnel_expired", None, 503,
        "Let the application renew connections that it would keep for days; a new one works at once.";
    /// There is no valid certificate for the workload.
    CertificateUnavailable = "certificate_unavailable", IdentityError, 503,
        "The log has the certificate authority's last error; see whether it is up and lets this node ask for the workload's identity, which istiod grants for pods of the node only.";
    /// Files of roots, of a certificate or of a key are missing or unusable that TLS with a server outside of the mesh needs.
    TlsFilesUnusable = "tls_files_unusable", IdentityError, 503,
        "The log names the file and what is wrong with it. It has to be in the waypoint's pod: see the annotation fairway.dev/secrets of its Gateway, and the DestinationRule that names the file.";
    /// The tunnel's HTTP/2 connection failed.
    Http2Failed = "http2_failed", H2HandshakeFailure, 503,
        "See the error in the log: the peer may speak no HTTP/2 on port 15008, or the connection broke.";
    /// The peer refused the tunnel with a status other than 200.
    TunnelRefused = "tunnel_refused", Connect, 503,
        "The log has the status: 401 is a policy at the destination, 400 a stale address, 503 an application that is down; the peer's log has its reason.";

    /// The request could be read in two ways or is not carried: in a tunnel, anything but a CONNECT with a usable authority.
    BadRequest = "bad_request", None, 400,
        "Of a request, see what the log says is wrong with its framing, path or host. On port 15008, only tunnels of mesh proxies are served: CONNECT to an address or hostname with a port.";
    /// The head of the request is longer than its limit, or has more headers.
    HeadersTooLarge = "headers_too_large", None, 400,
        "Find what grows in the client's requests, usually cookies or tokens; if they are legitimate, raise REQUEST_HEAD or REQUEST_HEADERS of the waypoint.";
    /// The tunnel names another address than the one it came to.
    AuthorityMismatch = "authority_mismatch", None, 400,
        "The client's picture of the mesh is stale, or it tries to reach another pod through this one.";
    /// The tunnel names a hostname or service port that the workload does not serve.
    UnknownAuthority = "unknown_authority", None, 503,
        "See whether the service that is named exists, declares the port, and selects this pod.";
    /// No route of the service matches the request.
    RouteNotFound = "route_not_found", None, 503,
        "See the HTTPRoute or GRPCRoute objects that are attached to the service; one without matches takes every request.";
    /// The route itself says to answer so: what it asks for cannot be done, or it is no more than an answer.
    RouteRefuses = "route_refuses", None, 503,
        "The conditions of the route that is named say what of it cannot be done.";
    /// The route itself is the answer: a redirect, a text, or what a browser asks beforehand.
    RouteAnswered = "route_answered", None, 503,
        "Nothing to do; the filters of the route that is named say so.";
    /// The route makes requests fail on purpose, to see how clients bear it.
    FaultInjected = "fault_injected", None, 503,
        "Nothing to do while somebody tests; the fault of the route that is named ends it.";
    /// More requests came than a rate limit lets through.
    RateLimited = "rate_limited", None, 503,
        "Let the client wait as long as retry-after says; if the load is legitimate, raise the RateLimit of the service or route.";
    /// The service that counts requests for several proxies did not answer, and its provider is said to refuse them then.
    RateLimiterFailed = "rate_limiter_failed", None, 503,
        "See whether the provider's service in the mesh configuration has ready pods and answers in time; the log says what failed.";
    /// The external processor that sees the request did not answer, or said what cannot be done, and its provider is said to refuse requests then.
    ProcessorFailed = "processor_failed", None, 503,
        "See whether the provider's service in the mesh configuration has ready pods and answers in time; the log says what failed, and what of an answer cannot be done.";
    /// The external processor that sees the request has answered it itself.
    ProcessorAnswered = "processor_answered", None, 503,
        "The answer is the processor's; its own log knows why, and the ExternalProcessor of the service or route says who it is.";
    /// The endpoint has answered in a way that nobody can read, or that could be read in two ways.
    AnswerMalformed = "answer_malformed", None, 503,
        "Ask the endpoint without a proxy and compare the answer with what the log says is wrong with it: its framing, its length, or a head longer than ANSWER_HEAD and ANSWER_HEADERS of the waypoint.";
    /// The client left before its request was answered.
    ClientLeft = "client_left", None, 503,
        "Nothing to do if users cancel; otherwise compare the client's timeout with how long requests take.";

    /// The proxy is shutting down and the connection did not end in time.
    Draining = "draining", None, 503,
        "Raise the termination grace period if long-lived connections should have more time to move.";
    /// The pod was removed from the mesh or deleted.
    WorkloadRemoved = "workload_removed", None, 503,
        "Nothing to do if the pod was deleted or un-enrolled on purpose.";
    /// One of the two ends reset the connection.
    ResetByPeer = "reset_by_peer", None, 503,
        "See the application at the end that reset; the log says which one.";
    /// An operation of the connection took longer than its bound.
    TimedOut = "timed_out", None, 503,
        "The log names the bound: of a route it is in timeouts of the HTTPRoute or timeout of the VirtualService, and anything else is a limit that can be raised.";
    /// Nothing moved on the connection for as long as its bound allows.
    IdleTimeout = "idle_timeout", None, 503,
        "Let the application send keepalives, or raise the idle limit.";
    /// A limit on connections or streams is reached.
    ConnectionLimit = "connection_limit", None, 503,
        "The log and the metric name the limit; raise it if the load is legitimate.";
    /// There are no more file descriptors, local ports or memory.
    ResourceLimit = "resource_limit", Connect, 503,
        "The log says which: raise the proxy's limit on open files (ulimit -n), net.ipv4.ip_local_port_range of the pod, the proxy's memory limit, or the node's memory.";
    /// The proxy could not do what it must be able to do.
    Internal = "internal", None, 503,
        "This should not happen; the log has the error, please report it.";
}

impl Reason {
    /// The reason with this label, for what another proxy reports.
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.label() == label)
    }

    /// The nearest error type of RFC 9209 §2.3, for clients that know nothing of this list.
    #[must_use]
    pub const fn proxy_error(self) -> &'static str {
        match self {
            Self::DnsFailed => "dns_error",
            Self::UnknownAuthority
            | Self::WorkloadUnknown
            | Self::UnknownWaypoint
            | Self::DestinationUnknown
            | Self::UnknownGateway
            | Self::RouteNotFound => "destination_not_found",
            Self::NoHealthyUpstream | Self::TunnelRefused => "destination_unavailable",
            Self::WrongNetwork => "destination_ip_unroutable",
            Self::ApplicationConnectFailed | Self::UpstreamConnectFailed | Self::TunnelConnectFailed => {
                "connection_refused"
            }
            Self::ApplicationConnectTimeout | Self::UpstreamConnectTimeout | Self::TunnelConnectTimeout => {
                "connection_timeout"
            }
            Self::ResetByPeer | Self::TunnelExpired | Self::Draining | Self::WorkloadRemoved => "connection_terminated",
            Self::IdleTimeout => "connection_read_timeout",
            Self::ConnectionLimit | Self::ResourceLimit => "connection_limit_reached",
            Self::TlsHandshakeFailed => "tls_protocol_error",
            Self::PeerIdentityMismatch
            | Self::PeerUntrusted
            | Self::ClientCertificateMissing
            | Self::CertificateRevoked => "tls_certificate_error",
            Self::Http2Failed | Self::AnswerMalformed => "http_protocol_error",
            Self::TimedOut => "http_response_timeout",
            Self::BadRequest | Self::HeadersTooLarge | Self::AuthorityMismatch | Self::ClientLeft => {
                "http_request_error"
            }
            Self::PolicyDenied
            | Self::PolicyNotAllowed
            | Self::PolicyUnknown
            | Self::PolicyInvalid
            | Self::StrictPlaintext
            | Self::TokenInvalid
            | Self::TokenAudience
            | Self::AuthorizerRefused
            | Self::AuthorizerFailed
            | Self::WaypointBypassed
            | Self::IllegalPort
            | Self::RateLimited => "http_request_denied",
            // What we say by ourselves, with nobody asked behind us.
            Self::Ok | Self::RouteAnswered | Self::RouteRefuses | Self::FaultInjected | Self::ProcessorAnswered => {
                "proxy_internal_response"
            }
            Self::ResourceInvalid | Self::TlsFilesUnusable => "proxy_configuration_error",
            Self::SelfCall => "proxy_loop_detected",
            Self::CertificateUnavailable | Self::RateLimiterFailed | Self::ProcessorFailed | Self::Internal => {
                "proxy_internal_error"
            }
        }
    }

    /// Whether the connection was refused by policy, which the metric counts apart.
    #[must_use]
    pub const fn is_denial(self) -> bool {
        matches!(self.response_flag(), ResponseFlag::Deny)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.label())
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn labels_are_unique_and_snake_case() {
        let labels: HashSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
        for label in labels {
            assert!(
                label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
                "{label}"
            );
            assert!(!label.starts_with('_') && !label.ends_with('_'), "{label}");
        }
    }

    #[test]
    fn every_reason_says_what_happened_and_what_to_do() {
        for reason in Reason::ALL {
            for text in [reason.message(), reason.hint()] {
                assert!(text.len() > 10 && text.ends_with('.') && text == text.trim(), "{reason}: {text:?}");
            }
            assert_ne!(reason.message(), reason.hint(), "{reason}");
        }
    }

    #[test]
    fn proxy_errors_are_registered_and_say_whose_fault_it_is() {
        // RFC 9209 §2.3.
        let rows = [
            ("dns_error", vec![Reason::DnsFailed]),
            ("destination_not_found", vec![Reason::RouteNotFound, Reason::UnknownWaypoint]),
            ("destination_unavailable", vec![Reason::NoHealthyUpstream]),
            ("connection_timeout", vec![Reason::TunnelConnectTimeout, Reason::ApplicationConnectTimeout]),
            ("connection_terminated", vec![Reason::ResetByPeer, Reason::Draining]),
            ("connection_limit_reached", vec![Reason::ConnectionLimit]),
            ("tls_protocol_error", vec![Reason::TlsHandshakeFailed]),
            ("tls_certificate_error", vec![Reason::PeerUntrusted, Reason::CertificateRevoked]),
            ("http_protocol_error", vec![Reason::Http2Failed]),
            ("http_response_timeout", vec![Reason::TimedOut]),
            ("http_request_denied", vec![Reason::PolicyDenied, Reason::TokenInvalid, Reason::RateLimited]),
        ];
        for (error, reasons) in rows {
            for reason in reasons {
                assert_eq!(reason.proxy_error(), error, "{reason}");
            }
        }
        for reason in Reason::ALL {
            // Only what policy refuses is said to be denied.
            let may_be = reason.is_denial() || matches!(reason, Reason::RateLimited | Reason::IllegalPort);
            assert!(may_be || reason.proxy_error() != "http_request_denied", "{reason}");
        }
    }

    #[test]
    fn statuses_are_those_of_hbone() {
        for reason in Reason::ALL {
            let allowed: &[u16] = match reason {
                Reason::Ok => &[200],
                reason if reason.is_denial() => &[401],
                _ => &[400, 503],
            };
            assert!(allowed.contains(&reason.http_status()), "{reason}");
        }
    }
}
