//! Service account tokens for the nodes' ztunnels and for pods, bound to node and pod as Kubernetes' own are.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::error::{Doing, Result};

/// How long a token is good. Kubernetes issues at least ten minutes; an hour is its default.
pub(crate) const LIFETIME: Duration = Duration::from_secs(3600);
/// How often tokens are replaced: a reader that misses one renewal still has a good token.
pub(crate) const RENEWAL: Duration = Duration::from_secs(1200);
/// Tolerance for a verifier whose clock is behind.
const CLOCK_SKEW: u64 = 10;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Audience of the mesh.
pub(crate) const AUDIENCE: &str = "istio-ca";

/// Whom a token is for.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    pub(crate) service_account_uid: String,
    pub(crate) pod: String,
    pub(crate) pod_uid: String,
    pub(crate) node: String,
}

/// The lab's token issuer.
pub(crate) struct Issuer {
    key: EncodingKey,
    public_key: String,
}

impl Issuer {
    /// An issuer with a fresh P-256 key.
    pub(crate) fn generate() -> Result<Self> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .doing(|| "making the key that signs tokens")?;
        let public_key = key.public_key_pem();
        Ok(Self { key: EncodingKey::from_ec_der(&key.serialize_der()), public_key })
    }

    /// PEM of the public key.
    pub(crate) fn public_key(&self) -> &str {
        &self.public_key
    }

    /// A token for `subject` to show to `audience`, issued at `now` seconds after 1970.
    pub(crate) fn sign(&self, subject: &Subject, audience: &str, now: u64) -> Result<String> {
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims(subject, audience, now), &self.key)
            .doing(|| "signing a token")
    }
}

fn claims(subject: &Subject, audience: &str, now: u64) -> Value {
    json!({
        "iss": ISSUER,
        "sub": format!("system:serviceaccount:{}:{}", subject.namespace, subject.service_account),
        "aud": [audience],
        "iat": now.saturating_sub(CLOCK_SKEW),
        "nbf": now.saturating_sub(CLOCK_SKEW),
        "exp": now.saturating_add(LIFETIME.as_secs()),
        "kubernetes.io": {
            "namespace": subject.namespace,
            "node": {"name": subject.node},
            "pod": {"name": subject.pod, "uid": subject.pod_uid},
            "serviceaccount": {"name": subject.service_account, "uid": subject.service_account_uid},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_verifies_with_the_public_key_and_names_its_node() {
        let issuer = Issuer::generate().unwrap();
        let subject = Subject {
            namespace: "fairway-system".into(),
            service_account: "ztunnel".into(),
            service_account_uid: "s".into(),
            pod: "ztunnel-node-1".into(),
            pod_uid: "p".into(),
            node: "node-1".into(),
        };
        // 2100-01-01: not expired whenever this runs.
        let token = issuer.sign(&subject, AUDIENCE, 4_102_444_800).unwrap();
        let mut rules = jsonwebtoken::Validation::new(Algorithm::ES256);
        rules.set_audience(&[AUDIENCE]);
        rules.validate_nbf = false;
        let key = jsonwebtoken::DecodingKey::from_ec_pem(issuer.public_key().as_bytes()).unwrap();
        let claims = jsonwebtoken::decode::<Value>(&token, &key, &rules).unwrap().claims;
        assert_eq!(claims["sub"], "system:serviceaccount:fairway-system:ztunnel");
        assert_eq!(claims["kubernetes.io"]["node"]["name"], "node-1");
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3610);
        let other = Issuer::generate().unwrap();
        let key = jsonwebtoken::DecodingKey::from_ec_pem(other.public_key().as_bytes()).unwrap();
        assert!(jsonwebtoken::decode::<Value>(&token, &key, &rules).is_err());
    }
}
