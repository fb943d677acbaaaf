//! For tests: somebody who issues tokens.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderName;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use super::Keys;
use crate::config::{Issuer, Place};

/// An issuer with its private key.
pub(crate) struct Signer(Ed25519KeyPair);

pub(crate) fn encoded(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub(crate) fn new() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap())
    }

    /// The public half, called `k`.
    pub(crate) fn key(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": encoded(self.0.public_key())})
    }

    /// A token with this head.
    pub(crate) fn sign_with(&self, head: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encoded(head.to_string()), encoded(claims.to_string()));
        format!("{signed}.{}", encoded(self.0.sign(signed.as_bytes())))
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({"alg": "EdDSA", "kid": "k"}), claims)
    }

    /// What a waypoint knows of it: it is for `web`, and says groups in `x-group` and all in `x-payload`.
    pub(crate) fn issuer(&self, name: &str) -> Issuer {
        let path = |text: &str| text.split('.').map(str::to_owned).collect();
        Issuer {
            name: name.to_owned(),
            audiences: vec!["web".to_owned()],
            keys: Keys::parse(&json!({"keys": [self.key()]}).to_string()).unwrap(),
            places: vec![Place::Bearer, Place::Parameter("access_token".to_owned())],
            is_forwarded: false,
            payload_header: Some(HeaderName::from_static("x-payload")),
            claim_headers: vec![
                (HeaderName::from_static("x-group"), path("realm.group")),
                (HeaderName::from_static("x-level"), path("level")),
            ],
            lists: vec!["scope".to_owned()],
        }
    }
}
