//! Whose tokens are believed at waypoints: what RequestAuthentications come to, in no proxy's language.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fairway_core::source::ObjectKey;

use super::authz::Place;

pub mod keys;
pub mod read;

/// A RequestAuthentication that is attached to something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The object.
    pub object: ObjectKey,
    /// What it is attached to.
    pub places: Vec<Place>,
    /// Whose tokens are believed.
    pub issuers: Vec<Issuer>,
}

/// Who gives tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// The claim `iss`.
    pub name: String,
    /// Any may be the claim `aud`; none is no restriction.
    pub audiences: Vec<String>,
    /// What its tokens are signed with.
    pub keys: Keys,
    /// Headers with the token, and what comes before it; without any place, the usual ones.
    pub headers: Vec<(String, String)>,
    /// Parameters with the token.
    pub parameters: Vec<String>,
    /// Cookies with the token.
    pub cookies: Vec<String>,
    /// Header that gets the payload.
    pub payload_header: Option<String>,
    /// Headers that get claims.
    pub claim_headers: Vec<(String, String)>,
    /// Whether the token goes on to the endpoint.
    pub is_forwarded: bool,
    /// Claims that are lists with spaces between.
    pub lists: Vec<String>,
}

/// What tokens are signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// These.
    Written(Arc<str>),
    /// Those that are there; a fetch may take so long.
    At(Origin, Duration),
}

/// Where keys are fetched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// At this URL.
    Keys(String),
    /// Where this issuer says (OpenID Connect Discovery 1.0 §4).
    Issuer(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys(url) => f.write_str(url),
            Self::Issuer(issuer) => f.write_str(&Self::discovery(issuer)),
        }
    }
}

impl Origin {
    /// Where an issuer says what there is to know of it.
    #[must_use]
    pub fn discovery(issuer: &str) -> String {
        format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
    }
}

/// What became of the keys that have to be fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySets(pub BTreeMap<Origin, KeySet>);

/// What became of the keys of one origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    /// The newest that could be fetched, unless that is too long ago.
    pub keys: Option<Arc<str>>,
    /// Why there are no newer ones.
    pub trouble: Option<String>,
}

/// What is said where an issuer's keys cannot be had.
pub const TOKENS_REFUSED: &str = "tokens of this issuer are refused";

impl KeySets {
    /// The keys of an issuer, if any are known.
    #[must_use]
    pub fn of<'a>(&'a self, keys: &'a Keys) -> Option<&'a str> {
        match keys {
            Keys::Written(text) => Some(text),
            Keys::At(origin, _) => self.0.get(origin)?.keys.as_deref(),
        }
    }

    /// Whether the same keys are known, whatever else there is to say of them.
    #[must_use]
    pub fn has_same_keys(&self, other: &Self) -> bool {
        let known = |sets: &Self| -> Vec<(Origin, Arc<str>)> {
            sets.0.iter().filter_map(|(origin, set)| Some((origin.clone(), set.keys.clone()?))).collect()
        };
        known(self) == known(other)
    }

    /// What there is to say of an issuer's keys to who wants them.
    #[must_use]
    pub fn trouble(&self, keys: &Keys) -> Option<String> {
        let Keys::At(origin, _) = keys else { return None };
        let unknown = KeySet { keys: None, trouble: Some("the keys have not been fetched yet".to_owned()) };
        let set = self.0.get(origin).unwrap_or(&unknown);
        let trouble = set.trouble.as_ref()?;
        let then = if set.keys.is_some() { "those fetched before are used" } else { TOKENS_REFUSED };
        Some(format!("{trouble}; {then}"))
    }
}
