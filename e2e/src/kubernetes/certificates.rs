//! Keys and certificates of a lab's Kubernetes: one authority for each lab, and what it signs.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};

use crate::error::{Doing, Result};

/// Name of the authority, as certificates show it.
const AUTHORITY: &str = "fairway-lab-kubernetes";

/// A certificate and its key, both as PEM.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// What everything of one lab's Kubernetes trusts.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    own: Pair,
}

impl Authority {
    /// An authority with a fresh key.
    pub(crate) fn generate() -> Result<Self> {
        let key = new_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, AUTHORITY);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).doing(|| "making the authority of Kubernetes")?.pem();
        let own = Pair { certificate, key: key.serialize_pem() };
        Ok(Self { issuer: Issuer::new(params, key), own })
    }

    /// The authority's own certificate and key.
    pub(crate) fn pair(&self) -> &Pair {
        &self.own
    }

    /// A certificate for a server with these names and addresses.
    pub(crate) fn server(&self, names: &[&str], addresses: &[IpAddr]) -> Result<Pair> {
        let names = names.iter().map(|name| (*name).to_owned()).chain(addresses.iter().map(ToString::to_string));
        let mut params = CertificateParams::new(names.collect::<Vec<_>>()).doing(|| "naming a server")?;
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// A certificate for a client: Kubernetes reads its user and group from the subject.
    pub(crate) fn client(&self, user: &str, group: Option<&str>) -> Result<Pair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Pair> {
        let key = new_key()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.issuer).doing(|| "signing a certificate of Kubernetes")?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }
}

/// A fresh P-256 key.
pub(crate) fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).doing(|| "making a key of Kubernetes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{RootCertStore, client::WebPkiServerVerifier};

    fn trusts(authority: &Authority, certificate: &str, name: &str) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pair().certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let leaf = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        rustls::client::danger::ServerCertVerifier::verify_server_cert(
            verifier.as_ref(),
            &leaf,
            &[],
            &name,
            &[],
            UnixTime::now(),
        )
        .is_ok()
    }

    #[test]
    fn servers_are_trusted_by_name_and_address_and_only_by_their_own_lab() {
        let (ours, other) = (Authority::generate().unwrap(), Authority::generate().unwrap());
        let server = ours.server(&["kubernetes.default.svc"], &["10.99.0.1".parse().unwrap()]).unwrap();
        assert!(trusts(&ours, &server.certificate, "kubernetes.default.svc"));
        assert!(trusts(&ours, &server.certificate, "10.99.0.1"));
        assert!(!trusts(&ours, &server.certificate, "10.99.0.2"));
        assert!(!trusts(&other, &server.certificate, "10.99.0.1"));
        let client = ours.client("admin", Some("system:masters")).unwrap();
        assert!(!trusts(&ours, &client.certificate, "10.99.0.1"));
    }
}
