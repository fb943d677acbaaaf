//! RequestAuthentications, read (api-surface A4).

use std::sync::Arc;
use std::time::Duration;

use fairway_core::source::istio_tokens::{JwtRule, RequestAuthentication};
use fairway_core::source::{Kind, ObjectKey};
use http::Uri;

use super::{Issuer, Keys, Origin, Policy, keys};
use crate::l7::authz::read::places;
use crate::l7::rates::CLIENT_HEADER;
use crate::l7::rules::text;
use crate::translate::Fault;

/// Rules of one object, as the CRD says.
const MAXIMUM_RULES: usize = 4096;
/// Longest URL, in bytes, as the CRD says.
const MAXIMUM_URL: usize = 2048;
/// For fetching keys where nothing is said, as Istio has it, and at most.
const TIMEOUT: Duration = Duration::from_secs(5);
/// See [`TIMEOUT`].
const MAXIMUM_TIMEOUT: Duration = Duration::from_secs(30);
/// Claims that are always lists with spaces between (RFC 8693 §4.2, and what some issuers call it).
const LISTS: [&str; 2] = ["scope", "permission"];
/// Headers by which a message is framed and addressed, or by which endpoints know whom a waypoint has seen: they are the
/// waypoint's alone. It takes away what tokens are read from or written to.
const TAKEN: [&str; 14] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
    "proxy-connection",
    CLIENT_HEADER,
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-request-id",
];
/// What begins so tells a proxy what to do.
const TAKEN_PREFIX: &str = "x-envoy-";
/// Where tokens are: a claim in their place would be one to the endpoint, and one of a client would be gone before it is read.
const TOKEN: &str = "authorization";
/// What is said of one that nobody enforces.
const NO_TARGETS: &str = "is missing: node proxies do not look into requests, so this has no effect; name a Service, a Gateway or, in the \
     root namespace, a GatewayClass";

/// What an object comes to, and where that differs from what it says; nothing where it is for nobody.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn read(object: &RequestAuthentication, root: &str) -> Result<(Option<Policy>, Vec<Fault>), Vec<Fault>> {
    let spec = &object.spec;
    let metadata = &object.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let mut reader = Reader { faults: Vec::new() };
    let is_attached = spec.target_ref.is_some() || !spec.target_refs.is_empty();
    if is_attached && spec.selector.is_some() {
        reader.fault("spec.selector", "cannot be combined with targetRefs; use one of them");
    }
    if spec.jwt_rules.len() > MAXIMUM_RULES {
        let message = format!("has {} rules; at most {MAXIMUM_RULES} are allowed", spec.jwt_rules.len());
        reader.fault("spec.jwtRules", message);
    }
    let places = places(spec.target_ref.as_ref(), &spec.target_refs, namespace, root, &mut reader.faults);
    let rules = spec.jwt_rules.iter().enumerate();
    let issuers = rules.filter_map(|(index, rule)| reader.issuer(&format!("spec.jwtRules[{index}]"), rule)).collect();
    if !reader.faults.is_empty() {
        return Err(reader.faults);
    }
    if !is_attached {
        let fault = Fault { field: "spec.targetRefs".to_owned(), message: NO_TARGETS.to_owned() };
        return Ok((None, vec![fault]));
    }
    let name = metadata.name.as_deref().unwrap_or_default();
    let object = ObjectKey::new(Kind::RequestAuthentication, namespace, name);
    Ok((Some(Policy { object, places, issuers }), Vec::new()))
}

struct Reader {
    faults: Vec<Fault>,
}

impl Reader {
    fn fault(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.faults.push(Fault { field: field.into(), message: message.into() });
    }

    /// One issuer; nothing where its keys cannot be told.
    fn issuer(&mut self, at: &str, rule: &JwtRule) -> Option<Issuer> {
        if rule.issuer.is_empty() || !text::is_clean(&rule.issuer) {
            self.fault(format!("{at}.issuer"), "is missing, or has characters that no issuer has");
        }
        let mut headers = Vec::new();
        for (index, header) in rule.from_headers.iter().enumerate() {
            let at = format!("{at}.fromHeaders[{index}]");
            headers.extend(self.header(&format!("{at}.name"), &header.name).map(|name| (name, header.prefix.clone())));
            self.clean(&format!("{at}.prefix"), &header.prefix);
        }
        for (field, names) in [("fromParams", &rule.from_params), ("fromCookies", &rule.from_cookies)] {
            for (index, name) in names.iter().enumerate() {
                if name.is_empty() || !text::is_header_name(name) {
                    self.fault(format!("{at}.{field}[{index}]"), format!("{name:?} is no name"));
                }
            }
        }
        for (field, names) in [("audiences", &rule.audiences), ("spaceDelimitedClaims", &rule.space_delimited_claims)] {
            for (index, name) in names.iter().enumerate() {
                self.clean(&format!("{at}.{field}[{index}]"), name);
            }
        }
        let payload = rule.output_payload_to_header.as_ref();
        let payload_header = payload.and_then(|name| self.output(&format!("{at}.outputPayloadToHeader"), name));
        let mut claim_headers = Vec::new();
        for (index, output) in rule.output_claim_to_headers.iter().enumerate() {
            let at = format!("{at}.outputClaimToHeaders[{index}]");
            let header = self.output(&format!("{at}.header"), &output.header);
            if output.claim.is_empty() || !text::is_clean(&output.claim) {
                self.fault(format!("{at}.claim"), "is no name of a claim");
            }
            claim_headers.extend(header.map(|header| (header, output.claim.clone())));
        }
        let mut lists: Vec<String> = LISTS.map(str::to_owned).to_vec();
        lists.extend(rule.space_delimited_claims.iter().filter(|name| !LISTS.contains(&name.as_str())).cloned());
        Some(Issuer {
            name: rule.issuer.clone(),
            audiences: rule.audiences.clone(),
            keys: self.keys(at, rule)?,
            headers,
            parameters: rule.from_params.clone(),
            cookies: rule.from_cookies.clone(),
            payload_header,
            claim_headers,
            is_forwarded: rule.forward_original_token,
            lists,
        })
    }

    fn clean(&mut self, at: &str, value: &str) {
        if !text::is_clean(value) {
            self.fault(at, "has characters that no request has");
        }
    }

    /// The name of a header that may be written.
    fn output(&mut self, at: &str, name: &str) -> Option<String> {
        if name.eq_ignore_ascii_case(TOKEN) {
            self.fault(at, format!("{name:?} is for tokens, and no name of such a header"));
            return None;
        }
        self.header(at, name)
    }

    /// The name of a header that may be read, and taken away.
    fn header(&mut self, at: &str, name: &str) -> Option<String> {
        let lower = name.to_ascii_lowercase();
        let is_taken = TAKEN.contains(&lower.as_str()) || lower.starts_with(TAKEN_PREFIX);
        if !text::is_header_name(&lower) || is_taken {
            self.fault(at, format!("{name:?} is no name of such a header"));
            return None;
        }
        Some(lower)
    }

    fn keys(&mut self, at: &str, rule: &JwtRule) -> Option<Keys> {
        let timeout = match rule.timeout.as_deref().map(text::duration) {
            None => TIMEOUT,
            Some(Some(timeout)) if !timeout.is_zero() && timeout <= MAXIMUM_TIMEOUT => timeout,
            Some(_) => {
                let most = MAXIMUM_TIMEOUT.as_secs();
                self.fault(format!("{at}.timeout"), format!("is no duration of up to {most} s; write for example 5s"));
                return None;
            }
        };
        let read = match (&rule.jwks, &rule.jwks_uri) {
            (Some(_), Some(_)) => Err(("jwks", "cannot be combined with jwksUri; use one of them".to_owned())),
            (Some(written), None) => {
                keys::usable(written).map(|keys| Keys::Written(Arc::from(keys))).map_err(|wrong| ("jwks", wrong))
            }
            (None, Some(url)) => match check_url(url) {
                Ok(()) => Ok(Keys::At(Origin::Keys(url.clone()), timeout)),
                Err(wrong) => Err(("jwksUri", wrong)),
            },
            (None, None) => match check_url(&rule.issuer) {
                Ok(()) => Ok(Keys::At(Origin::Issuer(rule.issuer.clone()), timeout)),
                Err(_) => Err(("jwksUri", "is missing, and the issuer is no URL that could be asked".to_owned())),
            },
        };
        read.map_err(|(field, wrong)| self.fault(format!("{at}.{field}"), wrong)).ok()
    }
}

/// Says why keys cannot be fetched there.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    let wrong = || "must be http:// or https://, a host and a path, without a name or password before it".to_owned();
    let parsed: Uri = url.parse().map_err(|_| wrong())?;
    let is_web = matches!(parsed.scheme_str(), Some("http" | "https"));
    let has_host = parsed.host().is_some_and(|host| !host.is_empty());
    let has_user = parsed.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if is_web && has_host && !has_user && url.len() <= MAXIMUM_URL { Ok(()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields of what is wrong with this rule.
    fn wrong(rule: &str) -> Vec<String> {
        let keys = r#"jwks: '{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}'"#;
        let object = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: a, namespace: shop}}\n\
             spec:\n  targetRefs: [{{group: \"\", kind: Service, name: web}}]\n  jwtRules: [{{issuer: a, {keys}, {rule}}}]\n"
        );
        let object: RequestAuthentication = serde_saphyr::from_str(&object).unwrap();
        let faults = read(&object, "fairway-system").err().unwrap_or_default();
        faults.into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn headers_that_are_the_waypoints_own_are_neither_read_nor_written() {
        let (from, claim, payload) = ("fromHeaders[0].name", "outputClaimToHeaders[0].header", "outputPayloadToHeader");
        let rows = [
            ("X-User", vec![]),
            ("Authorization", vec![claim, payload]),
            ("X-Forwarded-Client-Cert", vec![from, claim, payload]),
            ("Host", vec![from, claim, payload]),
            ("content-length", vec![from, claim, payload]),
            ("Transfer-Encoding", vec![from, claim, payload]),
            ("x-forwarded-for", vec![from, claim, payload]),
            ("X-Request-Id", vec![from, claim, payload]),
            ("x-envoy-retry-on", vec![from, claim, payload]),
            ("a b", vec![from, claim, payload]),
        ];
        for (name, expected) in rows {
            let found: Vec<String> = [
                format!("fromHeaders: [{{name: {name}}}]"),
                format!("outputClaimToHeaders: [{{header: {name}, claim: sub}}]"),
                format!("outputPayloadToHeader: {name}"),
            ]
            .iter()
            .flat_map(|rule| wrong(rule))
            .collect();
            let expected: Vec<String> = expected.iter().map(|field| format!("spec.jwtRules[0].{field}")).collect();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn keys_are_fetched_from_the_web_only() {
        for url in ["https://a.example/keys", "http://a.example:8080/keys?x=1", "https://[::1]/k"] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        for url in ["", "/keys", "file:///etc/passwd", "ftp://a/b", "https://user:pw@a/b", "https:///k", "a.example/k"]
        {
            assert!(check_url(url).is_err(), "{url}");
        }
    }
}
