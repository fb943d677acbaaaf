//! Certificates for tests: real ones from the mesh's certificate service, asked for as a node's proxy does, and forged ones.

use std::fs;

use std::time::Duration;

use fairway_core::ident::Identity;
use fairway_core::io::certs::authority::{Authority as _, GrpcAuthority};
use fairway_core::io::grpc::{ControlPlane, ControlPlaneConfig, RootSource, TokenSource};
use fairway_core::io::tls::provider;
use fairway_core::limits::Limits;
use fairway_lab::Lab;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Lifetime asked for; longer than any test.
const LIFETIME: Duration = Duration::from_secs(3600);

/// A certificate and its key, as a TLS client shows them.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Clone for Shown {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// The certificate service's words when it refuses.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) String);

/// Asks the certificate service with a node's token; use it from inside the lab.
pub(crate) struct Asker(GrpcAuthority);

impl Asker {
    pub(crate) fn with_token_of(lab: &Lab, node: &str) -> Self {
        let config = ControlPlaneConfig {
            address: "https://10.99.0.1:15012".parse().unwrap(),
            roots: RootSource::File(lab.layout().root_certificate()),
            alternative_name: None,
            token: TokenSource::parse(&lab.layout().node_token(node).to_string_lossy()),
            cluster_id: "Kubernetes".to_owned(),
            headers: Vec::new(),
            packet_mark: None,
            limits: Limits::default(),
        };
        Self(GrpcAuthority::new(ControlPlane::new(config, provider()).unwrap(), true))
    }

    /// A certificate for `identity`.
    pub(crate) async fn ask(&self, identity: &str) -> Result<Shown, Refusal> {
        let identity: Identity = identity.parse().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(&identity.to_string())];
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();
        let answer = self.0.sign(&identity, csr, LIFETIME).await.map_err(|error| Refusal(error.to_string()))?;
        let chain = answer[..answer.len() - 1].iter().flat_map(|pem| certificates(pem)).collect();
        Ok(Shown { chain, key: private(&key) })
    }
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

/// A certificate for `identity` of an authority that nobody knows.
pub(crate) fn of_unknown_authority(identity: &str) -> Shown {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    signed(identity, &Issuer::new(params, key))
}

/// A certificate for `identity` signed with the mesh's own root key, as only a thief of that key could.
pub(crate) fn of_the_root(lab: &Lab, identity: &str) -> Shown {
    let root = lab.layout().root_certificate();
    let key = KeyPair::from_pem(&fs::read_to_string(root.with_file_name("root-key.pem")).unwrap()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&fs::read_to_string(root).unwrap(), key).unwrap();
    signed(identity, &issuer)
}

fn signed(identity: &str, issuer: &Issuer<'_, KeyPair>) -> Shown {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(identity)];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, issuer).unwrap();
    Shown { chain: vec![certificate.der().clone()], key: private(&key) }
}
