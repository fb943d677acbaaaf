//! Tests of `outcome`: whatever ended a connection, operator and log get one reason, and the policy's name if one did it.

use std::sync::Arc;
use std::time::Duration;

use fairway_core::authz::Denial;
use fairway_core::io::certs::CertificateError;
use fairway_core::policy::PolicyKey;

use super::*;

fn denial(reason: Reason, policy: Option<&str>) -> Denial {
    Denial { policy: policy.map(|name| PolicyKey::new("shop", name)), reason, dry_run: Vec::new() }
}

#[test]
fn a_denial_keeps_reason_and_name_at_the_start_and_in_the_middle_of_a_connection() {
    for (reason, policy) in [
        (Reason::PolicyDenied, Some("close")),
        (Reason::StrictPlaintext, Some("strict")),
        (Reason::PolicyInvalid, Some("typo")),
        (Reason::PolicyUnknown, Some("late")),
        (Reason::PolicyNotAllowed, None),
    ] {
        let refused = Outcome::from(denial(reason, policy));
        let cut = Outcome::from(Cut::Denied(denial(reason, policy)));
        assert_eq!(refused, cut);
        assert_eq!((cut.reason, cut.policy.as_ref().map(PolicyKey::name)), (reason, policy));
        let detail = cut.detail.unwrap();
        assert_eq!(detail.contains("shop/"), policy.is_some(), "{detail}");
        assert!(reason.is_denial());
    }
}

#[test]
fn a_drain_is_nobodys_denial() {
    let outcome = Outcome::from(Cut::Drained);
    assert_eq!((outcome.reason, outcome.policy), (Reason::WorkloadRemoved, None));
}

#[test]
fn a_copy_that_breaks_says_how() {
    let error = |kind: io::ErrorKind| io::Error::from(kind);
    let rows = [
        (CopyError::Application(error(io::ErrorKind::ConnectionReset)), Reason::ResetByPeer),
        (CopyError::Peer(error(io::ErrorKind::BrokenPipe)), Reason::ResetByPeer),
        (CopyError::Application(error(io::ErrorKind::TimedOut)), Reason::TimedOut),
        (CopyError::Tunnel(StreamError::Reset(h2::Reason::CONNECT_ERROR)), Reason::ResetByPeer),
        (CopyError::Tunnel(StreamError::Connection(h2::Reason::PROTOCOL_ERROR.into())), Reason::Http2Failed),
    ];
    for (broken, reason) in rows {
        let text = broken.to_string();
        let outcome = Outcome::from(Err(broken));
        assert_eq!((outcome.reason, outcome.detail.as_deref()), (reason, Some(text.as_str())));
    }
    assert_eq!(Outcome::from(Ok(())), Outcome::ok());
}

#[test]
fn silence_and_refusal_are_told_apart_on_both_sides_of_the_proxy() {
    let destination = "10.102.0.2:7000".parse().unwrap();
    let silent = DialError::Timeout { destination, after: Duration::from_secs(10) };
    let refused = DialError::Connect { destination, source: io::ErrorKind::ConnectionRefused.into() };
    assert_eq!(application_unreachable(&silent).reason, Reason::ApplicationConnectTimeout);
    assert_eq!(application_unreachable(&refused).reason, Reason::ApplicationConnectFailed);
    assert_eq!(upstream_unreachable(&silent).reason, Reason::UpstreamConnectTimeout);
    assert_eq!(upstream_unreachable(&refused).reason, Reason::UpstreamConnectFailed);
    assert!(application_unreachable(&refused).detail.unwrap().contains("10.102.0.2:7000"));
}

fn server_on(node: &str) -> Workload {
    let message = fairway_proto::workload::Workload {
        uid: "Kubernetes//Pod/shop/server".into(),
        name: "server".into(),
        namespace: "shop".into(),
        node: node.into(),
        ..Default::default()
    };
    message.try_into().unwrap()
}

#[test]
fn a_tunnel_that_cannot_be_dialled_says_where_to_look() {
    let peer = "10.102.0.2:15008".parse().unwrap();
    let dial = |source| TunnelError::Dial { peer, source };
    let connect = |kind: io::ErrorKind| dial(DialError::Connect { destination: peer, source: kind.into() });
    let silent = || dial(DialError::Timeout { destination: peer, after: Duration::from_secs(10) });
    let blocked = "NetworkPolicy or firewall may block TCP 15008 to node node-2, workload shop/server";
    let closed = "nothing listens on TCP 15008 of node node-2, workload shop/server";
    let rows = [
        (silent(), Reason::TunnelConnectTimeout, blocked),
        (TunnelError::Silent { peer, after: Duration::from_secs(2) }, Reason::TunnelConnectTimeout, blocked),
        (connect(io::ErrorKind::HostUnreachable), Reason::TunnelConnectFailed, blocked),
        (connect(io::ErrorKind::PermissionDenied), Reason::TunnelConnectFailed, blocked),
        (connect(io::ErrorKind::ConnectionRefused), Reason::TunnelConnectFailed, closed),
        // Whoever waited for the same dial is told the same.
        (TunnelError::Shared(Arc::new(silent())), Reason::TunnelConnectTimeout, blocked),
    ];
    for (error, reason, advice) in rows {
        let outcome = tunnel_failed(&error, &server_on("node-2"));
        let detail = outcome.detail.unwrap();
        assert_eq!(outcome.reason, reason, "{detail}");
        assert!(detail.starts_with(&error.to_string()) && detail.contains(advice), "{detail}");
    }
    let nowhere = tunnel_failed(&silent(), &server_on("")).detail.unwrap();
    assert!(nowhere.ends_with("may block TCP 15008 to workload shop/server"), "{nowhere}");
    let refused = TunnelError::Refused { peer, identity: None, status: http::StatusCode::UNAUTHORIZED, reason: None };
    assert!(!tunnel_failed(&refused, &server_on("node-2")).detail.unwrap().contains("NetworkPolicy"));
}

#[test]
fn what_goes_wrong_behind_a_gateway_keeps_its_reason_and_says_where() {
    let gateway = "192.0.2.1:15008".parse().unwrap();
    let status = http::StatusCode::UNAUTHORIZED;
    let denied = TunnelError::Refused { peer: gateway, identity: None, status, reason: Some(Reason::PolicyDenied) };
    let outcome = Outcome::from(&TunnelError::Inner { gateway, source: Box::new(denied) });
    assert_eq!(outcome.reason, Reason::PolicyDenied);
    assert!(outcome.detail.unwrap().starts_with("behind the gateway at 192.0.2.1:15008: "));
}

#[test]
fn an_expired_certificate_reaches_the_refusal() {
    let identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
    let last_error = "refused (Unauthenticated): the pod is not on your node".to_owned();
    let expired = CertificateError::Expired { identity, since: Duration::from_secs(190), last_error };
    let outcome = Outcome::from(&TunnelError::Shared(Arc::new(expired.into())));
    assert_eq!(outcome.reason, Reason::CertificateUnavailable);
    let expected = "certificate of spiffe://cluster.local/ns/shop/sa/cart expired 3 m ago, last CA error: refused \
                    (Unauthenticated): the pod is not on your node";
    assert_eq!(outcome.detail.as_deref(), Some(expected));
}
