//! Tokens of requests (RFC 7519): whether one is believed, and what endpoints and policies then learn of it. The time is an
//! argument.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, request};

pub use claims::Claims;
pub use keys::{Keys, NoKeys};
use token::Token;

use crate::config::{Issuer, Tokens};
use crate::cors;

mod claims;
mod keys;
mod places;
mod token;

#[cfg(test)]
pub(crate) mod signer;
#[cfg(test)]
mod tests;

/// How far the clocks of two machines may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Why a token is not believed; of several reasons the last in this order tells most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Problem {
    /// It is none.
    #[error("the token is malformed")]
    Malformed,
    /// Who reads which of them cannot be known.
    #[error("there are several tokens")]
    Several,
    /// Nobody whose tokens are believed has issued it.
    #[error("the token is of another issuer")]
    Issuer,
    /// The issuer's keys could not be fetched, or none of them can be used.
    #[error("the keys of the token's issuer are not known")]
    NoKeys,
    /// No key of its issuer has this name and makes signatures of this kind.
    #[error("the issuer has no key that fits the token")]
    NoSuchKey,
    /// It is not signed by its issuer.
    #[error("the signature of the token is wrong")]
    Signature,
    /// It was valid.
    #[error("the token has expired")]
    Expired,
    /// It will be valid.
    #[error("the token is not valid yet")]
    TooEarly,
    /// It is for somebody else.
    #[error("the token is for another audience")]
    Audience,
}

/// Looks for a token and believes it, or not. Afterwards the headers that say what tokens claim are ours, and endpoints do not
/// get the token unless they are meant to. None where there is no token.
///
/// # Errors
/// Why no issuer takes the token that is there.
pub fn check(tokens: &Tokens, request: &mut request::Parts, now: SystemTime) -> Result<Option<Claims>, Problem> {
    let (headers, query) = (&mut request.headers, request.uri.query());
    for name in tokens.own_headers() {
        headers.remove(name);
    }
    if tokens.passes_preflights && cors::is_preflight(request.method.as_str(), headers) {
        return Ok(None);
    }
    let Some((issuer, payload, claims)) = find(tokens, headers, query, now)? else { return Ok(None) };
    if !issuer.is_forwarded {
        // It may be in several places, which are all looked at.
        for place in &issuer.places {
            places::clear(place, &mut request.headers, &mut request.uri)?;
        }
    }
    let headers = &mut request.headers;
    let payload = issuer.payload_header.clone().zip(HeaderValue::try_from(payload).ok());
    let claimed = issuer.claim_headers.iter().filter_map(|(name, path)| {
        let text = claims.printed(path)?;
        Some((name.clone(), HeaderValue::try_from(text).ok()?))
    });
    for (name, value) in payload.into_iter().chain(claimed) {
        headers.insert(name, value);
    }
    Ok(Some(claims.with_lists(&issuer.lists)))
}

/// A text in a place of tokens, and what is made of it.
struct Found<'t, 'r> {
    text: &'r str,
    token: Result<Token<'r>, Problem>,
    /// Who takes it.
    taken: Option<&'t Issuer>,
    /// Why those who look there do not take it.
    problem: Option<Problem>,
}

/// The token of a request: who takes it, what it says as it is encoded, and what it claims. All that is found
/// anywhere must be one token that is believed: endpoints may read another place than the one that was looked at here.
fn find<'t, 'r>(
    tokens: &'t Tokens,
    headers: &'r HeaderMap,
    query: Option<&'r str>,
    now: SystemTime,
) -> Result<Option<(&'t Issuer, String, Claims)>, Problem> {
    // Most issuers look in the same places.
    let mut read: Vec<Found<'t, 'r>> = Vec::new();
    for issuer in &tokens.issuers {
        for place in &issuer.places {
            let Some(text) = places::find(place, headers, query)? else { continue };
            let known = read.iter().position(|found| found.text == text).unwrap_or_else(|| {
                read.push(Found { text, token: Token::parse(text), taken: None, problem: None });
                read.len() - 1
            });
            let Some(found) = read.get_mut(known).filter(|found| found.taken.is_none()) else { continue };
            let believed = match &found.token {
                Ok(token) => believe(issuer, token, now),
                Err(error) => Err(*error),
            };
            match believed {
                Ok(()) => found.taken = Some(issuer),
                Err(error) => found.problem = found.problem.max(Some(error)),
            }
        }
    }
    if let Some(problem) = read.iter().filter(|found| found.taken.is_none()).filter_map(|found| found.problem).max() {
        return Err(problem);
    }
    if read.len() > 1 {
        return Err(Problem::Several);
    }
    let Some(Found { token, taken: Some(issuer), .. }) = read.pop() else { return Ok(None) };
    let token = token?;
    Ok(Some((issuer, token.payload.to_owned(), token.claims)))
}

/// Whether `issuer` stands by `token` now.
fn believe(issuer: &Issuer, token: &Token<'_>, now: SystemTime) -> Result<(), Problem> {
    if token.claims.text("iss") != Some(&issuer.name) {
        return Err(Problem::Issuer);
    }
    issuer.keys.verify(token.algorithm, token.key.as_deref(), token.signed.as_bytes(), &token.signature)?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let skew = CLOCK_SKEW.as_secs_f64();
    if token.claims.time("exp")?.is_some_and(|end| now - skew >= end) {
        return Err(Problem::Expired);
    }
    if token.claims.time("nbf")?.is_some_and(|begin| now + skew < begin) {
        return Err(Problem::TooEarly);
    }
    let mut audiences = token.claims.texts("aud");
    let is_meant = issuer.audiences.is_empty() || audiences.any(|it| issuer.audiences.iter().any(|known| known == it));
    if is_meant { Ok(()) } else { Err(Problem::Audience) }
}
