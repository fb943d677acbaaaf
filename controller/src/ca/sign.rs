//! Requests in, certificates out: only the public key of a request is used, never what it claims (interop §4.2).

use std::net::IpAddr;
use std::time::Duration;

use fairway_core::ident::Identity;
use rcgen::string::Ia5String;
use rcgen::{
    Certificate, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

use super::root::{BACKDATE, serial};
use super::signer::Signer;

/// A request with an RSA key of 4096 bits takes 2 KiB.
const MAXIMUM_CSR_BYTES: usize = 16 * 1024;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// Not a request.
    #[error("the certificate request cannot be read: {0}; send PKCS #10 in PEM")]
    Form(String),
    /// The caller may not have the key.
    #[error("the signature of the certificate request is not that of its key")]
    Signature,
    /// A kind of key that is not signed.
    #[error("the key of the certificate request is of an unsupported kind; use ECDSA P-256")]
    Key,
}

/// The public key of a request whose signature proves that the caller has the private one.
///
/// # Errors
/// When it is not a request, or not proven.
pub fn requested_key(pem: &str) -> Result<SubjectPublicKeyInfo, CsrError> {
    if pem.len() > MAXIMUM_CSR_BYTES {
        return Err(CsrError::Form(format!("longer than {MAXIMUM_CSR_BYTES} bytes")));
    }
    let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|error| CsrError::Form(error.to_string()))?;
    if !block.label.ends_with("CERTIFICATE REQUEST") {
        return Err(CsrError::Form(format!("a {:?} block", block.label)));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|error| CsrError::Form(error.to_string()))?;
    if !rest.is_empty() {
        return Err(CsrError::Form("bytes follow the request".to_owned()));
    }
    request.verify_signature().map_err(|_| CsrError::Signature)?;
    SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw).map_err(|_| CsrError::Key)
}

/// A certificate for a workload; it ends with `lifetime` or with who signs.
///
/// # Errors
/// When the cryptographic library refuses.
pub fn workload(
    signer: &Signer,
    identity: &Identity,
    key: &impl PublicKeyData,
    lifetime: Duration,
    now: OffsetDateTime,
) -> Result<Certificate, rcgen::Error> {
    let mut params = leaf(signer, lifetime, now);
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(identity.as_str())?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.signed_by(key, signer.issuer())
}

/// A certificate, with a new key, for the controller's own port.
///
/// # Errors
/// When a name is not one or the cryptographic library refuses.
pub fn server(
    signer: &Signer,
    names: &[String],
    lifetime: Duration,
    now: OffsetDateTime,
) -> Result<(CertificateDer<'static>, KeyPair), rcgen::Error> {
    let mut params = leaf(signer, lifetime, now);
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(Ia5String::try_from(name.as_str())?),
        });
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.signed_by(&key, signer.issuer())?;
    Ok((certificate.der().clone(), key))
}

fn leaf(signer: &Signer, lifetime: Duration, now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.not_before = now - BACKDATE;
    params.not_after = (now + lifetime).min(signer.not_after());
    params.serial_number = Some(serial());
    params.use_authority_key_identifier_extension = true;
    params
}
