//! Sessions: the endpoint that a client wants back, and what it is given to come back with. In Envoy's form, which a client
//! may have got from one. What it names is a wish among the endpoints that its request may go to, and no way to any other.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fairway_proto::envoy::SessionValue;
use http::HeaderMap;
use http::header::{self, HeaderValue};
use prost::Message;

use crate::config::{Edits, Manner, Put, Session};
use crate::facts;

/// The endpoint that a request names, if what it has is good at `now`.
#[must_use]
pub fn wanted(session: &Session, headers: &HeaderMap, now: SystemTime) -> Option<SocketAddr> {
    match session {
        Session::Cookie { name, .. } => named(facts::cookies(headers, name).next()?, now),
        Session::Header(name) => named(headers.get(name)?.to_str().ok()?, now),
    }
}

/// What a client is told that this endpoint has answered; nothing where it has asked for it.
#[must_use]
pub fn told(session: &Session, wanted: Option<SocketAddr>, endpoint: SocketAddr, now: SystemTime) -> Option<Edits> {
    if wanted == Some(endpoint) {
        return None;
    }
    let (name, value, manner) = match session {
        Session::Cookie { name, ttl } => {
            let expires = ttl.map_or(0, |ttl| seconds(now).saturating_add(ttl.as_secs()));
            let value = STANDARD.encode(SessionValue { address: endpoint.to_string(), expires }.encode_to_vec());
            let age = ttl.map(|ttl| format!(" Max-Age={};", ttl.as_secs())).unwrap_or_default();
            (header::SET_COOKIE, format!("{name}=\"{value}\";{age} Path=/; HttpOnly"), Manner::Append)
        }
        Session::Header(name) => (name.clone(), STANDARD.encode(endpoint.to_string()), Manner::Overwrite),
    };
    let value = HeaderValue::try_from(value).ok()?;
    Some(Edits { remove: Vec::new(), put: vec![Put { name, value, manner }] })
}

/// The endpoint of a value: with the time until which it is good, or the bare address as headers and other proxies have it.
#[must_use]
pub fn named(value: &str, now: SystemTime) -> Option<SocketAddr> {
    let bytes = STANDARD.decode(value).ok()?;
    if let Some(bare) = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()) {
        return Some(bare);
    }
    let SessionValue { address, expires } = SessionValue::decode(&*bytes).ok()?;
    (expires == 0 || seconds(now) <= expires).then(|| address.parse().ok()).flatten()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn cookie(ttl: Option<u64>) -> Session {
        Session::Cookie { name: "s".into(), ttl: ttl.map(Duration::from_secs) }
    }

    /// What a client has that was told by `session` of `endpoint` at second 100.
    fn kept(session: &Session, endpoint: SocketAddr) -> HeaderMap {
        let put = told(session, None, endpoint, at(100)).unwrap().put.remove(0);
        let (name, value) = match session {
            Session::Cookie { .. } => {
                (header::COOKIE, put.value.to_str().unwrap().split(';').next().unwrap().to_owned())
            }
            Session::Header(_) => (put.name, put.value.to_str().unwrap().to_owned()),
        };
        [(name, HeaderValue::try_from(value).unwrap())].into_iter().collect()
    }

    #[test]
    fn clients_come_back_with_what_they_were_told() {
        let header = Session::Header(HeaderName::from_static("x-session"));
        let rows = [
            (cookie(None), 100, true),
            (cookie(None), u64::MAX >> 2, true),
            (cookie(Some(60)), 160, true),
            (cookie(Some(60)), 161, false),
            (header, 100_000, true),
        ];
        for endpoint in ["10.0.0.1:80", "[fd00::1]:8080"] {
            let endpoint: SocketAddr = endpoint.parse().unwrap();
            for (session, second, expected) in &rows {
                let found = wanted(session, &kept(session, endpoint), at(*second));
                assert_eq!(found, expected.then_some(endpoint), "{session:?} at {second}");
            }
        }
        let other = Session::Cookie { name: "t".into(), ttl: None };
        assert_eq!(wanted(&other, &kept(&cookie(None), "10.0.0.1:80".parse().unwrap()), at(0)), None);
    }

    #[test]
    fn cookies_are_for_programs_and_last_as_long_as_the_route_says() {
        let endpoint: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let line = |session: &Session| told(session, None, endpoint, at(100)).unwrap().put.remove(0).value;
        assert_eq!(line(&cookie(None)), "s=\"CgsxMC4wLjAuMTo4MA==\"; Path=/; HttpOnly");
        assert_eq!(line(&cookie(Some(60))), "s=\"CgsxMC4wLjAuMTo4MBCgAQ==\"; Max-Age=60; Path=/; HttpOnly");
        assert_eq!(told(&cookie(None), Some(endpoint), endpoint, at(100)), None, "who has it needs no other");
        let other = "10.0.0.2:80".parse().unwrap();
        assert!(told(&cookie(None), Some(other), endpoint, at(100)).is_some());
    }

    #[test]
    fn what_names_no_endpoint_is_no_wish() {
        for value in ["", "10.0.0.1:80", "%%%", "CgsxMC4wLjAuMTo4MBCgAQ=", "MTAuMC4wLjE=", "CgA="] {
            assert_eq!(named(value, at(0)), None, "{value}");
        }
        assert_eq!(named("MTAuMC4wLjE6ODA=", at(0)), Some("10.0.0.1:80".parse().unwrap()), "as older proxies have it");
    }

    proptest! {
        #[test]
        fn any_value_is_an_address_or_none(bytes in prop::collection::vec(any::<u8>(), 0..40), text in ".*") {
            let _ = (named(&STANDARD.encode(bytes), at(0)), named(&text, at(0)));
        }
    }
}
