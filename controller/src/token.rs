//! Who calls: a bearer token of a service account, checked with the keys that sign them, or by the API server.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use tonic::Status;
use tonic::metadata::MetadataMap;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

pub mod review;

use review::Reviewer;

/// Difference between the clocks of who signed the token and of this machine that is tolerated.
const CLOCK_SKEW: Duration = Duration::from_secs(30);
/// Service-account tokens are about 1 KiB; more is not worth parsing.
const MAXIMUM_TOKEN_BYTES: usize = 16 * 1024;
const SUBJECT_PREFIX: &str = "system:serviceaccount:";

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Namespace of its service account.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// The pod the token was made for, if it is bound to one.
    pub pod: Option<CallerPod>,
}

/// The pod a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerPod {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its node, if the token says so.
    pub node: Option<String>,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service_account)?;
        match &self.pod {
            Some(pod) => write!(f, " (pod {})", pod.name),
            None => Ok(()),
        }
    }
}

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not PEM.
    #[error("no PEM block could be read ({0}); the file must hold PUBLIC KEY blocks")]
    Pem(String),
    /// A block of another kind.
    #[error("holds a {0:?} block; give the public key only, for example from `openssl pkey -pubout`")]
    Label(String),
    /// Not a key of a kind that signs tokens.
    #[error("holds a key of an unknown kind; use ECDSA P-256 or P-384, RSA or Ed25519")]
    Unsupported,
    /// No block at all.
    #[error("holds no key")]
    Empty,
}

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No `authorization` metadata.
    #[error("no bearer token; send one for the audience {0:?} as `authorization: Bearer <token>`")]
    Missing(String),
    /// Not a token, or of an algorithm no key is for.
    #[error("the bearer token cannot be read: {0}")]
    Malformed(String),
    /// Signed by somebody else.
    #[error(
        "the bearer token is signed by a key this controller does not trust; compare --service-account-key with the key of the token's issuer"
    )]
    Signature,
    /// Past its end.
    #[error("the bearer token has expired; the caller must read its token file again for each request")]
    Expired,
    /// Before its start.
    #[error("the bearer token is not valid yet; compare the clocks of the machines")]
    Early,
    /// For somebody else.
    #[error("the bearer token is not for the audience {0:?}; project a token for that audience")]
    Audience(String),
    /// Made by somebody else.
    #[error("the bearer token was issued by {found:?}, not by {expected:?}; see --token-issuer")]
    Issuer {
        /// Who made it.
        found: String,
        /// Who should have.
        expected: String,
    },
    /// The API server says no.
    #[error("the API server does not accept the bearer token: {0}")]
    Refused(String),
    /// Not the token of a service account.
    #[error("the bearer token is not that of a service account: its subject is {0:?}")]
    Subject(String),
}

impl From<TokenError> for Status {
    fn from(error: TokenError) -> Self {
        Self::unauthenticated(error.to_string())
    }
}

/// Checks tokens.
#[derive(Debug)]
pub enum Verifier {
    /// With the keys that sign them.
    Keys(Keys),
    /// By asking the API server.
    Review(Box<Reviewer>),
}

impl Verifier {
    /// Checks the token in the metadata of a request.
    ///
    /// # Errors
    /// UNAUTHENTICATED with the reason, or UNAVAILABLE when it cannot be checked now.
    pub async fn authenticate(
        &self,
        metadata: &MetadataMap,
        peer: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Caller, Status> {
        let written = metadata.get("authorization").and_then(|value| value.to_str().ok());
        let token = bearer(written).ok_or_else(|| TokenError::Missing(self.audience().to_owned()))?;
        self.verify(token, peer, now).await
    }

    /// Checks a token from `peer`.
    ///
    /// # Errors
    /// Like [`Self::authenticate`].
    pub async fn verify(&self, token: &str, peer: Option<IpAddr>, now: SystemTime) -> Result<Caller, Status> {
        if token.len() > MAXIMUM_TOKEN_BYTES {
            return Err(TokenError::Malformed(format!("longer than {MAXIMUM_TOKEN_BYTES} bytes")).into());
        }
        match self {
            Self::Keys(keys) => Ok(keys.verify(token, now)?),
            Self::Review(reviewer) => reviewer.verify(token, peer, now).await,
        }
    }

    /// Whether it can be said now whose the token in the metadata of a request is, whatever there is to say.
    pub async fn can_check(&self, metadata: &MetadataMap, now: SystemTime) -> bool {
        match self {
            Self::Keys(_) => true,
            Self::Review(reviewer) => {
                let written = metadata.get("authorization").and_then(|value| value.to_str().ok());
                reviewer.can_check(bearer(written).unwrap_or_default(), now).await
            }
        }
    }

    fn audience(&self) -> &str {
        match self {
            Self::Keys(keys) => &keys.audience,
            Self::Review(reviewer) => reviewer.audience(),
        }
    }
}

/// The token of an `authorization` header.
pub(crate) fn bearer(written: Option<&str>) -> Option<&str> {
    let (scheme, token) = written?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Checks tokens against keys, issuer and audience, without asking anybody.
pub struct Keys {
    keys: Vec<(Algorithm, DecodingKey)>,
    issuer: String,
    audience: String,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithms: Vec<_> = self.keys.iter().map(|(algorithm, _)| algorithm).collect();
        f.debug_struct("Keys").field("keys", &algorithms).field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    #[serde(default)]
    aud: Audience,
    exp: u64,
    #[serde(default)]
    nbf: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

#[derive(Deserialize)]
struct Kubernetes {
    pod: Option<Reference>,
    node: Option<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
}

impl Keys {
    /// A verifier that trusts the public keys in `pem`.
    ///
    /// # Errors
    /// When there is a block that is not a public key that can sign tokens, or none.
    pub fn from_pem(pem: &[u8], issuer: &str, audience: &str) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for block in Pem::iter_from_buffer(pem) {
            let block = block.map_err(|error| KeyError::Pem(error.to_string()))?;
            if block.label != "PUBLIC KEY" {
                return Err(KeyError::Label(block.label));
            }
            keys.extend(key(&block.contents)?);
        }
        if keys.is_empty() {
            return Err(KeyError::Empty);
        }
        Ok(Self { keys, issuer: issuer.to_owned(), audience: audience.to_owned() })
    }

    /// Checks a token.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Caller, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| TokenError::Malformed(error.to_string()))?;
        let mut usable = self.keys.iter().filter(|(algorithm, _)| *algorithm == header.alg).peekable();
        if usable.peek().is_none() {
            return Err(TokenError::Malformed(format!("no key for its algorithm {:?}", header.alg)));
        }
        let claims = usable
            .find_map(|(algorithm, key)| {
                jsonwebtoken::decode::<Claims>(token, key, &signature_only(*algorithm)).map(|data| data.claims).ok()
            })
            .ok_or(TokenError::Signature)?;
        self.check(claims, now)
    }

    fn check(&self, claims: Claims, now: SystemTime) -> Result<Caller, TokenError> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if claims.exp.saturating_add(CLOCK_SKEW.as_secs()) <= now {
            return Err(TokenError::Expired);
        }
        if claims.nbf > now.saturating_add(CLOCK_SKEW.as_secs()) {
            return Err(TokenError::Early);
        }
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer { found: claims.iss, expected: self.issuer.clone() });
        }
        let is_for_us = match &claims.aud {
            Audience::One(audience) => *audience == self.audience,
            Audience::Several(audiences) => audiences.contains(&self.audience),
        };
        if !is_for_us {
            return Err(TokenError::Audience(self.audience.clone()));
        }
        let account = claims.sub.strip_prefix(SUBJECT_PREFIX).and_then(|rest| rest.split_once(':'));
        let Some((namespace, service_account)) = account else {
            return Err(TokenError::Subject(claims.sub));
        };
        let pod = claims.kubernetes.and_then(|kubernetes| {
            let node = kubernetes.node.map(|node| node.name).filter(|name| !name.is_empty());
            kubernetes.pod.map(|pod| CallerPod { name: pod.name, uid: pod.uid, node })
        });
        Ok(Caller { namespace: namespace.to_owned(), service_account: service_account.to_owned(), pod })
    }
}

/// Claims are checked by [`Keys::check`], which takes the time as an argument.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

/// The key of a SubjectPublicKeyInfo (RFC 5280 §4.1), for the algorithms it can verify.
fn key(der: &[u8]) -> Result<Vec<(Algorithm, DecodingKey)>, KeyError> {
    let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| KeyError::Unsupported)?;
    let bits = info.subject_public_key.data.as_ref();
    let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    match info.algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.10045.2.1" => match curve.map(|curve| curve.to_id_string()).as_deref() {
            Some("1.2.840.10045.3.1.7") => Ok(vec![(Algorithm::ES256, DecodingKey::from_ec_der(bits))]),
            Some("1.3.132.0.34") => Ok(vec![(Algorithm::ES384, DecodingKey::from_ec_der(bits))]),
            _ => Err(KeyError::Unsupported),
        },
        "1.2.840.113549.1.1.1" => Ok([Algorithm::RS256, Algorithm::RS384, Algorithm::RS512]
            .map(|algorithm| (algorithm, DecodingKey::from_rsa_der(bits)))
            .into()),
        "1.3.101.112" => Ok(vec![(Algorithm::EdDSA, DecodingKey::from_ed_der(bits))]),
        _ => Err(KeyError::Unsupported),
    }
}

#[cfg(test)]
mod tests;
