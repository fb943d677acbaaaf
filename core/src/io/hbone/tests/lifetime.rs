//! Tunnels do not outlive what their ends proved when they were opened.

use std::time::SystemTime;

use super::*;
use crate::io::hbone::lifetime::Lifetime;
use crate::io::tls::trust::{Anchors, Role};
use crate::limits;
use crate::reason::Reason as Why;

/// Renewed every other second.
fn short_lived() -> Certificates {
    let authority = Arc::new(MemoryAuthority::new());
    Certificates::new(authority, crate::io::tls::provider(), Duration::from_secs(4), SystemTime::now)
}

#[tokio::test]
async fn after_a_renewal_new_streams_prove_the_new_certificate_and_old_ones_go_on() {
    let certificates = short_lived();
    let server = serve(&certificates, "cart", echo).await;
    let pool = pool(&certificates);
    let key = key(server.address, "cart");
    let own = certificates.claim(&key.source);
    let mut first = pool.open(&key, &request()).await.unwrap();
    let mut again = pool.open(&key, &request()).await.unwrap();
    round_trip(&mut again.stream, b"shared").await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    let serial = own.newest().unwrap().serial.clone();
    while own.newest().unwrap().serial == serial {
        tokio::task::yield_now().await;
    }
    let mut second = pool.open(&key, &request()).await.unwrap();
    round_trip(&mut second.stream, b"new").await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
    round_trip(&mut first.stream, b"old").await;
}

async fn lifetime(authority: &Arc<MemoryAuthority>) -> (Certificates, Lifetime) {
    let certificates = MemoryAuthority::shared(authority);
    let ours = certificates.claim(&identity("web")).get().await.unwrap();
    let theirs = certificates.claim(&identity("cart")).get().await.unwrap();
    let lifetime = Lifetime::new(&certificates, &ours, Role::Server, Some(theirs.credentials.chain()));
    (certificates, lifetime)
}

#[tokio::test(start_paused = true)]
async fn streams_get_overtime_after_the_first_certificate_expires_and_no_more() {
    let (_certificates, lifetime) = lifetime(&Arc::new(MemoryAuthority::new())).await;
    let began = Instant::now();
    assert!(!lifetime.is_over());
    let retired = std::cell::Cell::new(None);
    assert_eq!(lifetime.follow(|| retired.set(Some(began.elapsed()))).await, Why::TunnelExpired);
    assert_eq!(lifetime.ended(), Some(Why::TunnelExpired));
    let hour = Duration::from_secs(3_600);
    let near = |elapsed: Duration, expected: Duration| elapsed.abs_diff(expected) < Duration::from_secs(5);
    let retired = retired.get().unwrap();
    assert!(near(retired, hour), "{retired:?}");
    // The wall clock stood still meanwhile, so that the wait begins anew.
    let overtime = began.elapsed() - retired;
    assert!(near(overtime, hour + limits::TUNNEL_OVERTIME.duration()), "{overtime:?}");
}

#[tokio::test]
async fn a_peer_whose_root_is_withdrawn_gets_no_new_streams_and_keeps_the_old_ones() {
    let authority = Arc::new(MemoryAuthority::new());
    let (certificates, lifetime) = lifetime(&authority).await;
    let retired = std::cell::Cell::new(false);
    let mut followed = Box::pin(lifetime.follow(|| retired.set(true)));
    let mut look = || futures_util::FutureExt::now_or_never(&mut followed);
    assert_eq!((look(), retired.get()), (None, false));
    certificates.trust().replace_roots(&Anchors::of_roots(vec![MemoryAuthority::new().root()]).unwrap());
    assert_eq!((look(), retired.get()), (None, true));
    // It stays so, whatever comes after.
    certificates.trust().replace_roots(&Anchors::of_roots(vec![authority.root()]).unwrap());
    assert_eq!((look(), lifetime.ended()), (None, None));
}

#[tokio::test]
async fn a_revoked_peer_loses_its_open_streams_and_gets_no_new_ones() {
    let authority = Arc::new(MemoryAuthority::new());
    let certificates = MemoryAuthority::shared(&authority);
    let server = serve(&certificates, "cart", echo).await;
    let pool = pool(&certificates);
    let key = key(server.address, "cart");
    let mut opened = pool.open(&key, &request()).await.unwrap();
    round_trip(&mut opened.stream, b"before").await;
    let revoked = certificates.claim(&identity("cart")).newest().unwrap();
    let list = authority.revoking(&[revoked.credentials.chain()]);
    let list = webpki::OwnedCertRevocationList::from_der(list.der()).unwrap();
    certificates.trust().replace_revocation_lists(vec![webpki::CertRevocationList::Owned(list)]);
    let broken = opened.stream.receiver.receive().await.unwrap_err();
    assert!(matches!(broken, StreamError::Connection(_)), "{broken}");
    assert_eq!(opened.lifetime.ended(), Some(Why::CertificateRevoked));
    // Its proxy hears of the list, too, and gets it another certificate; until then nobody is served.
    let handle = certificates.claim(&identity("cart"));
    match pool.open(&key, &request()).await {
        Err(refused) => assert!(refused.to_string().contains("Revoked"), "{refused}"),
        Ok(_) => assert_ne!(handle.newest().unwrap().serial, revoked.serial, "served by a revoked peer"),
    }
}
