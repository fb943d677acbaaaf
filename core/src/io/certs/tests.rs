//! Certificates against an authority in memory, which other tests of this crate borrow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList, CertificateRevocationListParams,
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authority::Answer;
use super::{Authority, AuthorityError, CertificateError, Certificates};
use crate::ident::Identity;
use crate::io::tls;
use crate::limits;

fn root() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("root {:x}", rand::random::<u64>()));
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
    /// Up to this call, too.
    refuse_until: usize,
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
        Self {
            issuer,
            root_pem,
            calls: AtomicUsize::new(0),
            refuse_from: usize::MAX,
            refuse_until: 0,
            substitute: None,
            flaw_from,
        }
    }

    pub(crate) fn shared(authority: &Arc<Self>) -> Certificates {
        let shared: Arc<dyn Authority> = authority.clone();
        Certificates::new(shared, tls::provider(), Duration::from_secs(3600), SystemTime::now)
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.root_pem.as_bytes()).unwrap()
    }

    /// A list of the leaves of `chains`.
    pub(crate) fn revoking(&self, chains: &[&[CertificateDer<'static>]]) -> CertificateRevocationList {
        let now = time::OffsetDateTime::now_utc();
        let revoked = |chain: &&[CertificateDer<'static>]| {
            let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
            RevokedCertParams {
                serial_number: SerialNumber::from_slice(leaf.raw_serial()),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            }
        };
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::DAY,
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: chains.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap()
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
            if call < self.refuse_until || call >= self.refuse_from {
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
async fn who_hurries_does_not_sit_out_the_pause_after_a_refusal() {
    let authority = Arc::new(MemoryAuthority { refuse_until: 1, ..MemoryAuthority::new() });
    let handle = MemoryAuthority::shared(&authority).claim(&identity("cart"));
    let started = tokio::time::Instant::now();
    while authority.calls.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    handle.hurry();
    handle.get().await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(authority.calls.load(Ordering::SeqCst), 2);
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
        [(Flaw::ForeignRoots, "UnknownIssuer"), (Flaw::Expired, "expired"), (Flaw::Early, "not valid yet")]
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

/// Signs by one authority and then by another, with the roots it is told to hand out.
struct Rotating {
    authorities: [MemoryAuthority; 2],
    step: AtomicUsize,
}

impl Authority for Rotating {
    fn sign<'a>(&'a self, identity: &'a Identity, csr_pem: String, lifetime: Duration) -> Answer<'a> {
        Box::pin(async move {
            let [old, new] = &self.authorities;
            let (signer, roots): (_, &[&MemoryAuthority]) = match self.step.load(Ordering::SeqCst) {
                0 => (old, &[old]),
                1 => (old, &[old, new]),
                2 => (new, &[old, new]),
                _ => (new, &[new]),
            };
            let roots: String = roots.iter().map(|authority| authority.root_pem.as_str()).collect();
            Ok(vec![signer.issue(identity, &csr_pem, lifetime, None).remove(0), roots])
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_root_is_replaced_without_a_gap_and_workloads_it_leaves_out_renew_at_once() {
    let rotating =
        Arc::new(Rotating { authorities: [MemoryAuthority::new(), MemoryAuthority::new()], step: AtomicUsize::new(0) });
    let shared: Arc<dyn Authority> = rotating.clone();
    let certificates = Certificates::new(shared, tls::provider(), Duration::from_secs(24 * 3600), SystemTime::now);
    let (cart, web) = (certificates.claim(&identity("cart")), certificates.claim(&identity("web")));
    let first = cart.get().await.unwrap();
    web.get().await.unwrap();
    assert_eq!(certificates.trust().current().root_count(), 1);
    // Somebody new hears of the second root, and all see it.
    for (step, account, roots) in [(1, "one", 2), (2, "two", 2)] {
        rotating.step.store(step, Ordering::SeqCst);
        certificates.claim(&identity(account)).get().await.unwrap();
        assert_eq!(certificates.trust().current().root_count(), roots);
        assert_eq!(cart.get().await.unwrap().serial, first.serial, "still trusted, nothing to renew");
    }
    rotating.step.store(3, Ordering::SeqCst);
    let started = tokio::time::Instant::now();
    certificates.claim(&identity("three")).get().await.unwrap();
    assert_eq!(certificates.trust().current().root_count(), 1);
    while [&cart, &web].iter().any(|handle| {
        let chain = handle.newest().unwrap().credentials.chain().to_vec();
        let now = tls::trust::unix_time(SystemTime::now());
        let algorithms = tls::provider().signature_verification_algorithms;
        certificates.trust().current().verify(tls::trust::Role::Server, &chain[0], &[], now, algorithms).is_err()
    }) {
        tokio::time::sleep(Duration::from_secs(1)).await; // paused clock: advances by itself
    }
    assert!(started.elapsed() <= limits::CERTIFICATE_SPREAD.duration() + Duration::from_secs(5));
}

#[test]
fn an_expired_certificate_says_since_when_and_why() {
    let says = |seconds| {
        let (identity, since) = (identity("cart"), Duration::from_secs(seconds));
        CertificateError::Expired { identity, since, last_error: "refused".to_owned() }.to_string()
    };
    for (seconds, age) in [(0, "0 s"), (119, "119 s"), (200, "3 m"), (7_200, "2 h"), (400_000, "4 d")] {
        let expected =
            format!("certificate of spiffe://cluster.local/ns/shop/sa/cart expired {age} ago, last CA error: refused");
        assert_eq!(says(seconds), expected);
    }
}

#[tokio::test]
async fn operators_see_expiry_and_failures() {
    let metrics = crate::io::metrics::Metrics::default();
    let authority = Arc::new(MemoryAuthority { refuse_from: 1, ..MemoryAuthority::new() });
    let certificates = MemoryAuthority::shared(&authority);
    super::metrics::register(&certificates, &metrics);
    let cart = certificates.claim(&identity("cart"));
    let ends = cart.get().await.unwrap().not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let text = metrics.render();
    for line in [
        "fairway_certificates{state=\"valid\"} 1",
        "fairway_certificate_last_error_timestamp_seconds 0",
        "fairway_certificate_requests_total{result=\"granted\"} 1",
        "fairway_trust_bundle_roots 1",
        &format!("fairway_certificate_expiry_timestamp_seconds {}", ends.as_secs()),
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let web = certificates.claim(&identity("web"));
    while certificates.states().iter().all(|(_, state)| state.last_error.is_none()) {
        tokio::task::yield_now().await;
    }
    let text = metrics.render();
    for line in ["fairway_certificates{state=\"missing\"} 1", "fairway_certificate_requests_total{result=\"failed\"} 1"]
    {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("last_error_timestamp_seconds 0"), "{text}");
    drop(web);
}
