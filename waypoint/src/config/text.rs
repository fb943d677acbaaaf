//! A text to compare with.

use fairway_proto::envoy::matcher::string_matcher::MatchPattern;
use fairway_proto::envoy::matcher::{RegexMatcher, StringMatcher};
use regex::{Regex, RegexBuilder};

use super::wrong::{Within, Wrong};

/// Memory a compiled pattern may take, in bytes: patterns of routes are short, and a large one is an attack or a mistake.
const PATTERN_BYTES: usize = 1 << 20;

/// A text to compare with.
#[derive(Clone, Debug)]
pub enum Text {
    /// It is this one.
    Exact(String),
    /// It begins so.
    Prefix(String),
    /// It ends so.
    Suffix(String),
    /// This is somewhere in it.
    Contains(String),
    /// It matches as a whole.
    Regex(Regex),
    /// The same, whatever the case of ASCII letters; what is in it is lower case.
    AnyCase(Box<Text>),
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b))
            | (Self::Prefix(a), Self::Prefix(b))
            | (Self::Suffix(a), Self::Suffix(b))
            | (Self::Contains(a), Self::Contains(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::AnyCase(a), Self::AnyCase(b)) => a == b,
            _ => false,
        }
    }
}

impl Text {
    /// Whether `text` is what is asked for.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == exact,
            Self::Prefix(prefix) => text.starts_with(prefix),
            Self::Suffix(suffix) => text.ends_with(suffix),
            Self::Contains(part) => text.contains(part),
            Self::Regex(regex) => regex.is_match(text),
            Self::AnyCase(inner) => inner.matches(&text.to_ascii_lowercase()),
        }
    }

    pub(super) fn of(message: &StringMatcher) -> Result<Self, Wrong> {
        let lower = |text: &String| if message.ignore_case { text.to_ascii_lowercase() } else { text.clone() };
        let text = match message.match_pattern.as_ref().ok_or_else(|| Wrong::missing("match_pattern"))? {
            MatchPattern::Exact(text) => Self::Exact(lower(text)),
            MatchPattern::Prefix(text) => Self::Prefix(lower(text)),
            MatchPattern::Suffix(text) => Self::Suffix(lower(text)),
            MatchPattern::Contains(text) => Self::Contains(lower(text)),
            // As in Envoy, case counts for patterns.
            MatchPattern::SafeRegex(pattern) => return Ok(Self::Regex(whole(pattern).within("safe_regex")?)),
        };
        Ok(if message.ignore_case { Self::AnyCase(Box::new(text)) } else { text })
    }
}

/// The pattern, which has to match from the beginning to the end.
pub(super) fn whole(message: &RegexMatcher) -> Result<Regex, Wrong> {
    pattern(&format!("^(?:{})$", message.regex))
}

/// The pattern, which may match anywhere.
pub(super) fn pattern(text: &str) -> Result<Regex, Wrong> {
    RegexBuilder::new(text).size_limit(PATTERN_BYTES).build().map_err(|error| Wrong::new("regex", error.to_string()))
}
