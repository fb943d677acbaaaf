//! Who signs for the mesh at this moment: a key, the way from it to a root, and the roots that everybody is to trust.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairway_core::ident::{Identity, IdentityError};
use fairway_core::io::tls;
use fairway_core::io::tls::trust::{Anchors, Role, unix_time};
use rcgen::{Issuer, KeyPair};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

use super::key::AuthorityKey;
use super::material::{Certificate, Files, Material, MaterialError};
use super::sign;

/// A checked authority.
pub struct Signer {
    issuer: Issuer<'static, AuthorityKey>,
    /// From who signs upwards, without roots.
    intermediates: Vec<CertificateDer<'static>>,
    roots: Vec<Certificate>,
    roots_pem: String,
    /// The one that signs, and the root that its chain ends in; the same where a root signs.
    subject: String,
    root: Certificate,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("subject", &self.subject)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// Checks `files` of an authority that is to sign for `trust_domain`.
    ///
    /// # Errors
    /// What is wrong, by file.
    pub fn of(files: &Files, trust_domain: &str, now: OffsetDateTime) -> Result<Self, MaterialError> {
        let material = Material::find(files)?;
        let (key_file, certificate_file) = (material.layout.key, material.layout.certificate);
        let key = AuthorityKey::read(material.key, &tls::provider())
            .map_err(|problem| MaterialError::Unreadable { file: key_file, problem })?;
        let signing = material.certificates.first();
        let signing = signing.filter(|it| it.public_key == rcgen::PublicKeyData::der_bytes(&key));
        let signing = signing.ok_or(MaterialError::OtherKey { certificate: certificate_file, key: key_file })?.clone();
        signing.check(now)?;
        let path = material.path()?;
        for certificate in &path {
            certificate.check(now)?;
        }
        let (root, between) = match path.split_last() {
            Some((root, between)) => ((*root).clone(), between),
            None => (signing.clone(), Default::default()),
        };
        let unreadable =
            |error: rcgen::Error| MaterialError::Unreadable { file: certificate_file, problem: error.to_string() };
        let signer = Self {
            issuer: Issuer::from_ca_cert_der(&signing.der, key).map_err(unreadable)?,
            intermediates: between.iter().map(|it| it.der.clone()).collect(),
            roots_pem: material.roots.iter().map(|root| pem(&root.der)).collect(),
            not_before: path.iter().map(|it| it.not_before).max().unwrap_or(signing.not_before),
            not_after: path.iter().map(|it| it.not_after).min().unwrap_or(signing.not_after),
            roots: material.roots,
            subject: signing.subject,
            root,
        };
        signer.try_out(trust_domain, now)?;
        Ok(signer)
    }

    /// Signs once and checks that as a proxy would: constraints of names and of lengths are told only by that.
    fn try_out(&self, trust_domain: &str, now: OffsetDateTime) -> Result<(), MaterialError> {
        let refused = |error: String| MaterialError::Refused(error);
        let identity = Identity::new(trust_domain, "default", "default");
        let identity = identity.map_err(|error: IdentityError| refused(error.to_string()))?;
        let provider = tls::provider();
        let key = KeyPair::generate().map_err(|error| refused(error.to_string()))?;
        let leaf = sign::workload(self, &identity, &key, super::root::BACKDATE, now);
        let leaf = leaf.map_err(|error| refused(error.to_string()))?;
        let anchors = Anchors::of_roots(self.roots.iter().map(|root| root.der.clone()).collect());
        let anchors = anchors.map_err(|error| refused(error.to_string()))?;
        let (now, algorithms) = (unix_time(SystemTime::from(now)), provider.signature_verification_algorithms);
        for role in [Role::Server, Role::Client] {
            let verified = anchors.verify(role, leaf.der(), &self.intermediates, now, algorithms);
            verified.map_err(|error| refused(error.to_string()))?;
        }
        Ok(())
    }

    /// All roots that are to be trusted, PEM.
    #[must_use]
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// How many roots are to be trusted.
    #[must_use]
    pub fn root_count(&self) -> usize {
        self.roots.len()
    }

    /// What follows a leaf on its way to a root, without the root.
    #[must_use]
    pub fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.intermediates
    }

    /// The same, PEM.
    pub(super) fn intermediates_pem(&self) -> impl Iterator<Item = String> {
        self.intermediates.iter().map(pem)
    }

    /// Start of what is signed with: nobody on the way to the root holds earlier.
    #[must_use]
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// End of it, which nothing that is signed outlives.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// From when to when the root holds that the chain ends in.
    #[must_use]
    pub fn root(&self) -> (OffsetDateTime, OffsetDateTime) {
        (self.root.not_before, self.root.not_after)
    }

    /// Whom a certificate names as its issuer.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Whether a root signs itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.intermediates.is_empty()
    }

    /// Whether who trusts the roots of `self` accepts what `other` signs.
    #[must_use]
    pub fn trusts(&self, other: &Self) -> bool {
        self.roots.iter().any(|root| root.der == other.root.der)
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, AuthorityKey> {
        &self.issuer
    }
}

/// A certificate as text (RFC 7468 §5.1).
fn pem(der: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(der);
    let lines: String = text.as_bytes().chunks(64).map(|line| format!("{}\n", String::from_utf8_lossy(line))).collect();
    format!("-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n")
}

/// The authority in use; it changes while the controller runs.
pub type Current = tokio::sync::watch::Receiver<Arc<Signer>>;
