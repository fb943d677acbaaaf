//! The private key of an authority, in whatever form tools write it: PKCS #8, PKCS #1 or SEC 1.

use std::sync::Arc;

use rcgen::{PublicKeyData, SignatureAlgorithm};
use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::sign::SigningKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

/// How each kind of key signs certificates, by the two libraries' names.
static KINDS: [(SignatureScheme, &SignatureAlgorithm); 4] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, &rcgen::PKCS_ECDSA_P256_SHA256),
    (SignatureScheme::ECDSA_NISTP384_SHA384, &rcgen::PKCS_ECDSA_P384_SHA384),
    (SignatureScheme::RSA_PKCS1_SHA256, &rcgen::PKCS_RSA_SHA256),
    (SignatureScheme::ED25519, &rcgen::PKCS_ED25519),
];

/// A key that signs certificates.
pub(super) struct AuthorityKey {
    key: Arc<dyn SigningKey>,
    scheme: SignatureScheme,
    algorithm: &'static SignatureAlgorithm,
    public: Vec<u8>,
}

impl AuthorityKey {
    /// Reads the key from PEM.
    pub(super) fn read(pem: &[u8], provider: &CryptoProvider) -> Result<Self, String> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
        let key = provider.key_provider.load_private_key(der).map_err(|error| error.to_string())?;
        let kind = KINDS.iter().find(|(scheme, _)| key.choose_scheme(&[*scheme]).is_some());
        let Some((scheme, algorithm)) = kind.copied() else {
            return Err("keys of this kind are not supported; use ECDSA P-256".to_owned());
        };
        let spki = key.public_key().ok_or("its public key cannot be derived")?;
        let (_, parsed) = SubjectPublicKeyInfo::from_der(&spki).map_err(|error| error.to_string())?;
        let public = parsed.subject_public_key.data.to_vec();
        Ok(Self { key, scheme, algorithm, public })
    }
}

impl PublicKeyData for AuthorityKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl rcgen::SigningKey for AuthorityKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signer = self.key.choose_scheme(&[self.scheme]).ok_or(rcgen::Error::RemoteKeyError)?;
        signer.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
