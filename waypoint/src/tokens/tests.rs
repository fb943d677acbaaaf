//! Tests of tokens: who is believed when, from where, and what comes of it.

use http::{HeaderName, Request};
use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair};
use serde_json::{Value, json};

use super::keys::Algorithm;
use super::signer::{Signer, encoded};
use super::*;
use crate::config::Place;

const NOW: u64 = 2_000_000_000;
const ISSUER: &str = "https://a.example";

/// Modulus of a key that was made for this, with the exponent 65537, and what its private half has signed: [`SIGNED`] after a
/// head that names nothing but the algorithm.
const MODULUS: &str = "mgFE_DcNxJRrt_zmbtXQo6iS6_N16GWLBABqxvzAzFwD1xvm8FNqPhXYrC9nr22xfGyUQ8bxctr-kR3uBKV2o-g6Ii8-yZlj\
     gT_P_ngeNVOnn-_JTKdDCfeCcQ52e-KyLtMm86xVl7QsLOpDBa_CPwo8Wt5c1RZp78nsbzI52-BLw2lMknBb6xNdFHNwaIe8\
     VNNfhIetby5DXkJXGVNYyto6lVbCFUN1r0Gag5c92msaAQZRYckBdJdxqEZN7uWIZ8SSNlQxtXlAX6cMwtEPN7ROwMlWQS4g\
     M5UC2P4dNoWcL1SzhXLn4xWoL_on_NKb1VUx5hUnfAk8tg6-oOTGJw";
const SIGNED: &str = r#"{"iss":"https://a.example","sub":"rsa"}"#;
const SIGNATURES: [(&str, &str); 6] = [
    (
        "RS256",
        "W-KynDKNzxr1El-ItzZq7PR8n5TEofN_DauYzzQRSvgYDSymUtSA01A5KLuD9co2KdqUNFLsMPnXAsaaqfMjq08rNPTbV8xr\
     D8eP1T3P04YPXJGor8DlEHJsSyqpFr8FrG2Gq4YbhrYmZjvFjMBx5YFkMToo5N-jdxMPmM2FnSSmy14BN3_QgyrGqwlyn_ak\
     ARtZ6u8fY4tXY6eLc_v1yJJt-O2aSMNEp7qVPuHfm2iW0XDmvUR7ER8rYjIcK1nO4pxkWk1i33mL_q0H_9zAzu58b8B5XOmn\
     h-fb5YywEZFoIHer5SnZmk6SI7Z39hF475wwLfk1uroqTw5TsBeUHw",
    ),
    (
        "RS384",
        "UGHYzxHVdLBrxmN7prEJs1DALlLWQCFuE4QpgVYcQ-bD5DO_jpKxCzYEw04nOp87KpvD-cpudvfCFDgzcoZn8bH6EqdUY9pD\
     6t1Caw5_6SWYqv3fL8VuqU_y5OrqVJ2YAO4OFkKUR4bPzQLFFISOktNkwlnblcLUz3pKCyduPYgNCHjTW9PEcDZFDSa8rW1M\
     ErwtcaE0Dmx7wuXdNYRlvPqaXpfllykje0KsWcfCaYbqrQOKFeexhWQeBCMHu9Oh-w5jV4jU4bZNdpokpRDt8nqv-RZ_5HL6\
     gCNu5ntO3DKNyZabPpnP4N1HqaKOfKZGbWBMxba5TnQSzv-_TwPHLA",
    ),
    (
        "RS512",
        "lCTFgRLbB6QdqaDLxGi5uv_Yq9DkgT62Vh0zyosMHj9fiPAKoljkW5y61dttC1V9PLGjc-BHzgHCbd7L9PKZ-Tr86kXMGiEZ\
     w_7Y8IiYktaIUZTrh0BibxC5deKSmmF52Xf5W5G_-MbPIWfoRp9oQi1fC2EtfoLWlWJoU3hk-eisMZMGPjA9igE7lis5YzSQ\
     o0xHChTwfSxbeA-rWuc6GfKvTIkQ8j5-r5Qru5et775sn2TMXfqGK5vYbn570hatR69u0Oinf3fJgPU8l9XDcu0ZtBLgZ-AP\
     CpmcPsO1C1SFF2-UGx2FyP-DcuqPuPSh3gW6KcXF6fNbmer3k__UnQ",
    ),
    (
        "PS256",
        "LrLqQG3AdWAXOKIcgX6khFpM24VPFYFhVMvkBJAJnDiLGtOtRHBYkM2CRxUCsIjEp1plfO0rTzQH72CrQNuMaGvRZmRUu5zU\
     oCHM9x76R3XK21RfBM5PZnbkhrvWUNiUto-HcWxrM7Kz3vpGfoXHJET-D6FCJ4ML-0y1rm4Q5UNtwxtSk6rBkthwE3bmJ3h6\
     7vMai_2WXwwHEum_5OAkfEOkVHx7-GWBEC9piZU8Cetv2VhENjkqoPTUlnzEAz3qdgPmHzlZkytJ4j60CE9ONxvg1amrJGkU\
     JuKjS6zT_FdxNnFD8O7ym_YVH5RSiNg2P9JWVCm20jh8UJ4fbnJw4Q",
    ),
    (
        "PS384",
        "EgDkwNB8zDzUl_r4AAsR0sTAZ9wl4UicWRcqtFLX4K8_YRIs7H4a3jLiF8_d9i6yAgtk8KV1vACoU6xCQLV3txXLDgSiGYRS\
     ghe6u6MIksTmFqfQ9GVXYwuyUO-3wdkORzRfH861aI0zqZkoxhIPr3_twxHzBMZhuHP4PqpS5ughQOw-d7fc7pqda8zGlzVL\
     f5lBiCEE8RIzLCySSRiqimqw2DZoHwnqclkknMMiluGOlnVENvJbSj9xFLfienRHLCS56xkRU-UVvoD3lhpGinxsG9skQ0as\
     cMYNK-PFb3jlLchtKI4KYA5M5fQ-KCGBbPe6M3mxhyVDxFsK8XtzLg",
    ),
    (
        "PS512",
        "hqheiE3SbWFiJ4A04yYDRAHi15D1Un0z9l2mKPmTvcF3yuodT5m4T0phyitcsdnKqiTWzM6i6QPN9nwDtPcDJZC97gvxATPx\
     E2UTYWUHDlOkLGc-rzAquWIvSJG9F6YhlsqFkMEvm4pa0DJS5a-0cp__fz9YWIE0bcVd0Bl0bcHDGod9mhsMMXDX4AC-fzy1\
     CShxgKPbyfeNf1QRm9yzK8PPchPrPiRfGPomYKO31b1C7kG970EJUCyosmOu4PUMs1StT5jladyIeoIOmExxzq9jEt23kLij\
     s1hQ0Kxv__tIEnGSUq0XEGQNA_YrnetIt8u0L-oJonNDJYzun42GAw",
    ),
];

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn request(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn ask(tokens: &Tokens, uri: &str, headers: &[(&str, &str)]) -> (Result<Option<Claims>, Problem>, request::Parts) {
    let mut parts = request(uri, headers);
    (check(tokens, &mut parts, now()), parts)
}

fn bearer(tokens: &Tokens, token: &str) -> Result<Option<Claims>, Problem> {
    ask(tokens, "/", &[("authorization", &format!("Bearer {token}"))]).0
}

fn of(issuers: Vec<Issuer>) -> Tokens {
    Tokens { issuers, passes_preflights: false }
}

/// Claims that are good, with others besides or in their place.
fn good(more: Value) -> Value {
    let mut claims = json!({"iss": ISSUER, "aud": "web", "exp": NOW + 100, "nbf": NOW - 100});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

#[test]
fn claims_decide_whether_a_token_holds() {
    let signer = Signer::new();
    let tokens = of(vec![signer.issuer(ISSUER)]);
    let rows = [
        (json!({}), None),
        (json!({"iss": "https://b.example"}), Some(Problem::Issuer)),
        (json!({"iss": 7}), Some(Problem::Issuer)),
        (json!({"exp": NOW - 59}), None),
        (json!({"exp": NOW - 60}), Some(Problem::Expired)),
        (json!({"exp": "tomorrow"}), Some(Problem::Malformed)),
        (json!({"exp": null}), Some(Problem::Malformed)),
        (json!({"exp": 1e300}), None),
        (json!({"nbf": NOW + 60}), None),
        (json!({"nbf": NOW + 61}), Some(Problem::TooEarly)),
        (json!({"aud": "shop"}), Some(Problem::Audience)),
        (json!({"aud": ["shop", "web"]}), None),
        (json!({"aud": []}), Some(Problem::Audience)),
        (json!({"aud": "shop", "exp": 0}), Some(Problem::Expired)),
    ];
    for (more, problem) in rows {
        let found = bearer(&tokens, &signer.sign(&good(more.clone())));
        assert_eq!(found.as_ref().err(), problem.as_ref(), "{more}");
        assert_eq!(found.is_ok_and(|claims| claims.is_some()), problem.is_none(), "{more}");
    }
    let whomever = Issuer { audiences: vec![], ..signer.issuer(ISSUER) };
    assert!(bearer(&of(vec![whomever]), &signer.sign(&json!({"iss": ISSUER}))).is_ok(), "without times and audience");
}

#[test]
fn every_algorithm_of_public_keys_is_known_and_no_other() {
    let rsa = |alg: Option<&str>| json!({"kty": "RSA", "n": MODULUS, "e": "AQAB", "alg": alg});
    let keys = |key: Value| {
        let mut key = key;
        key.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        Keys::parse(&json!({"keys": [key]}).to_string()).unwrap()
    };
    let decoded = |text: &str| {
        use base64::Engine;
        base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()
    };
    for (name, signature) in SIGNATURES {
        let head = format!("{{\"alg\": \"{name}\"}}");
        let message = format!("{}.{}", encoded(head), encoded(SIGNED));
        let algorithm = Algorithm::named(name).unwrap();
        let verify = |keys: &Keys, algorithm| keys.verify(algorithm, None, message.as_bytes(), &decoded(signature));
        assert_eq!(verify(&keys(rsa(None)), algorithm), Ok(()), "{name}");
        assert_eq!(verify(&keys(rsa(Some(name))), algorithm), Ok(()), "{name}");
        let other = if algorithm == Algorithm::Rs256 { "PS256" } else { "RS256" };
        assert_eq!(verify(&keys(rsa(Some(other))), algorithm), Err(Problem::NoSuchKey), "{name}");
        assert_eq!(verify(&keys(rsa(None)), Algorithm::named(other).unwrap()), Err(Problem::Signature), "{name}");
    }
    let curves: [(&'static EcdsaSigningAlgorithm, &str, Algorithm, Algorithm); 2] = [
        (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", Algorithm::Es256, Algorithm::Es384),
        (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384", Algorithm::Es384, Algorithm::Es256),
    ];
    for (kind, curve, algorithm, other) in curves {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(kind, pair.as_ref(), &random).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
        let keys = keys(json!({"kty": "EC", "crv": curve, "x": encoded(x), "y": encoded(y)}));
        let signature = pair.sign(&random, b"message").unwrap();
        assert_eq!(keys.verify(algorithm, None, b"message", signature.as_ref()), Ok(()), "{curve}");
        assert_eq!(keys.verify(algorithm, None, b"massage", signature.as_ref()), Err(Problem::Signature), "{curve}");
        assert_eq!(keys.verify(other, None, b"message", signature.as_ref()), Err(Problem::NoSuchKey), "{curve}");
    }
    for name in ["none", "None", "HS256", "HS512", "ES512", "eddsa", ""] {
        assert_eq!(Algorithm::named(name), None, "{name}");
    }
}

#[test]
fn what_is_not_signed_by_the_issuer_is_not_believed() {
    let (signer, other) = (Signer::new(), Signer::new());
    let tokens = of(vec![signer.issuer(ISSUER)]);
    let claims = good(json!({}));
    let token = signer.sign(&claims);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (head, payload) = signed.split_once('.').unwrap();
    let with = |head: Value| signer.sign_with(&head, &claims);
    // The public key as the key of a MAC, which those would accept who let the token choose.
    let mac_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, signer.key()["x"].as_str().unwrap().as_bytes());
    let mac_signed = format!("{}.{payload}", encoded(json!({"alg": "HS256"}).to_string()));
    let mac = format!("{mac_signed}.{}", encoded(ring::hmac::sign(&mac_key, mac_signed.as_bytes())));
    let none = encoded(json!({"alg": "none"}).to_string());
    let rows = [
        (other.sign(&claims), Problem::Signature),
        (format!("{head}.{}.{signature}", encoded(good(json!({"sub": "root"})).to_string())), Problem::Signature),
        (format!("{signed}."), Problem::Signature),
        (signed.to_owned(), Problem::Malformed),
        (format!("{none}.{payload}."), Problem::NoSuchKey),
        (format!("{none}.{payload}.{signature}"), Problem::NoSuchKey),
        (mac, Problem::NoSuchKey),
        (with(json!({"alg": "EdDSA", "kid": "other"})), Problem::NoSuchKey),
        (with(json!({"alg": "ES256", "kid": "k"})), Problem::NoSuchKey),
        (with(json!({"alg": "EdDSA", "kid": 7})), Problem::Malformed),
        (with(json!({"alg": "EdDSA", "crit": ["b64"], "b64": false})), Problem::Malformed),
        (with(json!({"kid": "k"})), Problem::NoSuchKey),
        (format!("{token}="), Problem::Malformed),
        (format!("{token}.{signature}"), Problem::Malformed),
        (format!("{}.{payload}.{signature}", encoded("[]")), Problem::Malformed),
        (String::new(), Problem::Malformed),
        ("x".repeat(40_000), Problem::Malformed),
    ];
    for (token, problem) in rows {
        assert_eq!(bearer(&tokens, &token), Err(problem), "{token}");
    }
    assert!(bearer(&tokens, &with(json!({"alg": "EdDSA"}))).is_ok(), "a key need not be named");
}

#[test]
fn an_issuer_without_keys_is_nobody() {
    let signer = Signer::new();
    let token = signer.sign(&good(json!({})));
    let unusable = [
        r#"{"keys": []}"#,
        r#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "1", "x": "AQ", "y": "Ag"}]}"#,
        r#"{"keys": [{"kty": "oct", "k": "AQ"}]}"#,
        r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "use": "enc", "x": "AQ"}]}"#,
        r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "nobody", "x": "AQ"}]}"#,
    ];
    for set in unusable {
        let issuer = Issuer { keys: Keys::parse(set).unwrap(), ..signer.issuer(ISSUER) };
        assert_eq!(bearer(&of(vec![issuer]), &token), Err(Problem::NoKeys), "{set}");
    }
    for text in ["", "[]", "{}", r#"{"keys": {}}"#] {
        assert!(Keys::parse(text).is_err(), "{text}");
    }
    assert!(matches!(Keys::parse(&json!({"keys": vec![0; 101]}).to_string()), Err(NoKeys::Many(101))));
}

#[test]
fn tokens_are_looked_for_where_the_issuer_has_them() {
    let signer = Signer::new();
    let token = signer.sign(&good(json!({})));
    let other = signer.sign(&good(json!({"jti": "another"})));
    let places = |places: &[Place]| of(vec![Issuer { places: places.to_vec(), ..signer.issuer(ISSUER) }]);
    let header = Place::Header(HeaderName::from_static("x-token"), "Token ".into());
    let usual = of(vec![signer.issuer(ISSUER)]);
    let own = places(&[header, Place::Parameter("t".into()), Place::Cookie("session".into())]);
    let bearer = |scheme: &str| format!("{scheme} {token}");
    let cookie = format!("a=b; session=\"{token}\"; sessions=x");
    let (query, own_query) = (format!("/?a=b&access_token={token}"), format!("/?t={token}"));
    type Row<'a> = (&'a str, &'a Tokens, &'a str, Vec<(&'a str, String)>, Result<bool, Problem>);
    let rows: Vec<Row<'_>> = vec![
        ("nowhere", &usual, "/", vec![], Ok(false)),
        ("bearer", &usual, "/", vec![("authorization", bearer("Bearer"))], Ok(true)),
        ("another case", &usual, "/", vec![("authorization", bearer("bEARER "))], Ok(true)),
        ("another scheme", &usual, "/", vec![("authorization", bearer("Basic"))], Ok(false)),
        ("parameter", &usual, &query, vec![], Ok(true)),
        ("own header", &own, "/", vec![("x-token", format!("Token {token}"))], Ok(true)),
        ("own header, other prefix", &own, "/", vec![("x-token", format!("token {token}"))], Ok(false)),
        ("own parameter", &own, &own_query, vec![], Ok(true)),
        ("cookie", &own, "/", vec![("cookie", cookie.clone())], Ok(true)),
        ("no longer bearer", &own, "/", vec![("authorization", bearer("Bearer"))], Ok(false)),
        (
            "two of them",
            &usual,
            "/",
            vec![("authorization", bearer("Bearer")), ("authorization", bearer("Bearer"))],
            Err(Problem::Several),
        ),
        ("two cookies", &own, "/", vec![("cookie", cookie.clone()), ("cookie", cookie)], Err(Problem::Several)),
        ("bytes", &own, "/", vec![("x-token", "Token \u{fc}".to_owned())], Err(Problem::Malformed)),
        (
            "one bad, one good",
            &usual,
            &query,
            vec![("authorization", "Bearer x.y.z".to_owned())],
            Err(Problem::Malformed),
        ),
        ("two good ones", &usual, &query, vec![("authorization", format!("Bearer {other}"))], Err(Problem::Several)),
        ("one in two places", &usual, &query, vec![("authorization", bearer("Bearer"))], Ok(true)),
    ];
    for (name, tokens, uri, headers, expected) in rows {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let found = ask(tokens, uri, &headers).0.map(|claims| claims.is_some());
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn one_of_several_issuers_is_enough() {
    let (a, b) = (Signer::new(), Signer::new());
    let tokens = of(vec![a.issuer(ISSUER), b.issuer("https://b.example")]);
    let said = |signer: &Signer, more: Value| bearer(&tokens, &signer.sign(&good(more)));
    assert!(said(&a, json!({})).is_ok());
    assert!(said(&b, json!({"iss": "https://b.example"})).is_ok());
    assert_eq!(said(&b, json!({})), Err(Problem::Signature), "in another's name");
    assert_eq!(said(&a, json!({"aud": "shop"})), Err(Problem::Audience), "what tells most");
    assert_eq!(said(&a, json!({"iss": "https://c.example"})), Err(Problem::Issuer));
}

#[test]
fn endpoints_learn_what_is_claimed_from_us_alone() {
    let signer = Signer::new();
    let claims = good(json!({"realm": {"group": "admin"}, "level": 7, "scope": "read  write"}));
    let token = signer.sign(&claims);
    let authorization = format!("Bearer {token}");
    let forged = [("x-group", "root"), ("x-payload", "forged"), ("x-level", "9"), ("x-other", "1")];
    let headers = |parts: &request::Parts| {
        let names = ["authorization", "x-group", "x-level", "x-payload", "x-other"];
        names.map(|name| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned()))
    };
    let text = |text: &str| Some(text.to_owned());
    let tokens = of(vec![signer.issuer(ISSUER)]);
    let (none, parts) = ask(&tokens, "/", &forged);
    assert_eq!((none, headers(&parts)), (Ok(None), [None, None, None, None, text("1")]));
    let with_token = [&[("authorization", authorization.as_str())], &forged[..]].concat();
    let (found, parts) = ask(&tokens, "/", &with_token);
    let payload = encoded(claims.to_string());
    assert_eq!(headers(&parts), [None, text("admin"), text("7"), Some(payload), text("1")]);
    let found = found.unwrap().unwrap();
    let at = |path: &[&str]| found.at(&path.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    assert_eq!(at(&["scope"]), Some(&json!(["read", "write"])), "a list, as the issuer means it");
    assert_eq!(at(&["realm", "group"]), Some(&json!("admin")));
    assert_eq!((at(&["realm", "name"]), at(&["level", "x"]), at(&[])), (None, None, None));
    let (_, parts) =
        ask(&tokens, &format!("/a?x=1&access_token={token}&y"), &[("authorization", &authorization), ("x-other", "1")]);
    assert_eq!((parts.uri.to_string(), headers(&parts)[0].clone()), ("/a?x=1&y".to_owned(), None), "in two places");
    assert_eq!(ask(&tokens, &format!("/a?access_token={token}"), &[]).1.uri, "/a", "the only parameter");
    let basic = ask(&tokens, &format!("/?access_token={token}"), &[("authorization", "Basic YTpi")]).1;
    assert_eq!(headers(&basic)[0].as_deref(), Some("Basic YTpi"), "is no token");
    let kept = of(vec![Issuer { is_forwarded: true, ..signer.issuer(ISSUER) }]);
    assert_eq!(headers(&ask(&kept, "/", &with_token).1)[0], Some(authorization));
    let lists = signer.sign(&good(json!({"realm": {"group": ["a"]}, "level": "line\nbreak"})));
    let (_, parts) = ask(&tokens, "/", &[("authorization", &format!("Bearer {lists}")), ("x-group", "root")]);
    assert_eq!(headers(&parts)[1..3], [None, None], "no text, and one that no header can have");
}

#[test]
fn preflights_pass_where_the_listener_says_so() {
    let signer = Signer::new();
    let tokens = Tokens { issuers: vec![signer.issuer(ISSUER)], passes_preflights: true };
    let headers = [
        ("authorization", "Bearer x"),
        ("origin", "https://a"),
        ("access-control-request-method", "GET"),
        ("x-group", "root"),
    ];
    let mut parts = request("/", &headers);
    assert_eq!(check(&tokens, &mut parts, now()), Err(Problem::Malformed));
    let mut parts = request("/", &headers);
    parts.method = http::Method::OPTIONS;
    assert_eq!(check(&tokens, &mut parts, now()), Ok(None));
    assert!(!parts.headers.contains_key("x-group"));
}

/// They stand in quotes in an answer.
#[test]
fn problems_are_said_in_plain_words() {
    use Problem as P;
    for problem in [P::Malformed, P::Several, P::Issuer, P::NoKeys, P::NoSuchKey, P::Signature, P::Expired] {
        let text = problem.to_string();
        assert!(text.is_ascii() && !text.contains(['"', '\\']), "{text}");
    }
}

proptest! {
    #[test]
    fn a_token_that_was_changed_is_never_believed(place in any::<prop::sample::Index>(), byte in "[A-Za-z0-9._=-]{0,3}", length in 0_usize..4) {
        let signer = Signer::new();
        let tokens = of(vec![signer.issuer(ISSUER)]);
        let token = signer.sign(&good(json!({"sub": "me"})));
        let start = place.index(token.len());
        let end = (start + length).min(token.len());
        let changed = format!("{}{byte}{}", &token[..start], &token[end..]);
        let believed = matches!(bearer(&tokens, &changed), Ok(Some(_)));
        prop_assert_eq!(believed, changed == token);
    }

    #[test]
    fn whatever_is_sent_is_refused_or_no_token(text in "[ -~]{0,64}", name in "authorization|cookie|x-token") {
        let signer = Signer::new();
        let places = vec![Place::Bearer, Place::Header(HeaderName::from_static("x-token"), String::new()), Place::Cookie("a".into())];
        let tokens = of(vec![Issuer { places, ..signer.issuer(ISSUER) }]);
        prop_assert!(!matches!(ask(&tokens, "/", &[(name.as_str(), text.trim())]).0, Ok(Some(_))));
    }
}
