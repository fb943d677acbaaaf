//! Keys of issuers (RFC 7517), and whether one of them has signed something. Only public keys, by whose means nobody can sign.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::Value;

use super::Problem;

/// Keys of one issuer, as many as the controller sends.
const MAXIMUM: usize = 100;
/// Name of the key whose private half nobody has: the only one of an issuer whose keys are not known (ADR 0017).
const NOBODY: &str = "nobody";

/// How a token may be signed (RFC 7518 §3.1, RFC 8037 §3.1): with the private half of a pair of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    /// The one of this name. `none`, and those for which one key both signs and checks, are not among them.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// The keys of one issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

/// Why a text is no set of keys.
#[derive(Debug, thiserror::Error)]
pub enum NoKeys {
    /// It is no JSON.
    #[error("is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It has no list of keys.
    #[error("has no list of keys")]
    List,
    /// It has more than anybody needs.
    #[error("has {0} keys; at most {MAXIMUM} are taken")]
    Many(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    name: Option<String>,
    /// What it may be used for, if it says so.
    only: Option<Algorithm>,
    public: Public,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Public {
    Rsa(RsaPublicKey),
    /// On a curve, as points are written (SEC 1 §2.3.3).
    P256(Vec<u8>),
    /// See `P256`.
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Modulus and exponent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RsaPublicKey(Vec<u8>, Vec<u8>);

impl Keys {
    /// Reads a set of keys. One that cannot be used is left out, so that it does not cost the issuer the others.
    ///
    /// # Errors
    /// Where it is none.
    pub fn parse(set: &str) -> Result<Self, NoKeys> {
        let set: Value = serde_json::from_str(set)?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or(NoKeys::List)?;
        if keys.len() > MAXIMUM {
            return Err(NoKeys::Many(keys.len()));
        }
        Ok(Self(keys.iter().filter_map(Key::of).collect()))
    }

    /// Whether one of them has signed `message`.
    ///
    /// # Errors
    /// Why not.
    pub fn verify(
        &self,
        algorithm: Algorithm,
        name: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Problem> {
        if self.0.iter().all(|key| key.name.as_deref() == Some(NOBODY)) {
            return Err(Problem::NoKeys);
        }
        // A key without a name may be the one that is meant.
        let is_meant = |key: &&Key| match (name, &key.name) {
            (Some(name), Some(own)) => name == own,
            _ => true,
        };
        let mut problem = Problem::NoSuchKey;
        for key in self.0.iter().filter(is_meant) {
            match key.verify(algorithm, message, signature) {
                Some(true) => return Ok(()),
                Some(false) => problem = Problem::Signature,
                None => {}
            }
        }
        Err(problem)
    }
}

impl Key {
    fn of(key: &Value) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let part = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let number = |name: &str| {
            let bytes = part(name)?;
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            bytes.get(zeros..).map(<[u8]>::to_vec)
        };
        // RFC 7518 §6.2.1.2: both have the length that the curve says.
        let point = |length: usize| {
            let (x, y) = (part("x")?, part("y")?);
            (x.len() == length && y.len() == length).then(|| [&[4], &*x, &*y].concat())
        };
        let public = match (text("kty")?, text("crv")) {
            ("RSA", _) => Public::Rsa(RsaPublicKey(number("n")?, number("e")?)),
            ("EC", Some("P-256")) => Public::P256(point(32)?),
            ("EC", Some("P-384")) => Public::P384(point(48)?),
            ("OKP", Some("Ed25519")) => Public::Ed25519(part("x")?),
            _ => return None,
        };
        let only = match text("alg") {
            Some(name) => Some(Algorithm::named(name)?),
            None => None,
        };
        Some(Self { name: text("kid").map(str::to_owned), only, public })
    }

    /// Whether the key has signed `message`; none where it does not sign in this way.
    fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Option<bool> {
        if self.only.is_some_and(|only| only != algorithm) {
            return None;
        }
        let point = |kind: &'static dyn VerificationAlgorithm, point: &[u8]| {
            UnparsedPublicKey::new(kind, point).verify(message, signature).is_ok()
        };
        let rsa = |parameters: &RsaParameters, RsaPublicKey(n, e): &RsaPublicKey| {
            RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
        };
        Some(match (&self.public, algorithm) {
            (Public::Rsa(key), Algorithm::Rs256) => rsa(&signature::RSA_PKCS1_2048_8192_SHA256, key),
            (Public::Rsa(key), Algorithm::Rs384) => rsa(&signature::RSA_PKCS1_2048_8192_SHA384, key),
            (Public::Rsa(key), Algorithm::Rs512) => rsa(&signature::RSA_PKCS1_2048_8192_SHA512, key),
            (Public::Rsa(key), Algorithm::Ps256) => rsa(&signature::RSA_PSS_2048_8192_SHA256, key),
            (Public::Rsa(key), Algorithm::Ps384) => rsa(&signature::RSA_PSS_2048_8192_SHA384, key),
            (Public::Rsa(key), Algorithm::Ps512) => rsa(&signature::RSA_PSS_2048_8192_SHA512, key),
            (Public::P256(key), Algorithm::Es256) => point(&signature::ECDSA_P256_SHA256_FIXED, key),
            (Public::P384(key), Algorithm::Es384) => point(&signature::ECDSA_P384_SHA384_FIXED, key),
            (Public::Ed25519(key), Algorithm::EdDsa) => point(&signature::ED25519, key),
            _ => return None,
        })
    }
}
