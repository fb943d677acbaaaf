//! What Envoy and clients need to be believed: a certificate of the lab's root, and a token with the keys that check it.

use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use serde_json::json;

/// Who issues the token.
pub(super) const ISSUER: &str = "bench.example";
/// Seconds since 1970 until which the token holds: longer than any run takes, in 2100.
const EXPIRES: u64 = 4_102_444_800;

/// A certificate and its key, PEM.
pub(super) struct Certificate {
    pub(super) chain: String,
    pub(super) key: String,
}

/// Signs a certificate for `identity` with the root in the directory of the lab's authority.
pub(super) fn certificate(authority: &Path, identity: &str) -> Result<Certificate> {
    let read = |name: &str| {
        let path = authority.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    let issuer = Issuer::from_ca_cert_pem(&read("root-cert.pem")?, KeyPair::from_pem(&read("root-key.pem")?)?)?;
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::default();
    parameters.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let chain = parameters.signed_by(&key, &issuer)?.pem();
    Ok(Certificate { chain, key: key.serialize_pem() })
}

/// A token, and the keys that check it, as a set (RFC 7517).
pub(super) fn token() -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    // The uncompressed point: one byte, then both halves (RFC 7518 §6.2.1).
    let point = key.public_key_raw();
    let half = |from: usize| URL_SAFE_NO_PAD.encode(point.get(from..from + 32).unwrap_or_default());
    let keys =
        json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "bench", "x": half(1), "y": half(33)}]});
    let header = Header { kid: Some("bench".to_owned()), ..Header::new(Algorithm::ES256) };
    let claims = json!({"iss": ISSUER, "sub": "load", "exp": EXPIRES, "groups": ["one", "two"]});
    let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_der(&key.serialize_der()))?;
    Ok((token, keys.to_string()))
}
