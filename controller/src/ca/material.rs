//! Files of an authority, told apart by their names and checked before anything is signed with them; pure.

use std::collections::BTreeMap;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// Content of files, by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Names of files that belong together.
#[derive(Debug)]
pub(super) struct Layout {
    /// The private key.
    pub(super) key: &'static str,
    /// The certificate that signs, first in its file.
    pub(super) certificate: &'static str,
    /// Certificates between that one and a root, if they are in a file of their own.
    pub(super) chain: Option<&'static str>,
    /// All roots that are trusted.
    pub(super) roots: &'static str,
}

/// The mesh's own root, which is its own signer.
pub(super) const OWN: Layout =
    Layout { key: "root-key.pem", certificate: "root-cert.pem", chain: None, roots: "root-cert.pem" };
/// All layouts: that of Istio's `cacerts`, that of cert-manager's secrets, and our own.
const LAYOUTS: [Layout; 3] = [
    Layout { key: "ca-key.pem", certificate: "ca-cert.pem", chain: Some("cert-chain.pem"), roots: "root-cert.pem" },
    Layout { key: "tls.key", certificate: "tls.crt", chain: None, roots: "ca.crt" },
    OWN,
];

/// All names that a file of an authority may have.
pub(super) const NAMES: [&str; 8] =
    ["ca-key.pem", "ca-cert.pem", "cert-chain.pem", "root-cert.pem", "root-key.pem", "tls.key", "tls.crt", "ca.crt"];

/// Why nothing can be signed with what is there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    /// No layout.
    #[error("there is no key of an authority; it is called ca-key.pem, tls.key or root-key.pem")]
    NoKey,
    /// More than one layout.
    #[error("{0} and {1} are both there; leave the files of one layout only")]
    TwoLayouts(&'static str, &'static str),
    /// Part of a layout.
    #[error("{0} is missing; it belongs to {1}")]
    Missing(&'static str, &'static str),
    /// Not what its name says.
    #[error("{file} cannot be read: {problem}")]
    Unreadable {
        /// The file.
        file: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Key and certificate are of two authorities.
    #[error("{certificate} is not the certificate of the key in {key}; one of them was replaced without the other")]
    OtherKey {
        /// File of the certificate.
        certificate: &'static str,
        /// File of the key.
        key: &'static str,
    },
    /// A certificate that must not sign.
    #[error(
        "{subject} in {file} is not the certificate of an authority; it takes CA:TRUE, and keyCertSign among its usages"
    )]
    NoAuthority {
        /// The file.
        file: &'static str,
        /// Whose certificate.
        subject: String,
    },
    /// Too late.
    #[error("{subject} in {file} expired at {at}; renew it")]
    Expired {
        /// The file.
        file: &'static str,
        /// Whose certificate.
        subject: String,
        /// When.
        at: OffsetDateTime,
    },
    /// Too early.
    #[error("{subject} in {file} is not valid before {at}; compare this machine's clock with that of who made it")]
    NotYet {
        /// The file.
        file: &'static str,
        /// Whose certificate.
        subject: String,
        /// When.
        at: OffsetDateTime,
    },
    /// No way to a root.
    #[error(
        "the chain ends at {subject}, which says that {issuer} has signed it, and no certificate of that authority with \
         that key is in {roots} or among those in between; add what is missing"
    )]
    NoRoot {
        /// The last certificate there is.
        subject: String,
        /// Whom it names.
        issuer: String,
        /// File of the roots.
        roots: &'static str,
    },
    /// All well by itself, and yet.
    #[error("proxies would refuse what it signs: {0}")]
    Refused(String),
}

/// A layout with its files.
pub(super) struct Material<'a> {
    pub(super) layout: &'static Layout,
    pub(super) key: &'a [u8],
    /// Who signs, and who may have signed for them.
    pub(super) certificates: Vec<Certificate>,
    pub(super) roots: Vec<Certificate>,
}

impl<'a> Material<'a> {
    /// Finds the layout of `files` and reads its certificates.
    pub(super) fn find(files: &'a Files) -> Result<Self, MaterialError> {
        let mut present = LAYOUTS.iter().filter(|layout| files.contains_key(layout.key));
        let layout = present.next().ok_or(MaterialError::NoKey)?;
        if let Some(other) = present.next() {
            return Err(MaterialError::TwoLayouts(layout.key, other.key));
        }
        let file = |name: &'static str| match files.get(name) {
            Some(content) => Ok(content.as_slice()),
            None => Err(MaterialError::Missing(name, layout.key)),
        };
        let mut certificates = Certificate::read_all(layout.certificate, file(layout.certificate)?)?;
        // Istio's tools always write it, and it says nothing where the certificate is signed by the root itself.
        if let Some((name, content)) = layout.chain.and_then(|name| Some((name, files.get(name)?))) {
            certificates.extend(Certificate::read_all(name, content)?);
        }
        let roots = Certificate::read_all(layout.roots, file(layout.roots)?)?;
        Ok(Self { layout, key: file(layout.key)?, certificates, roots })
    }

    /// The way from who signs to a root, both included.
    pub(super) fn path(&self) -> Result<Vec<&Certificate>, MaterialError> {
        let mut path: Vec<&Certificate> = Vec::new();
        let mut next = self.certificates.first();
        while let Some(current) = next {
            if let Some(root) = self.roots.iter().find(|root| root.der == current.der) {
                path.push(root);
                return Ok(path);
            }
            path.push(current);
            // Of several with the same key, the one that lives longest.
            let root = self.roots.iter().filter(|root| current.is_signed_by(root)).max_by_key(|root| root.not_after);
            if let Some(root) = root {
                path.push(root);
                return Ok(path);
            }
            let is_new = |it: &&Certificate| path.iter().all(|known| known.der != it.der);
            next = self.certificates.iter().filter(is_new).find(|other| current.is_signed_by(other));
        }
        let last = path.last();
        Err(MaterialError::NoRoot {
            subject: last.map(|it| it.subject.clone()).unwrap_or_default(),
            issuer: last.map(|it| it.issuer.clone()).unwrap_or_default(),
            roots: self.layout.roots,
        })
    }
}

/// A certificate and where it was found.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    file: &'static str,
    pub(super) der: CertificateDer<'static>,
    pub(super) subject: String,
    issuer: String,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
    is_authority: bool,
    pub(super) public_key: Vec<u8>,
}

impl Certificate {
    /// All certificates of a file, at least one.
    fn read_all(file: &'static str, pem: &[u8]) -> Result<Vec<Self>, MaterialError> {
        let unreadable = |problem: String| MaterialError::Unreadable { file, problem };
        let ders: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let ders = ders.map_err(|error| unreadable(error.to_string()))?;
        if ders.is_empty() {
            return Err(unreadable("it holds no certificate in PEM".to_owned()));
        }
        let certificates = ders.into_iter().map(|der| Self::of(file, der).map_err(unreadable));
        certificates.collect()
    }

    fn of(file: &'static str, der: CertificateDer<'static>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        // RFC 5280 §4.2.1.3: where usages are said, signing certificates must be among them.
        let usage = parsed.key_usage().map_err(|error| error.to_string())?;
        let is_authority = parsed.is_ca() && usage.is_none_or(|usage| usage.value.key_cert_sign());
        Ok(Self {
            file,
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            is_authority,
            public_key: parsed.public_key().subject_public_key.data.to_vec(),
            der,
        })
    }

    fn is_signed_by(&self, other: &Self) -> bool {
        let parsed = |certificate| X509Certificate::from_der(certificate).map(|(_, parsed)| parsed);
        match (parsed(&self.der), parsed(&other.der)) {
            (Ok(this), Ok(other)) => {
                this.issuer().as_raw() == other.subject().as_raw()
                    && this.verify_signature(Some(other.public_key())).is_ok()
            }
            _ => false,
        }
    }

    /// Whether it may sign others at this time.
    pub(super) fn check(&self, now: OffsetDateTime) -> Result<(), MaterialError> {
        let (file, subject) = (self.file, self.subject.clone());
        if !self.is_authority {
            Err(MaterialError::NoAuthority { file, subject })
        } else if now >= self.not_after {
            Err(MaterialError::Expired { file, subject, at: self.not_after })
        } else if now < self.not_before {
            Err(MaterialError::NotYet { file, subject, at: self.not_before })
        } else {
            Ok(())
        }
    }
}
