//! What a token claims.

use serde_json::{Map, Value};

use super::Problem;

/// What a token claims, of a token that is believed.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// These.
    #[must_use]
    pub fn new(claims: Map<String, Value>) -> Self {
        Self(claims)
    }

    /// The one that these names lead to, one inside of the other.
    #[must_use]
    pub fn at(&self, path: &[String]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get(first)?, |value, name| value.get(name))
    }

    /// The same as a text, if it is a text, a number, or yes or no.
    pub(super) fn printed(&self, path: &[String]) -> Option<String> {
        match self.at(path)? {
            Value::String(text) => Some(text.clone()),
            other @ (Value::Number(_) | Value::Bool(_)) => Some(other.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// The texts of a claim that is a text or a list of them.
    pub(super) fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        let claim = self.0.get(name);
        let elements = claim.and_then(Value::as_array).into_iter().flatten();
        claim.into_iter().chain(elements).filter_map(Value::as_str)
    }

    /// A time in seconds since 1970 (RFC 7519 §2, `NumericDate`).
    pub(super) fn time(&self, name: &str) -> Result<Option<f64>, Problem> {
        self.0.get(name).map(|time| time.as_f64().ok_or(Problem::Malformed)).transpose()
    }

    /// Claims of these names as lists, if they are texts.
    pub(super) fn with_lists(mut self, names: &[String]) -> Self {
        for name in names {
            if let Some(claim @ Value::String(_)) = self.0.get_mut(name) {
                *claim = claim.as_str().unwrap_or_default().split_ascii_whitespace().collect();
            }
        }
        self
    }
}
