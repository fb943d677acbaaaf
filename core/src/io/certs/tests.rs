//! Certificates against an authority in memory, which other tests of this crate borrow.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// Signs what it is asked to, until told otherwise.
pub(crate) struct MemoryAuthority {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
    calls: AtomicUsize,
    /// From this call on, counted from zero, requests are refused.
    refuse_from: usize,
    /// Signed instead of what was asked for.
    substitute: Option<Identity>,
}

impl MemoryAuthority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, root_pem, calls: AtomicUsize::new(0), refuse_from: usize::MAX, substitute: None }
    }

    pub(crate) fn certificates(self) -> Certificates {
        Certificates::new(Arc::new(self), tls::provider(), Duration::from_secs(3600), SystemTime::now)
    }

    fn issue(&self, identity: &Identity, csr_pem: &str, lifetime: Duration) -> Vec<String> {
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        let identity = self.substitute.as_ref().unwrap_or(identity);
        request.params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(identity.to_string()).unwrap())];
        request.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        request.params.not_before = SystemTime::now().into();
        request.params.not_after = (SystemTime::now() + lifetime).into();
        vec![request.signed_by(&self.issuer).unwrap().pem(), self.root_pem.clone()]
    }
}

impl Authority for MemoryAuthority {
    fn sign<'a>(&'a self, identity: &'a Identity, csr_pem: String, lifetime: Duration) -> Answer<'a> {
        Box::pin(async move {
            if self.calls.fetch_add(1, Ordering::SeqCst) >= self.refuse_from {
                let message = "the pod is not on your node".to_owned();
                return Err(AuthorityError::Refused { code: tonic::Code::Unauthenticated, message });
            }
            Ok(self.issue(identity, &csr_pem, lifetime))
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
