//! Whose tokens are believed, and where requests have them: Envoy's `jwt_authn`, checked. Keys are read once, here.

use fairway_proto::envoy::core::data_source::Specifier;
use fairway_proto::envoy::jwt_authn::jwt_provider::JwksSourceSpecifier;
use fairway_proto::envoy::jwt_authn::jwt_requirement::RequiresType;
use fairway_proto::envoy::jwt_authn::requirement_rule::RequirementType;
use fairway_proto::envoy::jwt_authn::{
    JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, RequirementRule,
};
use fairway_proto::envoy::route::RouteMatch;
use fairway_proto::envoy::route::route_match::PathSpecifier;
use http::header::HeaderName;

use super::policy::PAYLOAD;
use super::route::header_name;
use super::wrong::{Within, Wrong, all};
use crate::tokens::Keys;

/// Whose tokens are believed.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    /// The first that takes a token counts.
    pub issuers: Vec<Issuer>,
    /// Browsers ask what pages of other origins may do without showing a token, and are answered.
    pub passes_preflights: bool,
}

/// Somebody whose tokens are believed.
#[derive(Clone, Debug, PartialEq)]
pub struct Issuer {
    /// Whom tokens say to be from.
    pub name: String,
    /// Of whom they must be for one; empty for whomever.
    pub audiences: Vec<String>,
    /// What they are signed with.
    pub keys: Keys,
    /// Where requests have them.
    pub places: Vec<Place>,
    /// Endpoints get the token, too.
    pub is_forwarded: bool,
    /// Gets what the token says, as it is encoded there.
    pub payload_header: Option<HeaderName>,
    /// Get claims, each by the names that lead to it.
    pub claim_headers: Vec<(HeaderName, Vec<String>)>,
    /// Claims that are lists for policies, with spaces between the elements.
    pub lists: Vec<String>,
}

/// Where a request may have a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// `Authorization: Bearer` (RFC 6750 §2.1).
    Bearer,
    /// A header, after this text.
    Header(HeaderName, String),
    /// A query parameter.
    Parameter(String),
    /// A cookie.
    Cookie(String),
}

impl Tokens {
    pub(super) fn of(message: &JwtAuthentication) -> Result<Self, Wrong> {
        let [rule] = &*message.rules else { return Err(Wrong::new("rules", "must be one")) };
        let names = required(rule).within("rules[0]")?;
        let issuer = |name: &String| {
            let Some(provider) = message.providers.get(name) else {
                return Err(Wrong::new("rules[0].requires", format!("there is no provider {name:?}")));
            };
            issuer(provider).within(format_args!("providers[{name}]"))
        };
        if let Some(unused) = message.providers.keys().find(|name| !names.contains(name)) {
            return Err(Wrong::new(format!("providers[{unused}]"), "is not required by the rule"));
        }
        let issuers = names.into_iter().map(issuer).collect::<Result<_, _>>()?;
        Ok(Self { issuers, passes_preflights: message.bypass_cors_preflight })
    }

    /// Headers that say what tokens claim, which clients must not.
    pub fn own_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.issuers.iter().flat_map(|issuer| {
            issuer.payload_header.iter().chain(issuer.claim_headers.iter().map(|(header, _)| header))
        })
    }
}

/// The names of providers of which one must take a token, if there is one.
fn required(rule: &RequirementRule) -> Result<Vec<&String>, Wrong> {
    let everything =
        RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..RouteMatch::default() };
    if rule.r#match.as_ref() != Some(&everything) {
        return Err(Wrong::new("match", "must be the prefix / and nothing else"));
    }
    let requires = match &rule.requirement_type {
        Some(RequirementType::Requires(requires)) => requires.requires_type.as_ref(),
        None => None,
    };
    let Some(RequiresType::RequiresAny(any)) = requires else { return Err(Wrong::missing("requires.requires_any")) };
    let Some((JwtRequirement { requires_type: Some(RequiresType::AllowMissing(())) }, providers)) =
        any.requirements.split_last()
    else {
        return Err(Wrong::new("requires.requires_any", "must end with allow_missing"));
    };
    all("requires.requires_any.requirements", providers, |requirement| match &requirement.requires_type {
        Some(RequiresType::ProviderName(name)) => Ok(name),
        _ => Err(Wrong::missing("provider_name")),
    })
}

fn issuer(message: &JwtProvider) -> Result<Issuer, Wrong> {
    if message.issuer.is_empty() {
        return Err(Wrong::missing("issuer"));
    }
    if message.payload_in_metadata != PAYLOAD {
        return Err(Wrong::new("payload_in_metadata", format!("must be {PAYLOAD}")));
    }
    let set = match &message.jwks_source_specifier {
        Some(JwksSourceSpecifier::LocalJwks(source)) => source.specifier.as_ref(),
        None => None,
    };
    let Some(Specifier::InlineString(set)) = set else { return Err(Wrong::missing("local_jwks.inline_string")) };
    let keys = Keys::parse(set).map_err(|error| Wrong::new("local_jwks.inline_string", error.to_string()))?;
    let header =
        |header: &JwtHeader| Ok(Place::Header(header_name(&header.name).within("name")?, header.value_prefix.clone()));
    let mut places = all("from_headers", &message.from_headers, header)?;
    places.extend(message.from_params.iter().cloned().map(Place::Parameter));
    places.extend(message.from_cookies.iter().cloned().map(Place::Cookie));
    if places.is_empty() {
        places = vec![Place::Bearer, Place::Parameter("access_token".to_owned())];
    }
    let claim = |claim: &JwtClaimToHeader| {
        let path = claim.claim_name.split('.').map(str::to_owned).collect();
        Ok((header_name(&claim.header_name).within("header_name")?, path))
    };
    let payload_header = Some(message.forward_payload_header.as_str()).filter(|name| !name.is_empty());
    let normalize = message.normalize_payload_in_metadata.as_ref();
    Ok(Issuer {
        name: message.issuer.clone(),
        audiences: message.audiences.clone(),
        keys,
        places,
        is_forwarded: message.forward,
        payload_header: payload_header.map(header_name).transpose().within("forward_payload_header")?,
        claim_headers: all("claim_to_headers", &message.claim_to_headers, claim)?,
        lists: normalize.map(|normalize| normalize.space_delimited_claims.clone()).unwrap_or_default(),
    })
}
