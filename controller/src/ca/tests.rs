//! Tests of `ca`.

use std::collections::BTreeMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairway_core::source::objects::Objects;
use fairway_core::source::{Loaded, MeshPod, ObjectKey};
use rcgen::{CertificateParams, KeyPair, PublicKeyData, SanType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::authorize::{Refusal, authorize};
use super::signer::Signer;
use super::*;
use crate::token::{CallerPod, Keys};
use crate::translate::Settings;

fn rules() -> Rules {
    Rules {
        trusted: [("fairway-system".to_owned(), "ztunnel".to_owned())].into(),
        trust_domain: "cluster.local".to_owned(),
    }
}

fn pod(objects: &mut Objects, namespace: &str, name: &str, account: &str, node: &str, phase: &str) {
    let pod: Result<MeshPod, _> = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{name}")},
        "spec": {"serviceAccountName": account, "nodeName": node, "containers": []},
        "status": {"phase": phase},
    }));
    objects.pods.insert(ObjectKey::pod(namespace, name), Arc::new(pod.unwrap()));
}

fn objects() -> Objects {
    let mut objects = Objects::default();
    pod(&mut objects, "fairway-system", "ztunnel-1", "ztunnel", "node-1", "Running");
    pod(&mut objects, "fairway-system", "ztunnel-2", "ztunnel", "node-2", "Running");
    pod(&mut objects, "shop", "web", "web", "node-1", "Running");
    pod(&mut objects, "shop", "db", "db", "node-2", "Running");
    pod(&mut objects, "shop", "job", "job", "node-1", "Succeeded");
    objects
}

fn caller(namespace: &str, account: &str, pod: Option<(&str, &str, Option<&str>)>) -> Caller {
    Caller {
        namespace: namespace.to_owned(),
        service_account: account.to_owned(),
        pod: pod.map(|(name, uid, node)| CallerPod {
            name: name.to_owned(),
            uid: uid.to_owned(),
            node: node.map(str::to_owned),
        }),
    }
}

fn ztunnel() -> Caller {
    caller("fairway-system", "ztunnel", Some(("ztunnel-1", "uid-ztunnel-1", Some("node-1"))))
}

fn spiffe(namespace: &str, account: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
}

#[test]
fn callers_get_their_own_identity() {
    for requested in [None, Some(""), Some("spiffe://cluster.local/ns/shop/sa/web")] {
        let identity = authorize(&caller("shop", "web", None), requested, &objects(), &rules()).unwrap();
        assert_eq!(identity.as_str(), spiffe("shop", "web"));
    }
}

#[test]
fn node_proxies_get_what_runs_on_their_node() {
    let identity = authorize(&ztunnel(), Some(&spiffe("shop", "web")), &objects(), &rules()).unwrap();
    assert_eq!(identity.as_str(), spiffe("shop", "web"));
}

#[test]
fn everything_else_is_refused() {
    use tonic::Code::{InvalidArgument, PermissionDenied, Unauthenticated};
    let bound = |pod| caller("fairway-system", "ztunnel", pod);
    let other_account = caller("fairway-system", "ztunnel", Some(("web", "uid-web", None)));
    let mut with_foreign = objects();
    pod(&mut with_foreign, "fairway-system", "web", "other", "node-1", "Running");
    let web = spiffe("shop", "web");
    let rows = [
        ("on another node", ztunnel(), spiffe("shop", "db"), PermissionDenied),
        ("nowhere", ztunnel(), spiffe("shop", "nobody"), PermissionDenied),
        ("same account, other namespace", ztunnel(), spiffe("other", "web"), PermissionDenied),
        ("only ended pods", ztunnel(), spiffe("shop", "job"), PermissionDenied),
        ("other trust domain", ztunnel(), "spiffe://other/ns/shop/sa/web".to_owned(), PermissionDenied),
        ("not an identity", ztunnel(), "web".to_owned(), InvalidArgument),
        ("ordinary account", caller("shop", "db", None), web.clone(), PermissionDenied),
        ("unbound token", bound(None), web.clone(), Unauthenticated),
        ("pod gone", bound(Some(("ztunnel-9", "uid-ztunnel-9", None))), web.clone(), Unauthenticated),
        ("pod replaced", bound(Some(("ztunnel-1", "uid-old", None))), web.clone(), Unauthenticated),
        ("pod of another account", other_account, web.clone(), Unauthenticated),
        ("token of another node", bound(Some(("ztunnel-1", "uid-ztunnel-1", Some("node-2")))), web, PermissionDenied),
    ];
    for (what, caller, requested, code) in rows {
        let refusal = authorize(&caller, Some(&requested), &with_foreign, &rules()).expect_err(what);
        assert_eq!(Status::from(refusal).code(), code, "{what}");
    }
    let refusal = authorize(&ztunnel(), Some(&spiffe("shop", "db")), &objects(), &rules()).unwrap_err();
    assert!(matches!(refusal, Refusal::NotOnNode { .. }));
}

fn csr(key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![
        SanType::URI("spiffe://cluster.local/ns/kube-system/sa/admin".try_into().unwrap()),
        SanType::DnsName("admin.example".try_into().unwrap()),
    ];
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.serialize_request(key).unwrap().pem().unwrap()
}

struct Fixture {
    signer: Arc<Signer>,
    now: OffsetDateTime,
}

fn fixture() -> Fixture {
    let state = tempfile::tempdir().unwrap();
    let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
    let files = root::open(state.path(), now).unwrap();
    Fixture { signer: Arc::new(Signer::of(&files, "cluster.local", now).unwrap()), now }
}

#[test]
fn only_the_key_of_a_request_counts() {
    let Fixture { signer, now } = &fixture();
    let key = KeyPair::generate().unwrap();
    let requested = sign::requested_key(&csr(&key)).unwrap();
    let identity: Identity = spiffe("shop", "web").parse().unwrap();
    let signed = sign::workload(signer, &identity, &requested, Duration::from_secs(3600), *now).unwrap();
    let (_, leaf) = X509Certificate::from_der(signed.der()).unwrap();
    let issuer = CertificateDer::from_pem_slice(signer.roots_pem().as_bytes()).unwrap();
    let (_, issuer) = X509Certificate::from_der(&issuer).unwrap();
    leaf.verify_signature(Some(issuer.public_key())).unwrap();
    assert_eq!(leaf.public_key().subject_public_key.data.as_ref(), key.der_bytes());
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names, [GeneralName::URI(&spiffe("shop", "web"))]);
    // RFC 5280 §4.1.2.6: the subject is empty, so the alternative name is critical.
    assert!(names.critical && leaf.subject().iter().next().is_none());
    assert!(!leaf.is_ca());
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth);
    assert_eq!(leaf.validity().not_before.timestamp(), now.unix_timestamp() - 120);
    assert_eq!(leaf.validity().not_after.timestamp(), now.unix_timestamp() + 3600);
    let again = sign::workload(signer, &identity, &requested, Duration::from_secs(3600), *now).unwrap();
    assert_ne!(X509Certificate::from_der(again.der()).unwrap().1.serial, leaf.serial);
}

#[test]
fn nothing_outlives_who_signs() {
    let Fixture { signer, now } = &fixture();
    let identity: Identity = spiffe("shop", "web").parse().unwrap();
    let key = KeyPair::generate().unwrap();
    let late = *now + Duration::from_secs(10 * 365 * 24 * 3600 - 60);
    let signed = sign::workload(signer, &identity, &key, Duration::from_secs(3600), late).unwrap();
    let (_, leaf) = X509Certificate::from_der(signed.der()).unwrap();
    assert_eq!(leaf.validity().not_after.timestamp(), signer.not_after().unix_timestamp());
}

#[test]
fn requests_that_prove_nothing_are_refused() {
    let good = csr(&KeyPair::generate().unwrap());
    let other = KeyPair::generate().unwrap();
    // The key of somebody else under our own signature.
    let mut block = x509_parser::pem::parse_x509_pem(good.as_bytes()).unwrap().1;
    let (_, parsed) = x509_parser::certification_request::X509CertificationRequest::from_der(&block.contents).unwrap();
    let mine = parsed.certification_request_info.subject_pki.subject_public_key.data.to_vec();
    let at = block.contents.windows(mine.len()).position(|window| window == mine).unwrap();
    block.contents.splice(at..at + mine.len(), other.public_key_raw().iter().copied());
    let stolen = rcgen_pem(&block.contents);
    assert!(matches!(sign::requested_key(&stolen), Err(sign::CsrError::Signature)));
    let huge = "x".repeat(20_000);
    for text in ["", "nonsense", other.public_key_pem().as_str(), &huge] {
        assert!(matches!(sign::requested_key(text), Err(sign::CsrError::Form(_))), "{text:.30}");
    }
    assert!(sign::requested_key(&good).is_ok());
}

fn rcgen_pem(der: &[u8]) -> String {
    use rustls_pki_types::CertificateSigningRequestDer;
    let request = rcgen::CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der));
    assert!(request.is_err(), "the library would have noticed too");
    let encoded = STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{encoded}\n-----END CERTIFICATE REQUEST-----\n")
}

#[test]
fn lifetimes_are_clamped() {
    let maximum = Duration::from_secs(100);
    for (requested, expected) in [(0, 100), (-5, 100), (50, 50), (100, 100), (1000, 100), (i64::MAX, 100)] {
        assert_eq!(lifetime(requested, maximum).as_secs(), expected, "{requested}");
    }
}

#[test]
fn the_impersonated_identity_must_be_text() {
    let request = |kind| IstioCertificateRequest {
        metadata: Some(prost_types::Struct {
            fields: BTreeMap::from([(IMPERSONATED_IDENTITY.to_owned(), prost_types::Value { kind })]),
        }),
        ..IstioCertificateRequest::default()
    };
    assert_eq!(impersonated(&IstioCertificateRequest::default()).unwrap(), None);
    assert_eq!(impersonated(&request(Some(Kind::StringValue("x".to_owned())))).unwrap(), Some("x"));
    assert!(impersonated(&request(Some(Kind::BoolValue(true)))).is_err());
}

/// What is logged while it lives, of this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_signature_and_every_refusal_is_in_the_audit_log_and_counted() {
    let (state, now) = (tempfile::tempdir().unwrap(), OffsetDateTime::now_utc());
    let signer = Signer::of(&root::open(state.path(), now).unwrap(), "cluster.local", now).unwrap();
    let (_keeper, current) = watch::channel(Arc::new(signer));
    let mut loaded = Loaded::default();
    loaded.objects = objects();
    let published = Published::default().next(Arc::new(loaded), &Settings::default());
    let (_publisher, published) = watch::channel(Arc::new(published));
    let tokens = KeyPair::generate().unwrap();
    let keys = Keys::from_pem(tokens.public_key_pem().as_bytes(), "issuer", "istio-ca").unwrap();
    let metrics = Metrics::new();
    let verifier = Arc::new(Verifier::Keys(keys));
    let hour = Duration::from_secs(3600);
    let authority = Authority::new(current, verifier, published, rules(), hour, metrics.clone());
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);

    let seconds = now.unix_timestamp();
    let claims = json!({
        "iss": "issuer", "sub": "system:serviceaccount:fairway-system:ztunnel", "aud": ["istio-ca"],
        "iat": seconds, "exp": seconds + 3600,
        "kubernetes.io": {
            "namespace": "fairway-system", "node": {"name": "node-1"},
            "pod": {"name": "ztunnel-1", "uid": "uid-ztunnel-1"},
        },
    });
    let key = jsonwebtoken::EncodingKey::from_ec_der(&tokens.serialize_der());
    let token =
        jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256), &claims, &key).unwrap();
    let ask = async |identity: String| {
        let kind = Some(Kind::StringValue(identity));
        let fields = BTreeMap::from([(IMPERSONATED_IDENTITY.to_owned(), prost_types::Value { kind })]);
        let mut request = Request::new(IstioCertificateRequest {
            csr: csr(&KeyPair::generate().unwrap()),
            metadata: Some(prost_types::Struct { fields }),
            ..IstioCertificateRequest::default()
        });
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        authority.create_certificate(request).await
    };
    ask(spiffe("shop", "web")).await.unwrap();
    ask(spiffe("shop", "db")).await.unwrap_err();
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("audit")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    for part in ["INFO", "certificate signed", "ztunnel", &spiffe("shop", "web"), "lifetime=3600"] {
        assert!(lines[0].contains(part), "{part}: {log}");
    }
    for part in ["WARN", "certificate refused", "ztunnel", &spiffe("shop", "db"), "PermissionDenied", "no pod on node"]
    {
        assert!(lines[1].contains(part), "{part}: {log}");
    }
    let page = metrics.registry().render();
    for outcome in ["signed", "refused"] {
        let line = format!("fairway_certificate_requests_total{{outcome=\"{outcome}\"}} 1");
        assert!(page.contains(&line), "{page}");
    }
}
