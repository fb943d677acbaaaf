//! Sets of keys (RFC 7517): what of one can be used to check signatures, and nothing else of it. One key that a proxy does not
//! take would cost it the others.

use serde_json::{Map, Value, json};

/// Keys of one issuer; while they are rotated there are a few.
const MAXIMUM_KEYS: usize = 100;
/// Longest part of a key, in bytes: an RSA modulus of 8192 bits has 1366.
const MAXIMUM_PART: usize = 2048;
/// The set of an issuer whose keys are not known, so that its tokens are refused. Envoy takes no set without keys; the private
/// half of this one nobody has: its x is the SHA-256 of "fairway: the key of nobody, 0", the first that is on the curve.
pub const NONE: &str = r#"{"keys":[{"alg":"ES256","crv":"P-256","kid":"nobody","kty":"EC","x":"YbxmHX_VtTBqMR56oH5T-JuFIRoeKuGR_mYDzQVXwvo","y":"W2Jms4iUosFsRZzoGogviLxN1y_neH0eVJyd0cilBxw"}]}"#;

/// The keys of a set that can be used.
///
/// # Errors
/// Why there are none.
pub fn usable(text: &str) -> Result<String, String> {
    let set: Value = serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("has no list of keys")?;
    if keys.len() > MAXIMUM_KEYS {
        return Err(format!("has {} keys; at most {MAXIMUM_KEYS} are taken", keys.len()));
    }
    let usable: Vec<Value> = keys.iter().filter_map(key).collect();
    if usable.is_empty() {
        return Err("has no key of type RSA, EC or OKP that checks signatures".to_owned());
    }
    Ok(json!({"keys": usable}).to_string())
}

/// Whether this is a set, and nothing of it can be used: whoever says so has no keys, as opposed to saying something else.
#[must_use]
pub fn has_none(text: &str) -> bool {
    let set: Option<Value> = serde_json::from_str(text).ok();
    let keys = set.as_ref().and_then(|set| set.get("keys")?.as_array());
    keys.is_some_and(|keys| keys.len() <= MAXIMUM_KEYS && keys.iter().all(|it| key(it).is_none()))
}

/// A key with its public parts, if it can be used.
fn key(key: &Value) -> Option<Value> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let (algorithms, parts): (&[&str], &[&str]) = match (text("kty")?, text("crv")) {
        ("RSA", _) => (&["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"], &["n", "e"]),
        ("EC", Some("P-256")) => (&["ES256"], &["x", "y"]),
        ("EC", Some("P-384")) => (&["ES384"], &["x", "y"]),
        ("EC", Some("P-521")) => (&["ES512"], &["x", "y"]),
        ("OKP", Some("Ed25519")) => (&["EdDSA"], &["x"]),
        _ => return None,
    };
    if text("alg").is_some_and(|algorithm| !algorithms.contains(&algorithm)) {
        return None;
    }
    let is_base64 = |part: &str| {
        let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=MAXIMUM_PART).contains(&part.len()) && part.bytes().all(is_digit)
    };
    let mut public = Map::new();
    for name in parts {
        public.insert((*name).to_owned(), text(name).filter(|part| is_base64(part))?.into());
    }
    for name in ["kty", "kid", "alg", "crv", "use"] {
        public.extend(text(name).map(|value| (name.to_owned(), value.into())));
    }
    Some(Value::Object(public))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EC: &str = r#"{"kty":"EC","crv":"P-256","kid":"a","x":"AQ","y":"Ag","d":"secret"}"#;

    #[test]
    fn of_a_set_only_what_checks_signatures_is_kept() {
        let set = |keys: &[&str]| format!("{{\"keys\":[{}]}}", keys.join(","));
        let good = r#"{"keys":[{"crv":"P-256","kid":"a","kty":"EC","x":"AQ","y":"Ag"}]}"#;
        let others = [
            r#"{"kty":"oct","k":"AQ"}"#,
            r#"{"kty":"RSA","n":"AQ"}"#,
            r#"{"kty":"RSA","n":"A Q","e":"AQ"}"#,
            r#"{"kty":"RSA","n":"AQ","e":"AQ","use":"enc"}"#,
            r#"{"kty":"EC","crv":"P-256","alg":"ES384","x":"AQ","y":"Ag"}"#,
            r#"{"kty":"EC","crv":"secp256k1","x":"AQ","y":"Ag"}"#,
            "7",
        ];
        for other in others {
            assert_eq!(usable(&set(&[other, EC])).as_deref(), Ok(good), "{other}");
            assert!(usable(&set(&[other])).is_err(), "{other}");
        }
        assert_eq!(usable(NONE).as_deref(), Ok(NONE));
        let many = set(&vec![EC; MAXIMUM_KEYS + 1]);
        for text in ["", "[]", "{}", r#"{"keys":[]}"#, &many] {
            assert!(usable(text).is_err(), "{text}");
        }
        for key in [r#"{"kty":"RSA","n":"AQ","e":"AQAB","alg":"PS256"}"#, r#"{"kty":"OKP","crv":"Ed25519","x":"AQ"}"#] {
            assert!(usable(&set(&[key])).is_ok(), "{key}");
        }
    }
}
