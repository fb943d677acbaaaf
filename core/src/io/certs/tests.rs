//! Certificates against an authority in memory, which other tests of this crate borrow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType,
};

use super::authority::Answer;
use super::{Authority, AuthorityError, CertificateError, Certificates};
use crate::ident::Identity;
use crate::io::tls;
use crate::limits;

fn root() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), root_pem)
}

/// Signs what it is asked to, until told otherwise.
pub(crate) struct MemoryAuthority {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
    calls: AtomicUsize,
    /// From this call on, counted from zero, requests are refused.
    refuse_from: usize,
    /// Signed instead of what was asked for.
    substitute: Option<Identity>,
    /// What is wrong with answers from this call on, counted from zero.
    flaw_from: (usize, Flaw),
}

/// What no peer would accept.
#[derive(Clone, Copy)]
enum Flaw {
    /// The roots are those of somebody else.
    ForeignRoots,
    /// The certificate has expired.
    Expired,
    /// The certificate is for tomorrow.
    Early,
}

impl MemoryAuthority {
    pub(crate) fn new() -> Self {
        let (issuer, root_pem) = root();
        let flaw_from = (usize::MAX, Flaw::Expired);
        Self { issuer, root_pem, calls: AtomicUsize::new(0), refuse_from: usize::MAX, substitute: None, flaw_from }
    }

    pub(crate) fn certificates(self) -> Certificates {
        Certificates::new(Arc::new(self), tls::provider(), Duration::from_secs(3600), SystemTime::now)
    }

    fn issue(&self, identity: &Identity, csr_pem: &str, lifetime: Duration, flaw: Option<Flaw>) -> Vec<String> {
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        let (from, to) = match flaw {
            Some(Flaw::Expired) => (now - 2 * day, now - day),
            Some(Flaw::Early) => (now + day, now + 2 * day),
            Some(Flaw::ForeignRoots) | None => (now, now + lifetime),
        };
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        let identity = self.substitute.as_ref().unwrap_or(identity);
        request.params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(identity.to_string()).unwrap())];
        request.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        request.params.not_before = from.into();
        request.params.not_after = to.into();
        let roots = if matches!(flaw, Some(Flaw::ForeignRoots)) { root().1 } else { self.root_pem.clone() };
        vec![request.signed_by(&self.issuer).unwrap().pem(), roots]
    }
}

impl Authority for MemoryAuthority {
    fn sign<'a>(&'a self, identity: &'a Identity, csr_pem: String, lifetime: Duration) -> Answer<'a> {
        Box::pin(async move {
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            if call >= self.refuse_from {
                let message = "the pod is not on your node".to_owned();
                return Err(AuthorityError::Refused { code: tonic::Code::Unauthenticated, message });
            }
            let (first, flaw) = self.flaw_from;
            Ok(self.issue(identity, &csr_pem, lifetime, (call >= first).then_some(flaw)))
        })
    }
}

pub(crate) fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "shop", account).unwrap()
}

#[tokio::test]
async fn a_claimed_identity_gets_its_certificate() {
    let certificates = MemoryAuthority::new().certificates();
    let handle = certificates.claim(&identity("cart"));
    let certificate = handle.get().await.unwrap();
    assert_eq!(certificate.identity, identity("cart"));
    assert!(certificate.not_after > SystemTime::now());
    assert_eq!(certificates.states().len(), 1);
    drop(handle);
    assert_eq!(certificates.states().len(), 0, "the last handle gone, nothing is kept fresh any more");
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_the_valid_certificate() {
    let authority = Arc::new(MemoryAuthority { refuse_from: 1, ..MemoryAuthority::new() });
    let shared: Arc<dyn Authority> = authority.clone();
    let certificates = Certificates::new(shared, tls::provider(), Duration::from_secs(3600), SystemTime::now);
    let handle = certificates.claim(&identity("cart"));
    let first = handle.get().await.unwrap();
    while authority.calls.load(Ordering::SeqCst) < 3 {
        tokio::time::sleep(Duration::from_secs(60)).await; // paused clock: advances by itself
    }
    assert_eq!(handle.get().await.unwrap().serial, first.serial);
    let (_, state) = certificates.states().remove(0);
    assert!(state.last_error.unwrap().contains("not on your node"));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_passed_on_to_who_waits() {
    let certificates = MemoryAuthority { refuse_from: 0, ..MemoryAuthority::new() }.certificates();
    let error = certificates.claim(&identity("cart")).get().await.unwrap_err();
    assert!(matches!(error, CertificateError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("the pod is not on your node"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_for_somebody_else_is_not_used() {
    let wrong = MemoryAuthority { substitute: Some(identity("admin")), ..MemoryAuthority::new() };
    let error = wrong.certificates().claim(&identity("cart")).get().await.unwrap_err();
    assert!(error.to_string().contains("was given spiffe://cluster.local/ns/shop/sa/admin"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_no_peer_would_accept_does_not_replace_a_good_certificate() {
    for (flaw, words) in
        [(Flaw::ForeignRoots, "BadSignature"), (Flaw::Expired, "expired"), (Flaw::Early, "not valid yet")]
    {
        let authority = Arc::new(MemoryAuthority { flaw_from: (1, flaw), ..MemoryAuthority::new() });
        let shared: Arc<dyn Authority> = authority.clone();
        let certificates = Certificates::new(shared, tls::provider(), Duration::from_secs(3600), SystemTime::now);
        let handle = certificates.claim(&identity("cart"));
        let first = handle.get().await.unwrap();
        while authority.calls.load(Ordering::SeqCst) < 3 {
            tokio::time::sleep(Duration::from_secs(60)).await; // paused clock: advances by itself
        }
        assert_eq!(handle.get().await.unwrap().serial, first.serial);
        let error = certificates.states().remove(0).1.last_error.unwrap();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspended_machine_renews_soon_after_it_wakes() {
    static SUSPENDED: AtomicU64 = AtomicU64::new(0);
    fn now() -> SystemTime {
        SystemTime::now() + Duration::from_secs(SUSPENDED.load(Ordering::SeqCst))
    }

    let authority = Arc::new(MemoryAuthority::new());
    let shared: Arc<dyn Authority> = authority.clone();
    let certificates = Certificates::new(shared, tls::provider(), Duration::from_secs(24 * 3600), now);
    let handle = certificates.claim(&identity("cart"));
    handle.get().await.unwrap();
    let slice = limits::CERTIFICATE_CLOCK_CHECK.duration() + Duration::from_secs(1);
    tokio::time::sleep(slice).await; // paused clock: advances by itself
    assert_eq!(authority.calls.load(Ordering::SeqCst), 1, "not due yet");
    SUSPENDED.store(20 * 3600, Ordering::SeqCst);
    tokio::time::sleep(slice).await; // paused clock: advances by itself
    assert_eq!(authority.calls.load(Ordering::SeqCst), 2);
}
