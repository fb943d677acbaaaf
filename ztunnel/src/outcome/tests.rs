//! Tests of `outcome`: whatever ended a connection, operator and log get one reason, and the policy's name if one did it.

use std::time::Duration;

use fairway_core::authz::Denial;
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
