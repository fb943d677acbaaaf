//! Tests of `token`.

use jsonwebtoken::{EncodingKey, Header};
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_700_000_000;
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "system:serviceaccount:fairway-system:ztunnel", "aud": ["istio-ca"],
        "iat": NOW, "exp": NOW + 3600,
        "kubernetes.io": {
            "namespace": "fairway-system", "node": {"name": "node-1"},
            "pod": {"name": "ztunnel-a", "uid": "u-1"}, "serviceaccount": {"name": "ztunnel", "uid": "u-2"},
        },
    })
}

fn sign(key: &KeyPair, algorithm: Algorithm, claims: &Value) -> String {
    let der = key.serialize_der();
    let key = match algorithm {
        Algorithm::EdDSA => EncodingKey::from_ed_der(&der),
        _ => EncodingKey::from_ec_der(&der),
    };
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
}

fn verifier(keys: &[&KeyPair]) -> Keys {
    let pem: String = keys.iter().map(|key| key.public_key_pem()).collect();
    Keys::from_pem(pem.as_bytes(), ISSUER, "istio-ca").unwrap()
}

#[test]
fn a_good_token_names_account_and_pod() {
    let key = KeyPair::generate().unwrap();
    let caller = verifier(&[&key]).verify(&sign(&key, Algorithm::ES256, &claims()), now()).unwrap();
    assert_eq!((caller.namespace.as_str(), caller.service_account.as_str()), ("fairway-system", "ztunnel"));
    let pod = CallerPod { name: "ztunnel-a".into(), uid: "u-1".into(), node: Some("node-1".into()) };
    assert_eq!(caller.pod, Some(pod));
}

#[test]
fn any_of_several_keys_and_kinds_will_do() {
    let first = KeyPair::generate().unwrap();
    let second = KeyPair::generate().unwrap();
    let edwards = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let verifier = verifier(&[&first, &second, &edwards]);
    for (key, algorithm) in [(&first, Algorithm::ES256), (&second, Algorithm::ES256), (&edwards, Algorithm::EdDSA)] {
        verifier.verify(&sign(key, algorithm, &claims()), now()).unwrap();
    }
}

#[test]
fn bad_tokens_are_refused_for_their_reason() {
    let key = KeyPair::generate().unwrap();
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        sign(&key, Algorithm::ES256, &claims)
    };
    let rows = [
        (with("exp", json!(NOW - 31)), TokenError::Expired),
        (with("nbf", json!(NOW + 60)), TokenError::Early),
        (with("aud", json!("vault")), TokenError::Audience("istio-ca".into())),
        (with("aud", json!([])), TokenError::Audience("istio-ca".into())),
        (with("sub", json!("alice")), TokenError::Subject("alice".into())),
        (with("iss", json!("me")), TokenError::Issuer { found: "me".into(), expected: ISSUER.into() }),
        (sign(&KeyPair::generate().unwrap(), Algorithm::ES256, &claims()), TokenError::Signature),
    ];
    let verifier = verifier(&[&key]);
    for (token, expected) in rows {
        assert_eq!(verifier.verify(&token, now()), Err(expected));
    }
    let hmac = jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims(),
        &EncodingKey::from_secret(key.public_key_pem().as_bytes()),
    );
    let oversized = "x".repeat(MAXIMUM_TOKEN_BYTES + 1);
    for token in ["", "a.b.c", hmac.unwrap().as_str(), &oversized] {
        assert!(matches!(verifier.verify(token, now()), Err(TokenError::Malformed(_))), "{token:.20}");
    }
}

#[tokio::test]
async fn a_missing_or_other_scheme_is_unauthenticated() {
    let verifier = Verifier::Keys(verifier(&[&KeyPair::generate().unwrap()]));
    let oversized = format!("Bearer {}", "x".repeat(MAXIMUM_TOKEN_BYTES + 1));
    let mut metadata = MetadataMap::new();
    for value in [None, Some("Basic abc"), Some("Bearer"), Some("Bearer nonsense"), Some(&*oversized)] {
        metadata.clear();
        if let Some(value) = value {
            metadata.insert("authorization", value.parse().unwrap());
        }
        let status = verifier.authenticate(&metadata, None, now()).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unauthenticated, "{value:?}");
    }
}

#[test]
fn only_public_keys_are_taken() {
    let key = KeyPair::generate().unwrap();
    let rows = [("", "holds no key"), (&*key.serialize_pem(), "public key only")];
    for (pem, expected) in rows {
        let error = Keys::from_pem(pem.as_bytes(), ISSUER, "istio-ca").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
