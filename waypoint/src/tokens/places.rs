//! Where requests have tokens.

use http::Uri;
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

/// Takes the token out of this place, if there is one in it. Cookies stay, as with Envoy.
///
/// # Errors
/// When there would be no request any more.
pub(super) fn clear(place: &Place, headers: &mut HeaderMap, uri: &mut Uri) -> Result<(), Problem> {
    if find(place, headers, uri.query())?.is_none() {
        return Ok(());
    }
    match place {
        Place::Bearer => drop(headers.remove(header::AUTHORIZATION)),
        Place::Header(name, _) => drop(headers.remove(name)),
        Place::Parameter(name) => *uri = without_parameter(uri, name).ok_or(Problem::Malformed)?,
        Place::Cookie(_) => {}
    }
    Ok(())
}

fn without_parameter(uri: &Uri, name: &str) -> Option<Uri> {
    let is_other = |pair: &&str| pair.split_once('=').map_or(*pair, |(key, _value)| key) != name;
    let left: Vec<&str> = uri.query()?.split('&').filter(is_other).collect();
    let path_and_query = match left.as_slice() {
        [] => uri.path().to_owned(),
        left => format!("{}?{}", uri.path(), left.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query.parse().ok()?);
    Uri::from_parts(parts).ok()
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
