//! Makes a signing request, and a usable certificate out of the answer (interop §4.1, §4.2).

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::{WorkloadCertificate, describe};
use crate::ident::Identity;
use crate::io::tls::trust::{Anchors, Role, Trust, unix_time};
use crate::io::tls::{Credentials, verify};

/// A private key with the request that asks for a certificate over it.
pub struct SigningRequest {
    key: KeyPair,
    /// The request, PEM.
    pub csr_pem: String,
}

/// Why an answer of the authority is of no use.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UnusableAnswer {
    /// Fewer than a leaf and a root.
    #[error("the answer holds {0} certificates, at least a leaf and a root are needed")]
    TooShort(usize),
    /// Not PEM, or not a certificate.
    #[error("certificate {index} of the answer cannot be read")]
    Unreadable {
        /// Position in the answer, counted from zero.
        index: usize,
    },
    /// Signed for somebody else.
    #[error("asked for {wanted}, was given {}", found.as_ref().map_or("no identity".to_owned(), ToString::to_string))]
    WrongIdentity {
        /// Whom we asked for.
        wanted: Identity,
        /// Whom the certificate names.
        found: Option<Identity>,
    },
    /// No peer would accept it: it does not chain to the roots it came with, or is not valid at this moment.
    #[error(
        "no peer would accept the certificate: {0}; if it is about time, compare this node's clock with the authority's"
    )]
    Unacceptable(rustls::Error),
    /// The key, the certificate or the root is not acceptable to TLS.
    #[error("not usable for TLS: {0}")]
    Tls(String),
}

impl SigningRequest {
    /// A fresh ECDSA P-256 key and a request naming `identity`.
    ///
    /// # Errors
    /// When no key can be generated; the text says why.
    pub fn new(identity: &Identity) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(identity.to_string())?)];
        let csr_pem = params.serialize_request(&key)?.pem()?;
        Ok(Self { key, csr_pem })
    }

    /// Joins the key with the authority's answer: leaf, intermediates, and last the roots. Checks what peers will check,
    /// so that a good certificate is never replaced by one that they refuse. Also gives the roots that came with it;
    /// whoever uses the certificate is to be checked against `trust`, which has yet to learn of them.
    ///
    /// # Errors
    /// See [`UnusableAnswer`].
    pub fn complete(
        self,
        identity: &Identity,
        answer: &[String],
        provider: &Arc<CryptoProvider>,
        trust: &Trust,
        now: SystemTime,
    ) -> Result<(WorkloadCertificate, Anchors), UnusableAnswer> {
        let (roots_pem, chain_pem) = match answer {
            [leaf_to_intermediates @ .., roots] if !leaf_to_intermediates.is_empty() => (roots, leaf_to_intermediates),
            short => return Err(UnusableAnswer::TooShort(short.len())),
        };
        let mut chain = Vec::with_capacity(chain_pem.len());
        for (index, pem) in chain_pem.iter().enumerate() {
            chain.extend(read_pem(pem).ok_or(UnusableAnswer::Unreadable { index })?);
        }
        let roots_der = read_pem(roots_pem).ok_or(UnusableAnswer::Unreadable { index: chain_pem.len() })?;
        let leaf = chain.first().ok_or(UnusableAnswer::Unreadable { index: 0 })?;
        let (serial, not_before, not_after) = describe::facts(leaf).ok_or(UnusableAnswer::Unreadable { index: 0 })?;
        let found = verify::identities(leaf).ok().and_then(|found| found.into_iter().next());
        if found.as_ref() != Some(identity) {
            return Err(UnusableAnswer::WrongIdentity { wanted: identity.clone(), found });
        }
        let anchors = Anchors::of_roots(roots_der).map_err(|error| UnusableAnswer::Tls(error.to_string()))?;
        acceptable(&chain, &anchors, provider, now).map_err(UnusableAnswer::Unacceptable)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let certified =
            CertifiedKey::from_der(chain, key, provider).map_err(|error| UnusableAnswer::Tls(error.to_string()))?;
        let credentials = Credentials::new(identity, certified, trust.clone(), Arc::clone(provider))
            .map_err(|error| UnusableAnswer::Tls(error.to_string()))?;
        let certificate = WorkloadCertificate {
            identity: identity.clone(),
            not_before,
            not_after,
            serial,
            chain_pem: chain_pem.to_vec(),
            roots_pem: vec![roots_pem.clone()],
            credentials,
        };
        Ok((certificate, anchors))
    }
}

/// Whether peers that trust `anchors` would accept the chain now.
pub(super) fn acceptable(
    chain: &[CertificateDer<'_>],
    anchors: &Anchors,
    provider: &CryptoProvider,
    now: SystemTime,
) -> Result<(), rustls::Error> {
    let (leaf, intermediates) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
    anchors.verify(Role::Server, leaf, intermediates, unix_time(now), provider.signature_verification_algorithms)
}

fn read_pem(text: &str) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().ok()?;
    (!certificates.is_empty()).then_some(certificates)
}
