//! Tokens in Envoy's words.

use std::collections::BTreeMap;

use fairway_proto::envoy::core::DataSource;
use fairway_proto::envoy::core::data_source::Specifier;
use fairway_proto::envoy::jwt_authn::jwt_provider::{JwksSourceSpecifier, NormalizePayload};
use fairway_proto::envoy::jwt_authn::jwt_requirement::RequiresType;
use fairway_proto::envoy::jwt_authn::requirement_rule::RequirementType;
use fairway_proto::envoy::jwt_authn::{
    JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, JwtRequirementOrList, RequirementRule,
};

use super::super::tokens::{Issuer, KeySets, Policy, keys};
use super::rbac::PAYLOAD;
use super::route::everything;

/// What believes the tokens of these issuers, refuses all others, and lets requests without any pass.
pub(super) fn filter(policies: &[&Policy], fetched: &KeySets) -> Option<JwtAuthentication> {
    let named = policies.iter().flat_map(|policy| {
        let name = |index: usize| format!("{}/{}/{index}", policy.object.namespace, policy.object.name);
        policy.issuers.iter().enumerate().map(move |(index, issuer)| (name(index), provider(issuer, fetched)))
    });
    let providers: BTreeMap<String, JwtProvider> = named.collect();
    if providers.is_empty() {
        return None;
    }
    let one = |requires| JwtRequirement { requires_type: Some(requires) };
    let any = providers.keys().map(|name| one(RequiresType::ProviderName(name.clone())));
    let any = JwtRequirementOrList { requirements: any.chain([one(RequiresType::AllowMissing(()))]).collect() };
    let rule = RequirementRule {
        r#match: Some(everything()),
        requirement_type: Some(RequirementType::Requires(one(RequiresType::RequiresAny(any)))),
    };
    Some(JwtAuthentication { providers, rules: vec![rule], ..JwtAuthentication::default() })
}

fn provider(issuer: &Issuer, fetched: &KeySets) -> JwtProvider {
    let keys = fetched.of(&issuer.keys).unwrap_or(keys::NONE).to_owned();
    let header =
        |(name, value_prefix): &(String, String)| JwtHeader { name: name.clone(), value_prefix: value_prefix.clone() };
    let claim = |(header_name, claim_name): &(String, String)| JwtClaimToHeader {
        header_name: header_name.clone(),
        claim_name: claim_name.clone(),
    };
    JwtProvider {
        issuer: issuer.name.clone(),
        audiences: issuer.audiences.clone(),
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(DataSource {
            specifier: Some(Specifier::InlineString(keys)),
        })),
        forward: issuer.is_forwarded,
        from_headers: issuer.headers.iter().map(header).collect(),
        from_params: issuer.parameters.clone(),
        from_cookies: issuer.cookies.clone(),
        forward_payload_header: issuer.payload_header.clone().unwrap_or_default(),
        payload_in_metadata: PAYLOAD.to_owned(),
        claim_to_headers: issuer.claim_headers.iter().map(claim).collect(),
        normalize_payload_in_metadata: Some(NormalizePayload { space_delimited_claims: issuer.lists.clone() }),
    }
}
