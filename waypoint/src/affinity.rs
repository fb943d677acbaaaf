//! What tells requests apart where those that belong together go to one endpoint.

use http::HeaderValue;

use crate::config::HashBy;
use crate::facts::{self, Head};
use crate::load::{hash, hash_of_all};

/// What a request is told apart by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Its hash; none where it has nothing to be told apart by.
    pub hash: Option<u64>,
    /// A cookie for the client, so that its next requests have something.
    pub cookie: Option<HeaderValue>,
}

/// What tells this request apart; `fresh` is the value of a new cookie, should it need one.
#[must_use]
pub fn decide(by: &HashBy, head: &Head<'_>, source: std::net::IpAddr, fresh: impl FnOnce() -> String) -> Affinity {
    let of = |text: &str| Affinity { hash: Some(hash(text.as_bytes())), cookie: None };
    match by {
        HashBy::Header(name) => {
            let values: Vec<&[u8]> = head.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            Affinity { hash: (!values.is_empty()).then(|| hash_of_all(values)), cookie: None }
        }
        HashBy::Parameter(name) => head.parameter(name).map_or_else(Affinity::default, of),
        HashBy::Source => of(&source.to_canonical().to_string()),
        HashBy::Cookie { name, path, ttl } => match (facts::cookies(head.headers, name).next(), ttl) {
            (Some(value), _) => of(value),
            (None, None) => Affinity::default(),
            (None, Some(ttl)) => {
                let value = fresh();
                let mut cookie = format!("{name}=\"{value}\"");
                // Zero is for as long as the browser is open.
                if !ttl.is_zero() {
                    cookie.push_str(&format!("; Max-Age={}", ttl.as_secs()));
                }
                if !path.is_empty() {
                    cookie.push_str(&format!("; Path={path}"));
                }
                cookie.push_str("; HttpOnly");
                Affinity { cookie: HeaderValue::try_from(cookie).ok(), ..of(&value) }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;
    use http::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn requests_are_told_apart_by_what_the_route_says() {
        let cookie = |ttl: Option<u64>, path: &str| HashBy::Cookie {
            name: "session".into(),
            path: path.into(),
            ttl: ttl.map(Duration::from_secs),
        };
        let headers: &[(&'static str, &'static str)] = &[("x-user", "me"), ("cookie", "a=b; session=\"7\"")];
        let user = HashBy::Header(HeaderName::from_static("x-user"));
        type Row<'a> = (HashBy, &'a [(&'static str, &'static str)], Option<&'a str>, Option<&'a str>);
        let rows: [Row<'_>; 10] = [
            (user.clone(), headers, Some("me"), None),
            (user, &[], None, None),
            (HashBy::Parameter("q".into()), &[], Some("1"), None),
            (HashBy::Parameter("r".into()), &[], None, None),
            (HashBy::Source, &[], Some("10.0.0.1"), None),
            (cookie(None, ""), headers, Some("7"), None),
            (cookie(Some(60), "/"), headers, Some("7"), None),
            (cookie(None, "/"), &[], None, None),
            (cookie(Some(60), "/a"), &[], Some("new"), Some("session=\"new\"; Max-Age=60; Path=/a; HttpOnly")),
            (cookie(Some(0), ""), &[], Some("new"), Some("session=\"new\"; HttpOnly")),
        ];
        for (by, headers, expected, cookie) in rows {
            let headers: HeaderMap = headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect();
            let query = Some("q=1");
            let head = Head { method: "GET", authority: "a", path: Some("/"), query, headers: &headers, claims: None };
            let found = decide(&by, &head, "::ffff:10.0.0.1".parse().unwrap(), || "new".into());
            let hash = expected.map(|text| hash(text.as_bytes()));
            let cookie = cookie.map(HeaderValue::from_static);
            assert_eq!(found, Affinity { hash, cookie }, "{by:?}");
        }
    }

    #[test]
    fn lines_of_a_header_count_in_whatever_order() {
        let user = HeaderName::from_static("x-user");
        let decided = |values: &[&'static str]| {
            let headers = values.iter().map(|value| (user.clone(), HeaderValue::from_static(value))).collect();
            let head =
                Head { method: "GET", authority: "a", path: Some("/"), query: None, headers: &headers, claims: None };
            decide(&HashBy::Header(user.clone()), &head, "10.0.0.1".parse().unwrap(), String::new).hash
        };
        assert_eq!(decided(&["a", "b"]), decided(&["b", "a"]));
        assert_eq!(decided(&["a"]), Some(hash(b"a")));
        let others = [decided(&["a"]), decided(&["b"]), decided(&["a,b"]), decided(&["a", "b", "b"])];
        assert!(!others.contains(&decided(&["a", "b"])), "{others:?}");
    }
}
