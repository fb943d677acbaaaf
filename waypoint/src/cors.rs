//! What browsers are told of what pages of other origins may do (Fetch §3.2).

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method};

use crate::config::{Cors, Edits, Manner, Put};
use crate::facts::Head;

/// What is done for a page of another origin. Both with headers for the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The browser asks for the page, and is answered.
    Answer(Edits),
    /// The request goes on.
    GoesOn(Edits),
}

/// Whether a browser asks whether it may send another request (Fetch §3.2.2).
#[must_use]
pub fn is_preflight(method: &str, headers: &HeaderMap) -> bool {
    let names = [header::ORIGIN, header::ACCESS_CONTROL_REQUEST_METHOD];
    let asks = names.iter().all(|name| headers.get(name).is_some_and(|value| !value.is_empty()));
    asks && method == Method::OPTIONS.as_str()
}

/// What a route that says `cors` does with this request.
#[must_use]
pub fn decide(cors: &Cors, head: &Head<'_>) -> Told {
    let origin = head.headers.get(header::ORIGIN);
    let taken = origin
        .filter(|origin| origin.to_str().is_ok_and(|origin| cors.origins.iter().any(|known| known.matches(origin))));
    let is_preflight = is_preflight(head.method, head.headers);
    let Some(origin) = taken else {
        let is_answered = is_preflight && !cors.passes_others;
        return if is_answered { Told::Answer(Edits::default()) } else { Told::GoesOn(Edits::default()) };
    };
    let credentials = cors.has_credentials.then(|| HeaderValue::from_static("true"));
    let both = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, Some(origin)),
        (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials.as_ref()),
    ];
    if is_preflight {
        let allowed = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, cors.methods.as_ref()),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, cors.headers.as_ref()),
            (header::ACCESS_CONTROL_MAX_AGE, cors.max_age.as_ref()),
        ];
        return Told::Answer(written(both.into_iter().chain(allowed)));
    }
    let exposed = (header::ACCESS_CONTROL_EXPOSE_HEADERS, cors.exposed.as_ref());
    Told::GoesOn(written(both.into_iter().chain([exposed])))
}

fn written<'a>(lines: impl Iterator<Item = (HeaderName, Option<&'a HeaderValue>)>) -> Edits {
    let put = lines.filter_map(|(name, value)| Some(Put { name, value: value?.clone(), manner: Manner::Overwrite }));
    Edits { remove: Vec::new(), put: put.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Text;

    fn cors(has_credentials: bool, passes_others: bool) -> Cors {
        let value = |text: &'static str| Some(HeaderValue::from_static(text));
        Cors {
            origins: vec![Text::Exact("https://a.example".into()), Text::Suffix(".b.example".into())],
            methods: value("GET,PUT"),
            headers: value("x-a"),
            exposed: value("x-b"),
            max_age: value("5"),
            has_credentials,
            passes_others,
        }
    }

    /// What is said, as lines; none where the endpoint is asked.
    fn told(cors: &Cors, method: &str, headers: &[(&'static str, &'static str)]) -> (bool, Vec<String>) {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let head = Head { method, authority: "web", path: Some("/"), query: None, headers: &headers, claims: None };
        let (is_answered, edits) = match decide(cors, &head) {
            Told::Answer(edits) => (true, edits),
            Told::GoesOn(edits) => (false, edits),
        };
        let short = |name: &HeaderName| name.as_str().trim_start_matches("access-control-").to_owned();
        (
            is_answered,
            edits.put.iter().map(|put| format!("{}={}", short(&put.name), put.value.to_str().unwrap())).collect(),
        )
    }

    #[test]
    fn origins_are_told_what_they_may_do() {
        let (asks, good, other) = (
            ("access-control-request-method", "PUT"),
            ("origin", "https://a.example"),
            ("origin", "https://c.example"),
        );
        let preflight = ["allow-origin=https://a.example", "allow-methods=GET,PUT", "allow-headers=x-a", "max-age=5"];
        let answer = ["allow-origin=https://a.example", "expose-headers=x-b"];
        let (plain, strict, trusting) = (cors(false, true), cors(false, false), cors(true, true));
        type Row<'a> = (&'a str, &'a Cors, &'a str, &'a [(&'static str, &'static str)], (bool, &'a [&'a str]));
        let rows: [Row<'_>; 9] = [
            ("no browser", &plain, "GET", &[], (false, &[])),
            ("answer", &plain, "GET", &[good], (false, &answer)),
            ("preflight", &plain, "OPTIONS", &[good, asks], (true, &preflight)),
            ("options that ask for nothing", &plain, "OPTIONS", &[good], (false, &answer)),
            ("preflight by another method", &plain, "POST", &[good, asks], (false, &answer)),
            ("other origin", &plain, "GET", &[other], (false, &[])),
            ("preflight of another origin, passed on", &plain, "OPTIONS", &[other, asks], (false, &[])),
            ("preflight of another origin, answered", &strict, "OPTIONS", &[other, asks], (true, &[])),
            (
                "credentials",
                &trusting,
                "GET",
                &[("origin", "https://x.b.example")],
                (false, &["allow-origin=https://x.b.example", "allow-credentials=true", "expose-headers=x-b"]),
            ),
        ];
        for (name, cors, method, headers, (is_answered, lines)) in rows {
            let lines = lines.iter().map(|line| (*line).to_owned()).collect();
            assert_eq!(told(cors, method, headers), (is_answered, lines), "{name}");
        }
    }
}
