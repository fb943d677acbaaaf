//! One token in its compact form (RFC 7515 §7.1), taken apart; nothing of it is believed yet.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::Problem;
use super::claims::Claims;
use super::keys::Algorithm;

/// Longest token, in characters: what of a request's headers commonly still fits.
const MAXIMUM: usize = 32 * 1024;

/// A token, taken apart.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// What is signed: head and payload, as they are encoded.
    pub(super) signed: &'a str,
    /// The payload as it is encoded.
    pub(super) payload: &'a str,
    /// How it is signed.
    pub(super) algorithm: Algorithm,
    /// The name of the key.
    pub(super) key: Option<String>,
    /// What it claims.
    pub(super) claims: Claims,
    /// The signature.
    pub(super) signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// Where it is none, or one that is signed in a way that proves nothing.
    pub(super) fn parse(text: &'a str) -> Result<Self, Problem> {
        let (signed, signature) = text.rsplit_once('.').filter(|_| text.len() <= MAXIMUM).ok_or(Problem::Malformed)?;
        let (head, payload) = signed.split_once('.').ok_or(Problem::Malformed)?;
        let head = object(head)?;
        let text = |name: &str| head.get(name).and_then(Value::as_str);
        // RFC 7515 §4.1.11: extensions that must be understood, of which we know none.
        if head.contains_key("crit") || head.get("kid").is_some_and(|key| !key.is_string()) {
            return Err(Problem::Malformed);
        }
        let algorithm = text("alg").and_then(Algorithm::named).ok_or(Problem::NoSuchKey)?;
        let key = text("kid").map(str::to_owned);
        let claims = Claims::new(object(payload)?);
        Ok(Self { signed, payload, algorithm, key, claims, signature: decoded(signature)? })
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, Problem> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Problem::Malformed)
}

fn object(part: &str) -> Result<Map<String, Value>, Problem> {
    serde_json::from_slice(&decoded(part)?).map_err(|_| Problem::Malformed)
}
