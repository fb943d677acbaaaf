//! Where requests have tokens.

use http::header::{self, HeaderMap};

use super::Problem;
use crate::config::Place;
use crate::facts;

/// Scheme of `Authorization` (RFC 6750 §2.1), with the space after it.
const BEARER: &str = "Bearer ";

/// The token in this place.
///
/// # Errors
/// Where there are several: an endpoint might read another one than we.
pub(super) fn find<'a>(
    place: &Place,
    headers: &'a HeaderMap,
    query: Option<&'a str>,
) -> Result<Option<&'a str>, Problem> {
    match place {
        Place::Bearer => in_header(headers, &header::AUTHORIZATION, |value| {
            let (scheme, rest) = value.split_at_checked(BEARER.len())?;
            scheme.eq_ignore_ascii_case(BEARER).then(|| rest.trim_start_matches(' '))
        }),
        Place::Header(name, prefix) => in_header(headers, name, |value| value.strip_prefix(prefix.as_str())),
        Place::Parameter(name) => only(facts::parameters(query, name).map(Ok)),
        Place::Cookie(name) => only(facts::cookies(headers, name).map(Ok)),
    }
}

fn in_header<'a>(
    headers: &'a HeaderMap,
    name: &header::HeaderName,
    token: impl Fn(&'a str) -> Option<&'a str>,
) -> Result<Option<&'a str>, Problem> {
    let values = headers.get_all(name).iter();
    only(values.filter_map(|value| match value.to_str() {
        Ok(value) => token(value).map(Ok),
        // It may be one for whoever reads such bytes.
        Err(_) => Some(Err(Problem::Malformed)),
    }))
}

fn only<'a>(mut all: impl Iterator<Item = Result<&'a str, Problem>>) -> Result<Option<&'a str>, Problem> {
    let first = all.next().transpose()?;
    if all.next().is_some() { Err(Problem::Several) } else { Ok(first) }
}
