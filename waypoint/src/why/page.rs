//! `/why/request`: what would become of a request that arrives in a tunnel, asked by `fairway why`.

use std::time::{Instant, SystemTime};

use fairway_core::io::admin::{BadParameter, Reply, Request as Page, StatusCode, json, parsed, text};
use http::{Request, Uri, header};

use super::{Unannounced, Wanted, passage};
use crate::waypoint::Waypoint;

const USAGE: &str = "/why/request?authority=HOST:PORT&source=IP:PORT&identity=spiffe://…[&method=GET&path=/&host=HOST&header=NAME:VALUE…]: \
                     authority is what the tunnel asks for";

#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error(transparent)]
    Parameter(#[from] BadParameter),
    #[error(transparent)]
    Unannounced(#[from] Unannounced),
}

/// Answers.
#[must_use]
pub fn answer(waypoint: &Waypoint, page: &Page) -> Reply {
    let tell = || Ok(passage(waypoint, wanted(page)?, (Instant::now(), SystemTime::now()))?);
    match tell() {
        Ok(told) => json(&told),
        Err(error @ Wrong::Unannounced(_)) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n{USAGE}\n")),
    }
}

fn wanted(page: &Page) -> Result<Wanted, Wrong> {
    let authority = page.given("authority")?;
    let path = page.parameter("path").unwrap_or_else(|| "/".to_owned());
    let mut request = Request::new(());
    *request.uri_mut() = parsed::<Uri>("path", path)?;
    if let Some(method) = page.parameter("method") {
        *request.method_mut() = parsed("method", method)?;
    }
    let host = page.parameter("host").unwrap_or_else(|| authority.clone());
    request.headers_mut().insert(header::HOST, parsed("host", host)?);
    for line in page.parameters("header") {
        let wrong =
            |problem: &str| BadParameter::Value { name: "header", value: line.clone(), problem: problem.to_owned() };
        let (name, value) = line.split_once(':').ok_or_else(|| wrong("write NAME:VALUE"))?;
        let name = header::HeaderName::try_from(name).map_err(|error| wrong(&error.to_string()))?;
        let value = header::HeaderValue::try_from(value.trim()).map_err(|error| wrong(&error.to_string()))?;
        // Of this there is one.
        if name == header::HOST {
            request.headers_mut().insert(name, value);
        } else {
            request.headers_mut().append(name, value);
        }
    }
    Ok(Wanted {
        authority,
        source: parsed("source", page.given("source")?)?,
        identity: parsed("identity", page.given("identity")?)?,
        request,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Wanted, String> {
        let page = Page {
            method: http::Method::GET,
            path: "/why/request".to_owned(),
            query: Some(query.to_owned()),
            headers: http::HeaderMap::new(),
            peer: ([127, 0, 0, 1], 1).into(),
        };
        wanted(&page).map_err(|error| error.to_string())
    }

    #[test]
    fn a_request_is_read_from_the_query() {
        let tunnel = "authority=web.shop:80&source=10.0.0.1:1&identity=spiffe://d/ns/shop/sa/client";
        let wanted = read(tunnel).unwrap();
        let request = &wanted.request;
        assert_eq!(
            (request.method().as_str(), request.uri().path(), &request.headers()["host"]),
            ("GET", "/", "web.shop:80".parse::<header::HeaderValue>().as_ref().unwrap())
        );
        let more = "method=POST&path=/a%3Fb=1&host=h&header=x-a:%201&header=x-a:2&header=Host:i";
        let wanted = read(&format!("{tunnel}&{more}")).unwrap();
        let request = &wanted.request;
        assert_eq!((request.method().as_str(), request.uri().query()), ("POST", Some("b=1")));
        let values =
            |name: &str| request.headers().get_all(name).iter().map(|it| it.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((values("x-a"), values("host")), (vec!["1", "2"], vec!["i"]));
        for (query, problem) in [
            ("source=10.0.0.1:1", "authority is missing"),
            ("authority=a:80&source=x&identity=spiffe://d/ns/a/sa/b", "source is \"x\""),
            ("authority=a:80&source=10.0.0.1:1&identity=me", "identity is \"me\""),
            (&format!("{tunnel}&path=a%20b"), "path is \"a b\""),
            (&format!("{tunnel}&method=A%20B"), "method is \"A B\""),
            (&format!("{tunnel}&header=x"), "write NAME:VALUE"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(problem), "{query}: {error}");
        }
    }
}
