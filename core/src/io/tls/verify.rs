//! Accepts or refuses a peer's certificate: chain first, then its SPIFFE identity.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::trust::{Role, Trust};
use crate::ident::Identity;

/// Why a certificate that chains to our roots is refused all the same.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PeerRefused {
    /// The certificate is not X.509 we can read.
    #[error("peer certificate cannot be parsed")]
    Unparsable,
    /// No URI name in the form `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    #[error("peer certificate carries no SPIFFE identity")]
    NoIdentity,
    /// The identity is real but not the one asked for.
    #[error("peer is {found}, expected {}", list(.expected))]
    Unexpected {
        /// Whom we reached.
        found: Identity,
        /// Whom we wanted.
        expected: Vec<Identity>,
    },
    /// The identity belongs to another trust domain than ours.
    #[error("peer {found} is of another trust domain than ours, {ours}")]
    ForeignTrustDomain {
        /// Who knocked.
        found: Identity,
        /// The domain we serve.
        ours: String,
    },
}

fn list(identities: &[Identity]) -> String {
    identities.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

impl PeerRefused {
    fn into_tls(self) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }

    /// Finds the refusal inside an I/O error that came out of a handshake, if that was the cause.
    #[must_use]
    pub fn find(error: &std::io::Error) -> Option<&Self> {
        match error.get_ref()?.downcast_ref::<Error>()? {
            Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref::<Self>(),
            _ => None,
        }
    }
}

/// The SPIFFE identities among a certificate's URI names, in order.
///
/// # Errors
/// When the certificate cannot be parsed. Names of other schemes are skipped: they identify nobody in the mesh.
pub fn identities(certificate: &CertificateDer<'_>) -> Result<Vec<Identity>, PeerRefused> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_unreadable| PeerRefused::Unparsable)?;
    let names = parsed.subject_alternative_name().map_err(|_unreadable| PeerRefused::Unparsable)?;
    let uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => uri.parse().ok(),
        _ => None,
    });
    Ok(uris.collect())
}

/// The identity a verified peer speaks as: the first in its certificate (interop §1.7).
#[must_use]
pub fn peer_identity(chain: Option<&[CertificateDer<'_>]>) -> Option<Identity> {
    identities(chain?.first()?).ok()?.into_iter().next()
}

/// Accepts a server that is one of the identities we set out to reach.
pub(super) struct ExpectedPeer {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
    accepted: Vec<Identity>,
}

impl ExpectedPeer {
    pub(super) fn new(trust: Trust, provider: &CryptoProvider, accepted: Vec<Identity>) -> Self {
        Self { trust, algorithms: provider.signature_verification_algorithms, accepted }
    }
}

impl fmt::Debug for ExpectedPeer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ExpectedPeer").field("accepted", &self.accepted).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ExpectedPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.trust.current().verify(Role::Server, end_entity, intermediates, now, self.algorithms)?;
        let found = identities(end_entity).map_err(PeerRefused::into_tls)?;
        if found.iter().any(|identity| self.accepted.contains(identity)) {
            return Ok(ServerCertVerified::assertion());
        }
        let refused = match found.into_iter().next() {
            Some(found) => PeerRefused::Unexpected { found, expected: self.accepted.clone() },
            None => PeerRefused::NoIdentity,
        };
        Err(refused.into_tls())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Accepts any client of our trust domain; policy decides later what it may do.
#[derive(Debug)]
pub(super) struct MeshClients {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
    trust_domain: String,
}

impl MeshClients {
    pub(super) fn new(trust: Trust, provider: &CryptoProvider, ours: &Identity) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self { trust, algorithms, trust_domain: ours.trust_domain().to_owned() }
    }
}

impl ClientCertVerifier for MeshClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Peers have one certificate to show. Hints would only make the handshake longer.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust.current().verify(Role::Client, end_entity, intermediates, now, self.algorithms)?;
        let found = identities(end_entity).map_err(PeerRefused::into_tls)?;
        let Some(first) = found.into_iter().next() else {
            return Err(PeerRefused::NoIdentity.into_tls());
        };
        if first.trust_domain() != self.trust_domain {
            let ours = self.trust_domain.clone();
            return Err(PeerRefused::ForeignTrustDomain { found: first, ours }.into_tls());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
