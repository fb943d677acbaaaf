//! Whatever token, at a waypoint that believes an issuer whose private key nobody has: none may ever be believed.

use std::sync::OnceLock;
use std::time::SystemTime;

use fairway_waypoint::config::{Issuer, Place, Tokens};
use fairway_waypoint::tokens::{self, Keys};
use http::header::{AUTHORIZATION, COOKIE, HeaderName};

use crate::input::Input;

/// The key of nobody (ADR 0017), under a name that does not say so: its signatures are checked like any others.
const KEYS: &str = r#"{"keys":[{"crv":"P-256","kid":"1","kty":"EC","x":"YbxmHX_VtTBqMR56oH5T-JuFIRoeKuGR_mYDzQVXwvo","y":"W2Jms4iUosFsRZzoGogviLxN1y_neH0eVJyd0cilBxw"}]}"#;
/// What only the waypoint may say.
const OURS: HeaderName = HeaderName::from_static("x-group");

/// A header with a token, cookies, and a query.
pub fn run(data: &[u8]) {
    static TOKENS: OnceLock<Tokens> = OnceLock::new();
    let tokens = TOKENS.get_or_init(issuers);
    let mut input = Input::new(data);
    let mut request = http::Request::builder().header(OURS, "root");
    for name in [AUTHORIZATION, COOKIE] {
        request = request.header(name, input.piece());
    }
    let query = String::from_utf8_lossy(input.rest()).into_owned();
    let Ok(request) = request.uri(format!("/?{query}")).body(()) else { return };
    let (mut parts, ()) = request.into_parts();
    let believed = tokens::check(tokens, &mut parts, SystemTime::UNIX_EPOCH);
    assert!(!matches!(believed, Ok(Some(_))), "nobody has signed it");
    assert!(!parts.headers.contains_key(OURS));
}

fn issuers() -> Tokens {
    let places = vec![Place::Bearer, Place::Parameter("access_token".into()), Place::Cookie("token".into())];
    let issuer = Issuer {
        name: "a".into(),
        audiences: vec![],
        keys: Keys::parse(KEYS).expect("a set of keys"),
        places,
        is_forwarded: false,
        payload_header: None,
        claim_headers: vec![(OURS, vec!["group".into()])],
        lists: vec!["scope".into()],
    };
    Tokens { issuers: vec![issuer], passes_preflights: true }
}
